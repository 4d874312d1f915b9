"""The parts of one worker's loop, put together: each knows only of those that it needs."""

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from consumers.source import Source
from consumers.topics import Topic
from pipeline.delivery import Delivery
from pipeline.engine import Engine
from pipeline.finish import Finish
from pipeline.fitting import Fitting
from pipeline.heartbeat import Company, Heartbeat
from pipeline.identity import Identity
from pipeline.mixer import Mixer
from pipeline.placement import Watch
from pipeline.progress import Progress
from pipeline.pulse import Pulse
from pipeline.recipe import Minds
from pipeline.retention import Retention
from pipeline.saver import Saver
from pipeline.takeover import OnLoss, Takeover
from pipeline.telemetry import Telemetry
from pipeline.trial import Trial
from pipeline.watchdog import Watchdog
from producers.sink import Sink
from producers.size import SizeLimits
from producers.webhook import Webhook
from state.labels import Rules
from state.shard import Shard
from state.store import Store


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a worker, and what it does when the store has lost its memory. Times are seconds.

    `rules` says how labels are waited for, where there is a labels topic; the `mix_…` are those of a shared model.
    """

    batch_records_max: int
    snapshot_interval_s: float
    snapshot_records_max: int
    on_loss: OnLoss
    rules: Rules | None = None
    mix_interval_s: float = 1.0
    mix_interval_records: int | None = None


class Given(msgspec.Struct, frozen=True):
    """What a worker's loop is given: its topic, what learns, where it is kept, where outputs go, and who watches.

    `outputs` names the output topics, and `ask_limits` reads their limits.
    """

    topic: Topic
    identity: Identity
    engine: Engine
    minds: Minds
    sink: Sink
    store: Store
    webhook: Webhook | None
    telemetry: Telemetry
    company: Company
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
        trial: Trial,
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
            minds=given.minds,
            rules=limits.rules,
            on_loss=limits.on_loss,
            telemetry=telemetry,
        )
        self.watch = Watch(given.topic, store=store, clock=clock)
        self.saver = self._saver(given, limits, clock)
        self.mixer = self._mixer(given, limits, shards, clock)
        self.progress = Progress(
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
        self, given: Given, source: Source, pulse: Pulse, trial: Trial, clock: Callable[[], float]
    ) -> Heartbeat:
        return Heartbeat(given.company, source=source, pulse=pulse, trial=trial, watchdog=given.watchdog, clock=clock)

    def _finish(
        self,
        source: Source,
        given: Given,
        shards: Mapping[int, Shard],
        limits: Limits,
        clock: Callable[[], float],
    ) -> "partial[Finish]":
        return partial(
            Finish,
            source,
            store=given.store,
            topic=given.topic,
            on_loss=limits.on_loss,
            make=given.minds.make,
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

    def _pulse(self, given: Given, shards: Mapping[int, Shard], trial: Trial) -> Pulse:
        return Pulse(
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
        if given.minds.commons is None:
            return None
        return Mixer(
            given.minds.commons,
            saver=self.saver,
            shards=shards,
            interval_s=limits.mix_interval_s,
            interval_records=limits.mix_interval_records,
            telemetry=given.telemetry,
            clock=clock,
        )
