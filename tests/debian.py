"""Programs of Debian's packages for the tests: those of this machine, or the package's, unpacked in the cache.

A package is only unpacked: installing it would start a service. `python tests/prometheus.py` and `tests/nginx.py` fetch
theirs if it is needed, and say what to install where it can't be had; `make test` runs both first.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from headrace.pipeline.embedded.jars import cache_dir, cache_lock

_FETCH_S = 300


class DebianPrograms:
    """The programs that tests need of one package. `advice` says what to install where the package can't be had."""

    def __init__(self, package: str, *programs: str, needed_for: str, advice: str) -> None:
        self.advice = advice
        self._package = package
        self._programs = programs
        self._needed_for = needed_for

    def find(self, program: str) -> Path | None:
        """Return one of the programs, if it is there."""
        if found := shutil.which(program):
            return Path(found)
        places = (self._folder() / "usr" / folder / program for folder in ("bin", "sbin"))
        return next((place for place in places if place.exists()), None)

    def missing(self) -> str:
        """Say which programs are missing; empty where all are there."""
        return " and ".join(program for program in self._programs if self.find(program) is None)

    def main(self) -> int:
        """Fetch what is missing. Exit 1 under CI if something is missing still, since no test may be left out there."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self._fetch()
        if not self.missing():
            return 0
        words = f"the tests of {self._needed_for} are left out: {self.missing()} not found\n  → {self.advice}"
        sys.stderr.write(f"headrace: {words}\n")
        return 1 if os.environ.get("CI") else 0

    def _fetch(self) -> None:
        """Unpack the package, if a program is missing and this is a Debian. Raises CalledProcessError, OSError."""
        with cache_lock(waiting=lambda: None):
            if not self.missing() or shutil.which("apt-get") is None or shutil.which("dpkg") is None:
                return
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    _run("apt-get", "download", self._package, folder=scratch)
                except subprocess.CalledProcessError:
                    # The lists of packages are missing or old; only root may renew them.
                    _run("apt-get", "update", folder=scratch)
                    _run("apt-get", "download", self._package, folder=scratch)
                (package,) = Path(scratch).glob("*.deb")
                unpacked = Path(scratch, "unpacked")
                _run("dpkg", "--extract", str(package), str(unpacked), folder=scratch)
                self._folder().parent.mkdir(parents=True, exist_ok=True)
                shutil.move(unpacked, self._folder())

    def _folder(self) -> Path:
        return cache_dir() / f"debian-{self._package}"


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_FETCH_S)
