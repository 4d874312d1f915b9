"""River's losses as functions of a label and a raw answer, in River's order of operations."""

import math
from typing import Any

from headrace.state.compiled.ops.jit import inlined
from headrace.state.compiled.program import (
    ABSOLUTE,
    CAUCHY,
    FOCAL,
    HINGE,
    HUBER,
    INSENSITIVE,
    LOG,
    POISSON,
    QUANTILE,
)


@inlined
def sigmoid(x: float) -> float:
    """Return the probability of a logit, exactly 0 or 1 at both ends as in River."""
    if x < -30.0:  # noqa: PLR2004 River's own bounds
        return 0.0
    if x > 30.0:  # noqa: PLR2004
        return 1.0
    return 1.0 / (1.0 + math.exp(-x))


@inlined
def binary_slope(op: Any, label: float, raw: float) -> float:
    """Return the gradient of a binary loss."""
    loss, a, b = op.loss, op.loss_a, op.loss_b
    sign = 1.0 if label != 0.0 else -1.0
    z = raw * sign
    if loss == LOG:
        weight = a if label != 0.0 else b
        if z > 18.0:  # noqa: PLR2004 River's own bounds
            return float(weight * math.exp(-z) * -sign)
        if z < -18.0:  # noqa: PLR2004
            return float(weight * -sign)
        return float(weight * -sign / (math.exp(z) + 1.0))
    if loss == HINGE:
        return -sign if z <= a else 0.0
    if loss == FOCAL:
        return float(sign * (sigmoid(a * z + b) - 1.0))
    return math.nan


@inlined
def number_slope(op: Any, label: float, raw: float) -> float:
    """Return the gradient of a regression loss, infinite where River's overflows."""
    loss, a = op.loss, op.loss_a
    if loss == ABSOLUTE:
        return 1.0 if raw > label else -1.0
    if loss == QUANTILE:
        return float((1.0 if label < raw else 0.0) - a)
    if loss == HUBER:
        rest = raw - label
        if abs(rest) <= a:
            return rest
        return float(a if rest > 0.0 else -a)
    if loss == INSENSITIVE:
        target = label * 2.0 - 1.0
        if raw > target + a:
            return 1.0
        return -1.0 if raw + a < target else 0.0
    if loss == POISSON:
        return math.exp(raw) - label
    if loss == CAUCHY:
        rest = raw - label
        return float(rest / (math.pow(rest / a, op.two) + 1.0))
    return 2.0 * (raw - label)


@inlined
def overflows(op: Any, label: float, raw: float) -> bool:
    """Tell whether River's gradient, or its prediction, would raise OverflowError."""
    loss = op.loss
    if loss == POISSON:
        return math.isfinite(raw) and math.isinf(math.exp(raw))
    if loss == CAUCHY:
        rest = (raw - label) / op.loss_a
        return math.isfinite(rest) and math.isinf(math.pow(rest, op.two))
    return False
