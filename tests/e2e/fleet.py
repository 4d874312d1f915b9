"""Several runs of one pipeline, each as if on its own machine, and the partitions that each of them has.

Each run has its own folder for locks, so it learns about the others only from the store and the group.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from harness import Project, Run, wait_until
from oracle import Watch

from headrace.state.store.roster import Roster
from headrace.state.store.store import Store

SESSION_S = 3.0
STUCK_S = 30.0
START_S = 60.0
DYNAMIC = {"group.instance.id": ""}
SHORT_SESSION = {"session.timeout.ms": int(SESSION_S * 1000), "heartbeat.interval.ms": 500}
# The open transaction of a stopped process keeps the offsets of its partitions unstable for this time.
SHORT_TRANSACTION = {"transaction.timeout.ms": 5_000}


class Fleet:
    """The runs of one pipeline on several machines, each started and ended by itself."""

    def __init__(self, p: Project, exit_stack: ExitStack) -> None:
        self._p = p
        self._exit = exit_stack
        self._started = 0
        self.runs: list[Run] = []
        self.ended: list[Run] = []

    def start(self, client: dict[str, Any], *, workers: int = 1, **settings: str) -> Run:
        self._started += 1
        directory = self._p.directory / f"machine-{self._started}"
        locks = directory / "tmp"
        locks.mkdir(parents=True)
        machine = dataclasses.replace(self._p, directory=directory, settings={"TMPDIR": str(locks), **settings})
        lines = [f'"{name}" = {json.dumps(value)}' for name, value in client.items()]
        with machine.file.open("a") as file:
            file.write("\n".join(["[kafka.librdkafka]", *lines, ""]))
        run = self._exit.enter_context(machine.running(workers=workers))
        self.runs.append(run)
        return run

    def stop(self, run: Run) -> None:
        """Stop a run like an operator does."""
        self._leaves(run)
        run.worker()
        assert run.stop() == 0, run.log()

    def kill(self, run: Run) -> None:
        """End a run like a power failure of its machine: kill the parent and its workers at the same time."""
        self._leaves(run)
        for pid in [run.process.pid, *run.workers()]:
            os.kill(pid, signal.SIGKILL)
        run.process.wait()

    def stop_all(self) -> None:
        """Stop all runs at the same time, after the store has everything that was learned."""
        p = self._p
        wait_until(lambda: saved(p) == [len(sent) for sent in p.sent.values()], what="everything to be saved")
        for run in self.runs:
            run.worker()
            run.process.terminate()
        for run in self.runs:
            assert run.process.wait(20) == 0, run.log()
        self.ended += self.runs

    def said(self, words: str) -> int:
        """Count words in the logs of all runs, including those that have ended."""
        return sum(said(run, words) for run in {id(run): run for run in (*self.runs, *self.ended)}.values())

    def _leaves(self, run: Run) -> None:
        self.runs.remove(run)
        self.ended.append(run)


@contextmanager
def fleet(p: Project) -> Iterator[Fleet]:
    with ExitStack() as exit_stack:
        yield Fleet(p, exit_stack)


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def said(run: Run, words: str) -> int:
    return run.log_file.read_text(errors="replace").count(words)


def saved(p: Project) -> list[int]:
    with redis.Redis.from_url(p.stack.addresses.redis) as store:
        return [int(store.hget(f"{p.name}:{{{p.name}/{n}}}:head", "offset") or -1) for n in p.sent]


def reached(p: Project, watch: Watch) -> dict[int, int]:
    """Return for each partition the last record whose prediction a `read_committed` reader has seen."""
    return {n: watch.last.get((p.predictions, n), -1) for n in p.sent}


def moves(p: Project, watch: Watch, *, what: str, timeout_s: float = STUCK_S) -> None:
    """Wait until the reader has seen, in every partition, a record that was sent after this call."""
    since, until = {n: len(sent) for n, sent in p.sent.items()}, time.monotonic() + timeout_s
    while stuck := [n for n, offset in reached(p, watch).items() if offset < since[n]]:
        assert time.monotonic() < until, f"partitions {stuck} are stuck after: {what}"
        time.sleep(0.05)


def shares(p: Project) -> dict[int, list[int]]:
    """Return the partitions in the note of each worker, by its process id."""
    return {pid: note.get("partitions", []) for pid, note in notes(p).items()}


def notes(p: Project) -> dict[int, dict[str, Any]]:
    """Return the note of each worker, by its process id."""
    told = Roster(Store(p.stack.addresses.redis, name=p.name), name=p.name).notes()
    return {note["pid"]: note for note in told.values()}
