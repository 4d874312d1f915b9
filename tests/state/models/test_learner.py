import functools
import itertools
import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import refused, taken
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    base,
    compose,
    ensemble,
    feature_extraction,
    forest,
    imblearn,
    linear_model,
    multiclass,
    neighbors,
    preprocessing,
    stats,
    tree,
    utils,
)

from headrace.state.models.label import LabelError
from headrace.state.models.learner import RiverLearner, build, load_factory
from headrace.state.models.model import Model
from headrace.state.models.task import ModelError, task_of
from headrace.state.models.user_modules import modules_beside

COUNTER = itertools.count()


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def test_the_task_is_that_of_the_last_step() -> None:
    assert task_of(logistic()) == "binary"
    assert task_of(
        preprocessing.StandardScaler() | (preprocessing.MinMaxScaler() | tree.HoeffdingTreeClassifier())
    ) == ("multiclass")
    assert task_of(linear_model.LinearRegression()) == "regression"


@pytest.mark.parametrize("model", [preprocessing.StandardScaler(), stats.Mean(), object(), None, compose.Select("a")])
def test_what_predicts_nothing_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match=r"no River model|predicts nothing") as caught:
        build(lambda: model)
    assert "model" in caught.value.hint


def test_a_factory_that_raises_says_what_it_raised() -> None:
    def factory() -> Any:
        raise KeyError("the file of weights")

    with pytest.raises(ModelError, match="KeyError: 'the file of weights'"):
        build(factory)


def test_a_lambda_can_not_be_saved_and_build_says_so() -> None:
    with pytest.raises(ModelError, match="can't be saved") as caught:
        build(lambda: compose.FuncTransformer(lambda x: x) | linear_model.LogisticRegression())
    assert "lambda" in caught.value.hint


def module_level(x: dict[str, Any]) -> dict[str, Any]:
    return x


def test_any_function_that_the_factory_put_into_the_model_is_saved_with_it() -> None:
    for function in (module_level, math.log1p):
        learning = build(lambda f=function: compose.FuncTransformer(f) | linear_model.LogisticRegression())
        learning.load(learning.dump())
        assert learning.model[0].func is function


@pytest.mark.parametrize("state", [b"", b"garbage", b"\x80\x05.", pickle.dumps((1, 2, 3)), pickle.dumps(None)])
def test_bytes_that_are_no_model_are_a_model_error(state: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        build(logistic).load(state)
    assert caught.value.hint


def test_a_part_that_the_factory_no_longer_builds_is_not_loaded() -> None:
    before = build(lambda: compose.FuncTransformer(module_level) | linear_model.LogisticRegression())
    after = build(lambda: compose.FuncTransformer(math.log1p) | linear_model.LogisticRegression())
    with pytest.raises(ModelError, match="module_level, which is not trusted") as caught:
        after.load(before.dump())
    assert "renamed" in caught.value.hint


def test_the_description_has_no_addresses_and_tells_parameters_apart() -> None:
    trusted = frozenset({"test_learner"})

    def factory(l2: float) -> Any:
        return compose.FuncTransformer(module_level) | linear_model.LogisticRegression(l2=l2)

    first, second, third = (build(lambda l2=l2: factory(l2), trusted=trusted) for l2 in (0.1, 0.1, 0.2))
    assert first.spec == second.spec != third.spec
    assert "0x" not in first.spec
    assert "module_level" in first.spec
    assert first.codec.startswith("river-0.26")


def distance(p: int) -> Any:
    return functools.partial(utils.math.minkowski_distance, p=p)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (lambda: forest.ARFClassifier(n_models=2, seed=1), lambda: forest.ARFClassifier(n_models=3, seed=1)),
        (lambda: forest.ARFClassifier(n_models=2, seed=1), lambda: forest.ARFClassifier(n_models=2, seed=2)),
        (lambda: forest.ARFClassifier(n_models=2, seed=1), lambda: forest.AMFClassifier(n_estimators=2, seed=1)),
        (lambda: bagged(0.1), lambda: bagged(0.2)),
        (lambda: bagged(0.1), lambda: bagged(0.1, n_models=3)),
        (lambda: neighbors.KNNClassifier(engine=near(50)), lambda: neighbors.KNNClassifier(engine=near(51))),
        (lambda: neighbors.KNNClassifier(engine=near(50, 1)), lambda: neighbors.KNNClassifier(engine=near(50, 3))),
        (lambda: compose.Select("a") | logistic(), lambda: compose.Select("a", "b") | logistic()),
        (lambda: logistic(), lambda: preprocessing.MinMaxScaler() | linear_model.LogisticRegression()),  # noqa: PLW0108
    ],
    ids=["size", "seed", "kind", "member", "members", "window", "distance", "features", "scaler"],
)
def test_models_that_learn_differently_are_described_differently(one: Any, another: Any) -> None:
    assert RiverLearner(one()).spec != RiverLearner(another()).spec
    assert RiverLearner(one()).spec == RiverLearner(one()).spec


