"""Makes `.venv`: the packages of requirements.lock, each checked by its hash, and the project itself, editable.

`make` runs this first, so it needs only the standard library and the syntax of Python 3.8: an old Python can then
say which version is needed. A stamp names what a finished `.venv` was made from. A `.venv` without a stamp was
interrupted and is made again, unless a person or an editor made it.
"""  # noqa: INP001 a script that stands alone

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

NEEDED = (3, 11)
ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "made-from.json"
LOG = VENV / "setup.log"
OURS = VENV / "made-by-make"
LOCK = ROOT / "requirements.lock"

TICK_S = 0.2
PLAIN_EVERY_S = 15.0
LINES_KEPT = 2_000

# Wheels only: building from source would run code that no hash covers, with tools that no lock names. Bytecode is
# left to the first import: most modules are never imported, and compiling them all takes as long as the rest.
CHECKED = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile", "--progress-bar", "off")
PROJECT = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--editable", str(ROOT))
# The imports of a worker. Their bytecode is written now: without it every start would take seconds longer.
LOADS = "from river import anomaly, compose, linear_model, preprocessing; import headrace.pipeline.commands.cli; "
LOADS += "import headrace.pipeline.engine.columnar; import headrace.pipeline.worker.worker"

AWAY = "NameResolution|NewConnection|ConnectTimeout|ReadTimeout|timed out|ProxyError|SSLError|Connection ?Reset|"
AWAY += "Connection refused|Connection aborted|Network is unreachable|IncompleteRead|50[0234] Server Error"
# Messages of pip, most specific first: without a network, its last line says that a package does not exist.
CAUSES = {
    "DO NOT MATCH THE HASHES": (
        "a download is not the file that requirements.lock names",
        "do not go on; try another network, or ask who serves your packages",
    ),
    "No space left on device": ("the disk is full", "make room and run the same again"),
    AWAY: (
        "the packages can't be downloaded",
        "check the network (HTTPS_PROXY behind a proxy, PIP_INDEX_URL for a mirror) and run the same again",
    ),
    "No matching distribution found": (
        "a package has no wheel for this Python on this machine",
        "name another Python: make PYTHON=python3.12",
    ),
}


