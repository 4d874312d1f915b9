"""Checks the partitions of keys: labels must be in the partition of their features, and each key in one partition.

The worker checks the keys that it reads; `doctor` and `status` check the newest keys of the topics and those in the
store. A warning names both partitioners and the setting to change. No record is refused.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from typing import Any

import msgspec
import structlog

from headrace.consumers.interleave import Log
from headrace.consumers.partitioner import KEYS_MIN, PartitionerKind, placement_of
from headrace.consumers.reader import Reader, ReaderAway, ReaderDenied
from headrace.consumers.record_batch import Records, keys_of
from headrace.consumers.topics import Topic
from headrace.pipeline.config.config import Config
from headrace.pipeline.storage import open_store
from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.store.store import Store
from headrace.state.store.store_errors import STORE_ERRORS

log = structlog.get_logger("headrace")

_KEYS_MAX = 200
_LOOK_S = 2.0
_AT_ONCE = 10
_PARTITIONS_MAX = 16
_WAYS: dict[PartitionerKind, str] = {
    "murmur2": "by murmur2 (Java's partitioner)",
    "crc32": "by CRC32 (librdkafka's consistent_random)",
    "both": "partly by murmur2 (Java's partitioner) and partly by CRC32 (librdkafka's)",
    "other": "by another partitioner than murmur2 (Java's) and CRC32 (librdkafka's)",
}
_SET = "set partitioner=murmur2_random in librdkafka's producers (Python, Go, C#, Node.js), as Java's do by default"


class PlacementAdvice(msgspec.Struct, frozen=True):
    """A warning about misplaced keys, and a hint."""

    message: str
    hint: str


KeysByPartition = Mapping[int, Collection[bytes]]
"""Some keys of each partition."""


def advise(
    features: KeysByPartition,
    labels: KeysByPartition,
    stored: KeysByPartition,
    *,
    names: tuple[str, str],
    partitions: int,
    by_key: bool,
    keyless: int = 0,
) -> list[PlacementAdvice]:
    """Return warnings about the partitions of keys: of the two topics with these `names`, and of the store.

    `keyless` is the number of labels without a key.
    """
    found = []
    first, second = placement_of(features, partitions), placement_of(labels, partitions)
    ways = {first.partitioner if first else None, second.partitioner if second else None}
    if first and second and ways != {"other"} and (len(ways) > 1 or ways == {"both"}):
        found.append(
            PlacementAdvice(
                f"keys of {names[0]} are placed {_WAYS[first.partitioner]}, those of {names[1]} "
                f"{_WAYS[second.partitioner]}: labels come to other partitions than their features",
                _SET,
            )
        )
    elif by_key and first and first.partitioner == "both":
        found.append(
            PlacementAdvice(f"keys of {names[0]} are placed {_WAYS['both']}: a key has a model in each place", _SET)
        )
    if first and first.partitioner != "other" and keyless >= max(KEYS_MIN, sum(map(len, labels.values()))):
        message = f"labels of {names[1]} have no key: they come to any partition, not to that of their features"
        found.append(PlacementAdvice(message, "send each label with the key of its features"))
    kept = placement_of(stored, partitions)
    asked = (kept, first if by_key or labels else None, second)
    before = min((placed.partitions for placed in asked if placed is not None), default=partitions)
    if before < partitions:
        what = "models of keys are left behind in their old partitions" if by_key else "labels miss their features"
        found.append(
            PlacementAdvice(
                f"{names[0]} had {before} partitions when some of its keys were placed, and has {partitions} now: "
                f"{what}",
                "a topic of its own with all partitions, or another `name`, learns all keys in their new places",
            )
        )
    return found


class PlacementWatch:
    """Check keys as a worker reads them. `warnings` are the results so far."""

    def __init__(self, topic: Topic, *, store: Store, clock: Callable[[], float]) -> None:
        self._topic = topic
        self._store = store
        self._clock = clock
        self._by_key = False
        self._seen: tuple[dict[int, set[bytes]], ...] = ({}, {}, {})
        self._keyless = 0
        self._is_new = False
        self._due_s = clock()
        self._looks = 0
        self.warnings: list[str] = []

    def see(self, which: Log, partition: int, records: Records) -> None:
        """Collect the first keys of a log's records."""
        topic = self._topic
        if topic.partitions > 1 and (self._by_key or topic.labels is not None):
            seen = self._seen[which].setdefault(partition, set())
            if len(seen) < _KEYS_MAX:
                keys = keys_of(records)[:_KEYS_MAX]
                self._note(seen, keys)
                self._keyless += keys.count(None) if which == 1 else 0

    def see_stored(self, partition: int) -> None:
        """Collect some keys whose models are in the store for a partition; skip it if the store is away."""
        self._by_key = True
        if self._topic.partitions > 1:
            with contextlib.suppress(*STORE_ERRORS):
                page = next(self._store.pages(partition, KEYS), ())
                self._note(self._seen[2].setdefault(partition, set()), [key for key, _ in page])

    def look(self) -> None:
        """Check the collected keys every few seconds, and log new warnings."""
        if not self._is_new or self._clock() < self._due_s:
            return
        # The first checks come early: a run may be short.
        self._looks += 1
        self._due_s, self._is_new = self._clock() + (_LOOK_S if self._looks > _AT_ONCE else 0), False
        topic = self._topic
        names = topic.name, topic.labels.name if topic.labels is not None else ""
        features, labels, stored = self._seen
        where: dict[str, Any] = {
            "names": names,
            "partitions": topic.partitions,
            "by_key": self._by_key,
            "keyless": self._keyless,
        }
        for advice in advise(features, labels, stored, **where):
            if advice.message not in self.warnings:
                self.warnings.append(advice.message)
                log.warning("keys do not lie where they should", reason=advice.message, hint=advice.hint)

    def _note(self, seen: set[bytes], keys: Iterable[bytes | None]) -> None:
        before = len(seen)
        seen.update(key for key in keys if key is not None)
        self._is_new = self._is_new or len(seen) > before


