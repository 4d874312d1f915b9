"""Measures `headrace serve` beside FastAPI with River, and beside chantilly's logic, under one load in one run."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lineup import Lineup
from meter import PeerFailed, stop
from model import build
from project import Project
from stream import Feed, events
from topic import Board

from headrace.pipeline.embedded.port import free_ports

LEARNED = 20_000
BATCH = 1_000
CONNECTIONS = 64
APART_MAX = 1e-9
TITLES = {
    "headrace-serve": "headrace serve",
    "fastapi": "FastAPI and River",
    "flask": "Flask, pickle in Redis",
}
NEEDS = {"fastapi": "fastapi", "flask": "flask"}

_HERE = Path(__file__).parent
_START_S = 120.0
_LOAD_S = 120.0

Figures = dict[str, dict[str, float]]
"""The figures of a program: `single`, `batch` of Headrace alone, and `open` at half of its peak."""


class Bench:
    """Servers of a model that has learned the same records, each asked for `seconds`."""

    def __init__(self, project: Project, board: Board, lineup: Lineup, *, seconds: float) -> None:
        self._project = project
        self._board = board
        self._lineup = lineup
        self._seconds = seconds
        self._event = next(iter(events(1)))
        self._truth = self._expected()
        self._files = self._bodies()
        self._settings = self._learn()

    def present(self) -> list[str]:
        """Return the installed programs."""
        return [name for name in TITLES if name not in NEEDS or NEEDS[name] in self._lineup.versions]

    def measure(self, name: str, _repeat: int) -> Figures:
        """Start a server, check its answer, ask it, and end it. Raises PeerFailed."""
        with self._running(name) as port:
            self._check(name, port)
            self._ask(port, "single", CONNECTIONS, 1.0)
            found = {"single": self._ask(port, "single", CONNECTIONS, self._seconds)}
            if name == "headrace-serve":
                found["batch"] = self._ask(port, "batch", 4, self._seconds)
                found["batch"]["rows_s"] = BATCH * found["batch"]["requests_s"]
                half = found["single"]["requests_s"] / 2
                found["open"] = self._ask(port, "single", CONNECTIONS, self._seconds, half)
        if name == "headrace-serve" and any(of["failed"] for of in found.values()):
            raise PeerFailed(f"{TITLES[name]} failed: {found}")
        return found

    def _expected(self) -> float:
        model = build()
        for event in events(LEARNED):
            model.learn_one(event["features"], event["label"])
        return float(model.predict_proba_one(self._event["features"])[True])

    def _bodies(self) -> dict[str, Path]:
        one = {"id": "bench-1", "features": self._event["features"]}
        rows = {"instances": [event["features"] for event in events(BATCH)]}
        files = {name: self._project.directory / f"{name}.json" for name in ("single", "batch")}
        files["single"].write_text(json.dumps(one))
        files["batch"].write_text(json.dumps(rows))
        return files

    def _learn(self) -> dict[str, str]:
        """Let a pipeline learn the records; return its name and topic."""
        name, feed = "bench.serve", Feed("bench.serve.features", LEARNED, 1)
        self._board.fill(feed.name, 1, feed.rows())
        self._board.make(name, 1)
        command, env = self._project.command(name, features=feed.name)
        with self._project.log(name).open("wb") as log:
            subprocess.run(command, env=env, stdout=log, stderr=log, timeout=_LOAD_S, check=True)
        return {"name": name, "features": feed.name}

    @contextlib.contextmanager
    def _running(self, name: str) -> Iterator[int]:
        [port] = free_ports(1)
        with self._project.log(f"{name}.{port}").open("wb") as log:
            command, env = self._command(name, port)
            process = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, cwd=self._project.directory, start_new_session=True
            )
            try:
                _wait_until_ready(process, port, TITLES[name])
                yield port
            finally:
                stop(process)

    def _command(self, name: str, port: int) -> tuple[Sequence[str], dict[str, str]]:
        if name == "headrace-serve":
            file = self._project.directory / f"{self._settings['name']}.toml"
            env = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
            return [sys.executable, "-m", "headrace", "serve", "--port", str(port), "-c", str(file)], env
        words = [str(port), str(LEARNED), *([self._project.addresses.redis] if name == "flask" else [])]
        return [str(self._lineup.python), "-W", "ignore", str(_HERE / f"peer_{name}.py"), *words], dict(os.environ)

    def _check(self, name: str, port: int) -> None:
        """Check that a server answers as River does."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict",
            self._files["single"].read_bytes(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
        apart = abs(answer["proba"]["true"] - self._truth)
        if apart > APART_MAX:
            raise PeerFailed(f"{TITLES[name]} did not predict what River does: {apart:.1g} apart")

    def _ask(self, port: int, kind: str, connections: int, seconds: float, rate: float = 0.0) -> dict[str, float]:
        words = [str(port), "/predict", str(self._files[kind]), str(connections), str(seconds)]
        command = [sys.executable, str(_HERE / "load.py"), *words, *([str(rate)] if rate else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_S, check=False)
        if done.returncode:
            raise PeerFailed(f"the load could not be made: {done.stderr.strip()[-500:]}")
        found: dict[str, float] = json.loads(done.stdout)
        return found


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, title: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise PeerFailed(f"{title} ended at its start, with exit code {process.returncode}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30).close()
            return
        time.sleep(0.1)
    raise PeerFailed(f"{title} was not ready within {_START_S:.0f} s")


def summary(runs: Sequence[dict[str, Figures]]) -> dict[str, Any]:
    """Return the median of each figure, and how often each program's single answers Headrace gives."""
    found: dict[str, Any] = {}
    for name in runs[0]:
        kinds = runs[0][name]
        found[name] = {
            kind: {figure: statistics.median(run[name][kind][figure] for run in runs) for figure in kinds[kind]}
            for kind in kinds
        }
    first = "headrace-serve"
    for name, of in found.items():
        ratios = [
            run[first]["single"]["requests_s"] / run[name]["single"]["requests_s"] for run in runs if first in run
        ]
        of["times"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return found


def table(found: dict[str, Any]) -> str:
    """Return the figures as lines."""
    lines = [f"{'':<24}{'answers/s':>12}{'p50':>10}{'p99':>10}{'failed':>8}{'headrace is':>26}"]
    for name, of in found.items():
        one, times = of["single"], of["times"]
        beside = f"{times['median']:.1f} times ({times['min']:.1f}-{times['max']:.1f})"
        lines.append(
            f"{TITLES[name]:<24}{one['requests_s']:>12,.0f}{one['p50_ms']:>7.1f} ms{one['p99_ms']:>7.1f} ms"
            f"{one['failed']:>8.0f}{beside:>26}"
        )
    own = found.get("headrace-serve", {})
    if own:
        lines.append(f"batches of {BATCH:,}: {own['batch']['rows_s']:,.0f} rows/s, p99 {own['batch']['p99_ms']:.1f} ms")
        lines.append(f"at half the peak, open loop: p99 {own['open']['p99_ms']:.1f} ms")
    return "\n".join(lines)
