"""The loop of one worker: deliver, take over, save, pause or resume, poll and learn; again until it must stop.

One thread does it all, in this order, so there is nothing to lock:

1. Deliver: note which batch Kafka has confirmed, and hand the next one over (`inflight`, `delivery`).
2. Take over the partitions that the group brought (`assignment`, `takeover`).
3. Save snapshots that are due, at the committed offset, never past it (`snapshots`, `saver`).
4. Poll a batch, split it at the committed offset into records to relearn in silence and new records, and learn both
   (`learning`).

While Kafka confirms one batch, the next one is learned. A takeover, a snapshot, a mix and a rebalance look at where a
shard stands, so they come when everything is confirmed.

An error that means "away" (status 503) trips the breaker of its dependency; the call is made again when the breaker
allows it. Until then the loop goes on polling with its partitions paused, and so keeps its place in the group.
"""

import time
from collections.abc import Callable
from functools import partial

import structlog

from headrace.consumers.source import OffsetGone, Polled, Source
from headrace.pipeline.process.watchdog import Watchdog
from headrace.pipeline.recovery.retention import Retention
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.worker.assignment import Assignment
from headrace.pipeline.worker.breakers import Breakers, FloodGuard
from headrace.pipeline.worker.completion import Completion
from headrace.pipeline.worker.delivery import PendingBatch
from headrace.pipeline.worker.flood import FloodError, flood_of
from headrace.pipeline.worker.inflight import InFlight
from headrace.pipeline.worker.learning import Learning
from headrace.pipeline.worker.liveness import LEAVE_S, Heartbeat
from headrace.pipeline.worker.snapshots import Snapshots
from headrace.producers.sink import BatchStale, Sink
from headrace.state.store.store_errors import StoreAway

log = structlog.get_logger("headrace")

_POLL_S = 0.25
_PAUSED_POLL_S = 0.05
_WAITING_POLL_S = 0.005
_DRAIN_S = 3.0
# The longest that many takeovers may keep the loop from polling; the others come after the next poll.
_SPELL_S = 5.0


class Stop:
    """Ask the loop to end after the batch that it is learning; set by signals."""

    def __init__(self) -> None:
        self.asked = False


