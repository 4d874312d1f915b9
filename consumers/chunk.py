"""A run of one log's messages, as the client gave them: as columns for who handles many at once, or as records.

A record is an object of its own; where a batch is handled as columns, one is made only of what is refused.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import cast

from confluent_kafka import Message

from consumers.record import Headers, Record, record_of


class Chunk:
    """Messages of one partition, in offset order; each becomes a record of `kind` when it is asked for."""

    def __init__(self, messages: Sequence[Message], kind: type[Record] = Record) -> None:
        self.messages = messages
        self._kind = kind
        self.offsets = _offsets(messages)

    def __len__(self) -> int:
        return len(self.messages)

    def since(self, offset: int) -> "Chunk":
        """Return what has this offset or a later one."""
        return self.split(offset)[1]

    def split(self, offset: int) -> tuple["Chunk", "Chunk"]:
        """Return what lies below an offset, and the rest."""
        if not self.offsets or self.offsets[0] >= offset:
            return Chunk((), self._kind), self
        if self.offsets[-1] < offset:
            return self, Chunk((), self._kind)
        at = bisect_left(self.offsets, offset)
        return Chunk(self.messages[:at], self._kind), Chunk(self.messages[at:], self._kind)

    def values(self) -> list[bytes | None]:
        """Return the values, as bytes."""
        return list(map(Message.value, self.messages))

    def keys(self) -> list[bytes | None]:
        """Return the keys, as bytes."""
        return list(map(Message.key, self.messages))

    def headers(self) -> list[Headers | None] | None:
        """Return the headers of each; None where no message has any, or none that can be read."""
        try:
            # A consumer's messages have lists of pairs, whatever else a producer may be given.
            found = cast("list[Headers | None]", list(map(Message.headers, self.messages)))
        except (SystemError, UnicodeDecodeError):
            found = [record.headers for record in self.records()]
        return found if any(found) else None

    def record(self, position: int) -> Record:
        """Make a record of one message."""
        return record_of(self.messages[position], self._kind)

    def records(self) -> list[Record]:
        """Make a record of each message."""
        return [record_of(message, self._kind) for message in self.messages]


Records = Chunk | Sequence[Record]
"""Records of one partition, as messages or as objects."""


def keys_of(records: Records) -> list[bytes | None]:
    """Return the key of each."""
    return records.keys() if isinstance(records, Chunk) else [record.key for record in records]


def newest_ms(records: Records) -> int:
    """Return the timestamp of the last."""
    return (records.record(-1) if isinstance(records, Chunk) else records[-1]).timestamp_ms


def _offsets(messages: Sequence[Message]) -> Sequence[int]:
    """Return the offsets; where there is no gap, which is nearly always, none is asked for but the ends'."""
    if not messages:
        return range(0)
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first == len(messages) - 1:
        return range(first, last + 1)
    return [message.offset() or 0 for message in messages]
