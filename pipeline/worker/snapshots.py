"""The loop's step that saves: snapshots that are due, or a round of mixing, and only of what Kafka has confirmed.

This is where X ≤ Y is kept: nothing is saved, and no save is begun, while a batch is not confirmed.
"""

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.worker.assignment import Assignment
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.inflight import InFlight
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.saver import Outcome, Saver
from headrace.state.shard import Shard
from headrace.state.store.server_note import ServerNote
from headrace.state.store.store_errors import StoreAway

log = structlog.get_logger("headrace")

# The longest that small snapshots may hold up the stream at once.
_SAVING_S = 0.01
# The share of a server's freshness between two saves. The rest is for the commit before the save, and for the server to
# notice the version and to load it.
_FRESH_SHARE = 0.4

SetPace = Callable[[float], None]
"""Sets the longest interval between two saves, in seconds; infinity leaves it as it is configured."""


class Snapshots:
    """Save the shards of an assignment as they become due; with a `mixer` in rounds, all at once."""

    def __init__(
        self,
        assignment: Assignment,
        *,
        saver: Saver,
        mixer: Mixer | None,
        inflight: InFlight,
        identity: TopicIdentity,
        breakers: Breakers,
        reach: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._assignment = assignment
        self._saver = saver
        self._mixer = mixer
        self._inflight = inflight
        self._identity = identity
        self._breakers = breakers
        self._reach = reach
        self._clock = clock

    @property
    def is_due(self) -> bool:
        """Whether something is to be saved now, and the store may be called."""
        shards = self._assignment.shards.values()
        if not self._breakers.allow("store"):
            return False
        if self._mixer is not None:
            return self._mixer.due() or any(shard.is_crowded for shard in shards)
        return any(self._saver.due(shard) for shard in shards)

    @property
    def is_out(self) -> bool:
        """Whether a save goes on beside the loop."""
        return self._saver.is_out

    @property
    def records_left(self) -> float:
        """How many records may be learned before the next round of mixing; infinity without a mixer."""
        return float("inf") if self._mixer is None else self._mixer.records_left

    def save_due(self) -> None:
        """Save what is due, once everything that was learned is confirmed."""
        self._take_result()
        if self._inflight.state != "empty" or not self.is_due or not self._is_confirmed():
            return
        if self._mixer is not None:
            self._breakers.attempt("store", partial(self._mix, self._mixer))
            return
        # Where many shards are due, the stream goes on between them.
        until = self._clock() + _SAVING_S
        shards = self._assignment.shards
        for shard in self._saver.first_due(shards.values()):
            if self._clock() > until:
                return
            if self._breakers.allow("store") and shard is shards.get(shard.partition):
                self._reach("saving")
                self._breakers.run(None, partial(self._save, shard, self._saver.begin))

    def wait(self, seconds: float) -> None:
        """Wait for at most this time, or until a save that goes on beside the loop has ended."""
        self._saver.wait(seconds)

    def save_all(self, *, wait_s: float) -> bool:
        """Save everything before the worker leaves; tell whether all that was learned is confirmed.

        A save that goes on beside the loop is waited for, for at most `wait_s` seconds.
        """
        self._saver.wait(wait_s)
        self._take_result()
        if self._inflight.state != "empty" or not self._is_confirmed():
            return False
        if self._mixer is not None:
            self._breakers.attempt("store", partial(self._mix, self._mixer))
            return True
        for shard in list(self._assignment.shards.values()):
            # A save that is still under way would come after a newer one.
            if shard.unsaved > 0 and not self._breakers.gate.breakers["store"].tripped and not self._saver.is_out:
                self._breakers.run(None, partial(self._save, shard, self._saver.finish))
        return True

    def _is_confirmed(self) -> bool:
        """Tell whether all that was learned, in silence too, is known to be of the topics that are there now."""
        identity = self._identity
        return identity.is_confirmed or self._breakers.prepare("kafka", partial(identity.confirm, identity.read_at))

    def _take_result(self) -> None:
        """Take the result of a save that went on beside the loop and has ended."""
        if (shard := self._saver.back) is not None:
            self._breakers.run(None, partial(self._save, shard, self._saver.end))

    def _mix(self, mixer: Mixer) -> None:
        try:
            mixed = mixer.mix()
        except StoreAway:
            # Whether the contribution is in the mix is known only in the store.
            self._assignment.restart()
            raise
        if not mixed:
            self._assignment.restart()
        self._reach("saved")

    def _save(self, shard: Shard, save: Callable[[Shard], Outcome]) -> None:
        outcome = save(shard)
        if outcome == "begun":
            self._reach("forked")
        elif outcome != "later":
            self._breakers.succeed("store")
            if outcome == "refused":
                self._assignment.retake(shard.partition)
            self._reach("saved")


class Freshness:
    """Read the note of the servers, and tell those that save how often they must."""

    def __init__(self, note: ServerNote, *, set_paces: Sequence[SetPace]) -> None:
        self._note = note
        self._set_paces = set_paces
        self._wanted_ms: int | None = None

    def look(self) -> None:
        """Read the note. Raises StoreAway."""
        wanted_ms = self._note.wanted_ms()
        if wanted_ms == self._wanted_ms:
            return
        self._wanted_ms = wanted_ms
        interval_s = float("inf") if wanted_ms is None else wanted_ms / 1_000 * _FRESH_SHARE
        for set_pace in self._set_paces:
            set_pace(interval_s)
