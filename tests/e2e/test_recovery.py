"""How long it takes from a worker's death to the next prediction of its partitions."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition
from fleet import DYNAMIC, START_S, STUCK_S, Fleet, fleet, said, shares, tell
from harness import Project, steady, values, wait_until
from oracle import promise
from trap import SOAK

pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("alone")]

Make = Callable[..., Project]

KILLS = 8 if SOAK else 3


class Arrivals(threading.Thread):
    """Reads predictions as they are committed, and notes when each partition's first new one came."""

    def __init__(self, p: Project) -> None:
        super().__init__(daemon=True)
        self._p = p
        self._ended = threading.Event()
        self._seen: list[tuple[int, int, float]] = []

    def run(self) -> None:
        p = self._p
        reader = Consumer({**p.client, "group.id": f"{p.name}-arrivals", "isolation.level": "read_committed"})
        reader.assign([TopicPartition(p.predictions, n) for n in p.sent])
        while not self._ended.is_set():
            message = reader.poll(0.1)
            if message is not None and message.error() is None:
                made_ms = json.loads(message.value())["ts"]
                self._seen.append((message.partition(), made_ms, time.time()))
        reader.close()

    def recovery_s(self, partitions: Sequence[int], killed_s: float) -> float:
        """Wait for a prediction of each partition that was made after a time; return how long the last took."""
        left, came_s = set(partitions), killed_s
        until = time.monotonic() + STUCK_S
        at = 0
        while left:
            assert time.monotonic() < until, f"partitions {sorted(left)} are stuck"
            for partition, made_ms, seen_s in self._seen[at:]:
                at += 1
                if partition in left and made_ms > killed_s * 1000:
                    left.discard(partition)
                    came_s = max(came_s, seen_s)
            time.sleep(0.01)
        return came_s - killed_s

    def end(self) -> None:
        self._ended.set()
        self.join(10)


@contextmanager
def arrivals(p: Project) -> Iterator[Arrivals]:
    reading = Arrivals(p)
    reading.start()
    try:
        yield reading
    finally:
        reading.end()


def _p95(taken: list[float]) -> float:
    return sorted(taken)[max(0, round(0.95 * len(taken)) - 1)]


def _figures(taken: list[float]) -> str:
    each = ", ".join(f"{s:.1f}" for s in sorted(taken))
    return f"p95 {_p95(taken):.1f} s of {each}; load {os.getloadavg()[0]:.1f}"


def test_another_run_goes_on_within_eleven_seconds_of_a_machines_death(project: Make) -> None:
    p = project(partitions=6)
    taken: list[float] = []
    with (
        promise(p),
        steady(p, values(60_000, bad_every=50), per_second=200) as producing,
        fleet(p) as runs,
        arrivals(p) as seen,
    ):
        runs.start(DYNAMIC)
        for _ in range(KILLS):
            runs.start(DYNAMIC)
            wait_until(lambda: _shared(p, runs), what="both to have partitions", timeout_s=START_S)
            victim = runs.runs[0]
            partitions = shares(p)[victim.worker()]
            runs.kill(victim)
            taken.append(seen.recovery_s(partitions, time.time()))
        producing.stop()
        p.wait_for_all()
        runs.stop_all()
    tell(f"another run takes over: {_figures(taken)}")
    assert _p95(taken) <= 11, _figures(taken)


def _shared(p: Project, runs: Fleet) -> bool:
    """Tell whether the workers that are there have all partitions between them."""
    had = shares(p)
    held = [had.get(worker, []) for run in runs.runs for worker in run.workers()]
    return len(held) == len(runs.runs) and all(held) and sorted(n for part in held for n in part) == list(p.sent)


def test_a_worker_that_its_parent_starts_again_goes_on_within_four_seconds(project: Make) -> None:
    p = project(partitions=6)
    taken: list[float] = []
    with (
        promise(p),
        steady(p, values(60_000, bad_every=50), per_second=200) as producing,
        p.running(workers=3) as run,
        arrivals(p) as seen,
    ):
        wait_until(
            lambda: [len(held) for held in shares(p).values()] == [2, 2, 2],
            what="two partitions for each",
            timeout_s=START_S,
        )
        victims, rebalances = run.workers(), said(run, "partitions assigned")
        for number in range(KILLS):
            victim = victims[number % 3]
            partitions = wait_until(lambda victim=victim: shares(p).get(victim), what="its partitions")
            os.kill(victim, signal.SIGKILL)
            taken.append(seen.recovery_s(partitions, time.time()))
            victims[number % 3] = (set(run.workers()) - set(victims)).pop()
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    tell(f"the parent starts it again: {_figures(taken)}")
    assert _p95(taken) <= 4, _figures(taken)
    assert said(run, "partitions assigned") == rebalances + KILLS, "the other workers kept what they had"
