"""River's passive-aggressive models as the parts of a program: options, and weights in the order of their first use."""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
from river import linear_model
from river.optim import losses

from headrace.state.compiled.ops import blas
from headrace.state.compiled.program import COMPENSATES, EXACT_MAX, KNOWN, PASSIVE, Memo, ProgramPart
from headrace.state.compiled.river.transformers import NotCompiled, Where, name_of, number


def passive(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile PAClassifier and PARegressor."""
    binary = type(step) is linear_model.PAClassifier
    if type(step.loss) is not (losses.Hinge if binary else losses.EpsilonInsensitiveHinge):
        raise NotCompiled(f"the loss {type(step.loss).__name__} is not compiled")
    name = "threshold" if binary else "eps"
    edge = number(getattr(step.loss, name), name)
    if blas.address() is None:
        raise NotCompiled("numpy's own dot product, which River's norm is made of, is not found in this build of numpy")
    # The sign of a regressor's step is numpy's, so its weights are numpy's floats.
    kind = float if binary else np.float64
    return [
        ProgramPart(
            code=PASSIVE,
            path=where,
            sources=(source,),
            columns=2,
            limits=("count", "any"),
            scalars=(0.0, 0.0),
            options={
                "two": 2.0,
                "edge": edge,
                "binary": binary,
                "compensated": binary and COMPENSATES,
                "learn_intercept": bool(step.learn_intercept),
                **_mode(step),
            },
            learns=True,
            allows=_counted,
            take=_taker(kind),
            give=_giver(kind),
        )
    ]


def _mode(step: Any) -> dict[str, float]:
    """Return the mode, and C as the mode uses it. Raises NotCompiled if River could divide by zero."""
    mode = int(step.mode)
    if getattr(step.calc_tau, "__name__", "") != f"_calc_tau_{mode}":
        raise NotCompiled(f"mode={step.mode!r} was changed after the model was built")
    if mode == 0:
        return {"mode": 0}
    c = number(step.C, "C")
    if mode == 1:
        return {"mode": 1, "c": c}
    if c <= 0.0:
        raise NotCompiled(f"C={c} is not above zero, so that mode 2 divides by zero")
    return {"mode": 2, "c": 0.5 / c}


def _counted(scalars: tuple[float, ...]) -> bool:
    known = scalars[KNOWN]
    return 0.0 <= known <= EXACT_MAX and known.is_integer()


def _taker(kind: type) -> Callable[[Any], Memo]:
    def take(model: Any) -> Memo:
        if COMPENSATES and any(type(weight) is not kind for weight in model.weights.values()):
            raise NotCompiled(f"its weights are not all of type {kind.__name__}, so that River sums them otherwise")
        rows = {
            name_of(name): (float(rank), float(weight))
            for rank, (name, weight) in enumerate(model.weights.items(), start=1)
        }
        return Memo(rows, (float(model.intercept), float(len(rows))))

    return take


def _giver(kind: type) -> Callable[[Any, Memo], None]:
    def give(model: Any, memo: Memo) -> None:
        met = sorted(memo.rows.items(), key=lambda item: item[1][0])
        model.weights = collections.defaultdict(float, {name: kind(weight) for name, (_, weight) in met})
        # Before it learns, River's intercept is Python's zero.
        intercept = memo.scalars[0]
        model.intercept = kind(intercept) if intercept != 0.0 else 0.0

    return give
