"""Starts the same command again in the same process, with an environment that Python reads only at its start.

River sums over sets of names in some places: with a random hash seed the last bits of a prediction would differ between
processes. The same holds for linear algebra on several threads, which also do not survive a fork. This module imports
nothing that Python has not already loaded.
"""

import os
import signal
import sys

FIXED = {
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
"""The environment in which each process computes the same numbers, bit for bit."""

_STOPS = {signal.SIGTERM, signal.SIGINT}


class PythonRefused(Exception):
    """Raised when this interpreter ignores the settings that make all processes compute the same numbers."""

    status = 400
    hint = "start headrace without -E, -I and -R, and let nothing set PYTHONHASHSEED meanwhile"


def fix() -> None:
    """Return if the environment is FIXED, and otherwise start this command again with it. Raises PythonRefused.

    A signal that comes in between is held back until `hear_signals` is called, when there is a handler for it.
    """
    fixed = all(os.environ.get(name) == value for name, value in FIXED.items())
    if fixed and not sys.flags.hash_randomization:
        return
    if fixed or sys.flags.ignore_environment:
        raise PythonRefused("Python's hash seed can't be fixed: it ignores PYTHONHASHSEED")
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **FIXED})  # noqa: S606 itself
    finally:
        hear_signals()


def hear_signals() -> None:
    """Deliver the signals that were held back since `fix`: there is a handler now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def open_standard_files() -> None:
    """Open the null device in place of a standard file that was closed when this process was started."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 standard error
        pass
    os.close(file)
    # Python has no object for a standard file that was closed at its start.
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
