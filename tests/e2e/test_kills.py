"""SIGKILL at every named place of a worker's life, and at random ones: what comes out is an undisturbed run's."""

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import saved
from harness import Project, Run, Steady, steady, values, wait_until
from oracle import promise
from proxy import Proxied
from receiver import Receiver
from river import anomaly, cluster
from trap import SOAK, Trap

from headrace.pipeline.process.failpoint import FailpointName

Make = Callable[..., Project]

KILLS = int(os.environ.get("HEADRACE_KILLS", "25" if SOAK else "2"))
RATE = 300
# So that there is always something to relearn: nothing is saved but at the end.
UNSAVED = {"HEADRACE__SNAPSHOT__INTERVAL": "1h"}
MANY = 100_000


def _values() -> list[bytes]:
    # So many are bad that nearly every batch has dead letters.
    return values(MANY, bad_every=4)


def _moves_on(p: Project, *, records: int = 100) -> None:
    wanted = _reached(p) + records
    wait_until(lambda: _reached(p) >= wanted, what=f"{records} more records to be committed", timeout_s=60)


def _reached(p: Project) -> int:
    return sum(max(offset, 0) for offset, _ in p.committed().values())


def _finish(p: Project, run: Run, producing: Steady) -> None:
    producing.stop()
    p.wait_for_all(timeout_s=120)
    assert run.stop() == 0, run.log()


@pytest.mark.parametrize(
    ("at", "hit", "after_s"),
    [
        ("polled", 3, 0.0),
        ("learned", 3, 0.0),
        ("begun", 3, 0.0),
        ("between", 3, 0.0),
        # Long enough for the client to have written what it was given: the log has records that nobody may read.
        ("produced", 3, 0.2),
        # Long enough to be seen, if a snapshot were ahead of what is committed.
        ("offsets", 3, 0.3),
        ("committed", 3, 0.0),
        ("saved", 2, 0.0),
    ],
)
def test_killed_at_work(project: Make, at: FailpointName, hit: int, after_s: float) -> None:
    p = project(settings={} if at == "saved" else dict(UNSAVED))
    trap = Trap(p, at, hit=hit, after_s=after_s)
    with promise(p), steady(p, _values(), per_second=RATE) as producing, p.running() as run:
        for _ in range(KILLS):
            _moves_on(p)
            trap.spring()
        _moves_on(p)
        _finish(p, run, producing)


UNLABELLED = {
    "HalfSpaceTrees": lambda: anomaly.HalfSpaceTrees(n_trees=5, height=5, window_size=50, limits=LIMITS, seed=1),
    "DBSTREAM": lambda: cluster.DBSTREAM(clustering_threshold=2.0, cleanup_interval=20, fading_factor=0.01),
}
LIMITS = dict.fromkeys("abcd", (-4.0, 4.0))
PLACES: tuple[FailpointName, ...] = ("polled", "learned", "between", "produced", "committed", "saved")
_LABEL = re.compile(rb', "label": (true|false)')


@pytest.mark.parametrize("name", UNLABELLED)
def test_killed_everywhere_while_it_learns_without_labels(project: Make, name: str) -> None:
    source = Path(__file__).read_text()
    definition = source[source.index("UNLABELLED = {") : source.index("PLACES:")]
    code = f"from river import anomaly, cluster\n\n{definition}\ndef build():\n    return UNLABELLED[{name!r}]()\n"
    p = project(model=code, settings={"HEADRACE__SNAPSHOT__RECORDS_MAX": "400"})
    records = [_LABEL.sub(b"", value) for value in _values()]
    with promise(p, UNLABELLED[name]), steady(p, records, per_second=RATE) as producing:
        for at in PLACES:
            trap = Trap(p, at, hit=2)
            with p.running() as run:
                _moves_on(p)
                trap.spring()
                _moves_on(p)
        with p.running() as run:
            _moves_on(p)
            _finish(p, run, producing)


