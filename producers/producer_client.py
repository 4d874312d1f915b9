"""The producer of Kafka's client: its settings, how outputs are handed to it, and how it is let go."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from headrace.producers.output import Committable, OutputRecords, Reach

_HELD_S = 10.0
_LOOK_S = 0.01
# By the list in `_LastReference`, and by the call that counts.
_HELD_HERE = 2
_QUEUE_MESSAGES_MAX = 1_000_000
_QUEUE_KBYTES_MAX = 2_000_000


def producer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's properties for a sink; those of the user go before the defaults."""
    return {
        "linger.ms": 5,
        # The next transaction often comes before the last one's markers are written. With the default of
        # 100 ms the stream would stand still for as long, each time. It is doubled from one try to the next.
        "retry.backoff.ms": 1,
        # A broker that is back is found within a second, not ten.
        "reconnect.backoff.max.ms": 1_000,
        # As a consumer does, it begins with the bootstrap servers again when no broker has answered for this time.
        "metadata.recovery.rebootstrap.trigger.ms": 5_000,
        # A first answer that was lost is missed after this time, as a consumer's is; after ten seconds by default.
        "api.version.request.timeout.ms": 5_000,
        # The topics decide what is too large; the client's own limit is below that of a topic.
        "message.max.bytes": 100_000_000,
        "queue.buffering.max.messages": _QUEUE_MESSAGES_MAX,
        "queue.buffering.max.kbytes": _QUEUE_KBYTES_MAX,
        **settings,
        "enable.idempotence": True,
    }


def produce(producer: Producer, batch: Sequence[Committable], topics: Mapping[str, str], *, reach: Reach) -> None:
    """Hand the outputs to the producer: each to its topic, by the output's name, in its own partition and in order.

    Raises KafkaException with what the client refused.
    """
    for outputs in batch:
        for place, (name, records) in enumerate(outputs.records.items()):
            if place:
                reach("between")
            _produce(producer, topics[name], outputs.partition, records)


def let_go(producer: Producer) -> None:
    """Let a client end. That can take as long as a broker takes not to answer, and nobody waits for it."""
    threading.Thread(target=_LastReference(producer).drop, daemon=True).start()


class _LastReference:
    """Hold the last reference to a producer, so that the thread that drops it is the one that waits."""

    def __init__(self, producer: Producer) -> None:
        self._held: list[Producer] = [producer]

    def drop(self) -> None:
        self._held[0].purge()
        # The error that made it useless holds it, too, until the error has been dealt with.
        until = time.monotonic() + _HELD_S
        while sys.getrefcount(self._held[0]) > _HELD_HERE and time.monotonic() < until:
            time.sleep(_LOOK_S)
        self._held.clear()


def _produce(producer: Producer, topic: str, partition: int, records: OutputRecords) -> None:
    # The client's call for many knows no headers: records that have some go one by one, in their places.
    begin = 0
    for position, headers in records.headers.items():
        _produce_plain(producer, topic, partition, records.messages(begin, position))
        key, value = records.keys[position], records.values[position]
        producer.produce(topic, value, key, partition=partition, headers=list(headers))
        begin = position + 1
    _produce_plain(producer, topic, partition, records.messages(begin, len(records)))


def _produce_plain(producer: Producer, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
    # Without the partition its partitioner would choose one.
    if messages and producer.produce_batch(topic, messages, partition=partition) != len(messages):
        fault = next(message["_error"] for message in messages if "_error" in message)
        raise KafkaException(fault)
