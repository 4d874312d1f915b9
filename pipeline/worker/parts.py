"""The parts of one worker's loop, put together: each knows only of those that it needs."""

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from headrace.consumers.source import Source
from headrace.consumers.topics import Topic
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.process.watchdog import Watchdog
from headrace.pipeline.recovery.key_placement import PlacementWatch
from headrace.pipeline.recovery.retention import Retention
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.completion import Completion
from headrace.pipeline.worker.delivery import Delivery
from headrace.pipeline.worker.fitting import Fitting
from headrace.pipeline.worker.heartbeat import Heartbeat, Peers
from headrace.pipeline.worker.learning import Learning
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.saver import Saver
from headrace.pipeline.worker.takeover import OnLoss, Takeover
from headrace.pipeline.worker.worker_status import StatusReporter
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import Sink
from headrace.producers.webhook import Webhook
from headrace.state.labels.label_join import LabelRules
from headrace.state.shard import Shard
from headrace.state.store.store import Store


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a worker, and what it does when the store has lost its memory. Times are seconds.

    `rules` says how labels are waited for, where there is a labels topic; the `mix_…` are those of a shared model.
    """

    batch_records_max: int
    snapshot_interval_s: float
    snapshot_records_max: int
    on_loss: OnLoss
    rules: LabelRules | None = None
    mix_interval_s: float = 1.0
    mix_interval_records: int | None = None


class Given(msgspec.Struct, frozen=True):
    """What a worker's loop is given: its topic, what learns, where it is kept, where outputs go, and who watches.

    `outputs` names the output topics, and `ask_limits` reads their limits.
    """

    topic: Topic
    identity: TopicIdentity
    engine: Engine
    models: ModelFactory
    sink: Sink
    store: Store
    webhook: Webhook | None
    telemetry: Telemetry
    company: Peers
    watchdog: Watchdog
    reach: Callable[[str], None]
    outputs: Mapping[str, str]
    ask_limits: Callable[[], SizeLimits]


class Parts:
    """The parts, which share the runner's `shards` and `source`, and the breakers of `trial`."""

    def __init__(
        self,
        given: Given,
        *,
        source: Source,
        shards: Mapping[int, Shard],
        trial: Breakers,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        telemetry, store = given.telemetry, given.store
        self.finish = self._finish(source, given, shards, limits, clock)
        self.takeover = Takeover(
            source=source,
            store=store,
            topic=given.topic,
            identity=given.identity,
            models=given.models,
            rules=limits.rules,
            on_loss=limits.on_loss,
            telemetry=telemetry,
        )
        self.watch = PlacementWatch(given.topic, store=store, clock=clock)
        self.saver = self._saver(given, limits, clock)
        self.mixer = self._mixer(given, limits, shards, clock)
        self.progress = Learning(
            source=source,
            engine=given.engine,
            takeover=self.takeover,
            shards=shards,
            topic=given.topic,
            watch=self.watch,
            records_max=limits.batch_records_max,
            telemetry=telemetry,
            reach=given.reach,
            clock=clock,
        )
        self.heartbeat = self._heartbeat(given, source, self._pulse(given, shards, trial), trial, clock)
        self.retention = Retention(source, shards=shards, hurry=self.saver.hurry, telemetry=telemetry, clock=clock)
        self.delivery = Delivery(
            engine=given.engine,
            source=source,
            sink=given.sink,
            webhook=given.webhook,
            shards=shards,
            topic=given.topic,
            identity=given.identity,
            on_unknown=telemetry.unknown_outcomes.inc,
            fitting=Fitting(given.engine, sink=given.sink, shards=shards, topics=given.outputs, ask=given.ask_limits),
        )

    def _heartbeat(
        self, given: Given, source: Source, pulse: StatusReporter, trial: Breakers, clock: Callable[[], float]
    ) -> Heartbeat:
        return Heartbeat(given.company, source=source, pulse=pulse, trial=trial, watchdog=given.watchdog, clock=clock)

    def _finish(
        self,
        source: Source,
        given: Given,
        shards: Mapping[int, Shard],
        limits: Limits,
        clock: Callable[[], float],
    ) -> "partial[Completion]":
        return partial(
            Completion,
            source,
            store=given.store,
            topic=given.topic,
            on_loss=limits.on_loss,
            make=given.models.make,
            shards=shards,
            clock=clock,
        )

    def _saver(self, given: Given, limits: Limits, clock: Callable[[], float]) -> Saver:
        return Saver(
            given.store,
            topic=given.topic,
            interval_s=limits.snapshot_interval_s,
            records_max=limits.snapshot_records_max,
            distrust=self.takeover.distrust,
            telemetry=given.telemetry,
            clock=clock,
            reach=given.reach,
        )

    def _pulse(self, given: Given, shards: Mapping[int, Shard], trial: Breakers) -> StatusReporter:
        return StatusReporter(
            gate=trial.gate,
            shards=shards,
            sink=given.sink,
            relearned=lambda: self.progress.relearned,
            warnings=self.watch.warnings,
            telemetry=given.telemetry,
        )

    def _mixer(
        self, given: Given, limits: Limits, shards: Mapping[int, Shard], clock: Callable[[], float]
    ) -> Mixer | None:
        if given.models.replica is None:
            return None
        return Mixer(
            given.models.replica,
            saver=self.saver,
            shards=shards,
            interval_s=limits.mix_interval_s,
            interval_records=limits.mix_interval_records,
            telemetry=given.telemetry,
            clock=clock,
        )
