"""Which partitioner placed keys: Java's clients hash a key in another way than librdkafka's do by default.

Records of one key that were placed in two ways lie in two partitions: a label then never meets its features. And when
partitions are added, most keys move. Pure: keys with their partitions in, a verdict out.
"""

import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec

KEYS_MIN = 12
"""Of fewer keys nothing is said: half of them fit any partitioner where there are two partitions."""

PartitionerKind = Literal["murmur2", "crc32", "both", "other"]

_MISFITS_MIN = 8
_OTHER_MIN = 20
_NEARLY = 0.95
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


class Placement(msgspec.Struct, frozen=True):
    """How keys were placed: by which partitioner, and over how many partitions some of them were, once."""

    way: PartitionerKind
    partitions: int


def murmur2(key: bytes) -> int:
    """Hash a key as Java's producers do, whose partition is this modulo the number of partitions."""
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


def judge(keys: Mapping[int, Collection[bytes]], partitions: int) -> Placement | None:
    """Tell by which partitioner keys came to their partitions; None where they are too few.

    `partitions` is how many the topic has now.
    """
    # librdkafka spreads empty keys as if they were none.
    placed = [(partition, key) for partition, some in keys.items() for key in some if key]
    if partitions < 2 or len(placed) < KEYS_MIN:  # noqa: PLR2004 of one partition nothing can be told
        return None
    for way, hash_ in _HASHES.items():
        hashed = [(partition, hash_(key)) for partition, key in placed]
        misfits = [(partition, number) for partition, number in hashed if number % partitions != partition]
        if len(misfits) <= (1 - _NEARLY) * len(placed):
            return Placement(way, partitions)
        before = _before(misfits, hashed, partitions)
        if before is not None:
            return Placement(way, before)
    fitting = sum(any(h(key) % partitions == partition for h in _HASHES.values()) for partition, key in placed)
    if len(placed) < _OTHER_MIN:
        return None
    return Placement("both" if fitting >= _NEARLY * len(placed) else "other", partitions)


def _before(misfits: list[tuple[int, int]], hashed: list[tuple[int, int]], partitions: int) -> int | None:
    """Return the smaller number of partitions over which keys were placed that are where they would not be now."""
    if len(misfits) < _MISFITS_MIN:
        return None
    for before in range(partitions - 1, 0, -1):
        if sum(number % before == partition for partition, number in misfits) < _NEARLY * len(misfits):
            continue
        # All keys of one partition are where one partition would have them: others must tell of this partitioner.
        later = [number % partitions == partition for partition, number in hashed if partition >= before]
        if before > 1 or (len(later) >= _MISFITS_MIN and sum(later) >= _NEARLY * len(later)):
            return before
    return None
