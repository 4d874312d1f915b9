"""`headrace run`: the parent. It watches its workers, starts a dead one again, and brings all to a clean end.

It imports what workers need, once, and forks them: one that died is there again in a moment, and what they share
lies in memory once. It makes no client and starts no thread, so it has nothing that could crash it or that a fork
would break. Each worker ends when its end of the pipe to the parent closes, which the kernel sees to even when the
parent is killed.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from headrace.pipeline import assembly, console
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import ConfigError
from headrace.pipeline.process.fork import EXIT_RAISED, ExitCause, Fork
from headrace.pipeline.process.watchdog import EXIT_ALARM, EXIT_HUNG
from headrace.pipeline.telemetry import configure_logs
from headrace.pipeline.worker import worker
from headrace.pipeline.worker.takeover import OnLoss
from headrace.pipeline.worker.worker import Job
from headrace.state.models import learner
from headrace.state.store.roster import WORKERS_MAX

log = structlog.get_logger("headrace")

_FINAL_EXITS = frozenset({0, 1, 2, worker.EXIT_AWAY, worker.EXIT_CONFIG})
_STOPPED_EXITS = frozenset({worker.EXIT_STOPPED, EXIT_ALARM})
_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 10.0
# A worker that lived for as long was at work, though there may have been nothing to do.
_STEADY_S = 3.0
# Of the same cause a worker may die so often in a row, each time before it has worked for so long.
_SAME_MAX = 3
_LONG_S = 60.0
_CRASHES = frozenset((signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV))
_STOP_S = 10.0
_TICK_S = 0.05
# Of new objects, and of runs of the younger generation before the older one's.
_COLLECT_AFTER = 20_000, 20, 20
_ORDINAL_VARIABLE = "HEADRACE_ORDINAL"


class _Seat:
    """One worker's place: the process in it, and when the next may be started."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.worker: Fork | None = None
        self.ended: int | None = None
        self._cause: ExitCause | None = None
        self._same = 0
        self._failures = 0
        self._started_at = 0.0
        self._start_at = 0.0

    def start(self, now: float) -> None:
        """Start the worker when its back-off allows."""
        if self.worker is not None or self.ended is not None or now < self._start_at:
            return
        self._started_at = now
        try:
            self.worker = Fork(partial(worker.main, self._job))
        except OSError as error:
            # Out of memory or of processes, for now; the other workers go on.
            log.warning("worker can't be started, trying again", reason=str(error), wait_s=self._back_off(now))

    def reap(self, now: float, *, stopping: bool) -> None:
        """Notice the worker's end; decide whether it was the last or is followed by another."""
        if self.worker is None or (code := self.worker.poll()) is None:
            return
        lived_s = now - self._started_at
        # What ended a worker that had been at work is not what keeps it from starting.
        if self.worker.at_work or lived_s > _STEADY_S:
            self._failures = 0
        self._note_cause(_cause_of(code, self.worker), is_early=not self.worker.at_work or lived_s < _LONG_S)
        is_final = code in _FINAL_EXITS and self.worker.returned
        self.worker = None
        # A worker that somebody else has stopped is missed, and started again.
        if is_final:
            self.ended = code
            return
        if stopping and code in _STOPPED_EXITS:
            self.ended = 0
            if code == EXIT_ALARM:
                log.warning("ended without waiting any longer for what is away; the next start goes on from there")
            return
        if stopping:
            self.ended = 0
            log.warning("worker died while it was to end; the next start goes on from there", exit=code)
            return
        if self._same >= _SAME_MAX and self._cause is not None:
            self.ended = _fail(self._cause)
            return
        self._job = msgspec.structs.replace(self._job, restarts=self._job.restarts + 1)
        wait_s = self._back_off(now)
        log.warning("worker died, starting another", exit=code, wait_s=wait_s, restarts=self._job.restarts)

    def _note_cause(self, cause: ExitCause | None, *, is_early: bool) -> None:
        """Count how often in a row the worker died of the same cause, before it had been at work for long."""
        if cause is None or not is_early:
            self._cause, self._same = None, 0
            return
        is_same = self._cause is not None and self._cause.kind == cause.kind
        self._cause, self._same = cause, self._same + 1 if is_same else 1

    def _back_off(self, now: float) -> float:
        self._failures += 1
        wait_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** (self._failures - 1))
        self._start_at = now + wait_s
        return wait_s


