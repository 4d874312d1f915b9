"""Prometheus and promtool for the tests: those of this machine, or Debian's package, unpacked in the cache.

`python tests/prometheus.py` fetches the package if it is needed, and says what to install where it can't be had;
`make test` runs it first. The package is only unpacked: installing it would start a service.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from headrace.pipeline.embedded.jars import cache_dir, cache_lock

PROGRAMS = ("promtool", "prometheus")
ADVICE = "install Debian's package prometheus, or another Prometheus 2.42 or newer with promtool in the PATH"
_FETCH_S = 300


def find(program: str) -> Path | None:
    """Return one of the two programs, if it is there."""
    if found := shutil.which(program):
        return Path(found)
    unpacked = _folder() / "usr" / "bin" / program
    return unpacked if unpacked.exists() else None


def missing() -> str:
    """Say which programs are missing; empty where both are there."""
    return " and ".join(program for program in PROGRAMS if find(program) is None)


def fetch() -> None:
    """Unpack Debian's package, if a program is missing and this is a Debian. Raises CalledProcessError, OSError."""
    with cache_lock(waiting=lambda: None):
        if not missing() or shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            return
        with tempfile.TemporaryDirectory() as scratch:
            try:
                _run("apt-get", "download", "prometheus", folder=scratch)
            except subprocess.CalledProcessError:
                # The lists of packages are missing or old; only root may renew them.
                _run("apt-get", "update", folder=scratch)
                _run("apt-get", "download", "prometheus", folder=scratch)
            (package,) = Path(scratch).glob("*.deb")
            unpacked = Path(scratch, "unpacked")
            _run("dpkg", "--extract", str(package), str(unpacked), folder=scratch)
            _folder().parent.mkdir(parents=True, exist_ok=True)
            shutil.move(unpacked, _folder())


def _folder() -> Path:
    return cache_dir() / "debian-prometheus"


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_FETCH_S)


def main() -> int:
    """Fetch what is missing. Exit 1 under CI if something is missing still, since no test may be left out there."""
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        fetch()
    if not missing():
        return 0
    sys.stderr.write(f"headrace: the tests of the alerts are left out: {missing()} not found\n  → {ADVICE}\n")
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
