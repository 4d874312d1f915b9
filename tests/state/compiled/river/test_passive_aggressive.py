"""Passive-aggressive models and the perceptron, compiled, beside River's own: equal to the last bit."""

import copy
import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from river import compose, linear_model, preprocessing
from river.optim import initializers
from test_compiled_learner import (
    Example,
    categories,
    compiled,
    labels,
    machine_says,
    numeric,
    river_says,
    stream,
)
from words import Words

from headrace.state.compiled.compiler import compile_model, explain
from headrace.state.models.learner import RiverLearner

BINARY = [
    linear_model.Perceptron(),
    linear_model.Perceptron(l2=0.1, clip_gradient=0.5, initializer=initializers.Constant(0.3)),
    *(
        linear_model.PAClassifier(C=c, mode=mode, learn_intercept=intercept)
        for mode, c, intercept in itertools.product((0, 1, 2), (0.01, 3), (True, False))
    ),
]
NUMBER = [
    linear_model.PARegressor(C=c, mode=mode, eps=eps, learn_intercept=intercept)
    for mode, c, eps, intercept in itertools.product((0, 1, 2), (0.01, 3), (0.1, 2), (True, False))
]


def same(ours: Any, theirs: Any) -> bool:
    """Tell whether two answers are equal, or two refusals alike: numpy has errors of its own, and so many kinds."""
    if isinstance(theirs, Exception):
        return isinstance(ours, TypeError) and isinstance(theirs, TypeError | ValueError)
    if isinstance(ours, Exception):
        return False
    mine, rivers = ([said[0], *(said[1] or {}).values()] for said in (ours, theirs))
    return np.array_equal(np.array(mine, float), np.array(rivers, float), equal_nan=True)


def assert_same(model: Any, examples: Sequence[Example], *, faults: bool = False, nans: bool = False) -> None:
    """Feed both in batches, and carry the compiled one over bytes, and over a River model, meanwhile."""
    river, machine, words, met = RiverLearner(copy.deepcopy(model)), compiled(model), Words(), False
    for round_, first in enumerate(range(0, len(examples), 30)):
        batch = examples[first : first + 30]
        answers = machine.learn_batch(words.columns(batch), labels(batch))
        for ours, theirs in zip(machine_says(machine, answers, batch), river_says(river, batch), strict=True):
            assert same(ours, theirs), (ours, theirs)
            met = met or isinstance(theirs, Exception)
        again = compiled(model if round_ % 2 else machine.to_river())
        if round_ % 2:
            again.load(machine.dump())
        assert again.dump() == machine.dump()
        # What River itself has learned is taken on as well, and is what was learned here; but NaN has a sign.
        assert nans or compiled(river.model).dump() == machine.dump()
        machine = again
    assert met is faults


def wide(count: int, *, features: int, number: bool) -> list[Example]:
    """Make records of many features, in many orders, some with more features than the model has met yet, some fewer."""
    draw, examples = random.Random(4), []
    for at in range(count):
        names = draw.sample(range(features), draw.randrange(min(features, 1 + 2 * at)) + 1)
        row = {f"f{name}": draw.gauss(0.0, 10.0 ** draw.randint(-3, 3)) for name in names}
        examples.append((row, draw.gauss(0.0, 5.0) if number else draw.random() < 0.5))
    return examples


@pytest.mark.parametrize("head", [*BINARY, *NUMBER], ids=repr)
def test_each_option_is_rivers_to_the_bit(head: Any) -> None:
    number = isinstance(head, linear_model.PARegressor)
    assert_same(head, stream(120, number=number))
    assert_same(preprocessing.StandardScaler() | copy.deepcopy(head), stream(90, number=number, seed=2))


@pytest.mark.parametrize(
    "model",
    [linear_model.PAClassifier(mode=2), linear_model.PAClassifier(C=0.1), linear_model.PARegressor(mode=0)],
    ids=repr,
)
@pytest.mark.parametrize("features", [3, 40, 300])
def test_sums_go_in_rivers_order_over_rows_of_any_width(model: Any, features: int) -> None:
    number = isinstance(model, linear_model.PARegressor)
    assert_same(model, wide(150, features=features, number=number))
    assert_same(preprocessing.MinMaxScaler() | copy.deepcopy(model), wide(60, features=features, number=number))


