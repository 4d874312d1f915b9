"""The producer client of the sinks: its settings, the sending of outputs, and its end."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from headrace.producers.output import Committable, OutputRecords, Reach

_HELD_S = 10.0
_LOOK_S = 0.01
# The list in `_LastReference`, and the call of `getrefcount`.
_OWN_REFERENCES = 2
_QUEUE_MESSAGES_MAX = 1_000_000
_QUEUE_KBYTES_MAX = 2_000_000


def producer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's properties for a sink; the user's properties override the defaults."""
    return {
        "linger.ms": 5,
        # The next transaction often begins before the markers of the last one are written. With the default of 100 ms
        # the stream would pause for that time. It doubles with each try.
        "retry.backoff.ms": 1,
        # As for the consumers (`client_properties`): reconnect soon, return to the bootstrap servers, give up lost
        # replies.
        "reconnect.backoff.max.ms": 1_000,
        "metadata.recovery.rebootstrap.trigger.ms": 5_000,
        "api.version.request.timeout.ms": 5_000,
        # Let the broker refuse records that are too large: it knows each topic's limit.
        "message.max.bytes": 100_000_000,
        "queue.buffering.max.messages": _QUEUE_MESSAGES_MAX,
        "queue.buffering.max.kbytes": _QUEUE_KBYTES_MAX,
        **settings,
        "enable.idempotence": True,
    }


def produce(producer: Producer, batch: Sequence[Committable], topics: Mapping[str, str], *, reach: Reach) -> None:
    """Queue the outputs in order, each for its topic and its own partition. `topics` has the topics by output name.

    Raises KafkaException when the client refuses a record.
    """
    for outputs in batch:
        for place, (name, topic) in enumerate(topics.items()):
            if place:
                reach("between")
            if name in outputs.records:
                _produce(producer, topic, outputs.partition, outputs.records[name])


def close_later(producer: Producer) -> None:
    """Close a client in a thread of its own: that can take as long as a timeout of a broker that does not answer."""
    threading.Thread(target=_LastReference(producer).drop, daemon=True).start()


class _LastReference:
    """Hold the last reference to a producer, so that the thread that drops it is the one that waits."""

    def __init__(self, producer: Producer) -> None:
        self._held: list[Producer] = [producer]

    def drop(self) -> None:
        self._held[0].purge()
        # The traceback of the error that ended it refers to it, too, until the error is handled.
        until = time.monotonic() + _HELD_S
        while sys.getrefcount(self._held[0]) > _OWN_REFERENCES and time.monotonic() < until:
            time.sleep(_LOOK_S)
        self._held.clear()


def _produce(producer: Producer, topic: str, partition: int, records: OutputRecords) -> None:
    # `produce_batch` has no headers, so records with headers are sent one by one, in their places.
    begin = 0
    for position, headers in records.headers.items():
        _produce_plain(producer, topic, partition, records.messages(begin, position))
        key, value = records.keys[position], records.values[position]
        producer.produce(topic, value, key, partition=partition, headers=list(headers))
        begin = position + 1
    _produce_plain(producer, topic, partition, records.messages(begin, len(records)))


def _produce_plain(producer: Producer, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
    # Without `partition` the partitioner would choose one.
    if messages and producer.produce_batch(topic, messages, partition=partition) != len(messages):
        fault = next(message["_error"] for message in messages if "_error" in message)
        raise KafkaException(fault)
