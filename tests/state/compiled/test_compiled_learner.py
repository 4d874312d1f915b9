"""A compiled model beside River's own, record by record: equal to the last bit, whatever a record holds."""

import copy
import numbers
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from river import compose, linear_model, optim, preprocessing, stats
from river.optim import initializers, losses, schedulers
from words import Words

from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model, explain
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError

Example = tuple[dict[str, Any], Any]

SCHEDULES = [schedulers.Constant(0.1), schedulers.InverseScaling(0.1, 0.3), schedulers.Optimal(losses.Hinge())]
OPTIMIZERS = [
    *(optim.SGD(schedule) for schedule in SCHEDULES),
    optim.Momentum(),
    optim.NesterovMomentum(),
    optim.AdaGrad(),
    optim.AdaDelta(),
    optim.RMSProp(),
    optim.Adam(),
    optim.AdaMax(),
    optim.AMSGrad(),
    optim.AMSGrad(correct_bias=False),
    optim.Nadam(),
    optim.FTRLProximal(l1=0.1),
]
BINARY_LOSSES = [losses.Log(3.0, 0.5), losses.Hinge(), losses.BinaryFocalLoss()]
NUMBER_LOSSES = [
    losses.Squared(),
    losses.Absolute(),
    losses.Quantile(0.3),
    losses.Huber(0.5),
    losses.EpsilonInsensitiveHinge(),
    losses.Poisson(),
    losses.Cauchy(2.0),
]


def numeric() -> Any:
    return compose.SelectType(numbers.Number) | preprocessing.StandardScaler()


def categories(**options: bool) -> Any:
    return compose.SelectType(str) | preprocessing.OneHotEncoder(**options)


def logistic(**options: Any) -> Any:
    return linear_model.LogisticRegression(**options)


def linear(**options: Any) -> Any:
    return linear_model.LinearRegression(**options)


def stream(count: int, *, seed: int = 1, words: bool = False, bad: float = 0.0, number: bool = False) -> list[Example]:
    draw, examples = random.Random(seed), []
    for _ in range(count):
        features: dict[str, Any] = {
            name: draw.choice([draw.gauss(0, 1), draw.gauss(5, 100), draw.randint(-3, 3), draw.random() < 0.5])
            for name in "abcd"
            if draw.random() < 0.9
        }
        if words:
            features["shop"] = draw.choice(["x", "y", "ü", None, f"w{len(examples) // 50}"])
            features["city"] = draw.choice(["paris", "x_y", 1, 1.0, True])
        if draw.random() < bad:
            features[draw.choice("abcd")] = draw.choice(["no number", None])
        order = list(features.items())
        draw.shuffle(order)
        label = draw.gauss(0.0, 2.0) if number else draw.random() < 0.5
        examples.append((dict(order), None if draw.random() < 0.1 else label))
    return examples


def labels(examples: Sequence[Example]) -> Any:
    return np.array([np.nan if label is None else float(label) for _, label in examples])


def compiled(model: Any) -> CompiledLearner:
    result = compile_model(model)
    assert result is not None, explain(model)
    return result


def river_says(learner: RiverLearner, examples: Sequence[Example]) -> Iterator[Any]:
    """Yield River's answer for each record, or the error; what River half learned before it is taken back."""
    for features, label in examples:
        before = copy.deepcopy(learner.model)
        try:
            answer = learner.predict(dict(features))
            if label is not None:
                learner.learn(dict(features), label)
        except Exception as error:  # noqa: BLE001 what River raises is the answer
            learner.adopt(before)
            answer = error
        yield answer


def machine_says(machine: CompiledLearner, answers: Any, examples: Sequence[Example]) -> Iterator[Any]:
    for at, (features, _) in enumerate(examples):
        if answers.fault[at]:
            yield machine.fault(int(answers.fault[at]), features)
        elif machine.task == "regression":
            yield float(answers.value[at]), None
        else:
            true = float(answers.value[at])
            yield bool(answers.chosen[at]), {False: 1.0 - true, True: true}


