"""The topics of a measurement: what all read, and what each of them wrote."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from stream import Row

from consumers.topics import Topics

_CALL_S = 10.0
_READ_S = 60.0
_CHUNK = 5_000
_QUEUED_MAX = 100_000
# What a client is told of a topic that was made just now, and while its leader changes.
_PASSING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}


class Answer(msgspec.Struct):
    """What all peers' predictions have in common."""

    id: str
    prediction: Any
    proba: dict[str, float]


class Board:
    """Make, fill, watch and read topics of `partitions` partitions."""

    def __init__(self, bootstrap: str, *, partitions: int) -> None:
        self._client: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 2}
        self._topics = Topics(self._client)
        self._admin = AdminClient(self._client)
        self._partitions = range(partitions)

    def make(self, name: str) -> None:
        """Make a topic."""
        self._topics.create(name, len(self._partitions))

    def fill(self, name: str, rows: Iterator[Row]) -> None:
        """Make a topic of rows: the first in the first partition, the second in the second, and so on round."""
        self.make(name)
        # Idempotent: what is tried again while a leader is elected stays in order.
        settings = {"linger.ms": 5, "enable.idempotence": True, "queue.buffering.max.messages": 2 * _QUEUED_MAX}
        producer = Producer({**self._client, **settings})
        for index, row in enumerate(rows):
            # Not in batches: those know no timestamps.
            producer.produce(name, partition=index % len(self._partitions), **row)
            producer.poll(0.1 if len(producer) > _QUEUED_MAX else 0)
        if producer.flush(_READ_S):
            raise TimeoutError(f"Kafka did not take all of {name} within {_READ_S:.0f} s")

    def ends(self, name: str) -> tuple[int, ...]:
        """Return, for each partition, the next offset that a `read_committed` reader will get."""
        until = time.monotonic() + _CALL_S
        while True:
            try:
                return self._ends(name)
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def _ends(self, name: str) -> tuple[int, ...]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {TopicPartition(name, partition): latest for partition in self._partitions}
        found = self._admin.list_offsets(places, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_CALL_S)
        return tuple(found[place].result().offset for place in places)

    def read(self, name: str) -> dict[int, dict[int, bytes]]:
        """Read a topic to its end, as a `read_committed` reader does: values by partition and offset."""
        consumer = Consumer(
            {
                **self._client,
                "group.id": f"{name}.reader",
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(name, partition, 0) for partition in self._partitions])
        values: dict[int, dict[int, bytes]] = {partition: {} for partition in self._partitions}
        unread = set(self._partitions)
        until = time.monotonic() + _READ_S
        while unread:
            if time.monotonic() > until:
                raise TimeoutError(f"{name} was not read to its end within {_READ_S:.0f} s")
            # Typed as if anything might be missing; of a message that is no error, nothing is.
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


def ids(values: Mapping[int, Mapping[int, bytes]]) -> set[str]:
    """Return the ids of the records that were answered."""
    decode = msgspec.json.Decoder(Answer).decode
    return {decode(value).id for held in values.values() for value in held.values()}


def digest(values: Mapping[int, Mapping[int, bytes]]) -> str:
    """Digest the answers, partition by partition and in order: equal for peers that predict the same to the bit."""
    decode = msgspec.json.Decoder(Answer).decode
    found = hashlib.sha256()
    for partition in sorted(values):
        for _, value in sorted(values[partition].items()):
            answer = decode(value)
            found.update(repr((partition, answer.id, answer.prediction, sorted(answer.proba.items()))).encode())
    return found.hexdigest()
