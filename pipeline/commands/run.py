"""`headrace run`: the parent process. It starts the workers, restarts one that died, and stops all of them cleanly.

The parent imports River once and then forks its workers. So a worker is replaced in milliseconds, and the imported
code is in memory once. The parent creates no client and starts no thread: nothing of it can break in a fork or crash.
A pipe connects it to each worker. A worker ends when that pipe closes; the kernel closes it even if the parent is
killed.
"""

import gc
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from headrace.pipeline import assembly, console
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.exit_code import (
    EXIT_ALARM,
    EXIT_AWAY,
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_HUNG,
    EXIT_RAISED,
    EXIT_STOPPED,
)
from headrace.pipeline.process.fork import ExitCause, Fork
from headrace.pipeline.process.watched_files import WatchedFiles
from headrace.pipeline.telemetry import configure_logs
from headrace.pipeline.worker import worker
from headrace.pipeline.worker.takeover import OnLoss
from headrace.pipeline.worker.worker import Job
from headrace.state.models import learner
from headrace.state.store.roster import WORKERS_MAX

log = structlog.get_logger("headrace")

_FINAL_EXITS = frozenset({0, EXIT_FAILED, 2, EXIT_AWAY, EXIT_CONFIG})
_STOPPED_EXITS = frozenset({EXIT_STOPPED, EXIT_ALARM})
_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 10.0
# A worker that ran this long started successfully, even if there was no record for it.
_STEADY_S = 3.0
# `run` gives up after this number of deaths in a row by the same cause, each within `_EARLY_S` of the start.
_SAME_CAUSE_MAX = 3
_EARLY_S = 60.0
_CRASHES = frozenset((signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV))
_STOP_S = 10.0
_TICK_S = 0.05
# Thresholds of the garbage collector: new objects for generation 0, then runs of the younger for the older ones.
_COLLECT_AFTER = 20_000, 20, 20
_ORDINAL_VARIABLE = "HEADRACE_ORDINAL"


