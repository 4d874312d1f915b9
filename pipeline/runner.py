"""The loop of one worker: poll, learn, deliver, save; pause when something is away; take over what comes.

One thread does it all, in this order, so there is nothing to lock:

1. What the group brought is taken over, what it took is dropped (`takeover`).
2. A batch that is not confirmed yet is tried again before anything else is read (`delivery`).
3. A batch is polled, split at the committed offset into what is relearned in silence and what is new, learned,
   delivered.
4. Snapshots that are due are saved, at the committed offset or below, never above.

Whatever raises a 503 trips the breaker of its dependency and is tried again when that allows. Until then the
loop goes on polling with its partitions paused, and so keeps its place in the group.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import structlog

from consumers.gate import Dependency, FloodGuard, Gate
from consumers.record import Record
from consumers.source import Batch, Source, SourceAway
from consumers.topics import Topic
from pipeline.delivery import Delivery, Pending
from pipeline.engine import Engine, Result
from pipeline.takeover import Takeover
from pipeline.telemetry import Telemetry
from producers.sink import BatchStale, OutcomeUnknown, Sink, SinkAway
from producers.webhook import Webhook, WebhookAway
from state import snapshot
from state.learner import Learner
from state.shard import Shard
from state.store import Store, StoreAway, StoreFenced

log = structlog.get_logger("headrace")

State = Literal["connecting", "running", "paused", "relearning"]

_POLL_S = 0.25
_PAUSED_POLL_S = 0.05
_BEAT_S = 1.0
_BATCH_S = 0.5
_FIRST_RECORDS = 500
_DRAIN_S = 3.0
# Saving may take this share of a worker's time: a big model is saved less often.
_SAVING_SHARE = 0.05


class FloodError(Exception):
    """Raised under --until-end when a flood of bad records holds the stream: waiting would never end."""

    status = 400
    hint = "mend what produces them, or set dlq.flood_guard = false to let them go to the dead letters"


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a worker. Times are seconds."""

    batch_records_max: int
    snapshot_interval_s: float
    snapshot_records_max: int


class Stop:
    """Asks the loop to end after the batch at hand; set by signals."""

    def __init__(self) -> None:
        self.asked = False


