"""A worker's whole loop on a Kafka in memory and a real store: its parts are those of `headrace run`."""

import json
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from typing import Any

from memory_kafka import LABELS_NAME, TOPIC_NAME, Kafka, MemorySink, MemorySource
from river import linear_model

from headrace.consumers.topics import Topic
from headrace.pipeline.config.config import Config
from headrace.pipeline.control.control_topics import ControlTopics
from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.delivery import Delivery
from headrace.pipeline.worker.runner import Stop
from headrace.pipeline.worker.takeover import OnLoss
from headrace.pipeline.worker.wiring import Wiring
from headrace.producers.record_size import SizeLimits
from headrace.producers.webhook import WebhookAway
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Capabilities
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard
from headrace.state.store.store import Store


def record(number: int) -> bytes:
    """Return the value of a labelled record."""
    features = {"a": number % 7 - 3.0, "b": number % 5 * 0.5}
    return json.dumps({"features": features, "label": number % 3 == 0}).encode()


def records(count: int, start: int = 0) -> list[bytes]:
    return [record(number) for number in range(start, start + count)]


class Dog:
    """A watchdog that ends no process."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def alive(self) -> None:
        pass

    def end_within(self, seconds: float) -> None:
        self.ends.append(seconds)


class MemoryWebhook:
    """An HTTP sink that refuses the lines of some records, and is away for as many calls as `away` says."""

    def __init__(self, refuses: Container[int] = ()) -> None:
        self.taken: list[int] = []
        self.away = 0
        self.meanwhile: Callable[[], Any] = lambda: None
        self._refuses = refuses

    def post(self, lines: Sequence[bytes]) -> str | None:
        self.meanwhile()
        if self.away:
            self.away -= 1
            raise WebhookAway("gone")
        offsets = [json.loads(line)["source"]["offset"] for line in lines]
        if any(offset in self._refuses for offset in offsets):
            return "refused"
        self.taken += offsets
        return None

    def send(self, lines: Sequence[bytes]) -> dict[int, str]:
        return {position: "refused" for position, line in enumerate(lines) if self.post([line]) is not None}


class Number:
    """A worker's ordinal that neither a lock nor a store holds."""

    number = 0

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self.reasons: list[str] = []

    def keep_reason(self, reason: str) -> None:
        self.reasons.append(reason)

    def announce(self, note: dict[str, Any]) -> None:
        self.notes.append(note)

    def renew(self, note: dict[str, Any]) -> dict[int, dict[str, Any]]:
        return {self.number: note}


class Parts(Wiring, frozen=True, kw_only=True, dict=True):
    """The parts of a worker, on an HTTP sink in memory."""

    webhook: MemoryWebhook | None

    @cached_property
    def delivery(self) -> Delivery:
        made = super().delivery
        made._webhook = self.webhook  # type: ignore[assignment]
        return made


