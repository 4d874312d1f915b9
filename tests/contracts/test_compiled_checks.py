"""River's own checks of an estimator, run on compiled models behind River's interface.

Left out, each with its reason, is what `NOT_OURS` names; the rest is all that `river.checks` has for an estimator.
"""

import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from river import base, checks
from twin import compilable
from zoo import ZOO

from headrace.state.compiled.compiler import compile_model
from headrace.state.models.model import Answer

MODELS = [
    "linear: SGD",
    "logistic: SGD",
    "logistic: Adam, l2",
    "perceptron: scaled",
    "aggressive classifier: mode 1, C=1.0",
    "aggressive regressor: mode 1, C=1.0",
    "softmax: SGD",
    "softmax: Adam",
    "Bayes, Gaussian: alone",
    "Bayes, multinomial: alpha=1.0",
    "Bayes, Bernoulli: alpha=1.0",
]
NOT_OURS = {
    "check_init_has_default_params_for_tests": "a compiled learner is not built from parameters but from a model",
    "check_clone_with_new_params_applies": "parameters are the template's; a changed one is another compilation",
    "check_wrapper_accepts_kwargs": "it is no wrapper: `learn` has no further options",
    "check_debug_one": "there are no steps to look into",
    "check_mutable_attributes_exist": "what can be changed while it runs is not compiled",
}


class Shown(base.Estimator):
    """A compiled learner as River knows an estimator."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._compile()

    def _compile(self) -> None:
        machine = compile_model(self.model)
        assert machine is not None
        self._machine = machine

    def __getstate__(self) -> tuple[Any, bytes]:
        return self.model, self._machine.dump()

    def __setstate__(self, state: tuple[Any, bytes]) -> None:
        self.model, dumped = state
        self._compile()
        self._machine.load(dumped)

    def _more_tags(self) -> set[str]:
        tags: set[str] = self.model._tags
        return tags

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        # A label is what JSON has.
        self._machine.learn(x, self._machine.label(y.item() if isinstance(y, np.generic) else y))

    def _answer(self, x: dict[str, Any]) -> Answer:
        return self._machine.predict(x)

    def predict_one(self, x: dict[str, Any]) -> Any:
        return self._answer(x)[0]


class ShownRegressor(Shown, base.Regressor):
    """A compiled regressor."""


class ShownClassifier(Shown, base.Classifier):
    """A compiled classifier."""

    @property
    def _multiclass(self) -> bool:
        multiclass: bool = self.model._multiclass
        return multiclass

    def predict_proba_one(self, x: dict[str, Any]) -> Any:
        proba = self._answer(x)[1]
        if proba is None:
            raise NotImplementedError
        return dict(proba)


def shown(name: str) -> Shown:
    model = ZOO[name].build()
    return (ShownRegressor if isinstance(model, base.Regressor) else ShownClassifier)(model)


@pytest.fixture
def _without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `river.checks` import what it takes no data from for models of one output."""
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["sklearn"], "datasets", sys.modules["sklearn.datasets"], raising=False)


def _checks(model: Shown) -> Iterator[Callable[[Any], None]]:
    for check in checks.yield_checks(model):
        if check.__name__ not in NOT_OURS:
            yield check


@pytest.mark.usefixtures("_without_sklearn")
@pytest.mark.parametrize("name", MODELS, ids=lambda name: name.replace(" ", "-"))
def test_it_passes_rivers_checks(name: str) -> None:
    if not compilable(name):
        return
    failed = []
    for check in _checks(shown(name)):
        try:
            check(shown(name))
        except Exception as error:  # noqa: BLE001 all that fail are of interest
            failed.append(f"{check.__name__}({_data(check)}): {type(error).__name__}: {error}")
    assert not failed


def _data(check: Callable[[Any], None]) -> str:
    dataset = check.keywords.get("dataset") if isinstance(check, functools.partial) else None
    return type(dataset).__name__
