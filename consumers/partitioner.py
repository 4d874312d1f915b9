"""Finds out which partitioner the producers use: by default Java's clients and librdkafka hash a key differently.

With two partitioners the records of one key lie in two partitions, and a label never meets its features. After
partitions were added, most keys go to another one. Pure: the input is keys with their partitions.
"""

import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec

KEYS_MIN = 12
"""With fewer keys there is no answer: of two partitions, half of all keys fit any partitioner by chance."""

PartitionerKind = Literal["murmur2", "crc32", "both", "other"]

_MISFITS_MIN = 8
_OTHER_MIN = 20
_NEARLY = 0.95
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


class Placement(msgspec.Struct, frozen=True):
    """The partitioner of the keys, and the number of partitions with which it placed some of them."""

    partitioner: PartitionerKind
    partitions: int


def murmur2(key: bytes) -> int:
    """Hash a key as Java's producers do; the partition is the hash modulo the number of partitions."""
    hashed = (0x9747B28C ^ len(key)) & _MASK
    whole = len(key) - len(key) % 4
    for at in range(0, whole, 4):
        block = int.from_bytes(key[at : at + 4], "little") * _MULTIPLIER & _MASK
        block = (block ^ block >> 24) * _MULTIPLIER & _MASK
        hashed = hashed * _MULTIPLIER & _MASK ^ block
    if rest := key[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _MASK
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _MASK
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF


_HASHES: dict[PartitionerKind, Callable[[bytes], int]] = {"murmur2": murmur2, "crc32": zlib.crc32}


def placement_of(keys: Mapping[int, Collection[bytes]], partitions: int) -> Placement | None:
    """Find out which partitioner chose the partitions of keys; None for too few keys.

    `partitions` is the topic's present number of partitions.
    """
    # librdkafka treats an empty key as no key.
    placed = [(partition, key) for partition, some in keys.items() for key in some if key]
    if partitions < 2 or len(placed) < KEYS_MIN:  # noqa: PLR2004 one partition proves nothing
        return None
    for kind, hash_ in _HASHES.items():
        hashed = [(partition, hash_(key)) for partition, key in placed]
        misfits = [(partition, number) for partition, number in hashed if number % partitions != partition]
        if len(misfits) <= (1 - _NEARLY) * len(placed):
            return Placement(kind, partitions)
        before = _partitions_before(misfits, hashed, partitions)
        if before is not None:
            return Placement(kind, before)
    fitting = sum(any(h(key) % partitions == partition for h in _HASHES.values()) for partition, key in placed)
    if len(placed) < _OTHER_MIN:
        return None
    return Placement("both" if fitting >= _NEARLY * len(placed) else "other", partitions)


def _partitions_before(misfits: list[tuple[int, int]], hashed: list[tuple[int, int]], partitions: int) -> int | None:
    """Return the smaller number of partitions that explains the keys which do not fit the present number."""
    if len(misfits) < _MISFITS_MIN:
        return None
    for before in range(partitions - 1, 0, -1):
        if sum(number % before == partition for partition, number in misfits) < _NEARLY * len(misfits):
            continue
        # Any key fits a topic of one partition, so the keys of later partitions must confirm the partitioner.
        later = [number % partitions == partition for partition, number in hashed if partition >= before]
        if before > 1 or (len(later) >= _MISFITS_MIN and sum(later) >= _NEARLY * len(later)):
            return before
    return None
