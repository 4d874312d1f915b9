"""Reads dead letters for commands: their headers, a selection of them, and their JSON form.

`tail`, `dlq` and the replay share it, so that a filter has one meaning.
"""

import base64
import datetime as dt
from collections.abc import Iterator
from typing import Any, Self

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.duration import duration_s
from headrace.pipeline.hinted_error import HintedError
from headrace.producers import deadletter

_STATUS_DIGITS = 3


class DeadLetterError(HintedError):
    """Raised when a dead letter or a topic does not exist, or an option can't be read."""


class DeadLetterRecord(msgspec.Struct, frozen=True):
    """A dead letter: the record in the dead-letter topic, and the reason from its headers."""

    record: Record
    reason: deadletter.Reason

    @classmethod
    def of(cls, record: Record) -> Self:
        """Read the headers of a record, in any of the four dialects."""
        return cls(record, deadletter.read(record.headers))

    @property
    def code(self) -> str:
        """The code of the refusal; `unknown` if no header has it."""
        return self.reason.code or "unknown"

    @property
    def status(self) -> int:
        """The status of the refusal; 400 for a dead letter of another system that has none."""
        text = dict(self.record.headers or ()).get(deadletter.STATUS) or b""
        return int(text) if text.isdigit() and len(text) == _STATUS_DIGITS else 400

    @property
    def origin(self) -> str:
        """The topic, partition and offset of the refused record; `unknown` if no header has them."""
        reason = self.reason
        return f"{reason.topic}[{reason.partition}]@{reason.offset}" if reason.topic else "unknown"


class Selection(msgspec.Struct, frozen=True):
    """A filter for dead letters: with a code, since a time in ms, at these places, and of these the first `limit`.

    A place is a partition and an offset in the topic of the dead letters; without `places` all places count.
    The order is by partition and offset. Replayed dead letters count as well, so that a selection stays the same
    after a replay.
    """

    code: str | None = None
    since_ms: int | None = None
    limit: int | None = None
    places: frozenset[tuple[int, int]] | None = None

    def takes(self, code: str, timestamp_ms: int, *, at: tuple[int, int]) -> bool:
        """Return whether the dead letter at a place is selected, apart from the limit."""
        return (
            (self.code is None or code == self.code)
            and (self.since_ms is None or timestamp_ms >= self.since_ms)
            and (self.places is None or at in self.places)
        )


def select(reader: Reader, topic: str, selection: Selection) -> Iterator[DeadLetterRecord]:
    """Yield the selected dead letters up to the present end of the topic."""
    count = 0
    for partition, span in reader.spans(topic).items():
        for record in reader.between(topic, partition, span.start, span.end):
            if count == selection.limit:
                return
            dead_letter = DeadLetterRecord.of(record)
            if selection.takes(dead_letter.code, record.timestamp_ms, at=(partition, record.offset)):
                count += 1
                yield dead_letter


def since_ms(text: str | None, *, now_ms: int) -> int | None:
    """Parse a time in ms: an age ("1h"), or a date with or without a time, in UTC if it names no zone.

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
            f"--since {text} is not a time", hint="write it like 30m, 1h, 7d, 2026-01-31 or 2026-01-31T12:00"
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1_000)


def position_of(text: str) -> tuple[int, int]:
    """Parse `PARTITION:OFFSET`. Raises DeadLetterError."""
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise DeadLetterError(f"{text} names no dead letter", hint="write PARTITION:OFFSET, such as 1:39")
    return int(partition), int(offset)


def envelope(topic: str, record: Record) -> dict[str, Any]:
    """Return the JSON form of a dead letter: bytes are text, or base64 if they are not UTF-8."""
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
    """Escape control characters: anybody may have written the record, and a terminal would obey them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _field(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _headers(record: Record) -> dict[str, Any]:
    """Return the headers by name. A name with several headers has the list of their values."""
    by_name: dict[str, list[str | None]] = {}
    for name, value in record.headers or ():
        by_name.setdefault(name, []).append(None if value is None else value.decode(errors="backslashreplace"))
    return {name: values[0] if len(values) == 1 else values for name, values in by_name.items()}
