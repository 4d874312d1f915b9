"""The scalers of the machine: standard, centred, min-max and max-abs, equal to River's to the bit."""

# ruff: noqa: FBT001  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.ops.square_root import root
from headrace.state.compiled.program import (
    COUNT,
    DEVIATION,
    FINE,
    FLOAT,
    HIGH,
    LOW,
    MEAN,
    MOST,
    STRING,
    VARIANCE,
    WRONG_TYPE,
)


@inlined
def standard(op: Any, memory: Any, rows: Any, learn: bool) -> int:
    """Scale to a mean of zero and a variance of one."""
    fields = memory.fields
    source, target, stride, base = op.source, op.target, op.stride, op.base
    # The compiler must not see the 0.5: it would take a square root, whose last bit sometimes differs.
    half = op.half
    size = rows.sizes[source]
    for k in range(size):
        slot = rows.slots[source, k]
        at = slot * stride + base
        x = rows.values[source, k]
        if rows.kinds[source, k] >= STRING:
            # River reads the value only if the deviation is not zero. Learning always reads it.
            if fields[at + DEVIATION] != 0.0:
                return WRONG_TYPE
            memory.notes[0].late = WRONG_TYPE
        elif learn:
            count = fields[at + COUNT] + 1.0
            old = fields[at + MEAN]
            mean = old + (x - old) / count
            variance = fields[at + VARIANCE]
            variance += ((x - old) * (x - mean) - variance) / count
            fields[at + COUNT] = count
            fields[at + MEAN] = mean
            fields[at + VARIANCE] = variance
            fields[at + DEVIATION] = root(variance, half)
        deviation = fields[at + DEVIATION]
        rows.slots[target, k] = slot
        rows.kinds[target, k] = FLOAT
        rows.values[target, k] = (x - fields[at + MEAN]) / deviation if deviation != 0.0 else 0.0
    rows.sizes[target] = size
    return FINE


@native
def center(op: Any, memory: Any, rows: Any, learn: bool) -> int:
    """Subtract the mean."""
    fields = memory.fields
    source, target, stride, base = op.source, op.target, op.stride, op.base
    size = rows.sizes[source]
    for k in range(size):
        slot = rows.slots[source, k]
        at = slot * stride + base
        x = rows.values[source, k]
        if rows.kinds[source, k] >= STRING:
            return WRONG_TYPE
        if learn:
            count = fields[at + COUNT] + 1.0
            old = fields[at + MEAN]
            fields[at + COUNT] = count
            fields[at + MEAN] = old + (x - old) / count
        rows.slots[target, k] = slot
        rows.kinds[target, k] = FLOAT
        rows.values[target, k] = x - fields[at + MEAN]
    rows.sizes[target] = size
    return FINE


@native
def minmax(op: Any, memory: Any, rows: Any, learn: bool) -> int:
    """Scale to between 0 and 1. A feature that was not met becomes NaN, as in River."""
    fields = memory.fields
    source, target, stride, base = op.source, op.target, op.stride, op.base
    size = rows.sizes[source]
    for k in range(size):
        slot = rows.slots[source, k]
        at = slot * stride + base
        x = rows.values[source, k]
        if rows.kinds[source, k] >= STRING:
            # River does not read the value if the feature has always had one value.
            if fields[at + COUNT] == 0.0 or fields[at + HIGH] - fields[at + LOW] != 0.0:
                return WRONG_TYPE
            memory.notes[0].late = WRONG_TYPE
        elif learn:
            if fields[at + COUNT] == 0.0:
                fields[at + COUNT] = 1.0
                fields[at + LOW] = math.inf
                fields[at + HIGH] = -math.inf
            fields[at + LOW] = min(fields[at + LOW], x)
            fields[at + HIGH] = max(fields[at + HIGH], x)
        low, high = (fields[at + LOW], fields[at + HIGH]) if fields[at + COUNT] != 0.0 else (math.inf, -math.inf)
        span = high - low
        rows.slots[target, k] = slot
        rows.kinds[target, k] = FLOAT
        rows.values[target, k] = (x - low) / span if span != 0.0 else 0.0
    rows.sizes[target] = size
    return FINE


@native
def maxabs(op: Any, memory: Any, rows: Any, learn: bool) -> int:
    """Scale by the largest absolute value."""
    fields = memory.fields
    source, target, stride, base = op.source, op.target, op.stride, op.base
    size = rows.sizes[source]
    for k in range(size):
        slot = rows.slots[source, k]
        at = slot * stride + base
        x = rows.values[source, k]
        if rows.kinds[source, k] >= STRING:
            if fields[at + MOST] != 0.0:
                return WRONG_TYPE
            memory.notes[0].late = WRONG_TYPE
        elif learn:
            fields[at + COUNT] = 1.0
            fields[at + MOST] = max(fields[at + MOST], abs(x))
        most = fields[at + MOST]
        rows.slots[target, k] = slot
        rows.kinds[target, k] = FLOAT
        rows.values[target, k] = x / most if most != 0.0 else 0.0
    rows.sizes[target] = size
    return FINE
