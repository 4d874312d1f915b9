"""Models that take long to be written down: the stream goes on meanwhile, and the promise holds through every kill."""

import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fleet import said, saved
from harness import Project, Run, steady, values, wait_until
from oracle import promise
from trap import SOAK, Trap

from headrace.pipeline.process.failpoint import FailpointName

Make = Callable[..., Project]

KILLS = 25 if SOAK else 2
RATE = 200
MANY = 100_000
OFTEN = {
    "HEADRACE__SNAPSHOT__INTERVAL": "0.1s",
    "HEADRACE__LOG__LEVEL": "debug",
    "HEADRACE__LOG__FORMAT": "json",
    "HEADRACE__MODEL__COMPILE": "false",
}

# Its bytes are those of a big forest, and it learns in no time.
BULKY = """
from river import linear_model

def build():
    model = linear_model.LogisticRegression()
    model.bulk = bytes(BULK)
    return model
"""
# A tree's depth is bounded by the recursion limit otherwise, which is the caller's.
FOREST = """
from river import forest

class Forest(forest.ARFClassifier):
    def predict_proba_one(self, x):
        return super().predict_proba_one(x) or {False: 0.5, True: 0.5}

def build():
    return Forest(n_models=5, seed=3, grace_period=15, max_depth=50)
"""


def _bulky(size: int) -> str:
    return BULKY.replace("BULK", str(size))


def _build(p: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return the project's own factory, for the oracle."""
    monkeypatch.syspath_prepend(p.directory)
    return importlib.import_module("model").build


def _reached(p: Project) -> int:
    return sum(max(offset, 0) for offset, _ in p.committed().values())


def _moves_on(p: Project, *, records: int = 100) -> None:
    wanted = _reached(p) + records
    wait_until(lambda: _reached(p) >= wanted, what=f"{records} more records to be committed", timeout_s=60)


def _children(run: Run) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(run.worker())], capture_output=True, check=False)
    return [int(word) for word in found.stdout.split()]


@contextlib.contextmanager
def _frozen(run: Run, trap: Trap) -> Iterator[None]:
    """Have the child frozen that writes a model down, when it has written half."""
    trap.spring()
    [child] = wait_until(lambda: _children(run), what="the child")
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)


def _snapshots(run: Run) -> list[dict[str, Any]]:
    lines = run.log_file.read_text().splitlines(keepends=True)
    logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    return [entry for entry in logged if entry["event"] == "snapshot saved"]


def test_the_stream_goes_on_while_a_big_model_is_written_down(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    p = project(settings=dict(OFTEN), model=_bulky(17_000_000))
    trap = Trap(p, "writing", do="freeze")
    values_ = values(MANY, bad_every=10)
    with promise(p, _build(p, monkeypatch)), steady(p, values_, per_second=RATE) as producing, p.running() as run:
        wait_until(lambda: min(saved(p)) > 0, what="a snapshot of each partition", timeout_s=60)
        with _frozen(run, trap):
            before, since = saved(p), len(_snapshots(run))
            _moves_on(p, records=500)
            assert saved(p) == before, "half a snapshot is none, and one at a time is saved"
        wait_until(lambda: all(map(int.__gt__, saved(p), before)), what="newer snapshots", timeout_s=60)
        late = wait_until(lambda: _snapshots(run)[since:], what="the snapshot to be noted")[0]
        assert late["committed"] - late["snapshot"] > 100, "it is of the moment in which it was begun"
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()


@pytest.mark.parametrize(
    ("at", "after_s"),
    [
        ("forked", 0.0),
        # Long enough for the child to write, and for the store to have it when the worker knows of nothing.
        ("forked", 0.02),
        ("forked", 0.5),
        # It is the child that dies.
        ("writing", 0.0),
        ("saved", 0.0),
        # Long enough for a snapshot to be begun and saved, were one to be of what is not confirmed.
        ("offsets", 1.0),
    ],
)
def test_killed_while_a_big_model_is_saved(
    project: Make, monkeypatch: pytest.MonkeyPatch, at: FailpointName, after_s: float
) -> None:
    p = project(settings=dict(OFTEN), model=_bulky(500_000))
    trap = Trap(p, at, after_s=after_s)
    values_ = values(MANY, bad_every=4)
    with promise(p, _build(p, monkeypatch)), steady(p, values_, per_second=RATE) as producing, p.running() as run:
        for _ in range(KILLS):
            _moves_on(p)
            trap.spring()
        _moves_on(p)
        before = saved(p)
        wait_until(lambda: all(map(int.__gt__, saved(p), before)), what="newer snapshots", timeout_s=60)
        producing.stop()
        p.wait_for_all(timeout_s=120)
        assert run.stop() == 0, run.log()
        if at == "writing":
            assert said(run, "snapshot failed, it is tried again") == KILLS
            assert said(run, "partition taken over") == p.partitions, "the worker has gone on"


def test_a_worker_that_is_killed_or_stopped_leaves_half_a_snapshot_behind(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = project(settings=dict(OFTEN), model=_bulky(4_000_000))
    trap = Trap(p, "writing", do="freeze")
    values_ = values(MANY, bad_every=4)
    with promise(p, _build(p, monkeypatch)), steady(p, values_, per_second=RATE) as producing:
        with p.running() as run:
            _moves_on(p)
            with _frozen(run, trap):
                run.kill_worker()
                _moves_on(p)
            with _frozen(run, trap):
                _moves_on(p)
                assert run.stop() == 0, run.log()
        with p.running() as run:
            _moves_on(p)
            producing.stop()
            p.wait_for_all()
            assert run.stop() == 0, run.log()


def test_a_forest_that_is_saved_often_and_killed_at_random(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    p = project(settings=dict(OFTEN), model=FOREST)
    rng = random.Random(KILLS)
    values_ = values(1_600 + 400 * KILLS, bad_every=50)
    with promise(p, _build(p, monkeypatch)), steady(p, values_, per_second=RATE) as producing, p.running() as run:
        for _ in range(KILLS):
            _moves_on(p, records=rng.randrange(100, 300))
            run.kill_worker()
        producing.join(120)
        p.wait_for_all(timeout_s=120)
        assert any(entry["bytes"] > 200_000 for entry in _snapshots(run)), "the forest has grown big"
        assert run.stop() == 0, run.log()
