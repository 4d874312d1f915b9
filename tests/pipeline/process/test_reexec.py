"""The start of `headrace run`: the interpreter as it must be, whoever starts it and however."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.pipeline.process.reexec import FIXED

BOUND_S = 30.0
STOPPED_MEANWHILE = """
import os, signal
from headrace.pipeline.process import reexec

signal.signal(signal.SIGTERM, lambda *_: print("heard"))
execve = os.execve

def stopped(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    execve(*args)

os.execve = stopped
reexec.fix()
print("fixed")
reexec.hear_signals()
"""
NUMBERS = """
import os
from headrace.pipeline.process import reexec

reexec.fix()
print(os.getpid(), hash("a string"), *(os.environ[name] for name in reexec.FIXED))
"""


def python(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    bare = {name: value for name, value in os.environ.items() if name not in FIXED}
    return subprocess.run(
        [sys.executable, *words], env={**bare, **env}, capture_output=True, text=True, check=False, timeout=BOUND_S
    )


def test_each_process_has_the_same_hashes_and_one_thread_for_its_sums() -> None:
    first, second = python("-c", NUMBERS), python("-c", NUMBERS, PYTHONHASHSEED="17", OMP_NUM_THREADS="8")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.split()[1:] == second.stdout.split()[1:]
    assert first.stdout.split()[2:] == list(FIXED.values())


def test_it_stays_the_process_that_was_started() -> None:
    bare = {name: value for name, value in os.environ.items() if name not in FIXED}
    with subprocess.Popen([sys.executable, "-c", NUMBERS], env=bare, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=BOUND_S)
    assert int(out.split()[0]) == process.pid


def test_a_stop_that_comes_between_the_two_starts_is_heard() -> None:
    done = python("-c", STOPPED_MEANWHILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fixed\nheard\n", "")


def test_a_stop_that_has_waited_ends_the_command_as_any_other(tmp_path: Path) -> None:
    def stop_at_once() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)

    line = [sys.executable, "-m", "headrace", "run", "-c", str(tmp_path / "headrace.toml")]
    done = subprocess.run(line, preexec_fn=stop_at_once, capture_output=True, check=False, timeout=BOUND_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("flag", ["-E", "-I", "-R"])
def test_a_seed_that_stays_random_is_refused_in_one_line_and_not_tried_for_ever(flag: str, tmp_path: Path) -> None:
    done = python(flag, "-m", "headrace", "run", "-c", str(tmp_path / "headrace.toml"))
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("headrace: Python's hash seed can't be fixed")
    assert hint.startswith("  → start headrace without")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_a_command_may_be_started_with_its_standard_files_closed(closed: str, tmp_path: Path) -> None:
    line = f'"$0" -m headrace init {tmp_path}/made {closed} && "$0" -m headrace run -c {tmp_path}/none {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, check=False, timeout=BOUND_S)
    assert done.returncode == 78, done.stderr
    assert (tmp_path / "made" / "headrace.toml").exists()
