"""Pipelines that nobody thought of, on records that nobody has seen: still what River answers."""

import copy
from typing import Any

import pytest
from flood import HUGE, TINY, Record
from hypothesis import event, given, settings
from hypothesis import strategies as st
from river import compose, linear_model, naive_bayes, optim, preprocessing, stats
from river.optim import initializers, losses, schedulers
from twin import SOAK, Census, River, Words, feed, one_by_one

from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.model import Task
from headrace.state.models.task import task_of

pytestmark = pytest.mark.timeout(3600 if SOAK else 120)
EXAMPLES = 5_000 if SOAK else 80
NAMES = ["a", "b", "c", "d", "a_1", "b_x"]
STRINGS = ["", "x", "1", "True", "nan", "ž"]
PLAIN: list[Any] = [0, 1, -1, 2, 0.5, -0.25, 3.75, -12.5, True, False, 1.0, -0.0]

plain = st.sampled_from(PLAIN) | st.floats(-10, 10, width=32) | st.integers(-5, 5)
odd = st.sampled_from([*STRINGS, None])
extreme = st.sampled_from(HUGE + TINY)
# Mostly numbers; which others there are is one choice for all of a stream.
values = {"plain": plain, "mixed": plain | plain | plain | odd, "extreme": plain | plain | plain | extreme | odd}
names = st.sampled_from(NAMES)


def _number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.sampled_from([low, high, (low + high) / 2])


rates = st.one_of(
    st.sampled_from([0.01, 0.1, 1]),
    st.builds(schedulers.Constant, st.just(0.05)),
    st.builds(schedulers.InverseScaling, st.just(0.2), st.sampled_from([0.5, 0.1, 1.0, 2])),
    st.builds(schedulers.Optimal, st.builds(losses.Hinge), st.sampled_from([1e-4, 0.1])),
)
optimizers = st.one_of(
    st.builds(optim.SGD, rates),
    st.builds(optim.Momentum, rates, st.sampled_from([0.9, 0.0])),
    st.builds(optim.NesterovMomentum, rates),
    st.builds(optim.AdaGrad, rates, st.sampled_from([1e-8, 1.0])),
    st.builds(optim.AdaDelta),
    st.builds(optim.RMSProp, rates, st.sampled_from([0.9, 0.1])),
    st.builds(optim.Adam, rates, st.sampled_from([0.9, 0.0]), st.sampled_from([0.999, 0.5])),
    st.builds(optim.AdaMax, rates),
    st.builds(optim.AMSGrad, rates, correct_bias=st.booleans()),
    st.builds(optim.Nadam, rates),
    st.builds(
        optim.FTRLProximal,
        _number(0.01, 1.0),
        st.sampled_from([1.0, 0.1]),
        st.sampled_from([0.0, 0.1]),
        st.sampled_from([0.0, 1.0]),
    ),
)
penalties = st.sampled_from([{}, {}, {"l2": 0.1}, {"l1": 0.01}, {"l1": 1}])
glm = {
    "optimizer": optimizers,
    "intercept_init": st.sampled_from([0.0, 1, -0.5]),
    "intercept_lr": st.sampled_from([0.01, 0, 1.0]) | st.builds(schedulers.InverseScaling, st.just(0.1)),
    "clip_gradient": st.sampled_from([1e12, 0.1, 0.0]),
    "initializer": st.one_of(
        st.builds(initializers.Zeros), st.builds(initializers.Constant, st.sampled_from([0.3, 2]))
    ),
}
binary_losses = st.one_of(
    st.builds(losses.Log, st.sampled_from([1.0, 3]), st.sampled_from([1.0, 0.1])),
    st.builds(losses.Hinge, st.sampled_from([0.0, 1.0])),
    st.builds(losses.BinaryFocalLoss),
)
number_losses = st.sampled_from(
    [losses.Squared, losses.Absolute, losses.Huber, losses.Quantile, losses.Cauchy, losses.Poisson]
).map(lambda loss: loss())


