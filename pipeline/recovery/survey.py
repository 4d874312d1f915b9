"""Asks Kafka and the store for the facts of a partition, which `consistency` checks."""

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.consumers.source import Committed, Source
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.consistency import PartitionFacts, SavedSnapshot, by_mark, saved_of
from headrace.state.store.store import Store


def saved(store: Store, partition: int) -> SavedSnapshot | None:
    """Return the store's note of a partition's newest snapshot. Raises StoreAway."""
    return saved_of(next(iter(store.notes(partition)), None))


def facts(partition: int, *, topic: Topic, source: Source, newest: SavedSnapshot | None) -> PartitionFacts:
    """Return the committed offset of a partition; wait while a transaction is open. Raises SourceAway."""
    committed = source.committed([partition])[partition]
    place = PartitionOffsets(_offset(committed.offset), committed.metadata, *source.watermarks(partition))
    if topic.labels is not None:
        labels = PartitionOffsets(_offset(committed.labels), "", *source.watermarks(partition, labels=True))
        place = by_mark(PartitionOffsets(place.committed, place.metadata, place.low, place.high, labels))
    return PartitionFacts(partition, topic, place, newest)


def committed(found: PartitionFacts) -> Committed:
    """Return the committed offsets from the facts of a partition."""
    place = found.place
    labels = None if place.labels is None else place.labels.committed
    return Committed(_number(place.committed), place.metadata, _number(labels))


def _offset(number: int) -> int | None:
    return number if number >= 0 else None


def _number(offset: int | None) -> int:
    return -1 if offset is None else offset
