import math
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from river import compose, ensemble, facto, linear_model, naive_bayes, preprocessing, tree

from headrace.state.keyed.bank import RiverBank
from headrace.state.models.label import LabelError
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError

KEYS = [b"a", b"b", b"", b"\x00"]
MODELS: dict[str, Callable[[], Any]] = {
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=10, delta=0.2),
    "pipeline": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "one hot": lambda: (
        (compose.Select("c") | preprocessing.OneHotEncoder()) + compose.Select("x", "y")
        | linear_model.LinearRegression()
    ),
    "bayes": naive_bayes.GaussianNB,
    "ensemble": lambda: ensemble.BaggingClassifier(linear_model.LogisticRegression(), n_models=3, seed=1),
    # It draws the factors of a feature that it meets, be it to predict.
    "factors": lambda: facto.FMRegressor(n_factors=3, seed=1),
}


def bank_of(kind: str) -> RiverBank:
    return RiverBank(RiverLearner(MODELS[kind]()))


def records(task: str, *, count: int, seed: int) -> Iterator[tuple[bytes, dict[str, Any], Any]]:
    rng = random.Random(seed)
    for _ in range(count):
        features: dict[str, Any] = {"x": rng.gauss(1, 2), "y": rng.random(), "c": rng.choice("uvwxyz")}
        label: Any = {"regression": rng.gauss(0, 1), "multiclass": rng.choice("pqr")}.get(task, rng.random() < 0.4)
        yield rng.choice(KEYS), features, label


def numbers(kind: str, features: dict[str, Any]) -> dict[str, Any]:
    return features if kind == "one hot" else {name: features[name] for name in "xy"}


def bits(answer: Any) -> Any:
    """Return an answer so that equal means equal to the bit."""
    if isinstance(answer, float):
        return "nan" if math.isnan(answer) else struct.pack("d", answer)
    if isinstance(answer, dict):
        return [(name, bits(value)) for name, value in answer.items()]
    return tuple(map(bits, answer)) if isinstance(answer, tuple) else answer


@pytest.mark.parametrize("kind", MODELS)
def test_each_key_is_a_model_of_its_own(kind: str) -> None:
    bank = bank_of(kind)
    learners = {key: RiverLearner(MODELS[kind]()) for key in KEYS}
    for key, row, label in records(bank.task, count=200, seed=1):
        features = numbers(kind, row)
        assert bits(bank.predict(features.copy(), key)) == bits(learners[key].predict(features.copy()))
        bank.learn(features.copy(), label, key)
        learners[key].learn(features.copy(), label)
    assert len(bank) == len(KEYS)
    assert (bank.task, bank.codec, bank.spec) == (learners[b"a"].task, learners[b"a"].codec, learners[b"a"].spec)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_was_dumped_and_loaded_at_any_time_goes_on_to_the_bit(kind: str) -> None:
    bank, other = bank_of(kind), bank_of(kind)
    for step, (key, row, label) in enumerate(records(bank.task, count=200, seed=2)):
        features = numbers(kind, row)
        assert bits(bank.predict(features.copy(), key)) == bits(other.predict(features.copy(), key)), step
        for one in (bank, other):
            one.learn(features.copy(), label, key)
        if step % 17 == 0:
            known = [name for name in KEYS if name in other]
            states = [other.dump(name) for name in known]
            other = bank_of(kind)
            for name, state in zip(known, states, strict=True):
                other.load(state, name)


@pytest.mark.parametrize("kind", MODELS)
def test_predicting_makes_no_key_and_leaves_the_new_ones_new(kind: str) -> None:
    bank, blank = bank_of(kind), RiverLearner(MODELS[kind]())
    features = numbers(kind, {"x": 1.0, "y": 2.0, "c": "u"})
    first = bits(blank.predict(features.copy()))
    assert [bits(bank.predict(features.copy(), b"new")) for _ in range(3)] == [first] * 3
    assert b"new" not in bank
    assert len(bank) == 0
    bank.learn(features.copy(), next(records(bank.task, count=1, seed=1))[2], b"a")
    assert bits(bank.predict(features.copy(), b"new")) == first


@pytest.mark.parametrize("kind", MODELS)
def test_a_key_is_born_as_the_factory_makes_it_whatever_others_were_asked_before(kind: str) -> None:
    bank, blank = bank_of(kind), RiverLearner(MODELS[kind]())
    for _, row, _ in records(bank.task, count=10, seed=3):
        bank.predict(dict(reversed(numbers(kind, row).items())), b"somebody")
    assert bank.bear(b"a") == bank.dump(b"a")
    assert b"a" in bank
    for _, row, label in records(bank.task, count=10, seed=4):
        features = numbers(kind, row)
        assert bits(bank.predict(features.copy(), b"a")) == bits(blank.predict(features.copy()))
        for key in (b"a", b"b"):
            bank.learn(features.copy(), label, key)
        blank.learn(features.copy(), label)
    probe = numbers(kind, {"x": 1.0, "y": 2.0, "c": "u"})
    assert bits(bank.predict(probe.copy(), b"a")) == bits(blank.predict(probe.copy()))


def test_a_key_that_was_dropped_is_new_again_and_the_others_stay() -> None:
    bank = bank_of("pipeline")
    for key in (b"a", b"b"):
        bank.learn({"x": 3.0}, True, key)
        bank.learn({"x": 1.0}, False, key)
    kept = bank.dump(b"b")
    bank.drop(b"a")
    bank.drop(b"never there")
    assert (b"a" in bank, b"b" in bank, len(bank)) == (False, True, 1)
    assert bank.dump(b"b") == kept
    assert bits(bank.predict({"x": 3.0}, b"a")) == bits(bank_of("pipeline").predict({"x": 3.0}, b"a"))
    with pytest.raises(KeyError):
        bank.dump(b"a")


def test_a_copy_under_another_key_shares_nothing() -> None:
    bank = bank_of("pipeline")
    bank.learn({"x": 3.0}, True, b"a")
    state = bank.dump(b"a")
    bank.load(state, b"b")
    bank.learn({"x": -3.0}, False, b"b")
    assert bank.dump(b"a") == state != bank.dump(b"b")


def test_the_classes_of_one_key_are_of_one_kind_whatever_those_of_the_others_are() -> None:
    bank = bank_of("bayes")
    bank.learn({"x": 1.0}, bank.label("yes"), b"a")
    bank.learn({"x": 1.0}, bank.label(1.0), b"b")
    with pytest.raises(LabelError, match="not a string"):
        bank.learn({"x": 1.0}, bank.label(1), b"a")
    with pytest.raises(LabelError, match="not a number"):
        bank.learn({"x": 1.0}, bank.label("yes"), b"b")
    other = bank_of("bayes")
    other.load(bank.dump(b"a"), b"a")
    with pytest.raises(LabelError, match="not a string"):
        other.learn({"x": 1.0}, other.label(1), b"a")
    with pytest.raises(LabelError, match="not a class"):
        bank.label(0.5)


def test_bytes_that_are_no_model_change_nothing() -> None:
    bank = bank_of("pipeline")
    bank.learn({"x": 3.0}, True, b"a")
    state = bank.dump(b"a")
    for damaged in (b"", state[:-5], b"\x80\x05.", b"something else"):
        for key in (b"a", b"new"):
            with pytest.raises(ModelError):
                bank.load(damaged, key)
    assert bank.dump(b"a") == state
    assert b"new" not in bank
