"""What a batch gives on its way out, as columns, and how it is handed to the client."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from confluent_kafka import KafkaException, Producer

from headrace.producers.record_size import HEADER_BYTES_MAX, PLAIN_BYTES_MAX, MessageHeaders, record_bytes

Reach = Callable[[str], None]
"""Told of each place that a batch passes on its way."""


class Message(Protocol):
    """One record on its way out."""

    @property
    def key(self) -> bytes | None:
        """The key, None for none."""

    @property
    def value(self) -> bytes | None:
        """The value, None for none."""

    @property
    def headers(self) -> list[tuple[str, bytes | None]] | None:
        """The headers, None for none: asked for when it goes, each time that it goes, and the same each time."""


class OutputRecords(msgspec.Struct):
    """Records on their way out as columns, in order; `headers` has those that have any, by position."""

    keys: list[bytes | None] = []
    values: list[bytes] = []
    headers: dict[int, MessageHeaders] = {}

    def add(self, key: bytes | None, value: bytes, headers: MessageHeaders | None) -> None:
        """Add one record at the end."""
        if headers is not None:
            self.headers[len(self.values)] = headers
        self.keys.append(key)
        self.values.append(value)

    def without(self, positions: Container[int]) -> "OutputRecords":
        """Return a parcel that lacks some of the records."""
        kept = OutputRecords()
        for position, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            if position not in positions:
                kept.add(key, value, self.headers.get(position))
        return kept

    def larger_than(self, bytes_max: int) -> dict[int, int]:
        """Return the records that are larger than a topic takes: the size of each by position.

        Lengths are compared first; only a record that comes near the limit is measured.
        """
        keys, values, room = self.keys, self.values, bytes_max - PLAIN_BYTES_MAX
        near: Iterable[int] = ()
        if max(map(len, values), default=0) + max(map(len, filter(None, keys)), default=0) > room:
            pairs = enumerate(zip(keys, values, strict=True))
            near = [place for place, (key, value) in pairs if len(value) + len(key or b"") > room]
        found = {place for place in near if place not in self.headers}
        for place, headers in self.headers.items():
            most = len(keys[place] or b"") + len(values[place])
            for name, text in headers:
                most += 4 * len(name) + len(text or b"") + HEADER_BYTES_MAX
            if most > room:
                found.add(place)
        sizes = {place: record_bytes(keys[place], values[place], self.headers.get(place)) for place in sorted(found)}
        return {place: size for place, size in sizes.items() if size > bytes_max}

    def messages(self, begin: int, end: int) -> list[dict[str, Any]]:
        """Return a piece as the client's call for many takes it."""
        pairs = zip(self.keys[begin:end], self.values[begin:end], strict=True)
        return [{"key": key, "value": value} for key, value in pairs]

    def __len__(self) -> int:
        return len(self.values)


class Output(msgspec.Struct, frozen=True):
    """What a batch gives for one partition, in order, and where the partition stands after it.

    `offset` is the next to consume, `labels_offset` that of the labels topic, if there is one; `mark` rides in the
    metadata of `offset`.
    """

    partition: int
    predictions: OutputRecords
    dead_letters: Sequence[Message]
    offset: int
    mark: str
    labels_offset: int = -1


def produce(producer: Producer, outputs: Sequence[Output], topics: Mapping[str, str], *, reach: Reach) -> None:
    """Hand the outputs to the producer, each to its own partition and in order.

    Raises KafkaException with what the client refused.
    """
    for output in outputs:
        _produce_parcel(producer, topics["predictions"], output.partition, output.predictions)
        reach("between")
        _produce_letters(producer, topics["dead_letters"], output.partition, output.dead_letters)


def _produce_letters(producer: Producer, topic: str, partition: int, letters: Sequence[Message]) -> None:
    for letter in letters:
        # Its type says that it might put text into the list.
        headers: Any = letter.headers
        producer.produce(topic, letter.value, letter.key, partition=partition, headers=headers)


def _produce_parcel(producer: Producer, topic: str, partition: int, parcel: OutputRecords) -> None:
    # The batch call knows no headers: those that have some go one by one, in their places.
    begin = 0
    for position, headers in parcel.headers.items():
        _produce_plain(producer, topic, partition, parcel.messages(begin, position))
        key, value = parcel.keys[position], parcel.values[position]
        producer.produce(topic, value, key, partition=partition, headers=list(headers))
        begin = position + 1
    _produce_plain(producer, topic, partition, parcel.messages(begin, len(parcel)))


def _produce_plain(producer: Producer, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
    # It would let its partitioner choose if it were not told.
    if messages and producer.produce_batch(topic, messages, partition=partition) != len(messages):
        fault = next(message["_error"] for message in messages if "_error" in message)
        raise KafkaException(fault)
