"""Makes the parts of a worker's loop, each when another part first asks for it.

Each part names the other parts that it needs, so the order of their creation follows by itself.
"""

import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial

import msgspec

from headrace.consumers.formats.schema_cache import SchemaCache
from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Source
from headrace.consumers.topics import Topic
from headrace.pipeline import assembly, formats, model_factory
from headrace.pipeline.config.config import Config
from headrace.pipeline.connection import explained
from headrace.pipeline.control.command_inbox import CommandInbox
from headrace.pipeline.control.control_topics import ControlTopics
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.process.ordinal import Ordinal
from headrace.pipeline.process.watchdog import Watchdog
from headrace.pipeline.recovery.key_placement import PlacementWatch
from headrace.pipeline.recovery.model_limit import ModelLimit
from headrace.pipeline.recovery.retention import Retention
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.assignment import Assignment
from headrace.pipeline.worker.breakers import Breakers, FloodGuard
from headrace.pipeline.worker.completion import Completion
from headrace.pipeline.worker.delivery import Delivery
from headrace.pipeline.worker.inflight import InFlight
from headrace.pipeline.worker.learning import Learning
from headrace.pipeline.worker.liveness import Heartbeat, Readiness, StatusReporter, UnownedPartitions
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.output_limits import OutputLimits
from headrace.pipeline.worker.runner import Runner, Stop
from headrace.pipeline.worker.saver import Saver
from headrace.pipeline.worker.schema_wait import SchemaWait
from headrace.pipeline.worker.snapshots import Freshness, Snapshots
from headrace.pipeline.worker.takeover import OnLoss, Takeover
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import Sink
from headrace.state.shard import Shard
from headrace.state.store.schema_store import SchemaStore
from headrace.state.store.server_note import ServerNote
from headrace.state.store.store import Store


