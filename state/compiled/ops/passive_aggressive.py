"""Passive-aggressive models on the machine: a step no longer than the margin needs, by the norm of the row."""

import ctypes
import math
from typing import Any

from llvmlite import binding  # type: ignore[import-untyped]
from numba import types

from headrace.state.compiled.ops import blas
from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.ops.loss import sigmoid
from headrace.state.compiled.program import (
    FINE,
    FLOAT,
    INTERCEPT,
    KNOWN,
    MET,
    STRING,
    WEIGHT,
    WRONG_TYPE,
)

# Where there is none no model is compiled that asks for it, but the machine is linked all the same.
_ANY = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value
binding.add_symbol("headrace_ddot", blas.address() or _ANY)
# Its lengths may be of 32 bits: then it reads the lower half.
_ddot: Any = types.ExternalFunction(
    "headrace_ddot", types.float64(types.int64, types.uintp, types.int64, types.uintp, types.int64)
)


@inlined
def judge(op: Any, memory: Any, rows: Any) -> int:
    """Say why predicting this row would raise, and note why learning it would: it looks at what has no weight, too."""
    source, whole, huge = op.source, True, False
    for k in range(rows.sizes[source]):
        kind, value = rows.kinds[source, k], rows.values[source, k]
        if kind >= STRING:
            if memory.fields[rows.slots[source, k] * op.stride + op.base + MET] != 0.0:
                return WRONG_TYPE
            memory.notes[0].late = WRONG_TYPE
        whole = whole and kind != FLOAT
        # Of numbers that are all whole numpy makes objects where one has no machine word, and those have no root.
        huge = huge or value >= 18446744073709551616.0 or value < -9223372036854775808.0  # noqa: PLR2004
    if whole and huge:
        memory.notes[0].late = WRONG_TYPE
    return FINE


@inlined
def arrange(op: Any, memory: Any, rows: Any) -> int:
    """Order the row as River goes through it, into the row that no operation writes; return how many there are.

    River goes through the shorter of two dicts, the record or the weights in the order in which they were met, and
    passes over what the other does not have.
    """
    fields, source, target, known = memory.fields, op.source, op.target, int(memory.scalars[op.scalar + KNOWN])
    count, met = rows.sizes[source], 0
    if count < known:
        for k in range(count):
            if fields[rows.slots[source, k] * op.stride + op.base + MET] != 0.0:
                rows.slots[target, met] = k
                met += 1
        return met
    for rank in range(known):
        rows.slots[target, rank] = -1
    for k in range(count):
        rank = int(fields[rows.slots[source, k] * op.stride + op.base + MET])
        # No more than there are, whatever bytes it was loaded from.
        if 0 < rank <= known:
            rows.slots[target, rank - 1] = k
    for rank in range(known):
        if rows.slots[target, rank] >= 0:
            rows.slots[target, met] = rows.slots[target, rank]
            met += 1
    return met


@native
def passive_raw(op: Any, memory: Any, rows: Any) -> float:
    """Return weights · features + intercept as Python's `sum` does: from 3.12 on it compensates (Neumaier, 1974)."""
    source, total, lost = op.source, 0.0, 0.0
    compensated = op.compensated != 0
    for at in range(arrange(op, memory, rows)):
        k = rows.slots[op.target, at]
        weight = memory.fields[rows.slots[source, k] * op.stride + op.base + WEIGHT]
        term = rows.values[source, k] * weight
        after = total + term
        if compensated:
            lost += (total - after) + term if abs(total) >= abs(term) else (term - after) + total
        total = after
    if lost != 0.0 and math.isfinite(lost):
        total += lost
    return float(total + memory.scalars[op.scalar + INTERCEPT])


@inlined
def passive_answer(op: Any, memory: Any, rows: Any, answers: Any, record: int) -> int:
    """Predict: the probability of True and the class, or the number."""
    fault = judge(op, memory, rows)
    if fault != FINE:
        return fault
    raw = passive_raw(op, memory, rows)
    if op.binary != 0:
        raw = sigmoid(raw)
        # Of two that are as likely, or NaN, River takes the first.
        answers.chosen[record] = 1 if raw > 1.0 - raw else 0
    answers.value[record] = raw
    return FINE


@inlined
def tau(op: Any, loss: float, values: Any) -> float:
    """Return how far to step: so far that the loss is gone, as far as the mode allows."""
    mode, c = op.mode, op.c
    where = values.ctypes.data
    norm = math.pow(math.sqrt(_ddot(len(values), where, 1, where, 1)), op.two)
    if mode == 2:  # noqa: PLR2004 River's own number
        return float(loss / (norm + c))
    if not norm > 0.0:
        return 0.0
    step = loss / norm
    # Written out, so that NaN comes through as it does through Python's min.
    return float(c if mode == 1 and not step < c else step)


@native
def passive_learn(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: one step along the row, of a length that its loss and its norm decide."""
    fields, scalars, source = memory.fields, memory.scalars, op.source
    raw, edge = passive_raw(op, memory, rows), op.edge
    if op.binary != 0:
        sign = 1.0 if label != 0.0 else -1.0
        loss = edge - sign * raw
    else:
        # River's loss takes the label to be 0 or 1, and its sign takes it as it is.
        loss, rest = abs(raw - (label * 2.0 - 1.0)) - edge, label - raw
        sign = rest if rest != rest else 1.0 if rest > 0.0 else -1.0 if rest < 0.0 else 0.0  # noqa: PLR0124 NaN
    # Written out for NaN, as above.
    loss = 0.0 if loss < 0.0 else loss  # noqa: FURB136
    step = tau(op, loss, rows.values[source, : rows.sizes[source]]) * sign
    for k in range(rows.sizes[source]):
        field = rows.slots[source, k] * op.stride + op.base
        if fields[field + MET] == 0.0:
            scalars[op.scalar + KNOWN] += 1.0
            fields[field + MET] = scalars[op.scalar + KNOWN]
        fields[field + WEIGHT] += step * rows.values[source, k]
    if op.learn_intercept != 0:
        scalars[op.scalar + INTERCEPT] += step
    return FINE