def _cause_of(code: int, child: Fork) -> ExitCause | None:
    """Return of what a worker died, where the next one may die of it, too; None where it was away or was killed."""
    if -code in _CRASHES and not child.at_work:
        name = signal.Signals(-code).name
        return ExitCause(name, f"the process crashed ({name})")
    if code >= 0 and not child.returned and code not in {EXIT_RAISED, EXIT_HUNG}:
        return ExitCause(
            f"exit {code}", f"model.py, or a library that it uses, ended the process with exit code {code}"
        )
    return child.cause if code == EXIT_RAISED else None


def _fail(cause: ExitCause) -> int:
    where = cause.kind.partition(" at ")[2]
    sys.stderr.write(
        f"headrace: a worker died {_SAME_MAX} times in a row of the same: {cause.words}{where and f' (at {where})'}\n"
        "  → nothing is lost: mend the cause, and start again; HEADRACE_DEBUG=1 shows all of where it came from\n"
    )
    return 1


def run(file: Path, *, workers: int, until_end: bool, on_loss: OnLoss, flags: dict[str, Any]) -> int:
    """Run workers until they are done or a signal comes; return the exit code. Raises ConfigError."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_, _frame: stopping.append(signal_))
    # Whoever started this may have ignored it: then the kernel would not tell how a worker ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    config = configuration.load(file, flags=flags)
    console.hide(config.conceal)
    configure_logs(level=config.log.level, style=config.log.format)
    numbers = ordinals(os.environ.get(_ORDINAL_VARIABLE), workers=workers)
    log.info("starting", workers=workers)
    learner.preload()
    assembly.warm(config)
    # What is here now stays: not to be looked at again by each worker's collector, which would copy it.
    gc.freeze()
    # What a batch holds is gone when it is confirmed: to look through it again and again finds nothing.
    gc.set_threshold(*_COLLECT_AFTER)
    job = Job(str(file.resolve()), flags, until_end=until_end, on_loss=on_loss)
    seats = [_Seat(msgspec.structs.replace(job, ordinal=number)) for number in numbers]
    try:
        while not stopping and any(seat.ended is None for seat in seats):
            now = time.monotonic()
            for seat in seats:
                seat.start(now)
                seat.reap(now, stopping=False)
            if any(seat.ended for seat in seats):
                # What one worker can't do without help, the others can't either.
                break
            time.sleep(_TICK_S)
    finally:
        _stop(seats)
    codes = [seat.ended for seat in seats if seat.ended]
    return codes[0] if codes else 0


def ordinals(given: str | None, *, workers: int) -> Sequence[int | None]:
    """Return the ordinals that follow from the machine's number, where one is given. Raises ConfigError."""
    if not given:
        return [None] * workers
    machines = WORKERS_MAX // workers
    if not given.isdecimal() or int(given) >= machines:
        raise ConfigError(
            f"{_ORDINAL_VARIABLE} is {given!r}, and no number below {machines}, as {workers} workers a machine need",
            hint="give each machine a number of its own, from 0 on, or leave it out",
        )
    return range(int(given) * workers, (int(given) + 1) * workers)


def _stop(seats: list[_Seat]) -> None:
    """Ask every worker to finish, and kill what has not after a while: nothing is lost by that."""
    running = [seat.worker for seat in seats if seat.worker is not None]
    for child in running:
        child.let_go()
    until = time.monotonic() + _STOP_S
    for child in running:
        if child.wait(until - time.monotonic()) is None:
            child.kill()
            log.warning("worker killed, it did not end in time", pid=child.pid)
    now = time.monotonic()
    for seat in seats:
        seat.reap(now, stopping=True)