def assert_same(model: Any, examples: Sequence[Example], *, faults: bool = False) -> None:
    """Feed both in batches, and carry the compiled one over a dump, another vocabulary and a River model meanwhile."""
    river, machine, words = RiverLearner(copy.deepcopy(model)), compiled(model), Words()
    met: list[str] = []
    for round_, first in enumerate(range(0, len(examples), 30)):
        batch = examples[first : first + 30]
        answers = machine.learn_batch(words.columns(batch), labels(batch))
        for ours, theirs in zip(machine_says(machine, answers, batch), river_says(river, batch), strict=True):
            shown = [type(said).__name__ if isinstance(said, Exception) else repr(said) for said in (ours, theirs)]
            # River's sigmoid has whole numbers at its ends.
            assert shown[0] == shown[1] or ours == theirs
            met.extend(said for said in shown if said.endswith("Error"))
        if round_ % 3 == 1:
            again = compiled(model)
            again.load(machine.dump())
            assert again.dump() == machine.dump()
            machine, words = again, Words(generation=words.generation + 1)
        if round_ % 3 == 2:
            again = compiled(machine.to_river())
            assert again.dump() == machine.dump()
            machine = again
    assert bool(met) is faults


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("penalty", [{}, {"l2": 0.01}, {"l1": 0.001}], ids=str)
def test_each_optimizer_is_rivers_to_the_bit(optimizer: Any, penalty: dict[str, float]) -> None:
    if "l1" in penalty and isinstance(optimizer, optim.FTRLProximal):
        penalty = {}
    model = preprocessing.StandardScaler() | logistic(optimizer=copy.deepcopy(optimizer), **penalty)
    assert_same(model, stream(200))


@pytest.mark.parametrize("loss", [*BINARY_LOSSES, *NUMBER_LOSSES], ids=lambda loss: type(loss).__name__)
def test_each_loss_is_rivers_to_the_bit(loss: Any) -> None:
    number = isinstance(loss, losses.RegressionLoss)
    model = preprocessing.StandardScaler() | (linear if number else logistic)(loss=loss, optimizer=optim.AdaGrad())
    assert_same(model, stream(200, number=number))


@pytest.mark.parametrize(
    "model",
    [
        logistic(intercept_lr=schedulers.InverseScaling(0.05), intercept_init=2.0),
        logistic(initializer=initializers.Constant(0.3), clip_gradient=0.1),
        preprocessing.MinMaxScaler() | logistic(),
        preprocessing.MaxAbsScaler() | preprocessing.StandardScaler(with_std=False) | logistic(),
        compose.Discard("a") | preprocessing.StandardScaler() | logistic(),
        compose.Prefixer("in ") | compose.Suffixer("!") | preprocessing.StandardScaler() | logistic(),
    ],
    ids=str,
)
def test_numbers_through_any_steps_are_rivers_to_the_bit(model: Any) -> None:
    assert_same(model, stream(240))


@pytest.mark.parametrize(
    "model",
    [
        categories() | logistic(),
        categories(drop_zeros=True) | logistic(),
        preprocessing.OneHotEncoder() | logistic(l2=0.1),
        (numeric() + categories()) | logistic(optimizer=optim.Adam()),
        (numeric() + (categories() | preprocessing.StandardScaler()) + compose.SelectType(bool)) | logistic(),
        preprocessing.StatImputer(("shop", "none")) | categories() | logistic(),
        compose.SelectType(numbers.Number, str) | preprocessing.FeatureHasher(n_features=8, seed=3) | logistic(),
        preprocessing.StatImputer(("shop", 7)) | (numeric() + categories()) | logistic(),
    ],
    ids=lambda model: str(model)[:60],
)
def test_words_through_any_steps_are_rivers_to_the_bit(model: Any) -> None:
    assert_same(model, stream(240, words=True))


@pytest.mark.parametrize(
    "model",
    [
        preprocessing.StandardScaler() | logistic(),
        preprocessing.StandardScaler(with_std=False) | logistic(),
        preprocessing.MinMaxScaler() | logistic(),
        preprocessing.MaxAbsScaler() | logistic(),
        (compose.Select("a") + preprocessing.StandardScaler()) | logistic(),
        preprocessing.StatImputer(("a", stats.Mean()), ("b", stats.Max())) | logistic(),
        preprocessing.FeatureHasher(n_features=4, seed=1) | logistic(optimizer=optim.AdaGrad()),
    ],
    ids=lambda model: str(model)[:60],
)
def test_record_on_which_river_raises_leaves_no_trace(model: Any) -> None:
    assert_same(model, stream(240, bad=0.1), faults=True)


