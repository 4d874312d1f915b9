"""Bytes that were written to stop a load for good, or to end the process: they are refused, soon, by an error."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
from river import compose, linear_model, preprocessing
from river.utils import VectorDict
from test_model_codec import column, crafted, trip

from headrace.state.models.codec.graph import CodecError, Column, Containers, Frozen, Instances, Named
from headrace.state.models.codec.model_codec import ModelCodec
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError

MANY = 300_000


def places(numbers: list[int]) -> Column:
    return Column(None, [], [], numbers)


def doubled(container: str) -> bytes:
    """A key of 60 tuples, each of which holds the one before twice: its hash would take 2 to the power of 60 steps."""
    nested = [Frozen("tuple", "builtins:tuple", [1], column(1), [])]
    nested += [Frozen("tuple", "builtins:tuple", [2], column([at], [at]), []) for at in range(1, 61)]
    values = column(1) if container == "builtins:dict" else None
    keyed = Containers(container, [1], column([61]), values, None)
    return crafted(mutables=[keyed], frozen=nested)


def doubled_vector() -> bytes:
    nested = [Frozen("tuple", "builtins:tuple", [1], column(1), [])]
    nested += [Frozen("tuple", "builtins:tuple", [2], column([at], [at]), []) for at in range(60)]
    return crafted(frozen=[*nested, Frozen("vector", "", [4], column(None, None, [60], 1.0), [])])


def wide_keys() -> bytes:
    """Many keys, each of which unfolds to a million values."""
    nested = [Frozen("tuple", "builtins:tuple", [1], column(1), [])]
    nested += [Frozen("tuple", "builtins:tuple", [2], column([at], [at]), []) for at in range(1, 18)]
    keys = [Frozen("tuple", "builtins:tuple", [2] * 500, column(*(v for at in range(500) for v in (at, [18]))), [])]
    keyed = Containers("builtins:set", [500], places(list(range(19, 519))), None, None)
    return crafted(mutables=[keyed], frozen=[*nested, *keys])


def chained_deques() -> bytes:
    """Deques in one another: C goes down through them when they are given up, until its stack ends."""
    held = column(*([at] for at in range(1, MANY)), None)
    bounds = Column(None, [None] * MANY, [], [])
    return crafted(mutables=[Containers("collections:deque", [1] * MANY, held, None, bounds)])


def chained_factories() -> bytes:
    """The same by the factories of default dicts and of River's vectors."""
    count = 100_000
    vectors = Frozen("vector", "", [2] * count, column(*(v for at in range(count) for v in ([at + 1], None))), [])
    factories = places([*range(count + 2, 2 * count + 1), 0])
    made = Containers("collections:defaultdict", [0] * count, places([]), places([]), factories)
    return crafted(leaves=[Named(["builtins:list"])], mutables=[made], frozen=[vectors], root=1)


def chained_dicts() -> bytes:
    factories = places([*range(2, MANY + 1), 0])
    made = Containers("collections:defaultdict", [0] * MANY, places([]), places([]), factories)
    return crafted(leaves=[Named(["builtins:list"])], mutables=[made], root=1)


def shared_mask() -> bytes:
    """Vectors that have one mask, each of which copies it."""
    count = 20_000
    mask = Frozen("frozenset", "builtins:frozenset", [count], Column(None, [*range(count)], [], []), [])
    vectors = Frozen("vector", "", [2] * count, column(*(v for _ in range(count) for v in (None, [0]))), [])
    return crafted(frozen=[mask, vectors])


def shared_arguments() -> bytes:
    """Partials of one partial, each of which copies its arguments."""
    count = 20_000
    first = Frozen("partial", "", [count + 1], column([0], *range(count)), [])
    others = Frozen("partial", "", [2] * count, column(*(v for _ in range(count) for v in ([1], 1))), [])
    return crafted(leaves=[Named(["builtins:list"])], frozen=[first, others], root=1)