def bagged(l2: float, *, n_models: int = 2) -> Any:
    return ensemble.BaggingClassifier(linear_model.LogisticRegression(l2=l2), n_models=n_models, seed=1)


def near(window: int, p: int = 2) -> Any:
    return neighbors.LazySearch(window, dist_func=distance(p))


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: forest.ARFClassifier(n_models=2, seed=seed),
        lambda seed: forest.AMFClassifier(n_estimators=2, seed=seed),
        lambda seed: ensemble.BaggingClassifier(linear_model.LogisticRegression(), n_models=2, seed=seed),
        lambda seed: tree.HoeffdingAdaptiveTreeClassifier(seed=seed),
        lambda seed: feature_extraction.RBFSampler(seed=seed) | linear_model.LogisticRegression(),
        lambda seed: multiclass.OneVsRestClassifier(imblearn_sampler(seed)),
    ],
    ids=["forest", "Mondrian", "bagging", "tree", "step", "nested"],
)
def test_a_model_without_a_seed_gets_one(make: Any) -> None:
    first, second = (build(lambda: make(None), seed="fraud").dump() for _ in range(2))
    assert first == second


def imblearn_sampler(seed: int | None) -> Any:
    wanted = {True: 0.5, False: 0.5}
    return imblearn.RandomUnderSampler(linear_model.LogisticRegression(), desired_dist=wanted, seed=seed)


def test_a_classifier_that_decides_in_its_own_way_is_asked_for_both() -> None:
    learning = build(lambda: Stubborn(), trusted=frozenset({"test_learner"}))  # noqa: PLW0108 found when it is called
    assert learning.predict({"a": 1}) == ("never", {"always": 1.0})


def test_a_classifier_without_probabilities_has_none() -> None:
    plain = build(lambda: Plain(), trusted=frozenset({"test_learner"}))  # noqa: PLW0108
    assert plain.predict({"a": 1}) == (True, None)


class Stubborn(base.Classifier):
    """Its decision is not its likeliest class."""

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        pass

    def predict_one(self, x: dict[Any, Any]) -> Any:  # noqa: ARG002 River's
        return "never"

    def predict_proba_one(self, x: dict[Any, Any]) -> Any:  # noqa: ARG002 River's
        return {"always": 1.0}


class Plain(base.Classifier):
    """Knows no probabilities."""

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        pass

    def predict_one(self, x: dict[Any, Any]) -> Any:  # noqa: ARG002 River's
        return True


FACTORIES = {
    "binary": logistic,
    "multiclass": tree.HoeffdingTreeClassifier,
    "regression": linear_model.LinearRegression,
}


@pytest.mark.parametrize("task", FACTORIES)
def test_labels_of_the_corpus_are_taken_and_refused_as_it_says(task: Any) -> None:
    import msgspec  # noqa: PLC0415 the decoder's own way to read them

    learning = build(FACTORIES[task])
    for case in refused(task):
        if case.code == "bad_label":
            with pytest.raises(LabelError, match="label"):
                learning.label(msgspec.json.decode(case.value or b"")["label"])
    for good in taken(task):
        if good.label is not None:
            label = learning.label(msgspec.json.decode(good.value)["label"])
            assert (label, type(label)) == (good.label, type(good.label))


@pytest.mark.parametrize(
    ("task", "raw", "label"),
    [
        ("binary", np.True_, True),
        ("binary", np.int64(1), True),
        ("multiclass", np.str_("sky"), "sky"),
        ("multiclass", np.bool_(0), False),
        ("regression", np.float32(0.5), 0.5),
        ("regression", np.int64(3), 3),
    ],
)
def test_a_numpy_scalar_is_the_label_that_it_stands_for(task: Any, raw: Any, label: Any) -> None:
    found = build(FACTORIES[task]).label(raw)
    assert (found, type(found)) == (label, type(label))


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), -float("inf"), 10**400], ids=str)
def test_a_number_that_is_not_finite_is_no_label_of_a_regression(raw: float) -> None:
    with pytest.raises(LabelError, match="is not a finite number"):
        build(FACTORIES["regression"]).label(raw)


def test_an_integer_that_is_no_double_is_learned_as_the_nearest_one() -> None:
    learning = build(FACTORIES["regression"])
    labels = [learning.label(raw) for raw in (2**53, 2**53 + 1, -(2**60) - 1)]
    assert [(label, type(label)) for label in labels] == [(2**53, int), (float(2**53), float), (-float(2**60), float)]


def test_an_array_is_no_label() -> None:
    for raw in (np.array([1.0]), np.array([1, 2])):
        for task in FACTORIES.values():
            with pytest.raises(LabelError):
                build(task).label(raw)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@settings(max_examples=60)
