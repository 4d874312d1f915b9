"""Linear and logistic regression on the machine: the dot product, the gradient step, the penalties."""

# ruff: noqa: PLR0917  What is compiled takes its arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.ops.loss import binary_slope, number_slope, overflows, sigmoid
from headrace.state.compiled.ops.optimizers import step
from headrace.state.compiled.program import (
    BASE,
    BINARY,
    CLIP,
    FIELDS,
    FINE,
    INITIAL,
    INTERCEPT,
    INTERCEPT_RATE,
    ITERATIONS,
    L1,
    L2,
    LOSS,
    MET,
    NESTEROV,
    OPT_A,
    OPTIMAL,
    OPTIMIZER,
    OPTION,
    OVERFLOW,
    OWN,
    PENALTY,
    POISSON,
    RATE,
    SCALAR,
    SCALED_INVERSELY,
    SOURCE,
    STRIDE,
    STRING,
    WEIGHT,
    WRONG_TYPE,
)


@inlined
def dot(op: Any, memory: Any, rows: Any) -> float:
    """Return weights · features + intercept, summed in the row's order; a feature that is new counts as well."""
    fields, source, stride, base = memory.fields, op[SOURCE], op[STRIDE], op[BASE] + WEIGHT
    total = 0.0
    for k in range(rows.sizes[source]):
        total += fields[rows.slots[source, k] * stride + base] * rows.values[source, k]
    return float(total + memory.scalars[op[SCALAR] + INTERCEPT])


@inlined
def linear_answer(op: Any, options: Any, memory: Any, rows: Any, results: Any, record: int) -> int:
    """Predict: the probability of True and the class, or the number."""
    source = op[SOURCE]
    for k in range(rows.sizes[source]):
        if rows.kinds[source, k] >= STRING:
            return WRONG_TYPE
    raw = dot(op, memory, rows)
    if options[op[OPTION] + BINARY] != 0.0:
        true = sigmoid(raw)
        results.value[record] = true
        # Of two that are as likely, or NaN, River takes the first.
        results.chosen[record] = 1 if true > 1.0 - true else 0
        return FINE
    if options[op[OPTION] + LOSS] == POISSON:
        if overflows(options, op[OPTION], 0.0, raw):
            return OVERFLOW
        raw = math.exp(raw)
    results.value[record] = raw
    return FINE


@inlined
def rate_at(options: Any, at: int, steps: float) -> float:
    """Return a schedule's rate after so many steps."""
    kind, a, b = options[at], options[at + 1], options[at + 2]
    if kind == SCALED_INVERSELY:
        return float(a / math.pow(steps + 1.0, b))
    if kind == OPTIMAL:
        return float(1.0 / (a * (b + steps)))
    return float(a)


@inlined
def meet(op: Any, options: Any, memory: Any, rows: Any) -> None:
    """Give new features their first weight, and let Nesterov's weights look ahead."""
    fields, source, option = memory.fields, op[SOURCE], op[OPTION]
    ahead = options[option + OPTIMIZER] == NESTEROV
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * op[STRIDE] + op[BASE]
        if fields[at + MET] == 0.0:
            fields[at + MET] = 1.0
            fields[at + WEIGHT] = options[option + INITIAL]
        if ahead:
            fields[at + WEIGHT] -= options[option + OPT_A] * fields[at + OWN]


@inlined
def linear_learn(op: Any, options: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: one step of the optimizer against the loss's gradient at this row."""
    fields, scalars, source, option = memory.fields, memory.scalars, op[SOURCE], op[OPTION]
    meet(op, options, memory, rows)
    raw = dot(op, memory, rows)
    if overflows(options, option, label, raw):
        return OVERFLOW
    binary = options[option + BINARY] != 0.0
    slope = binary_slope(options, option, label, raw) if binary else number_slope(options, option, label, raw)
    # Written out, so that NaN comes through as it does through Python's min and max.
    clip = options[option + CLIP]
    slope = clip if clip < slope else slope  # noqa: FURB136
    slope = -clip if -clip > slope else slope  # noqa: FURB136
    steps = scalars[op[SCALAR] + ITERATIONS]
    scalars[op[SCALAR] + INTERCEPT] -= rate_at(options, option + INTERCEPT_RATE, steps) * slope
    l2 = options[option + L2]
    for k in range(rows.sizes[source]):
        gradient = rows.values[source, k] * slope
        if l2 != 0.0:
            gradient += l2 * fields[rows.slots[source, k] * op[STRIDE] + op[BASE] + WEIGHT]
        rows.values[source, k] = gradient
    fault = step(op, options, memory, rows, rate_at(options, option + RATE, steps))
    scalars[op[SCALAR] + ITERATIONS] = steps + 1.0
    if options[option + L1] != 0.0:
        scalars[op[SCALAR] + PENALTY] += options[option + L1] * rate_at(options, option + RATE, steps + 1.0)
        shrink(op, memory, rows, scalars[op[SCALAR] + PENALTY])
    return fault


@native
def shrink(op: Any, memory: Any, rows: Any, penalty: float) -> None:
    """Draw weights to zero by the L1 penalty that they have not paid yet."""
    fields, source, paid = memory.fields, op[SOURCE], op[FIELDS] - 1
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * op[STRIDE] + op[BASE]
        before = fields[at + WEIGHT]
        if before > 0.0:
            after = before - (penalty + fields[at + paid])
            fields[at + WEIGHT] = after if after > 0.0 else 0.0  # noqa: FURB136
        elif before < 0.0:
            after = before + (penalty - fields[at + paid])
            fields[at + WEIGHT] = after if after < 0.0 else 0.0  # noqa: FURB136
        fields[at + paid] = fields[at + paid] + (fields[at + WEIGHT] - before)
