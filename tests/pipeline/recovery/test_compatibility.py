"""Whether a snapshot is of these models, and what is said where it is not."""

import msgspec
import pytest
from river import linear_model

from headrace.consumers.topics import Topic
from headrace.pipeline.recovery import compatibility, offset_metadata
from headrace.state import snapshot
from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.keyring import Keyring
from headrace.state.model_check import Mismatch, model_mismatch
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

TOPIC = Topic(name="in", partitions=1, id="t", value_bytes_max=1, compacted=False)


def _cell() -> Model:
    return UndoableModel(RiverLearner(linear_model.LogisticRegression()))


def _other() -> Model:
    return UndoableModel(RiverLearner(linear_model.LogisticRegression(l2=0.1)))


def _keys() -> Model:
    bank = RiverBank(RiverLearner(linear_model.LogisticRegression()))
    return Keyring(bank, fetch=lambda keys, _stand: [None] * len(keys), scan=lambda: iter(()), hot_max=9)


def _taken(model: Model, *, learned: int = 1) -> snapshot.Snapshot:
    shard = Shard(model, partition=0, start=0)
    shard.counts.records = 7
    shard.counts.learned = learned
    return snapshot.take(shard, topic="in", topic_id="t", now_ms=1)


def _found(saved: snapshot.Snapshot, model: Model, topic: Topic = TOPIC) -> Mismatch:
    found = compatibility.mismatch(saved, topic=topic, model=model)
    assert found is not None
    return found


def test_a_snapshot_of_the_same_fits() -> None:
    for model in (_cell, _keys):
        assert compatibility.mismatch(_taken(model()), topic=TOPIC, model=model()) is None


def test_another_scope_is_named_and_no_release_of_river_is_asked_for() -> None:
    found = _found(_taken(_cell()), _keys())
    assert found.message.startswith('the models in the store are one for each partition, and model.scope = "key"')
    assert found.hint == 'set model.scope = "partition" again, start under another `name`'
    found = _found(_taken(_keys()), _cell())
    assert 'set model.scope = "key" again' in found.hint
    taken = _taken(_cell())
    shared = msgspec.structs.replace(taken, models={"model": msgspec.structs.replace(taken.answering, scope="global")})
    found = _found(shared, _cell())
    assert "one for all workers" in found.message


@pytest.mark.parametrize(
    ("written", "here", "hint"),
    [
        ("river-0.1-pickle", "river-0.2-pickle", "release of River"),
        ("arrays-1", "river-0.2-pickle", "model.compile = true"),
        ("river-0.1-pickle", "arrays-1", "model.compile = false"),
    ],
)
def test_another_codec_is_named_with_its_remedy(written: str, here: str, hint: str) -> None:
    saved = msgspec.structs.replace(_taken(_cell()).answering, codec=written)
    found = model_mismatch(saved, scope="partition", spec=saved.spec, codec=here)
    assert found is not None
    assert hint in found.hint


def test_another_topic_and_another_model_are_told_apart() -> None:
    assert "another topic" in _found(_taken(_cell()), _cell(), msgspec.structs.replace(TOPIC, id="u")).message
    found = _found(_taken(_cell()), _other())
    assert found.message == "model.py builds another model than the one in the store: l2=0.0 became l2=0.1"


def test_a_model_that_has_learned_nothing_may_become_any_other_and_the_topic_may_not() -> None:
    saved = _taken(_cell(), learned=0)
    for model in (_cell(), _other(), _keys()):
        assert compatibility.mismatch(saved, topic=TOPIC, model=model) is None
    assert "another topic" in _found(saved, _cell(), msgspec.structs.replace(TOPIC, id="u")).message


def test_a_mark_of_another_model_or_scope_is_told_and_one_that_taught_none_tells_nothing() -> None:
    shard = Shard(_cell(), partition=0, start=0)
    shard.counts.records = 7
    empty = offset_metadata.read(offset_metadata.of(shard))
    shard.counts.learned = 3
    last = offset_metadata.read(offset_metadata.of(shard))
    assert last is not None
    assert empty is not None
    for model, fits in ((_cell(), True), (_keys(), False), (_other(), False)):
        found = compatibility.mark_mismatch(last, scope=model.can.scope, spec=model.spec)
        assert (found is None) == fits
        assert compatibility.mark_mismatch(empty, scope=model.can.scope, spec=model.spec) is None
    found = compatibility.mark_mismatch(last, scope="global", spec=_cell().spec)
    assert found is not None
    assert found.message.startswith("the models that learned the log are one for each partition, and model.scope")
    assert 'set model.scope = "partition" again' in found.hint
