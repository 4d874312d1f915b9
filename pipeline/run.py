"""`headrace run`: the parent. It watches its workers, starts a dead one again, and brings all to a clean end.

It does no work of its own, so it has nothing that could crash it; each worker ends when its end of the pipe to
the parent closes, which the kernel sees to even when the parent is killed.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pipeline import config as configuration
from pipeline.telemetry import configure_logs

log = structlog.get_logger("headrace")

# The names of `worker`, which the parent does not import: river would come with it.
_JOB_VARIABLE = "HEADRACE_JOB"
_FINAL_EXITS = frozenset({0, 1, 2, 69, 78})
# A worker that somebody else has stopped is missed, and started again.
_EXIT_STOPPED = 76
_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 10.0
# A worker that lived for as long was at work: what ended it is not what keeps it from starting.
_STEADY_S = 3.0
_STOP_S = 10.0
_TICK_S = 0.05


class _Seat:
    """One worker's place: the process in it, and when the next may be started."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self.process: subprocess.Popen[bytes] | None = None
        self.ended: int | None = None
        self._failures = 0
        self._restarts = 0
        self._started_at = 0.0
        self._start_at = 0.0

    def start(self, now: float) -> None:
        """Start the worker when its back-off allows."""
        if self.process is None and self.ended is None and now >= self._start_at:
            self._started_at = now
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.worker"],
                stdin=subprocess.PIPE,
                # River goes through sets of names here and there, and sums as it goes: with a random hash seed
                # the last bits of a prediction would differ from one process to the next.
                env={**os.environ, "PYTHONHASHSEED": "0", _JOB_VARIABLE: self._described()},
            )

    def _described(self) -> str:
        return msgspec.json.encode({**self._job, "restarts": self._restarts}).decode()

    def reap(self, now: float, *, stopping: bool) -> None:
        """Notice the worker's end; decide whether it was the last or is followed by another."""
        if self.process is None or (code := self.process.poll()) is None:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None
        if code in _FINAL_EXITS or (stopping and code == _EXIT_STOPPED):
            self.ended = 0 if code == _EXIT_STOPPED else code
            return
        self._failures = 1 if now - self._started_at > _STEADY_S else self._failures + 1
        self._restarts += 1
        wait_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** (self._failures - 1))
        self._start_at = now + wait_s
        log.warning("worker died, starting another", exit=code, wait_s=wait_s, restarts=self._restarts)


def run(file: Path, *, workers: int, until_end: bool, on_loss: str, flags: dict[str, Any]) -> int:
    """Run workers until they are done or a signal comes; return the exit code. Raises ConfigError."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_, _frame: stopping.append(signal_))
    config = configuration.load(file, flags=flags)
    configure_logs(level=config.log.level, style=config.log.format)
    job = {"config": str(file.resolve()), "flags": flags, "until_end": until_end, "on_loss": on_loss}
    seats = [_Seat(job) for _ in range(workers)]
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


def _stop(seats: list[_Seat]) -> None:
    """Ask every worker to finish, and kill what has not after a while: nothing is lost by that."""
    running = [seat.process for seat in seats if seat.process is not None]
    for process in running:
        # The end of the pipe reaches the worker even while its main thread waits inside a C library.
        assert process.stdin is not None
        process.stdin.close()
    until = time.monotonic() + _STOP_S
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            log.warning("worker killed, it did not end in time", pid=process.pid)
    now = time.monotonic()
    for seat in seats:
        seat.reap(now, stopping=True)