def test_overflow_in_the_optimizer_undoes_scaler_and_encoder() -> None:
    wide = [({**x, "a": 1e160, "shop": f"{at}"} if at % 7 == 3 else x, y) for at, (x, y) in enumerate(stream(200))]
    center = compose.SelectType(numbers.Number) | preprocessing.StandardScaler(with_std=False)
    assert_same((center + categories()) | linear(optimizer=optim.AdaGrad()), wide, faults=True)


def test_one_record_at_a_time_is_the_same_model_as_a_batch() -> None:
    model, examples = (numeric() + categories()) | logistic(), stream(120, words=True)
    batch, single = compiled(model), compiled(model)
    answers = batch.learn_batch(Words().columns(examples), labels(examples))
    for at, (features, label) in enumerate(examples):
        assert single.predict(features)[1][True] == answers.value[at]  # type: ignore[index] it is binary
        if label is not None:
            single.learn(features, label)
    assert single.dump() == batch.dump()


def test_neighbours_beyond_the_exact_doubles_are_two_categories() -> None:
    ids = [2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**64 + 1, 10**300]
    model = compose.Prefixer("the ") | preprocessing.OneHotEncoder() | logistic()
    river, machine = RiverLearner(copy.deepcopy(model)), compiled(model)
    for at in range(60):
        features, label = {"id": ids[at * 7 % 6]}, at % 3 == 0
        assert machine.predict(features) == river.predict(features)
        machine.learn(features, label)
        river.learn(features, label)
    again = compiled(model)
    again.load(machine.dump())
    assert set(again.to_river()["OneHotEncoder"].values["the id"]) == set(ids)
    assert_same(model, [({"id": ids[at * 7 % 6], "x": 2**60 + at}, at % 3 == 0) for at in range(120)])


def test_prediction_changes_nothing_that_a_dump_tells() -> None:
    machine = compiled((numeric() + categories()) | logistic())
    for features, label in stream(60, words=True):
        machine.learn(features, bool(label))
    before = machine.dump()
    machine.predict({"new": 1.0, "shop": "new", "b": 2})
    assert machine.dump() == before


def test_models_of_one_template_are_independent() -> None:
    template = preprocessing.StandardScaler() | logistic()
    one, two = compiled(template), compiled(template)
    one.learn({"a": 1.0}, label=True)
    assert two.dump() == compiled(template).dump() != one.dump()


def test_damaged_bytes_are_refused_and_change_nothing() -> None:
    machine, draw = compiled((numeric() + categories()) | logistic(optimizer=optim.Adam())), random.Random(5)
    for features, label in stream(60, words=True):
        machine.learn(features, bool(label))
    good, refused = machine.dump(), 0
    for _ in range(300):
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] = draw.randrange(256)
        before = machine.dump()
        try:
            machine.load(bytes(bad))
        except ModelError:
            refused += 1
            assert machine.dump() == before
    assert refused > 100


def test_bytes_of_another_model_are_refused() -> None:
    with pytest.raises(ModelError, match="built otherwise"):
        compiled(logistic(l2=0.1)).load(compiled(logistic()).dump())


class Own(linear_model.LogisticRegression):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Own(), "class of your own"),
        (preprocessing.StandardScaler(window_size=3) | logistic(), "window_size"),
        (preprocessing.FeatureHasher() | logistic(), "seed"),
        (preprocessing.OneHotEncoder(drop_first=True) | logistic(), "drop_first"),
        (preprocessing.StatImputer(("a", stats.Mode())) | logistic(), "Mode"),
        (logistic(optimizer=optim.Averager(optim.SGD())), "Averager"),
        (logistic(optimizer=optim.AdaGrad(eps=0.0)), "eps"),
        (logistic(initializer=initializers.Normal(seed=1)), "Normal"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_is_not_compiled_says_why(model: Any, reason: str) -> None:
    assert compile_model(model) is None
    (refusal,) = [verdict for verdict in explain(model) if not verdict.compiled]
    assert reason in refusal.reason
