"""About once a second: what the worker shows of itself, and what it hears of the others."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from headrace.consumers.source import Source, SourceAway, SourceLost
from headrace.pipeline.process.watchdog import Watchdog
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.unowned_partitions import Notes, UnownedPartitions
from headrace.pipeline.worker.worker_status import StatusReporter

LEAVE_S = 3.5
"""How long a worker may take to leave its clients, in seconds, before its process is ended."""

_BEAT_S = 1.0


class Peers(msgspec.Struct, frozen=True):
    """What connects a worker with the other workers and with who asks for it.

    Its note for `status` goes to `announce`, which must not fail, and to `hold`, which renews the worker's `ordinal` in
    the store, returns the notes of all workers, and may raise StoreAway. `vacancy` finds partitions that nobody has.
    """

    ordinal: int
    announce: Callable[[dict[str, Any]], None]
    hold: Callable[[dict[str, Any]], Notes]
    vacancy: UnownedPartitions


class Heartbeat:
    """Beat for a worker that reads from `source`, as often as the loop calls it and no oftener than needed."""

    def __init__(
        self,
        company: Peers,
        *,
        source: Source,
        pulse: StatusReporter,
        trial: Breakers,
        watchdog: Watchdog,
        clock: Callable[[], float],
    ) -> None:
        self._company = company
        self._source = source
        self._pulse = pulse
        self._trial = trial
        self._watchdog = watchdog
        self._clock = clock
        self._beat_at = 0.0

    def beat(self, *, arrived: bool, stopping: bool) -> None:
        """Show how the worker is, if it is time; that asks the store whether it is there, too.

        `arrived` says that partitions wait to be taken over. Raises SourceLost when the worker is to leave the group.
        """
        now = self._clock()
        if now < self._beat_at:
            return
        if not stopping:
            self._watchdog.alive()
        passed_s = now - self._beat_at + _BEAT_S if self._beat_at else 0.0
        self._beat_at = now + _BEAT_S
        state = self._pulse.state(arrived=arrived)
        self._pulse.publish(state, passed_s=passed_s)
        # Who is no member itself has nothing to tell by: the others may be out for the same reason.
        member = self._source.joined and not self._trial.gate.breakers["kafka"].tripped
        note = {**self._pulse.note(state), "assigned": sorted(self._source.assigned), "member": member}
        # First on this machine: `status` must be able to say that the store is what is away.
        self._company.announce(note)
        self._trial.attempt("store", partial(self._renew, note))

    def _renew(self, note: dict[str, Any]) -> None:
        company = self._company
        notes = company.hold(note)
        vacant = company.vacancy.mends(notes if note["member"] else None, ordinal=company.ordinal, now_s=self._clock())
        if vacant:
            self._watchdog.end_within(LEAVE_S)
            with contextlib.suppress(SourceAway):
                self._source.leave()
            raise SourceLost(f"partitions {vacant} are nobody's: this worker leaves the group and joins it anew")
