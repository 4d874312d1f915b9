"""A refused record on its way to the dead letters: whole, or without what its topic has no room for.

What is left out can be read at the record's own place for as long as the log holds it; the dead letter names the
place, and the size of each part that is missing.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from headrace.consumers.record import Record
from headrace.consumers.refusal import Refusal
from headrace.producers import deadletter
from headrace.producers.record_size import HEADER_BYTES_MAX, PLAIN_BYTES_MAX, record_bytes

RecordPart = Literal["key", "headers", "value"]
_PARTS: tuple[RecordPart, ...] = ("key", "headers", "value")
# What the added headers take at most: fourteen names, four texts of a kilobyte, and numbers.
_ADDED_BYTES_MAX = 8_192
_BRIEF_CHARACTERS = 100


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A refused record as it goes to the dead letters of the group, out of `topic`.

    `replays` says how often it was replayed, `learned` that the model had learned the record before it was refused.
    `omitted` has the parts that are left out; a `brief` one has shorter words as well.
    """

    record: Record
    refusal: Refusal
    topic: str
    group: str
    replays: int = 0
    learned: bool = False
    omitted: tuple[RecordPart, ...] = ()
    brief: bool = False

    @property
    def key(self) -> bytes | None:
        """The record's own, byte for byte."""
        return None if "key" in self.omitted else self.record.key

    @property
    def value(self) -> bytes | None:
        """The record's own, byte for byte."""
        return None if "value" in self.omitted else self.record.value

    def __iter__(self) -> Iterator[tuple[str, bytes | None]]:
        """Go through the headers: an output takes a dead letter for the headers of its record."""
        return iter(self.headers)

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """The record's own headers, then those of the reason.

        They are made each time that they are asked for: held until they are confirmed, those of a flood would keep the
        garbage collector busy.
        """
        record, refusal = self.record, self.refusal
        say = _abridged if self.brief else str
        return deadletter.add_reason(
            None if "headers" in self.omitted else record.headers,
            topic=self.topic,
            partition=record.partition,
            offset=record.offset,
            group=self.group,
            code=refusal.code,
            stage=refusal.stage,
            field=say(refusal.field),
            message=say(refusal.message),
            timestamp_ms=record.timestamp_ms,
            replays=self.replays,
            learned=self.learned,
            omitted={part: _size(record, part) for part in self.omitted},
        )


def shortened(dead_letter: DeadLetter, bytes_max: int) -> DeadLetter:
    """Return a dead letter that a topic takes, with as much of the record as there is room for.

    The key goes first, then the headers, then the value: each is kept if it fits beside the parts before it.
    """
    record = dead_letter.record
    most = PLAIN_BYTES_MAX + _ADDED_BYTES_MAX + len(record.key or b"") + len(record.value or b"")
    most += sum(4 * len(name) + len(text or b"") + HEADER_BYTES_MAX for name, text in record.headers or ())
    if most <= bytes_max or _bytes(dead_letter) <= bytes_max:
        return dead_letter
    there = tuple(part for part in _PARTS if _size(record, part))
    least = msgspec.structs.replace(dead_letter, omitted=there)
    if _bytes(least) > bytes_max:
        least = msgspec.structs.replace(least, brief=True)
    for part in there:
        more = msgspec.structs.replace(least, omitted=tuple(name for name in least.omitted if name != part))
        if _bytes(more) <= bytes_max:
            least = more
    return least


def least_bytes(*, topic: str, group: str) -> int:
    """Return the size of the smallest dead letter that a topic must take, in bytes."""
    words = "x" * _BRIEF_CHARACTERS
    record = Record(2**31 - 1, 2**63 - 1, 2**63 - 1, b"k", b"v", [("h", b"")])
    refusal = Refusal("unknown_feature", "validate", words, words)
    dead_letter = DeadLetter(record, refusal, topic, group, 10**6, learned=True, omitted=_PARTS, brief=True)
    return _bytes(dead_letter)


def _abridged(text: str) -> str:
    """Cut a text, and leave nothing in it that has more than one byte a character."""
    return text[:_BRIEF_CHARACTERS].encode("ascii", "replace").decode()


def _bytes(dead_letter: DeadLetter) -> int:
    return record_bytes(dead_letter.key, dead_letter.value, dead_letter.headers)


def _size(record: Record, part: RecordPart) -> int:
    """Return how many bytes a part of a record has."""
    if part == "headers":
        return sum(len(name.encode(errors="surrogatepass")) + len(text or b"") for name, text in record.headers or ())
    return len((record.key if part == "key" else record.value) or b"")
