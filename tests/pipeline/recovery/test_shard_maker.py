"""Shards of a snapshot, before their rows come: the place, the models by name, and what is refused."""

from typing import Any

import pytest
from river import linear_model

from headrace.consumers.topics import Topic
from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.recovery.consistency import StateError
from headrace.pipeline.recovery.shard_maker import ShardMaker
from headrace.state.labels.label_join import LabelRules
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Capabilities, Model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.snapshot import take

TOPIC = Topic(name="in", partitions=1, id="t", value_bytes_max=1_000_000, compacted=False)


def _model(_partition: int) -> Model:
    return UndoableModel(RiverLearner(linear_model.LogisticRegression()))


def _maker(rules: LabelRules | None = None, *names: str) -> ShardMaker:
    factory = ModelFactory(_model, Capabilities(), "binary", None, shadows=dict.fromkeys(names, _model))
    # These tests come to no rows.
    store: Any = None
    return ShardMaker(store, topic=TOPIC, models=factory, rules=rules)


def test_a_new_shard_has_the_configured_models_and_begins_at_its_place() -> None:
    shard = _maker(LabelRules(wait_ms=5), "other").begin(3, (7, 9))
    assert (shard.partition, shard.place, [*shard.models]) == (3, (7, 9), ["model", "other"])
    assert shard.labels is not None
    assert _maker().begin(3, (7, -1)).labels is None


def test_a_shard_of_a_snapshot_stands_where_that_was_taken() -> None:
    before = _maker(None, "other").begin(3, (7, -1))
    before.model.learn({"a": 1.0}, True)
    before.models["other"].faults = 2
    before.advance(9)
    before.secret = "5f" * 16
    start = _maker(None, "other").restore(take(before, topic="in", topic_id="t", now_ms=1), 4, -1)
    shard = start.shard
    assert (shard.start, shard.place, shard.version, shard.secret) == (7, (9, -1), 4, before.secret)
    assert shard.dump() == before.dump()
    assert shard.models["other"].faults == 2
    assert (start.turn, start.rows, start.sums) == (0, {}, {})


def test_a_labels_topic_that_is_new_begins_its_history_now() -> None:
    taken = take(_maker().begin(3, (7, -1)), topic="in", topic_id="t", now_ms=1)
    start = _maker(LabelRules(wait_ms=5)).restore(taken, 1, 40)
    assert (start.shard.labels_start, start.shard.labels_offset) == (40, 40)


def test_the_answering_model_must_be_there() -> None:
    before = _maker(None, "other").begin(3, (7, -1))
    before.answer_with("other")
    taken = take(before, topic="in", topic_id="t", now_ms=1)
    assert _maker(None, "other").restore(taken, 1, -1).shard.answering.name == "other"
    with pytest.raises(StateError, match="the model 'other' answers in the store") as caught:
        _maker().restore(taken, 1, -1)
    assert "configure it again" in caught.value.hint