def look(config: Config, *, partitions: int) -> list[PlacementAdvice]:
    """Check the newest keys of the topics and those in the store, as far as they can be read now."""
    by_key, labels = config.model.scope == "key", config.topics.labels
    if partitions < 2 or not (by_key or labels):  # noqa: PLR2004 one has no other
        return []
    newest: list[dict[int, list[bytes | None]]] = [{}, {}]
    stored: KeysByPartition = {}
    with contextlib.suppress(ReaderAway, ReaderDenied), closing(_reader(config)) as reader:
        newest = [_newest(reader, name) if name else {} for name in (config.topics.features, labels)]
    with contextlib.suppress(*STORE_ERRORS):
        stored = _stored(config) if by_key else {}
    features, labelled = ({p: {key for key in keys if key is not None} for p, keys in log.items()} for log in newest)
    keyless = sum(keys.count(None) for keys in newest[1].values())
    names = config.topics.features, labels or ""
    return advise(features, labelled, stored, names=names, partitions=partitions, by_key=by_key, keyless=keyless)


def _reader(config: Config) -> Reader:
    return Reader(config.librdkafka, group=f"{config.name}.reader")


def _stored(config: Config) -> dict[int, set[bytes]]:
    store = open_store(config)
    partitions = store.partitions()[:_PARTITIONS_MAX]
    return {partition: {key for key, _ in next(store.pages(partition, KEYS), ())} for partition in partitions}


def _newest(reader: Reader, topic: str) -> dict[int, list[bytes | None]]:
    """Return the keys of the newest records of each partition."""
    spans = reader.spans(topic)
    found: dict[int, list[bytes | None]] = {}
    for partition in sorted(spans)[:_PARTITIONS_MAX]:
        span = spans[partition]
        records = reader.between(topic, partition, max(span.start, span.end - _KEYS_MAX), span.end)
        found[partition] = [record.key for record in records]
    return found
