"""The original of a dead letter that had to leave out a part: the refused record, read at its own offset."""

from headrace.consumers.reader import Reader, Span
from headrace.consumers.record import Record
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord
from headrace.producers.deadletter import Reason


class Originals:
    """Read the originals of dead letters, with a reader that is used for nothing else."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._spans: dict[str, dict[int, Span]] = {}

    def whole(self, dead_letter: DeadLetterRecord) -> Record | None:
        """Return the dead letter's record with all of its parts; None if the log no longer holds the original."""
        original = self._read(dead_letter.reason)
        if original is None or not _is_original(original, dead_letter):
            return None
        kept = dead_letter.record
        return Record(kept.partition, kept.offset, kept.timestamp_ms, original.key, original.value, original.headers)

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


def _is_original(found: Record, dead_letter: DeadLetterRecord) -> bool:
    """Return whether a record is the refused one. The topic may have been deleted and created again since then."""
    reason, kept = dead_letter.reason, dead_letter.record
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
