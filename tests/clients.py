"""Clients of other model servers for the tests, in an environment of their own: tritonclient, kserve and MLflow's.

They need other versions of libraries than Headrace. `python tests/clients.py` makes the environment in the cache from
`tests/clients.lock`, and says what is missing where it can't be made; `make test` runs it first.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from headrace.pipeline.embedded.jars import cache_dir, cache_lock

LOCK = Path(__file__).with_suffix(".lock")
ADVICE = "make sure that PyPI, or the mirror in PIP_INDEX_URL, can be reached, and run `python tests/clients.py`"
_INSTALL_S = 600


def folder() -> Path:
    """Return the folder of the environment for this Python and this lock."""
    made_from = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return cache_dir() / f"clients-{sys.version_info.major}.{sys.version_info.minor}-{made_from}"


def python() -> Path:
    """Return the Python of the environment."""
    return folder() / "bin" / "python"


def missing() -> str:
    """Name the missing programs; return "" if there are none."""
    return "" if python().exists() else "tritonclient, kserve and MLflow"


def make() -> None:
    """Make the environment, whole or not at all. Raises CalledProcessError, TimeoutExpired, OSError."""
    with cache_lock(waiting=lambda: None):
        if not missing():
            return
        folder().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder().parent) as scratch:
            made = Path(scratch, "made")
            _run(sys.executable, "-m", "venv", "--without-pip", str(made))
            into = str(made / "bin" / "python")
            checked = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile", "--quiet")
            _run(sys.executable, "-m", "pip", "--python", into, "install", *checked, "-r", str(LOCK))
            shutil.move(made, folder())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_S)


def main() -> int:
    """Make the environment if it is not there. Return 1 if that fails under CI, where each test must run, or else 0."""
    if not missing():
        return 0
    sys.stderr.write("headrace: fetching clients of model servers for the tests (once)\n")
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        make()
    if not missing():
        return 0
    sys.stderr.write(f"headrace: the tests of the server's clients are left out: no {missing()}\n  → {ADVICE}\n")
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
