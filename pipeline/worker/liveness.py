"""About once a second the worker writes its note, reads those of the others, and looks for partitions without owner.

Cooperative members hand a partition over in two rebalances. A static member that dies between them returns to the
assignment that it should keep, without a rebalance. So the second rebalance never comes, and the partition that it gave
away has no owner until a member joins or leaves. One worker ends this by leaving the group; it is started again.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import structlog

from headrace.consumers.source import Source, SourceAway, SourceLost
from headrace.pipeline.config.config import Config
from headrace.pipeline.config.redaction import shown
from headrace.pipeline.process.ordinal import Notes, Ordinal
from headrace.pipeline.process.watchdog import Watchdog
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.breakers import Breakers, Gate
from headrace.pipeline.worker.schema_wait import SchemaWait
from headrace.pipeline.worker.snapshots import Freshness
from headrace.producers.sink import Sink
from headrace.state.labels.join_state import LabelCounts
from headrace.state.labels.label_join import Labels
from headrace.state.shard import Shard

log = structlog.get_logger("headrace")

LEAVE_S = 3.5
"""How long a worker may take to leave its clients, in seconds, before its process is ended."""

_BEAT_S = 1.0
# Notes that are further apart than this tell nothing of the time between them.
_LOOKS_S = 5.0
_OUTCOMES = [name for name in LabelCounts.__struct_fields__ if name != "records"]

WorkerState = Literal["connecting", "running", "paused", "relearning"]


class UnownedPartitions:
    """Watch the partitions of a topic. Pure: the workers' notes and the time are arguments.

    A partition may be unowned for `patience_s` seconds: after a worker died, its partitions are.
    """

    def __init__(self, *, partitions: int, patience_s: float) -> None:
        self._partitions = partitions
        self._patience_s = patience_s
        self._since: dict[int, float] = {}
        self._looked_at = 0.0

    def mends(self, notes: Notes | None, *, ordinal: int, now_s: float) -> list[int]:
        """Return the partitions that were unowned for too long if the worker `ordinal` is to leave the group for them.

        That is the member with the fewest partitions. None for `notes` says that nothing is known now.
        """
        known = notes is not None and now_s < self._looked_at + _LOOKS_S
        self._looked_at = now_s
        if not known:
            self._since.clear()
        if notes is None:
            return []
        held = {partition for note in notes.values() for partition in note.get("assigned", ())}
        unowned = set(range(self._partitions)) - held
        self._since = {partition: self._since.get(partition, now_s) for partition in unowned}
        late = [partition for partition, since in sorted(self._since.items()) if now_s - since > self._patience_s]
        if not late:
            return []
        self._since.clear()
        members = [number for number, note in notes.items() if note.get("member")]
        least = min(members, key=lambda number: (len(notes[number]["assigned"]), number), default=None)
        return late if least == ordinal else []


class StatusReporter:
    """Tell how a worker is. `shards` are the worker's, by partition; `relearned` returns how many records it relearned.

    `schemas` tells which partitions wait for one; None with JSON. `warnings` say what was found wrong with its stream.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        shards: Mapping[int, Shard],
        sink: Sink,
        relearned: Callable[[], int],
        schemas: SchemaWait | None,
        warnings: Sequence[str],
        telemetry: Telemetry,
    ) -> None:
        self._gate = gate
        self._schemas = schemas
        self._shards = shards
        self._relearned = relearned
        self._warnings = warnings
        self._telemetry = telemetry
        self._relearned_before = 0
        self._shown: set[int] = set()
        self._relearn_rate = 0.0
        # Read when the metrics are scraped: the loop, which would set them, may be the one that waits.
        telemetry.aborts.set_function(lambda: sink.aborts)
        telemetry.transaction_seconds.set_function(lambda: _age_s(sink.begun_at))

    def state(self, *, waiting: bool) -> WorkerState:
        """Name what the worker is doing; `waiting` says that it waits for the group, or partitions to be taken over."""
        waits = set() if self._schemas is None else self._schemas.partitions
        if not self._gate.open or (waits and waits.issuperset(self._shards)):
            return "paused"
        if any(shard.is_relearning for shard in self._shards.values()):
            return "relearning"
        return "connecting" if waiting and not self._shards else "running"

    def publish(self, state: WorkerState, *, passed_s: float) -> None:
        """Bring the metrics up to date; `passed_s` is the time since the last call, in seconds."""
        self._telemetry.set_state(state)
        if state == "paused":
            why = "flood" if self._gate.flood else "registry" if self._gate.open else "away"
            self._telemetry.paused_seconds.labels(why).inc(passed_s)
        relearned = self._relearned()
        self._relearn_rate = (relearned - self._relearned_before) / passed_s if passed_s else 0.0
        self._relearned_before = relearned
        self._telemetry.relearn_rate.set(self._relearn_rate)
        for gone in self._shown.difference(self._shards):
            self._telemetry.forget(gone)
        self._shown = set(self._shards)
        for shard in self._shards.values():
            partition = str(shard.partition)
            self._telemetry.relearn_remaining.labels(partition).set(max(0, shard.committed - shard.offset))
            self._telemetry.offset.labels(partition).set(shard.committed)
            self._telemetry.snapshot_offset.labels(partition).set(shard.snapshot_offset)
            self._telemetry.version.labels(partition).set(shard.version)
            self._telemetry.epoch.labels(partition).set(shard.epoch)
            quality = shard.quality_now()
            for measure, value in quality.summary().items():
                self._telemetry.quality.labels(partition, measure).set(value)
            self._telemetry.version_quality.remove_by_labels({"partition": partition})
            for version, score in quality.versions.items():
                self._telemetry.version_quality.labels(partition, str(version)).set(score.total / score.scored)
            if shard.labels is not None:
                self._publish_labels(partition, shard, shard.labels)

    def _publish_labels(self, partition: str, shard: Shard, labels: Labels) -> None:
        telemetry, tally = self._telemetry, labels.tally
        telemetry.labels_offset.labels(partition).set(shard.labels_committed)
        telemetry.labels_waiting.labels(partition, "asked").set(labels.asked)
        telemetry.labels_waiting.labels(partition, "early").set(labels.early)
        telemetry.labels_waiting_bytes.labels(partition).set(labels.bytes)
        for outcome in _OUTCOMES:
            telemetry.labels_outcome.labels(partition, outcome).set(getattr(tally, outcome))
        done = tally.joined + tally.expired + tally.evicted
        telemetry.labelled_share.labels(partition).set(tally.joined / done if done else 0.0)

    def note(self, state: WorkerState) -> dict[str, Any]:
        """Return what `status` shows of this worker."""
        qualities = {str(shard.partition): shard.quality_now() for shard in self._shards.values()}
        return {
            "state": state,
            "reason": self._gate.reason or ("" if self._schemas is None else self._schemas.reason),
            "cause": self._gate.cause or ("registry" if self._schemas is not None and self._schemas.reason else ""),
            "warnings": list(self._warnings),
            "partitions": sorted(self._shards),
            "relearning": {
                str(shard.partition): shard.committed - shard.offset
                for shard in self._shards.values()
                if shard.is_relearning
            },
            "relearn_rate": round(self._relearn_rate),
            "epochs": {str(shard.partition): shard.epoch for shard in self._shards.values()},
            "quality": {partition: quality.summary() for partition, quality in qualities.items()},
            "tallies": {partition: quality.tallies() for partition, quality in qualities.items()},
        }


