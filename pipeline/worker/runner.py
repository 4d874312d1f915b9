"""The loop of one worker: poll, learn, deliver, save; pause when something is away; take over what comes.

One thread does it all, in this order, so there is nothing to lock:

1. What is confirmed is noted, and what is learned is handed over (`flight`, `delivery`).
2. What the group brought is taken over, what it took is dropped (`takeover`).
3. Snapshots that are due are saved, at the committed offset or below, never above.
4. A batch is polled, split at the committed offset into what is relearned in silence and what is new, and learned.

While Kafka confirms one batch the next is learned. What looks at a shard's place (a takeover, a snapshot, a mix, a
rebalance) comes when all is confirmed.

Whatever raises a 503 trips the breaker of its dependency and is tried again when that allows. Until then the
loop goes on polling with its partitions paused, and so keeps its place in the group.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Batch, OffsetGone, Source
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.delivery import PendingBatch
from headrace.pipeline.worker.gate import FloodGuard
from headrace.pipeline.worker.heartbeat import LEAVE_S
from headrace.pipeline.worker.inflight import InFlight
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.parts import Given, Limits, Parts
from headrace.pipeline.worker.saver import Outcome
from headrace.pipeline.worker.stop import FloodError, Stop
from headrace.state.shard import Shard
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")

_POLL_S = 0.25
_PAUSED_POLL_S = 0.05
_WAITING_POLL_S = 0.005
_DRAIN_S = 3.0
_SAVING_S = 0.01
# The longest that many partitions may keep the loop from polling: what is left then comes after the next poll.
_SPELL_S = 5.0


class Runner:
    """One worker's stream, from a joined group to a clean leave.

    Each batch that is confirmed is told to `at_work`. `ends` makes the runner stop at these offsets of all
    partitions, by itself.
    """

    def __init__(
        self,
        given: Given,
        *,
        make_source: Callable[[Callable[[Sequence[int], Sequence[int]], None]], Source],
        flood: FloodGuard | None,
        limits: Limits,
        stop: Stop,
        at_work: Callable[[], None],
        ends: Mapping[int, LogOffsets] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = given.identity
        self._sink = given.sink
        self._flood = flood
        self._telemetry = given.telemetry
        self._stop = stop
        self._watchdog = given.watchdog
        self._at_work = at_work
        self._reach = given.reach
        self._clock = clock
        self._trial = Breakers(telemetry=given.telemetry, clock=clock)
        self._gate = self._trial.gate
        self._shards: dict[int, Shard] = {}
        self._arrived: set[int] = set()
        self._paused = False
        self._stale = False
        self._polled_at = clock()
        self._source = make_source(self._rebalanced)
        parts = Parts(given, source=self._source, shards=self._shards, trial=self._trial, limits=limits, clock=clock)
        self._finish = None if ends is None else parts.finish(ends=ends)
        self._saver = parts.saver
        self._mixer = parts.mixer
        self._takeover = parts.takeover
        self._progress = parts.progress
        self._heartbeat = parts.heartbeat
        self._retention = parts.retention
        self._flight = InFlight(
            parts.delivery,
            trial=self._trial,
            confirmed=self._confirm,
            stale=self._drop,
            telemetry=given.telemetry,
            clock=clock,
        )

    @property
    def store_answers(self) -> bool:
        """Whether the store answered when it was last asked."""
        return not self._gate.breakers["store"].tripped

    def run(self) -> None:
        """Work until asked to stop, or until the ends are reached. Raises what needs somebody's help."""
        # An orphaned transaction of an earlier life is ended before the group is asked for partitions.
        self._beat()
        while not self._stop.asked and not (self._trial.allowed("store") and self._trial.attempt("kafka", self._open)):
            time.sleep(_PAUSED_POLL_S)
            self._beat()
        self._source.subscribe()
        while not self._stop.asked and not self._is_done():
            self._beat()
            self._trial.hear(None, self._identity.look)
            self._flight.move(hears_only=self._is_late())
            self._take_over()
            self._save_due()
            self._probe()
            self._watch_retention()
            self._follow_gate()
            self._read()
        self._drain()

    def _open(self) -> None:
        self._sink.open()
        if self._finish is not None:
            self._finish.examine()

    def _is_done(self) -> bool:
        idle = self._flight.is_at_rest and not self._arrived
        return self._finish is not None and idle and self._finish.is_reached()

    def _read(self) -> None:
        if self._is_full() and not self._paused:
            # Only a snapshot makes room for more; it is due, and is tried as the store's breaker allows.
            (self._saver.wait if self._saver.is_out else time.sleep)(_PAUSED_POLL_S)
        elif self._gate.open and not self._is_full() and (self._flight.is_at_rest or self._may_run_ahead()):
            self._read_batch()
        elif self._flight.is_out and not self._paused:
            next_s = self._flight.next_s(self._progress.took_s)
            self._flight.wait(next_s if 0.0 < next_s < _POLL_S else _POLL_S)
        elif self._paused:
            self._reach("paused")
            batch = self._poll(records_max=1, wait_s=_PAUSED_POLL_S)
            if batch is not None:
                self._trial.attempt("kafka", partial(self._progress.put_back, batch))
        else:
            # The outage is young: to pause would throw away what the client has fetched ahead.
            time.sleep(_PAUSED_POLL_S)

    def _is_full(self) -> bool:
        return any(shard.is_full for shard in self._shards.values())

    def _may_run_ahead(self) -> bool:
        """Tell whether the next batch is to be learned now, while one is under way, or the offsets of one."""
        due = self._flight.may_send or self._flight.next_s(self._progress.took_s) <= 0.0
        return due and not self._arrived and not self._is_saving_due()

    def _read_batch(self) -> None:
        waits = self._progress.waits
        most = self._progress.batch_records
        if self._mixer is not None:
            most = min(most, self._mixer.records_left)
        soon = waits or self._flight.is_out
        batch = self._poll(records_max=most, wait_s=_WAITING_POLL_S if soon else _POLL_S)
        if batch is None and waits:
            batch = self._source.empty_batch()
        if batch is not None:
            self._reach("polled")
            self._trial.attempt("store", partial(self._process, batch))
            self._flight.move()

    def _poll(self, *, records_max: int, wait_s: float) -> Batch | None:
        try:
            batch = self._source.poll(records_max=records_max, wait_s=wait_s)
        except OffsetGone:
            # Of a topic that was made again that is no wonder, and not for want of retention.
            self._identity.confirm()
            raise
        if batch is not None:
            self._identity.read()
        self._polled_at = self._clock()
        self._stale = False
        return batch

    def _is_late(self) -> bool:
        """Tell whether the loop has not polled for long, so that it must before anything else may take long."""
        return self._clock() > self._polled_at + _SPELL_S

    def _process(self, batch: Batch) -> None:
        try:
            pending = self._progress.learn(batch, read_at=self._identity.read_at)
        except StoreAway:
            # Some shards have learned what will never be sent: they begin again from where they were saved.
            self._begin_again()
            raise
        if pending is None:
            return
        self._flight.add(pending)
        good = sum(outputs.good for outputs in pending.outputs.values())
        bad = sum(len(outputs.dead_letters) for outputs in pending.outputs.values())
        if self._flood is not None and self._flood.flooded(good=good, bad=bad):
            self._hold_flood(pending)

    def _confirm(self, pending: PendingBatch) -> None:
        self._reach("committed")
        self._at_work()
        for partition, outputs in pending.outputs.items():
            shard = self._shards[partition]
            shard.confirm(outputs.offset, outputs.labels_offset, outputs.mark)
            self._telemetry.records.labels("predicted").inc(len(outputs.predictions))
            self._telemetry.records.labels("dead_lettered").inc(len(outputs.dead_letters))
            self._telemetry.note_labels(outputs.labels, outputs.delays_ms)
            self._telemetry.learned.inc(outputs.learned)
            for code, count in outputs.codes.items():
                self._telemetry.dead_letters.labels(code).inc(count)
        if pending.newest_ms:
            self._telemetry.latency_seconds.observe(max(0.0, pending.done_s - pending.newest_ms / 1_000))

    def _take_over(self) -> None:
        if self._flight.is_out:
            # Its open transaction would make the offsets wait for it.
            return
        until = self._clock() + _SPELL_S
        while self._arrived and not self._stale and not self._stop.asked and self._clock() < until:
            partition = min(self._arrived)
            if not (self._trial.allowed("store") and self._trial.attempt("kafka", partial(self._take_one, partition))):
                return
            self._trial.works("store")
            self._arrived.discard(partition)

    def _probe(self) -> None:
        """Ask Kafka whether it is back, when nothing else is waiting to find out."""
        asked = self._gate.breakers["kafka"].tripped or self._source.unreachable
        if asked and self._flight.is_at_rest and not self._arrived:
            self._trial.attempt("kafka", self._source.partitions)

    def _watch_retention(self) -> None:
        if (shard := self._retention.due()) is not None:
            self._trial.attempt("kafka", partial(self._retention.look, shard))

    def _take_one(self, partition: int) -> None:
        # A transaction of this worker's own that is still open would make the offsets wait for it.
        self._sink.open()
        try:
            shard, steps = self._takeover.take(partition)
        except StoreFenced as error:
            # Another has claimed it meanwhile. Whether it is still this worker's is known after the next poll.
            self._stale = True
            raise StoreAway(str(error)) from error
        self._source.read_from(partition, shard.offset, shard.labels_offset)
        if self._paused:
            self._source.pause([partition])
        self._shards[partition] = shard
        if self._mixer is not None:
            self._mixer.stand(partition, self._takeover.places.get(partition))
        self._telemetry.takeovers.inc()
        self._progress.begin(shard, steps)

    def _is_saving_due(self) -> bool:
        if not self._trial.allowed("store"):
            return False
        if self._mixer is not None:
            return self._mixer.due() or any(shard.is_crowded for shard in self._shards.values())
        return any(self._saver.due(shard) for shard in self._shards.values())

    def _save_due(self) -> None:
        self._hear_of_save()
        if not self._flight.is_at_rest or not self._is_saving_due() or not self._is_confirmed():
            return
        if self._mixer is not None:
            self._trial.attempt("store", partial(self._mix, self._mixer))
        else:
            # Where many are due the stream goes on between them.
            until = self._clock() + _SAVING_S
            for shard in self._saver.first_due(self._shards.values()):
                if self._clock() > until:
                    return
                if self._trial.allowed("store") and shard is self._shards.get(shard.partition):
                    self._reach("saving")
                    self._trial.hear(None, partial(self._save, shard, self._saver.begin))

    def _is_confirmed(self) -> bool:
        """Tell whether all that was learned is known to be of these topics: also what was relearned, in silence."""
        identity = self._identity
        return identity.is_confirmed or self._trial.begin("kafka", partial(identity.confirm, identity.read_at))

    def _hear_of_save(self) -> None:
        """Note how a save went that has ended beside the loop."""
        if (shard := self._saver.back) is not None:
            self._trial.hear(None, partial(self._save, shard, self._saver.end))

    def _mix(self, mixer: Mixer) -> None:
        try:
            mixed = mixer.mix()
        except StoreAway:
            # Whether it is in the mix is not known here, and only there.
            self._begin_again()
            raise
        if not mixed:
            self._begin_again()
        self._reach("saved")

    def _save(self, shard: Shard, save: Callable[[Shard], Outcome]) -> None:
        outcome = save(shard)
        if outcome == "begun":
            self._reach("forked")
        elif outcome != "later":
            self._trial.works("store")
            if outcome == "refused":
                self._take_again(shard.partition)
            self._reach("saved")

    def _take_again(self, partition: int) -> None:
        """Let a partition be taken over anew whose snapshot the store has refused."""
        self._flight.settle()
        if self._flight.touches([partition]):
            self._drop("the store has refused the snapshot")
        # Whose it is is known after the next poll only.
        self._stale = True
        self._forget([partition])
        self._arrived.update({partition} & self._source.assigned)

    def _rebalanced(self, came: Sequence[int], went: Sequence[int]) -> None:
        """Note what the group brought and took. Called from within a poll."""
        self._reach("assigning" if came else "revoking")
        # What is under way ends within its own bounds, and is not sent once more by who is next.
        self._flight.settle()
        if self._flight.touches(went):
            self._drop("the group has given them to another")
        self._forget(went)
        self._arrived.difference_update(went)
        self._arrived.update(came)
        self._forget(came)
        if came or went:
            log.info("partitions assigned" if came else "partitions revoked", partitions=sorted(came or went))

    def _begin_again(self) -> None:
        """Let every partition be taken over anew."""
        self._flight.settle()
        if not self._flight.is_at_rest:
            self._let_go()
        self._forget(list(self._shards))
        if self._mixer is not None:
            self._mixer.commons.forget()
        # Whose they are is known after the next poll only: to claim them before would fence their owner.
        self._stale = True
        self._source.pause(self._source.assigned)
        self._arrived.update(self._source.assigned)

    def _drop(self, reason: str) -> None:
        """Drop what can't be sent any more, and with it the models that have learned it."""
        self._telemetry.stale_batches.inc()
        log.warning("batch dropped, its partitions are taken over again", reason=reason)
        partitions = sorted(self._flight.partitions())
        self._let_go()
        self._forget(partitions)
        self._source.pause(self._source.assigned.intersection(partitions))
        self._arrived.update(self._source.assigned.intersection(partitions))

    def _let_go(self) -> None:
        self._flight.clear()
        # What the group has taken is known after the next poll only; to claim it before would fence its owner.
        self._stale = True
        self._sink.close()

    def _forget(self, partitions: Sequence[int]) -> None:
        gone = [self._shards[partition] for partition in partitions if partition in self._shards]
        if self._mixer is not None and any(shard.unsaved for shard in gone):
            # The model they share has learned of them what another worker will bring in.
            self._mixer.commons.forget()
            partitions = list(self._shards)
            if not self._flight.is_at_rest:
                self._let_go()
            self._arrived.update(self._source.assigned.intersection(partitions))
        for partition in partitions:
            self._shards.pop(partition, None)
            self._progress.end(partition)
            self._saver.forget(partition)

    def _follow_gate(self) -> None:
        """Pause or resume the partitions when the gate has changed."""
        # What waits to be taken over has nothing fetched ahead, and the group must not wait for this worker. Nor must
        # it be given up for having been silent, where a call has taken long.
        waits = self._arrived or self._is_late()
        held = not self._gate.open or self._flight.is_stuck or self._is_full()
        must = self._gate.must_pause(self._clock()) or (waits and held)
        if not self._paused and must:
            self._paused = True
            self._source.pause(self._source.assigned)
            log.warning("paused", reason=self._gate.reason or "what waits takes long, and the group is to be polled")
        elif not self._paused or not self._gate.open or self._is_full() or not self._flight.is_at_rest:
            return
        elif self._trial.attempt("kafka", self._resume):
            self._paused = False
            log.info("resumed")

    def _resume(self) -> None:
        # From where the shards stand, not from where the client believes that it was.
        for shard in self._shards.values():
            self._progress.read_again(shard)

    def _hold_flood(self, pending: PendingBatch) -> None:
        codes = sorted({code for outputs in pending.outputs.values() for code in outputs.codes})
        reason = (
            f"flood of bad records ({', '.join(codes)}): nearly every record is refused, so none of this batch "
            f"was dead-lettered; {FloodError.hint}, then start again"
        )
        self._flight.hold(pending)
        if self._finish is not None:
            self._flight.settle()
            raise FloodError(reason)
        self._gate.hold_flood(reason)

    def _beat(self) -> None:
        self._heartbeat.beat(arrived=bool(self._arrived), stopping=self._stop.asked)

    def _drain(self) -> None:
        """Finish the batch at hand, save, and leave, within a few seconds whatever is away."""
        self._reach("draining")
        until = self._clock() + _DRAIN_S
        while not self._flight.is_at_rest and not self._flight.is_held and self._clock() < until:
            self._flight.move()
            if self._flight.is_out:
                self._flight.wait(_PAUSED_POLL_S)
            elif self._flight.is_stuck:
                time.sleep(_PAUSED_POLL_S)
        self._saver.wait(max(0.0, until - self._clock()))
        self._hear_of_save()
        is_good = self._flight.is_at_rest and self._is_confirmed()
        if is_good and self._mixer is not None:
            self._trial.attempt("store", partial(self._mix, self._mixer))
        elif is_good:
            for shard in list(self._shards.values()):
                # One that is still under way would come after a newer one.
                if shard.unsaved > 0 and self._gate.breakers["store"].failures == 0 and not self._saver.is_out:
                    self._trial.hear(None, partial(self._save, shard, self._saver.finish))
        else:
            log.warning("left a batch for the next start", partitions=sorted(self._flight.partitions()))
        log.info("stopped", partitions={p: shard.committed for p, shard in self._shards.items()})
        self._watchdog.end_within(LEAVE_S)
        self._sink.close()
        self._source.close()
