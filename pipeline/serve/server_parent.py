"""The parent of the server's processes: forks them, ready and warm, and replaces those that die.

It owns the listening socket, which all processes share, so that a process which ends leaves no connection behind in a
queue of its own. It has one thread and no client, so a fork is safe. A process ends when its pipe to the parent closes.
"""

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.exit_code import EXIT_CONFIG
from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.process.fork import Fork
from headrace.pipeline.serve import server_process
from headrace.pipeline.serve.counters import Counters, SharedCounters
from headrace.pipeline.serve.server_process import ServerJob

log = structlog.get_logger("headrace")

_TICK_S = 0.02
_BACKLOG = 4_096
_STEADY_S = 3.0
_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 10.0
# Above `serve.drain`, until a process that does not end is killed.
_KILL_AFTER_S = 5.0
# While processes drain, others have their places: this number of slots for each.
_SLOTS_EACH = 4


class AddressTaken(HintedError):
    """Raised when the server can't listen on its address."""


class _Process:
    """A process that runs, with its counters."""

    def __init__(self, fork: Fork, counters: Counters, slot: int, now: float) -> None:
        self.fork = fork
        self.counters = counters
        self.slot = slot
        self.since = now


class ServerParent:
    """Keep `workers` processes running on a `listener`."""

    def __init__(
        self, file: Path, flags: dict[str, Any], config: Config, listener: socket.socket, workers: int
    ) -> None:
        self._file, self._flags = file, flags
        self._drain_s = config.serve.drain
        self._listener = listener
        self._workers = workers
        self._memory = SharedCounters(workers * _SLOTS_EACH)
        self._free = list(reversed(range(workers * _SLOTS_EACH)))
        self._seats: list[_Process | None] = [None] * workers
        self._start_at = [0.0] * workers
        self._failures = [0] * workers
        # Those that end, with the time until which they may; and the seats that get a new process, with that process.
        self._ending: list[tuple[_Process, float]] = []
        self._rolls: list[int] = []
        self._next: tuple[int, _Process] | None = None
        self.code: int | None = None

    def tick(self, now: float) -> None:
        """Collect processes that have ended, and start those that are wanted."""
        self._reap_ending(now)
        for seat, process in enumerate(self._seats):
            if process is None:
                if now >= self._start_at[seat] and self._free:
                    self._seats[seat] = self._start(now, is_restart=bool(self._failures[seat]))
            elif (code := process.fork.poll()) is not None:
                self._lost(seat, process, code, now)
        if not self._memory.was_ready and all(p is not None and p.counters.phase == "ready" for p in self._seats):
            self._memory.note_ready()
            log.info("all processes are ready", processes=self._workers)
        self._roll_on(now)

    def roll(self) -> None:
        """Replace each process by a new one, which reads all files anew, one after the other."""
        self._rolls = list(range(self._workers))

    def end(self) -> None:
        """Let all processes drain, and wait for them."""
        # The last process that closes the socket ends it.
        self._listener.close()
        now = time.monotonic()
        running = [p for p in (*self._seats, self._next and self._next[1]) if p is not None]
        for process in running:
            self._let_go(process, now)
        while self._ending:
            self._reap_ending(time.monotonic())
            time.sleep(_TICK_S)

    def _start(self, now: float, *, is_restart: bool) -> _Process | None:
        slot = self._free.pop()
        counters = Counters(self._memory, slot)
        counters.begin(is_restart=is_restart)
        job = ServerJob(str(self._file.resolve()), self._flags, slot)
        try:
            fork = Fork(partial(server_process.main, job, self._memory), keep=self._listener.fileno())
        except OSError as error:
            log.warning("a process can't be started, trying again", reason=str(error))
            self._give_back(counters, slot)
            return None
        return _Process(fork, counters, slot, now)

    def _give_back(self, counters: Counters, slot: int) -> None:
        counters.begin(is_restart=False)
        counters.enter("free")
        self._free.append(slot)

    def _lost(self, seat: int, process: _Process, code: int, now: float) -> None:
        """Replace a process that has ended by itself; give up if its configuration can't be used from the start."""
        was_ready = process.counters.phase != "starting"
        self._give_back(process.counters, process.slot)
        self._seats[seat] = None
        if code == EXIT_CONFIG and not self._memory.was_ready:
            self.code = code
            return
        is_early = not was_ready or now - process.since < _STEADY_S
        self._failures[seat] = self._failures[seat] + 1 if is_early else 1
        wait_s = 0.0 if was_ready and self._failures[seat] <= 1 else self._back_off(seat)
        self._start_at[seat] = now + wait_s
        log.warning("process died, starting another", exit=code, wait_s=wait_s)

    def _back_off(self, seat: int) -> float:
        return float(min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2 ** min(self._failures[seat] - 1, 10)))

    def _roll_on(self, now: float) -> None:
        """Start the next new process; when it is ready, let the old one of its seat go."""
        if self._next is None:
            # One place for each seat is left for a process that dies.
            if self._rolls and len(self._free) > self._workers:
                process = self._start(now, is_restart=False)
                self._next = None if process is None else (self._rolls.pop(0), process)
            return
        seat, process = self._next
        if (code := process.fork.poll()) is not None:
            self._give_back(process.counters, process.slot)
            self._next, self._rolls = None, []
            log.warning("a new process ended at its start, the old ones go on", exit=code)
        elif process.counters.phase == "ready":
            old, self._seats[seat], self._next = self._seats[seat], process, None
            self._failures[seat] = 0
            if old is not None:
                self._let_go(old, now)
            if not self._rolls:
                log.info("all processes are replaced", processes=self._workers)

    def _let_go(self, process: _Process, now: float) -> None:
        process.fork.let_go()
        self._ending.append((process, now + self._drain_s + _KILL_AFTER_S))

    def _reap_ending(self, now: float) -> None:
        for process, until in self._ending[:]:
            if process.fork.poll() is None and now > until:
                process.fork.kill()
                log.warning("process killed, it did not end in time", pid=process.fork.pid)
            if process.fork.poll() is not None:
                self._ending.remove((process, until))
                self._give_back(process.counters, process.slot)


def run(file: Path, flags: dict[str, Any], config: Config) -> int:
    """Serve until SIGTERM or Ctrl-C; SIGHUP replaces the processes. Returns the exit code. Raises AddressTaken."""
    stopping: list[int] = []
    rolling: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signal_, _frame: stopping.append(signal_))
    signal.signal(signal.SIGHUP, lambda signal_, _frame: rolling.append(signal_))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    serve = config.serve
    listener = listen(serve.host, serve.port)
    workers = serve.workers or os.cpu_count() or 1
    host, port = listener.getsockname()[:2]
    scheme = "https" if serve.tls_cert else "http"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("serving", address=address, processes=workers, pid=os.getpid())
    parent = ServerParent(file, flags, config, listener, workers)
    while not stopping and parent.code is None:
        if rolling:
            rolling.clear()
            if _is_usable(file, flags):
                log.info("the processes are replaced one by one")
                parent.roll()
        parent.tick(time.monotonic())
        time.sleep(_TICK_S)
    parent.end()
    return parent.code or 0


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises AddressTaken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise AddressTaken(
            f"serve.host = {host!r}, serve.port = {port}: {error.strerror or error}",
            hint="end the program that listens there, or choose another port with --port",
        ) from error


def _is_usable(file: Path, flags: dict[str, Any]) -> bool:
    try:
        configuration.load(file, flags=flags)
    except ConfigError as error:
        log.warning("the configuration can't be used, the processes go on with the old one", reason=str(error))
        return False
    return True
