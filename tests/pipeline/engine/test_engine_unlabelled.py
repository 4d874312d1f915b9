"""Models that learn each record without its label: learned once, undone, relearned; the label only scores."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from river import anomaly, cluster, linear_model, reco

from headrace.consumers.mapped_decoder import MappedDecoder
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import Decoder, LabelRecord, Record
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers.replay_proof import ReplayClaim, sign
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

SECRET = "0f" * 16
MODELS: dict[str, Callable[[], Any]] = {
    "half-space trees": lambda: anomaly.HalfSpaceTrees(n_trees=3, height=4, window_size=20, seed=1),
    "a filter": lambda: anomaly.QuantileFilter(anomaly.OneClassSVM(), q=0.9),
    "k-means": lambda: cluster.KMeans(n_clusters=3, seed=1),
    "DBSTREAM": lambda: cluster.DBSTREAM(clustering_threshold=0.3, cleanup_interval=5),
    "CluStream": lambda: cluster.CluStream(max_micro_clusters=5, n_macro_clusters=2, time_gap=7, seed=1),
}


def _engine() -> Engine:
    return Engine(decoder=Decoder(), topic="in", name="fraud", labels="truths")


def _shard(model: Any, *, labels: bool = False, shadows: Any = None) -> Shard:
    shard = Shard(
        _undoable(model),
        partition=0,
        start=0,
        shadows={name: _undoable(one) for name, one in (shadows or {}).items()},
        labels=Labels(LabelRules(wait_ms=1_000_000)) if labels else None,
        labels_start=0 if labels else -1,
    )
    shard.secret = SECRET
    return shard


def _undoable(model: Any) -> UndoableModel:
    return UndoableModel(RiverLearner(model))


def _record(offset: int, *, headers: Any = None, **more: Any) -> Record:
    features = {"a": (offset * 7 % 11) / 11, "b": (offset * 3 % 5) / 5}
    value = json.dumps({"id": f"r{offset}", "features": features, **more}).encode()
    return Record(0, offset, 1_000 * offset, b"k", value, headers)


def _label(offset: int, of: int, label: Any) -> Record:
    value = json.dumps({"id": f"r{of}", "label": label}).encode()
    return LabelRecord(0, offset, 1_000 * offset, b"k", value, None)


def _run(shard: Shard, records: Sequence[Record]) -> PartitionOutputs:
    return _engine().run(shard, records, now_ms=5)


def _answers(result: PartitionOutputs) -> list[Any]:
    lines = [json.loads(value) for value in result.predictions.values]
    return [(line["source"]["offset"], line["prediction"], line.get("score")) for line in lines]


def _plain(model: Any, records: Sequence[Record]) -> list[Any]:
    """Return the answers of River alone."""
    answers = []
    for record in records:
        x = json.loads(record.value or b"")["features"]
        if isinstance(model, cluster.KMeans | cluster.DBSTREAM | cluster.CluStream):
            answers.append((record.offset, model.predict_one(x), None))
        else:
            score = model.score_one(x)
            verdict = model.classify(score) if hasattr(model, "classify") else None
            answers.append((record.offset, verdict, score))
        model.learn_one(x)
    return answers


@pytest.mark.parametrize("name", MODELS)
def test_each_record_is_predicted_and_then_learned_labelled_or_not(name: str) -> None:
    shard = _shard(MODELS[name]())
    records = [_record(offset, **({"label": True} if offset % 3 else {})) for offset in range(60)]
    result = _run(shard, records)
    assert _answers(result) == _plain(MODELS[name](), records)
    assert (shard.counts.learned, result.learned, len(result.dead_letters)) == (60, 60, 0)
    assert all(result.labelled)


@pytest.mark.parametrize("name", MODELS)
def test_a_record_on_which_the_model_raises_is_as_if_it_had_never_been_there(name: str) -> None:
    good = [_record(offset) for offset in range(60)]
    odd = Record(0, 25, 0, b"k", b'{"features": {"a": "word", "b": "word"}}', None)
    shard = _shard(MODELS[name]())
    result = _run(shard, [*good[:25], odd, *good[26:]])
    assert [letter.refusal.code for letter in result.dead_letters] == ["learn_failed"]
    assert shard.counts.learned == 59
    assert _answers(result) == _plain(MODELS[name](), [*good[:25], *good[26:]])


@pytest.mark.parametrize("name", MODELS)
def test_a_shard_that_was_saved_relearns_to_the_bit(name: str) -> None:
    records = [_record(offset) for offset in range(60)]
    whole, first, second = (_shard(MODELS[name]()) for _ in range(3))
    expected = _answers(_run(whole, records))
    _run(first, records[:31])
    state = first.dump()
    _run(first, records[31:45])
    second.answering.restore(state["model"], quality=first.quality_now(), faults=0)
    assert _answers(_run(second, records[31:])) == expected[31:]


@pytest.mark.parametrize("name", MODELS)
def test_with_a_labels_topic_a_record_is_learned_when_it_is_read_and_its_label_teaches_nothing(name: str) -> None:
    records = [_record(offset) for offset in range(40)]
    late = [_label(offset, offset, offset % 2 == 0) for offset in range(40)]
    shard = _shard(MODELS[name](), labels=True)
    result = _run(shard, [one for pair in zip(records, late, strict=True) for one in pair])
    assert _answers(result) == _plain(MODELS[name](), records)
    assert (shard.counts.learned, result.labels, len(result.dead_letters)) == (40, 40, 0)
    assert shard.labels is not None
    assert (shard.labels.asked, shard.labels.tally.joined) == (0, 40)


def test_a_replay_of_what_only_a_sink_refused_is_not_learned_again() -> None:
    shard, record = _shard(MODELS["k-means"]()), _record(0)
    claim = ReplayClaim(1, learned=True)
    headers = sign(claim, secret=SECRET, topic="in", partition=0, key=record.key, value=record.value)
    result = _run(shard, [_record(0, headers=headers)])
    assert (len(result.predictions), shard.counts.learned) == (1, 0)


def test_a_prediction_that_the_sink_refused_says_that_its_record_was_learned() -> None:
    shard, engine = _shard(MODELS["k-means"]()), _engine()
    result = engine.run(shard, [_record(0), _record(1)], now_ms=5)
    engine.withdraw(shard, result, {1: "no"})
    assert [letter.learned for letter in result.dead_letters] == [True]


def test_a_label_that_is_no_verdict_is_refused_and_the_record_not_learned() -> None:
    shard = _shard(MODELS["half-space trees"]())
    result = _run(shard, [_record(0, label="odd")])
    assert [letter.refusal.code for letter in result.dead_letters] == ["bad_label"]
    assert shard.counts.learned == 0


def test_a_record_without_a_user_or_an_item_is_refused_by_the_name_of_the_field() -> None:
    shard = _shard(reco.Baseline(seed=1))
    records = [
        Record(0, at, 0, b"k", json.dumps({"features": features, "label": 3.0}).encode(), None)
        for at, features in enumerate(({"user": "u", "item": 1}, {"user": "u"}, {"item": 1}))
    ]
    result = _run(shard, records)
    told = [(letter.refusal.code, letter.refusal.field) for letter in result.dead_letters]
    assert told == [("missing_field", "features.item"), ("missing_field", "features.user")]
    assert shard.counts.learned == 1


def test_the_field_of_a_user_is_named_as_the_mapping_names_features() -> None:
    shard, decoder = _shard(reco.Baseline(seed=1)), MappedDecoder(RecordMapping(features="row.x", label="stars"))
    engine = Engine(decoder=decoder, topic="in", name="fraud")
    value = b'{"row": {"x": {"item": 1}}, "stars": 3}'
    result = engine.run(shard, [Record(0, 0, 0, b"k", value, None)], now_ms=5)
    assert [letter.refusal.field for letter in result.dead_letters] == ["user"]


def test_a_shadow_that_learns_without_labels_sees_each_record_beside_a_classifier() -> None:
    trees = MODELS["half-space trees"]
    shard = _shard(linear_model.LogisticRegression(), shadows={"trees": trees()})
    records = [_record(offset, **({"label": True} if offset % 3 == 0 else {})) for offset in range(60)]
    _run(shard, records)
    expected = trees()
    _plain(expected, records)
    odd = {"a": 0.99, "b": 0.01}
    assert shard.models["trees"].model.predict(dict(odd))[0].score == expected.score_one(odd)
    assert (shard.models["trees"].faults, shard.counts.learned) == (0, 20)
