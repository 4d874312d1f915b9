"""One behavioural suite over every family of learners: what River does, a learner does, to the bit and for ever."""

import base64
import contextlib
import functools
import hashlib
import json
import numbers
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from river import (
    base,
    compose,
    ensemble,
    facto,
    feature_extraction,
    forest,
    imblearn,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    preprocessing,
    rules,
    stats,
    tree,
    utils,
)

from headrace.state.models.label import LabelError
from headrace.state.models.learner import RiverLearner, build
from headrace.state.models.undoable_model import UndoableModel

HERE = Path(__file__).parent
TRUSTED = frozenset({"test_learners"})
HALF = 30
Data = list[tuple[dict[str, Any], Any]]


def log_and_ratio(x: dict[str, Any]) -> dict[str, Any]:
    """A function of the user's own, found again by its name."""
    return {**x, "ratio": x["a"] / (1 + abs(x["b"]))}


def double_in_place(x: dict[str, Any]) -> dict[str, Any]:
    """What one should not do and some do: change what one was given."""
    x["a"] *= 2
    return x


def _rows(seed: int) -> Iterator[tuple[random.Random, dict[str, float]]]:
    rng = random.Random(seed)
    for _ in range(2 * HALF):
        yield rng, {name: rng.gauss(0, 1) for name in ("a", "b", "c", "d")}


def binary() -> Data:
    return [(x, x["a"] - x["b"] + rng.gauss(0, 0.3) > 0) for rng, x in _rows(1)]


def classes() -> Data:
    return [(x, "high" if x["a"] > 0.5 else "low" if x["a"] < -0.5 else "middle") for _, x in _rows(2)]


def numeric_classes() -> Data:
    return [(x, int(x["a"] > 0) + int(x["b"] > 0)) for _, x in _rows(3)]


def amounts() -> Data:
    return [(x, 3 * x["a"] - x["b"] + rng.gauss(0, 0.1)) for rng, x in _rows(4)]


def counts() -> Data:
    return [({word: rng.randint(0, 5) for word in ("buy", "now", "hello")}, rng.random() < 0.5) for rng, _ in _rows(5)]


def words() -> Data:
    return [
        ({**x, "country": rng.choice(["NO", "SE", "DK", "FI"]), "shop": rng.choice("abcdefg")}, x["a"] > 0)
        for rng, x in _rows(6)
    ]


def gaps() -> Data:
    return [({n: v if rng.random() < 0.8 else None for n, v in x.items()}, x["a"] > 0) for rng, x in _rows(7)]


def coming_and_going() -> Data:
    return [({n: v for n, v in x.items() if rng.random() < 0.7}, x["a"] > 0) for rng, x in _rows(8)]


@dataclass(frozen=True)
class Family:
    build: Callable[[], Any]
    data: Callable[[], Data]


_logistic = linear_model.LogisticRegression


def _scaled(last: Any) -> Any:
    return preprocessing.StandardScaler() | last


def _by_kind() -> Any:
    of_numbers = compose.SelectType(numbers.Number) | preprocessing.StandardScaler()
    of_words = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return (of_numbers + of_words) | _logistic()


def _near(p: int) -> Any:
    return neighbors.LazySearch(50, dist_func=functools.partial(utils.math.minkowski_distance, p=p))


