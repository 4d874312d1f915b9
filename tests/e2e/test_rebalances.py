"""The group moves its partitions about: workers come, go, die and sleep, and nothing is lost or learned twice.

Each `headrace run` is one on a machine of its own: it has a folder for its locks, and only the store and the
group tell it of the others.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from harness import Project, Run, steady, values, wait_until
from oracle import Watch, promise

from state.roster import Roster
from state.store import Store

Make = Callable[..., Project]

SESSION_S = 3.0
STUCK_S = 30.0
START_S = 60.0
STEPS = 12
KILLS = 6
WORKERS_MAX = 6
DYNAMIC = {"group.instance.id": ""}
SHORT_SESSION = {"session.timeout.ms": int(SESSION_S * 1000), "heartbeat.interval.ms": 500}
# What a sleeper has in hand keeps its partitions' offsets unstable for as long.
SHORT_TRANSACTION = {"transaction.timeout.ms": 5_000}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "range": {"partition.assignment.strategy": "range", **SHORT_SESSION},
    "cooperative": {"partition.assignment.strategy": "cooperative-sticky", **SHORT_SESSION},
    "kip-848": {"group.protocol": "consumer"},
}


class Fleet:
    """The runs of one pipeline on several machines, started and ended one by one."""

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
        """End a run as an operator does."""
        self._leaves(run)
        run.worker()
        assert run.stop() == 0, run.log()

    def kill(self, run: Run) -> None:
        """End a run as a machine does that loses its power: the parent and its workers at one stroke."""
        self._leaves(run)
        for pid in [run.process.pid, *run.workers()]:
            os.kill(pid, signal.SIGKILL)
        run.process.wait()

    def stop_all(self) -> None:
        """End all at once, when the store has all that was learned."""
        p = self._p
        wait_until(lambda: _saved(p) == [len(sent) for sent in p.sent.values()], what="everything to be saved")
        for run in self.runs:
            run.worker()
            run.process.terminate()
        for run in self.runs:
            assert run.process.wait(20) == 0, run.log()
        self.ended += self.runs

    def said(self, words: str) -> int:
        """Count words in the logs of all runs, of those that have ended too."""
        return sum(_said(run, words) for run in {id(run): run for run in (*self.runs, *self.ended)}.values())

    def _leaves(self, run: Run) -> None:
        self.runs.remove(run)
        self.ended.append(run)


@contextmanager
def fleet(p: Project) -> Iterator[Fleet]:
    with ExitStack() as exit_stack:
        yield Fleet(p, exit_stack)


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def _said(run: Run, words: str) -> int:
    return run.log_file.read_text(errors="replace").count(words)


def _saved(p: Project) -> list[int]:
    with redis.Redis.from_url(p.stack.addresses.redis) as store:
        return [int(store.hget(f"{p.name}:{{{p.name}/{n}}}:head", "offset") or -1) for n in p.sent]


def _reached(p: Project, watch: Watch) -> dict[int, int]:
    """Return the last record of each partition whose prediction a `read_committed` reader has seen."""
    return {n: watch._last.get((p.predictions, n), -1) for n in p.sent}


def _moves(p: Project, watch: Watch, *, what: str, timeout_s: float = STUCK_S) -> None:
    """Wait until the reader has seen, of every partition, a record that was sent after this call."""
    since, until = {n: len(sent) for n, sent in p.sent.items()}, time.monotonic() + timeout_s
    while stuck := [n for n, offset in _reached(p, watch).items() if offset < since[n]]:
        assert time.monotonic() < until, f"partitions {stuck} are stuck after: {what}"
        time.sleep(0.05)


def _short_session(p: Project) -> None:
    """Give the group a short session of the new protocol, where it is the broker's to say."""
    wanted = {"consumer.session.timeout.ms": str(int(SESSION_S * 1000)), "consumer.heartbeat.interval.ms": "500"}
    entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in wanted.items()]
    group = ConfigResource(ResourceType.GROUP, p.name, incremental_configs=entries)
    admin = AdminClient(p.client)
    admin.incremental_alter_configs([group], request_timeout=10)[group].result()


def _step(runs: Fleet, client: dict[str, Any], rng: random.Random) -> tuple[str, Run | None]:
    """Do one thing that changes the group; return its name, and the run whose worker was put to sleep by it."""
    count = len(runs.runs)
    choices = ["crash", "stall"] + ["start"] * 3 * (count < WORKERS_MAX) + ["stop", "kill"] * (count > 1)
    action = rng.choice(choices)
    if action == "start":
        member = rng.choice([DYNAMIC, {}])
        runs.start({**client, **member})
        return f"start a {'dynamic' if member else 'static'} one", None
    run = rng.choice(runs.runs)
    if action == "stop":
        runs.stop(run)
    elif action == "kill":
        runs.kill(run)
    elif action == "crash":
        run.kill_worker()
    else:
        os.kill(run.worker(), signal.SIGSTOP)
        return action, run
    return action, None


