"""A run of one log's messages, as the client gave them: as columns for who handles many at once, or as records.

A record is an object of its own; where a batch is handled as columns, one is made only of what is refused.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Message

from headrace.consumers.record import Record, RecordHeaders, record_of


class Chunk:
    """Messages of one partition, in offset order; each becomes a record of `kind` when it is asked for."""

    def __init__(self, messages: Sequence[Message], kind: type[Record] = Record) -> None:
        self.messages = messages
        self._kind = kind
        self._keys: list[bytes | None] | None = None
        self._asked: list[RecordHeaders | None] | None = None
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
        if self._keys is None:
            self._keys = list(map(Message.key, self.messages))
        return self._keys

    def timestamps(self) -> list[int]:
        """Return the timestamps, in ms since 1970."""
        return [message.timestamp()[1] for message in self.messages]

    def headers(self) -> list[RecordHeaders | None] | None:
        """Return the headers of each; None where no message has any, or none that can be read."""
        found = self._each_headers()
        return found if any(found) else None

    def record(self, position: int) -> Record:
        """Make a record of one message."""
        return record_of(self.messages[position], self._kind, self._each_headers()[position])

    def records(self) -> list[Record]:
        """Make a record of each message."""
        pairs = zip(self.messages, self._each_headers(), strict=True)
        return [record_of(message, self._kind, headers) for message, headers in pairs]

    def _each_headers(self) -> list[RecordHeaders | None]:
        # Once: a message is not asked twice, nor are all of them looked through for each record that is refused.
        if self._asked is None:
            self._asked = _headers(self.messages)
        return self._asked


Records = Chunk | Sequence[Record]
"""Records of one partition, as messages or as objects."""


def keys_of(records: Records) -> list[bytes | None]:
    """Return the key of each."""
    return records.keys() if isinstance(records, Chunk) else [record.key for record in records]


def first_keys(records: Records, count: int) -> list[bytes | None]:
    """Return the keys of the first records."""
    if isinstance(records, Chunk):
        return [message.key() for message in records.messages[:count]]
    return [record.key for record in records[:count]]


def newest_ms(records: Records) -> int:
    """Return the timestamp of the last."""
    return records.messages[-1].timestamp()[1] if isinstance(records, Chunk) else records[-1].timestamp_ms


def _headers(messages: Sequence[Message]) -> list[RecordHeaders | None]:
    """Return the headers of each, None where a name is no UTF-8, as other languages may write it.

    No message is asked twice: the library has let go of what it could not read, and crashes.
    """
    found: list[Any] = []
    asked = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(asked)
        except (SystemError, UnicodeDecodeError):
            found.append(None)
    return found


def _offsets(messages: Sequence[Message]) -> Sequence[int]:
    """Return the offsets; where there is no gap, which is nearly always, none is asked for but the ends'."""
    if not messages:
        return range(0)
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first == len(messages) - 1:
        return range(first, last + 1)
    return [message.offset() or 0 for message in messages]