class Wiring(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The parts of one worker's loop, of which `runner` is the loop itself.

    `control` are the topics of the commands and the journal. `ask_ids` returns the ids of topics, and `ask_limits` the
    `limits` of the output topics as they are now. Partitions may be without an owner for `unowned_s` seconds. With
    `ends` the loop ends at these offsets. `at_work` is called when a batch is confirmed. `clock` gives seconds and
    never jumps.
    """

    config: Config
    topic: Topic
    control: ControlTopics
    ask_ids: Callable[[Collection[str]], Mapping[str, str]]
    ask_limits: Callable[[], SizeLimits]
    limits: SizeLimits
    source: Source
    sink: Sink
    models: model_factory.ModelFactory
    encode: Callable[[bytes], bytes] | None = None
    store: Store
    ordinal: Ordinal
    unowned_s: float
    on_loss: OnLoss
    ends: Mapping[int, LogOffsets] | None
    telemetry: Telemetry
    watchdog: Watchdog
    stop: Stop
    reach: Callable[[str], None]
    at_work: Callable[[], None]
    clock: Callable[[], float] = time.monotonic

    @cached_property
    def shards(self) -> dict[int, Shard]:
        """The shards of the worker, by partition; the assignment alone adds and removes them."""
        return {}

    @cached_property
    def breakers(self) -> Breakers:
        """The breakers around the calls of the loop."""
        explain = partial(explained, config=self.config)
        return Breakers(telemetry=self.telemetry, clock=self.clock, explain=explain)

    @cached_property
    def identity(self) -> TopicIdentity:
        """Whether the topics are still the same ones."""
        return TopicIdentity(self.topic, ask=self.ask_ids)

    @cached_property
    def engine(self) -> Engine:
        """Decodes, predicts and learns."""
        lifecycle = None
        if not self.control.fault:
            lifecycle = assembly.lifecycle_of(self.config, self.models, partitions=self.topic.partitions)
        return assembly.engine(
            self.config,
            batches=self.models.can.batches,
            limits=self.limits,
            schemas=self.cache,
            encode=self.encode,
            lifecycle=lifecycle,
        )

    @cached_property
    def cache(self) -> SchemaCache | None:
        """The schemas of records and labels; None if both are JSON."""
        return formats.cache_of(self.config)

    @cached_property
    def schemas(self) -> SchemaWait | None:
        """Looks up the schemas of records and labels; None if both are JSON."""
        if self.cache is None:
            return None
        return SchemaWait(
            self.cache,
            framed={False: self.config.records.format != "json", True: self.config.label_format != "json"},
            connect=partial(formats.connect, self.config, self.cache.kind),
            store=SchemaStore(self.store, name=self.config.name),
            source=self.source,
            breakers=self.breakers,
            clock=self.clock,
        )

    @cached_property
    def takeover(self) -> Takeover:
        """Makes the shard of a partition that came."""
        return Takeover(
            source=self.source,
            store=self.store,
            topic=self.topic,
            identity=self.identity,
            models=self.models,
            rules=assembly.rules(self.config, default=self.models.default),
            inbox=self.inbox,
            on_loss=self.on_loss,
            limit=self.model_limit,
            telemetry=self.telemetry,
        )

    @cached_property
    def inbox(self) -> CommandInbox:
        """The commands that wait, and the journals."""
        return CommandInbox(self.control, settings=self.config.librdkafka, group=self.config.name, clock=self.clock)

    @cached_property
    def model_limit(self) -> ModelLimit:
        """How large a saved model may be."""
        return ModelLimit(self.config.model.bytes_max)

    @cached_property
    def placement(self) -> PlacementWatch:
        """Whether keys lie where they should."""
        return PlacementWatch(self.topic, store=self.store, clock=self.clock)

    @cached_property
    def learning(self) -> Learning:
        """Learns batches."""
        return Learning(
            source=self.source,
            engine=self.engine,
            takeover=self.takeover,
            shards=self.shards,
            topic=self.topic,
            watch=self.placement,
            records_max=self.config.batch.records_max,
            telemetry=self.telemetry,
            schemas=self.schemas,
            inbox=self.inbox,
            reach=self.reach,
            clock=self.clock,
        )

    @cached_property
    def delivery(self) -> Delivery:
        """Brings one batch to the sinks."""
        output_limits = OutputLimits(
            self.engine,
            sink=self.sink,
            shards=self.shards,
            topics=self.config.topics.outputs,
            ask=self.ask_limits,
        )
        return Delivery(
            engine=self.engine,
            source=self.source,
            sink=self.sink,
            webhook=assembly.webhook(self.config),
            shards=self.shards,
            topic=self.topic,
            outputs=[*self.config.topics.outputs.values(), *([] if self.control.fault else [self.control.journal])],
            identity=self.identity,
            on_unknown=self.telemetry.unknown_outcomes.inc,
            output_limits=output_limits,
        )

    @cached_property
    def inflight(self) -> InFlight:
        """The batches between learned and confirmed."""
        return InFlight(
            self.delivery,
            breakers=self.breakers,
            shards=self.shards,
            reach=self.reach,
            at_work=self.at_work,
            telemetry=self.telemetry,
            clock=self.clock,
        )

    @cached_property
    def saver(self) -> Saver:
        """Saves one shard."""
        return Saver(
            self.store,
            topic=self.topic,
            interval_s=self.config.snapshot.interval,
            records_max=self.config.snapshot.records_max,
            distrust=self.takeover.distrust,
            limit=self.model_limit,
            telemetry=self.telemetry,
            clock=self.clock,
            reach=self.reach,
        )

    @cached_property
    def mixer(self) -> Mixer | None:
        """Mixes the workers' models, where they share one."""
        if self.models.replica is None:
            return None
        return Mixer(
            self.models.replica,
            saver=self.saver,
            shards=self.shards,
            interval_s=self.config.mix.seconds,
            interval_records=self.config.mix.records,
            telemetry=self.telemetry,
            clock=self.clock,
        )

    @cached_property
    def assignment(self) -> Assignment:
        """The partitions of the worker."""
        return Assignment(
            self.shards,
            source=self.source,
            sink=self.sink,
            takeover=self.takeover,
            learning=self.learning,
            inflight=self.inflight,
            saver=self.saver,
            mixer=self.mixer,
            telemetry=self.telemetry,
            reach=self.reach,
        )

    @cached_property
    def snapshots(self) -> Snapshots:
        """The step of the loop that saves."""
        return Snapshots(
            self.assignment,
            saver=self.saver,
            mixer=self.mixer,
            inflight=self.inflight,
            identity=self.identity,
            breakers=self.breakers,
            reach=self.reach,
            clock=self.clock,
        )

    @cached_property
    def heartbeat(self) -> Heartbeat:
        """Tells how the worker is."""
        status = StatusReporter(
            gate=self.breakers.gate,
            shards=self.shards,
            sink=self.sink,
            relearned=lambda: self.learning.relearned,
            schemas=self.schemas,
            warnings=self.placement.warnings,
            telemetry=self.telemetry,
        )
        number = self.ordinal.number
        readiness = Readiness(config=self.config, ordinal=number, joined=lambda: self.source.joined, shards=self.shards)
        return Heartbeat(
            self.ordinal,
            unowned=UnownedPartitions(partitions=self.topic.partitions, patience_s=self.unowned_s),
            source=self.source,
            status=status,
            readiness=readiness,
            freshness=self.freshness,
            breakers=self.breakers,
            watchdog=self.watchdog,
            clock=self.clock,
        )

    @cached_property
    def freshness(self) -> Freshness:
        """How often models are saved for a server."""
        mixers = [] if self.mixer is None else [self.mixer.set_pace]
        note = ServerNote(self.store, name=self.config.name)
        return Freshness(note, set_paces=[self.saver.set_pace, *mixers])

    @cached_property
    def retention(self) -> Retention:
        """Watches where the log begins."""
        return Retention(
            self.source,
            topic=self.topic,
            shards=self.shards,
            is_paused=lambda: self.assignment.is_paused,
            hurry=self.saver.hurry,
            telemetry=self.telemetry,
            clock=self.clock,
        )

    @cached_property
    def completion(self) -> Completion | None:
        """Tells when the ends are reached, where there are any."""
        if self.ends is None:
            return None
        return Completion(
            self.source,
            store=self.store,
            topic=self.topic,
            on_loss=self.on_loss,
            make=self.models.make,
            shards=self.shards,
            ends=self.ends,
            clock=self.clock,
        )

    @cached_property
    def runner(self) -> Runner:
        """The loop."""
        dlq = self.config.dlq
        return Runner(
            source=self.source,
            sink=self.sink,
            assignment=self.assignment,
            learning=self.learning,
            inflight=self.inflight,
            snapshots=self.snapshots,
            heartbeat=self.heartbeat,
            retention=self.retention,
            identity=self.identity,
            completion=self.completion,
            breakers=self.breakers,
            flood=FloodGuard(window=dlq.flood_window, ratio=dlq.flood_ratio) if dlq.flood_guard else None,
            watchdog=self.watchdog,
            stop=self.stop,
            keep_reason=self.ordinal.keep_reason,
            reach=self.reach,
            clock=self.clock,
        )
