"""The operations of the machine that select, merge and impute features, in the order of River's dicts."""

# ruff: noqa: FBT001, PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.program import (
    AVERAGE,
    FINE,
    FLOAT,
    MAXIMUM,
    MINIMUM,
    MISSING,
    NULL,
    NUMBER,
    STRING,
    VALUE,
    VALUE_KIND,
    WRONG_TYPE,
)


@native
def put(rows: Any, target: int, at: int, slot: int, kind: int, value: float) -> None:
    """Write one feature into a row."""
    rows.slots[target, at] = slot
    rows.kinds[target, at] = kind
    rows.values[target, at] = value


@native
def carry(rows: Any, source: int, k: int, target: int, at: int) -> None:
    """Copy one feature from one row to another."""
    rows.slots[target, at] = rows.slots[source, k]
    rows.kinds[target, at] = rows.kinds[source, k]
    rows.values[target, at] = rows.values[source, k]


@native
def select(op: Any, keys: Any, memory: Any, rows: Any) -> int:
    """Select the features of the keys, in the keys' order."""
    source, target = op.source, op.target
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    for k in range(rows.sizes[source]):
        slot = rows.slots[source, k]
        memory.slots[slot].place = k
        memory.slots[slot].mark = mark
    for j in range(op.keys):
        slot = keys[op.key + j]
        if memory.slots[slot].mark != mark:
            return MISSING
        carry(rows, source, memory.slots[slot].place, target, j)
    rows.sizes[target] = op.keys
    return FINE


@native
def discard(op: Any, memory: Any, rows: Any) -> int:
    """Drop the features that are flagged."""
    source, target, stride, base = op.source, op.target, op.stride, op.base
    size = 0
    for k in range(rows.sizes[source]):
        if memory.fields[rows.slots[source, k] * stride + base] == 0.0:
            carry(rows, source, k, target, size)
            size += 1
    rows.sizes[target] = size
    return FINE


@native
def types(op: Any, rows: Any) -> int:
    """Select the features of the chosen kinds."""
    source, target = op.source, op.target
    size = 0
    for k in range(rows.sizes[source]):
        if op.kinds >> rows.kinds[source, k] & 1:
            carry(rows, source, k, target, size)
            size += 1
    rows.sizes[target] = size
    return FINE


@native
def merge(op: Any, keys: Any, memory: Any, rows: Any) -> int:
    """Merge rows, the last row first. If several rows have a feature, the value of the earliest row counts."""
    target = op.target
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    size = 0
    for j in range(op.keys - 1, -1, -1):
        source = keys[op.key + j]
        for k in range(rows.sizes[source]):
            slot = rows.slots[source, k]
            if memory.slots[slot].mark != mark:
                memory.slots[slot].mark = mark
                memory.slots[slot].place = size
                size += 1
            carry(rows, source, k, target, memory.slots[slot].place)
    rows.sizes[target] = size
    return FINE


@native
def impute(op: Any, keys: Any, memory: Any, rows: Any, learn: bool) -> int:
    """Replace a feature's null by a constant or a statistic."""
    source, target = op.source, op.target
    slot = keys[op.key]
    found = -1
    size = rows.sizes[source]
    for k in range(size):
        carry(rows, source, k, target, k)
        if rows.slots[source, k] == slot:
            found = k
    rows.sizes[target] = size
    if found < 0:
        return MISSING
    statistic = op.statistic
    kind = rows.kinds[source, found]
    if kind != NULL:
        if statistic >= AVERAGE:
            if kind == STRING:
                memory.notes[0].late = WRONG_TYPE
            elif learn:
                observe(statistic, memory.scalars, op.scalar, rows.values[source, found], kind)
    elif statistic >= AVERAGE:
        rows.kinds[target, found] = int(memory.scalars[op.scalar + VALUE_KIND])
        rows.values[target, found] = memory.scalars[op.scalar + VALUE]
    else:
        rows.kinds[target, found] = int(op.fill_kind)
        rows.values[target, found] = op.fill
    return FINE


@native
def observe(statistic: float, scalars: Any, at: int, x: float, kind: int) -> None:
    """Update a statistic with one value."""
    old = scalars[at + VALUE]
    if statistic == AVERAGE:
        scalars[at + NUMBER] += 1.0
        scalars[at + VALUE] = old + (1.0 / scalars[at + NUMBER]) * (x - old)
        scalars[at + VALUE_KIND] = FLOAT
    elif (statistic == MINIMUM and x < old) or (statistic == MAXIMUM and x > old):
        scalars[at + VALUE] = x
        scalars[at + VALUE_KIND] = kind
