"""The peers without a framework: two hand-written loops and a bare copy, each a separate program.

    python peer.py {loop,tuned,copy} BOOTSTRAP FEATURES OUTPUT COUNT

Each ends once COUNT records are handled and its standard input is closed. The loops are what one writes without
a framework: at-least-once, one River model a partition in memory, no dead letters, and a crash loses the model.
"""

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer
from model import build

_COMMIT_S = 1.0
# The maximum batch of Headrace.
_RECORDS_MAX = 20_000


def loop(consumer: Consumer, producer: Producer, features: str, output: str, count: int) -> None:
    """Predict, then learn, record by record, with the JSON of the standard library: the plain loop."""
    models: dict[int, Any] = defaultdict(build)
    for messages in _batches(consumer, producer, records_max=500, count=count):
        for message in messages:
            record = json.loads(message.value())
            partition = message.partition()
            model = models[partition]
            proba = model.predict_proba_one(record["features"])
            answer = {
                "id": record["id"],
                "prediction": max(proba, key=proba.get),
                "proba": proba,
                "source": {"topic": features, "partition": partition, "offset": message.offset()},
            }
            while True:
                try:
                    producer.produce(output, json.dumps(answer), message.key(), partition=partition)
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
            producer.poll(0)
            if "label" in record:
                model.learn_one(record["features"], record["label"])


def tuned(consumer: Consumer, producer: Producer, features: str, output: str, count: int) -> None:
    """The same with faster calls: msgspec, larger batches, one call of `produce` for each partition."""
    models: dict[int, Any] = defaultdict(build)
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    for messages in _batches(consumer, producer, records_max=_RECORDS_MAX, count=count):
        answers: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for message in messages:
            record = decode(message.value())
            partition = message.partition()
            model = models[partition]
            proba = model.predict_proba_one(record["features"])
            answer = {
                "id": record["id"],
                "prediction": max(proba, key=proba.get),
                "proba": {"false": proba[False], "true": proba[True]},
                "source": {"topic": features, "partition": partition, "offset": message.offset()},
            }
            answers[partition].append({"key": message.key(), "value": encode(answer)})
            if "label" in record:
                model.learn_one(record["features"], record["label"])
        for partition, rows in answers.items():
            _produce(producer, output, partition, rows)


def copy(consumer: Consumer, producer: Producer, features: str, output: str, count: int) -> None:  # noqa: ARG001 one shape
    """Copy each record to the other topic, without guarantees: the speed of the clients from Python."""
    for messages in _batches(consumer, producer, records_max=_RECORDS_MAX, count=count, commits=False):
        rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for message in messages:
            rows[message.partition()].append({"key": message.key(), "value": message.value()})
        for partition, values in rows.items():
            _produce(producer, output, partition, values)
        producer.flush()


def _batches(
    consumer: Consumer, producer: Producer, *, records_max: int, count: int, commits: bool = True
) -> Iterator[Sequence[Any]]:
    """Yield batches until they had `count` records (0 means for ever); flush and commit once a second."""
    commit_at, left = time.monotonic() + _COMMIT_S, count or math.inf
    while left > 0:
        # Take the records that are there without waiting: `consume` alone waits for all, or for its whole time.
        first = consumer.poll(0.1)
        messages = [] if first is None else [first, *consumer.consume(records_max - 1, 0)]
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        yield messages
        left -= len(messages)
        if commits and time.monotonic() >= commit_at:
            producer.flush()
            consumer.commit(asynchronous=True)
            commit_at = time.monotonic() + _COMMIT_S


def _produce(producer: Producer, topic: str, partition: int, rows: list[dict[str, Any]]) -> None:
    if producer.produce_batch(topic, rows, partition=partition) != len(rows):
        raise KafkaException(next(row["_error"] for row in rows if "_error" in row))


_KINDS: dict[str, Callable[[Consumer, Producer, str, str, int], None]] = {"loop": loop, "tuned": tuned, "copy": copy}


def main(kind: str, bootstrap: str, features: str, output: str, *, count: int) -> None:
    """Run one peer to its end."""
    client = {"bootstrap.servers": bootstrap}
    consumer = Consumer(
        {**client, "group.id": output, "auto.offset.reset": "earliest", "enable.auto.commit": False},
    )
    producer = Producer({**client, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    consumer.subscribe([features])
    _KINDS[kind](consumer, producer, features, output, count)
    producer.flush()
    # The meter takes a last sample before this process ends.
    sys.stdin.read()
    consumer.close()


if __name__ == "__main__":
    _, *words, many = sys.argv
    main(*words, count=int(many))
