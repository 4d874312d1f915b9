"""Dead letters as people and scripts see them: which are meant, what each says, how it is printed.

`tail`, `dlq` and the replay share it, so that a filter means the same to all of them.
"""

import base64
import datetime as dt
from collections.abc import Iterator
from typing import Any, Self

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.duration import duration_s
from headrace.producers import deadletter

_STATUS_DIGITS = 3


class DeadLetterError(Exception):
    """Raised when what was asked for can't be read, or is not there."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class DeadLetterRecord(msgspec.Struct, frozen=True):
    """A dead letter as it stands in its topic, and what its headers tell."""

    record: Record
    reason: deadletter.Reason

    @classmethod
    def of(cls, record: Record) -> Self:
        """Read a record's headers, whichever of the four dialects they are in."""
        return cls(record, deadletter.read(record.headers))

    @property
    def code(self) -> str:
        """Why it was refused, for machines; `unknown` where no header tells."""
        return self.reason.code or "unknown"

    @property
    def status(self) -> int:
        """Which status it was refused with. Another system's dead letters are as malformed as our own: 400."""
        told = dict(self.record.headers or ()).get(deadletter.STATUS) or b""
        return int(told) if told.isdigit() and len(told) == _STATUS_DIGITS else 400

    @property
    def origin(self) -> str:
        """Where its record stood, for people; `unknown` where no header tells."""
        reason = self.reason
        return f"{reason.topic}[{reason.partition}]@{reason.offset}" if reason.topic else "unknown"


class Selection(msgspec.Struct, frozen=True):
    """Which dead letters are meant: of a code, since a time in ms, and of these the first `limit`.

    The order is that of partitions and offsets. Those that were replayed before count as well, so that the same
    selection stays the same.
    """

    code: str | None = None
    since_ms: int | None = None
    limit: int | None = None

    def takes(self, code: str, timestamp_ms: int) -> bool:
        """Tell whether a dead letter is meant, but for the limit."""
        return (self.code is None or code == self.code) and (self.since_ms is None or timestamp_ms >= self.since_ms)


def select(reader: Reader, topic: str, selection: Selection) -> Iterator[DeadLetterRecord]:
    """Yield the dead letters of a selection, as many as there are now."""
    count = 0
    for partition, span in reader.spans(topic).items():
        for record in reader.between(topic, partition, span.start, span.end):
            if count == selection.limit:
                return
            letter = DeadLetterRecord.of(record)
            if selection.takes(letter.code, record.timestamp_ms):
                count += 1
                yield letter


def since_ms(text: str | None, *, now_ms: int) -> int | None:
    """Read a time: how long ago ("1h"), or a date with or without a time, in UTC unless it says so.

    Raises DeadLetterError.
    """
    if text is None:
        return None
    try:
        return now_ms - int(duration_s(text) * 1_000)
    except ValueError:
        pass
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise DeadLetterError(
            f"--since {text} is no time", hint="write it like 30m, 1h, 7d, 2026-01-31 or 2026-01-31T12:00"
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1_000)


def position_of(text: str) -> tuple[int, int]:
    """Read `PARTITION:OFFSET`. Raises DeadLetterError."""
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise DeadLetterError(f"{text} names no dead letter", hint="write PARTITION:OFFSET, such as 1:39")
    return int(partition), int(offset)


def envelope(topic: str, record: Record) -> dict[str, Any]:
    """Return a dead letter as JSON has it: bytes as text, or in base64 where they are not UTF-8."""
    reason = deadletter.read(record.headers)
    return {
        "topic": topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        **_field("key", record.key),
        **_field("value", record.value),
        "headers": _headers(record),
        "code": reason.code or "unknown",
        "field": reason.field,
        "stage": reason.stage,
        "message": reason.message,
        "source": {"topic": reason.topic, "partition": reason.partition, "offset": reason.offset},
        "replay_count": reason.replay_count,
        "omitted": dict(reason.omitted),
    }


def printable(text: str) -> str:
    """Escape what a terminal would obey: a record may come from anyone."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def moment(at_ms: int) -> str:
    """Write a time in ms since 1970 for people, in UTC."""
    try:
        return dt.datetime.fromtimestamp(at_ms / 1_000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        # Whoever wrote the record chose its time; not every number is in the calendar.
        return str(at_ms)


def _field(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _headers(record: Record) -> dict[str, Any]:
    """Return the headers by name; one that stands several times has all of its values."""
    named: dict[str, list[str | None]] = {}
    for name, value in record.headers or ():
        named.setdefault(name, []).append(None if value is None else value.decode(errors="backslashreplace"))
    return {name: values[0] if len(values) == 1 else values for name, values in named.items()}
