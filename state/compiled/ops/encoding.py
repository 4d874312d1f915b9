"""The operations of the machine that name features anew: one-hot, hashed, with a prefix or a suffix.

A new name is a string, and strings are Python's. The machine looks up the pair of a feature and its value in a hash
table; a pair that it has not met it puts down, and stops, and Python names it.
"""

# ruff: noqa: FBT001, PLR0917  What is compiled takes its arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import entry, native, print_of_sources
from headrace.state.compiled.ops.selection import put
from headrace.state.compiled.program import (
    ASKED_BITS,
    ASKED_KIND,
    ASKED_OP,
    ASKED_SLOT,
    EXACT_MAX,
    FINE,
    FLOAT,
    INTEGER,
    LISTED,
    NAME_ALONE,
    NULL,
    STRING,
    TOO_LARGE,
    UNMET,
    WRONG_TYPE,
)

_PRINT = print_of_sources()
_KINDS = 8


@native
def place_of(key: int, bits: int, mask: int) -> int:
    """Return where in a hash table of mask + 1 places a key is looked for first."""
    mixed = key * -7046029254386353131 + bits
    mixed ^= mixed >> 29
    mixed *= -4658895280553007687
    mixed ^= mixed >> 32
    return mixed & mask


def _enterer(sources: int) -> Any:
    @entry
    def enter(pairs: Any, key: int, bits: int, number: int) -> int:
        mask = len(pairs) - 1
        at = place_of(key, bits, mask)
        while pairs[at].number >= 0:
            at = (at + 1) & mask
        pairs[at].key = key
        pairs[at].bits = bits
        pairs[at].number = number
        return sources

    return enter


enter = _enterer(_PRINT)
"""Put a pair that is not there into the hash table, which has room."""


@native
def find(number: int, slot: int, kind: int, bits: int, notes: Any, wanted: Any, pairs: Any) -> int:
    """Return the pair of a feature and its value, or put down that it has no name yet and return -1."""
    key = (number << 40 | slot) * _KINDS + kind
    mask = len(pairs) - 1
    at = place_of(key, bits, mask)
    while pairs[at].number >= 0:
        if pairs[at].key == key and pairs[at].bits == bits:
            return int(pairs[at].number)
        at = (at + 1) & mask
    # Not the whole memory: what a call is given takes its time to compile.
    asked = notes[0].asked
    wanted[asked, ASKED_OP] = number
    wanted[asked, ASKED_SLOT] = slot
    wanted[asked, ASKED_KIND] = kind
    wanted[asked, ASKED_BITS] = bits
    return -1


@native
def note(op: Any, pair: int, memory: Any) -> None:
    """Learn a category: it is in the encoder's set from now on, and its name in the encoder's zeros."""
    alike = memory.pairs[pair].alike
    if memory.pairs[alike].learned != 0:
        return
    memory.pairs[alike].learned = 1
    at = op.list
    memory.lists[at, memory.sizes[at].size] = pair
    memory.sizes[at].size += 1
    slot = memory.pairs[pair].out
    if memory.fields[slot * op.stride + op.base + LISTED] == 0.0:
        memory.fields[slot * op.stride + op.base + LISTED] = 1.0
        memory.lists[at + 1, memory.sizes[at + 1].size] = slot
        memory.sizes[at + 1].size += 1


@native
def onehot(op: Any, number: int, memory: Any, rows: Any, pairs: Any, learn: bool) -> int:
    """Write a 1 for each feature's category, and a 0 for each other that was learned."""
    source, target = op.source, op.target
    keep_zeros = op.drop_zeros == 0.0
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    if learn and keep_zeros:
        for k in range(rows.sizes[source]):
            slot, kind, bits = rows.slots[source, k], rows.kinds[source, k], rows.bits[source, k]
            note(op, find(number, slot, kind, bits, memory.notes, memory.asked, pairs), memory)
    size = 0
    if keep_zeros:
        size = memory.sizes[op.list + 1].size
        for k in range(size):
            slot = memory.lists[op.list + 1, k]
            put(rows, target, k, slot, INTEGER, 0.0)
            memory.slots[slot].mark = mark
            memory.slots[slot].place = k
    for k in range(rows.sizes[source]):
        kind = rows.kinds[source, k]
        if kind == INTEGER and abs(rows.values[source, k]) > EXACT_MAX:
            return TOO_LARGE
        pair = find(number, rows.slots[source, k], kind, rows.bits[source, k], memory.notes, memory.asked, pairs)
        if pair < 0:
            return UNMET
        slot = memory.pairs[pair].out
        if memory.slots[slot].mark != mark:
            memory.slots[slot].mark = mark
            memory.slots[slot].place = size
            size += 1
        put(rows, target, memory.slots[slot].place, slot, INTEGER, 1.0)
    rows.sizes[target] = size
    return FINE


@native
def hashed(op: Any, number: int, memory: Any, rows: Any, pairs: Any) -> int:
    """Sum the features by the bucket that each one's name, or its name and its word, is hashed to."""
    source, target = op.source, op.target
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    size = 0
    for k in range(rows.sizes[source]):
        kind, value = rows.kinds[source, k], rows.values[source, k]
        word = kind == STRING
        asked, bits = (STRING, rows.bits[source, k]) if word else (NAME_ALONE, 0)
        pair = find(number, rows.slots[source, k], asked, bits, memory.notes, memory.asked, pairs)
        if pair < 0:
            return UNMET
        if word:
            kind, value = INTEGER, 1.0
        if memory.pairs[pair].sign < 0.0:
            if kind == NULL:
                return WRONG_TYPE
            # A whole zero has no sign.
            value = -value if value != 0.0 or kind == FLOAT else 0.0
            kind = FLOAT if kind == FLOAT else INTEGER
        slot = memory.pairs[pair].out
        if memory.slots[slot].mark != mark:
            memory.slots[slot].mark = mark
            memory.slots[slot].place = size
            put(rows, target, size, slot, kind, value)
            size += 1
        else:
            at = memory.slots[slot].place
            if kind == NULL or rows.kinds[target, at] == NULL:
                return WRONG_TYPE
            rows.values[target, at] += value
            rows.kinds[target, at] = INTEGER if kind != FLOAT and rows.kinds[target, at] != FLOAT else FLOAT
    rows.sizes[target] = size
    return FINE


@native
def rename(op: Any, number: int, memory: Any, rows: Any, pairs: Any) -> int:
    """Give each feature another name; of two that have one name then, the later counts."""
    source, target = op.source, op.target
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    size = 0
    for k in range(rows.sizes[source]):
        pair = find(number, rows.slots[source, k], NAME_ALONE, 0, memory.notes, memory.asked, pairs)
        if pair < 0:
            return UNMET
        slot = memory.pairs[pair].out
        if memory.slots[slot].mark != mark:
            memory.slots[slot].mark = mark
            memory.slots[slot].place = size
            size += 1
        put(rows, target, memory.slots[slot].place, slot, rows.kinds[source, k], rows.values[source, k])
    rows.sizes[target] = size
    return FINE