class Readiness:
    """Log when the worker can take records; again when it gets its first partition, or has given its last one away.

    `joined` tells whether the worker is a member of the group, and `shards` are its shards, by partition.
    """

    def __init__(self, *, config: Config, ordinal: int, joined: Callable[[], bool], shards: Collection[int]) -> None:
        self._joined = joined
        self._shards = shards
        self._topic = config.topics.features
        self._places = places(config, ordinal)
        self._had_partitions: bool | None = None

    def look(self, *, waiting: bool) -> None:
        """Log what has changed; `waiting` says that partitions wait to be taken over."""
        if waiting or not self._joined():
            return
        has_partitions = bool(self._shards)
        if has_partitions == self._had_partitions:
            return
        self._had_partitions = has_partitions
        if has_partitions:
            log.info("waiting for records", topic=self._topic, partitions=sorted(self._shards), **self._places)
        else:
            hint = "the topic has fewer partitions than the group has workers"
            log.info("standing by without a partition", topic=self._topic, hint=hint, **self._places)


def places(config: Config, ordinal: int) -> Mapping[str, Any]:
    """Return the addresses of Kafka, of the store and of the worker's metrics, without secrets."""
    metrics = config.metrics
    return {
        "kafka": config.kafka.bootstrap_servers,
        "store": shown("redis.url", config.redis.url, secrets={}),
        "metrics": f"http://{metrics.host}:{metrics.port + ordinal}/metrics" if metrics.port else "off (metrics.port)",
    }


class Heartbeat:
    """Renew the worker's `ordinal` with a note about once a second, however often the loop calls `beat`."""

    def __init__(
        self,
        ordinal: Ordinal,
        *,
        unowned: UnownedPartitions,
        source: Source,
        status: StatusReporter,
        readiness: Readiness,
        freshness: Freshness,
        breakers: Breakers,
        watchdog: Watchdog,
        clock: Callable[[], float],
    ) -> None:
        self._ordinal = ordinal
        self._freshness = freshness
        self._readiness = readiness
        self._unowned = unowned
        self._source = source
        self._status = status
        self._breakers = breakers
        self._watchdog = watchdog
        self._clock = clock
        self._beat_at = 0.0
        self._state = ""
        self._since_ms = 0

    def beat(self, *, waiting: bool, stopping: bool) -> None:
        """Show how the worker is, if it is time; the call to the store shows whether the store is there, too.

        `waiting` says that partitions wait to be taken over. Raises SourceLost when the worker is to leave the group.
        """
        now = self._clock()
        if now < self._beat_at:
            return
        if not stopping:
            self._watchdog.alive()
        passed_s = now - self._beat_at + _BEAT_S if self._beat_at else 0.0
        self._beat_at = now + _BEAT_S
        self._readiness.look(waiting=waiting)
        state = self._status.state(waiting=waiting or not self._source.joined)
        self._status.publish(state, passed_s=passed_s)
        if state != self._state:
            self._state, self._since_ms = state, time.time_ns() // 1_000_000
        # A worker that is no member knows nothing of the others: they may be out for the same reason.
        member = self._source.joined and not self._breakers.gate.breakers["kafka"].tripped
        own = {**self._status.note(state), "since_ms": self._since_ms}
        note = {**own, "assigned": sorted(self._source.assigned), "member": member}
        # First on this machine: `status` must be able to say that the store is away.
        self._ordinal.announce(note)
        self._breakers.attempt("store", partial(self._renew, note))

    def _renew(self, note: dict[str, Any]) -> None:
        notes = self._ordinal.renew(note)
        self._freshness.look()
        known = notes if note["member"] else None
        unowned = self._unowned.mends(known, ordinal=self._ordinal.number, now_s=self._clock())
        if unowned:
            self._watchdog.end_within(LEAVE_S)
            with contextlib.suppress(SourceAway):
                self._source.leave()
            raise SourceLost(f"partitions {unowned} are nobody's: this worker leaves the group and joins it anew")


def _age_s(begun_at: float | None) -> float:
    return 0.0 if begun_at is None else time.monotonic() - begun_at