@given(_ANYTHING, st.sampled_from(sorted(FACTORIES)))
def test_any_label_is_taken_as_one_of_the_task_or_refused(raw: Any, task: str) -> None:
    kinds = {"binary": {bool}, "multiclass": {bool, int, str}, "regression": {int, float}}[task]
    try:
        label = LEARNERS[task].label(raw)
    except LabelError as error:
        assert len(str(error)) < 250  # noqa: PT017 most labels raise nothing
    else:
        assert type(label) in kinds
        assert label == raw or (type(label) is float and label == float(raw))


LEARNERS = {task: RiverLearner(factory()) for task, factory in FACTORIES.items()}


@pytest.mark.parametrize("task", FACTORIES)
@pytest.mark.parametrize("depth", [500, 900, 990, 20_000])
def test_a_label_of_any_depth_is_refused(task: str, depth: int) -> None:
    """`repr` of something as deep as the decoder just takes raises; the refusal must not."""
    nested: Any = {}
    for level in range(depth):
        nested = {"a": nested} if level % 2 else [nested]
    try:
        with pytest.raises(LabelError):
            LEARNERS[task].label(nested)
    finally:
        while nested:
            nested = nested.pop() if isinstance(nested, list) else nested.pop("a")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder with a module of a name that no other test uses."""
    name = f"model_{next(COUNTER)}"
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path, name
    sys.modules.pop(name, None)


def test_the_factory_is_looked_up_beside_the_configuration(project: tuple[Path, str]) -> None:
    directory, name = project
    (directory / f"{name}.py").write_text(
        "from river import dummy\n\ndef build():\n    return dummy.NoChangeClassifier()\n"
    )
    factory = load_factory(f"{name}:build", directory)
    assert type(factory()).__name__ == "NoChangeClassifier"


@pytest.mark.parametrize(
    ("source", "reason", "hint"),
    [
        (None, "ModuleNotFoundError", "write "),
        ("def other(): ...\n", "AttributeError", "put a function build() into "),
        ("import no_such_package\n", "no_such_package", "correct "),
        ("def build(:\n", "SyntaxError", "correct "),
        ("1 / 0\n", "ZeroDivisionError", "correct "),
        ("raise SystemExit('needs more memory')\n", "SystemExit: needs more memory", "correct "),
        ("build = 7\n", "is not a function", "name a function"),
    ],
)
def test_a_factory_that_is_not_there_says_what_is_missing_and_what_to_do(
    project: tuple[Path, str], source: str | None, reason: str, hint: str
) -> None:
    directory, name = project
    if source is not None:
        (directory / f"{name}.py").write_text(source)
    with pytest.raises(ModelError, match=reason) as caught:
        load_factory(f"{name}:build", directory)
    assert f"{name}:build" in str(caught.value)
    assert caught.value.hint.startswith(hint)


def test_the_modules_of_a_project_are_its_files_and_packages(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").touch()
    (tmp_path / "data").mkdir()
    assert modules_beside(tmp_path) == {"model", "features"}


@pytest.mark.parametrize("name", ["headrace", "river", "numpy", "statistics", "redis"])
def test_a_file_that_hides_a_module_of_ours_or_of_a_library_is_refused(name: str, project: tuple[Path, str]) -> None:
    """Were it taken for the user's own, a snapshot could name what Headrace itself, or a library, defines."""
    directory, model = project
    (directory / f"{model}.py").write_text("from river import dummy\n\nbuild = dummy.NoChangeClassifier\n")
    load_factory(f"{model}:build", directory)
    (directory / f"{name}.py").touch()
    with pytest.raises(ModelError, match=f"{name}.py hides a module") as caught:
        load_factory(f"{model}:build", directory)
    assert f"{name}.py another name" in caught.value.hint
    if name in sys.modules:
        assert name not in modules_beside(directory)


def test_a_module_that_was_imported_from_elsewhere_is_not_the_users(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").touch()
    (tmp_path / "mine.py").touch()
    assert "hostile" in sys.modules
    assert modules_beside(tmp_path) == {"mine"}


def test_the_order_of_a_set_depends_on_its_members_alone() -> None:
    """Two models that selected the same features in another order sum them in the same one."""
    orders = set()
    for names in itertools.permutations(["amount", "country", "age", "shop", "hour"]):
        model = compose.Select(*names) | linear_model.LogisticRegression()
        built = build(lambda model=model: model)
        loaded = build(lambda model=model: model)
        loaded.load(built.dump())
        orders |= {tuple(held._model["Select"].keys) for held in (built, loaded)}
    assert len(orders) == 1


def test_no_name_of_the_module_is_missing_from_the_protocol() -> None:
    public = {name for name in vars(Model) if not name.startswith("_")}
    assert public >= {"label", "predict", "learn", "dump", "load"}
    assert all(hasattr(LEARNERS["binary"], name) for name in public | {"task", "codec", "spec"})
