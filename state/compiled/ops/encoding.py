"""The operations of the machine that give features new names: one-hot, hashed, with a prefix or a suffix.

A new name is a string, and only Python has strings. The machine looks up the pair of a feature and its value in a hash
table. If the pair is not there, the machine notes it and stops, and Python gives it a name.
"""

# ruff: noqa: FBT001, PLR0917  Compiled functions take their arguments by place.

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
    WIDE,
    WRONG_TYPE,
)

_PRINT = print_of_sources()
_KINDS = 8


@native
def place_of(key: int, bits: int, mask: int) -> int:
    """Return the first place in which to look for a key, in a hash table of mask + 1 places."""
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
"""Insert a pair that is not yet in the hash table, which must have room."""


@native
def find(number: int, slot: int, kind: int, bits: int, notes: Any, wanted: Any, pairs: Any) -> int:
    """Return the pair of a feature and its value. If it is not in the hash table, note it as wanted and return -1."""
    key = (number << 40 | slot) * _KINDS + kind
    mask = len(pairs) - 1
    at = place_of(key, bits, mask)
    while pairs[at].number >= 0:
        if pairs[at].key == key and pairs[at].bits == bits:
            return int(pairs[at].number)
        at = (at + 1) & mask
    # Not the whole memory is passed here: each argument takes time to compile.
    asked = notes[0].asked
    wanted[asked, ASKED_OP] = number
    wanted[asked, ASKED_SLOT] = slot
    wanted[asked, ASKED_KIND] = kind
    wanted[asked, ASKED_BITS] = bits
    return -1


@native
def category(number: int, source: int, k: int, memory: Any, rows: Any, pairs: Any) -> int:
    """Return the pair of a feature in a row and its value, -1 if it is noted as wanted, or -TOO_LARGE.

    A wide integer is known by its digits. An imputed one, and one that was computed, has none.
    """
    slot, kind, bits = rows.slots[source, k], rows.kinds[source, k], rows.bits[source, k]
    # The nearest double of 2 ** 53 + 1 is 2 ** 53.
    if kind == INTEGER and abs(rows.values[source, k]) >= EXACT_MAX:
        if memory.slots[slot].word > 0:
            kind, bits = WIDE, memory.slots[slot].word - 1
        elif abs(rows.values[source, k]) > EXACT_MAX:
            return -TOO_LARGE
    return int(find(number, slot, kind, bits, memory.notes, memory.asked, pairs))


@native
def note(op: Any, pair: int, memory: Any) -> None:
    """Learn a category: add it to the encoder's set, and its new name to the encoder's zeros."""
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
    """Write a 1 for each feature's category, and a 0 for every other learned category."""
    source, target = op.source, op.target
    keep_zeros = op.drop_zeros == 0.0
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    if learn and keep_zeros:
        for k in range(rows.sizes[source]):
            note(op, category(number, source, k, memory, rows, pairs), memory)
    size = 0
    if keep_zeros:
        size = memory.sizes[op.list + 1].size
        for k in range(size):
            slot = memory.lists[op.list + 1, k]
            put(rows, target, k, slot, INTEGER, 0.0)
            memory.slots[slot].mark = mark
            memory.slots[slot].place = k
    for k in range(rows.sizes[source]):
        pair = category(number, source, k, memory, rows, pairs)
        if pair < 0:
            return TOO_LARGE if pair == -TOO_LARGE else UNMET
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
    """Sum the features by bucket. The bucket is a hash of the feature's name and, for a string, of its value too."""
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
            # A zero that is an integer has no sign.
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
    """Give each feature its new name. If two features then have the same name, the later one counts."""
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
        memory.slots[slot].word = memory.slots[rows.slots[source, k]].word
        put(rows, target, memory.slots[slot].place, slot, rows.kinds[source, k], rows.values[source, k])
    rows.sizes[target] = size
    return FINE
