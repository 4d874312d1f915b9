"""A server process of the embedded stack, Kafka or Valkey: start, freeze, stop and kill it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.hinted_error import HintedError

START_S = 60.0
STOP_S = 15.0
LOOK_S = 0.02
TAIL_LINES = 12
TAIL_BYTES = 16_384

# A shell waits for a line and then becomes the server. So the reaper knows the process before the server runs, and a
# parent that is killed in between leaves nothing behind.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh")

# A JVM also takes options from these variables, and it does not start with two garbage collectors.
FOREIGN = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH")


class EmbeddedError(HintedError):
    """Raised when the embedded Kafka or Valkey can't be installed or started."""

    status = 503


class StartFailedError(EmbeddedError):
    """Raised when a server ended during its start, or did not answer in time."""


class PortTakenError(StartFailedError):
    """Raised when another process took a port between its choice and its use."""


class Server:
    """Run one server, with the same data and the same port each time that it starts."""

    def __init__(
        self,
        *,
        name: str,
        port: int,
        argv: list[str],
        home: Path,
        reaper: Reaper,
        ready: Callable[[int], bool],
    ) -> None:
        """Describe a server without starting it.

        ``ready`` is called with the process id until it returns True; a call must be short. Output goes to
        ``home/<name>.out``; the server may write ``home/<name>.log``.
        """
        self.name = name
        self.port = port
        self.home = home
        self._argv = argv
        self._reaper = reaper
        self._ready = ready
        self._log = home / f"{name}.log"
        self._log_start = 0  # the position in the log at which this start begins
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server; raise EmbeddedError if it is not running."""
        if self._process is None or not self.running:
            raise EmbeddedError(f"{self.name} is not running", hint="start() it first")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._reaper.forget(self._process.pid)
        return False

    def start(self, *, timeout_s: float = START_S) -> None:
        """Start, and return when the server answers; raise StartFailedError with its last lines."""
        self.launch()
        self.wait_ready(timeout_s=timeout_s)

    def launch(self) -> None:
        """Start without waiting; do nothing if it runs."""
        if self.running:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        with (self.home / f"{self.name}.out").open("wb") as out:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [*GATE, *self._argv],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the parent, which still needs the servers
            )
        self._open_gate(self._process.stdin)

    def wait_ready(self, *, timeout_s: float = START_S) -> None:
        """Return when the server answers; raise StartFailedError if it ends first or takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.running and self._process is not None:
            if self._ready(self._process.pid):
                return
            if time.monotonic() > deadline:
                self.kill()
                raise self._failure(f"did not answer within {timeout_s:.0f} s")
            time.sleep(LOOK_S)
        raise self._failure("ended while it started")

    def stop(self, *, timeout_s: float = STOP_S) -> None:
        """End the server cleanly, even if it is frozen; by SIGKILL if that takes longer than ``timeout_s``."""
        self._signal(signal.SIGTERM)
        self.thaw()
        if not self._gone(timeout_s):
            self.kill()

    def kill(self) -> None:
        """End the server by SIGKILL, like a crash."""
        self._signal(signal.SIGKILL)
        self._gone(STOP_S)

    def freeze(self) -> None:
        """Freeze the server (SIGSTOP): its connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)
        # The kernel stops the threads one after the other. Wait, as one of them could still answer.
        if self.running and self._process is not None:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let the server continue (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _open_gate(self, stdin: IO[bytes] | None) -> None:
        assert self._process is not None
        assert stdin is not None
        try:
            with stdin:  # closed without the line, the gate ends by itself
                self._reaper.watch(self._process.pid)
                stdin.write(b"go\n")
        except OSError as error:
            self._gone(STOP_S)
            raise EmbeddedError(
                f"{self.name} cannot be watched over, so it was not started",
                hint="leave the Stack and start a new one",
            ) from error

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            os.killpg(self._process.pid, number)

    def _gone(self, timeout_s: float) -> bool:
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            self._reaper.forget(self._process.pid)
        return True

    def _failure(self, what: str) -> EmbeddedError:
        words = tail(self.home / f"{self.name}.out") + tail(self._log, since=self._log_start)
        kind = PortTakenError if any("already in use" in line for line in words) else StartFailedError
        return kind("\n  ".join([f"{self.name} {what}", *words[-TAIL_LINES:]]), hint=f"see {self.home}")


def tail(path: Path, *, since: int = 0) -> list[str]:
    """Return the last lines of a file, from byte ``since`` on, or an empty list if it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
