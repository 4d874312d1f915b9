"""The record behind a dead letter that had no room for all of it: read at the place where it stood first."""

from headrace.consumers.reader import Reader, Span
from headrace.consumers.record import Record
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord
from headrace.producers.deadletter import Reason


class Originals:
    """Read the records behind dead letters; the reader has nothing else under way."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._spans: dict[str, dict[int, Span]] = {}

    def whole(self, letter: DeadLetterRecord) -> Record | None:
        """Return the dead letter's record with what it leaves out; None where the log no longer holds that."""
        found = self._read(letter.reason)
        if found is None or not _is_same(found, letter):
            return None
        mine = letter.record
        return Record(mine.partition, mine.offset, mine.timestamp_ms, found.key, found.value, found.headers)

    def _read(self, reason: Reason) -> Record | None:
        topic, partition, offset = reason.topic, reason.partition, reason.offset
        if topic not in self._spans:
            self._spans[topic] = self._reader.spans(topic)
        span = self._spans[topic].get(partition)
        if span is None or not span.start <= offset < span.end:
            return None
        for record in self._reader.between(topic, partition, offset, offset + 1):
            return record if record.offset == offset else None
        return None


def _is_same(found: Record, letter: DeadLetterRecord) -> bool:
    """Tell whether a record is the one that was refused: the topic may have been deleted and made again."""
    reason, kept = letter.reason, letter.record
    sizes = {
        "key": len(found.key or b""),
        "headers": sum(len(name.encode()) + len(text or b"") for name, text in found.headers or ()),
        "value": len(found.value or b""),
    }
    return (
        found.timestamp_ms == reason.timestamp_ms
        and all(sizes[part] == size for part, size in reason.omitted.items())
        and ("key" in reason.omitted or found.key == kept.key)
        and ("value" in reason.omitted or found.value == kept.value)
    )
