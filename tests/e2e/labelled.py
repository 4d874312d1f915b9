"""A project with a labels topic, its messages, and its expected results.

Plain River and a dictionary compute the expected results, in the order in which the two topics were really read. The
marks of the committed offsets tell this order; they are sampled while the project runs.
"""

import collections
import contextlib
import json
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from confluent_kafka import Producer
from harness import Project, values
from oracle import anatomy, difference, logistic, open_transactions, river_model

from headrace.consumers.topics import Topics
from headrace.state.labels import read_order
from headrace.state.labels.join_state import LabelCounts
from headrace.state.store.store import Store

_SAMPLE_S = 0.2


class Sent(msgspec.Struct):
    """A message for the labels topic or the features topic."""

    labels: bool
    partition: int
    value: bytes
    timestamp_ms: int = 0
    key: bytes | None = None


def plan(count: int, *, partitions: int, delay_max: int, seed: int = 1) -> list[Sent]:
    """Plan features and their labels, in the order in which they are sent.

    10 % of the labels are missing, 5 % are sent twice, 5 % come before their features, and the others come after up
    to `delay_max` further features.
    """
    rng = random.Random(seed)
    due: dict[int, list[Sent]] = {}
    features = [json.loads(value) for value in values(count, seed=seed)]
    for index, event in enumerate(features):
        label = json.dumps({"id": event["id"], "label": event.pop("label")}).encode()
        kind = rng.random()
        if kind < 0.1:
            continue
        at = index - rng.randrange(1, 50) if kind < 0.15 else index + 1 + rng.randrange(delay_max)
        again = [at, at + 1 + rng.randrange(delay_max)] if kind > 0.95 else [at]
        for when in again:
            due.setdefault(max(0, when), []).append(Sent(True, index % partitions, label))
    sent: list[Sent] = []
    for index, event in enumerate(features):
        sent += due.pop(index, [])
        sent.append(Sent(False, index % partitions, json.dumps(event).encode()))
    return [*sent, *(message for index in sorted(due) for message in due[index])]


def labelled(make: Callable[..., Project], *, settings: dict[str, str] | None = None, **options: Any) -> Project:
    """Create a project with a labels topic."""
    name = f"t{uuid.uuid4().hex[:8]}"
    p = make(name=name, settings={"HEADRACE__TOPICS__LABELS": f"{name}.labels", **(settings or {})}, **options)
    Topics(p.client).create(f"{name}.labels", p.partitions)
    return p


def labels_of(p: Project) -> str:
    """Return the labels topic of a project."""
    return f"{p.name}.labels"


def send(p: Project, messages: Sequence[Sent], *, pause: Callable[[int], None] = lambda _index: None) -> None:
    """Send messages in their order; `pause` is called before each, with its index."""
    producer = Producer({**p.client, "linger.ms": 1, "enable.idempotence": True})
    for index, message in enumerate(messages):
        pause(index)
        topic = labels_of(p) if message.labels else p.features
        extra = {"timestamp": message.timestamp_ms} if message.timestamp_ms else {}
        producer.produce(topic, message.value, message.key, partition=message.partition, **extra)
        if not message.labels:
            p.sent[message.partition].append(message.value)
        producer.poll(0)
    assert producer.flush(60) == 0, "Kafka took the records"


class Orders(threading.Thread):
    """Samples the order in which each partition's topics are read, from the marks."""

    def __init__(self, p: Project) -> None:
        super().__init__(daemon=True)
        self._p = p
        self._stop_asked = threading.Event()
        self.steps: dict[int, set[read_order.ReadStep]] = {partition: set() for partition in p.sent}

    def run(self) -> None:
        while not self._stop_asked.is_set():
            self.look()
            self._stop_asked.wait(_SAMPLE_S)

    def look(self) -> None:
        for partition, (_, found) in self._p.committed().items():
            if found is not None and found.join is not None:
                read = read_order.decode(found.join.order)
                steps = read.since(read.base)
                assert steps is not None
                self.steps[partition].update(steps)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)
        assert not self.is_alive(), "the sampling ended"
        self.look()


@contextlib.contextmanager
def ordered(p: Project) -> Iterator[Orders]:
    """Sample the orders of a project while the block runs."""
    sampling = Orders(p)
    sampling.start()
    try:
        yield sampling
    finally:
        sampling.stop()


