"""Makes a batch of records from the messages of Kafka's client."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

from confluent_kafka import Message

from headrace.consumers.record import Record, RecordHeaders
from headrace.consumers.record_batch import RecordBatch


def batch_of(partition: int, messages: Sequence[Message], kind: type[Record] = Record) -> RecordBatch:
    """Return the messages of one partition as a batch: no errors, in offset order."""
    headers = _headers(messages)
    return RecordBatch(
        partition,
        offsets=_offsets(messages),
        timestamps=_Timestamps(messages),
        keys=list(map(Message.key, messages)),
        values=list(map(Message.value, messages)),
        headers=headers if any(headers) else None,
        kind=kind,
    )


class _Timestamps(Sequence[int]):
    """The timestamps of messages, in ms since 1970, read when asked for: most batches need only the last one."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[int]:
        return (message.timestamp()[1] for message in self._messages)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return _Timestamps(self._messages[index])
        return self._messages[index].timestamp()[1]


def _headers(messages: Sequence[Message]) -> list[RecordHeaders | None]:
    """Return the headers of each message; None if a name is not UTF-8, which other languages may write.

    Read the headers of a message only once: after an error the library has freed them, and crashes.
    """
    found: list[Any] = []
    remaining = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(remaining)
        except (SystemError, UnicodeDecodeError):
            found.append(None)
    return found


def _offsets(messages: Sequence[Message]) -> Sequence[int]:
    """Return the offsets. They are usually consecutive: then read only the first and the last."""
    if not messages:
        return ()
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first == len(messages) - 1:
        return range(first, last + 1)
    return [message.offset() or 0 for message in messages]