class _Seat:
    """One position for a worker: the process that runs there, and the time at which the next one may start."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.worker: Fork | None = None
        self.ended: int | None = None
        self._cause: ExitCause | None = None
        self._same_cause = 0
        self._failures = 0
        self._started_at = 0.0
        self._start_at = 0.0
        self._renewing = False

    def start(self, now: float) -> None:
        """Start the worker if there is none and its back-off is over."""
        if self.worker is not None or self.ended is not None or now < self._start_at:
            return
        self._started_at = now
        try:
            self.worker = Fork(partial(worker.main, self._job))
        except OSError as error:
            # The machine has no memory or process left at the moment; the other workers go on.
            log.warning("worker can't be started, trying again", reason=str(error), wait_s=self._back_off(now))

    def reap(self, now: float, *, stopping: bool) -> None:
        """Collect a worker that has ended; decide whether another one follows it."""
        if self.worker is None or (code := self.worker.poll()) is None:
            return
        lived_s = now - self._started_at
        # A worker that had started successfully did not fail to start: the back-off begins again.
        if self.worker.at_work or lived_s > _STEADY_S:
            self._failures = 0
        self._note_cause(_cause_of(code, self.worker), is_early=not self.worker.at_work or lived_s < _EARLY_S)
        is_final = code in _FINAL_EXITS and self.worker.returned
        self.worker = None
        self._job = msgspec.structs.replace(self._job, replaces=True)
        was_renewing, self._renewing = self._renewing, False
        if was_renewing and code in _STOPPED_EXITS and not stopping:
            return
        # A worker that another process stopped by a signal is started again.
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
        if self._same_cause >= _SAME_CAUSE_MAX and self._cause is not None:
            self.ended = _give_up(self._cause)
            return
        self._job = msgspec.structs.replace(self._job, restarts=self._job.restarts + 1)
        wait_s = self._back_off(now)
        log.warning("worker died, starting another", exit=code, wait_s=wait_s, restarts=self._job.restarts)

    def renew(self) -> None:
        """Ask the worker to finish; another one, which reads all files anew, takes its place."""
        if self.worker is not None:
            self._renewing = True
            self.worker.let_go()

    def is_steady(self, now: float) -> bool:
        """Return whether the worker needs no time to start, so that another one may be replaced."""
        return self.ended is not None or (self.worker is not None and now - self._started_at > _STEADY_S)

    def _note_cause(self, cause: ExitCause | None, *, is_early: bool) -> None:
        """Count the early deaths in a row that have the same cause."""
        if cause is None or not is_early:
            self._cause, self._same_cause = None, 0
            return
        is_same = self._cause is not None and self._cause.kind == cause.kind
        self._cause, self._same_cause = cause, self._same_cause + 1 if is_same else 1

    def _back_off(self, now: float) -> float:
        self._failures += 1
        wait_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** (self._failures - 1))
        self._start_at = now + wait_s
        return wait_s


class _Renewal:
    """Replace the workers one by one when a file that the configuration names has changed, such as a certificate."""

    def __init__(self, file: Path, flags: dict[str, Any], config: Config) -> None:
        self._file = file
        self._flags = flags
        self._watched = WatchedFiles(config.watched_files, now_s=time.monotonic())
        self._left: list[_Seat] = []

    def go_on(self, seats: Sequence[_Seat], now: float) -> None:
        """Look at the files, and replace the next worker if all others run."""
        if changed := self._watched.changed(now):
            names = [str(path) for path in changed]
            try:
                config = configuration.load(self._file, flags=self._flags)
            except ConfigError as error:
                log.warning("changed files can't be used, the workers go on with the old ones", reason=str(error))
                return
            console.hide(config.conceal)
            log.info("files changed, the workers are replaced one by one", files=names)
            self._left = list(seats)
        if self._left and all(seat.is_steady(now) for seat in seats):
            self._left.pop(0).renew()


def _cause_of(code: int, child: Fork) -> ExitCause | None:
    """Return the cause of a worker's death if it may end the next worker as well.

    Return None for a worker that was killed, or whose Kafka or store was away.
    """
    if -code in _CRASHES and not child.at_work:
        name = signal.Signals(-code).name
        return ExitCause(name, f"the process crashed ({name})")
    if code >= 0 and not child.returned and code not in {EXIT_RAISED, EXIT_HUNG}:
        return ExitCause(
            f"exit {code}", f"model.py, or a library that it uses, ended the process with exit code {code}"
        )
    return child.cause if code == EXIT_RAISED else None


def _give_up(cause: ExitCause) -> int:
    where = cause.kind.partition(" at ")[2]
    console.complain(
        f"a worker died {_SAME_CAUSE_MAX} times in a row of the same cause: {cause.words}{where and f' (at {where})'}",
        "nothing is lost: fix the cause, and start again; HEADRACE_DEBUG=1 shows the whole traceback",
    )
    return EXIT_FAILED


def run(file: Path, *, workers: int, until_end: bool, on_loss: OnLoss, flags: dict[str, Any]) -> int:
    """Run the workers until they are done or a signal comes; return the exit code. Raises ConfigError."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_, _frame: stopping.append(signal_))
    # The process that started this one may ignore SIGCHLD: then the kernel would not report how a worker ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    config = configuration.load(file, flags=flags)
    console.hide(config.conceal)
    configure_logs(level=config.log.level, style=config.log.format)
    numbers = ordinals(os.environ.get(_ORDINAL_VARIABLE), workers=workers)
    log.info("starting", workers=workers)
    learner.preload()
    assembly.warm(config)
    # The workers share the memory pages of the parent. A collector that visits these objects would copy the pages.
    gc.freeze()
    # The objects of a batch live until it is confirmed: a collector that runs more often would find nothing to free.
    gc.set_threshold(*_COLLECT_AFTER)
    job = Job(str(file.resolve()), flags, until_end=until_end, on_loss=on_loss)
    seats = [_Seat(msgspec.structs.replace(job, ordinal=o, is_first=not i)) for i, o in enumerate(numbers)]
    renewal = _Renewal(file, flags, config)
    try:
        while not stopping and any(seat.ended is None for seat in seats):
            now = time.monotonic()
            renewal.go_on(seats, now)
            for seat in seats:
                seat.start(now)
                seat.reap(now, stopping=False)
            if any(seat.ended for seat in seats):
                # The cause of a final exit holds for all workers: they share the configuration and the code.
                break
            time.sleep(_TICK_S)
    finally:
        _stop(seats)
    codes = [seat.ended for seat in seats if seat.ended]
    return codes[0] if codes else 0


def ordinals(given: str | None, *, workers: int) -> Sequence[int | None]:
    """Return the ordinals of this machine's workers, by the number of the machine if it is set. Raises ConfigError."""
    if not given:
        return [None] * workers
    machines = WORKERS_MAX // workers
    if not given.isdecimal() or int(given) >= machines:
        raise ConfigError(
            f"{_ORDINAL_VARIABLE} is {given!r}; with {workers} workers a machine it must be a number below {machines}",
            hint="give each machine a number of its own, from 0 on, or leave it out",
        )
    return range(int(given) * workers, (int(given) + 1) * workers)


def _stop(seats: list[_Seat]) -> None:
    """Ask every worker to finish; kill one that takes longer than `_STOP_S`, which loses nothing."""
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