@pytest.mark.parametrize("head", [linear_model.Perceptron(), linear_model.PAClassifier(C=0.1)], ids=repr)
def test_words_are_encoded_before_such_a_head(head: Any) -> None:
    for steps in (
        numeric() + categories(),
        preprocessing.OneHotEncoder(),
        compose.SelectType(int, float, bool, str) | preprocessing.FeatureHasher(n_features=8, seed=3),
    ):
        assert_same(steps | copy.deepcopy(head), stream(200, words=True))


@pytest.mark.parametrize("head", [BINARY[0], BINARY[2], NUMBER[0]], ids=repr)
def test_record_on_which_river_raises_leaves_no_trace(head: Any) -> None:
    number = isinstance(head, linear_model.PARegressor)
    assert_same(copy.deepcopy(head), stream(240, bad=0.2, number=number), faults=True)
    # What is new is passed over when River predicts, and refused when it learns.
    both = preprocessing.StandardScaler() + compose.Select("e")
    odd = [({**x, "e": "no number" if at % 9 == 4 else 1}, y) for at, (x, y) in enumerate(stream(60, number=number))]
    assert_same(compose.Discard("z") | copy.deepcopy(head), odd, faults=True)
    assert compile_model(both | copy.deepcopy(head)) is not None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_at_their_ends_are_rivers_to_the_bit() -> None:
    ends = [0, 0.0, -0.0, 1e-200, 5e-324, 1e155, -1e308, float("inf"), float("nan"), 1, True, 2**62]
    draw = random.Random(3)
    for head in (BINARY[2], BINARY[6], BINARY[10], NUMBER[0], NUMBER[8], NUMBER[16]):
        for _ in range(40):
            rows = [{name: draw.choice(ends) for name in "abc" if draw.random() < 0.7} for _ in range(8)]
            number = isinstance(head, linear_model.PARegressor)
            examples = [(row, draw.choice([0.0, 3, -1e300]) if number else draw.random() < 0.5) for row in rows]
            assert_same(head, examples, nans=True)


def test_whole_numbers_that_numpy_has_no_word_for_are_refused_as_river_refuses_them() -> None:
    odd: list[Example] = [
        ({"a": 2**80, "b": 1}, True),
        ({"a": 2**80, "b": 1.0}, True),
        ({"a": -(2**63), "b": True}, False),
    ]
    assert_same(BINARY[2], odd, faults=True)


@pytest.mark.parametrize("head", [BINARY[0], BINARY[2], NUMBER[0]], ids=repr)
def test_one_record_at_a_time_is_the_same_model_as_a_batch(head: Any) -> None:
    examples = stream(90, number=isinstance(head, linear_model.PARegressor))
    batch, single = compiled(head), compiled(head)
    answers = batch.learn_batch(Words().columns(examples), labels(examples))
    for at, (features, label) in enumerate(examples):
        value, proba = single.predict(features)
        assert (proba[True] if proba else value) == answers.value[at]
        if label is not None:
            single.learn(features, label)
    assert single.dump() == batch.dump()


def test_regressor_goes_on_with_numpys_numbers_and_classifier_with_pythons() -> None:
    for head, label, kind in ((NUMBER[0], 1.0, np.float64), (BINARY[2], True, float)):
        machine = compiled(head)
        machine.learn({"b": 1.0, "a": 2.0}, label)
        river = machine.to_river()
        assert list(river.weights) == ["b", "a"]
        assert {type(number) for number in (*river.weights.values(), river.intercept)} == {kind}


def test_what_is_not_compiled_says_why() -> None:
    changed = linear_model.PAClassifier(mode=1)
    changed.mode = 2
    for model, reason in (
        (linear_model.PAClassifier(mode=2, C=0), "divides by zero"),
        (linear_model.PARegressor(C=float("inf")), "no plain number"),
        (changed, "changed after"),
    ):
        assert compile_model(model) is None
        assert reason in explain(model)[0].reason
