"""Half-space trees, compiled, beside River's own: the same splits, scores and verdicts to the last bit."""

import copy
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river import anomaly, cluster, compose, preprocessing
from words import Words

from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model, explain
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError
from headrace.state.models.undoable_model import UndoableModel

Features = dict[str, Any]


def detector(**options: Any) -> Any:
    return anomaly.HalfSpaceTrees(**{"n_trees": 4, "height": 3, "window_size": 11, "seed": 5, **options})


def compiled(model: Any, spec: str = "") -> CompiledLearner:
    found = compile_model(model, spec=spec)
    assert found is not None
    return found


def stream(count: int, seed: int = 1, **odd: float) -> list[Features]:
    """Make records whose features come and go; `odd` gives the share of those that have a value of another kind."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        record: Features = {name: draw.choice([draw.random(), draw.gauss(0.5, 1), 0, 1, True]) for name in "bacd"}
        if draw.random() < 0.4:
            record = {name: record[name] for name in draw.sample("abcd", draw.randint(0, 3))}
        record.update({name: draw.choice(["word", None]) for name, share in odd.items() if draw.random() < share})
        records.append(record)
    return records


def river_says(model: Any, records: list[Features]) -> list[Any]:
    """Let River answer and learn; a record on which it raises has taught it nothing."""
    learner, said = UndoableModel(RiverLearner(copy.deepcopy(model))), []
    for record in records:
        try:
            answer = learner.predict(dict(record))[0]
            learner.learn(dict(record), False)
            learner.keep(dict(record), False)
        except Exception as error:  # noqa: BLE001 whatever River raises
            learner.undo()
            answer = type(error)
        said.append(answer)
    return said


def machine_says(machine: CompiledLearner, records: list[Features]) -> list[Any]:
    answers = machine.learn_batch(Words().columns([(record, None) for record in records]), np.zeros(len(records)))
    return [
        type(machine.fault(int(fault), record)) if fault else machine.answer(answers, at)[0]
        for at, (fault, record) in enumerate(zip(answers.fault.tolist(), records, strict=True))
    ]


MODELS: dict[str, Callable[[], Any]] = {
    "alone": detector,
    "one node": lambda: detector(n_trees=1, height=1, window_size=1),
    "limits": lambda: detector(limits={"a": (-2, 2.5), "z": (0, 9)}, seed=0),
    "behind steps that learn": lambda: (
        (compose.Select("a") | preprocessing.StandardScaler()) + compose.Discard("a") | detector()
    ),
    "a filter": lambda: anomaly.ThresholdFilter(detector(), threshold=0.75),
    "a filter of steps": lambda: anomaly.ThresholdFilter(preprocessing.MinMaxScaler() | detector(), threshold=0.75),
    "steps, then a filter": lambda: preprocessing.MinMaxScaler() | anomaly.ThresholdFilter(detector(), threshold=0.75),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_rivers_though_features_are_missing_or_no_numbers(name: str, seed: int) -> None:
    records, machine = stream(150, seed, b=0.05, e=0.2), compiled(MODELS[name]())
    expected = river_says(MODELS[name](), records)
    assert machine_says(machine, records) == expected
    assert name == "one node" or any(isinstance(one, type) for one in expected)
    # River writes the limits that it looks up into its options, which the spec describes.
    taken = compiled(machine.to_river(), machine.spec)
    assert taken.dump() == machine.dump()


def test_a_word_that_no_way_through_the_trees_reads_is_no_fault() -> None:
    """River compares only what it comes across: here the word is in the trees, and rarely on the way."""
    records, small = stream(200, 3, d=0.5), detector(n_trees=1, height=2, seed=1)
    expected = river_says(small, records)
    assert machine_says(compiled(small), records) == expected
    words = [isinstance(one, type) for one, record in zip(expected, records, strict=True) if record.get("d") == "word"]
    assert 0 < sum(words) < len(words)


def test_a_first_record_without_features_is_refused_and_the_next_one_decides_the_splits() -> None:
    records: list[Features] = [{}, {"x": 0.5, "y": 0.25}, {}, *({"x": n / 30, "z": 1.0} for n in range(30))]
    expected = river_says(detector(), records)
    assert expected[0] is IndexError
    assert expected[2] is not IndexError
    assert machine_says(compiled(detector()), records) == expected


def test_what_was_learned_goes_to_river_and_back_to_the_bit() -> None:
    records, machine = stream(60), compiled(detector(limits={"q": (0, 3)}))
    machine_says(machine, records[:30])
    river, again = machine.to_river(), compiled(machine.to_river(), machine.spec)
    assert machine_says(again, records[30:]) == river_says(river, records[30:]) == machine_says(machine, records[30:])
    assert again.dump() == machine.dump()
    theirs = detector(limits={"q": (0, 3)})
    for record in records:
        theirs.learn_one(record)
    assert compiled(theirs, machine.spec).dump() == machine.dump()
    ours = machine.to_river()
    assert [vars(node)["l_mass"] for node in ours.trees[2].iter_dfs()] == [
        vars(node)["l_mass"] for node in theirs.trees[2].iter_dfs()
    ]
    assert (ours.rng.getstate(), ours.counter, ours.limits) == (theirs.rng.getstate(), theirs.counter, theirs.limits)


def test_trees_that_are_not_those_of_their_seed_are_left_to_river() -> None:
    model = detector()
    model.rng.random()
    assert compile_model(model) is None
    taught = detector()
    taught.learn_one({"x": 0.5})
    taught.trees[0].threshold += 0.25
    assert compile_model(taught) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (anomaly.HalfSpaceTrees(), "seed"),
        (detector(height=0), "height=0"),
        (detector(n_trees=2.0), "n_trees=2.0"),
        (detector(n_trees=10**6), "nodes"),
        (detector(height=10**9), "nodes"),
        (detector(window_size=10**15), "window_size"),
        (detector(limits={"a": (1, 1)}), "no room"),
        (detector(limits={"a": 1}), "no two numbers"),
        (anomaly.ThresholdFilter(detector(), threshold=0.0), "never teaches"),
        (anomaly.ThresholdFilter(detector(), threshold=0.5, protect_anomaly_detector=False), "never teaches"),
        (
            preprocessing.MinMaxScaler()
            | anomaly.ThresholdFilter(preprocessing.MaxAbsScaler() | detector(), threshold=0.5),
            "of a pipeline",
        ),
        (anomaly.ThresholdFilter(anomaly.ThresholdFilter(detector(), threshold=0.5), threshold=0.5), "of a filter"),
        (anomaly.QuantileFilter(detector(), q=0.9), "only HalfSpaceTrees"),
        (anomaly.LocalOutlierFactor(), "only HalfSpaceTrees"),
        (cluster.KMeans(seed=1), "KMeans is not compiled"),
        (preprocessing.StandardScaler() | compose.SelectType(float) | detector(), "SelectType"),
        ((preprocessing.FeatureHasher(seed=1) + compose.Select("a")) | detector(), "Prefixer"),
    ],
)
def test_what_is_not_compiled_says_why(model: Any, reason: str) -> None:
    assert compile_model(model) is None
    assert any(reason in verdict.reason for verdict in explain(model)), [verdict.reason for verdict in explain(model)]


def test_bytes_that_no_trees_can_have_learned_are_refused() -> None:
    machine = compiled(detector())
    machine_says(machine, stream(30))
    state = machine.dump()
    at = len(state) - 8 * 4 * 15 * 2
    for place, number in [
        (at, 2.0),
        (at + 8, -1.0),
        (at - 8, 3.0),
        (at - 16, 11.0),
        (at - 24, 9.0),
        (at, float("nan")),
    ]:
        broken = bytearray(state)
        struct.pack_into("<d", broken, place, number)
        with pytest.raises(ModelError):
            compiled(detector()).load(bytes(broken))
    # A leaf that one record more has reached than the node above it.
    broken, leaf = bytearray(state), at + 8 * 14
    struct.pack_into("<d", broken, leaf, struct.unpack_from("<d", state, leaf)[0] + 1.0)
    with pytest.raises(ModelError):
        compiled(detector()).load(bytes(broken))
    for cut in (state[:-8], state + b"\0" * 8, state[:40]):
        with pytest.raises(ModelError):
            compiled(detector()).load(cut)
    compiled(detector()).load(state)
