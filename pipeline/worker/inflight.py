"""The batches between learned and confirmed: the one that is under way, and the one that comes next.

A second thread sends a batch and waits for Kafka (`courier`). Meanwhile the next may be learned, and no further one; it
is handed over when the first is confirmed.

Where offsets are no part of what is sent (at-least-once), a third commits them, those of all that was sent by then,
and nothing waits for it but what looks at the committed place: a broker gathers such commits for milliseconds.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

from headrace.consumers.source import SourceLost
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.delivery import Delivery, PendingBatch
from headrace.pipeline.worker.sender_thread import SenderThread
from headrace.producers.sink import BatchStale

# Longer than the calls of a transaction may take, each until the watchdog ends the process.
_SETTLE_S = 40.0
# That of the last batch in the running mean of how long one takes.
_WEIGHT = 0.2
# A transaction that begins as soon as the last one is confirmed is turned back until that one has its markers, for
# about as long. What is learned in less is learned meanwhile, and takes along all that has come until then.
_AHEAD_MIN_S = 0.005
# A commit takes about as long as it takes to send so many small batches, at the most.
_OWED_MAX = 8


class InFlight:
    """Hand batches over, one after the other.

    `confirmed` is told each that Kafka has confirmed, `stale` the reason why one can't be sent any more. What raises a
    503 trips its breaker in `trial`, and the batch is tried again when that allows.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        trial: Breakers,
        confirmed: Callable[[PendingBatch], None],
        stale: Callable[[str], None],
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._delivery = delivery
        self._trial = trial
        self._confirmed = confirmed
        self._stale = stale
        self._telemetry = telemetry
        self._clock = clock
        self._courier = SenderThread()
        self._registrar = SenderThread()
        self._sent: list[PendingBatch] = []
        self._registering: list[PendingBatch] = []
        self._owes = False
        self._first: PendingBatch | None = None
        self._next: PendingBatch | None = None
        self._held: PendingBatch | None = None
        self._started_at = 0.0
        self._usual_s = 0.0

    @property
    def is_at_rest(self) -> bool:
        """Whether all that was learned is confirmed."""
        return self.is_sent and not self._sent and not self._registering

    @property
    def is_sent(self) -> bool:
        """Whether all that was learned is sent."""
        return self._first is None and self._next is None

    @property
    def may_send(self) -> bool:
        """Whether more may be learned and sent though offsets are still to be committed: of a few batches at most."""
        owed = len(self._sent) + len(self._registering)
        return self.is_sent and not self._owes and owed < _OWED_MAX

    @property
    def is_out(self) -> bool:
        """Whether Kafka is being waited for."""
        return self._courier.is_out or self._registrar.is_out

    @property
    def has_room(self) -> bool:
        """Whether another batch may be learned."""
        return self._next is None and (self._first is None or self._courier.is_out)

    @property
    def is_stuck(self) -> bool:
        """Whether a batch waits for something other than its confirmation."""
        return not self.is_at_rest and not self.is_out

    @property
    def is_held(self) -> bool:
        """Whether what comes next is a flood."""
        return self._first is not None and self._first is self._held

    def partitions(self) -> set[int]:
        """Return the partitions of all batches that are not confirmed."""
        batches = (self._first, self._next, *self._sent, *self._registering)
        return {partition for batch in batches if batch is not None for partition in batch.outputs}

    def touches(self, partitions: Iterable[int]) -> bool:
        """Tell whether anything of these partitions is not confirmed."""
        return not self.partitions().isdisjoint(partitions)

    def add(self, batch: PendingBatch) -> None:
        """Take on a batch that is learned."""
        assert self._next is None
        self._next = batch

    def hold(self, batch: PendingBatch) -> None:
        """Keep a batch from being sent, for good."""
        self._held = batch

    def move(self, *, hears_only: bool = False) -> None:
        """Bring batches on without waiting for Kafka: hear of the one under way, then hand over the next."""
        self._register()
        if self._courier.is_out:
            if not self._courier.is_back:
                return
            self._hear()
            self._register()
        if self._first is None:
            self._first, self._next = self._next, None
        batch = self._first
        if batch is None or batch is self._held or hears_only:
            return
        self._started_at = self._clock()
        try:
            # Which of the two is away is known only by what it raises.
            if self._trial.allowed("sink") and self._trial.begin("kafka", partial(self._delivery.start, batch)):
                self._courier.send(partial(self._delivery.finish, batch))
        except BatchStale as error:
            self._stale(str(error))

    def next_s(self, took_s: float) -> float:
        """Return in how many seconds to learn the next batch, which takes so long, beside the one under way.

        So that it is done about when that is confirmed: what comes until then is in it, instead of in another.
        Infinity is not before.
        """
        if took_s < _AHEAD_MIN_S or not self.has_room:
            return math.inf
        return max(0.0, self._started_at + self._usual_s - self._clock() - took_s)

    def wait(self, seconds: float) -> None:
        """Wait so long at most for what is under way."""
        (self._courier if self._courier.is_out else self._registrar).wait(seconds)

    def settle(self) -> None:
        """Wait for what is under way, and hear how it fared. Raises SourceLost when it does not end."""
        if self._courier.is_out:
            self._await(self._courier)
            self._hear()
        self._register()
        while self._registrar.is_out:
            # After what was under way comes what was sent meanwhile.
            self._await(self._registrar)
            self._register()

    def clear(self) -> None:
        """Forget all batches; none is under way."""
        assert not self.is_out
        self._first = self._next = None
        self._sent, self._owes = [], False
        self._trial.works("sink")

    def _await(self, courier: SenderThread) -> None:
        if not courier.wait(_SETTLE_S):
            raise SourceLost("a transaction, or a commit, has not come to its end; the worker begins anew")

    def _register(self) -> None:
        """Hear of the offsets that were under way, then hand over those of what was sent since."""
        if self._registrar.is_back:
            batches, self._registering = self._registering, []
            self._owes = not self._trial.hear("kafka", self._registrar.hear)
            if self._owes:
                self._sent = batches + self._sent
            else:
                for batch in batches:
                    self._confirmed(batch)
        if self._sent and not self._registrar.is_out and self._trial.allowed("kafka"):
            self._registering, self._sent = self._sent, []
            self._registrar.send(partial(self._delivery.register, self._registering))

    def _hear(self) -> None:
        """Hear how the batch fared that was under way."""
        batch = self._first
        assert batch is not None
        try:
            if not self._trial.hear("kafka", self._courier.hear):
                return
        except BatchStale as error:
            self._stale(str(error))
            return
        self._trial.works("sink")
        self._first = None
        took_s = self._clock() - self._started_at
        self._usual_s += _WEIGHT * (took_s - self._usual_s)
        self._telemetry.batch_seconds.labels("deliver").observe(took_s)
        if self._delivery.registers:
            self._sent.append(batch)
        else:
            self._confirmed(batch)
