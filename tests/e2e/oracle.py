"""The oracle of the fault tests: computes the result of a run without faults, and compares a disturbed run with it.

It does not use Headrace's engine: it learns the records of each partition with plain River, one after the other. During
the faults, `Watch` reads the outputs as a `read_committed` reader and samples X and Y. After them, `hold` compares all
outputs and models with the expected ones.
"""

import collections
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import redis
from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from river import base, linear_model, preprocessing

from headrace.consumers.topics import Topics
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.learner import RiverLearner
from headrace.state.snapshot import Snapshot
from headrace.state.store.client_errors import CLIENT_ERRORS
from headrace.state.store.store import Store

if TYPE_CHECKING:
    from harness import Project

# River's pipeline caches these attributes at its first call; they hold nothing that was learned.
_OF_PIPELINES = {"_inference_transformers", "_last_step_cached", "_last_step_params", "_plan"}
_SAMPLE_S = 0.1
_SETTLE_S = 30.0


def logistic() -> Any:
    """Build the default model of the harness's projects."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


class Truth(msgspec.Struct):
    """The expected result of a partition, and the final model.

    The good records are (offset, prediction, proba), with a score instead of proba for an anomaly detector; the bad
    ones are (offset, value).
    """

    good: list[tuple[int, Any, Any]]
    bad: list[tuple[int, bytes | None]]
    model: Any


def offline(sent: Sequence[bytes | None], model: Any) -> Truth:
    """Compute the expected result of a partition with plain River."""
    truth = Truth([], [], model)
    for offset, value in enumerate(sent):
        event = json.loads(value or b"null")
        if not all(isinstance(number, float) for number in event["features"].values()):
            truth.bad.append((offset, value))
            continue
        truth.good.append((offset, *_answer(model, event["features"])))
        model.learn_one(event["features"], *([event["label"]] if "label" in event else []))
    return truth


def _answer(model: Any, features: dict[str, Any]) -> tuple[Any, Any]:
    if isinstance(model, base.AnomalyDetector):
        return None, model.score_one(features)
    if isinstance(model, base.Clusterer):
        return model.predict_one(features), None
    proba = model.predict_proba_one(features)
    return max(proba, key=proba.get), {str(c).lower(): p for c, p in proba.items()}


def hold(p: "Project", build: Callable[[], Any] = logistic) -> None:
    """Compare a project with plain River: its outputs, their order, counts, models and transactions."""
    predictions, letters = p.read(p.predictions), p.read(p.dead_letters)
    committed = p.committed()
    for partition, sent in p.sent.items():
        truth = offline(sent, build())
        _hold_predictions(predictions[partition], truth, partition)
        refused = [int(dict(message.headers())["__dlq.errors.offset"]) for message in letters[partition]]
        wanted = [offset for offset, _ in truth.bad]
        assert refused == wanted, f"dead letters of partition {partition}: {difference(refused, wanted)}"
        assert [message.value() for message in letters[partition]] == [value for _, value in truth.bad]
        if sent:
            _hold_counts(p, partition, truth, committed[partition])
    assert open_transactions(p) == [], "no transaction is left open"


def hold_models(p: "Project", build: Callable[[], Any] = logistic) -> None:
    """Compare the models in the store after a clean stop with plain River's, parameter by parameter."""
    for partition, sent in p.sent.items():
        stored = anatomy(stored_model(p, partition, build))
        assert stored == anatomy(offline(sent, build()).model), f"model of {partition}"


def _hold_predictions(messages: Sequence[Any], truth: Truth, partition: int) -> None:
    answers = [json.loads(message.value()) for message in messages]
    offsets = [answer["source"]["offset"] for answer in answers]
    wanted = [offset for offset, _, _ in truth.good]
    assert offsets == wanted, f"predictions of partition {partition}: {difference(offsets, wanted)}"
    for answer, (offset, label, proba) in zip(answers, truth.good, strict=True):
        assert answer["prediction"] == label, (partition, offset)
        assert answer.get("proba", answer.get("score")) == proba, (partition, offset)


def _hold_counts(p: "Project", partition: int, truth: Truth, committed: tuple[int, Any]) -> None:
    offset, found = committed
    assert found is not None, "the committed offset has a mark"
    sent = len(p.sent[partition])
    told = (offset, found.records, found.predictions, found.dead_letters, found.learned)
    # Each good record of these tests is learned.
    assert told == (sent, sent, len(truth.good), len(truth.bad), len(truth.good)), (partition, told)
    assert found.snapshot <= offset


def stored_model(p: "Project", partition: int, build: Callable[[], Any]) -> Any:
    """Return the River model of the newest snapshot."""
    key = p.settings.get("HEADRACE__REDIS__SIGN_KEY", "").encode()
    snapshot = Store(p.stack.addresses.redis, name=p.name, sign_key=key).load(partition, at_most=2**62).snapshot
    assert snapshot is not None, f"the store has a model of partition {partition}"
    assert snapshot.offset == len(p.sent[partition]), "a clean stop saves what was committed"
    return river_model(snapshot, build)


def river_model(snapshot: Snapshot, build: Callable[[], Any]) -> Any:
    """Return the River model of a snapshot, in whatever form it ran."""
    saved = snapshot.answering
    if saved.codec.startswith("river"):
        learner = RiverLearner(build())
        learner.load(saved.state)
        return learner.model
    compiled = compile_model(build())
    assert compiled is not None
    compiled.load(saved.state)
    return compiled.to_river()


