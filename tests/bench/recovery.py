"""Measures the time from a SIGKILL to the next prediction, with many records after the newest snapshot.

There are three measurements: the worker is killed, and its parent starts another; all processes are killed and started
again; and the same with machines that have numbers, so that the worker has the same group instance id again. The time
runs from the kill until a `read_committed` reader can read a prediction for a record that was sent after the kill.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from meter import PeerFailed, descendants, stop
from project import Project
from spread import spread, told
from stream import Feed, plain
from topic import Board

from headrace.state.store.store import Store

KILLS = {
    "worker": "the worker, which its parent starts again",
    "all": "worker and parent, started again at once",
    "numbered": "the same with HEADRACE_ORDINAL=0",
}

_START_S = 120.0
_TICK_S = 0.01
_NEVER = {"snapshot.interval": "24h", "snapshot.records_max": 1_000_000_000}

Recoveries = dict[str, dict[str, float]]
"""Seconds, by the killed processes: to the `first` new prediction, and until `each` partition had one."""


class Bench:
    """Kills of Headrace on its own topic."""

    def __init__(self, project: Project, board: Board, *, count: int, partitions: int) -> None:
        self._project = project
        self._board = board
        self._count = count
        self._partitions = partitions

    def measure(self, repeat: int) -> Recoveries:
        """Kill first the worker, then all processes, each on its own stream. Raises PeerFailed."""
        return {what: self._kill(what, f"bench.recovery.{what}.{repeat}") for what in KILLS}

    def _kill(self, what: str, name: str) -> dict[str, float]:
        feed = Feed(f"{name}.in", self._count, self._partitions)
        self._board.fill(feed.name, feed.partitions, feed.rows())
        self._board.make(name, self._partitions)
        with self._running(name, what) as run:
            self._wait_for_all(name, run)
            saved = [n[0]["learned"] for p in range(self._partitions) if (n := self._store(name).notes(p))]
            if sum(saved) > self._count / 100:
                raise PeerFailed(f"{sum(saved)} of {self._count} records were in a snapshot when it was killed")
            before = self._board.ends(name, self._partitions)
            workers = descendants(run.pid)[1:]
            for pid in workers if what == "worker" else [run.pid, *workers]:
                os.kill(pid, signal.SIGKILL)
            killed_s = time.monotonic()
            self._send_one_each(feed.name)
            if what == "worker":
                return self._recovered(name, before, killed_s, run)
            run.wait()
        with self._running(name, what) as run:
            return self._recovered(name, before, killed_s, run)

    @contextmanager
    def _running(self, name: str, what: str) -> Iterator[subprocess.Popen[bytes]]:
        command, env = self._project.command(name, features=f"{name}.in", settings=_NEVER, until_end=False)
        env |= {"HEADRACE_ORDINAL": "0"} if what == "numbered" else {}
        with (
            self._project.log(name).open("ab") as out,
            subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as run,
        ):
            try:
                yield run
            finally:
                stop(run)

    def _store(self, name: str) -> Store:
        return Store(self._project.addresses.redis, name=name)

    def _wait_for_all(self, name: str, run: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + _START_S
        while sum(self._board.ends(name, self._partitions)) < self._count:
            if run.poll() is not None or time.monotonic() > until:
                raise PeerFailed(f"not all of {self._count} records were answered before the kill")
            time.sleep(_TICK_S)
        # The markers of the last transactions have offsets, too: by now they are written.
        time.sleep(1)

    def _send_one_each(self, features: str) -> None:
        producer = self._board.producer(**{"linger.ms": 0})
        for partition, row in enumerate(plain(self._partitions)):
            producer.produce(features, partition=partition, **row)
        producer.flush(_START_S)

    def _recovered(
        self, name: str, before: Sequence[int], killed_s: float, run: subprocess.Popen[bytes]
    ) -> dict[str, float]:
        first_s = 0.0
        while True:
            ends, now_s = self._board.ends(name, self._partitions), time.monotonic()
            more = [end > had for end, had in zip(ends, before, strict=True)]
            if any(more):
                first_s = first_s or now_s - killed_s
            if all(more):
                break
            if run.poll() is not None or now_s > killed_s + _START_S:
                raise PeerFailed(f"no new prediction within {_START_S:.0f} s of the kill")
            time.sleep(_TICK_S)
        learned = self._project.log(name).read_text(errors="replace").count("relearn")
        if not learned:
            raise PeerFailed("nothing was relearned after the kill: the figure would mean nothing")
        return {"first_s": first_s, "each_s": now_s - killed_s}


def summary(runs: Sequence[Recoveries]) -> dict[str, Any]:
    """Return the median, minimum and maximum over the repeats."""
    return {
        what: {
            "title": title,
            **{key: spread([run[what][key] for run in runs], 2) for key in ("first_s", "each_s")},
        }
        for what, title in KILLS.items()
    }


def table(found: Mapping[str, Mapping[str, Any]], *, count: int) -> str:
    """Format the recoveries as a table."""
    lines = [f"{f'killed with {count:,} records behind':48}{'first prediction':>22}{'each partition':>22}"]
    for row in found.values():
        first, each = (told(row[key], unit=" s") for key in ("first_s", "each_s"))
        lines.append(f"{row['title']:48}{first:>22}{each:>22}")
    return "\n".join(lines)
