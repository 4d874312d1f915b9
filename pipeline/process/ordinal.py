"""The number of a worker: the lowest that is free on this machine and in the store, or the one that it was given.

If another worker holds the given number, this one waits for as long as a worker that has died would hold it.
"""

import contextlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import structlog

from headrace.pipeline.exit_code import EXIT_HUNG
from headrace.pipeline.process.rundir import RunDir
from headrace.state.store.roster import LEASE_MS, WORKERS_MAX, Roster
from headrace.state.store.store_errors import StoreAway, StoreRefused

log = structlog.get_logger("headrace")

Notes = Mapping[int, Mapping[str, Any]]
"""The note of each worker that is at work, by ordinal. It says among others which partitions are `assigned` to the
worker, and whether the worker is a `member` of the group now."""

PATIENCE_S = 2 * LEASE_MS / 1_000
_WAIT_S = 0.2


class OrdinalTaken(Exception):
    """Raised when another worker, which is at work, holds the number that this one was given."""

    status = 409
    hint = "give each machine a HEADRACE_ORDINAL of its own, or stop the other worker"


class Ordinal:
    """Hold a number for a worker, by a lock on this machine and a lease in the store, with a note of its state.

    `number` is -1 before the first try to take one. `conceal` removes secrets from the note.
    """

    def __init__(self, rundir: RunDir, roster: Roster, *, conceal: Callable[[str], str], restarts: int) -> None:
        self.number = -1
        self._rundir = rundir
        self._roster = roster
        self._conceal = conceal
        self._place = rundir.place()
        self._token = uuid.uuid4().hex
        self._lock: IO[bytes] | None = None
        self._origin: dict[str, Any] = {
            "token": self._token,
            "place": self._place,
            "host": platform.node(),
            "pid": os.getpid(),
            "started_ms": time.time_ns() // 1_000_000,
            "restarts": restarts,
        }

    def take(
        self, *, given: int | None, wait_for: Callable[[Callable[[], bool]], bool | None], stopped: Callable[[], bool]
    ) -> None:
        """Take the given number, or the lowest that is free. Raises OrdinalTaken and FolderRefused.

        `wait_for` makes a call again until the store answers, or until this worker is `stopped`.
        """

        def hold(number: int) -> bool | None:
            # While it waits for the store, its notes are written under the number that it tries.
            self.number = number
            return wait_for(lambda: self._hold({"state": "connecting", "reason": ""}))

        taken = take(self._rundir, self._roster, given=given, among=range(WORKERS_MAX), hold=hold, stopped=stopped)
        if taken is not None:
            self.number, self._lock = taken

    def announce(self, note: dict[str, Any]) -> None:
        """Write a note for `status` on this machine; never fails."""
        self._rundir.write(self.number, self._complete(note))

    def renew(self, note: dict[str, Any]) -> Notes:
        """Renew the lease with a note, and return the notes of all workers. Raises StoreAway.

        Ends the process if another worker has taken the number.
        """
        if not self._hold(note):
            log.error("another worker holds this worker's ordinal; this one ends", ordinal=self.number)
            os._exit(EXIT_HUNG)
        return self._roster.notes()

    def keep_reason(self, reason: str) -> None:
        """Keep the reason for which this worker stops the stream, for `status` after its end; "" removes it.

        Raises StoreAway.
        """
        self._roster.keep_reason(self.number, self._conceal(reason))

    def leave(self) -> None:
        """Give the number back, if the store answers."""
        try:
            self._roster.leave(self.number, self._token)
        except (StoreAway, StoreRefused):
            log.debug("the store is away; the ordinal ends with its lease")

    def _hold(self, note: dict[str, Any]) -> bool:
        # A store that was restored to an earlier time has the note of the worker before this one, whose lock on this
        # machine is now held here.
        return self._roster.hold(self.number, self._complete(note), evict_place=self._place)

    def _complete(self, note: dict[str, Any]) -> dict[str, Any]:
        whole = {**self._origin, "ordinal": self.number, **note}
        return {**whole, "reason": self._conceal(str(whole.get("reason", "")))}


def take(
    rundir: RunDir,
    roster: Roster,
    *,
    given: int | None,
    among: Sequence[int],
    hold: Callable[[int], bool | None],
    stopped: Callable[[], bool],
    patience_s: float = PATIENCE_S,
) -> tuple[int, IO[bytes]] | None:
    """Return an ordinal with its lock, which lasts as long as the file stays open; None when asked to stop.

    `hold` takes an ordinal in the store. Raises OrdinalTaken, FolderRefused.
    """
    since: float | None = None
    while not stopped():
        for ordinal in among if given is None else (given,):
            lock = rundir.lock(ordinal)
            if lock is None:
                continue
            if hold(ordinal):
                return ordinal, lock
            lock.close()
        now = time.monotonic()
        if since is None:
            since = now
            taken = f"all of {len(among)}" if given is None else given
            log.warning("waiting for an ordinal", ordinal=taken, held_by=_holder(rundir, roster, given))
        if given is not None and now - since > patience_s:
            raise OrdinalTaken(f"the ordinal {given} is held by {_holder(rundir, roster, given)}")
        time.sleep(_WAIT_S)
    return None


def _holder(rundir: RunDir, roster: Roster, ordinal: int | None) -> str:
    """Describe the holder of an ordinal: a worker of this machine, or of another one that the store knows."""
    if ordinal is None:
        return "other workers"
    notes: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(StoreAway, StoreRefused):
        notes = roster.notes()
    note = rundir.notes().get(ordinal) or notes.get(ordinal)
    return "another worker" if note is None else f"a worker on {note.get('host')}, process {note.get('pid')}"
