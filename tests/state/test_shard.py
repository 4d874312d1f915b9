import random
from typing import Any

import pytest
from river import linear_model, preprocessing

from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.keyring import Keyring
from headrace.state.models.learner import RiverLearner, build
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.row_packing import TableDamaged
from headrace.state.seal import Seal
from headrace.state.shard import Counts, Shard
from headrace.state.snapshot import decode, encode, take

SEAL = Seal("fraud")


def logistic() -> RiverLearner:
    return build(lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression())


def cell(s: Shard) -> UndoableModel:
    assert isinstance(s.model, UndoableModel)
    return s.model


def keyed() -> Keyring:
    return Keyring(
        RiverBank(logistic()), fetch=lambda keys, _stored: [None] * len(keys), scan=lambda: iter(()), hot_max=9
    )


def linear() -> RiverLearner:
    return build(linear_model.LinearRegression)


def shard(learner: RiverLearner | None = None) -> Shard:
    return Shard(UndoableModel(learner or logistic()), partition=3, start=100)


def records(count: int, seed: int = 1) -> list[tuple[dict[str, Any], bool]]:
    rng = random.Random(seed)
    return [({"a": (a := rng.gauss(0, 1)), "b": rng.gauss(0, 1)}, a > 0) for _ in range(count)]


def feed(s: Shard, data: list[tuple[dict[str, Any], Any]]) -> list[Any]:
    answers = []
    for features, label in data:
        answers.append(s.model.predict(features))
        s.model.learn(features, label)
        s.model.keep(features, label)
    return answers


def test_a_new_shard_stands_at_its_start() -> None:
    s = shard()
    assert (s.offset, s.committed, s.snapshot_offset, s.start) == (100, 100, 100, 100)
    assert (s.version, s.epoch) == (0, 0)
    assert s.counts == Counts()
    assert s.quality_now().summary() == {"scored": 0}


def test_an_undo_takes_back_records_that_were_not_kept() -> None:
    s, untouched = shard(), shard()
    first, second = records(30), records(30, seed=2)
    feed(s, first)
    feed(untouched, first)
    for features, label in second[:3]:
        s.model.learn(features, label)
    s.model.undo()
    assert feed(s, second) == feed(untouched, second)


@pytest.mark.parametrize("count", [0, 1, 4_999, 5_000, 12_000])
def test_an_undo_is_exact_however_long_the_journal_was(count: int) -> None:
    """The journal is cut at 5,000 records, and what was cut is in the checkpoint."""
    s, untouched = shard(linear()), shard(linear())
    data = [({"a": float(index % 7), "b": 1.0}, float(index % 5)) for index in range(count)]
    for start in range(0, count, 500):
        feed(s, data[start : start + 500])
        s.model.trim()
    feed(untouched, data)
    assert len(cell(s)._journal) < 5_500
    s.model.learn({"a": 1e6, "c": -1e6}, 1e6)
    s.model.undo()
    rest = [({"a": 2.0, "b": 1.0, "c": 1.0}, 3.0)] * 5
    assert feed(s, rest) == feed(untouched, rest)


def test_two_undos_in_a_row_change_nothing_more() -> None:
    s, untouched = shard(), shard()
    feed(s, records(20))
    feed(untouched, records(20))
    s.model.undo()
    assert cell(s)._journal == [], "what was gone through once is not gone through again at the next"
    s.model.undo()
    s.model.learn({"a": 9.0}, label=True)
    s.model.undo()
    assert feed(s, records(5, seed=3)) == feed(untouched, records(5, seed=3))


def test_records_without_a_label_are_predicted_again_on_an_undo_and_not_learned() -> None:
    s, untouched = shard(), shard()
    for features, label in records(20):
        s.model.predict(features)
        s.model.keep(features, None)
        untouched.model.predict(features)
        if label is None:
            untouched.model.learn(features, label)
    s.model.undo()
    assert feed(s, records(5, seed=3)) == feed(untouched, records(5, seed=3))


