"""Which partitioner placed keys, told from the keys alone."""

import random
import zlib
from collections.abc import Callable

import pytest

from headrace.consumers.partitioner import Placement, murmur2, placement_of

KEYS = [b"customer-%d" % number for number in range(200)]
Hash = Callable[[bytes], int]


def placed(hash_: Hash, partitions: int, keys: list[bytes] = KEYS) -> dict[int, set[bytes]]:
    found: dict[int, set[bytes]] = {}
    for key in keys:
        found.setdefault(hash_(key) % partitions, set()).add(key)
    return found


def together(*some: dict[int, set[bytes]]) -> dict[int, set[bytes]]:
    return {p: set().union(*(found.get(p, set()) for found in some)) for p in {p for found in some for p in found}}


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_hashes_as_kafkas_own_tests_say(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0x7FFFFFFF


@pytest.mark.parametrize("partitions", [2, 3, 4, 12])
def test_each_partitioner_is_told_from_forty_keys(partitions: int) -> None:
    some = KEYS[:40]
    assert placement_of(placed(murmur2, partitions, some), partitions) == Placement("murmur2", partitions)
    assert placement_of(placed(zlib.crc32, partitions, some), partitions) == Placement("crc32", partitions)


@pytest.mark.parametrize(("before", "now"), [(2, 4), (4, 8), (3, 4), (4, 5)])
def test_partitions_that_were_added_are_told_from_the_keys_that_would_lie_elsewhere(before: int, now: int) -> None:
    for way, hash_ in (("murmur2", murmur2), ("crc32", zlib.crc32)):
        old = placed(hash_, before, KEYS[:100])
        assert placement_of(old, now) == Placement(way, before)  # type: ignore[arg-type]
        assert placement_of(together(old, placed(hash_, now, KEYS[100:])), now) == Placement(way, before)  # type: ignore[arg-type]


def test_a_topic_of_one_partition_that_has_more_now_is_told_once_the_others_have_keys() -> None:
    old = placed(murmur2, 1, KEYS[:100])
    assert placement_of(together(old, placed(murmur2, 4, KEYS[100:])), 4) == Placement("murmur2", 1)
    assert placement_of(old, 4) == Placement("other", 4), "somebody may send all to the first partition"


def test_two_partitioners_at_once_and_none_of_the_known_are_told_apart() -> None:
    both = together(placed(murmur2, 4, KEYS[:100]), placed(zlib.crc32, 4, KEYS[100:]))
    assert placement_of(both, 4) == Placement("both", 4)
    rng = random.Random(1)
    assert placement_of(placed(lambda _key: rng.randrange(4), 4), 4) == Placement("other", 4)
    assert placement_of(placed(lambda key: int(key.rpartition(b"-")[2]), 4), 4) == Placement("other", 4)


def test_of_few_keys_and_of_one_partition_nothing_is_said() -> None:
    assert placement_of(placed(murmur2, 4, KEYS[:11]), 4) is None
    assert placement_of(placed(murmur2, 1), 1) is None
    assert placement_of({0: {b""}}, 4) is None
    assert placement_of({}, 4) is None