def anatomy(part: Any) -> Any:
    """Convert an object to plain values that compare bit for bit."""
    if part is None or isinstance(part, bool | int | float | str | bytes):
        return repr(part)
    if isinstance(part, Mapping) or hasattr(part, "to_dict"):
        return sorted((repr(key), anatomy(value)) for key, value in part.items())
    if isinstance(part, list | tuple | collections.deque):
        return [anatomy(value) for value in part]
    if isinstance(part, set | frozenset):
        return sorted(repr(value) for value in part)
    if isinstance(part, random.Random):
        return repr(part.getstate())
    slots = [name for cls in type(part).__mro__ for name in vars(cls).get("__slots__", ()) if hasattr(part, name)]
    if slots:
        return type(part).__qualname__, [(name, anatomy(getattr(part, name))) for name in slots]
    if hasattr(part, "__dict__"):
        held = {name: value for name, value in vars(part).items() if name not in _OF_PIPELINES}
        if held.get("seed", part) is None:
            # A distribution in a tree has a generator of its own, which is never drawn from.
            held = {name: value for name, value in held.items() if not isinstance(value, random.Random)}
        return type(part).__qualname__, anatomy(held)
    return repr(type(part))


def open_transactions(p: "Project") -> list[tuple[str, int]]:
    """Return the output partitions whose last stable offset is below their end."""
    admin = AdminClient(p.client)
    until = time.monotonic() + _SETTLE_S
    while True:
        found = [
            (place.topic, place.partition)
            for topic in (p.predictions, p.dead_letters)
            for place, (stable, end) in _ends(admin, topic, p.partitions).items()
            if stable != end
        ]
        # Kafka answers a commit before it writes the markers of the transaction.
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.05)


def _ends(admin: AdminClient, topic: str, partitions: int) -> dict[TopicPartition, tuple[int, int]]:
    asked = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(partitions)}
    both = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        answers = admin.list_offsets(asked, isolation_level=level, request_timeout=10)
        both.append({place: answer.result().offset for place, answer in answers.items()})
    return {place: (both[0][place], both[1][place]) for place in asked}


class Watch(threading.Thread):
    """Reads the outputs during the faults, samples X and Y, and keeps every violation.

    A reader that has seen an offset must never see it or an older one again.
    """

    def __init__(self, p: "Project") -> None:
        super().__init__(daemon=True)
        self._p = p
        self._ended = threading.Event()
        self.last: dict[tuple[str, int], int] = {}
        self.seen = 0
        self.samples = 0
        self.violations: list[str] = []

    def run(self) -> None:
        p = self._p
        settings = {**p.client, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        reader = Consumer({**settings, "group.id": f"{p.name}-watch", "isolation.level": "read_committed"})
        for topic in (p.predictions, p.dead_letters):
            Topics(p.client).create(topic, p.partitions)
        reader.assign([TopicPartition(t, n, 0) for t in (p.predictions, p.dead_letters) for n in p.sent])
        # Read stable offsets: Kafka confirms a commit before its markers make the new offsets visible.
        asker = Consumer({**settings, "group.id": p.name, "isolation.level": "read_committed"})
        store, sample_at = Store(p.stack.addresses.redis, name=p.name, timeout_s=2), 0.0
        while not self._ended.is_set():
            for message in reader.consume(1_000, 0.05):
                if message.error() is None:
                    self._see(message)
            if time.monotonic() >= sample_at:
                sample_at = time.monotonic() + _SAMPLE_S
                self._sample(store.client, asker)
        store.client.close()
        reader.close()
        asker.close()

    def _see(self, message: Any) -> None:
        place = (message.topic(), message.partition())
        if message.topic() == self._p.predictions:
            offset = json.loads(message.value())["source"]["offset"]
        else:
            offset = int(dict(message.headers())["__dlq.errors.offset"])
        if offset <= self.last.get(place, -1):
            self.violations.append(f"{place}: offset {offset} came after {self.last[place]}")
        self.last[place] = offset
        self.seen += 1

    def _sample(self, store: "redis.Redis", asker: Consumer) -> None:
        p = self._p
        try:
            # First X, then Y: both only grow. If X is ahead of the later Y, then I1 is violated.
            heads = [store.hget(f"{p.name}:{{{p.name}/{n}}}:head", "offset") for n in p.sent]
            places = asker.committed([TopicPartition(p.features, n) for n in p.sent], timeout=2)
        except (*CLIENT_ERRORS, KafkaException):
            return
        for place, head in zip(places, heads, strict=True):
            if place.error is None and head is not None and int(head) > max(place.offset, 0):
                self.violations.append(f"partition {place.partition}: X {int(head)} is past Y {place.offset}")
        self.samples += 1

    def stop(self) -> None:
        """Ask it to stop reading."""
        self._ended.set()

    def end(self) -> None:
        """Stop reading; fail with the violations."""
        self.stop()
        self.join(30)
        assert not self.is_alive(), "the watch ended"
        assert not self.violations, "\n".join(self.violations[:20])


@contextmanager
def promise(p: "Project", build: Callable[[], Any] = logistic) -> Iterator[Watch]:
    """Check after the block that nothing is lost, nothing is there twice, and all results are the same bit for bit.

    At the end of the block the pipeline must have handled all records and must have stopped cleanly.
    """
    watch = Watch(p)
    watch.start()
    try:
        yield watch
    except BaseException:
        watch.stop()
        raise
    hold(p, build)
    hold_models(p, build)
    watch.end()
    assert watch.samples, "X and Y were sampled"


def difference(found: list[int], wanted: list[int]) -> str:
    """Describe the difference of two lists of offsets."""
    counted = collections.Counter(found)
    twice = sorted(offset for offset, count in counted.items() if count > 1)[:10]
    missing = sorted(set(wanted) - set(found))[:10]
    foreign = sorted(set(found) - set(wanted))[:10]
    return f"{len(found)} of {len(wanted)}: twice {twice}, missing {missing}, foreign {foreign}, or out of order"