def test_a_false_label_is_learned_again_on_an_undo() -> None:
    s, untouched = shard(), shard()
    data = [({"a": 1.0}, False)] * 10
    feed(s, data)
    feed(untouched, data)
    s.model.undo()
    assert s.model.predict({"a": 1.0}) == untouched.model.predict({"a": 1.0})
    assert s.model.predict({"a": 1.0})[1][False] > 0.5  # type: ignore[index]


def test_a_snapshot_is_where_an_undo_starts_from() -> None:
    s, untouched = shard(), shard()
    feed(s, records(20))
    feed(untouched, records(20))
    take(s, topic="t", topic_id="i", now_ms=1)
    assert cell(s)._journal == []
    feed(s, records(5, seed=2))
    feed(untouched, records(5, seed=2))
    s.model.learn({"a": 1e9}, label=True)
    s.model.undo()
    assert feed(s, records(5, seed=3)) == feed(untouched, records(5, seed=3))


def test_a_restored_shard_goes_on_to_the_bit_and_undoes_as_well() -> None:
    s = shard()
    feed(s, records(20))
    s.advance(120)
    s.counts = Counts(20, 20, 0, 20)
    s.answering.score(prediction=True, label=True, version=1)
    snapshot = decode(encode(take(s, topic="t", topic_id="i", now_ms=1), SEAL), SEAL, partition=s.partition)
    restored = shard()
    feed(restored, records(7, seed=9))
    restored.restore(place=(snapshot.offset, -1), counts=snapshot.counts)
    restored.answering.restore(snapshot.answering.state, quality=snapshot.answering.quality, faults=0)
    assert (restored.offset, restored.snapshot_offset, restored.counts) == (120, 120, Counts(20, 20, 0, 20))
    assert restored.quality_now() == s.quality_now()
    restored.model.learn({"a": 1e9}, label=True)
    restored.model.undo()
    assert feed(restored, records(9, seed=2)) == feed(s, records(9, seed=2))


def test_a_snapshot_does_not_change_when_the_shard_goes_on() -> None:
    s = shard()
    s.answering.score(prediction=True, label=True, version=1)
    sealed = encode(take(s, topic="t", topic_id="i", now_ms=1), SEAL)
    feed(s, records(5))
    s.counts.records += 5
    s.answering.score(prediction=True, label=False, version=1)
    assert decode(sealed, SEAL, partition=s.partition).counts == Counts()
    assert decode(sealed, SEAL, partition=s.partition).answering.quality.scored == 1


def test_a_save_that_can_not_begin_for_one_model_loses_the_rows_of_no_other() -> None:
    s = Shard(keyed(), partition=3, start=100, shadows={"other": keyed()})
    for one in s.models.values():
        one.model.learn({"a": 1.0}, True, b"k")

    def away() -> None:
        raise TableDamaged("it is damaged")

    s.models["other"].model.begin_save = away  # type: ignore[method-assign]
    with pytest.raises(TableDamaged):
        s.begin_save()
    del s.models["other"].model.begin_save
    s.begin_save()
    rows, _ = s.packed(lambda table: SEAL.rows(3, table))
    assert {table: packed.rows for table, packed in rows.items()} == {"keys": 1, "keys/other": 1}


def test_a_model_that_is_unknown_does_not_answer() -> None:
    s = shard()
    with pytest.raises(KeyError):
        s.answer_with("trees")
    s.fail("model", "the one that answers stays")
    assert (s.answering.name, s.failed) == ("model", {})


def test_states_of_a_child_make_the_checkpoints_of_the_models_that_are_still_there() -> None:
    s = Shard(UndoableModel(logistic()), partition=3, start=100, shadows={"other": UndoableModel(logistic())})
    feed(s, records(9))
    s.begin_save()
    states = s.dump()
    s.fail("other", "it is gone")
    s.checkpointed(states)
    assert cell(s)._checkpoint == states["model"]
    assert s.dump_if_light() == {"model": states["model"]}
