"""Starts the same command once more, in the same process, where Python must be set up as only a start can.

River goes through sets of names here and there, and sums as it goes: with a random hash seed the last bits of a
prediction would differ from one process to the next. So would sums over several threads, which do not survive a fork
either. Imports nothing but what Python itself has loaded by then.
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
"""The environment in which each process comes to the same numbers, to the bit."""

_STOPS = {signal.SIGTERM, signal.SIGINT}


class PythonRefused(Exception):
    """Raised when this interpreter does not take the setting that makes processes come to the same numbers."""

    status = 400
    hint = "start headrace without -E, -I and -R, and let nothing set PYTHONHASHSEED meanwhile"


def fix() -> None:
    """Return where the environment is FIXED, and otherwise start this command again with it. Raises PythonRefused.

    A signal that comes in between waits until `hear_signals` is called, instead of ending what has no handler yet.
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
    """Let the signals come that have waited since `fix`: there is a handler now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def open_standard_files() -> None:
    """Put the null device where this process was started without an input, an output or an error file."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 standard error
        pass
    os.close(file)
    # Python has none of those that were closed when it began.
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