def _sleep_out(p: Project, watch: Watch, run: Run, *, alone: bool) -> None:
    """Let a stopped worker sleep past its session, and until the others have taken its partitions; wake it."""
    slept_from, sleeper = time.monotonic(), run.worker()
    if not alone:
        _moves(p, watch, what="a stall")
    wait_until(lambda: time.monotonic() - slept_from > 1.5 * SESSION_S, what="the session to end")
    os.kill(sleeper, signal.SIGCONT)


@pytest.mark.parametrize(("protocol", "seed"), [("range", 11), ("cooperative", 12), ("kip-848", 13)])
def test_workers_come_go_die_and_sleep_and_no_partition_is_stuck(project: Make, protocol: str, seed: int) -> None:
    p = project(partitions=6)
    client, rng = {**PROTOCOLS[protocol], **SHORT_TRANSACTION}, random.Random(seed)
    if protocol == "kip-848":
        _short_session(p)
    steps: list[str] = []
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=300) as producing, fleet(p) as runs:
        runs.start(client)
        runs.start({**client, **DYNAMIC})
        _moves(p, watch, what="the first start", timeout_s=START_S)
        for _ in range(STEPS):
            began = time.monotonic()
            what, sleeper = _step(runs, client, rng)
            if sleeper is not None:
                _sleep_out(p, watch, sleeper, alone=len(runs.runs) == 1)
            _moves(p, watch, what=f"{what} ({protocol}, seed {seed}, after {steps})")
            steps.append(f"{what} → {len(runs.runs)} ({time.monotonic() - began:.1f} s)")
        producing.stop()
        p.wait_for_all()
        runs.stop_all()
        takeovers = runs.said("partition taken over")
        counts = {words: runs.said(words) for words in ("batch dropped", "snapshot refused", "worker died")}
        _tell(f"{protocol}, seed {seed}: {takeovers} takeovers, {counts}; {'; '.join(steps)}")
        assert takeovers > p.partitions + STEPS, "the group moved its partitions about"


def _asleep(run: Run) -> bool:
    workers = run.workers()
    return bool(workers) and Path(f"/proc/{workers[0]}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("member", [{}, DYNAMIC], ids=["static", "dynamic"])
def test_what_a_worker_has_in_hand_when_it_wakes_as_a_zombie_is_refused(project: Make, member: dict[str, Any]) -> None:
    p = project(partitions=4)
    client = {**SHORT_SESSION, **SHORT_TRANSACTION, **member}
    refusals = {"learned": "batch dropped", "offsets": "batch dropped", "committed": "snapshot refused"}
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=200) as producing, fleet(p) as runs:
        zombies = {}
        for place in refusals:
            armed = p.directory / f"{place}.armed"
            failpoint = json.dumps({"at": place, "do": "freeze", "armed": str(armed)})
            zombies[place] = runs.start(client, HEADRACE_FAILPOINT=failpoint)
        runs.start(client)
        wait_until(
            lambda: sorted(map(len, _shares(p).values())) == [1, 1, 1, 1],
            what="a partition for each",
            timeout_s=START_S,
        )
        for place in refusals:
            (p.directory / f"{place}.armed").touch()
        for place, zombie in zombies.items():
            wait_until(lambda zombie=zombie: _asleep(zombie), what=f"the worker to sleep when it has {place}")
        _moves(p, watch, what="three workers fell asleep")
        for zombie in zombies.values():
            os.kill(zombie.worker(), signal.SIGCONT)
        for place, zombie in zombies.items():
            words = refusals[place]
            wait_until(lambda zombie=zombie, words=words: _said(zombie, words), what=f"{words} after {place}")
        _moves(p, watch, what="the zombies woke")
        producing.stop()
        p.wait_for_all()
        runs.stop_all()


def _shares(p: Project) -> dict[int, list[int]]:
    """Return the partitions that each worker says it has, by its process."""
    notes = Roster(Store(p.stack.addresses.redis, name=p.name), name=p.name).notes()
    return {note["pid"]: note.get("partitions", []) for note in notes.values()}


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
            partitions = _shares(p)[victim.worker()]
            runs.kill(victim)
            taken.append(seen.recovery_s(partitions, time.time()))
        producing.stop()
        p.wait_for_all()
        runs.stop_all()
    _tell(f"another run takes over: {_figures(taken)}")
    assert _p95(taken) <= 11, _figures(taken)


def _shared(p: Project, runs: Fleet) -> bool:
    """Tell whether the workers that are there have all partitions between them."""
    shares = _shares(p)
    held = [shares.get(worker, []) for run in runs.runs for worker in run.workers()]
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
            lambda: [len(held) for held in _shares(p).values()] == [2, 2, 2],
            what="two partitions for each",
            timeout_s=START_S,
        )
        victims, rebalances = run.workers(), _said(run, "partitions assigned")
        for number in range(KILLS):
            victim = victims[number % 3]
            partitions = wait_until(lambda victim=victim: _shares(p).get(victim), what="its partitions")
            os.kill(victim, signal.SIGKILL)
            taken.append(seen.recovery_s(partitions, time.time()))
            victims[number % 3] = (set(run.workers()) - set(victims)).pop()
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    _tell(f"the parent starts it again: {_figures(taken)}")
    assert _p95(taken) <= 4, _figures(taken)
    assert _said(run, "partitions assigned") == rebalances + KILLS, "the other workers kept what they had"
