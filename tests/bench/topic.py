"""The topics of a measurement: the inputs, and the outputs of each program."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from stream import Row

from headrace.consumers.topics import Topics

_CALL_S = 10.0
_READ_S = 60.0
_CHUNK = 5_000
_QUEUED_MAX = 100_000
# The errors of a client for a new topic, and while the leader of a topic changes.
_PASSING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}


class Source(msgspec.Struct):
    """The partition and offset of the record of a prediction."""

    partition: int
    offset: int


class Answer(msgspec.Struct):
    """The common fields of all peers' predictions."""

    id: str
    prediction: Any
    proba: dict[str, float]
    source: Source


Answers = dict[tuple[int, int], Answer]
"""Predictions by the partition and offset of their record."""


class Board:
    """Create, fill, watch and read topics."""

    def __init__(self, bootstrap: str) -> None:
        self._client: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 2}
        self._topics = Topics(self._client)
        self._admin = AdminClient(self._client)

    def make(self, name: str, partitions: int) -> None:
        """Create a topic."""
        self._topics.create(name, partitions)

    def producer(self, **settings: Any) -> Producer:
        """Return a producer that keeps the order, even if it retries."""
        return Producer({**self._client, "enable.idempotence": True, **settings})

    def reader(self, name: str, partitions: int, **settings: Any) -> Consumer:
        """Return a `read_committed` reader of a whole topic, from its start."""
        consumer = Consumer(
            {
                **self._client,
                "group.id": f"{name}.reader",
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                **settings,
            }
        )
        consumer.assign([TopicPartition(name, partition, 0) for partition in range(partitions)])
        return consumer

    def fill(self, name: str, partitions: int, rows: Iterator[Row]) -> None:
        """Create a topic with rows: the first in the first partition, the second in the second, and so on in turn."""
        self.make(name, partitions)
        producer = self.producer(**{"linger.ms": 5, "queue.buffering.max.messages": 2 * _QUEUED_MAX})
        for index, row in enumerate(rows):
            # Not in batches: these can't have timestamps.
            producer.produce(name, partition=index % partitions, **row)
            producer.poll(0.1 if len(producer) > _QUEUED_MAX else 0)
        if producer.flush(_READ_S):
            raise TimeoutError(f"Kafka did not take all of {name} within {_READ_S:.0f} s")

    def ends(self, name: str, partitions: int) -> tuple[int, ...]:
        """Return, for each partition, the next offset that a `read_committed` reader will get."""
        until = time.monotonic() + _CALL_S
        while True:
            try:
                return self._ends(name, partitions)
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def _ends(self, name: str, partitions: int) -> tuple[int, ...]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {TopicPartition(name, partition): latest for partition in range(partitions)}
        found = self._admin.list_offsets(places, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_CALL_S)
        return tuple(found[place].result().offset for place in places)

    def read(self, name: str, partitions: int) -> dict[int, dict[int, bytes]]:
        """Read a topic to its end, as a `read_committed` reader does: values by partition and offset."""
        consumer = self.reader(name, partitions, **{"enable.partition.eof": True})
        values: dict[int, dict[int, bytes]] = {partition: {} for partition in range(partitions)}
        unread = set(values)
        until = time.monotonic() + _READ_S
        while unread:
            if time.monotonic() > until:
                raise TimeoutError(f"{name} was not read to its end within {_READ_S:.0f} s")
            # The types say that a field may be None, but a message without an error has all of them.
            messages: list[Any] = consumer.consume(_CHUNK, 0.1)
            for message in messages:
                if (error := message.error()) is None:
                    values[message.partition()][message.offset()] = message.value()
                elif error.name() == "_PARTITION_EOF":
                    unread.discard(message.partition())
                else:
                    raise KafkaException(error)
        consumer.close()
        return values


def answers(values: Mapping[int, Mapping[int, bytes]]) -> Answers:
    """Read the predictions of a peer."""
    decode = msgspec.json.Decoder(Answer).decode
    found = (decode(value) for held in values.values() for value in held.values())
    return {(answer.source.partition, answer.source.offset): answer for answer in found}


def difference(some: Answers, others: Answers) -> float:
    """Return the largest difference of a probability for the same record; infinite if the records differ.

    A prediction may differ only if the probabilities of the two classes are almost equal.
    """
    largest = 0.0
    for place, one in some.items():
        other = others.get(place)
        if other is None or other.id != one.id or other.proba.keys() != one.proba.keys():
            return math.inf
        apart = max(abs(p - other.proba[label]) for label, p in one.proba.items())
        if one.prediction != other.prediction and max(one.proba.values()) - min(one.proba.values()) > 2 * apart:
            return math.inf
        largest = max(largest, apart)
    return largest
