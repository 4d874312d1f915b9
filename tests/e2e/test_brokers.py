"""A cluster of three brokers that loses one, freezes one, or is left with one: the stream goes on, to the bit.

Each topic has three replicas, two of which must have a record before it counts.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from harness import Project, Run, Steady, steady, values, wait_until
from oracle import Watch, promise
from trap import SOAK

from headrace.pipeline.embedded import Server, Stack

# On one worker of the test run, so that its servers are started once; six of them are enough for a machine.
pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("alone"), pytest.mark.timeout(600)]

RESUME_S = 30.0
START_S = 60.0
# The broker's own session, after which its partitions and coordinators are others', is three seconds.
GROUP_SESSION_S = 6.0
OUTAGE_S = 10.0
INTERNAL_PARTITIONS = 5
ROUNDS = 6 if SOAK else 1


class Hurried(Project):
    """Its clients do not wait a minute, as they would, for what they asked a frozen broker."""

    @property
    def client(self) -> dict[str, Any]:
        return {**super().client, "socket.timeout.ms": 5_000}


@pytest.fixture(scope="module")
def trio() -> Iterator[Stack]:
    with Stack(brokers=3) as running:
        yield running


@pytest.fixture
def p(trio: Stack, tmp_path: Path) -> Project:
    project = Hurried(trio, tmp_path / "project", partitions=3)
    topic = AdminClient(project.client).list_topics(project.features).topics[project.features]
    assert all(len(partition.replicas) == 3 for partition in topic.partitions.values())
    return project


def _leader(p: Project, topic: str, partition: int) -> Server:
    topics = AdminClient(p.client).list_topics(topic, timeout=10).topics
    return p.stack.brokers[topics[topic].partitions[partition].leader - 1]


def _group_coordinator(p: Project) -> Server:
    return _leader(p, "__consumer_offsets", _place(p.name))


def _transaction_coordinator(p: Project) -> Server:
    return _leader(p, "__transaction_state", _place(f"{p.name}-0"))


def _place(name: str) -> int:
    """Return the partition of an internal topic that is answerable for a group or a transactional id."""
    code = 0
    for letter in name:
        code = (31 * code + ord(letter)) % 2**32
    # Java's hash is signed, and Kafka takes its lower 31 bits off the sign by `abs`.
    return abs(code - 2**32 if code >= 2**31 else code) % INTERNAL_PARTITIONS


def _whole(p: Project) -> bool:
    """Tell whether every replica of every topic is in sync."""
    topics = AdminClient(p.client).list_topics(timeout=10).topics.values()
    return all(len(n.isrs) == 3 for topic in topics for n in topic.partitions.values())


def _wait_whole(p: Project) -> None:
    wait_until(lambda: _whole(p), what="the replicas to be in sync again", timeout_s=60)


def _reached(p: Project, watch: Watch) -> dict[int, int]:
    return {n: watch.last.get((p.predictions, n), -1) for n in p.sent}


def _goes_on(p: Project, watch: Watch, *, what: str, timeout_s: float = RESUME_S) -> None:
    """Wait until a `read_committed` reader sees, of every partition, a record that was sent after this call."""
    since, began = {n: len(sent) for n, sent in p.sent.items()}, time.monotonic()
    wait_until(
        lambda: all(_reached(p, watch)[n] >= since[n] for n in p.sent),
        what=f"every partition to go on: {what}",
        timeout_s=timeout_s,
    )
    _tell(f"{what}: every partition went on after {time.monotonic() - began:.1f} s")


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def _finish(p: Project, run: Run, producing: Steady) -> None:
    producing.stop()
    p.wait_for_all(timeout_s=60)
    assert run.stop() == 0, run.log()
    log = run.log_file.read_text()
    _tell(str({words: log.count(words) for words in ("hangs;", "worker died", "worker failed", "batch dropped")}))
    assert "Traceback" not in log
    assert "worker failed" not in log


def test_a_broker_of_any_role_is_killed_and_started_again(p: Project) -> None:
    roles: dict[str, Callable[[], Server]] = {
        "the group's coordinator": lambda: _group_coordinator(p),
        "the transaction's coordinator": lambda: _transaction_coordinator(p),
        "the leader of a partition": lambda: _leader(p, p.features, 0),
    }
    with (
        promise(p) as watch,
        steady(p, values(60_000 * ROUNDS, bad_every=50), per_second=300) as producing,
        p.running() as run,
    ):
        _goes_on(p, watch, what="the first start", timeout_s=START_S)
        for role, find in list(roles.items()) * ROUNDS:
            broker = find()
            broker.kill()
            _goes_on(p, watch, what=f"{role} killed ({broker.name})")
            broker.start()
            _wait_whole(p)
            _goes_on(p, watch, what=f"{broker.name} is back")
        _finish(p, run, producing)


def test_every_broker_is_bounced_in_turn(p: Project) -> None:
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=300) as producing, p.running() as run:
        _goes_on(p, watch, what="the first start", timeout_s=START_S)
        for broker in p.stack.brokers:
            broker.kill()
            broker.start()
            _wait_whole(p)
        _goes_on(p, watch, what="all bounced")
        _finish(p, run, producing)


def test_the_groups_coordinator_sleeps_past_every_session_and_wakes(p: Project) -> None:
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=300) as producing, p.running() as run:
        _goes_on(p, watch, what="the first start", timeout_s=START_S)
        broker = _group_coordinator(p)
        broker.freeze()
        frozen = time.monotonic()
        try:
            _goes_on(p, watch, what=f"the group's coordinator frozen ({broker.name})")
            wait_until(lambda: time.monotonic() - frozen > 1.5 * GROUP_SESSION_S, what="the sessions to end")
            _goes_on(p, watch, what=f"{broker.name} is still frozen")
        finally:
            broker.thaw()
        _wait_whole(p)
        _goes_on(p, watch, what=f"{broker.name} is awake")
        _finish(p, run, producing)


def test_too_few_replicas_in_sync_pause_the_stream_until_they_are_back(p: Project) -> None:
    first, second, _ = p.stack.brokers
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=300) as producing, p.running() as run:
        _goes_on(p, watch, what="the first start", timeout_s=START_S)
        first.freeze()
        second.kill()
        began = time.monotonic()
        try:
            paused = wait_until(lambda: _paused(p), what="the stream to pause")
            _tell(f"paused after {time.monotonic() - began:.1f} s: {paused}")
            reached = _reached(p, watch)
            wait_until(lambda: time.monotonic() - began > OUTAGE_S, what="the outage to last")
            assert _reached(p, watch) == reached, "nothing is committed with one replica in sync"
        finally:
            first.thaw()
            second.start()
        _goes_on(p, watch, what="replicas in sync again")
        _wait_whole(p)
        _finish(p, run, producing)


def _paused(p: Project) -> str:
    told = p.status()
    return str(told["reason"]) if told["state"] == "paused" else ""
