"""A compiled model of several classes beside River's own: the same classes, in order, and the same probabilities."""

import copy
import numbers
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from river import compose, linear_model, naive_bayes, optim, preprocessing
from river.optim import losses, schedulers
from test_compiled_learner import Example, compiled, river_says
from words import Words

from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model, explain
from headrace.state.models.label import LabelError
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError

LABELS: dict[str, list[Any]] = {
    "words": ["x", "ü", "", "late", "z", *(f"class {number}" for number in range(9))],
    "numbers": [7, True, 0, -(10**30), 3, 10**19],
    "booleans": [True, False],
}


# River's own are not typed.
gaussian: Any = naive_bayes.GaussianNB
multinomial: Any = naive_bayes.MultinomialNB
bernoulli: Any = naive_bayes.BernoulliNB
complement: Any = naive_bayes.ComplementNB


def scaled(last: Any) -> Any:
    return preprocessing.StandardScaler() | last


def both(last: Any) -> Any:
    words = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return (compose.SelectType(numbers.Number) | preprocessing.StandardScaler()) + words | last


def softmax(**options: Any) -> Any:
    return linear_model.SoftmaxRegression(**options)


def stream(
    count: int, *, seed: int = 1, bad: float = 0.0, words: bool = False, counts: bool = False, labels: str = "words"
) -> list[Example]:
    """Return records whose features come and go, and whose classes come late."""
    draw, examples, names = random.Random(seed), [], LABELS[labels]
    for at in range(count):
        there = "abcd" if at < count // 3 else "abcdefgh"
        features: dict[str, Any] = {}
        for name in there:
            numbers_: list[Any] = [draw.gauss(0, 1), draw.gauss(5, 100), draw.randint(-3, 3), draw.random() < 0.5]
            if counts:
                numbers_ = [draw.randint(0, 9), draw.random(), True]
            if draw.random() < 0.8:
                features[name] = draw.choice(numbers_)
        if words:
            features["shop"] = draw.choice(["x", "y", "ü", None, f"w{at // 50}"])
        if draw.random() < bad:
            features[draw.choice("abcdz")] = draw.choice(["no number", None])
        order = list(features.items())
        draw.shuffle(order)
        label = names[min(int(draw.expovariate(0.5)), at * 2 * len(names) // count, len(names) - 1)]
        examples.append((dict(order), None if draw.random() < 0.1 else label))
    return examples


def numbered(machine: CompiledLearner, examples: Sequence[Example]) -> Any:
    return np.array(
        [np.nan if label is None else machine.label_number(machine.label(label)) for _, label in examples], float
    )


def machine_says(machine: CompiledLearner, examples: Sequence[Example], words: Words) -> Iterator[Any]:
    answers = machine.learn_batch(words.columns(examples), numbered(machine, examples))
    for at, (features, _) in enumerate(examples):
        if answers.fault[at]:
            yield machine.fault(int(answers.fault[at]), features)
            continue
        known, value = int(answers.known[at]), int(answers.value[at])
        proba = dict(zip(machine.classes, answers.proba[at, :known].tolist(), strict=False))
        yield (None if value < 0 else machine.classes[value]), proba


def shown(said: Any) -> str:
    return type(said).__name__ if isinstance(said, Exception) else repr(said)


def assert_same(model: Any, examples: Sequence[Example], *, faults: bool = False) -> None:
    """Feed both in batches, and carry the compiled one over a dump, another vocabulary and a River model meanwhile."""
    river, machine, words = RiverLearner(copy.deepcopy(model)), compiled(model), Words()
    met = 0
    for round_, first in enumerate(range(0, len(examples), 25)):
        batch = examples[first : first + 25]
        ours, theirs = list(machine_says(machine, batch, words)), list(river_says(river, batch))
        assert list(map(shown, ours)) == list(map(shown, theirs))
        met += sum(isinstance(said, Exception) for said in theirs)
        again = compiled(machine.to_river())
        assert again.dump() == machine.dump()
        if round_ % 3 == 1:
            again = compiled(model)
            again.load(machine.dump())
            assert again.dump() == machine.dump()
            words = Words(generation=words.generation + 1)
        if round_ % 3:
            machine = again
    assert machine.classes
    assert (met > 0) is faults


SOFTMAXES = [
    softmax(),
    softmax(l2=0.1),
    softmax(optimizer=optim.SGD(schedulers.InverseScaling(0.1, 0.3))),
    softmax(optimizer=optim.SGD(schedulers.Optimal(losses.Hinge())), l2=0.01),
]
BAYES = [gaussian()]
COUNTING = [
    multinomial(),
    multinomial(alpha=0),
    bernoulli(),
    bernoulli(alpha=0.3, true_threshold=0.5),
]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("model", [*SOFTMAXES, *BAYES], ids=str)
def test_each_model_is_rivers_to_the_bit(model: Any, labels: str) -> None:
    assert_same(model, stream(250, labels=labels))
    assert_same(scaled(model), stream(250, labels=labels))


@pytest.mark.parametrize("bad", [0.0, 0.2])
@pytest.mark.parametrize("model", COUNTING, ids=str)
def test_each_model_that_counts_is_rivers_to_the_bit(model: Any, bad: float) -> None:
    assert_same(model, stream(250, counts=True, bad=bad), faults=bad > 0.0 or model.alpha == 0)
    assert_same(model, stream(250, bad=bad), faults=bad > 0.0 or not isinstance(model, naive_bayes.BernoulliNB))
    assert_same(preprocessing.MinMaxScaler() | compose.Discard("h") | model, stream(200), faults=model.alpha == 0)


@pytest.mark.parametrize("model", [SOFTMAXES[1], *BAYES], ids=str)
def test_words_before_a_model_are_rivers_to_the_bit(model: Any) -> None:
    assert_same(both(model), stream(300, words=True))


@pytest.mark.parametrize("model", [SOFTMAXES[1], *BAYES], ids=str)
def test_record_on_which_river_raises_leaves_no_trace(model: Any) -> None:
    assert_same(scaled(model), stream(300, bad=0.2), faults=True)
    assert_same(model, stream(300, bad=0.2), faults=True)


@pytest.mark.parametrize("model", [SOFTMAXES[0], *BAYES, *COUNTING[2:4]], ids=str)
def test_one_record_at_a_time_is_the_same_model_as_a_batch(model: Any) -> None:
    examples = stream(200)
    batch, single = compiled(scaled(model)), compiled(scaled(model))
    for (features, label), said in zip(examples, machine_says(batch, examples, Words()), strict=True):
        assert repr(single.predict(features)) == repr(said)
        if label is not None:
            single.learn(features, single.label(label))
    assert single.dump() == batch.dump()


def test_class_is_known_once_it_was_learned_in_that_order() -> None:
    machine = compiled(gaussian())
    examples: list[Example] = [({"a": "bad"}, "first"), ({"a": 1.0}, "second"), ({"a": 2.0}, "third")]
    answers = machine.learn_batch(Words().columns(examples), numbered(machine, examples))
    assert answers.fault.tolist() == [1, 0, 0]
    assert answers.known.tolist()[1:] == [0, 1]
    assert answers.value.tolist()[1:] == [-1, 0]
    assert machine.classes == ["second", "third"]
    assert [machine.label_number(label) for label in ("third", "second", "first")] == [1, 0, 2]
    assert machine.predict({"a": 1.0})[0] == "second"
    with pytest.raises(ValueError, match="label_number"):
        machine.learn_batch(Words().columns(examples[:1]), np.array([3.0]))


def test_labels_are_of_the_kind_that_was_learned() -> None:
    machine = compiled(gaussian())
    machine.label("a")
    machine.learn({"a": 1.0}, machine.label(1))
    with pytest.raises(LabelError):
        machine.label("a")
    again = compiled(gaussian())
    again.load(machine.dump())
    with pytest.raises(LabelError):
        again.label("a")


@pytest.mark.parametrize("model", [SOFTMAXES[0], *BAYES, *COUNTING], ids=str)
def test_damaged_bytes_are_refused_and_change_nothing(model: Any) -> None:
    machine, draw = compiled(model), random.Random(5)
    list(machine_says(machine, stream(60, counts=True), Words()))
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
    assert refused > 30


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (softmax(optimizer=optim.Adam()), "Adam"),
        (softmax(loss=losses.CrossEntropy(class_weight={"a": 2.0})), "weights of classes"),
        (complement(), "ComplementNB"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_is_not_compiled_says_why(model: Any, reason: str) -> None:
    assert compile_model(model) is None
    (refusal,) = [verdict for verdict in explain(model) if not verdict.compiled]
    assert reason in refusal.reason