FAMILIES: dict[str, Family] = {
    "logistic": Family(lambda: _scaled(_logistic()), binary),
    "logistic on what comes and goes": Family(lambda: _scaled(_logistic()), coming_and_going),
    "passive-aggressive": Family(lambda: _scaled(linear_model.PAClassifier()), binary),
    "perceptron": Family(lambda: _scaled(linear_model.Perceptron()), binary),
    "ALMA": Family(lambda: _scaled(linear_model.ALMAClassifier()), binary),
    "softmax": Family(lambda: _scaled(linear_model.SoftmaxRegression()), classes),
    "one against the rest": Family(lambda: multiclass.OneVsRestClassifier(_logistic()), classes),
    "one against one": Family(lambda: multiclass.OneVsOneClassifier(_logistic()), classes),
    "output codes": Family(lambda: multiclass.OutputCodeClassifier(_logistic(), 6, seed=1), numeric_classes),
    "Gaussian Bayes": Family(naive_bayes.GaussianNB, classes),
    "multinomial Bayes": Family(naive_bayes.MultinomialNB, counts),
    "Bernoulli Bayes": Family(naive_bayes.BernoulliNB, counts),
    "Hoeffding tree": Family(lambda: tree.HoeffdingTreeClassifier(grace_period=10, delta=0.1), classes),
    "Hoeffding tree of whole numbers": Family(lambda: tree.HoeffdingTreeClassifier(grace_period=10), numeric_classes),
    "Hoeffding tree of words": Family(
        lambda: tree.HoeffdingTreeClassifier(grace_period=10, delta=0.1, nominal_attributes=["country", "shop"]), words
    ),
    "adaptive tree": Family(lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=10, seed=1), classes),
    "fast tree": Family(lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=10, delta=0.1), classes),
    "random forest": Family(lambda: forest.ARFClassifier(n_models=3, seed=1, grace_period=10), classes),
    "Mondrian forest": Family(lambda: forest.AMFClassifier(n_estimators=2, seed=1), classes),
    "random patches": Family(
        lambda: ensemble.SRPClassifier(tree.HoeffdingTreeClassifier(grace_period=10), n_models=2, seed=1), classes
    ),
    "bagging": Family(lambda: ensemble.BaggingClassifier(_scaled(_logistic()), n_models=3, seed=1), binary),
    "leveraging bagging": Family(
        lambda: ensemble.LeveragingBaggingClassifier(_scaled(_logistic()), n_models=2, seed=1), binary
    ),
    "boosting": Family(lambda: ensemble.AdaBoostClassifier(naive_bayes.GaussianNB(), n_models=3, seed=1), classes),
    "voting": Family(lambda: ensemble.VotingClassifier([naive_bayes.GaussianNB(), _scaled(_logistic())]), binary),
    "neighbours": Family(lambda: neighbors.KNNClassifier(n_neighbors=3, engine=neighbors.LazySearch(50)), classes),
    "neighbours by a distance": Family(lambda: neighbors.KNNClassifier(n_neighbors=3, engine=_near(3)), classes),
    "under-sampling": Family(
        lambda: imblearn.RandomUnderSampler(_logistic(), desired_dist={True: 0.5, False: 0.5}, seed=1), binary
    ),
    "words and numbers": Family(_by_kind, words),
    "every word a feature": Family(
        lambda: preprocessing.OneHotEncoder(drop_first=True) | preprocessing.StandardScaler() | _logistic(), words
    ),
    "hashed words": Family(lambda: preprocessing.FeatureHasher(n_features=8, seed=1) | _logistic(), words),
    "selected features": Family(lambda: compose.Select("a", "b", "c", "d") | _scaled(_logistic()), binary),
    "a function": Family(lambda: compose.FuncTransformer(log_and_ratio) | _scaled(_logistic()), binary),
    "a function that changes what it gets": Family(
        lambda: compose.FuncTransformer(double_in_place) | _scaled(_logistic()), binary
    ),
    "filled gaps": Family(
        lambda: preprocessing.StatImputer(*((name, stats.Mean()) for name in "abcd")) | _scaled(_logistic()), gaps
    ),
    "products": Family(lambda: feature_extraction.PolynomialExtender() | _scaled(_logistic()), binary),
    "random features": Family(lambda: feature_extraction.RBFSampler(n_components=5, seed=1) | _logistic(), binary),
    "factorization": Family(lambda: facto.FMClassifier(n_factors=3, seed=1), binary),
    "linear regression": Family(lambda: _scaled(linear_model.LinearRegression()), amounts),
    "passive-aggressive regression": Family(lambda: _scaled(linear_model.PARegressor()), amounts),
    "Bayesian regression": Family(linear_model.BayesianLinearRegression, amounts),
    "regression tree": Family(lambda: tree.HoeffdingTreeRegressor(grace_period=10), amounts),
    "adaptive regression tree": Family(lambda: tree.HoeffdingAdaptiveTreeRegressor(grace_period=10, seed=1), amounts),
    "gradient tree": Family(lambda: tree.SGTRegressor(grace_period=10), amounts),
    "regression forest": Family(lambda: forest.ARFRegressor(n_models=2, seed=1, grace_period=10), amounts),
    "rules": Family(lambda: rules.AMRules(n_min=10), amounts),
    "neighbours' mean": Family(
        lambda: _scaled(neighbors.KNNRegressor(n_neighbors=3, engine=neighbors.LazySearch(50))), amounts
    ),
    "scaled target": Family(
        lambda: preprocessing.TargetStandardScaler(regressor=_scaled(linear_model.LinearRegression())), amounts
    ),
    "averaged experts": Family(
        lambda: ensemble.EWARegressor([_scaled(linear_model.LinearRegression()), linear_model.PARegressor()]), amounts
    ),
}


@pytest.fixture(params=FAMILIES, ids=lambda name: name.replace(" ", "-"))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def learner(family: Family) -> RiverLearner:
    return build(family.build, trusted=TRUSTED)


def go_on(learning: RiverLearner, data: Data) -> list[str]:
    """Predict, then learn each; return the answers, to the bit."""
    answers = []
    for x, y in data:
        features = dict(x)
        answers.append(repr(learning.predict(features)))
        learning.learn(features, y)
    return answers


@functools.cache
def expected(family: Family) -> list[str]:
    """Return the answers to all records, predicted and then learned without any interruption."""
    return go_on(learner(family), family.data())


def again(learning: RiverLearner, family: Family) -> RiverLearner:
    fresh = learner(family)
    fresh.load(learning.dump())
    return fresh


def test_it_answers_as_river_does(family: Family) -> None:
    model, answers = RiverLearner(family.build())._model, []
    for x, y in family.data():
        features = dict(x)
        proba = None
        if not isinstance(last_step(model), base.Regressor):
            with contextlib.suppress(NotImplementedError):
                proba = model.predict_proba_one(dict(features))
        answers.append(repr((model.predict_one(features), proba)))
        model.learn_one(features, y)
    assert answers == expected(family)