class SetupError(Exception):
    """Raised when `.venv` can't be made; `hint` says what to do next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Progress:
    """Shows the present step on stderr. A terminal gets one line that is updated; a log gets a few plain lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._title = ""
        self._started = time.monotonic()
        self._plain_at = 0.0

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._stream.write(f"\r\033[2K{line}\n" if self._live else f"{line}\n")
        self._stream.flush()

    def step(self, title: str) -> None:
        """Begin a step."""
        self._title = title
        self._plain_at = time.monotonic() + PLAIN_EVERY_S
        if self._live:
            self.tick("")
        else:
            self.say(f"headrace: {title}")

    def tick(self, detail: str) -> None:
        """Show that the step goes on, with a detail."""
        now = time.monotonic()
        elapsed = f"{now - self._started:.0f} s"
        if self._live:
            line = " · ".join(part for part in (f"headrace: {self._title}", elapsed, detail) if part)
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\033[2K{line[:width]}")
            self._stream.flush()
        elif now >= self._plain_at:
            self._plain_at = now + PLAIN_EVERY_S
            self.say(f"headrace: … {elapsed} {detail}".rstrip())

    def end(self, line: str) -> None:
        """Print the last line, with the total time."""
        self.say(f"headrace: {line} ({time.monotonic() - self._started:.0f} s)")


def wanted() -> dict[str, str]:
    """Return what a finished `.venv` is made from. If one of these changes, a new one is needed."""
    return {
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "python": f"{sys.implementation.cache_tag} {sys.platform} {os.uname().machine}",
        "folder": str(ROOT),
        "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
    }


def made() -> dict[str, str]:
    """Return what the present `.venv` was made from; empty if there is none, or an unfinished one."""
    try:
        found = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def packages_fit(found: dict[str, str], want: dict[str, str]) -> bool:
    """Tell whether the packages fit, so that at most the project itself must be installed again."""
    return {**found, "project": ""} == {**want, "project": ""}


def set_up(lock: IO[bytes], progress: Progress) -> None:
    """Make `.venv` what it should be. Raises SetupError."""
    want, found = wanted(), made()
    fits = packages_fit(found, want) and _works()
    if fits and found == want:
        return
    # An interruption from here on leaves no stamp, and the next run starts from the beginning.
    STAMP.unlink(missing_ok=True)
    if not fits:
        version = ".".join(map(str, sys.version_info[:3]))
        progress.say(f"headrace: setting up .venv with Python {version}, once; the downloads are some 150 MB")
        if not _is_somebodys():
            progress.step("making .venv")
            _make_venv(lock, progress)
        progress.step("installing the packages of requirements.lock")
        _run([*_pip(), "install", *CHECKED, "--requirement", str(LOCK)], lock, progress)
    progress.step("installing the project")
    _run([*_pip(), "install", *PROJECT], lock, progress)
    if not fits:
        progress.step("loading everything once")
        _run([str(PYTHON), "-I", "-c", LOADS], lock, progress)
    STAMP.write_text(json.dumps(want), encoding="utf-8")
    progress.end("ready")


def refusal(version: tuple[int, int]) -> str:
    """Say which Python is needed if `version` is too old; return an empty text if it is not."""
    if version >= NEEDED:
        return ""
    have, need = (".".join(map(str, pair)) for pair in (version, NEEDED))
    return (
        f"this is Python {have}; {need} or newer is needed: install one, or name it: make PYTHON=/path/to/python{need}"
    )


def explain(output: str) -> SetupError:
    """Turn what a failed command printed into one sentence and what to do next."""
    for pattern, (message, hint) in CAUSES.items():
        if re.search(pattern, output):
            return SetupError(message, hint=hint)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # If pip itself fails, it prints "ERROR: Exception:" and a traceback: the last line has the cause.
    errors = [line for line in lines if line.lower().startswith("error") and not line.endswith(":")]
    last = (errors or lines or ["it did not say why"])[-1]
    return SetupError(f"a command failed: {last[:300]}", hint=f"all that it said is in {LOG.relative_to(ROOT)}")


def _works() -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([str(PYTHON), "-I", "-S", "-c", ""], check=False).returncode == 0  # noqa: S603 our own
    return False


def _is_somebodys() -> bool:
    """Tell whether the `.venv` that this runs in was made by a person or an editor: packages are added to it."""
    return not OURS.exists() and Path(sys.executable).parent.resolve() == PYTHON.parent.resolve()


def _make_venv(lock: IO[bytes], progress: Progress) -> None:
    if importlib.util.find_spec("venv") is None:
        raise SetupError("this Python can't make virtual environments", hint="on Debian: apt install python3-venv")
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    OURS.touch()
    # This may run with the Python of the .venv that was just deleted.
    base = getattr(sys, "_base_executable", None) or sys.executable
    bare = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
    _run([base, "-I", "-m", "venv", *bare, str(VENV)], lock, progress)


def _pip() -> list[str]:
    """Return the command of a pip that installs into `.venv`: its own, or one from outside that is new enough."""
    if any(VENV.glob("lib/python*/site-packages/pip/__main__.py")):
        return [str(PYTHON), "-I", "-m", "pip"]
    # Debian without python3-venv has no ensurepip, but may have a pip.
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    for name in ("pip3", "pip"):
        found = shutil.which(name)
        if found:
            return [found, "--python", str(PYTHON)]
    raise SetupError("this Python has no pip", hint="install it (on Debian: apt install python3-venv)")


def _run(command: list[str], lock: IO[bytes], progress: Progress) -> None:
    """Run a command to its end, showing what it is at. Raises SetupError when it fails."""
    # If pip outlives this process it keeps the lock, so that the next run waits for it.
    process = subprocess.Popen(  # noqa: S603 our own commands
        command,
        cwd=ROOT,
        env={**os.environ, "PIP_NO_INPUT": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock.fileno()],
    )
    try:
        output = _follow(process, progress)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    with LOG.open("a", encoding="utf-8") as log:
        log.write(output)
    if process.wait() != 0:
        raise explain(output)


def _follow(process: subprocess.Popen[bytes], progress: Progress) -> str:
    assert process.stdout is not None
    lines: list[str] = []
    rest, detail = b"", ""
    while True:
        progress.tick(detail)
        readable, _, _ = select.select([process.stdout], [], [], TICK_S)
        if not readable:
            continue
        chunk = os.read(process.stdout.fileno(), 65_536)
        if not chunk:
            break
        *whole, rest = (rest + chunk).split(b"\n")
        for raw in whole:
            line = raw.decode(errors="replace")
            lines = [*lines[-LINES_KEPT:], line]
            detail = describe(line) or detail
    return "\n".join([*lines, rest.decode(errors="replace"), ""])


def describe(line: str) -> str:
    """Summarise a line of pip in a word; return an empty text if it has nothing to say."""
    collecting = re.match(r"Collecting ([\w.-]+)", line)
    if collecting:
        return collecting[1]
    if "Retrying" in line:
        return "the network does not answer, trying again"
    return "unpacking" if line.startswith("Installing collected") else ""


def main(arguments: list[str]) -> int:
    """Make `.venv`. With `--check`, only report by the exit code whether it is ready."""
    if arguments == ["--check"]:
        return int(made() != wanted())
    progress = Progress(sys.stderr)
    refused = refusal(sys.version_info[:2])
    if refused:
        progress.say(f"headrace: {refused}")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LOCK.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.say("headrace: another `make` is setting up .venv; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            set_up(lock, progress)
    except SetupError as error:
        progress.say(f"headrace: {error}: {error.hint}")
        return 1
    except OSError as error:
        progress.say(f"headrace: .venv can't be made: {error}: mend that and run the same again")
        return 1
    except KeyboardInterrupt:
        progress.say("headrace: stopped; the next `make` sets up afresh")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
