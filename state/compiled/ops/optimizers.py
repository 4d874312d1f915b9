"""River's optimizers: each moves the weights of one row's features against their gradients.

The gradients stand in the row in place of its values. Each function returns FINE, or OVERFLOW where Python's `**` would
raise: there C's `pow` is infinite. Where River multiplies a number by itself, so does the code. Where River writes `**
2`, the code calls `pow` and hides the 2 from the compiler. Similar optimizers share a loop, to save compile time.
"""

import math
from typing import Any

from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.ops.square_root import root
from headrace.state.compiled.program import (
    ADADELTA,
    ADAGRAD,
    ADAM,
    ADAMAX,
    AMSGRAD,
    FINE,
    ITERATIONS,
    NESTEROV,
    OVERFLOW,
    OWN,
    RMSPROP,
    SGD,
    WEIGHT,
)


@native
def too_large(x: float, squared: float) -> bool:
    """Tell whether a power overflowed, which raises in Python."""
    return math.isinf(squared) and not math.isinf(x)


@inlined
def step(op: Any, memory: Any, rows: Any, rate: float) -> int:
    """Move the weights by one step of the optimizer."""
    kind = op.optimizer
    if kind <= RMSPROP:
        return by_slope(op, memory.fields, rows, rate, kind)
    if kind >= ADADELTA:
        return by_own_measure(op, memory.fields, rows, kind)
    return by_moments(op, memory, rows, rate, kind)


@inlined
def by_slope(op: Any, fields: Any, rows: Any, rate: float, kind: int) -> int:
    """SGD, Momentum, Nesterov's, AdaGrad, RMSProp: at most one number of state a feature."""
    source, stride, base = op.source, op.stride, op.base
    rho, eps, half, two = op.rho, op.eps, op.half, op.two
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * stride + base
        slope = rows.values[source, k]
        if kind == SGD:
            fields[at + WEIGHT] -= rate * slope
            continue
        own = fields[at + OWN]
        if kind <= NESTEROV:
            if kind == NESTEROV:
                # `meet` has moved these weights ahead: move them back first.
                fields[at + WEIGHT] += rho * own
            own = rho * own + rate * slope
            fields[at + OWN] = own
            fields[at + WEIGHT] -= own
            continue
        if kind == ADAGRAD:
            square = math.pow(slope, two)
            if too_large(slope, square):
                return OVERFLOW
            own += square
        else:
            own = rho * own + (1.0 - rho) * (slope * slope)
        fields[at + OWN] = own
        fields[at + WEIGHT] -= rate / root(own + eps, half) * slope
    return FINE


@native
def by_moments(op: Any, memory: Any, rows: Any, rate: float, kind: int) -> int:
    """Adam, AdaMax, AMSGrad, Nadam: a mean of gradients, and a measure of their size."""
    fields, source, stride, base = memory.fields, op.source, op.stride, op.base
    first, eps, second = op.beta_1, op.eps, op.beta_2
    half, two, steps = op.half, op.two, memory.scalars[op.scalar + ITERATIONS] + 1.0
    bias, bias_two = 1.0 - math.pow(first, steps), 1.0 - math.pow(second, steps)
    if kind == ADAM or (kind == AMSGRAD and op.correct_bias != 0):
        rate = rate * math.pow(bias_two, half) / bias
    if kind == ADAMAX:
        rate /= bias
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * stride + base
        slope = rows.values[source, k]
        mean = first * fields[at + OWN] + (1.0 - first) * slope
        fields[at + OWN] = mean
        if kind == ADAMAX:
            most = second * fields[at + OWN + 1]
            # As Python's max: the first, unless the second is greater.
            most = abs(slope) if abs(slope) > most else most  # noqa: FURB136
            fields[at + OWN + 1] = most
            fields[at + WEIGHT] -= rate * mean / (most + eps)
            continue
        square = slope * slope if kind == ADAM else math.pow(slope, two)
        if kind != ADAM and too_large(slope, square):
            return OVERFLOW
        size = second * fields[at + OWN + 1] + (1.0 - second) * square
        fields[at + OWN + 1] = size
        if kind == AMSGRAD:
            # As Python's max, again.
            size = size if size > fields[at + OWN + 2] else fields[at + OWN + 2]  # noqa: FURB136
            fields[at + OWN + 2] = size
        elif kind != ADAM:
            size /= bias_two
            mean = first * (mean / bias) + (1.0 - first) * slope / bias
        fields[at + WEIGHT] -= rate * mean / (root(size, half) + eps)
    return FINE


@native
def by_own_measure(op: Any, fields: Any, rows: Any, kind: int) -> int:
    """AdaDelta and FTRL-Proximal, which have no learning rate."""
    source, stride, base = op.source, op.stride, op.base
    half, two, inverse = op.half, op.two, op.inverse
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * stride + base
        slope, own, other = rows.values[source, k], fields[at + OWN], fields[at + OWN + 1]
        square = math.pow(slope, two)
        if too_large(slope, square):
            return OVERFLOW
        if kind == ADADELTA:
            # Running means of squared gradients, and of squared steps.
            own = op.rho * own + (1.0 - op.rho) * square
            move = -root(other + op.eps, half) / root(own + op.eps, half) * slope
            square = math.pow(move, two)
            if too_large(move, square):
                return OVERFLOW
            fields[at + OWN] = own
            fields[at + OWN + 1] = op.rho * other + (1.0 - op.rho) * square
            fields[at + WEIGHT] += move
            continue
        # The weight follows from the sum of gradients, and stays as it is unless the sum's size exceeds L1.
        if abs(own) > op.own_l1:
            sign = 1.0 if own > 0.0 else -1.0
            power = math.pow((op.beta + root(other, half)) / op.alpha + op.own_l2, inverse)
            fields[at + WEIGHT] = -power * (own - sign * op.own_l1)
        pull = (root(other + square, half) - root(other, half)) / op.alpha
        fields[at + OWN] = own + (slope - pull * fields[at + WEIGHT])
        fields[at + OWN + 1] = other + square
    return FINE
