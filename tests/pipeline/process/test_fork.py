"""Forked children: how they end, what they have of their parent, and that they hear of its end."""

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.pipeline.exit_code import EXIT_ALARM, EXIT_RAISED
from headrace.pipeline.process.fork import Fork
from headrace.pipeline.process.watchdog import Watchdog

BOUND_S = 20.0
Tell = Callable[[], None]

# The process that runs the tests has threads of its runner's; `headrace run` has one.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def until_told_to_end(_tell: Tell) -> int:
    while os.read(0, 1):
        pass
    return 7


def raises(_tell: Tell) -> int:
    raise ValueError("nobody foresaw it")


@pytest.mark.parametrize(("call", "code"), [(lambda _tell: 0, 0), (lambda _tell: 78, 78), (raises, EXIT_RAISED)])
def test_the_exit_code_is_what_the_call_returned(call: Callable[[Tell], int], code: int) -> None:
    child = Fork(call)
    assert child.wait(BOUND_S) == code
    assert child.poll() == code


def test_a_child_runs_until_the_parent_lets_go_of_it() -> None:
    child = Fork(until_told_to_end)
    assert child.wait(0.1) is None
    child.let_go()
    assert child.wait(BOUND_S) == 7


def test_a_child_hears_of_the_end_though_another_was_forked_after_it() -> None:
    first = Fork(until_told_to_end)
    second = Fork(until_told_to_end)
    first.let_go()
    assert first.wait(BOUND_S) == 7, "the second does not hold the first one's pipe open"
    second.kill()
    assert second.poll() == -signal.SIGKILL


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def grandchild(tell: Tell) -> int:
        until_told_to_end(tell)
        told.write_text("ended")
        return 0

    def parent(tell: Tell) -> int:
        Fork(grandchild)
        Fork(until_told_to_end)
        return until_told_to_end(tell)

    child = Fork(parent)
    assert child.wait(0.2) is None
    child.kill()
    until = time.monotonic() + BOUND_S
    while not told.exists():
        assert time.monotonic() < until, "the grandchild heard of its parent's end"
        time.sleep(0.01)


def test_a_child_has_no_other_file_of_its_parents() -> None:
    files = os.pipe()
    child = Fork(lambda _tell: sum(_is_open(file) for file in range(3, 100)))
    assert child.wait(BOUND_S) == 1, "the end of the pipe by which it tells its parent"
    for file in files:
        os.close(file)


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def test_a_child_takes_the_signals_as_a_process_of_its_own() -> None:
    child = Fork(until_told_to_end)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(0.1) is None, "an interrupt is the parent's to pass on"
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(BOUND_S) == -signal.SIGTERM


def test_the_parent_hears_that_a_child_was_at_work_though_it_was_killed() -> None:
    def works(tell: Tell) -> int:
        tell()
        tell()
        return until_told_to_end(tell)

    for call, at_work in ((works, True), (until_told_to_end, False)):
        child = Fork(call)
        assert child.wait(0.2) is None
        child.kill()
        assert child.at_work is at_work


def test_the_parent_learns_the_cause_and_the_place_of_a_childs_death() -> None:
    child = Fork(raises)
    assert child.wait(BOUND_S) == EXIT_RAISED
    assert child.cause is not None
    assert child.cause.words == "ValueError: nobody foresaw it"
    assert child.cause.kind.startswith("ValueError at ")
    assert "test_fork.py:" in child.cause.kind


def test_a_temporary_error_or_a_kill_is_no_cause_of_death() -> None:
    def full(_tell: Tell) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    def starved(_tell: Tell) -> int:
        raise MemoryError

    for call in (full, starved):
        child = Fork(call)
        assert (child.wait(BOUND_S), child.cause) == (EXIT_RAISED, None)
    child = Fork(until_told_to_end)
    child.kill()
    assert (child.poll(), child.cause) == (-signal.SIGKILL, None)


@pytest.mark.parametrize("hangs", [lambda: time.sleep(BOUND_S), lambda: ctypes.PyDLL(None).sleep(int(BOUND_S))])
def test_the_alarm_ends_a_process_that_hangs_even_with_pythons_lock_in_its_hands(hangs: Callable[[], object]) -> None:
    def hang(_tell: Tell) -> int:
        watchdog = Watchdog(deadline_s=BOUND_S, silence_s=BOUND_S)
        watchdog.alive()
        watchdog.end_within(0.1)
        hangs()
        return 0

    child = Fork(hang)
    assert child.wait(BOUND_S / 2) == EXIT_ALARM


def test_no_more_processes_is_an_error_that_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", full)
    before = sorted(Path("/dev/fd").iterdir())
    with pytest.raises(OSError, match="no more processes"):
        Fork(lambda _tell: 0)
    assert sorted(Path("/dev/fd").iterdir()) == before


def test_buffered_output_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        out.write("once\n")
        assert Fork(lambda _tell: 0).wait(BOUND_S) == 0
    assert (tmp_path / "out").read_text() == "once\n"
