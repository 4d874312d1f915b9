"""The scribe: a child that is forked to write a big model, or many rows, down as they stand, while the loop goes on.

A fork has all that the worker remembers, as of that moment, at the price of some milliseconds; pages are copied only
when one of the two changes them (Redis saves itself so: BGSAVE). Of a process with threads a child has but one, and
whatever the others held is held for ever: locks of librdkafka, half a request on a connection. So the child touches
nothing but the model and its end of a pipe. It closes all other files at once, lets no garbage be collected, which
could be some client's, and ends without the interpreter's own end. What it waits for in spite of that, it does not
wait for long: its time is bounded, and its bytes count only when they are whole and it has come to a good end.

On Linux only: macOS's own libraries are not fit for a fork beside threads, and there a model is written down by the
loop.
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
"""How long a child may take, in seconds."""

_HEAD_BYTES = 8
# The most that Linux lets a pipe hold: the reader is not woken for each of its usual 64 kB.
_PIPE_BYTES = 1_048_576
# Above any descriptor that a worker has open.
_FILES_MAX = 65_536


class ForkedWriterError(Exception):
    """Raised when a child has not written all that it was to, or came to no good end."""


class ForkedWriter:
    """Fork a child that writes down what `dump` gives. Raises OSError when there can be no more processes.

    It passes `reach("writing")` when half is written.
    """

    def __init__(self, dump: Callable[[], bytes], *, reach: Callable[[str], None]) -> None:
        self._reader, writer = os.pipe()
        if sys.platform == "linux":
            # A user may have so much of it, in all pipes; the usual is enough, then.
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
        """Wait for the child's end and return what it wrote, once. Raises ForkedWriterError.

        May be called in another thread than the one that forked.
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
        """Read what the pipe brings; None when that is not all of it."""
        head = bytearray(_HEAD_BYTES)
        if not self._fill(head, until):
            return None
        written = bytearray(int.from_bytes(head))
        return written if self._fill(written, until) else None

    def _fill(self, room: bytearray, until: float) -> bool:
        """Fill it with what the pipe brings, which is put into its place while other threads go on."""
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
        # What ends the worker may reach all of its processes; this one ends with the pipe, or with its work.
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
        # Whatever it was: the parent's code, which is below on this stack, must not go on here as well.
        os._exit(code)


def _close_all_but(writer: int) -> None:
    # The standard ones lead nowhere instead: a model that prints when it is pickled does no harm.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.closerange(3, writer)
    os.closerange(writer + 1, _FILES_MAX)


def _write(writer: int, part: bytes | memoryview) -> None:
    left = memoryview(part)
    while left:
        left = left[os.write(writer, left) :]
