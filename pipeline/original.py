"""The record behind a dead letter that had no room for all of it: read at the place where it stood first."""

from consumers.reader import Reader
from consumers.record import Record
from pipeline.letter import Letter
from producers.deadletter import Reason


def whole(reader: Reader, letter: Letter) -> Record | None:
    """Return the dead letter's record with what was left out of it; None where the log no longer holds that.

    The reader has nothing else under way.
    """
    reason = letter.reason
    found = _read(reader, reason)
    if found is None or not _is_same(found, letter):
        return None
    mine = letter.record
    return Record(mine.partition, mine.offset, mine.timestamp_ms, found.key, found.value, found.headers)


def _read(reader: Reader, reason: Reason) -> Record | None:
    span = reader.spans(reason.topic).get(reason.partition)
    if span is None or not span.start <= reason.offset < span.end:
        return None
    for record in reader.between(reason.topic, reason.partition, reason.offset, reason.offset + 1):
        return record if record.offset == reason.offset else None
    return None


def _is_same(found: Record, letter: Letter) -> bool:
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
