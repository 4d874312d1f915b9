"""Passive-aggressive models on the machine: the length of a step follows from the loss and the norm of the row."""

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

# Without a `cblas_ddot` no model is compiled that calls it, but the machine must still link: use any address.
_ANY = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value
binding.add_symbol("headrace_ddot", blas.address() or _ANY)
# `cblas_ddot` may take lengths of 32 bits: then it reads the lower half.
_ddot: Any = types.ExternalFunction(
    "headrace_ddot", types.float64(types.int64, types.uintp, types.int64, types.uintp, types.int64)
)


@inlined
def judge(op: Any, memory: Any, rows: Any) -> int:
    """Return the fault of predicting this row, and note the fault of learning it: that also reads unknown features."""
    source, whole, huge = op.source, True, False
    for k in range(rows.sizes[source]):
        kind, value = rows.kinds[source, k], rows.values[source, k]
        if kind >= STRING:
            if memory.fields[rows.slots[source, k] * op.stride + op.base + MET] != 0.0:
                return WRONG_TYPE
            memory.notes[0].late = WRONG_TYPE
        whole = whole and kind != FLOAT
        # If all numbers are whole and one is too large for a machine word, numpy makes objects, which have no root.
        huge = huge or value >= 18446744073709551616.0 or value < -9223372036854775808.0  # noqa: PLR2004
    if whole and huge:
        memory.notes[0].late = WRONG_TYPE
    return FINE


@inlined
def arrange(op: Any, memory: Any, rows: Any) -> int:
    """Write the row in River's order into the row that no operation writes; return the number of its entries.

    River iterates over the shorter of two dicts: the record, or the weights in the order in which they were met. It
    skips names that the other dict does not have.
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
        # The model may come from bytes of any origin, so check the rank.
        if 0 < rank <= known:
            rows.slots[target, rank - 1] = k
    for rank in range(known):
        if rows.slots[target, rank] >= 0:
            rows.slots[target, met] = rows.slots[target, rank]
            met += 1
    return met


@native
def passive_raw(op: Any, memory: Any, rows: Any) -> float:
    """Return weights · features + intercept as Python's `sum` does: from 3.12 on compensated after Neumaier (1974)."""
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
    """Return the length of the step: enough to remove the loss, as far as the mode allows."""
    mode, c = op.mode, op.c
    where = values.ctypes.data
    norm = math.pow(math.sqrt(_ddot(len(values), where, 1, where, 1)), op.two)
    if mode == 2:  # noqa: PLR2004 River's own number
        return float(loss / (norm + c))
    if not norm > 0.0:
        return 0.0
    step = loss / norm
    # Not `min`: NaN must pass through as in Python's.
    return float(c if mode == 1 and not step < c else step)


@native
def passive_learn(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: one step along the row, of a length that depends on its loss and its norm."""
    fields, scalars, source = memory.fields, memory.scalars, op.source
    raw, edge = passive_raw(op, memory, rows), op.edge
    if op.binary != 0:
        sign = 1.0 if label != 0.0 else -1.0
        loss = edge - sign * raw
    else:
        # River's loss expects a label of 0 or 1 and maps it to -1 or 1; the sign of its step uses the label itself.
        loss, rest = abs(raw - (label * 2.0 - 1.0)) - edge, label - raw
        sign = rest if rest != rest else 1.0 if rest > 0.0 else -1.0 if rest < 0.0 else 0.0  # noqa: PLR0124 NaN
    # Not `max`, for the same reason.
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
