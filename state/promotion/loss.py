"""Losses of answers against their labels, each with its bound."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from headrace.state.models.task import ModelError
from headrace.state.quality import distance

LossName = Literal["brier", "zero-one", "log", "squared", "absolute"]
_OF_CLASSES = frozenset({"binary", "multiclass"})
_LEAST_CHANCE = 0.01
LOG_BOUND = -math.log(_LEAST_CHANCE)
MISSING = math.nan
"""Stands for the loss where a model gave no answer: it counts as the bound."""


class LossRefused(ModelError):
    """Raised for a loss that does not fit the models."""


def choose(name: str, task: str, *, has_proba: bool) -> LossName:
    """Return the loss of this name, or the default of a task. Raises LossRefused for one that does not fit."""
    fits: tuple[LossName, ...]
    if task in _OF_CLASSES:
        fits = ("brier", "zero-one", "log") if has_proba else ("zero-one",)
    elif task == "regression":
        fits = ("squared", "absolute")
    else:
        raise LossRefused(
            f"models of the task {task} can't be compared: their answers have no loss",
            hint="challengers are for classifiers and regressors",
        )
    if not name:
        return fits[0]
    if (found := next((one for one in fits if one == name), None)) is None:
        without = "" if has_proba or task not in _OF_CLASSES else " where a model gives no probabilities"
        raise LossRefused(
            f"promotion.loss = {name!r} does not fit the task {task}{without}", hint=f"choose from {', '.join(fits)}"
        )
    return found


def bound(name: LossName, task: str) -> float:
    """Return the largest loss; 0 for one that is found from the champion's first losses."""
    if name == "brier":
        return 1.0 if task == "binary" else 2.0
    return {"zero-one": 1.0, "log": LOG_BOUND}.get(name, 0.0)


def loss(name: LossName, task: str, answer: Any, proba: Mapping[Any, float] | None, truth: Any) -> float:
    """Return the loss of an answer with its probabilities; `MISSING` where there is none."""
    if task == "regression":
        error = distance(answer, truth) if answer is not None else MISSING
        if not error < math.inf:
            return MISSING
        return error * error if name == "squared" else error
    if name == "zero-one":
        return MISSING if answer is None else float(answer != truth)
    if not proba:
        return MISSING
    if name == "log":
        return -math.log(max(proba.get(truth, 0.0), _LEAST_CHANCE))
    if task == "binary":
        miss = proba.get(True, 0.0) - float(truth)
        return miss * miss
    total = 0.0 if truth in proba else 1.0
    for one, chance in proba.items():
        miss = chance - float(one == truth)
        total += miss * miss
    return total
