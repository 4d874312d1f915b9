"""The batches between learned and confirmed: the one that is being sent, and the one behind it.

A thread sends a batch and waits for Kafka. Meanwhile the loop may learn one more batch; it is handed over when the
first one is confirmed. What goes out, its offsets and marks are fixed when a batch is handed over.

Where the sink does not commit offsets (at-least-once), another thread commits those of all batches that were sent by
then. A broker gathers such commits for milliseconds, so only what looks at the committed place waits for them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

from headrace.consumers.source import SourceLost
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.process.background import BackgroundCall
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.delivery import Delivery, PendingBatch
from headrace.state.shard import Shard

# Longer than the calls of a transaction may take, each until the watchdog ends the process.
_SETTLE_S = 40.0
# Weight of the last batch in the running mean of the time that one takes to be confirmed.
_WEIGHT = 0.2
# A transaction that begins as soon as the last one is confirmed is turned back until that one has its markers, for
# about as long. A batch that is learned in less time is learned afterwards, with all records that have come until then.
_AHEAD_MIN_S = 0.005
# A commit of offsets takes at most about as long as sending this number of small batches.
_OWED_MAX = 8

InFlightState = Literal["empty", "sending", "waiting", "held"]
"""`empty`: all that was learned is confirmed. `sending`: a call to Kafka is under way. `waiting`: the next batch waits
for a breaker, or to be handed over. `held`: the next batch is part of a flood and is never sent."""


class InFlight:
    """Hand batches over, one after the other, and confirm the shards that they moved.

    `shards` are the worker's, by partition; `at_work` is called for each batch that Kafka has confirmed. An error that
    means "away" trips its breaker, and the batch is tried again when the breaker allows it.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        breakers: Breakers,
        shards: Mapping[int, Shard],
        reach: Callable[[str], None],
        at_work: Callable[[], None],
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._delivery = delivery
        self._breakers = breakers
        self._shards = shards
        self._reach = reach
        self._at_work = at_work
        self._telemetry = telemetry
        self._clock = clock
        self._send = BackgroundCall("send")
        self._commit = BackgroundCall("commit")
        self._first: PendingBatch | None = None
        self._next: PendingBatch | None = None
        self._held: PendingBatch | None = None
        # Without offsets in the transaction: batches whose offsets are to be committed, and those under way.
        self._sent: list[PendingBatch] = []
        self._committing: list[PendingBatch] = []
        self._commit_failed = False
        self._started_at = 0.0
        self._mean_s = 0.0

    @property
    def state(self) -> InFlightState:
        """What the batches wait for."""
        if self._send.running or self._commit.running:
            return "sending"
        if self._first is not None and self._first is self._held:
            return "held"
        return "waiting" if self._unconfirmed() else "empty"

    def partitions(self) -> set[int]:
        """Return the partitions of all batches that are not confirmed."""
        return {partition for batch in self._unconfirmed() for partition in batch.outputs}

    def touches(self, partitions: Iterable[int]) -> bool:
        """Tell whether a batch that is not confirmed has records of these partitions."""
        return not self.partitions().isdisjoint(partitions)

    def learn_in_s(self, learn_s: float) -> float:
        """Return in how many seconds to learn the next batch, if that takes `learn_s`; infinity: not until called anew.

        A batch that is learned while one is being sent should be ready about when that one is confirmed: records that
        come until then are in it, and not in another transaction.
        """
        if self._may_send():
            return 0.0
        has_room = self._next is None and (self._first is None or self._send.running)
        if learn_s < _AHEAD_MIN_S or not has_room:
            return math.inf
        return max(0.0, self._started_at + self._mean_s - self._clock() - learn_s)

    def add(self, batch: PendingBatch) -> None:
        """Take on a batch that is learned."""
        assert self._next is None
        self._next = batch

    def hold(self, batch: PendingBatch) -> None:
        """Never send this batch."""
        self._held = batch

    def move(self, *, hand_over: bool = True) -> None:
        """Take the results of calls that have ended, then hand the next batch over; never wait for Kafka.

        Raises BatchStale when a batch can't be sent any more; all batches are to be dropped then.
        """
        self._commit_offsets()
        if self._send.running:
            if not self._send.ended:
                return
            self._take_result()
            self._commit_offsets()
        if self._first is None:
            self._first, self._next = self._next, None
        batch = self._first
        if batch is None or batch is self._held or not hand_over:
            return
        self._started_at = self._clock()
        # The error tells which of the two is away.
        if self._breakers.allow("sink") and self._breakers.prepare("kafka", partial(self._delivery.start, batch)):
            self._send.start(partial(self._delivery.finish, batch))

    def wait(self, seconds: float) -> None:
        """Wait for a call that is under way, for at most this time."""
        (self._send if self._send.running else self._commit).wait(seconds)

    def settle(self) -> None:
        """Wait for the calls that are under way, and take their results.

        Raises SourceLost when a call does not end, and BatchStale as `move` does.
        """
        if self._send.running:
            self._await(self._send)
            self._take_result()
        self._commit_offsets()
        while self._commit.running:
            # Behind the offsets under way there may be those of batches that were sent since.
            self._await(self._commit)
            self._commit_offsets()

    def clear(self) -> None:
        """Forget all batches. No call may be under way."""
        assert self.state != "sending"
        self._first = self._next = None
        self._sent, self._commit_failed = [], False
        self._breakers.succeed("sink")

    def _unconfirmed(self) -> list[PendingBatch]:
        batches = (self._first, self._next, *self._sent, *self._committing)
        return [batch for batch in batches if batch is not None]

    def _may_send(self) -> bool:
        """Tell whether a batch that is learned now can be sent at once, though some offsets are not committed yet."""
        is_sent = self._first is None and self._next is None
        return is_sent and not self._commit_failed and len(self._sent) + len(self._committing) < _OWED_MAX

    def _await(self, call: BackgroundCall) -> None:
        if not call.wait(_SETTLE_S):
            raise SourceLost("a transaction, or a commit, has not come to its end; the worker begins anew")

    def _commit_offsets(self) -> None:
        """Take the result of a commit of offsets, then commit those of the batches that were sent since."""
        if self._commit.ended:
            batches, self._committing = self._committing, []
            self._commit_failed = not self._breakers.run("kafka", self._commit.result)
            if self._commit_failed:
                self._sent = batches + self._sent
            else:
                for batch in batches:
                    self._confirm(batch)
        if self._sent and not self._commit.running and self._breakers.allow("kafka"):
            self._committing, self._sent = self._sent, []
            self._commit.start(partial(self._delivery.commit_offsets, self._committing))

    def _take_result(self) -> None:
        """Take the result of the batch that was being sent. Raises BatchStale."""
        batch = self._first
        assert batch is not None
        if not self._breakers.run("kafka", self._send.result):
            return
        self._breakers.succeed("sink")
        self._first = None
        took_s = self._clock() - self._started_at
        self._mean_s += _WEIGHT * (took_s - self._mean_s)
        self._telemetry.batch_seconds.labels("deliver").observe(took_s)
        if self._delivery.commits_offsets:
            self._sent.append(batch)
        else:
            self._confirm(batch)

    def _confirm(self, batch: PendingBatch) -> None:
        self._reach("committed")
        self._at_work()
        for partition, outputs in batch.outputs.items():
            self._shards[partition].confirm(outputs.offset, outputs.labels_offset, outputs.mark)
            self._count(outputs)
        if batch.newest_ms:
            self._telemetry.latency_seconds.observe(max(0.0, batch.done_s - batch.newest_ms / 1_000))

    def _count(self, outputs: PartitionOutputs) -> None:
        self._telemetry.records.labels("predicted").inc(len(outputs.predictions))
        self._telemetry.records.labels("dead_lettered").inc(len(outputs.dead_letters))
        for name, records in outputs.records.items():
            self._telemetry.output_records.labels(name).inc(len(records))
        self._telemetry.records.labels("skipped").inc(outputs.skipped)
        self._telemetry.note_labels(outputs.labels, outputs.delays_ms)
        self._telemetry.learned.inc(outputs.learned)
        self._telemetry.replayed.inc(outputs.replayed)
        for code, count in outputs.codes.items():
            self._telemetry.dead_letters.labels(code).inc(count)