ATTACKS: dict[str, Callable[[], bytes]] = {
    "a set of a tuple that unfolds without end": functools.partial(doubled, "builtins:set"),
    "a dict of a tuple that unfolds without end": functools.partial(doubled, "builtins:dict"),
    "a vector of a tuple that unfolds without end": doubled_vector,
    "keys that unfold to too much together": wide_keys,
    "deques in one another": chained_deques,
    "factories in one another": chained_factories,
    "default dicts in one another": chained_dicts,
    "vectors of one mask": shared_mask,
    "partials of one partial": shared_arguments,
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.timeout(60)
def test_bytes_that_would_hang_the_load_or_end_the_process_are_refused(attack: str) -> None:
    codec = ModelCodec(linear_model.LogisticRegression())
    with pytest.raises(CodecError, match="contradict"):
        codec.load(ATTACKS[attack]())


@pytest.mark.timeout(60)
def test_a_list_of_leaves_that_stands_in_many_places_is_gone_through_once() -> None:
    count, cls = 20_000, "river.feature_extraction.kernel_approx:RandomTreesEmbedding"
    rows = Containers("builtins:list", [count, count], places([2] * count + [0] * count), None, None)
    model = ModelCodec(linear_model.LogisticRegression())
    with pytest.raises(CodecError, match="another kind of model"):
        model.load(crafted(mutables=[Instances(cls, 1, ["_leaf_indices"], [places([1])]), rows]))


def test_shared_and_nested_objects_within_the_bounds_are_loaded() -> None:
    shared = tuple(range(1_000))
    many = tuple(shared for _ in range(1_000))
    back = trip([many, {shared, (shared, shared)}])
    assert back[0] == many
    assert back[0][0] is back[0][999]


@pytest.mark.parametrize("mask", [None, {"a", "b"}, frozenset({"a", "b"})])
def test_a_vector_comes_back_with_what_its_mask_lets_through(mask: Any) -> None:
    vector = VectorDict({"a": 1.0, "c": 2.0}, float, mask, copy=True)
    (back,) = trip([vector])
    assert back.__reduce__() == vector.__reduce__()
    assert back["b"] == 0.0


PIPELINE = "river.compose.pipeline:Pipeline"
STEPS: dict[str, bytes] = {
    "a pipeline that is its own last step": crafted(
        strings=["", "a"],
        mutables=[
            Instances(PIPELINE, 1, ["steps"], [places([1])]),
            Containers("collections:OrderedDict", [1], Column(None, [], [1], []), places([0]), None),
        ],
        frozen=[Frozen("tuple", "builtins:tuple", [2], column({0}, [0]), [])],
        root=2,
    ),
    "a pipeline without steps": crafted(
        strings=[""],
        mutables=[Instances(PIPELINE, 1, [], [])],
        frozen=[Frozen("tuple", "builtins:tuple", [2], column({0}, [0]), [])],
        root=1,
    ),
    "a pipeline of no steps": crafted(
        strings=[""],
        mutables=[
            Instances(PIPELINE, 1, ["steps"], [places([1])]),
            Containers("collections:OrderedDict", [0], places([]), places([]), None),
        ],
        frozen=[Frozen("tuple", "builtins:tuple", [2], column({0}, [0]), [])],
        root=2,
    ),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.timeout(60)
def test_a_pipeline_of_other_steps_fails_as_a_load_or_a_prediction_does(steps: str) -> None:
    learner = RiverLearner(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    try:
        learner.load(STEPS[steps])
    except ModelError:
        return
    with pytest.raises(Exception, match=r"."):
        learner.predict({"a": 1.0})


def test_a_panic_of_a_native_part_is_an_error_like_any() -> None:
    """River's quantile panics at its fifth number that is none, with what is no Exception."""
    learner = RiverLearner(preprocessing.RobustScaler() | linear_model.LogisticRegression())
    faults = []
    for _ in range(9):
        try:
            learner.learn({"a": math.nan}, label=True)
        except Exception as error:  # noqa: BLE001 any that can be refused
            faults.append(str(error))
    assert any("panicked" in fault for fault in faults)


def read_table(path: str, x: dict[str, float], *, column: int = 0) -> dict[str, float]:
    """Stand for a function of the user's that opens what it is told to."""
    return x | {path: float(column)}


def test_a_function_is_called_with_the_arguments_of_the_factorys_model() -> None:
    def build(path: str, column: int) -> Any:
        return compose.FuncTransformer(functools.partial(read_table, path, column=column)) | linear_model.PAClassifier()

    codec = ModelCodec(build("towns.csv", 1))
    _, back = codec.load(codec.dump(("", build("towns.csv", 1))) or b"")
    assert back.transform_one({}) == {"towns.csv": 1.0}
    for path, number in (("/etc/passwd", 1), ("towns.csv", 2), ("towns.csv", True)):
        other = ModelCodec(build(path, number))
        with pytest.raises(CodecError, match="another argument"):
            codec.load(other.dump(("", build(path, number))) or b"")
