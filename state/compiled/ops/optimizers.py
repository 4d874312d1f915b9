"""River's optimizers: each moves the weights of one row's features against their gradients.

The row's values are the gradients by now. Each function returns FINE, or OVERFLOW where Python's `**` would raise: C's
`pow` is infinite there. Where River multiplies a number with itself so does the code; where River writes `** 2` it is a
`pow` of which the compiler does not see the 2. Optimizers of one build share a loop: each takes its time to compile.
"""

# ruff: noqa: PLR0917  What is compiled takes its arguments by place.

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
    BASE,
    FINE,
    HALF,
    INVERSE,
    ITERATIONS,
    NESTEROV,
    OPT_A,
    OPT_B,
    OPT_C,
    OPT_D,
    OPTIMIZER,
    OPTION,
    OVERFLOW,
    OWN,
    RMSPROP,
    SCALAR,
    SGD,
    SOURCE,
    STRIDE,
    TWO,
    WEIGHT,
)


@native
def too_large(x: float, squared: float) -> bool:
    """Tell whether the power overflowed, where Python raises."""
    return math.isinf(squared) and not math.isinf(x)


@inlined
def step(op: Any, options: Any, memory: Any, rows: Any, rate: float) -> int:
    """Let the optimizer move the weights."""
    kind = options[op[OPTION] + OPTIMIZER]
    if kind <= RMSPROP:
        return by_slope(op, options, memory.fields, rows, rate, kind)
    if kind >= ADADELTA:
        return by_own_measure(op, options, memory.fields, rows, kind)
    return by_moments(op, options, memory, rows, rate, kind)


@inlined
def by_slope(op: Any, options: Any, fields: Any, rows: Any, rate: float, kind: float) -> int:
    """SGD, Momentum, Nesterov's, AdaGrad, RMSProp: at most one number a feature."""
    source, stride, base, at = op[SOURCE], op[STRIDE], op[BASE], op[OPTION]
    rho, eps, half, two = options[at + OPT_A], options[at + OPT_B], options[at + HALF], options[at + TWO]
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * stride + base
        slope = rows.values[source, k]
        if kind == SGD:
            fields[at + WEIGHT] -= rate * slope
            continue
        own = fields[at + OWN]
        if kind <= NESTEROV:
            if kind == NESTEROV:
                # These weights have looked ahead, and come back first.
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
def by_moments(op: Any, options: Any, memory: Any, rows: Any, rate: float, kind: float) -> int:
    """Adam, AdaMax, AMSGrad, Nadam: a mean of slopes, and a measure of their size."""
    fields, source, stride, base, at = memory.fields, op[SOURCE], op[STRIDE], op[BASE], op[OPTION]
    first, eps, second = options[at + OPT_A], options[at + OPT_B], options[at + OPT_C]
    half, two, steps = options[at + HALF], options[at + TWO], memory.scalars[op[SCALAR] + ITERATIONS] + 1.0
    bias, bias_two = 1.0 - math.pow(first, steps), 1.0 - math.pow(second, steps)
    if kind == ADAM or (kind == AMSGRAD and options[at + OPT_D] != 0.0):
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
def by_own_measure(op: Any, options: Any, fields: Any, rows: Any, kind: float) -> int:
    """AdaDelta and FTRL-Proximal, which have no rate."""
    source, stride, base, at = op[SOURCE], op[STRIDE], op[BASE], op[OPTION]
    first, second, l1, l2 = options[at + OPT_A], options[at + OPT_B], options[at + OPT_C], options[at + OPT_D]
    half, two, inverse = options[at + HALF], options[at + TWO], options[at + INVERSE]
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * stride + base
        slope, own, other = rows.values[source, k], fields[at + OWN], fields[at + OWN + 1]
        square = math.pow(slope, two)
        if too_large(slope, square):
            return OVERFLOW
        if kind == ADADELTA:
            # Means of squared slopes, and of squared steps; `first` is rho, `second` eps.
            own = first * own + (1.0 - first) * square
            move = -root(other + second, half) / root(own + second, half) * slope
            square = math.pow(move, two)
            if too_large(move, square):
                return OVERFLOW
            fields[at + OWN] = own
            fields[at + OWN + 1] = first * other + (1.0 - first) * square
            fields[at + WEIGHT] += move
            continue
        # The weight comes from what was summed up, and is left alone until that passes L1; `first` is alpha,
        # `second` beta.
        if abs(own) > l1:
            sign = 1.0 if own > 0.0 else -1.0
            power = math.pow((second + root(other, half)) / first + l2, inverse)
            fields[at + WEIGHT] = -power * (own - sign * l1)
        pull = (root(other + square, half) - root(other, half)) / first
        fields[at + OWN] = own + (slope - pull * fields[at + WEIGHT])
        fields[at + OWN + 1] = other + square
    return FINE