@pytest.mark.parametrize("at", ["learned", "produced", "committed"] if SOAK else ["committed"])
def test_killed_far_behind_where_the_next_batch_is_learned_beside_the_one_under_way(
    project: Make, at: FailpointName
) -> None:
    # What takes less than some milliseconds to learn is not learned ahead.
    p = project(settings={**UNSAVED, "HEADRACE__BATCH__RECORDS_MAX": "4000"})
    for partition in range(2):
        p.produce(values(60_000, bad_every=4, seed=partition), partition=partition)
    trap = Trap(p, at, hit=4)
    # Before it starts, and while its successor does: what is left is done within a second or two.
    trap.arm()
    with promise(p), p.running() as run:
        for _ in range(2):
            trap.wait()
            trap.arm()
        trap.wait()
        p.wait_for_all(timeout_s=120)
        assert run.stop() == 0, run.log()


@pytest.mark.parametrize("at", ["assigning", "relearning"])
def test_killed_while_it_takes_over(project: Make, at: FailpointName) -> None:
    p = project(settings=dict(UNSAVED))
    trap = Trap(p, at)
    with promise(p), steady(p, _values(), per_second=RATE) as producing, p.running() as run:
        for _ in range(KILLS):
            _moves_on(p)
            trap.arm()
            run.kill_worker()
            trap.wait()
        _moves_on(p)
        _finish(p, run, producing)


@pytest.mark.parametrize("at", ["revoking", "draining"])
def test_killed_while_it_stops(project: Make, at: FailpointName) -> None:
    p = project(settings=dict(UNSAVED))
    trap = Trap(p, at)
    with promise(p), steady(p, _values(), per_second=RATE) as producing:
        for _ in range(KILLS):
            with p.running() as run:
                _moves_on(p)
                trap.arm()
                run.stop()
                trap.wait(timeout_s=1)
        with p.running() as run:
            _moves_on(p)
            _finish(p, run, producing)


def test_killed_while_paused(project: Make) -> None:
    with Receiver.serving() as receiver:
        p = project(settings={**UNSAVED, "HEADRACE__SINK__HTTP__URL": receiver.url})
        trap = Trap(p, "paused")
        with promise(p), steady(p, _values(), per_second=RATE) as producing, p.running() as run:
            for _ in range(KILLS):
                _moves_on(p)
                receiver.status = 503
                trap.spring()
                receiver.status = 200
            _moves_on(p)
            _finish(p, run, producing)


@pytest.mark.xdist_group("proxied")
def test_killed_when_the_commit_is_sent_and_not_answered(proxied: Proxied, tmp_path: Path) -> None:
    p = Project(proxied.stack, tmp_path / "project", settings={**UNSAVED, **proxied.settings})
    with promise(p), steady(p, _values(), per_second=RATE) as producing, p.running() as run:
        for _ in range(KILLS):
            _moves_on(p)
            fault = proxied.kafka.drop_reply("EndTxn", then=run.kill_worker)
            wait_until(fault.happened.is_set, what="a commit to be sent")
        _moves_on(p)
        _finish(p, run, producing)


@pytest.mark.xdist_group("proxied")
def test_killed_when_half_of_a_snapshot_is_written(proxied: Proxied, tmp_path: Path) -> None:
    p = Project(proxied.stack, tmp_path / "project", settings=dict(proxied.settings))
    with promise(p), steady(p, _values(), per_second=RATE) as producing, p.running() as run:
        for _ in range(KILLS):
            _moves_on(p)
            fault = proxied.store.cut_after(500, "EVALSHA", containing=b":snapshots", then=run.kill_worker)
            wait_until(fault.happened.is_set, what="a snapshot to be half written")
        _moves_on(p)
        _finish(p, run, producing)


def test_three_workers_killed_at_random(project: Make) -> None:
    kills, count = (200, 1_000_000) if SOAK else (8, 60_000)
    p = project(partitions=8)
    rng = random.Random(kills)
    # Each as soon as so many records are committed, so that all come while there are more to come.
    moments = sorted(rng.sample(range(count // 20, count * 9 // 10), kills))
    with (
        promise(p),
        steady(p, values(count, bad_every=50), per_second=6_000) as producing,
        p.running(workers=3) as run,
    ):
        for moment in moments:
            wait_until(lambda moment=moment: _reached(p) >= moment, what=f"{moment} records", timeout_s=60)
            run.kill(rng.choice(wait_until(run.workers, what="a worker to be there")))
        producing.join(count / 1_000)
        # Whom the last kill hit has nothing to save at a stop: it may not even be back.
        wait_until(lambda: saved(p) == [len(sent) for sent in p.sent.values()], what="all to be saved", timeout_s=60)
        _finish(p, run, producing)
