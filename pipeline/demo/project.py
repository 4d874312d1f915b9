"""The projects of the demo, as a user would write them, and the `headrace` commands that run on them."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.pipeline.config import config as configuration
from headrace.pipeline.embedded import Addresses
from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.process.rundir import RunDir

_SERVERS = """\
name = "{name}"

[kafka]
bootstrap_servers = "{kafka}"

[redis]
url = "{redis}"
timeout = "1s"                  # the store counts as away if an answer takes longer
"""
_PHISHING = """\

[topics]
features = "websites"
predictions = "websites.predictions"
partitions = 1                  # one model sees all records, in order
"""
_FRAUD = """\

[kafka.librdkafka]
"session.timeout.ms" = 3000     # how long the partitions of a killed worker are idle
"heartbeat.interval.ms" = 500

[topics]
features = "payments"
predictions = "payments.predictions"
partitions = 4

[schema.features.amount]
type = "number"
min = 0.0
"""
_MODEL = '''\
"""The model of the pipeline."""

from river import linear_model, preprocessing


def build():
    """Return a new model."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
'''
_FIX = '''\
"""Fixes payments when their dead letters are replayed."""

import json


def amount(value: bytes) -> bytes | None:
    """Convert an amount from text to a number; leave every other record where it is."""
    record = json.loads(value)
    text = record["features"]["amount"]
    if not isinstance(text, str):
        return None
    record["features"]["amount"] = float(text.removesuffix(" EUR").replace(",", ""))
    return json.dumps(record).encode()
'''
_FILES = {
    "phishing": {"headrace.toml": _SERVERS + _PHISHING, "model.py": _MODEL},
    "fraud": {"headrace.toml": _SERVERS + _FRAUD, "model.py": _MODEL, "fix.py": _FIX},
}
_END_S = 20.0
_TAIL_LINES = 15


class Process:
    """A `headrace` command in a session of its own, which ends with the demo, in whatever way that ends."""

    def __init__(self, argv: list[str], *, reaper: Reaper, out: Path, log: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not is_ours(name)}
        self._out = out
        self._reaper = reaper
        with out.open("wb") as stdout, log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 our own command
                [sys.executable, "-m", "headrace", *argv],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the demo, which ends its commands itself
            )
        reaper.watch(self._process.pid)

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    def finish(self) -> int | None:
        """Ask it to finish, and return its exit code; None when it did not in time."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        return self.code

    def kill(self) -> None:
        """End it, and its workers, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reaper.forget(self._process.pid)


class Project:
    """A folder with a configuration and a model, on the embedded servers."""

    def __init__(self, name: str, *, directory: Path, addresses: Addresses, reaper: Reaper) -> None:
        directory.mkdir()
        for file, text in _FILES[name].items():
            filled = (
                text.replace("{name}", name).replace("{kafka}", addresses.kafka).replace("{redis}", addresses.redis)
            )
            (directory / file).write_text(filled, encoding="utf-8")
        self.file = directory / "headrace.toml"
        self.config = configuration.load(self.file)
        self._directory = directory
        self._reaper = reaper
        self._processes: list[Process] = []
        self._rundir = RunDir(self.config)
        self._log = directory / "headrace.log"

    def start(self, *words: str) -> Process:
        """Start a `headrace` command on this project."""
        out = self._directory / f"command-{len(self._processes)}.out"
        process = Process([*words, "-c", str(self.file)], reaper=self._reaper, out=out, log=self._log)
        self._processes.append(process)
        return process

    def end(self) -> None:
        """Kill the commands that still run, and remove the files outside the folder."""
        for process in self._processes:
            process.kill()
        with contextlib.suppress(OSError):
            self._rundir.remove()

    def build(self) -> Callable[[], Any]:
        """Return the factory of model.py."""
        factory: Callable[[], Any] = runpy.run_path(str(self._directory / "model.py"))["build"]
        return factory

    def worker(self) -> dict[str, Any]:
        """Return the worker's note, as `headrace status` reads it; empty if there is none yet."""
        return next(iter(self._rundir.notes().values()), {})

    def log_size(self) -> int:
        """Return the size of the log, in bytes."""
        return self._log.stat().st_size

    def events(self, event: str, *, since: int) -> list[dict[str, Any]]:
        """Return the log's lines with this event, from byte `since` on."""
        # A command may still be writing the last line.
        lines = self._log.read_bytes()[since:].split(b"\n")[:-1]
        found = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [line for line in found if line["event"] == event]

    def last_words(self) -> list[str]:
        """Return the last lines of the log, if there is one."""
        if not self._log.exists():
            return []
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]


def is_ours(variable: str) -> bool:
    """Return whether an environment variable would change the demo's pipelines; it is meant for the user's own."""
    return variable.upper().startswith(configuration.ENV_PREFIX) or variable == "HEADRACE_ORDINAL"
