"""A process that has imported all libraries, and forks one that runs pytest on a copy of the source.

To import River, numba and hypothesis takes longer than most tests that a seeded bug turns red. The source itself is not
imported here: each fork imports that of its own copy.
"""

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

LIBRARIES = (
    "confluent_kafka.admin",
    "hypothesis",
    "numba",
    "prometheus_client",
    "pydantic_settings",
    "pytest",
    "redis",
    "rich.console",
    "river.api",
    "structlog",
    "typer",
    "urllib3",
)
_LOOK_S = 0.02


@functools.cache
def _forks() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_pytest(copy: Path, words: Sequence[str], *, env: Mapping[str, str], out: Path, timeout_s: float) -> int | None:
    """Run pytest in a copy of the source; return its exit code, None if it took too long. `out` gets what it prints."""
    asked = {"copy": str(copy), "words": list(words), "env": dict(env), "out": str(out), "timeout_s": timeout_s}
    process = _forks()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    answer: int | None = json.loads(process.stdout.readline())
    return answer


def _be_the_test(copy: str, words: list[str], env: dict[str, str], out: str) -> NoReturn:
    code = 70
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for mine, wanted in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(mine, wanted)
        os.setsid()
        os.environ.clear()
        os.environ.update(env)
        os.chdir(copy)
        sys.path.insert(0, str(Path(copy).parent))
        code = int(importlib.import_module("pytest").main(words))
    except BaseException:  # noqa: BLE001 no exception may reach the loop of the parent, which is below on this stack
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, timeout_s: float) -> int | None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK_S)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    # Ctrl-C interrupts the tests; this process ends with its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        asked = json.loads(line)
        timeout_s = asked.pop("timeout_s")
        if not (pid := os.fork()):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _be_the_test(**asked)
        sys.stdout.write(json.dumps(_wait(pid, timeout_s)) + "\n")
        sys.stdout.flush()
