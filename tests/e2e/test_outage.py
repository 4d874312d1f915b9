"""Outages under load: Kafka or the store frozen, cut off or killed, and the stream goes on by itself."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Project, Run, Steady, steady, values, wait_until
from trap import SOAK

from headrace.pipeline.embedded import Stack

Make = Callable[..., Project]

# On one process of the test run: its servers are started once.
# It says how soon the stream goes on, so other tests must not take the machine.
pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("outage")]
OUTAGE_S = 20.0 if SOAK else 8.0
RESUME_S = 10.0


@pytest.fixture(scope="module")
def fragile() -> Iterator[Stack]:
    """A stack of these tests' own, since others could not bear what is done to it."""
    with Stack() as running:
        yield running


def _rebalances(run: Run) -> int:
    return run.log_file.read_text().count("partitions assigned")


def _outage(p: Project, run: Run, *, begin: Callable[[], None], end: Callable[[], None], why: str) -> None:
    """Take something away for OUTAGE_S, and see the stream pause, say so, and go on within RESUME_S."""
    begin()
    started = time.monotonic()
    wait_until(lambda: p.status()["state"] == "paused", what=f"the stream to pause ({why})")
    assert p.status()["reason"], "a pause has a reason"
    wait_until(lambda: time.monotonic() - started >= OUTAGE_S, what="the outage to last")
    end()
    before = time.monotonic()
    reached = p.committed()
    wait_until(
        lambda: all(now[0] > then[0] for now, then in zip(p.committed().values(), reached.values(), strict=True)),
        what=f"every partition to go on after the outage ({why})",
    )
    assert time.monotonic() - before < RESUME_S, run.log()
    wait_until(lambda: p.status()["state"] == "running", what="the state to be running again", timeout_s=RESUME_S)


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_the_store_is_away_and_the_group_keeps_its_place(fragile: Stack, tmp_path: Path, how: str) -> None:
    p = Project(fragile, tmp_path / "project")
    with steady(p, values(60_000, bad_every=50), per_second=1_000) as producing, p.running() as run:
        wait_until(lambda: p.committed()[0][0] > 500, what="some records to be committed")
        assigned = _rebalances(run)
        if how == "frozen":
            _outage(p, run, begin=fragile.store.freeze, end=fragile.store.thaw, why=how)
        else:
            _outage(p, run, begin=fragile.store.kill, end=fragile.store.start, why=how)
        assert _rebalances(run) == assigned, "the group does not rebalance while the store is away"
        _finish(p, run, producing)


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_kafka_is_away_and_nothing_is_lost_or_sent_twice(fragile: Stack, tmp_path: Path, how: str) -> None:
    p = Project(fragile, tmp_path / "project")
    with steady(p, values(60_000, bad_every=50), per_second=1_000) as producing, p.running() as run:
        wait_until(lambda: p.committed()[0][0] > 500, what="some records to be committed")
        if how == "frozen":
            _outage(p, run, begin=fragile.kafka.freeze, end=fragile.kafka.thaw, why=how)
        else:
            _outage(p, run, begin=fragile.kafka.kill, end=fragile.kafka.start, why=how)
        _finish(p, run, producing)


def _finish(p: Project, run: Run, producing: Steady) -> None:
    """Let a few thousand records more go through, then hold everything against plain River."""
    producing.stop()
    p.wait_for_all(timeout_s=90)
    assert run.stop() == 0, run.log()
    p.check()
