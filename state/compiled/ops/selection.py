"""The operations of the machine that choose, join and fill in features; the order is that of River's dicts."""

# ruff: noqa: FBT001, PLR0917  What is compiled takes its arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.program import (
    AVERAGE,
    BASE,
    FILL,
    FILL_KIND,
    FINE,
    FLOAT,
    KEY,
    KEYS,
    LATE,
    MARK,
    MAXIMUM,
    MINIMUM,
    MISSING,
    NULL,
    NUMBER,
    OPTION,
    SCALAR,
    SOURCE,
    STATISTIC,
    STRIDE,
    STRING,
    TARGET,
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
    """Copy one feature from a row to another."""
    rows.slots[target, at] = rows.slots[source, k]
    rows.kinds[target, at] = rows.kinds[source, k]
    rows.values[target, at] = rows.values[source, k]


@native
def select(op: Any, keys: Any, memory: Any, rows: Any) -> int:
    """Take the features of the keys, in the keys' order."""
    source, target = op[SOURCE], op[TARGET]
    memory.notes[MARK] += 1
    mark = memory.notes[MARK]
    for k in range(rows.sizes[source]):
        slot = rows.slots[source, k]
        memory.places[slot] = k
        memory.marks[slot] = mark
    for j in range(op[KEYS]):
        slot = keys[op[KEY] + j]
        if memory.marks[slot] != mark:
            return MISSING
        carry(rows, source, memory.places[slot], target, j)
    rows.sizes[target] = op[KEYS]
    return FINE


@native
def discard(op: Any, memory: Any, rows: Any) -> int:
    """Leave out the features that are flagged."""
    source, target, stride, base = op[SOURCE], op[TARGET], op[STRIDE], op[BASE]
    size = 0
    for k in range(rows.sizes[source]):
        if memory.fields[rows.slots[source, k] * stride + base] == 0.0:
            carry(rows, source, k, target, size)
            size += 1
    rows.sizes[target] = size
    return FINE


@native
def types(op: Any, options: Any, rows: Any) -> int:
    """Take the features whose kind is one of the options."""
    source, target = op[SOURCE], op[TARGET]
    size = 0
    for k in range(rows.sizes[source]):
        if options[op[OPTION] + rows.kinds[source, k]] != 0.0:
            carry(rows, source, k, target, size)
            size += 1
    rows.sizes[target] = size
    return FINE


@native
def merge(op: Any, keys: Any, memory: Any, rows: Any) -> int:
    """Join rows: the last one's features come first, and of two of one name the earlier row's counts."""
    target = op[TARGET]
    memory.notes[MARK] += 1
    mark = memory.notes[MARK]
    size = 0
    for j in range(op[KEYS] - 1, -1, -1):
        source = keys[op[KEY] + j]
        for k in range(rows.sizes[source]):
            slot = rows.slots[source, k]
            if memory.marks[slot] != mark:
                memory.marks[slot] = mark
                memory.places[slot] = size
                size += 1
            carry(rows, source, k, target, memory.places[slot])
    rows.sizes[target] = size
    return FINE


@native
def impute(op: Any, keys: Any, options: Any, memory: Any, rows: Any, learn: bool) -> int:
    """Put a constant or a statistic in place of a feature that is null."""
    source, target = op[SOURCE], op[TARGET]
    slot = keys[op[KEY]]
    found = -1
    size = rows.sizes[source]
    for k in range(size):
        carry(rows, source, k, target, k)
        if rows.slots[source, k] == slot:
            found = k
    rows.sizes[target] = size
    if found < 0:
        return MISSING
    statistic = options[op[OPTION] + STATISTIC]
    kind = rows.kinds[source, found]
    if kind != NULL:
        if statistic >= AVERAGE:
            if kind == STRING:
                memory.notes[LATE] = WRONG_TYPE
            elif learn:
                observe(statistic, memory.scalars, op[SCALAR], rows.values[source, found], kind)
    elif statistic >= AVERAGE:
        rows.kinds[target, found] = int(memory.scalars[op[SCALAR] + VALUE_KIND])
        rows.values[target, found] = memory.scalars[op[SCALAR] + VALUE]
    else:
        rows.kinds[target, found] = int(options[op[OPTION] + FILL_KIND])
        rows.values[target, found] = options[op[OPTION] + FILL]
    return FINE


@native
def observe(statistic: float, scalars: Any, at: int, x: float, kind: int) -> None:
    """Let a statistic see one value more."""
    old = scalars[at + VALUE]
    if statistic == AVERAGE:
        scalars[at + NUMBER] += 1.0
        scalars[at + VALUE] = old + (1.0 / scalars[at + NUMBER]) * (x - old)
        scalars[at + VALUE_KIND] = FLOAT
    elif (statistic == MINIMUM and x < old) or (statistic == MAXIMUM and x > old):
        scalars[at + VALUE] = x
        scalars[at + VALUE_KIND] = kind
