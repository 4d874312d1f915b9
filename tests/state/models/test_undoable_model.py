"""One model and its undo: what is written down beside the loop serves it as well, to the bit."""

import random
from typing import Any

import pytest
from river import linear_model, preprocessing

from headrace.state.models import undoable_model
from headrace.state.models.learner import RiverLearner, build
from headrace.state.models.undoable_model import UndoableModel

WIDE = {f"f{index}": 1.0 for index in range(20_000)}


def new(*, heavy: bool = False) -> UndoableModel:
    made = UndoableModel(build(lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression()))
    if heavy:
        feed(made, [(WIDE, True)])
        made.dump()
        assert made.is_heavy
    return made


def records(count: int, seed: int = 1) -> list[tuple[dict[str, Any], bool]]:
    rng = random.Random(seed)
    return [({"a": (a := rng.gauss(0, 1)), "b": rng.gauss(0, 1)}, a > 0) for _ in range(count)]


def feed(cell: UndoableModel, data: list[tuple[dict[str, Any], bool]]) -> list[Any]:
    answers = []
    for features, label in data:
        answers.append(cell.predict(features))
        cell.learn(features, label)
        cell.keep(features, label)
    return answers


def spoil(cell: UndoableModel) -> None:
    cell.learn({"a": 1e6, "c": -1e6}, label=True)


def test_a_light_model_is_written_down_at_once() -> None:
    cell = new()
    feed(cell, records(10))
    assert cell.dump_if_light() == cell.inner.dump()
    assert not cell.is_heavy
    assert cell._journal == []


def test_a_model_that_has_grown_is_found_to_be_heavy_and_stays_as_it_is() -> None:
    cell, untouched = new(), new()
    feed(cell, [(WIDE, True)])
    feed(untouched, [(WIDE, True)])
    assert not cell.is_heavy
    assert cell.dump_if_light() is None
    assert cell.is_heavy
    spoil(cell)
    cell.undo()
    assert feed(cell, records(5)) == feed(untouched, records(5))


def test_a_dump_within_the_bound_is_the_whole_model() -> None:
    learner = new().inner
    assert isinstance(learner, RiverLearner)
    whole = learner.dump()
    assert learner.dump_within(len(whole)) == whole
    assert learner.dump_within(len(whole) - 1) is None


@pytest.mark.parametrize("heavy", [False, True])
def test_bytes_of_an_earlier_moment_are_the_checkpoint_from_which_an_undo_starts(*, heavy: bool) -> None:
    cell, untouched = new(heavy=heavy), new(heavy=heavy)
    feed(cell, records(20))
    cell.begin_save()
    model = cell.inner.dump()
    feed(cell, records(7, seed=2))
    cell.checkpointed(model)
    assert len(cell._journal) == 7
    spoil(cell)
    cell.undo()
    feed(untouched, records(20))
    feed(untouched, records(7, seed=2))
    assert feed(cell, records(5, seed=3)) == feed(untouched, records(5, seed=3))


def test_bytes_that_an_undo_has_overtaken_are_not_taken() -> None:
    cell, untouched = new(), new()
    feed(cell, records(20))
    cell.begin_save()
    model = cell.inner.dump()
    feed(cell, records(7, seed=2))
    spoil(cell)
    cell.undo()
    feed(cell, records(3, seed=3))
    cell.checkpointed(model)
    spoil(cell)
    cell.undo()
    for seed, count in ((1, 20), (2, 7), (3, 3)):
        feed(untouched, records(count, seed=seed))
    assert feed(cell, records(5, seed=4)) == feed(untouched, records(5, seed=4))


def test_bytes_that_a_restored_snapshot_has_overtaken_are_not_taken() -> None:
    cell, other = new(), new()
    feed(cell, records(20))
    cell.begin_save()
    model = cell.inner.dump()
    feed(other, records(9, seed=2))
    cell.load(other.inner.dump())
    cell.checkpointed(model)
    spoil(cell)
    cell.undo()
    assert feed(cell, records(5, seed=3)) == feed(other, records(5, seed=3))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_between_a_fork_and_its_end_the_model_is_that_of_its_records(seed: int) -> None:
    rng = random.Random(seed)
    cell, untouched = new(), new()
    under_way = None
    for step in range(60):
        what = rng.choice(["feed", "feed", "fork", "end", "end", "undo", "trim", "checkpoint", "restore"])
        if what == "feed":
            data = records(rng.randrange(6), seed=step)
            assert feed(cell, data) == feed(untouched, data)
        elif what == "fork" and under_way is None:
            cell.begin_save()
            under_way = cell.inner.dump()
        elif what == "end" and under_way is not None:
            cell.checkpointed(under_way)
            under_way = None
        elif what == "undo":
            spoil(cell)
            cell.undo()
        elif what == "trim":
            cell.trim()
        elif what == "checkpoint":
            cell.dump_if_light()
        elif what == "restore":
            cell.load(cell.dump())


def test_a_heavy_model_is_not_written_down_by_the_loop_below_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undoable_model, "_JOURNAL_MIN", 10)
    monkeypatch.setattr(undoable_model, "_JOURNAL_MAX", 400)
    cell = new(heavy=True)
    before = cell._age
    feed(cell, records(199))
    cell.trim()
    assert not cell.is_crowded
    assert cell._age == before
    feed(cell, records(1))
    cell.trim()
    assert cell.is_crowded, "half way to the bound it asks for it"
    assert cell._age == before
    feed(cell, records(200))
    cell.trim()
    assert cell._journal == [], "at the bound there is no choice"
    assert cell._age > before


def test_steps_that_are_spent_go_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undoable_model, "_SPENT", 8)
    cell = new()
    feed(cell, records(20))
    cell.begin_save()
    cell.checkpointed(cell.inner.dump())
    left = []
    for _ in range(4):
        left.append(len(cell._spent))
        cell.trim()
    assert left == [20, 12, 4, 0]
