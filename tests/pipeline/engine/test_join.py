"""The engine over both topics: what becomes of labels, and of the features that they belong to."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from packed import rows_to_save
from river import linear_model, preprocessing, tree

from headrace.consumers.record import Decoder, LabelRecord, Record
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers import deadletter
from headrace.producers.replay_proof import ReplayClaim, sign
from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.keyring import Keyring
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.row_packing import TableVersion
from headrace.state.shard import Shard
from headrace.state.store.store_errors import StoreAway


class Picky(linear_model.LogisticRegression):
    """Raises on a feature called `bad` when it learns."""

    def learn_one(self, x: dict[str, Any], y: Any, w: float = 1.0) -> None:
        super().learn_one(x, y, w)
        if "bad" in x:
            raise KeyError("bad")


def _engine() -> Engine:
    return Engine(decoder=Decoder(), topic="in", name="fraud", labels="truths")


def _shard(model: Any = None, **rules: Any) -> Shard:
    learner = RiverLearner(
        model or preprocessing.StandardScaler() | linear_model.LogisticRegression(), trusted=frozenset({__name__})
    )
    joined = Labels(LabelRules(**{"wait_ms": 1_000, **rules}))
    return Shard(UndoableModel(learner), partition=0, start=0, labels=joined, labels_start=0)


def _features(id_: str, offset: int = 0, *, ts: int = 0, headers: Any = None, **more: Any) -> Record:
    features = more.pop("features", {"a": float(offset)})
    value = json.dumps({"id": id_, "ts": ts, "features": features, **more}).encode()
    return Record(0, offset, 5, b"k", value, headers)


def _label(id_: str, label: Any, offset: int = 0, **more: Any) -> Record:
    return LabelRecord(0, offset, 9, b"k", json.dumps({"id": id_, "label": label, **more}).encode(), None)


def _run(shard: Shard, records: Sequence[Record]) -> PartitionOutputs:
    return _engine().run(shard, records, now_ms=5)


def _codes(result: PartitionOutputs) -> list[tuple[int, str, str]]:
    found = []
    for letter in result.dead_letters:
        headers = {name: (value or b"").decode() for name, value in letter.headers}
        assert headers["__dlq.errors.topic"] == "truths"
        found.append((letter.record.offset, headers[deadletter.CODE], headers["dlq.stage"]))
    return found


def test_a_label_teaches_the_model_the_features_that_were_predicted_from() -> None:
    shard, whole = _shard(), preprocessing.StandardScaler() | linear_model.LogisticRegression()
    result = _run(shard, [_features("a", 0), _features("b", 1), _label("a", True), _label("b", False, 1)])
    assert (len(result.predictions), result.labels, result.learned, result.delays_ms) == (2, 2, 2, [4, 4])
    for features, label in (({"a": 0.0}, True), ({"a": 1.0}, False)):
        whole.predict_proba_one(features)
        whole.learn_one(features, label)
    assert shard.model.predict({"a": 3.0}, b"k")[1] == whole.predict_proba_one({"a": 3.0})
    assert shard.place == (2, 2)


def test_the_prediction_that_was_sent_is_scored_and_not_a_later_one() -> None:
    shard = _shard()
    _run(shard, [_features("a", 5)])
    sent = shard.model.predict({"a": 5.0}, b"k")[0]
    for offset in range(30):
        _run(shard, [_features(f"x-{offset}", 5, label=not sent)])
    assert shard.model.predict({"a": 5.0}, b"k")[0] != sent, "by now the model would answer otherwise"
    scored = shard.answering.quality.total
    _run(shard, [_label("a", bool(sent))])
    assert shard.answering.quality.total == scored + 1


def test_the_score_goes_to_the_version_that_made_the_prediction() -> None:
    shard = _shard()
    _run(shard, [_features("a")])
    shard.version = 7
    _run(shard, [_features("b", 1), _label("b", True), _label("a", True, 1)])
    assert {version: score.scored for version, score in shard.answering.quality.versions.items()} == {7: 1, 0: 1}


def test_the_delay_is_event_time_where_the_label_has_one() -> None:
    shard = _shard()
    assert _run(shard, [_features("a", ts=100), _label("a", True, ts=850)]).delays_ms == [750]


def test_an_early_label_is_learned_with_its_features_and_the_prediction_is_made_before() -> None:
    shard = _shard()
    result = _run(shard, [_label("a", True), _features("a")])
    assert (result.learned, shard.counts.learned) == (1, 1)
    [answer] = [json.loads(value) for value in result.predictions.values]
    assert answer["proba"] == {"false": 0.5, "true": 0.5}
    assert _run(shard, [_label("a", True, 1)]).learned == 0


def test_features_with_a_label_of_their_own_do_not_wait_and_are_learned_once() -> None:
    shard = _shard()
    assert shard.labels is not None
    result = _run(
        shard, [_features("a", label=True), _label("a", True), _label("a", False, 1), _features("a", 1, label=True)]
    )
    assert (result.learned, shard.labels.asked) == (1, 0)
    assert (shard.labels.tally.duplicate, shard.labels.tally.corrected) == (1, 1)


def test_a_replay_of_what_the_model_has_learned_does_not_wait() -> None:
    for secret, wanted in (("0f" * 16, (0, 0)), ("ab" * 16, (1, 0))):
        shard, record = _shard(default=False), _features("a")
        shard.secret = "0f" * 16
        assert shard.labels is not None
        claim = ReplayClaim(1, learned=True)
        headers = sign(claim, secret=secret, topic="in", partition=0, key=record.key, value=record.value)
        _run(shard, [_features("a", headers=headers)])
        assert (shard.labels.asked, shard.counts.learned) == wanted, "a forged one waits as any other"


def test_features_without_a_label_are_dropped_or_learned_with_the_default() -> None:
    records = [_features("a", 0), _features("b", 1, ts=2_000)]
    dropped, learned = _shard(), _shard(default=False)
    assert (_run(dropped, records).learned, _run(learned, records).learned) == (0, 1)
    assert dropped.answering.quality.scored == 0
    assert learned.answering.quality.scored == 1
    assert learned.labels is not None
    assert learned.labels.tally.expired == 1


def test_features_that_are_evicted_are_learned_with_the_default_at_once() -> None:
    shard = _shard(default=False, waiting_max=2)
    assert _run(shard, [_features(f"{index}", index) for index in range(5)]).learned == 3


@pytest.mark.parametrize(
    ("record", "code", "stage"),
    [
        (LabelRecord(0, 3, 9, None, b"{", None), "not_json", "decode"),
        (_label("a", "perhaps", 3), "bad_label", "validate"),
        (_label("a", None, 3), "bad_label", "validate"),
        (_label("a", [1], 3), "bad_label", "validate"),
    ],
)
def test_an_invalid_label_is_a_dead_letter_and_its_features_keep_waiting(record: Record, code: str, stage: str) -> None:
    shard = _shard()
    result = _run(shard, [_features("a"), record, _label("a", True, 4)])
    assert _codes(result) == [(3, code, stage)]
    assert (result.labels, result.learned, shard.labels_offset) == (1, 1, 5)
    assert shard.labels is not None
    assert (shard.labels.tally.records, shard.labels.tally.refused) == (2, 1)
    assert (shard.counts.records, shard.counts.dead_letters) == (1, 0), "those are of the features"


def test_a_label_on_which_the_model_raises_is_a_dead_letter_and_was_never_learned() -> None:
    broken, whole = _shard(Picky()), _shard(Picky())
    records = [_features("a", 0, features={"a": 1.0, "bad": 9.0}), _features("b", 1)]
    result = _run(broken, [*records, _label("a", True), _label("b", True, 1)])
    _run(whole, [records[1], _label("b", True)])
    assert _codes(result) == [(0, "learn_failed", "join")]
    assert broken.model.predict({"a": 3.0, "bad": 1.0}, b"k") == whole.model.predict({"a": 3.0, "bad": 1.0}, b"k")
    assert broken.labels is not None
    assert broken.labels.asked == 1, "its features wait on, for a label or for the end"


def test_a_default_on_which_the_model_raises_leaves_it_as_it_was() -> None:
    shard = _shard(Picky(), default=True)
    result = _run(shard, [_features("a", 0, features={"bad": 9.0}), _features("b", 1, ts=5_000)])
    assert (result.learned, result.dead_letters) == (0, [])
    assert shard.model.predict({"bad": 1.0}, b"k")[1] == {False: 0.5, True: 0.5}


def test_a_refused_record_waits_for_no_label() -> None:
    shard = _shard()
    _run(shard, [Record(0, 0, 5, b"k", b'{"id": "a", "features": {"a": [1]}}', None)])
    assert shard.labels is not None
    assert len(shard.labels) == 0


def test_a_default_of_another_kind_than_the_models_classes_is_not_learned() -> None:
    shard = _shard(tree.HoeffdingTreeClassifier(), default="none")
    records = [_features(f"{index}", index, label=index % 2) for index in range(5)]
    result = _run(shard, [*records, _features("a", 5), _features("b", 6, ts=5_000), _features("c", 7, label=1)])
    assert (result.dead_letters, shard.counts.learned) == ([], 6)


def test_answers_of_any_size_are_scored_as_they_were_sent() -> None:
    shard = _shard(tree.HoeffdingTreeClassifier())
    _run(shard, [_features("x", 0, label=10**30), _features("a", 1), _label("a", 10**30)])
    assert shard.answering.quality.total == 1


def test_a_record_that_the_sink_refused_says_whether_the_model_has_learned_it() -> None:
    plain = Shard(UndoableModel(RiverLearner(linear_model.LogisticRegression())), partition=0, start=0)
    engine = _engine()
    for shard, learned in ((plain, None), (_shard(), b"true")):
        result = engine.run(shard, [_features("a", 0)], now_ms=5)
        engine.withdraw(shard, result, {0: "no"})
        [letter] = result.dead_letters
        assert dict(letter.headers).get(deadletter.LEARNED) == learned


def test_a_store_that_is_away_is_no_fault_of_a_labels() -> None:
    is_away = False

    def fetch(keys: Sequence[bytes], _stand: TableVersion) -> Sequence[bytes | None]:
        if is_away:
            raise StoreAway("gone")
        return [None] * len(keys)

    learner = RiverLearner(linear_model.LogisticRegression())
    keys = Keyring(RiverBank(learner), fetch=fetch, scan=lambda: iter(()), hot_max=1)
    shard = Shard(keys, partition=0, start=0, labels=Labels(LabelRules(wait_ms=1_000, default=False)), labels_start=0)
    _run(shard, [_features("a"), Record(0, 1, 5, b"other", b'{"features": {"a": 1}}', None)])
    keys.begin_save()
    keys.saved(rows_to_save(keys)[1], 1)
    is_away = True
    with pytest.raises(StoreAway):
        _run(shard, [_label("a", True)])
    with pytest.raises(StoreAway):
        _run(shard, [Record(0, 2, 5, b"other", b'{"ts": 9000, "features": {"a": 1}}', None)])
