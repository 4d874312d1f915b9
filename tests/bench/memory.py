"""Measures Headrace's memory during millions of records: the resident bytes after each million.

The topic is filled a little ahead of its reader, with the same records again and again.
"""

import subprocess
import time
from typing import Any

from meter import PeerFailed, Usage, stop
from project import Project
from stream import plain
from topic import Board

MILLION = 1_000_000

_TEMPLATES = 20_000
_CHUNK = 50_000
_AHEAD = 200_000
_STILL_S = 60.0
_TICK_S = 0.02

Resident = dict[str, int]
"""Resident bytes of the worker, by the number of records that it had predicted."""


class Bench:
    """A run of Headrace that gets records while it runs."""

    def __init__(self, project: Project, board: Board, *, count: int, partitions: int) -> None:
        self._project = project
        self._board = board
        self._count = count
        self._partitions = partitions
        rows = list(plain(_TEMPLATES))
        self._rows = [rows[partition::partitions] for partition in range(partitions)]

    def measure(self) -> Resident:
        """Send all records, and return the worker's memory during the run. Raises PeerFailed."""
        name = "bench.memory"
        self._board.make(name, self._partitions)
        self._board.make(f"{name}.in", self._partitions)
        command, env = self._project.command(name, features=f"{name}.in", until_end=False)
        with (
            self._project.log(name).open("wb") as out,
            subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as run,
        ):
            try:
                return self._feed(name, run)
            finally:
                stop(run)

    def _feed(self, name: str, run: subprocess.Popen[bytes]) -> Resident:
        producer = self._board.producer(**{"linger.ms": 5, "queue.buffering.max.messages": 2 * _AHEAD})
        used, found, sent, seen, moved_s = Usage(run.pid), {}, 0, 0, time.monotonic()
        while seen < self._count:
            if sent < self._count and sent - seen < _AHEAD:
                sent += self._send(producer, f"{name}.in")
            producer.poll(_TICK_S if sent - seen >= _AHEAD or sent >= self._count else 0)
            # The marker of a transaction has an offset, too: a few among thousands.
            now, now_s = sum(self._board.ends(name, self._partitions)), time.monotonic()
            moved_s = now_s if now > seen else moved_s
            _, _, held = used.read()
            for million in range(seen // MILLION + 1, min(now, self._count) // MILLION + 1):
                found[f"{million * MILLION}"] = held
            seen = now
            if run.poll() is not None or now_s > moved_s + _STILL_S:
                raise PeerFailed(f"headrace stands still at {seen} of {self._count} records")
        return found

    def _send(self, producer: Any, features: str) -> int:
        sent = 0
        while sent < _CHUNK:
            for partition, rows in enumerate(self._rows):
                sent += producer.produce_batch(features, [dict(row) for row in rows], partition=partition)
        return sent


def table(found: Resident) -> str:
    """Format the memory as a table."""
    lines = [f"{'memory':36}{'resident':>11}   of that after the first million"]
    first = next(iter(found.values()))
    for mark, held in found.items():
        lines.append(f"{f'after {int(mark):,} records':36}{held / 1e6:>8,.0f} MB   {held / first:.3f}")
    return "\n".join(lines)