def _glm(kind: Any, loss: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    options = st.fixed_dictionaries({**glm, "loss": loss})
    return st.tuples(options, penalties).map(lambda pair: kind(**pair[0], **pair[1]))


modes = st.sampled_from([0, 1, 2])
sizes = st.sampled_from([0.01, 1.0, 10])
heads = st.one_of(
    _glm(linear_model.LogisticRegression, binary_losses),
    _glm(linear_model.LinearRegression, number_losses),
    st.builds(linear_model.Perceptron, l2=st.sampled_from([0.0, 0.1])),
    st.builds(linear_model.PAClassifier, sizes, modes, st.booleans()),
    st.builds(linear_model.PARegressor, sizes, modes, st.sampled_from([0.0, 0.1]), st.booleans()),
    st.builds(linear_model.SoftmaxRegression, optimizers, l2=st.sampled_from([0, 0.1])),
    st.builds(naive_bayes.GaussianNB),
    st.builds(naive_bayes.MultinomialNB, sizes),
    st.builds(naive_bayes.BernoulliNB, sizes, st.sampled_from([0.0, 0.5])),
)
statistics = st.sampled_from([stats.Mean, stats.Min, stats.Max]).map(lambda kind: kind()) | st.sampled_from(
    [0, 0.5, "x"]
)
steps = st.one_of(
    st.builds(preprocessing.StandardScaler, with_std=st.booleans()),
    st.builds(preprocessing.MinMaxScaler),
    st.builds(preprocessing.MaxAbsScaler),
    st.builds(preprocessing.OneHotEncoder, drop_zeros=st.booleans()),
    st.builds(preprocessing.FeatureHasher, st.sampled_from([1, 4, 64]), st.sampled_from([1, 2]), st.booleans()),
    st.sets(names, max_size=3).map(lambda keys: compose.Select(*sorted(keys))),
    st.sets(names, max_size=3).map(lambda keys: compose.Discard(*sorted(keys))),
    st.sets(st.sampled_from([int, float, str, bool]), min_size=1).map(
        lambda kinds: compose.SelectType(*sorted(kinds, key=str))
    ),
    st.lists(st.tuples(names, statistics), min_size=1, max_size=2).map(lambda args: preprocessing.StatImputer(*args)),
    st.builds(compose.Prefixer, st.sampled_from(["", "a_"])),
    st.builds(compose.Suffixer, st.just("_1")),
)


def _chain(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else compose.Pipeline(*parts)


branches = st.lists(steps, min_size=1, max_size=2).map(_chain)
unions = st.lists(branches, min_size=2, max_size=3).map(lambda parts: compose.TransformerUnion(*parts))
models = st.tuples(st.lists(steps | unions, max_size=3), heads).map(lambda parts: _chain([*parts[0], parts[1]]))


def _labels(task: Task) -> st.SearchStrategy[Any]:
    of: dict[Task, st.SearchStrategy[Any]] = {
        "binary": st.booleans(),
        "regression": plain.map(lambda number: number if type(number) is not bool else int(number)),
        "multiclass": st.sampled_from(["x", "y", "z"]),
    }
    return of[task] | of[task] | of[task] | st.none()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, list[list[Record]]]:
    """A model, and a stream of records in batches."""
    model = draw(models)
    features = st.dictionaries(names, values[draw(st.sampled_from(sorted(values)))], max_size=5)
    record = st.tuples(features, _labels(task_of(model)))
    return model, draw(st.lists(st.lists(record, max_size=9), min_size=1, max_size=5))


@settings(max_examples=EXAMPLES)
@given(cases())
def test_any_pipeline_on_any_records_answers_as_river_does(case: tuple[Any, list[list[Record]]]) -> None:
    model, batches = case
    machine, single = compile_model(model), compile_model(model)
    event(f"compiled: {machine is not None}")
    if machine is None or single is None:
        return
    river, words = River(copy.deepcopy(model)), Words()
    for at, batch in enumerate(batches):
        census, alone = Census(), Census()
        said = feed(machine, batch, words)
        census.count(said, [river.take(*record) for record in batch])
        assert not census.differ
        alone.count(one_by_one(single, batch), said)
        assert not alone.differ
        assert alone.same == alone.numbers
        assert single.dump() == machine.dump()
        if at % 2:
            words.turn()
            machine = _again(machine, model)


def _again(machine: CompiledLearner, model: Any) -> CompiledLearner:
    fresh = compile_model(model)
    assert fresh is not None
    fresh.load(machine.dump())
    assert fresh.dump() == machine.dump()
    return fresh
