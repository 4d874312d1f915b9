"""What is said of keys that do not lie where they should."""

import zlib
from collections.abc import Callable
from typing import Any, cast

import pytest

from headrace.consumers.partitioner import murmur2
from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.key_placement import PlacementWatch, advise
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway

KEYS = [b"customer-%d" % number for number in range(40)]
NAMES = ("clicks", "truths")
Hash = Callable[[bytes], int]


def placed(hash_: Hash, partitions: int = 4, keys: list[bytes] = KEYS) -> dict[int, set[bytes]]:
    return {p: {key for key in keys if hash_(key) % partitions == p} for p in range(partitions)}


def said(features: Any, labels: Any = (), stored: Any = (), *, partitions: int = 4, by_key: bool = False) -> list[str]:
    found = advise(dict(features), dict(labels), dict(stored), names=NAMES, partitions=partitions, by_key=by_key)
    assert all(advice.hint for advice in found)
    return [advice.message for advice in found]


def test_labels_that_are_placed_in_another_way_name_both_partitioners_and_what_to_set() -> None:
    for first, second in ((murmur2, zlib.crc32), (zlib.crc32, murmur2)):
        [advice] = advise(placed(first), placed(second), {}, names=NAMES, partitions=4, by_key=False)
        assert "murmur2 (Java's" in advice.message
        assert "CRC32 (librdkafka's" in advice.message
        assert advice.message.startswith("keys of clicks are placed")
        assert "partitioner=murmur2_random" in advice.hint
    assert said(placed(murmur2), placed(murmur2)) == []
    assert said(placed(zlib.crc32), placed(zlib.crc32)) == []
    assert said(placed(murmur2), {}) == []


def test_a_labels_producer_of_a_third_kind_is_told_and_two_unknown_ones_are_left_alone() -> None:
    own: Hash = lambda key: int(key.rpartition(b"-")[2])  # noqa: E731 shorter
    assert "another partitioner" in said(placed(murmur2), placed(own))[0]
    assert said(placed(own), placed(own)) == []


def test_models_of_keys_that_were_left_behind_by_more_partitions_are_told() -> None:
    [message] = said(placed(murmur2), {}, placed(murmur2, 2), by_key=True)
    assert message.startswith("clicks had 2 partitions when some of its keys were placed, and has 4 now")
    assert said(placed(murmur2), {}, placed(murmur2), by_key=True) == []
    assert "labels miss" in said(placed(zlib.crc32, 2), placed(zlib.crc32))[0]


def test_two_producers_of_features_are_told_where_keys_have_models() -> None:
    both = {p: placed(murmur2, keys=KEYS[:20])[p] | placed(zlib.crc32, keys=KEYS[20:])[p] for p in range(4)}
    assert "a key has a model in each place" in said(both, by_key=True)[0]
    assert said(both) == []


def test_labels_without_a_key_beside_features_that_have_one_are_told() -> None:
    now_s = [0.0]
    watching = watch(now_s)
    for partition in range(4):
        watching.see(0, partition, records(Record, placed(murmur2)[partition]))
        watching.see(1, partition, [LabelRecord(0, at, 5, None, b"{}", None) for at in range(9)])
    watching.look()
    assert watching.warnings == [
        "labels of truths have no key: they come to any partition, not to that of their features"
    ]
    apart = {p: {b"%d" % p} for p in range(4)}
    assert advise(apart, {}, {}, names=NAMES, partitions=4, by_key=False, keyless=99) == [], "few keys tell nothing"


class Shelf:
    """A store's rows, as far as the watch asks for them."""

    def __init__(self, rows: dict[int, set[bytes]] | None) -> None:
        self._rows = rows

    def pages(self, partition: int, _table: str) -> Any:
        if self._rows is None:
            raise StoreAway("gone")
        yield [(key, b"") for key in self._rows[partition]]


def watch(now_s: list[float], rows: Any = None, *, labels: bool = True, partitions: int = 4) -> PlacementWatch:
    truths = Topic(name="truths", partitions=partitions, id="u", value_bytes_max=1, compacted=False)
    topic = Topic(
        name="clicks", partitions=partitions, id="t", value_bytes_max=1, compacted=False,
        labels=truths if labels else None,
    )  # fmt: skip
    return PlacementWatch(topic, store=cast("Store", Shelf(rows)), clock=lambda: now_s[0])


def records(kind: type[Record], keys: set[bytes]) -> list[Record]:
    return [kind(0, at, 5, key, b"{}", None) for at, key in enumerate([*sorted(keys), None])]


def test_a_worker_sees_it_as_records_pass_and_says_it_once() -> None:
    now_s = [0.0]
    watching = watch(now_s)
    for partition in range(4):
        watching.see(0, partition, records(Record, placed(murmur2)[partition]))
        watching.see(1, partition, records(LabelRecord, placed(zlib.crc32)[partition]))
    watching.look()
    assert len(watching.warnings) == 1
    watching.see(0, 0, records(Record, {b"one more"}))
    watching.look()
    now_s[0] += 60
    watching.look()
    assert len(watching.warnings) == 1


def test_records_right_after_the_first_look_are_examined_too() -> None:
    watching = watch([0.0])
    for partition in range(4):
        watching.see(0, partition, records(Record, placed(murmur2)[partition]))
        watching.look()
        watching.see(1, partition, records(LabelRecord, placed(zlib.crc32)[partition]))
        watching.look()
    assert len(watching.warnings) == 1


@pytest.mark.parametrize(("labels", "partitions"), [(False, 4), (True, 1)])
def test_keys_are_not_watched_where_their_partition_does_not_matter(*, labels: bool, partitions: int) -> None:
    watching = watch([0.0], labels=labels, partitions=partitions)
    for partition in range(4):
        watching.see(0, partition, records(Record, placed(murmur2)[partition]))
        watching.see(1, partition, records(LabelRecord, placed(zlib.crc32)[partition]))
    watching.look()
    assert watching.warnings == []


def test_the_stores_keys_are_looked_at_and_a_store_that_is_away_is_no_harm() -> None:
    watching = watch([0.0], placed(murmur2, 2) | {2: set(), 3: set()}, labels=False)
    for partition in range(4):
        watching.see_stored(partition)
    watching.look()
    assert "had 2 partitions" in watching.warnings[0]
    away = watch([0.0], labels=False)
    away.see_stored(0)
    away.look()
    assert away.warnings == []
