"""Compiled trees beside River's own, record by record: the same labels, probabilities, splits and numbers of nodes."""

import copy
import math
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from river import compose, preprocessing, tree
from river.tree import splitter
from words import Words

from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model, explain
from headrace.state.models.learner import RiverLearner

SOAK = bool(os.environ.get("HEADRACE_SOAK"))
COUNT = 10_000 if SOAK else 1_500
SEEDS = range(1, 6) if SOAK else [1]

Example = tuple[dict[str, Any], Any]


def stream(count: int, *, seed: int, kind: str = "numbers", labels: str = "words", gaps: float = 0.1) -> list[Example]:
    """Return records whose label depends on the features, which come and go."""
    draw, examples = random.Random(seed), []
    for _ in range(count):
        features: dict[str, Any] = {}
        for name in "abcdef":
            if draw.random() >= gaps:
                features[name] = draw.choice(
                    [draw.gauss(0, 1), draw.gauss(2, 5), draw.randint(-3, 3), draw.random() < 0.5]
                )
        if kind != "numbers":
            features["shop"] = draw.choice(["x", "y", "ü", "z"])
            if draw.random() < 0.7:
                features["city"] = draw.choice(["paris", "rome", f"c{draw.randint(0, 9)}"])
        if kind == "mixed":
            features["odd"] = draw.choice(["one", 1, 1.0, True, None, 2])
        score = (
            features.get("a", 0.0)
            - features.get("b", 0.0) * features.get("c", 1.0)
            + 2.0 * (features.get("shop") == "x")
        )
        place = int(score > 0.0) + int(score > 2.0)
        if draw.random() < 0.05:
            place = draw.randrange(3)
        label: Any = {"words": ["mid", "low", "high"][place], "binary": place > 0, "numbers": place}[labels]
        order = list(features.items())
        if draw.random() < 0.3:
            draw.shuffle(order)
        examples.append((dict(order), None if draw.random() < 0.05 else label))
    return examples


def compiled(model: Any) -> CompiledLearner:
    result = compile_model(model)
    assert result is not None, explain(model)
    return result


def river_says(learner: RiverLearner, examples: Sequence[Example]) -> Iterator[Any]:
    for features, label in examples:
        try:
            answer = learner.predict(dict(features))
        except Exception as error:  # noqa: BLE001 what River raises is the answer
            yield error
            continue
        if label is not None:
            before = None if _is_quiet(features) else copy.deepcopy(learner.model)
            try:
                learner.learn(dict(features), label)
            except Exception as error:  # noqa: BLE001
                answer = error
            if isinstance(answer, Exception):
                assert before is not None, repr(answer)
                learner.adopt(before)
        yield answer


def _is_quiet(features: dict[str, Any]) -> bool:
    return (
        all(isinstance(value, int | float) and abs(value) < 1e100 for value in features.values())
        or "odd" not in features
    )


def machine_says(machine: CompiledLearner, words: Words, examples: Sequence[Example]) -> Iterator[Any]:
    labels = np.array([math.nan if label is None else machine.label_number(label) for _, label in examples])
    answers = machine.learn_batch(words.columns(examples), labels)
    for at, (features, _) in enumerate(examples):
        yield machine.fault(int(answers.fault[at]), features) if answers.fault[at] else machine.answer(answers, at)


def nodes(model: Any) -> list[Any]:
    """Return what each node of a tree is, in order."""
    last = model
    while hasattr(last, "steps"):
        last = list(last.steps.values())[-1]
    root, found = last._root, []
    for node in root.iter_dfs() if hasattr(root, "iter_dfs") and root is not None else ():
        split = getattr(node, "repr_split", None)
        found.append((type(node).__name__, split if split is None or "in {" not in split else "in"))
    return found


def assert_same(model: Any, examples: Sequence[Example], *, seed: int = 0, exact: bool = True) -> Any:
    river, machine, words = RiverLearner(copy.deepcopy(model)), compiled(model), Words()
    draw, at, rounds = random.Random(seed), 0, 0
    while at < len(examples):
        batch = examples[at : at + draw.choice([1, 2, 30, 200])]
        pairs = zip(machine_says(machine, words, batch), river_says(river, batch), batch, strict=True)
        for k, (ours, theirs, example) in enumerate(pairs):
            if isinstance(theirs, Exception):
                assert type(ours) is type(theirs), (at + k, ours, theirs, example)
                continue
            assert not isinstance(ours, Exception), (at + k, ours, theirs, example)
            assert ours[0] == theirs[0], (at + k, ours, theirs)
            assert list(ours[1]) == list(theirs[1])
            for label, share in theirs[1].items():
                close = ours[1][label] == share if exact else math.isclose(ours[1][label], share, rel_tol=1e-10)
                assert close, (at + k, label, ours[1][label], share)
        at += len(batch)
        rounds += 1
        if rounds % 4 == 1:
            again = compiled(model)
            again.load(machine.dump())
            assert again.dump() == machine.dump()
            machine, words = again, Words(generation=words.generation + 1)
        if rounds % 9 == 5:
            machine = compiled(machine.to_river())
    ours = machine.to_river()
    assert nodes(ours) == nodes(river.model)
    return ours


LEAVES = ["mc", "nb", "nba"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"split_criterion": "gini"},
    {"split_criterion": "hellinger"},
    {"binary_split": True},
    {"max_depth": 2},
    {"merit_preprune": False},
    {"remove_poor_attrs": True},
    {"max_share_to_split": 0.6},
    {"min_branch_fraction": 0.2},
    {"nb_threshold": 50},
    {"tau": 0.5, "delta": 0.05},
    {"splitter": splitter.GaussianSplitter(n_splits=3)},
    {"nominal_attributes": ["odd", "c"]},
]


def hoeffding(**options: Any) -> Any:
    return tree.HoeffdingTreeClassifier(**{"grace_period": 40, "delta": 0.01, "tau": 0.1, **options})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("leaf", LEAVES)
def test_a_tree_of_numbers_is_rivers_to_the_bit(leaf: str, seed: int) -> None:
    ours = assert_same(hoeffding(leaf_prediction=leaf), stream(COUNT, seed=seed))
    assert ours.n_nodes > 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_option_is_rivers(options: dict[str, Any], seed: int) -> None:
    labels = "numbers" if "hellinger" in options.values() else "binary"
    for leaf in LEAVES if SOAK else ["mc", "nba"]:
        assert_same(hoeffding(leaf_prediction=leaf, **options), stream(COUNT, seed=seed, kind="text", labels=labels))


@pytest.mark.parametrize("seed", SEEDS)
def test_text_and_numbers_in_one_feature_are_rivers(seed: int) -> None:
    for leaf in LEAVES:
        assert_same(hoeffding(leaf_prediction=leaf), stream(COUNT // 2, seed=seed, kind="mixed"))


def test_transformers_before_a_tree_learn_with_it() -> None:
    assert_same(preprocessing.StandardScaler() | hoeffding(), stream(COUNT, seed=2))
    both = (compose.SelectType(str) | preprocessing.OneHotEncoder()) + (
        compose.Discard("shop", "city") | preprocessing.MinMaxScaler()
    )
    assert_same(both | hoeffding(), stream(COUNT // 3, seed=3, kind="text"))


def test_a_tree_without_gaps_is_deep_and_rivers() -> None:
    ours = assert_same(hoeffding(tau=0.9, grace_period=20), stream(2 * COUNT, seed=4, gaps=0.0))
    assert ours.height > 5
