"""Forks a child that writes a big model, or many rows, to a pipe, while the loop of the worker goes on.

A fork has the whole memory of the worker at that moment, and costs milliseconds: the kernel copies a page only when one
of the two processes changes it (as in BGSAVE of Redis). But the child has only the forking thread. Locks that other
threads held stay locked for ever, such as those of librdkafka. So the child uses nothing but the model and its end of
the pipe. It closes all other files at once, turns off garbage collection, which could reach a client, and ends without
the clean-up of the interpreter. In case it hangs all the same, its time is bounded. Its bytes count only if they are
complete and the child has ended well.

Only on Linux: the libraries of macOS do not support a fork of a process with threads. There the loop itself writes the
model.
"""

import contextlib
import fcntl
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from headrace.pipeline.exit_code import EXIT_RAISED

IS_FIT = sys.platform == "linux"
"""Whether this system can fork a process that has threads."""

TIMEOUT_S = 120.0
"""The time limit for a child, in seconds."""

_HEAD_BYTES = 8
# The maximum size of a pipe on Linux: with the usual 64 kB the reader would wake up more often.
_PIPE_BYTES = 1_048_576
# Above any descriptor that a worker has open.
_FILES_MAX = 65_536


class ForkedWriterError(Exception):
    """Raised when a child has not written everything, or has not ended well."""


class ForkedWriter:
    """Fork a child that writes the bytes of `dump`. Raises OSError if no process can be created.

    The child calls `reach("writing")` when half of the bytes are written.
    """

    def __init__(self, dump: Callable[[], bytes], *, reach: Callable[[str], None]) -> None:
        self._reader, writer = os.pipe()
        if sys.platform == "linux":
            # The user has reached the limit for all pipes; the usual size is enough then.
            with contextlib.suppress(OSError):
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        collects = gc.isenabled()
        try:
            gc.disable()
            self.pid = os.fork()
            if not self.pid:
                _be_the_child(dump, writer, reach)
        except OSError:
            os.close(self._reader)
            raise
        finally:
            if collects:
                gc.enable()
            os.close(writer)

    def read(self, *, timeout_s: float = TIMEOUT_S) -> bytearray:
        """Wait for the child and return its bytes; call it once. Raises ForkedWriterError.

        It may be called in another thread than the one that forked.
        """
        written = None
        try:
            written = self._read(time.monotonic() + timeout_s)
        finally:
            os.close(self._reader)
            if written is None:
                os.kill(self.pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if written is None or code:
            raise ForkedWriterError(f"the child that wrote the snapshot down ended with {code}")
        return written

    def _read(self, until: float) -> bytearray | None:
        """Read all bytes from the pipe; return None if they are incomplete."""
        head = bytearray(_HEAD_BYTES)
        if not self._fill(head, until):
            return None
        written = bytearray(int.from_bytes(head))
        return written if self._fill(written, until) else None

    def _fill(self, room: bytearray, until: float) -> bool:
        """Fill the buffer from the pipe. The kernel copies the bytes, so other threads can run."""
        ready, left = select.poll(), memoryview(room)
        ready.register(self._reader, select.POLLIN)
        while left and ready.poll(max(0.0, until - time.monotonic()) * 1_000):
            count = os.readv(self._reader, [left[:_PIPE_BYTES]])
            if not count:
                return False
            left = left[count:]
        return not left


def _be_the_child(dump: Callable[[], bytes], writer: int, reach: Callable[[str], None]) -> NoReturn:
    code = EXIT_RAISED
    try:
        # A signal may reach all processes of the worker; this one ends with the pipe, or after its work.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
        _close_all_but(writer)
        model = memoryview(dump())
        _write(writer, len(model).to_bytes(_HEAD_BYTES))
        _write(writer, model[: len(model) // 2])
        reach("writing")
        _write(writer, model[len(model) // 2 :])
        code = 0
    finally:
        # Catch everything: the code of the parent, below on this stack, must not run in the child as well.
        os._exit(code)


def _close_all_but(writer: int) -> None:
    # The standard files lead to the null device: a model may print when it is pickled.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.closerange(3, writer)
    os.closerange(writer + 1, _FILES_MAX)


def _write(writer: int, part: bytes | memoryview) -> None:
    left = memoryview(part)
    while left:
        left = left[os.write(writer, left) :]
