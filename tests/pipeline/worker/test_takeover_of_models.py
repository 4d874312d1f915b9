"""Shards of several models over a real store: which go on from a snapshot, which begin anew, and whose rows go."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from confluent_kafka import Message
from loop_rig import Loop, record
from memory_kafka import Kafka
from river import ensemble, linear_model

from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.recovery.consistency import StateError
from headrace.state.compiled.compiler import compile_model
from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.keyring import Keyring
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Capabilities, Model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard
from headrace.state.shard_model import table_name
from headrace.state.store.store import Store

KEYS = [b"a", b"b", b"c", b"d"]
Make = Callable[[str], Model]


def river(build: Callable[[], Any]) -> Make:
    return lambda _name: UndoableModel(RiverLearner(build()))


def compiled(_name: str) -> Model:
    model = compile_model(linear_model.LogisticRegression())
    assert model is not None
    return UndoableModel(model)


def keyed(store: Store, build: Callable[[], Any] = linear_model.LogisticRegression, hot_max: int = 2) -> Make:
    """Make models by key, most of which lie in the store."""

    def make(name: str) -> Model:
        table = table_name(name, "keys")
        return Keyring(
            RiverBank(RiverLearner(build())),
            fetch=lambda keys, stored: store.fetch(0, table, keys, base=stored),
            scan=lambda: store.pages(0, table),
            hot_max=hot_max,
        )

    return make


BAGGING = river(lambda: ensemble.BaggingClassifier(linear_model.LogisticRegression(), n_models=2, seed=3))
PERCEPTRON = river(linear_model.Perceptron)


@pytest.fixture(autouse=True)
def _keys(kafka: Kafka) -> None:
    """Let the sixty records of the log have several keys."""
    kafka.logs[0] = [
        Message(topic="in", partition=0, offset=at, key=KEYS[at * 7 % 4], value=record(at), timestamp=(1, 1_000 + at))
        for at in range(60)
    ]


def loop_of(kafka: Kafka, store: Store, first: Make, shadows: Mapping[str, Make]) -> Loop:
    made = {name: (lambda _partition, name=name, make=make: make(name)) for name, make in shadows.items()}
    return Loop(
        kafka, store, models=ModelFactory(lambda _p: first("model"), Capabilities(), "binary", None, shadows=made)
    )


def work(loop: Loop, shard: Shard, end: int) -> None:
    """Learn, and commit."""
    while shard.offset < end:
        batch = loop.learn(min(10, end - shard.offset))
        if batch is not None:
            loop.inflight.add(batch)
            loop.inflight.move()
            loop.inflight.settle()


def lived(
    kafka: Kafka, store: Store, first: Make, saved: int = 20, end: int = 30, **shadows: Make
) -> tuple[Loop, Shard]:
    """Let a worker live until `end`, with a snapshot at `saved`."""
    loop = loop_of(kafka, store, first, shadows)
    shard = loop.take()
    work(loop, shard, saved)
    assert loop.save(shard) == "saved"
    work(loop, shard, end)
    return loop, shard


def learned(shard: Shard, name: str = "") -> Any:
    """Tell all of a model."""
    one = shard.models[name] if name else shard.answering
    answers = []
    for key in KEYS:
        one.model.fetch([key])
        answers.append(one.model.predict({"a": 1.5, "b": 0.5}, key))
    return one.model.dump(), answers, one.quality_now(), one.faults


def test_models_of_three_kinds_go_on_from_a_snapshot_each_as_if_it_were_alone(kafka: Kafka, store: Store) -> None:
    makers = {"model": compiled, "bagging": BAGGING, "keyed": keyed(store)}
    lived(kafka, store, makers["model"], bagging=BAGGING, keyed=makers["keyed"])
    loop = loop_of(kafka, store, makers["model"], {"bagging": BAGGING, "keyed": makers["keyed"]})
    shard = loop.take()
    assert (shard.offset, shard.committed) == (20, 30)
    work(loop, shard, 60)
    assert loop.save(shard) == "saved"
    found = {name: learned(shard, name) for name in makers}
    for name, make in makers.items():
        store.client.flushall()
        kafka.offsets.clear()
        _, alone = lived(kafka, store, make, saved=20, end=60)
        assert learned(alone) == found[name], name
    assert kafka.predicted()[:60] == list(range(60))


def test_the_rows_of_two_models_by_key_do_not_meet(kafka: Kafka, store: Store) -> None:
    other = keyed(store, lambda: linear_model.LogisticRegression(l2=1.0))
    loop, shard = lived(kafka, store, keyed(store), other=other)
    assert loop.save(shard) == "saved"
    assert {key for key, _ in store.rows(0, "keys")} == {key for key, _ in store.rows(0, "keys/other")} == set(KEYS)
    assert dict(store.rows(0, "keys")) != dict(store.rows(0, "keys/other"))
    found = learned(shard), learned(shard, "other")
    again = loop_of(kafka, store, keyed(store), {"other": other}).take()
    assert (learned(again), learned(again, "other")) == found


def test_the_model_that_answers_goes_on_answering_and_must_be_configured(kafka: Kafka, store: Store) -> None:
    loop, shard = lived(kafka, store, compiled, bagging=BAGGING)
    shard.answer_with("bagging")
    assert loop.save(shard) == "saved"
    again = loop_of(kafka, store, compiled, {"bagging": BAGGING}).take()
    assert again.answering.name == "bagging"
    assert learned(again) == learned(shard, "bagging")
    assert [one.name for one in again.shadows] == ["model"]
    with pytest.raises(StateError, match="the model 'bagging' answers in the store, and the configuration has no"):
        loop_of(kafka, store, compiled, {}).take()
    with pytest.raises(StateError, match=r"model\.py builds another model than the one in the store"):
        loop_of(kafka, store, compiled, {"bagging": PERCEPTRON}).take()


def test_a_shadow_that_is_configured_anew_or_otherwise_begins_at_the_place_of_the_snapshot(
    kafka: Kafka, store: Store
) -> None:
    _, before = lived(kafka, store, compiled, saved=30, bagging=BAGGING, other=BAGGING)
    loop = loop_of(kafka, store, compiled, {"bagging": BAGGING, "other": PERCEPTRON, "new": PERCEPTRON})
    shard = loop.take()
    assert learned(shard, "bagging") == learned(before, "bagging")
    assert [shard.models[name].quality.scored for name in ("bagging", "other", "new")] == [30, 0, 0]
    work(loop, shard, 60)
    # A pipeline that begins there learns the same.
    kafka.offsets.clear()
    store.client.flushall()
    kafka.lows[0] = 30
    alone = loop_of(kafka, store, PERCEPTRON, {})
    began = alone.take()
    work(alone, began, 60)
    assert learned(shard, "new")[:2] == learned(shard, "other")[:2] == learned(began)[:2]


def test_rows_of_a_model_that_went_are_deleted_and_it_may_come_back(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, compiled, saved=30, keyed=keyed(store))
    assert store.count(0, "keys/keyed") == 4
    without = loop_of(kafka, store, compiled, {})
    shard = without.take()
    assert (shard.offset, store.count(0, "keys/keyed"), shard.tables()) == (30, 0, {})
    work(without, shard, 40)
    assert without.save(shard) == "saved"
    loop = loop_of(kafka, store, compiled, {"keyed": keyed(store)})
    shard = loop.take()
    work(loop, shard, 50)
    assert loop.save(shard) == "saved"
    assert store.count(0, "keys/keyed") == 4
    found = learned(shard, "keyed")
    again = loop_of(kafka, store, compiled, {"keyed": keyed(store)}).take()
    assert learned(again, "keyed") == found


@pytest.mark.parametrize("answers", ["model", "keyed"])
def test_rows_that_go_while_rows_of_another_model_stay_can_be_rolled_back(
    kafka: Kafka, store: Store, answers: str
) -> None:
    """A new owner that saves nothing, and is followed by one of the configuration before, has lost nothing else."""
    other = keyed(store, lambda: linear_model.LogisticRegression(l2=1.0))
    loop, shard = lived(kafka, store, keyed(store), saved=30, keyed=other)
    shard.answer_with(answers)
    assert loop.save(shard) == "saved"
    kept = "keyed" if answers == "keyed" else "model"
    found = learned(shard, kept)
    otherwise = keyed(store, linear_model.Perceptron)
    if answers == "model":
        again = loop_of(kafka, store, keyed(store), {"keyed": otherwise}).take()
    else:
        again = loop_of(kafka, store, otherwise, {"keyed": other}).take()
    assert learned(again, kept) == found
    gone = "keys/keyed" if answers == "model" else "keys"
    assert (store.count(0, gone), again.tables()[gone]) == (0, 0)


def test_a_shadow_that_was_taken_out_stays_out_until_it_is_built_otherwise(kafka: Kafka, store: Store) -> None:
    loop, shard = lived(kafka, store, compiled, bagging=BAGGING, keyed=keyed(store))
    shard.fail("bagging", "it was full")
    shard.fail("keyed", "so was it")
    work(loop, shard, 40)
    assert loop.save(shard) == "saved"
    again = loop_of(kafka, store, compiled, {"bagging": BAGGING, "keyed": keyed(store)}).take()
    assert [*again.models] == ["model"]
    assert {name: one.reason for name, one in again.failed.items()} == {"bagging": "it was full", "keyed": "so was it"}
    assert store.count(0, "keys/keyed") == 0
    other = loop_of(kafka, store, compiled, {"bagging": PERCEPTRON, "keyed": keyed(store)}).take()
    assert [*other.models] == ["model", "bagging"]
    assert [*other.failed] == ["keyed"]


def test_a_shadow_whose_bytes_can_not_be_loaded_begins_anew(kafka: Kafka, store: Store) -> None:
    loop, shard = lived(kafka, store, compiled, bagging=BAGGING)
    shard.models["bagging"].model.dump = lambda _key=b"": b"nonsense"  # type: ignore[method-assign]
    assert loop.save(shard) == "saved"
    again = loop_of(kafka, store, compiled, {"bagging": BAGGING}).take()
    assert (again.offset, again.models["bagging"].quality.scored, again.failed) == (30, 0, {})


def test_a_shadow_that_can_not_be_saved_is_taken_out_and_the_others_are_saved(kafka: Kafka, store: Store) -> None:
    loop, shard = lived(kafka, store, compiled, bagging=BAGGING, keyed=keyed(store))

    def fails(*_args: Any) -> Any:
        raise RuntimeError("a part of it has no form")

    shard.models["bagging"].model.dump = fails  # type: ignore[method-assign]
    shard.models["keyed"].model.packed = fails  # type: ignore[method-assign]
    assert loop.save(shard) == "saved"
    assert [*shard.models] == ["model"]
    found = store.load(0).snapshot
    assert found is not None
    assert ([*found.models], [*found.failed], found.tables) == (["model"], ["keyed", "bagging"], {})
    assert "RuntimeError: a part of it has no form" in found.failed["bagging"].reason
    again = loop_of(kafka, store, compiled, {"bagging": BAGGING, "keyed": keyed(store)}).take()
    assert learned(again) == learned(shard)
