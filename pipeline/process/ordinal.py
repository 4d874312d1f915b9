"""Which number a worker has: the lowest that is free on this machine and in the store, or the one it was given.

A number that was given, and that another worker holds, is waited for no longer than a worker that died holds it.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

import structlog

from headrace.pipeline.process.rundir import RunDir
from headrace.state.store.roster import LEASE_MS, Roster
from headrace.state.store.store_errors import StoreAway, StoreRefused

log = structlog.get_logger("headrace")

PATIENCE_S = 2 * LEASE_MS / 1_000
_WAIT_S = 0.2


class OrdinalTaken(Exception):
    """Raised when the number that this worker was given is that of another one, which is at work."""

    status = 409
    hint = "give each machine a HEADRACE_ORDINAL of its own, or stop the other worker"


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
    """Say who holds an ordinal: a worker of this machine, or of any that the store knows of."""
    if ordinal is None:
        return "other workers"
    notes: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(StoreAway, StoreRefused):
        notes = roster.notes()
    note = rundir.notes().get(ordinal) or notes.get(ordinal)
    return "another worker" if note is None else f"a worker on {note.get('host')}, process {note.get('pid')}"