class Runner:
    """One worker's stream, from joining the group to leaving it.

    With a `completion` the runner ends by itself when that is reached. `flood` is None where floods are let through.
    `keep_reason` keeps the reason for which a flood stopped the stream, beyond the end of the process.
    """

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        assignment: Assignment,
        learning: Learning,
        inflight: InFlight,
        snapshots: Snapshots,
        heartbeat: Heartbeat,
        retention: Retention,
        identity: TopicIdentity,
        completion: Completion | None,
        breakers: Breakers,
        flood: FloodGuard | None,
        watchdog: Watchdog,
        stop: Stop,
        keep_reason: Callable[[str], None],
        reach: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._sink = sink
        self._assignment = assignment
        self._learning = learning
        self._inflight = inflight
        self._snapshots = snapshots
        self._heartbeat = heartbeat
        self._retention = retention
        self._identity = identity
        self._completion = completion
        self._breakers = breakers
        self._flood = flood
        self._watchdog = watchdog
        self._stop = stop
        self._keep_reason = keep_reason
        self._reach = reach
        self._clock = clock
        self._polled_at = clock()

    def run(self) -> None:
        """Work until a stop is asked for, or until the completion. Raises errors that a person must handle."""
        self._join()
        while not self._stop.asked and not self._is_complete():
            self._beat()
            self._deliver()
            self._take_over()
            self._snapshots.save_due()
            self._watch()
            self._pause_or_resume()
            self._read()
        self._leave()

    def _join(self) -> None:
        """Open the sink, which ends an earlier life's open transaction, and only then join the group."""
        self._beat()
        breakers = self._breakers
        while not self._stop.asked and not (breakers.allow("store") and breakers.attempt("kafka", self._open)):
            time.sleep(_PAUSED_POLL_S)
            self._beat()
        self._source.subscribe(self._assignment.rebalanced)

    def _open(self) -> None:
        self._sink.open()
        self._keep_reason("")
        if self._completion is not None:
            self._completion.examine()

    def _is_complete(self) -> bool:
        is_idle = self._inflight.state == "empty" and not self._assignment.waiting
        return self._completion is not None and is_idle and self._completion.is_reached()

    def _beat(self) -> None:
        self._heartbeat.beat(waiting=bool(self._assignment.waiting), stopping=self._stop.asked)

    def _deliver(self) -> None:
        """Bring the batches on, unless a topic is not the one any more that they were read from."""
        self._breakers.run(None, self._identity.look)
        self._move(hand_over=not self._is_late())

    def _move(self, *, hand_over: bool = True) -> None:
        try:
            self._inflight.move(hand_over=hand_over)
        except BatchStale as error:
            self._assignment.drop(str(error))

    def _take_over(self) -> None:
        """Take over partitions that wait, one by one, for as long as the group can do without a poll."""
        assignment = self._assignment
        if self._inflight.state == "sending":
            # Its open transaction would make the committed offsets wait for it.
            return
        until = self._clock() + _SPELL_S
        while (partition := assignment.next) is not None and not self._stop.asked and self._clock() < until:
            take_over = partial(assignment.take_over, partition)
            if not (self._breakers.allow("store") and self._breakers.attempt("kafka", take_over)):
                return
            self._breakers.succeed("store")

    def _watch(self) -> None:
        """Ask Kafka whether it is back, where no other call would find out, and whether the log still reaches back.

        Also read on where a schema was waited for.
        """
        if not self._assignment.is_paused:
            self._learning.go_on()
        asked = self._breakers.gate.breakers["kafka"].tripped or self._source.unreachable
        if asked and self._inflight.state == "empty" and not self._assignment.waiting:
            self._breakers.attempt("kafka", self._source.partitions)
        if (shard := self._retention.due()) is not None:
            self._breakers.attempt("kafka", partial(self._retention.look, shard))

    def _pause_or_resume(self) -> None:
        """Pause or resume all partitions when the gate has changed."""
        assignment, gate = self._assignment, self._breakers.gate
        # A partition that waits has nothing fetched ahead, and the group must not wait for this worker. Nor must it
        # give the worker up for its silence after a long call.
        is_urgent = assignment.waiting or self._is_late()
        is_held = not gate.open or self._inflight.state in {"waiting", "held"} or assignment.is_full
        if not assignment.is_paused and (gate.must_pause(self._clock()) or (is_urgent and is_held)):
            assignment.pause()
            log.warning("paused", reason=gate.reason or "what waits takes long, and the group is to be polled")
        elif not assignment.is_paused or not gate.open or assignment.is_full or self._inflight.state != "empty":
            return
        elif self._breakers.attempt("kafka", assignment.resume):
            log.info("resumed")

    def _read(self) -> None:
        """Poll and learn a batch, or wait for what must come first."""
        inflight, is_full, is_paused = self._inflight, self._assignment.is_full, self._assignment.is_paused
        if is_full and not is_paused:
            # Only a snapshot makes room for more; it is due, and is tried as the store's breaker allows.
            (self._snapshots.wait if self._snapshots.is_out else time.sleep)(_PAUSED_POLL_S)
        elif self._breakers.gate.open and not is_full and (inflight.state == "empty" or self._may_learn_ahead()):
            self._read_batch()
        elif inflight.state == "sending" and not is_paused:
            wait_s = inflight.learn_in_s(self._learning.took_s)
            inflight.wait(wait_s if 0.0 < wait_s < _POLL_S else _POLL_S)
        elif is_paused:
            self._reach("paused")
            if polled := self._poll(records_max=1, wait_s=_PAUSED_POLL_S):
                self._breakers.attempt("kafka", partial(self._learning.put_back, polled))
        else:
            # The outage is young: a pause would drop the records that the client has fetched ahead.
            time.sleep(_PAUSED_POLL_S)

    def _may_learn_ahead(self) -> bool:
        """Tell whether to learn the next batch now, while another one, or its offsets, are not confirmed."""
        is_time = self._inflight.learn_in_s(self._learning.took_s) <= 0.0
        return is_time and not self._assignment.waiting and not self._snapshots.is_due

    def _read_batch(self) -> None:
        waits = self._learning.waits
        records_max = int(min(self._learning.batch_records, self._snapshots.records_left))
        is_short = waits or self._inflight.state == "sending"
        polled = self._poll(records_max=records_max, wait_s=_WAITING_POLL_S if is_short else _POLL_S)
        # Records that were polled earlier may be waiting for this time to pass.
        if polled or waits:
            self._reach("polled")
            self._breakers.attempt("store", partial(self._learn, polled))
            self._move()

    def _poll(self, *, records_max: int, wait_s: float) -> Polled:
        try:
            polled = self._source.poll(records_max=records_max, wait_s=wait_s)
        except OffsetGone:
            # A topic that was made again explains it, and then retention has nothing to do with it.
            self._identity.confirm()
            raise
        if polled:
            self._identity.read()
        self._polled_at = self._clock()
        self._assignment.polled()
        return polled

    def _is_late(self) -> bool:
        """Tell whether the last poll was long ago, so that a poll must come before any other long call."""
        return self._clock() > self._polled_at + _SPELL_S

    def _learn(self, polled: Polled) -> None:
        try:
            pending = self._learning.learn(polled, read_at=self._identity.read_at)
        except StoreAway:
            # Some shards have learned records whose outputs will never be sent: they go back to their snapshots.
            self._assignment.restart()
            raise
        if pending is None:
            return
        self._inflight.add(pending)
        good = sum(outputs.good for outputs in pending.outputs.values())
        bad = sum(len(outputs.dead_letters) for outputs in pending.outputs.values())
        if self._flood is not None and self._flood.flooded(good=good, bad=bad) and bad:
            self._hold_flood(pending)

    def _hold_flood(self, pending: PendingBatch) -> None:
        flood = flood_of([found for outputs in pending.outputs.values() for found in outputs.dead_letters])
        self._inflight.hold(pending)
        self._breakers.attempt("store", partial(self._keep_reason, str(flood)))
        if self._completion is not None:
            self._assignment.settle()
            raise FloodError(flood)
        self._breakers.gate.hold_flood(str(flood))

    def _leave(self) -> None:
        """Finish the batch at hand, save, and leave the group, within a few seconds whatever is away."""
        self._reach("draining")
        until = self._clock() + _DRAIN_S
        while self._inflight.state in {"sending", "waiting"} and self._clock() < until:
            self._move()
            if self._inflight.state == "sending":
                self._inflight.wait(_PAUSED_POLL_S)
            elif self._inflight.state == "waiting":
                time.sleep(_PAUSED_POLL_S)
        if not self._snapshots.save_all(wait_s=max(0.0, until - self._clock())):
            log.warning("left a batch for the next start", partitions=sorted(self._inflight.partitions()))
        committed = {partition: shard.committed for partition, shard in self._assignment.shards.items()}
        log.info("stopped", partitions=committed)
        self._watchdog.end_within(LEAVE_S)
        self._sink.close()
        self._source.close()
