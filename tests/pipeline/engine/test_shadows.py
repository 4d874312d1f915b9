"""Shadows: each is the model that it would be alone, and nothing that it raises is seen outside."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from river import linear_model, tree
from side_by_side import (
    KEYS,
    MAKERS,
    bagging,
    compiled,
    compiled_otherwise,
    keyed,
    learned,
    river,
    run,
    shard_of,
    stream,
    stream_of_both,
    told,
    values_of,
)

from headrace.consumers.record import Record
from headrace.pipeline.engine import shadows
from headrace.state.labels.join_entry import RAISED
from headrace.state.labels.label_join import LabelRules
from headrace.state.models.model import Model
from headrace.state.models.task import ModelError
from headrace.state.shard import Shard
from headrace.state.snapshot import take

RULES = {
    "no labels topic": None,
    "labels": LabelRules(wait_ms=10**9),
    "short waits": LabelRules(wait_ms=60),
    "corrections": LabelRules(wait_ms=10**9, corrections=True),
    "a default": LabelRules(wait_ms=60, default=True),
}
RAISES: dict[str, Callable[[], BaseException]] = {
    "an error": lambda: ValueError("no"),
    "an exit": lambda: SystemExit(3),
    "no memory": MemoryError,
}


class Fragile(linear_model.LogisticRegression):
    """Changes itself, and then raises on some records: when it predicts, or when it learns."""

    raises: Callable[[], BaseException] = RAISES["an error"]

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        if x.get("a", 0.0) > 1.5:
            self.intercept += 7
            raise Fragile.raises()
        return super().predict_proba_one(x)

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # noqa: FBT001 River's signature
        super().learn_one(x, y)
        if x.get("b", 0.0) > 1.5:
            raise Fragile.raises()


class Strange(linear_model.LogisticRegression):
    """Answers with something that no prediction can hold."""

    def predict_proba_one(self, x: dict[str, Any]) -> dict[Any, float]:
        return {b"bytes" if "c" in x else "x" * 2_000_000 if "b" in x else True: 1.0}


def fragile() -> Model:
    return river(Fragile(), __name__)


@pytest.fixture(params=RAISES)
def raises(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fragile, "raises", staticmethod(RAISES[request.param]))


def records_for(rules: LabelRules | None, seed: int) -> list[Record]:
    return stream(seed) if rules is None else stream_of_both(seed)


@pytest.mark.parametrize("fast", [False, True], ids=["one by one", "in batches"])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("first", MAKERS)
def test_three_models_of_three_kinds_are_what_each_would_be_alone(first: str, rules: str, *, fast: bool) -> None:
    for seed in range(2):
        records = records_for(RULES[rules], seed)
        others = {name: make() for name, make in MAKERS.items() if name != first}
        together = shard_of(MAKERS[first](), RULES[rules], **others)
        outputs = run(together, records, fast=fast, seed=seed)
        for name, make in MAKERS.items():
            alone = shard_of(make(), RULES[rules])
            wanted = run(alone, records, fast=fast, seed=seed + 7)
            assert learned(together, "model" if name == first else name) == learned(alone, "model"), name
            if name == first:
                assert [*values_of(outputs)] == [*values_of(wanted)]
                assert (together.counts, together.place) == (alone.counts, alone.place)
        assert together.models["model"].quality.scored > 50


@pytest.mark.usefixtures("raises")
@pytest.mark.parametrize("fast", [False, True], ids=["one by one", "in batches"])
@pytest.mark.parametrize("rules", RULES)
def test_what_a_shadow_raises_is_counted_for_it_and_seen_by_nobody_else(rules: str, *, fast: bool) -> None:
    records = records_for(RULES[rules], 3)
    alone = shard_of(compiled(), RULES[rules], bagging=bagging())
    wanted = run(alone, records, fast=fast)
    together = shard_of(compiled(), RULES[rules], fragile=fragile(), bagging=bagging())
    assert told(run(together, records, fast=fast)) == told(wanted)
    for name in ("model", "bagging"):
        assert learned(together, name) == learned(alone, name)
    assert (together.counts, together.place, together.failed) == (alone.counts, alone.place, {})
    one = together.models["fragile"]
    assert one.faults > 20
    assert 0 < one.quality.scored < together.answering.quality.scored
    # However the stream is cut, it is the same.
    again = shard_of(compiled(), RULES[rules], fragile=fragile(), bagging=bagging())
    run(again, records, fast=not fast, seed=5)
    assert learned(again, "fragile") == learned(together, "fragile")


def test_a_record_on_which_a_shadow_raised_is_for_it_as_if_it_had_never_been() -> None:
    records = [record for record in stream(4) if record.value != b"{"]
    together = shard_of(compiled(), fragile=fragile())
    run(together, records, fast=True)
    good = [
        record
        for record in records
        if (x := json.loads(record.value or b"")["features"]).get("a", 0) <= 1.5
        and (x.get("b", 0) <= 1.5 or "label" not in json.loads(record.value or b""))
    ]
    alone = shard_of(fragile())
    run(alone, good, fast=False)
    assert learned(together, "fragile")[:3] == learned(alone, "model")[:3]
    assert together.models["fragile"].faults == len(records) - len(good)


@pytest.mark.parametrize("raised", ["predicting", "nothing"])
def test_a_label_is_learned_by_each_shadow_that_did_not_raise_on_its_features(raised: str) -> None:
    shard = shard_of(compiled(), LabelRules(wait_ms=10**9), fragile=fragile())
    a = 2 if raised == "predicting" else 1
    features = Record(0, 0, 1_000, b"k", b'{"id": "r0", "features": {"a": %d}}' % a, None)
    run(shard, [features], fast=False)
    assert shard.labels is not None
    entry = shard.labels._entries["r0"]
    assert (entry.answer_of("fragile") == RAISED) == (raised == "predicting")
    before = shard.models["fragile"].model.dump()
    shadows.learn(shard, entry, {"a": float(a)}, True, truth=True, scored=True)
    assert (shard.models["fragile"].model.dump() == before) == (raised == "predicting")
    assert shard.models["fragile"].quality.scored == (raised == "nothing")


def test_a_shadow_that_began_after_the_features_learns_their_label_and_is_not_scored() -> None:
    shard = shard_of(compiled(), LabelRules(wait_ms=10**9))
    run(shard, [Record(0, 0, 1_000, b"k", b'{"id": "r0", "features": {"a": 1}}', None)], fast=False)
    assert shard.labels is not None
    later = shard_of(compiled(), LabelRules(wait_ms=10**9), later=compiled())
    shadows.learn(later, shard.labels._entries["r0"], {"a": 1.0}, True, truth=True, scored=True)
    alone = shard_of(compiled())
    alone.model.learn({"a": 1.0}, True)
    assert later.models["later"].model.dump() == alone.model.dump()
    assert later.models["later"].quality.scored == 0


def test_what_the_answering_model_refuses_no_shadow_sees() -> None:
    """It raises on some records, which are dead letters; a bad label and bad JSON are others."""
    records = stream(5)
    records[7] = Record(0, 7, 1_070, b"k1", b'{"features": {"a": 1}, "label": "neither"}', None)
    for fast in (False, True):
        together = shard_of(fragile(), compiled=compiled(), keyed=keyed())
        outputs = run(together, records, fast=fast)
        refused = {letter.record.offset for one in outputs for letter in one.dead_letters}
        assert len(refused) > 30
        alone = shard_of(compiled())
        run(alone, [record for record in records if record.offset not in refused], fast=fast)
        assert learned(together, "compiled") == learned(alone, "model")
        assert together.models["keyed"].faults == 0


def test_a_shadow_by_key_does_not_take_records_without_a_key() -> None:
    records = [msgspec.structs.replace(record, key=None) if record.offset % 3 == 0 else record for record in stream(6)]
    found = []
    for fast in (False, True):
        together = shard_of(compiled(), keyed=keyed())
        outputs = run(together, records, fast=fast)
        predicted = [json.loads(value)["source"]["offset"] for value in values_of(outputs)]
        assert together.models["keyed"].faults == len([offset for offset in predicted if offset % 3 == 0])
        alone = shard_of(keyed())
        run(alone, [record for record in records if record.key is not None], fast=fast)
        assert learned(together, "keyed")[1:3] == learned(alone, "model")[1:3]
        found.append(learned(together, "keyed"))
    assert found[0] == found[1]


@pytest.mark.parametrize("fast", [False, True], ids=["one by one", "in batches"])
@pytest.mark.parametrize("rules", ["no labels topic", "labels", "corrections"])
def test_another_model_answers_from_a_record_on_and_all_learn_as_before(rules: str, *, fast: bool) -> None:
    records = records_for(RULES[rules], 8)
    at = len(records) // 2
    together = shard_of(compiled(), RULES[rules], bagging=bagging(), keyed=keyed())
    before = run(together, records[:at], fast=fast)
    together.answer_with("bagging")
    after = run(together, records[at:], fast=fast)
    assert [one.name for one in together.shadows] == ["model", "keyed"]
    runs = {}
    for name, make in {"model": compiled, "bagging": bagging, "keyed": keyed}.items():
        alone = shard_of(make(), RULES[rules])
        runs[name] = told([*run(alone, records[:at], fast=fast), *run(alone, records[at:], fast=fast)])
        assert learned(together, name) == learned(alone, "model"), name
    assert told(before) == runs["model"][: len(before)]
    assert told(after) == runs["bagging"][len(before) :]


def test_an_answer_that_no_prediction_can_hold_is_a_fault() -> None:
    records = stream(9)
    together = shard_of(compiled(), LabelRules(wait_ms=10**9), strange=river(Strange(), __name__))
    outputs = run(together, records, fast=False)
    assert all(letter.refusal.code != "learn_failed" for one in outputs for letter in one.dead_letters)
    assert together.models["strange"].faults > 100
    assert together.labels is not None
    together.labels.begin_save()
    assert together.labels.changes()


def test_a_shadow_that_can_not_be_undone_is_taken_out() -> None:
    together = shard_of(compiled(), fragile=fragile(), bagging=bagging())
    together.models["fragile"].model.load = None  # type: ignore[method-assign,assignment]
    together.models["fragile"].model.inner.load = None  # type: ignore[attr-defined]
    records = stream(10)
    alone = shard_of(compiled(), bagging=bagging())
    assert told(run(together, records, fast=True)) == told(run(alone, records, fast=True))
    assert [*together.models] == ["model", "bagging"]
    assert "TypeError" in together.failed["fragile"].reason
    assert learned(together, "bagging") == learned(alone, "bagging")
    assert take(together, topic="in", topic_id="", now_ms=1).failed == together.failed


def test_a_label_that_a_shadow_can_not_learn_is_its_fault() -> None:
    """Labels in numbers are classes of the one model, and true or false for the other."""
    values = [b'{"features": {"a": %d}, "label": %d}' % (number % 3, number % 4) for number in range(40)]
    records = [Record(0, at, 1, b"k1", value, None) for at, value in enumerate(values)]
    for fast in (False, True):
        together = shard_of(river(tree.HoeffdingTreeClassifier()), binary=compiled())
        outputs = run(together, records, fast=fast)
        assert sum(len(one.predictions) for one in outputs) == 40
        assert together.models["binary"].faults == 20
        alone = shard_of(compiled())
        run(alone, records, fast=fast)
        assert learned(together, "binary")[:3] == learned(alone, "model")[:3]


def test_a_model_that_all_workers_share_has_no_shadows() -> None:
    shared = compiled()
    shared.can = type(shared.can)(shared=True, undo=True)
    with pytest.raises(ModelError, match="all workers share") as caught:
        Shard(shared, partition=0, start=0, shadows={"bagging": bagging()})
    assert "model.scope" in caught.value.hint
    Shard(shared, partition=0, start=0)


@pytest.mark.parametrize("key", KEYS[:1])
def test_one_model_alone_waits_with_a_plain_answer(key: bytes) -> None:
    shard = shard_of(compiled(), LabelRules(wait_ms=10**9))
    run(shard, [Record(0, 0, 1_000, key, b'{"id": "r0", "features": {"a": 1}}', None)], fast=False)
    assert shard.labels is not None
    assert shard.labels._entries["r0"].answer is False or shard.labels._entries["r0"].answer is True
    both = shard_of(compiled(), LabelRules(wait_ms=10**9), other=compiled_otherwise())
    run(both, [Record(0, 0, 1_000, key, b'{"id": "r0", "features": {"a": 1}}', None)], fast=False)
    assert both.labels is not None
    assert both.labels._entries["r0"].answer.keys() == {"model", "other"}
