"""A process that is forked off this one to make one call, and that learns by a pipe when this one is gone.

By another pipe it tells this one that it was at work, and of what it died.

To fork costs some milliseconds where a new interpreter would import River for seconds. It is sound while the parent
has one thread and no client of any server, which is all that `run` is.
"""

import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from headrace.pipeline.exit_code import EXIT_RAISED

_LOOK_S = 0.02
_WORKED, _DIED, _RETURNED = b".", b"!", b"\0"
# What a pipe takes at once, or not at all.
_CAUSE_BYTES_MAX = 2_000
_TELL = 3
# Above any descriptor that the parent has opened before it had children.
_FILES_MAX = 65_536


_PASSING = frozenset((errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC))


class ExitCause(NamedTuple):
    """Of what a child died: the kind of error and its place, which are the same the next time, and its words."""

    kind: str
    words: str = ""


class Fork:
    """Fork, and make the call in the child, whose exit code it returns.

    By what the call is given it tells the parent that it was `at_work`, and the `cause` of its end, if it knows one. An
    exit code is the call's own only where it has `returned`: a library may end the process with any.

    The child finds the end of a pipe as its standard input: it ends when the parent lets go of it, or dies. Of the
    parent's other files it has only standard output and error. Raises OSError when there can be no more processes.
    """

    def __init__(self, call: Callable[["CauseReporter"], int]) -> None:
        # What is still buffered would be written by both.
        sys.stdout.flush()
        sys.stderr.flush()
        self.at_work = self.returned = False
        self.cause: ExitCause | None = None
        self.code: int | None = None
        with contextlib.ExitStack() as childs, contextlib.ExitStack() as ours:
            stdin, self._writer = _pipe(childs, ours)
            tell, self._told = _pipe(childs, ours, down=False)
            os.set_blocking(self._told, False)
            self.pid = os.fork()
            if not self.pid:
                _be_the_child(call, stdin, tell)
            ours.pop_all()

    def poll(self) -> int | None:
        """Return the exit code, -N for the end by signal N; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
        return self.code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end; return the exit code, or None when it did not end in time."""
        until = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return self.code

    def let_go(self) -> None:
        """Close the pipe: the child hears of it even while its main thread waits inside a C library."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def kill(self) -> None:
        """End it at once by SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._end(os.waitpid(self.pid, 0)[1])

    def _end(self, status: int) -> None:
        self.code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(BlockingIOError):
            told = os.read(self._told, 2 * _CAUSE_BYTES_MAX)
            self.returned = told.endswith(_RETURNED)
            worked, _, died = told.removesuffix(_RETURNED).partition(_DIED)
            self.at_work = worked == _WORKED
            if died:
                self.cause = ExitCause(*died.decode(errors="replace").split("\n", 1))
        self._close()

    def _close(self) -> None:
        self.let_go()
        os.close(self._told)


class CauseReporter:
    """Tells the parent, once, that the child was at work; and why it ends."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self) -> None:
        """Tell that the child has done some of its work."""
        if not self._told:
            self._told = True
            _write(_WORKED)

    def died(self, error: BaseException) -> None:
        """Tell of what the child dies: nothing that passes by itself, such as a lack of memory or of files."""
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING):
            return
        place = traceback.extract_tb(error.__traceback__)[-1:]
        at = "".join(f" at {frame.filename}:{frame.lineno}" for frame in place)
        kind, words = type(error).__name__, " ".join(str(error).split())
        _write(_DIED + f"{kind}{at}\n{kind}: {words}".encode(errors="replace")[:_CAUSE_BYTES_MAX])


def _write(told: bytes) -> None:
    # A parent that is gone needs no telling.
    with contextlib.suppress(OSError):
        os.write(_TELL, told)


def _pipe(childs: contextlib.ExitStack, ours: contextlib.ExitStack, *, down: bool = True) -> tuple[int, int]:
    """Make a pipe, down to the child or up from it; return the child's end and ours, each in its owner's care."""
    reader, writer = os.pipe()
    childs.callback(os.close, reader if down else writer)
    ours.callback(os.close, writer if down else reader)
    return (reader, writer) if down else (writer, reader)


def _be_the_child(call: Callable[["CauseReporter"], int], stdin: int, tell: int) -> NoReturn:
    code, tell_parent = EXIT_RAISED, CauseReporter()
    try:
        # A Ctrl-C reaches the whole group of processes, and the parent tells its children itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.dup2(stdin, 0)
        os.dup2(tell, _TELL)
        # Among them the pipes of the other children, which must end with the parent and not with this one.
        os.closerange(_TELL + 1, _FILES_MAX)
        code = call(tell_parent)
        _write(_RETURNED)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException as error:  # noqa: BLE001 nothing may come back into the parent's code, below on this stack
        tell_parent.died(error)
        traceback.print_exc()
    finally:
        # Without the interpreter's own end: clients that are still there would wait for a broker that is away.
        os._exit(code)
