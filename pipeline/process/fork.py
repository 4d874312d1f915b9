"""Forks a child process for one call, with two pipes between parent and child.

By the first pipe the child notices that its parent has ended. By the second one it tells the parent that it was at
work, and the cause of its death.

A fork takes milliseconds; a new interpreter would import River for seconds. A fork is safe while the parent has one
thread and no client of a server, as in `headrace run`.
"""

import contextlib
import errno
import fcntl
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
# A pipe takes a message of this size as a whole, or not at all.
_CAUSE_BYTES_MAX = 2_000
_TELL = 3
KEPT = 4
"""The descriptor of a file that a child keeps."""
# Above the descriptors that the parent has opened before its first child.
_FILES_MAX = 65_536


_PASSING = frozenset((errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC))


class ExitCause(NamedTuple):
    """The cause of a child's death: its kind, which names the error and its place in the code, and its message."""

    kind: str
    words: str = ""


class Fork:
    """Fork, and make a call in the child; the result of the call is the child's exit code.

    The call gets a reporter: by it the child tells the parent that it was `at_work`, and the `cause` of its end. If the
    call has not `returned`, the exit code may come from a library that ended the process.

    The standard input of the child is the end of a pipe, which closes when the parent closes it or dies. Of the
    parent's other files, the child keeps standard output and error, and `keep`, if it is given, as descriptor `KEPT`.
    Raises OSError if no process can be created.
    """

    def __init__(self, call: Callable[["CauseReporter"], int], *, keep: int | None = None) -> None:
        # Otherwise both processes would write the buffered text.
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
                _be_the_child(call, stdin, tell, keep)
            ours.pop_all()

    def poll(self) -> int | None:
        """Return the exit code, or -N if signal N ended the child; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
        return self.code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the child; return its exit code, or None if it does not end in time."""
        until = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return self.code

    def let_go(self) -> None:
        """Close the pipe: the child notices it even while its main thread waits inside a C library."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def kill(self) -> None:
        """Kill the child by SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._end(os.waitpid(self.pid, 0)[1])

    def _end(self, status: int) -> None:
        self.code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(BlockingIOError):
            reported = os.read(self._told, 2 * _CAUSE_BYTES_MAX)
            self.returned = reported.endswith(_RETURNED)
            worked, _, died = reported.removesuffix(_RETURNED).partition(_DIED)
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
        """Report that the child has done some of its work."""
        if not self._told:
            self._told = True
            _write(_WORKED)

    def died(self, error: BaseException) -> None:
        """Report the cause of the child's death, unless it may pass by itself, such as a lack of memory or files."""
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING):
            return
        place = traceback.extract_tb(error.__traceback__)[-1:]
        at = "".join(f" at {frame.filename}:{frame.lineno}" for frame in place)
        kind, words = type(error).__name__, " ".join(str(error).split())
        _write(_DIED + f"{kind}{at}\n{kind}: {words}".encode(errors="replace")[:_CAUSE_BYTES_MAX])


def _write(message: bytes) -> None:
    # The parent has ended: nobody needs the report.
    with contextlib.suppress(OSError):
        os.write(_TELL, message)


def _pipe(childs: contextlib.ExitStack, ours: contextlib.ExitStack, *, down: bool = True) -> tuple[int, int]:
    """Create a pipe, down to the child or up from it; return the end of the child and ours."""
    reader, writer = os.pipe()
    childs.callback(os.close, reader if down else writer)
    ours.callback(os.close, writer if down else reader)
    return (reader, writer) if down else (writer, reader)


def _be_the_child(call: Callable[["CauseReporter"], int], stdin: int, tell: int, keep: int | None) -> NoReturn:
    code, tell_parent = EXIT_RAISED, CauseReporter()
    try:
        # Ctrl-C reaches the whole process group, but the parent stops its children itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.dup2(stdin, 0)
        # Neither of the two may stand where the other goes.
        kept = None if keep is None else fcntl.fcntl(keep, fcntl.F_DUPFD, KEPT + 1)
        os.dup2(tell, _TELL)
        if kept is not None:
            os.dup2(kept, KEPT)
        # Among them are the pipes of the other children: they must close with the parent, not with this child.
        os.closerange(_TELL + 1 + (kept is not None), _FILES_MAX)
        code = call(tell_parent)
        _write(_RETURNED)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException as error:  # noqa: BLE001 no exception may reach the code of the parent, which is below on this stack
        tell_parent.died(error)
        traceback.print_exc()
    finally:
        # Skip the clean-up of the interpreter: clients that still exist would wait for a broker that is away.
        os._exit(code)
