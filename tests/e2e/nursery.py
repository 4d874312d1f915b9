"""A fork server for the tests: it has imported Headrace and River, and forks a process for each command.

A forked command is a whole process, with its own arguments, environment, folder and files, and runs the same code as
`python -m headrace`. Tests of the start itself use new interpreters: the demo, `init`, `--help`.
"""

import contextlib
import faulthandler
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

# The imports of `headrace run`; the other commands need little more.
import headrace.pipeline.commands.run  # noqa: F401
from headrace.pipeline.commands import cli
from headrace.pipeline.engine import columnar
from headrace.pipeline.process import reexec
from headrace.state.models import learner

_FIXED = {**reexec.FIXED, "PYTHONFAULTHANDLER": "1"}
_START_S = 60.0
_READY_S = 180.0
_LOOK_S = 0.01
_FILES_MAX = 65_536
_ASKED_BYTES_MAX = 1_000_000


class Forked:
    """A command that the fork server has started, with the interface of `subprocess.Popen`."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._told.settimeout(_START_S)
        self.pid = int(self._told.recv(64))
        self._told.setblocking(False)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                answer = self._told.recv(64)
                assert answer, "the nursery is there"
                self.returncode = int(answer)
                self._told.close()
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s or 0.0)
            time.sleep(_LOOK_S)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Starts commands; it ends with the process that created it, and so do its commands."""

    def __init__(self) -> None:
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_FIXED},
            )
        # Its imports take a while, which must not count as the time of a test.
        self._asks.settimeout(_READY_S)
        assert self._asks.recv(16) == b"ready"
        self._asks.settimeout(None)

    def start(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> Forked:
        """Start `headrace` with these words."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, Path(os.devnull).open("rb") as nothing:
            files = [(stdin or nothing).fileno(), stdout.fileno(), stderr.fileno(), theirs.fileno()]
            asked = json.dumps({"words": list(words), "env": {**env, **_FIXED}, "cwd": str(cwd or Path.cwd())})
            socket.send_fds(self._asks, [asked.encode()], files)
        return Forked(mine)

    def call(
        self, words: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout_s: float = 60.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run `headrace` with these words to its end."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            command = self.start(words, env=env, cwd=cwd, stdout=out, stderr=err)
            try:
                code = command.wait(timeout_s)
            finally:
                command.kill()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(words, code, out.read().decode(), err.read().decode())

    def end(self) -> None:
        self._asks.close()
        self._process.wait(_START_S)


def _serve(asks: socket.socket) -> None:
    """Fork the requested commands, and report how each ended, until the requests end."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    tellers: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(asks, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == woken:
                    os.read(woken, 512)
                    _tell_ends(tellers)
                    continue
                asked, files, _, _ = socket.recv_fds(asks, _ASKED_BYTES_MAX, 4)
                if not asked:
                    for pid in tellers:
                        os.kill(pid, signal.SIGKILL)
                    return
                pid, teller = _start(json.loads(asked), files)
                tellers[pid] = teller


def _tell_ends(tellers: dict[int, socket.socket]) -> None:
    while tellers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with tellers.pop(pid) as teller, contextlib.suppress(OSError):
            teller.send(str(os.waitstatus_to_exitcode(status)).encode())


def _start(asked: dict[str, Any], files: list[int]) -> tuple[int, socket.socket]:
    pid = os.fork()
    if not pid:
        _be_the_command(asked, files)
    teller = socket.socket(fileno=files[3])
    for file in files[:3]:
        os.close(file)
    teller.send(str(pid).encode())
    return pid, teller


def _be_the_command(asked: dict[str, Any], files: list[int]) -> NoReturn:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tempfile.tempdir = None
        for wanted, file in enumerate(files[:3]):
            os.dup2(file, wanted)
        os.closerange(3, _FILES_MAX)
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        sys.argv = ["headrace", *asked["words"]]
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 no exception may reach the code of the fork server, which is below on this stack
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    learner.preload()
    columnar.warm()
    faulthandler.enable()
    # Ctrl-C interrupts the tests, not the commands that they have started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = socket.socket(fileno=int(sys.argv[1]))
    asked.send(b"ready")
    _serve(asked)
