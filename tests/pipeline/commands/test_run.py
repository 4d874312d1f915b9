"""Which ordinals the workers of a run have, and when it gives one up."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

import pytest

from headrace.pipeline.commands.run import _Seat, ordinals
from headrace.pipeline.config.config import ConfigError
from headrace.pipeline.exit_code import EXIT_HUNG
from headrace.pipeline.process.fork import CauseReporter
from headrace.pipeline.worker import worker
from headrace.pipeline.worker.worker import Job


def test_the_workers_of_a_machine_that_has_a_number_are_always_the_same_and_no_other_ones() -> None:
    assert [list(ordinals(str(machine), workers=4)) for machine in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


@pytest.mark.parametrize("given", [None, ""])
def test_workers_agree_on_theirs_where_the_machine_has_no_number(given: str | None) -> None:
    assert list(ordinals(given, workers=2)) == [None, None]


@pytest.mark.parametrize("given", ["one", "-1", "64", "128", "1.0"])
def test_a_number_of_the_machine_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=f"HEADRACE_ORDINAL is '{given}';.* must be a number below 64") as refused:
        ordinals(given, workers=2)
    assert refused.value.hint


pytest_fork = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def broken(_job: Job, _tell: CauseReporter) -> int:
    raise ValueError("a field that nobody\nforesaw")


def crashes(_job: Job, _tell: CauseReporter) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def killed(_job: Job, _tell: CauseReporter) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def away(_job: Job, _tell: CauseReporter) -> int:
    return EXIT_HUNG


def full(_job: Job, _tell: CauseReporter) -> int:
    raise OSError(errno.EMFILE, "too many open files")


def ended_by_a_library(_job: Job, _tell: CauseReporter) -> int:
    os._exit(0)


def ended_with_another_code(_job: Job, _tell: CauseReporter) -> int:
    os._exit(3)


def panics(_job: Job, _tell: CauseReporter) -> int:
    raise BaseException("nobody foresaw")  # noqa: TRY002 as a panic in Rust is


def crashes_at_work(_job: Job, tell: CauseReporter) -> int:
    tell()
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def broken_at_work(_job: Job, tell: CauseReporter) -> int:
    tell()
    raise ValueError("a record that nobody foresaw")


Main = Callable[[Job, CauseReporter], int]
_DEATHS_MAX = 7


def deaths(mains: Sequence[Main], monkeypatch: pytest.MonkeyPatch, *, lives_s: float = 0.0) -> tuple[int, int | None]:
    """Let a worker die in each of these ways in turn; return how often it did, and how its seat ended, if it did."""
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    seat, now, died = _Seat(Job("headrace.toml", {}, until_end=False, on_loss="relearn")), 100.0, 0
    while seat.ended is None and died < _DEATHS_MAX:
        monkeypatch.setattr(worker, "main", mains[died % len(mains)])
        now += 60.0
        seat.start(now)
        assert seat.worker is not None
        assert seat.worker.wait(20.0) is not None
        now += lives_s
        seat.reap(now, stopping=False)
        died += 1
    return died, seat.ended


@pytest_fork
@pytest.mark.parametrize("main", [broken, crashes, broken_at_work, ended_by_a_library, ended_with_another_code, panics])
def test_a_worker_that_dies_of_the_same_three_times_in_a_row_ends_the_run_with_the_cause(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deaths([main], monkeypatch) == (3, 1)
    error, hint = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("headrace: ", "  → "))]
    assert error.startswith("headrace: a worker died 3 times in a row of the same cause: ")
    assert ("nobody foresaw" in error and "test_run.py:" in error) or re.search(r"SIGSEGV|with exit code [03]$", error)
    assert hint.startswith("  → nothing is lost")


@pytest_fork
@pytest.mark.parametrize(
    "mains",
    [[killed], [away], [full], [crashes_at_work], [broken, killed], [broken, broken, crashes], [broken, broken, away]],
    ids=lambda mains: "-".join(main.__name__ for main in mains),
)
def test_kills_outages_want_of_files_and_different_causes_never_end_the_run(
    mains: list[Main], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deaths(mains, monkeypatch) == (_DEATHS_MAX, None)


@pytest_fork
def test_what_ends_a_worker_that_has_worked_for_long_never_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deaths([broken_at_work], monkeypatch, lives_s=61.0) == (_DEATHS_MAX, None)
