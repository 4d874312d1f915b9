"""A watcher process that ends the embedded servers when this process ends, even by SIGKILL.

Kafka is a JVM and Valkey a C process: on some systems neither can be made to end with its parent. So a small child
process holds the read end of a pipe, and only the parent holds the write end. When the parent ends, the child reads
the end of the pipe, ends the servers and removes the temporary directory. `Reaper` is the side of the parent. `main` is
the child; it runs as a plain file with only the standard library, so that it starts at once.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

LOOK_S = 1.0  # the interval at which the child checks that its parent is alive
END_S = 5.0  # the time that a killed process may take to end


class Reaper:
    """End the watched processes, and remove a directory, when this process ends in any way."""

    def __init__(self, *, remove: Path | None = None, grace_s: float = 10.0, hold: int | None = None) -> None:
        """Start the watcher.

        ``grace_s`` is the time between SIGTERM and SIGKILL (0: SIGKILL at once).
        ``hold`` is a file descriptor (a lock) that stays open until the servers have ended.
        """
        argv = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(grace_s)]
        self._child = subprocess.Popen(  # noqa: S603  # our own file, with our own arguments
            argv + ([str(remove)] if remove else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # the readers of an inherited output would wait for this child, too
            stderr=subprocess.DEVNULL,
            bufsize=0,  # a line is one write, so that two threads cannot mix theirs
            cwd="/",
            start_new_session=True,
            pass_fds=[] if hold is None else [hold],
        )

    @property
    def pid(self) -> int:
        """The watcher's process id."""
        return self._child.pid

    def watch(self, pid: int) -> None:
        """End the process group ``pid`` when this process ends. Raise OSError if the watcher is gone."""
        self._send(f"watch {pid}")

    def forget(self, pid: int) -> None:
        """Stop watching ``pid``: it has ended, and another process may get its number."""
        with contextlib.suppress(OSError):
            self._send(f"forget {pid}")

    def keep(self) -> None:
        """Do not remove the directory: an error message asks the user to read its files."""
        self._send("keep 0")

    def close(self) -> None:
        """End the watched processes now, and wait for the watcher."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def _send(self, line: str) -> None:
        assert self._child.stdin is not None
        if self._child.stdin.closed:
            raise BrokenPipeError("the watcher is closed")
        self._child.stdin.write(f"{line}\n".encode())


def main(argv: list[str]) -> None:
    """Watch until the parent ``argv[0]`` ends, then clean up after it."""
    # A signal to a whole group of processes must not end the process that cleans up after them.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent, grace_s, remove = int(argv[0]), float(argv[1]), argv[2:]
    watched, kept = _listen(parent)
    _end(watched, grace_s=grace_s)
    for directory in [] if kept else remove:
        shutil.rmtree(directory, ignore_errors=True)


def _listen(parent: int) -> tuple[set[int], bool]:
    """Read the parent's lines until it ends; return the process groups that still run, and `keep`."""
    watched: set[int] = set()
    kept = False
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if readable:
            chunk = os.read(0, 65536)
            if not chunk:
                return watched, kept
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                verb, pid = line.split()
                match verb:
                    case b"watch":
                        watched.add(int(pid))
                    case b"forget":
                        watched.discard(int(pid))
                    case _:
                        kept = True
        elif os.getppid() != parent:
            # The pipe may still be open: a child that the parent forked without exec holds the write end, too.
            return watched, kept


def _end(pids: set[int], *, grace_s: float) -> None:
    if grace_s > 0:
        for pid in pids:
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)
        _wait(pids, timeout_s=grace_s)
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    _wait(pids, timeout_s=END_S)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a zombie
        os.killpg(pid, number)


def _wait(pids: set[int], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(map(ended, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Return whether a process has ended; a zombie counts as ended."""
    try:
        os.kill(pid, 0)
        # In a container process 1 may never collect its zombies.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False  # this system has no /proc: only the signal tells
    except OSError:
        return True


if __name__ == "__main__":
    main(sys.argv[1:])