class Truth:
    """The expected result of a partition: predictions by offset, counts of labels, final models by key."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.answers: list[tuple[int, bool, dict[str, float]]] = []
        self.tally = LabelCounts()
        self.learned = 0
        self.models: dict[Any, Any] = collections.defaultdict(build)
        self._asked: dict[str, dict[str, float]] = {}
        self._known: dict[str, tuple[str, Any]] = {}

    def features(self, offset: int, event: Any, key: bytes | None) -> None:
        """Predict the record; if its label has come before, learn it."""
        model = self.models[key]
        proba = model.predict_proba_one(event["features"])
        self.answers.append((offset, max(proba, key=proba.get), {str(c).lower(): p for c, p in proba.items()}))
        kind, label = self._known.get(event["id"], ("", None))
        if kind == "early":
            self._learn(model, event["id"], event["features"], label)
        else:
            self._asked[event["id"]] = event["features"]

    def label(self, event: Any, key: bytes | None) -> None:
        """Learn a label, or count it as early, duplicate or another outcome."""
        id_, label = event["id"], event["label"]
        self.tally.records += 1
        if id_ in self._asked:
            self._learn(self.models[key], id_, self._asked.pop(id_), label)
        elif id_ in self._known:
            same = self._known[id_][1] == label
            self.tally.duplicate += same
            self.tally.corrected += not same
        else:
            self.tally.early += 1
            self._known[id_] = "early", label

    def _learn(self, model: Any, id_: str, features: Any, label: Any) -> None:
        model.learn_one(features, label)
        self.learned += 1
        self.tally.joined += 1
        self._known[id_] = "answered", label


def offline(truth: Truth, order: Iterator[tuple[int, Any]], *, by_key: bool) -> Truth:
    """Compute the expected result of a partition from its messages in the order of reading. No wait ends."""
    for offset, message in order:
        event, key = json.loads(message.value()), message.key() if by_key else None
        if "features" in event:
            truth.features(offset, event, key)
        else:
            truth.label(event, key)
    return truth


def _in_order(
    features: Sequence[Any], labels: Sequence[Any], steps: Sequence[read_order.ReadStep]
) -> Iterator[tuple[int, Any]]:
    """Yield the messages of both topics step by step; within a step by time, labels first."""
    logs, places = (list(features), list(labels)), [0, 0]
    for step in steps:
        taken: list[tuple[int, int, int, Any]] = []
        for log in (1, 0):
            while places[log] < len(logs[log]) and logs[log][places[log]].offset() < step[log]:
                message = logs[log][places[log]]
                taken.append((message.timestamp()[1], 1 - log, places[log], message))
                places[log] += 1
        yield from ((message.offset(), message) for _, _, _, message in sorted(taken, key=lambda one: one[:3]))
    assert places == [len(log) for log in logs], "the steps lead to the ends of both topics"


def hold(p: Project, orders: Orders, build: Callable[[], Any] = logistic, *, by_key: bool = False) -> LabelCounts:
    """Compare all outputs with the expected ones, bit for bit, and return the sum of the label counts."""
    predictions, features, labels = (p.read(topic) for topic in (p.predictions, p.features, labels_of(p)))
    committed = p.committed()
    total = LabelCounts()
    for partition in p.sent:
        steps = sorted(orders.steps[partition])
        in_order = _in_order(features[partition], labels[partition], steps)
        truth = offline(Truth(build), in_order, by_key=by_key)
        answers = [json.loads(message.value()) for message in predictions[partition]]
        found = [(a["source"]["offset"], a["prediction"], a["proba"]) for a in answers]
        offsets = [offset for offset, _, _ in found], [offset for offset, _, _ in truth.answers]
        assert offsets[0] == offsets[1], f"predictions of partition {partition}: {difference(*offsets)}"
        wrong = [a for a, b in zip(found, truth.answers, strict=True) if a != b]
        assert not wrong, f"partition {partition}: {len(wrong)} predictions differ, the first is {wrong[0]}"
        mark = committed[partition][1]
        assert mark is not None
        assert mark.join is not None
        assert mark.join.tally == truth.tally, partition
        assert mark.learned == truth.learned, partition
        snapshot = Store(p.stack.addresses.redis, name=p.name).load(partition, at_most=2**62).snapshot
        assert snapshot is not None
        assert snapshot.join is not None
        assert (snapshot.offset, snapshot.join.offset) == (committed[partition][0], mark.join.offset)
        if not by_key:
            assert anatomy(river_model(snapshot, build)) == anatomy(truth.models[None]), f"the model of {partition}"
        for name in LabelCounts.__struct_fields__:
            setattr(total, name, getattr(total, name) + getattr(mark.join.tally, name))
    assert open_transactions(p) == [], "no transaction is left open"
    return total
