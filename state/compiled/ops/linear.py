"""Linear and logistic regression on the machine: the dot product, the gradient step, the penalties."""

import math
from typing import Any

from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.ops.loss import binary_slope, number_slope, overflows, sigmoid
from headrace.state.compiled.ops.optimizers import step
from headrace.state.compiled.program import (
    FINE,
    INTERCEPT,
    ITERATIONS,
    MET,
    NESTEROV,
    OPTIMAL,
    OVERFLOW,
    OWN,
    PENALTY,
    POISSON,
    SCALED_INVERSELY,
    STRING,
    WEIGHT,
    WRONG_TYPE,
)


@inlined
def dot(op: Any, memory: Any, rows: Any) -> float:
    """Return weights · features + intercept, summed in the row's order. A new feature counts: 0 times NaN is NaN."""
    fields, source, stride, base = memory.fields, op.source, op.stride, op.base + WEIGHT
    total = 0.0
    for k in range(rows.sizes[source]):
        total += fields[rows.slots[source, k] * stride + base] * rows.values[source, k]
    return float(total + memory.scalars[op.scalar + INTERCEPT])


@inlined
def linear_answer(op: Any, memory: Any, rows: Any, answers: Any, record: int) -> int:
    """Predict: the probability of True and the class, or the number."""
    source = op.source
    for k in range(rows.sizes[source]):
        if rows.kinds[source, k] >= STRING:
            return WRONG_TYPE
    raw = dot(op, memory, rows)
    if op.binary != 0:
        true = sigmoid(raw)
        answers.value[record] = true
        # If both classes are equally likely, or NaN, River takes the first.
        answers.chosen[record] = 1 if true > 1.0 - true else 0
        return FINE
    if op.loss == POISSON:
        if overflows(op, 0.0, raw):
            return OVERFLOW
        raw = math.exp(raw)
    answers.value[record] = raw
    return FINE


@inlined
def rate_at(schedule: int, a: float, b: float, steps: float) -> float:
    """Return a schedule's rate after this number of steps."""
    if schedule == SCALED_INVERSELY:
        return float(a / math.pow(steps + 1.0, b))
    if schedule == OPTIMAL:
        return float(1.0 / (a * (b + steps)))
    return float(a)


@inlined
def meet(op: Any, memory: Any, rows: Any) -> None:
    """Give new features their initial weight, and move Nesterov's weights ahead."""
    fields, source = memory.fields, op.source
    ahead = op.optimizer == NESTEROV
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * op.stride + op.base
        if fields[at + MET] == 0.0:
            fields[at + MET] = 1.0
            fields[at + WEIGHT] = op.initial
        if ahead:
            fields[at + WEIGHT] -= op.rho * fields[at + OWN]


@inlined
def linear_learn(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: one step of the optimizer against the gradient of the loss at this row."""
    fields, scalars, source = memory.fields, memory.scalars, op.source
    meet(op, memory, rows)
    raw = dot(op, memory, rows)
    if overflows(op, label, raw):
        return OVERFLOW
    binary = op.binary != 0
    slope = binary_slope(op, label, raw) if binary else number_slope(op, label, raw)
    # Not `min` and `max`: NaN must pass through as in Python's.
    clip = op.clip
    slope = clip if clip < slope else slope  # noqa: FURB136
    slope = -clip if -clip > slope else slope  # noqa: FURB136
    steps = scalars[op.scalar + ITERATIONS]
    scalars[op.scalar + INTERCEPT] -= (
        rate_at(op.intercept_rate, op.intercept_rate_a, op.intercept_rate_b, steps) * slope
    )
    l2 = op.l2
    for k in range(rows.sizes[source]):
        gradient = rows.values[source, k] * slope
        if l2 != 0.0:
            gradient += l2 * fields[rows.slots[source, k] * op.stride + op.base + WEIGHT]
        rows.values[source, k] = gradient
    fault = step(op, memory, rows, rate_at(op.rate, op.rate_a, op.rate_b, steps))
    scalars[op.scalar + ITERATIONS] = steps + 1.0
    if op.l1 != 0.0:
        scalars[op.scalar + PENALTY] += op.l1 * rate_at(op.rate, op.rate_a, op.rate_b, steps + 1.0)
        shrink(op, memory, rows, scalars[op.scalar + PENALTY])
    return fault


@native
def shrink(op: Any, memory: Any, rows: Any, penalty: float) -> None:
    """Move weights towards zero by the L1 penalty that they have not paid yet."""
    fields, source, paid = memory.fields, op.source, op.fields - 1
    for k in range(rows.sizes[source]):
        at = rows.slots[source, k] * op.stride + op.base
        before = fields[at + WEIGHT]
        if before > 0.0:
            after = before - (penalty + fields[at + paid])
            fields[at + WEIGHT] = after if after > 0.0 else 0.0  # noqa: FURB136
        elif before < 0.0:
            after = before + (penalty - fields[at + paid])
            fields[at + WEIGHT] = after if after < 0.0 else 0.0  # noqa: FURB136
        fields[at + paid] = fields[at + paid] + (fields[at + WEIGHT] - before)