class Loop:
    """One worker. `at` says what happens at a place of `pipeline/process/failpoint.py`, the n-th time."""

    def __init__(
        self,
        kafka: Kafka,
        store: Store,
        *,
        assigned: Sequence[int] = (0,),
        ends: Mapping[int, int] | None = None,
        batch_records: int = 10,
        snapshot_records: int = 1_000_000,
        on_loss: OnLoss = "relearn",
        flood_window: int = 0,
        commits: bool = True,
        labels_wait: str | None = None,
        webhook: MemoryWebhook | None = None,
        model: Callable[[], Any] = linear_model.LogisticRegression,
        models: ModelFactory | None = None,
    ) -> None:
        self.kafka, self.store = kafka, store
        self.passed: list[str] = []
        self.telemetry = Telemetry()
        self.stop = Stop()
        self.dog = Dog()
        self.ordinal = Number()
        self.batches = 0
        self._passed_s = 0.0
        self._at: dict[tuple[str, int], Callable[[], None]] = {}
        has_labels = labels_wait is not None
        truths = Topic(LABELS_NAME, len(kafka.logs), "", 1_000_000, compacted=False)
        self.source = MemorySource(kafka, idle=self.let_pass, assigned=assigned, labels=has_labels)
        self.parts = Parts(
            config=Config(
                name="fraud",
                topics={"features": TOPIC_NAME, "labels": LABELS_NAME if has_labels else None},  # type: ignore[arg-type]
                batch={"records_max": batch_records},  # type: ignore[arg-type]
                snapshot={"interval": "1000s", "records_max": snapshot_records},  # type: ignore[arg-type]
                labels={"wait": labels_wait or "1s"},  # type: ignore[arg-type]
                dlq={"flood_guard": bool(flood_window), "flood_window": flood_window or 10},  # type: ignore[arg-type]
            ),
            topic=Topic(
                TOPIC_NAME, len(kafka.logs), "", 1_000_000, compacted=False, labels=truths if has_labels else None
            ),
            control=ControlTopics("control.fraud", "journal.fraud", fault="Kafka is in memory"),
            ask_ids=lambda names: dict.fromkeys(names, ""),
            ask_limits=SizeLimits,
            limits=SizeLimits(),
            source=self.source,  # type: ignore[arg-type]
            sink=MemorySink(kafka, commits=commits),
            models=models
            or ModelFactory(lambda _partition: UndoableModel(RiverLearner(model())), Capabilities(), "binary", None),
            store=store,
            ordinal=self.ordinal,  # type: ignore[arg-type]
            unowned_s=1_000.0,
            on_loss=on_loss,
            ends=None if ends is None else {partition: (end, -1) for partition, end in ends.items()},
            telemetry=self.telemetry,
            watchdog=self.dog,  # type: ignore[arg-type]
            stop=self.stop,
            reach=self._reach,
            at_work=self._worked,
            clock=self.clock,
            webhook=webhook,
        )
        # All of them are made now, as `headrace run` does.
        self.runner = self.parts.runner
        self.shards = self.parts.shards
        self.engine = self.parts.engine
        self.takeover = self.parts.takeover
        self.learning = self.parts.learning
        self.inflight = self.parts.inflight
        self.delivery = self.parts.delivery

    def clock(self) -> float:
        return time.monotonic() + self._passed_s

    def let_pass(self, seconds: float) -> None:
        """Let time pass at once."""
        self._passed_s += seconds

    def at(self, place: str, action: Callable[[], None], *, nth: int = 1) -> None:
        self._at[place, nth] = action

    def _reach(self, place: str) -> None:
        self.passed.append(place)
        # The first invariant of the commit order, whatever a test is about.
        for partition in self.kafka.logs:
            if notes := self.store.notes(partition):
                assert notes[0]["offset"] <= self.kafka.offsets[partition].offset
        action = self._at.get((place, self.passed.count(place)))
        if action is not None:
            action()

    def _worked(self) -> None:
        self.batches += 1

    def run(self) -> None:
        self.runner.run()

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"headrace_{name}", labels) or 0.0

    def saved(self, partition: int = 0) -> int | None:
        """Return the offset of the newest snapshot."""
        notes = self.store.notes(partition)
        return notes[0]["offset"] if notes else None

    def assert_handled(self, count: int, partition: int = 0) -> None:
        """See that each record has one prediction, was learned once, and that all of it is committed."""
        assert self.kafka.predicted(partition) == list(range(count))
        assert self.kafka.offsets[partition].offset == count
        told = json.loads(self.kafka.offsets[partition].metadata)
        assert (told["r"], told["p"], told["n"]) == (count, count, count)

    def take(self, partition: int = 0) -> Shard:
        """Take a partition over and read it from where its shard stands, as the loop does."""
        shard, steps = self.takeover.take(partition)
        self.source.read_from(partition, *shard.place)
        self.shards[partition] = shard
        self.learning.begin(shard, steps)
        return shard

    def learn(self, count: int = 10) -> Any:
        """Poll and learn; return the batch that has something to send, None where all was learned before."""
        return self.learning.learn(self.source.poll(records_max=count, wait_s=0.0))

    def learns_slowly(self) -> None:
        """Let a batch take longer to learn than it takes to hand one over."""
        learn = self.learning.learn

        def slow(*args: Any, **options: Any) -> Any:
            pending = learn(*args, **options)
            self.learning.took_s = 0.5
            return pending

        self.learning.learn = slow  # type: ignore[method-assign]

    def answer_soon(self) -> None:
        """Let Kafka answer what it was sent, a moment from now."""
        threading.Timer(0.05, self.kafka.may_answer.set).start()

    def save(self, shard: Shard) -> str:
        """Save a shard now, small or big."""
        outcome: str = self.parts.saver.finish(shard)
        return outcome