class Runner:
    """One worker's stream, from a joined group to a clean leave.

    About once a second the worker's note for `status` goes to `announce`, which must not fail, and to `hold`,
    which renews the worker's ordinal in the store and may raise StoreAway. `ends` makes the runner stop at
    these offsets of all partitions, by itself.
    """

    def __init__(
        self,
        *,
        topic: Topic,
        make_source: Callable[[Callable[[Sequence[int], Sequence[int]], None]], Source],
        make_engine: Callable[[], Engine],
        build: Callable[[], Learner],
        sink: Sink,
        store: Store,
        webhook: Webhook | None,
        flood: FloodGuard | None,
        limits: Limits,
        telemetry: Telemetry,
        announce: Callable[[dict[str, Any]], None],
        hold: Callable[[dict[str, Any]], None],
        stop: Stop,
        ends: Mapping[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._store = store
        self._sink = sink
        self._flood = flood
        self._limits = limits
        self._telemetry = telemetry
        self._announce = announce
        self._hold = hold
        self._stop = stop
        self._ends = ends
        self._clock = clock
        self._gate = Gate(rng=random.Random())  # noqa: S311 jitter is no secret
        self._shards: dict[int, Shard] = {}
        self._arrived: set[int] = set()
        self._pending: Pending | None = None
        self._paused = False
        self._batch_records = min(_FIRST_RECORDS, limits.batch_records_max)
        self._due: dict[int, float] = {}
        self._beat_at = 0.0
        self._asked_ends_at = 0.0
        self._source = make_source(self._rebalanced)
        self._engine = make_engine()
        self._takeover = Takeover(source=self._source, store=store, topic=topic, build=build)
        self._delivery = Delivery(
            engine=self._engine, source=self._source, sink=sink, webhook=webhook, shards=self._shards
        )

    @property
    def state(self) -> State:
        """What the worker is doing."""
        if not self._gate.open:
            return "paused"
        if any(shard.offset < shard.committed for shard in self._shards.values()):
            return "relearning"
        return "running" if self._shards or not self._arrived else "connecting"

    @property
    def store_answers(self) -> bool:
        """Whether the store answered when it was last asked."""
        return not self._gate.breakers["store"].tripped

    def run(self) -> None:
        """Work until asked to stop, or until the ends are reached. Raises what needs somebody's help."""
        # An orphaned transaction of an earlier life is ended before the group is asked for partitions.
        while not self._stop.asked and not self._try("kafka", self._sink.open):
            self._pulse()
            time.sleep(_PAUSED_POLL_S)
        self._source.subscribe()
        while not self._stop.asked and not self._at_ends():
            self._pulse()
            self._take_over()
            self._deliver()
            self._probe()
            self._follow_gate()
            self._read()
            self._save_due()
        self._drain()

    def _read(self) -> None:
        if self._gate.open and self._pending is None:
            batch = self._source.poll(records_max=self._batch_records, wait_s=_POLL_S)
            if batch is not None:
                self._process(batch)
                self._deliver()
        elif self._paused:
            batch = self._source.poll(records_max=1, wait_s=_PAUSED_POLL_S)
            if batch is not None:
                self._put_back(batch)
        else:
            # The outage is young: to pause would throw away what the client has fetched ahead.
            time.sleep(_PAUSED_POLL_S)

    def _process(self, batch: Batch) -> None:
        started = self._clock()
        now_ms = time.time_ns() // 1_000_000
        pending = Pending({}, {}, {}, batch.membership, 0)
        for partition, records in batch.records.items():
            shard = self._shards.get(partition)
            if shard is not None:
                self._advance(shard, records, pending, now_ms)
        for partition, end in batch.ends.items():
            self._pass_end(partition, end, pending)
        took = self._clock() - started
        self._telemetry.batch_seconds.labels("learn").observe(took)
        self._fit_batches(sum(map(len, batch.records.values())), took)
        if not pending.ends:
            return
        self._pending = pending
        good = sum(len(result.predictions) for result in pending.results.values())
        bad = sum(len(result.dead_letters) for result in pending.results.values())
        if self._flood is not None and self._flood.flooded(good=good, bad=bad):
            self._hold_flood(pending)

    def _fit_batches(self, records: int, took_s: float) -> None:
        """Let a batch take about _BATCH_S to learn: a slow model gets small ones, so that it stays at hand."""
        if records:
            fitting = int(records * _BATCH_S / max(took_s, 1e-6))
            self._batch_records = max(1, min(self._limits.batch_records_max, fitting, 2 * self._batch_records))

    def _advance(self, shard: Shard, records: Sequence[Record], pending: Pending, now_ms: int) -> None:
        """Learn a partition's records: those below the committed offset in silence, the others for output."""
        fresh = [record for record in records if record.offset >= shard.offset]
        if not fresh:
            return
        silent = [record for record in fresh if record.offset < shard.committed]
        if silent:
            self._engine.run(shard, silent, now_ms=now_ms)
            self._telemetry.relearned.inc(len(silent))
        new = fresh[len(silent) :]
        if new:
            if shard.offset < shard.committed or silent:
                self._arrive(shard)
            pending.starts[shard.partition] = shard.committed
            pending.results[shard.partition] = self._engine.run(shard, new, now_ms=now_ms)
            pending.ends[shard.partition] = shard.offset
            pending.newest_ms = max(pending.newest_ms, new[-1].timestamp_ms)
        elif shard.offset >= shard.committed:
            self._arrive(shard)

    def _arrive(self, shard: Shard) -> None:
        shard.offset = max(shard.offset, shard.committed)
        self._takeover.settle(shard)
        log.info("relearned", partition=shard.partition, offset=shard.offset, learned=shard.counts.learned)

    def _pass_end(self, partition: int, end: int, pending: Pending) -> None:
        """Pass what lies between the last record and the end of the log: control records, aborted ones."""
        shard = self._shards.get(partition)
        if shard is None or end <= shard.offset:
            return
        if shard.offset < shard.committed:
            shard.offset = min(end, shard.committed)
            if shard.offset == shard.committed:
                self._arrive(shard)
        if end > shard.offset:
            pending.starts.setdefault(partition, shard.committed)
            pending.results.setdefault(partition, Result([], [], []))
            shard.offset = end
            pending.ends[partition] = end

    def _deliver(self) -> None:
        if self._pending is None or self._gate.flood:
            return
        started = self._clock()
        pending = self._pending
        attempt = partial(self._delivery.attempt, pending, on_unknown=self._telemetry.unknown_outcomes.inc)
        try:
            # Which of the two is away is known only by what it raises.
            if not (self._may_try("sink") and self._try("kafka", attempt)):
                return
        except BatchStale as error:
            self._telemetry.stale_batches.inc()
            log.warning("batch dropped, its partitions are taken over again", reason=str(error))
            self._drop_pending()
            return
        self._gate.breakers["sink"].succeed()
        self._confirm(pending)
        self._telemetry.batch_seconds.labels("deliver").observe(self._clock() - started)

    def _confirm(self, pending: Pending) -> None:
        self._pending = None
        for partition, end in pending.ends.items():
            shard = self._shards[partition]
            shard.committed = end
            result = pending.results[partition]
            self._telemetry.records.labels("predicted").inc(len(result.predictions))
            self._telemetry.records.labels("dead_lettered").inc(len(result.dead_letters))
            for _, letter in result.dead_letters:
                code = next((value or b"" for name, value in letter.headers or () if name == "dlq.code"), b"")
                self._telemetry.dead_letters.labels(code.decode()).inc()
        if pending.newest_ms:
            self._telemetry.latency_seconds.observe(max(0.0, time.time() - pending.newest_ms / 1_000))

    def _take_over(self) -> None:
        while self._arrived and not self._stop.asked:
            partition = min(self._arrived)
            if not (self._may_try("store") and self._try("kafka", partial(self._take_one, partition))):
                return
            self._gate.breakers["store"].succeed()
            self._arrived.discard(partition)

    def _probe(self) -> None:
        """Ask Kafka whether it is back, when nothing else is waiting to find out."""
        if self._gate.breakers["kafka"].tripped and self._pending is None and not self._arrived:
            self._try("kafka", self._source.partitions)

    def _take_one(self, partition: int) -> None:
        # A transaction of this worker's own that is still open would make the offsets wait for it.
        self._sink.open()
        shard = self._takeover.take(partition)
        self._source.read_from(partition, shard.offset)
        if self._paused:
            self._source.pause([partition])
        self._shards[partition] = shard
        self._due[partition] = self._clock() + self._limits.snapshot_interval_s
        self._telemetry.takeovers.inc()
        if shard.offset == shard.committed:
            self._takeover.settle(shard)

    def _save_due(self) -> None:
        if self._pending is not None or not self._gate.breakers["store"].may_try(self._clock()):
            return
        for shard in list(self._shards.values()):
            behind = shard.offset - shard.snapshot_offset
            if behind and (self._clock() >= self._due[shard.partition] or behind >= self._limits.snapshot_records_max):
                self._try("store", partial(self._save, shard))

    def _save(self, shard: Shard) -> None:
        started = self._clock()
        taken = snapshot.take(
            shard, topic=self._topic.name, topic_id=self._topic.id, now_ms=time.time_ns() // 1_000_000
        )
        try:
            shard.version = self._store.save(taken)
        except StoreFenced as error:
            self._telemetry.snapshots.labels("fenced").inc()
            log.warning("snapshot refused, the partition is taken over again", reason=str(error))
            self._forget([shard.partition])
            self._arrived.update({shard.partition} & self._source.assigned)
            return
        except StoreAway:
            self._telemetry.snapshots.labels("failed").inc()
            raise
        shard.snapshot_offset = taken.offset
        took = self._clock() - started
        self._due[shard.partition] = self._clock() + max(self._limits.snapshot_interval_s, took / _SAVING_SHARE)
        self._telemetry.snapshots.labels("saved").inc()
        self._telemetry.snapshot_seconds.observe(took)
        self._telemetry.snapshot_bytes.labels(str(shard.partition)).set(len(taken.model))

    def _rebalanced(self, came: Sequence[int], went: Sequence[int]) -> None:
        """Note what the group brought and took. Called from within a poll, so it does nothing that waits."""
        if self._pending is not None and any(partition in self._pending.ends for partition in went):
            self._drop_pending()
        self._forget(went)
        self._arrived.difference_update(went)
        self._arrived.update(came)
        self._forget(came)
        if came or went:
            log.info("partitions assigned" if came else "partitions revoked", partitions=sorted(came or went))

    def _drop_pending(self) -> None:
        """Drop a batch that can't be sent any more, and with it the models that have learned it."""
        assert self._pending is not None
        partitions = list(self._pending.ends)
        self._pending = None
        self._gate.breakers["sink"].succeed()
        self._sink.close()
        self._forget(partitions)
        self._source.pause(self._source.assigned.intersection(partitions))
        self._arrived.update(self._source.assigned.intersection(partitions))

    def _forget(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._shards.pop(partition, None)
            self._due.pop(partition, None)

    def _put_back(self, batch: Batch) -> None:
        """Give back what came in spite of the pause: it is read again when the stream goes on."""
        for partition, records in batch.records.items():
            if partition in self._shards:
                self._source.read_from(partition, records[0].offset)
                self._source.pause([partition])

    def _follow_gate(self) -> None:
        """Pause or resume the partitions when the gate has changed."""
        if not self._paused and self._gate.must_pause(self._clock()):
            self._paused = True
            self._source.pause(self._source.assigned)
            log.warning("paused", reason=self._gate.reason)
        elif self._paused and self._gate.open and self._pending is None:
            self._paused = False
            self._source.resume(self._shards)
            log.info("resumed")

    def _hold_flood(self, pending: Pending) -> None:
        codes = sorted(
            {
                (value or b"").decode()
                for result in pending.results.values()
                for _, letter in result.dead_letters
                for name, value in letter.headers or ()
                if name == "dlq.code"
            }
        )
        reason = (
            f"flood of bad records ({', '.join(codes)}): nearly every record is refused, so none of this batch "
            f"was dead-lettered; {FloodError.hint}, then start again"
        )
        if self._ends is not None:
            raise FloodError(reason)
        self._gate.hold_flood(self._clock(), reason)

    def _may_try(self, dependency: Dependency) -> bool:
        return self._gate.breakers[dependency].may_try(self._clock())

    def _try(self, dependency: Dependency, call: Callable[[], Any]) -> bool:
        """Call something that may find a dependency away; tell whether it went well.

        `dependency` is the one whose breaker must allow the call and that is known to work afterwards; what
        is raised tells which one does not.
        """
        if not self._may_try(dependency):
            return False
        try:
            call()
        except StoreAway as error:
            self._fail("store", error)
        except (SourceAway, SinkAway, OutcomeUnknown) as error:
            self._fail("kafka", error)
        except WebhookAway as error:
            self._fail("sink", error, after_s=error.after_s)
        else:
            self._gate.breakers[dependency].succeed()
            return True
        return False

    def _fail(self, dependency: Dependency, error: Exception, *, after_s: float | None = None) -> None:
        breaker = self._gate.breakers[dependency]
        breaker.fail(self._clock(), str(error), after_s=after_s)
        self._telemetry.failures.labels(dependency).inc()
        say = log.warning if breaker.failures == 1 else log.debug
        say("away, trying again", dependency=dependency, reason=str(error), failures=breaker.failures)

    def _pulse(self) -> None:
        """Show about once a second how the worker is; that asks the store whether it is there, too."""
        now = self._clock()
        if now < self._beat_at:
            return
        if self._beat_at and self.state == "paused":
            self._telemetry.paused_seconds.labels("flood" if self._gate.flood else "away").inc(
                now - self._beat_at + _BEAT_S
            )
        self._beat_at = now + _BEAT_S
        self._publish()
        note = self._note()
        # First on this machine: `status` must be able to say that the store is what is away.
        self._announce(note)
        self._try("store", partial(self._hold, note))

    def _publish(self) -> None:
        self._telemetry.set_state(self.state)
        for shard in self._shards.values():
            partition = str(shard.partition)
            self._telemetry.offset.labels(partition).set(shard.committed)
            self._telemetry.snapshot_offset.labels(partition).set(shard.snapshot_offset)
            self._telemetry.version.labels(partition).set(shard.version)
            self._telemetry.epoch.labels(partition).set(shard.epoch)
            for measure, value in shard.quality_now().summary().items():
                self._telemetry.quality.labels(partition, measure).set(value)

    def _note(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "reason": self._gate.reason,
            "partitions": sorted(self._shards),
            "relearning": {
                str(shard.partition): shard.committed - shard.offset
                for shard in self._shards.values()
                if shard.offset < shard.committed
            },
            "quality": {str(shard.partition): shard.quality_now().summary() for shard in self._shards.values()},
        }

    def _at_ends(self) -> bool:
        """Tell whether every partition of the topic, of this worker and the others, is at its end."""
        if self._ends is None or self._pending is not None or self._clock() < self._asked_ends_at:
            return False
        if any(s.offset < max(s.committed, self._ends.get(s.partition, 0)) for s in self._shards.values()):
            return False
        self._asked_ends_at = self._clock() + _POLL_S
        try:
            committed = self._source.committed(self._ends)
        except SourceAway:
            return False
        return all(committed[partition].offset >= end for partition, end in self._ends.items())

    def _drain(self) -> None:
        """Finish the batch at hand, save, and leave, within a few seconds whatever is away."""
        until = self._clock() + _DRAIN_S
        while self._pending is not None and not self._gate.flood and self._clock() < until:
            self._deliver()
            if self._pending is not None:
                time.sleep(_PAUSED_POLL_S)
        if self._pending is None:
            for shard in list(self._shards.values()):
                if shard.offset > shard.snapshot_offset and self._gate.breakers["store"].failures == 0:
                    self._try("store", partial(self._save, shard))
        else:
            log.warning("left a batch for the next start", offsets=self._pending.ends)
        log.info("stopped", partitions={p: shard.committed for p, shard in self._shards.items()})
        self._sink.close()
        self._source.close()
