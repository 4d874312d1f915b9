"""Receipts: a note for each dead letter that was replayed or parked, so that no replay sends it twice.

Receipts are in a compacted topic beside the dead letters. The transaction that sends a record also writes its receipt.
A receipt names the id of the dead-letter topic: if that topic is deleted and created again, its offsets are those of
other records.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from headrace.consumers.reader import Reader, Span
from headrace.consumers.source import Committed

ReceiptState = Literal["waiting", "replayed", "parked"]


class Target(msgspec.Struct, frozen=True):
    """The topic and partition that a dead letter was sent to; the partition is None if the key chose it."""

    topic: str
    partition: int | None


class Receipt(msgspec.Struct, frozen=True):
    """One receipt. Times are in ms since 1970; `timestamp` is the time of the dead letter."""

    at: int
    to: Target
    action: Literal["sent", "parked"]
    replay_count: int
    code: str
    timestamp: int
    topic_id: str


class States:
    """The state of each dead letter, from the receipts and from the offsets below which all are done."""

    def __init__(self, receipts: Iterator[tuple[int, int, Receipt]], floors: Mapping[int, int]) -> None:
        self._floors = floors
        self._sent: dict[int, set[int]] = {}
        self._parked: dict[int, set[int]] = {}
        for partition, offset, receipt in receipts:
            found = self._parked if receipt.action == "parked" else self._sent
            found.setdefault(partition, set()).add(offset)

    def of(self, partition: int, offset: int) -> ReceiptState:
        """Return the state of the dead letter at a partition and offset."""
        if offset in self._parked.get(partition, ()):
            return "parked"
        if offset in self._sent.get(partition, ()) or offset < self._floors.get(partition, 0):
            return "replayed"
        return "waiting"


def topic_of(topic: str) -> str:
    """Return the topic that holds the receipts for the dead letters of `topic`."""
    return f"{topic}.replayed"


def key_of(partition: int, offset: int) -> bytes:
    """Return the key of a dead letter's receipt."""
    return f"{partition}:{offset}".encode()


def read(reader: Reader, topic: str, topic_id: str) -> Iterator[tuple[int, int, Receipt]]:
    """Yield the partition, the offset and the receipt of each dead letter that was replayed or parked."""
    for number, span in reader.spans(topic_of(topic)).items():
        for record in reader.between(topic_of(topic), number, span.start, span.end):
            receipt = msgspec.json.decode(record.value or b"null", type=Receipt | None)
            if receipt is not None and receipt.topic_id == topic_id:
                partition, _, offset = (record.key or b"").partition(b":")
                yield int(partition), int(offset), receipt


def floors(places: Mapping[int, Committed], spans: Mapping[int, Span], topic_id: str) -> dict[int, int]:
    """Return for each partition the offset below which every dead letter is done, from the committed offsets."""
    found = {}
    for partition, span in spans.items():
        place = places.get(partition)
        done = place.offset if place is not None and place.metadata == topic_id else 0
        found[partition] = min(max(span.start, done), span.end)
    return found
