"""What a forked child writes down: the moment of the fork, whole or not at all, with nothing of its parent's in it."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.pipeline.process.forked_writer import ForkedWriter, ForkedWriterError

# A worker has threads, and so has the process that runs the tests.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

BIG = 5_000_000


def reach(_name: str) -> None:
    """Pass a place."""


def wait_for_the_end(pid: int) -> None:
    until = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert time.monotonic() < until, "the child ends by itself"
        time.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 65_537, BIG])
def test_the_child_writes_the_state_of_the_moment_of_the_fork(size: int) -> None:
    model = bytearray(os.urandom(size))
    wanted = bytes(model)
    child = ForkedWriter(lambda: bytes(model), reach=reach)
    model[:] = bytes(size)
    assert child.read() == wanted


def test_another_thread_may_read() -> None:
    child = ForkedWriter(lambda: b"m" * BIG, reach=reach)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(child.read()))
    thread.start()
    thread.join(20)
    assert found == [b"m" * BIG]


def test_a_child_whose_model_can_not_be_written_down_has_written_nothing() -> None:
    def raises() -> bytes:
        raise ValueError("no name to be found by")

    with pytest.raises(ForkedWriterError, match="ended with 70"):
        ForkedWriter(raises, reach=reach).read()


@pytest.mark.parametrize("size", [1_000, BIG])
def test_a_child_that_is_killed_half_way_has_written_nothing(size: int) -> None:
    def dies(_name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ForkedWriterError, match="ended with -9"):
        ForkedWriter(lambda: b"m" * size, reach=dies).read()


@pytest.mark.parametrize("size", [1_000, BIG])
def test_a_child_that_does_not_come_to_its_end_is_not_waited_for_long(size: int) -> None:
    def freezes(_name: str) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    child = ForkedWriter(lambda: b"m" * size, reach=freezes)
    with pytest.raises(ForkedWriterError):
        child.read(timeout_s=0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_a_child_ends_when_nobody_reads() -> None:
    child = ForkedWriter(lambda: b"m" * BIG, reach=reach)
    os.close(child._reader)
    wait_for_the_end(child.pid)


def test_a_child_is_told_to_stop_by_its_pipe_only() -> None:
    def interrupted() -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return b"done"

    assert ForkedWriter(interrupted, reach=reach).read() == b"done"


def _open_files() -> bytes:
    targets = []
    for file in Path("/proc/self/fd").iterdir():
        # The listing's own is gone.
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(file.readlink()).partition(":")[0])
    return "\n".join(sorted(targets)).encode()


def test_a_child_has_no_file_but_its_pipe() -> None:
    assert ForkedWriter(_open_files, reach=reach).read().decode().split() == ["/dev/null"] * 3 + ["pipe"]


def test_a_child_collects_no_garbage_and_the_parent_goes_on_to() -> None:
    was = gc.isenabled()
    assert ForkedWriter(lambda: str(gc.isenabled()).encode(), reach=reach).read() == b"False"
    assert gc.isenabled() == was


def test_no_file_is_left_open() -> None:
    def fails() -> bytes:
        raise ValueError

    before = len(list(Path("/proc/self/fd").iterdir()))
    dumps: list[Callable[[], bytes]] = [lambda: b"m", fails]
    for dump in dumps:
        child = ForkedWriter(dump, reach=reach)
        try:
            child.read()
        except ForkedWriterError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before