def last_step(model: Any) -> Any:
    return model._last_step if isinstance(model, compose.Pipeline) else model


def test_a_prediction_changes_nothing(family: Family) -> None:
    first, second = family.data()[:HALF], family.data()[HALF:]
    asked = learner(family)
    go_on(asked, first)
    for x, _ in second:
        asked.predict(dict(x))
    asked.predict(dict(first[0][0]))
    assert go_on(asked, second) == expected(family)[HALF:]


def test_saved_and_loaded_it_goes_on_to_the_bit(family: Family) -> None:
    data = family.data()
    broken = learner(family)
    answers: list[str] = []
    for start in range(0, len(data), 17):
        answers += go_on(broken, data[start : start + 17])
        broken = again(broken, family)
    assert answers == expected(family)


def test_an_undone_record_was_never_there(family: Family) -> None:
    first, second = family.data()[:HALF], family.data()[HALF:]
    cell = UndoableModel(learner(family))
    for index, (x, y) in enumerate(first):
        features = dict(x)
        cell.predict(features)
        label = y if index % 5 else None
        if label is not None:
            cell.learn(features, label)
        cell.keep(dict(x), label)
        if index in {10, 11, HALF - 1}:
            odd = dict.fromkeys((*x, "never seen"), 1000.0) if index != 11 else dict(second[0][0])
            cell.learn(odd, second[1][1])
            cell.undo()
    untouched = learner(family)
    for index, (x, y) in enumerate(first):
        features = dict(x)
        untouched.predict(features)
        if index % 5:
            untouched.learn(features, y)
    assert go_on(cell.inner, second) == go_on(untouched, second)


LABELS: dict[str, tuple[list[Any], list[Any]]] = {
    "binary": ([True, False, 1, 0, 1.0, -0.0], ["true", "", 2, -1, 0.5, None, [], {}, [True], float("nan"), 10**400]),
    "multiclass": (["a", ""], [0.5, None, [], {}, float("nan"), float("inf")]),
    "regression": ([0, -1.5, 10**300], [True, False, "1", "", None, [], {}]),
}


def test_labels_of_another_task_are_refused(family: Family) -> None:
    learning = learner(family)
    good, bad = LABELS[learning.task]
    if learning.task == "multiclass" and not isinstance(family.data()[0][1], str):
        good = [0, 1, 2.0]
    go_on(learning, family.data()[:5])
    for label in good:
        taken = learning.label(label)
        # A number that a double does not hold exactly is learned as the nearest double.
        assert taken == (float(label) if label == 10**300 else label)
        assert type(taken) in {"binary": {bool}, "multiclass": {str, int, bool}}.get(learning.task, {int, float})
    for label in bad:
        with pytest.raises(LabelError):
            learning.label(label)


def test_a_class_of_another_kind_does_not_spoil_the_model(family: Family) -> None:
    """River's trees sort their classes: 5 among words would make every later prediction fail."""
    learning = learner(family)
    if learning.task != "multiclass":
        return
    data = family.data()
    go_on(learning, data[:5])
    other: Any = 5 if isinstance(data[0][1], str) else "five"
    for held in (learning, again(learning, family)):
        with pytest.raises(LabelError):
            held.label(other)
        assert held.label(data[0][1]) == data[0][1]


def test_its_description_is_the_same_for_the_same_model(family: Family) -> None:
    one, another = learner(family), learner(family)
    go_on(one, family.data()[:5])
    assert one.spec == another.spec == again(one, family).spec
    assert " at 0x" not in one.spec


# In a new process: the first half is learned and saved in one, the second half goes on in another. Both have the
# hash seed that `headrace run` gives its workers.


def main(step: str, file: Path) -> None:
    held = {} if step == "save" else json.loads(file.read_text())
    answers = {}
    for name, family in FAMILIES.items():
        learning = learner(family)
        if step == "save":
            go_on(learning, family.data()[:HALF])
            held[name] = base64.b64encode(learning.dump()).decode()
        else:
            learning.load(base64.b64decode(held[name]))
        answers[name] = hashlib.sha256("".join(go_on(learning, family.data()[HALF:])).encode()).hexdigest()
    if step == "save":
        file.write_text(json.dumps(held))
    sys.stdout.write(json.dumps(answers))


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    file = tmp_path_factory.mktemp("learners") / "models.json"
    code = "import pathlib, sys, test_learners; test_learners.main(sys.argv[1], pathlib.Path(sys.argv[2]))"
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path}
    done = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, step, str(file)],
            env=env,
            cwd=HERE,
            capture_output=True,
            check=False,
            timeout=120,
        )
        for step in ("save", "load")
    ]
    assert [run.returncode for run in done] == [0, 0], [run.stderr.decode() for run in done]
    return [json.loads(run.stdout) for run in done]


# All in one process of the test run: the two new processes are started once.
@pytest.mark.xdist_group("new processes")
@pytest.mark.parametrize("name", FAMILIES)
def test_in_a_new_process_it_goes_on_to_the_bit(processes: list[dict[str, str]], name: str) -> None:
    saved, loaded = processes
    assert loaded[name] == saved[name]
