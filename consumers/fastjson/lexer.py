"""Reads the JSON of a batch into columns, in compiled code, without a Python object for each record.

It never accepts a record that the decoder would refuse, and reads the same values to the last bit. Where that is not
certain, as with an escape or a repeated name, the record is slow: it has no entries here, and the decoder reads it. A
zero byte follows each record; no token contains one, so every loop ends there.
"""

# ruff: noqa: PLR0917  Compiled functions have only positional arguments.

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.features import LexerMemory, ScannedColumns, read_features
from headrace.consumers.fastjson.interner import FULL, InternTable, intern
from headrace.consumers.fastjson.jit import SOURCES, byte, entry, inlined
from headrace.consumers.fastjson.mapping_arrays import (
    FEATURES,
    ID,
    INNER,
    NODES_MAX,
    ROLE,
    ROOT,
    TS,
    MappingArrays,
    child,
)
from headrace.consumers.fastjson.number import NULL, SLOW, STRING
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, matches
from headrace.consumers.fastjson.tokens import (
    CLOSE,
    COMMA,
    OPEN,
    QUOTE,
    is_null,
    literal,
    scalar_end,
    skip_space,
    skip_value,
    string_end,
    value_start,
)

_ID_AT, _ID_SIZE, _TS_MARK = range(3)
# numba compiles a function anew for each literal argument, so this is no literal.
_NONE: Any = np.int64(0)


class Heads(NamedTuple):
    """The other fields of each record, as in `scan.Scan`; `marks` has the rows `id_at`, `id_size` and `ts`.

    `walk` writes the position of the time to `ts`, and `times.read_times` then the time itself.
    """

    slow: Any
    skipped: Any
    marks: Any
    label_kinds: Any
    label_values: Any


@entry
def walk(
    text: Any,
    begins: Any,
    columns: ScannedColumns,
    heads: Heads,
    memory: LexerMemory,
    mapping: MappingArrays,
    rules: SchemaArrays,
    all_notes: Any,
    first: int,
    stamp: int,
    size_max: int,
    _sources: int = SOURCES,
) -> int:
    """Read the records from `first` on until all are read, an interner is full, or a name is for Python.

    Return the number of records that are read. `begins` has the start of each record; it ends before the zero byte that
    precedes the next one. A record that is slow already stays so. `stamp` marks the names that a record has had: record
    `first` uses it, and each later record the next number.
    """
    count, notes = len(begins) - 1, all_notes[0]
    notes.asked = 0
    for i in range(first, count):
        start = columns.starts[i]
        begin, end = begins[i], begins[i + 1] - 1
        _clear(columns, heads, i)
        notes.is_empty = end == begin
        at = end if end == begin and notes.skip_empty != 0 else SLOW
        if 0 < end - begin <= size_max and not heads.slow[i]:
            notes.is_empty = 0
            at = _record(text, begin, columns, heads, memory, mapping, notes, i, stamp + i - first)
        if at == FULL or notes.asked != 0:
            return i
        is_read = at == end
        heads.skipped[i] = is_read and notes.is_empty != 0
        heads.slow[i] = not is_read or not (heads.skipped[i] or matches(rules, columns, start, columns.starts[i + 1]))
        if heads.slow[i] or heads.skipped[i]:
            _clear(columns, heads, i)
    return count


@inlined
def _clear(columns: ScannedColumns, heads: Heads, i: int) -> None:
    """Remove the entries and fields of a record."""
    columns.starts[i + 1] = columns.starts[i]
    heads.marks[_ID_AT, i] = heads.marks[_ID_SIZE, i] = heads.marks[_TS_MARK, i] = heads.label_kinds[i] = -1
    heads.label_values[i] = 0.0


@inlined
def _record(  # noqa: C901, PLR0912 see below
    text: Any,
    at: int,
    columns: ScannedColumns,
    heads: Heads,
    memory: LexerMemory,
    mapping: MappingArrays,
    notes: Any,
    i: int,
    stamp: int,
) -> int:
    """Read a record, and return the end of it and of the white space after it; or SLOW or FULL."""
    at = skip_space(text, at)
    if byte(text, at) != OPEN:
        return SLOW
    node, parent, end, depth, done, last = ROOT, _NONE, _NONE, _NONE, _NONE, _NONE
    notes.met, notes.later = 1 << node, 0
    # One loop over values, which come one in another or one after the other: so nothing is inlined twice.
    while True:
        kind, is_open = mapping.nodes[node, ROLE], False
        if kind == FEATURES and byte(text, at) == OPEN:
            at = read_features(text, at, columns, memory, notes, i, stamp)
        elif kind > FEATURES:
            at = _field(text, at, kind, heads, memory.words, notes, i)
        else:
            at, is_open = _other(text, at, kind, notes)
        if at < 0:
            return at
        at = skip_space(text, at)
        if is_open:
            notes.parents[depth] = parent
            depth, parent, last = depth + 1, node, NODES_MAX + node
        else:
            last = node if node > 0 else last
            while depth > 0 and byte(text, at) == CLOSE:
                depth, last, parent = depth - 1, parent, notes.parents[depth - 1]
                at = skip_space(text, at + 1)
            if depth == 0:
                end = at if done == 0 else end
                if done == notes.later:
                    break
                node, at, parent, done = notes.nodes[done], notes.starts[done], _NONE, done + 1
                continue
            if byte(text, at) != COMMA:
                return SLOW
            at = skip_space(text, at + 1)
        node, at = _member(text, at, parent, last, mapping, notes)
        if at < 0:
            return SLOW
    notes.is_empty |= 1 - (notes.met >> notes.features_node & 1)
    return end if notes.is_empty == 0 or notes.skip_empty != 0 else SLOW


@inlined
def _other(text: Any, at: int, kind: int, notes: Any) -> tuple[int, bool]:
    """Return the end of a value that is no field, or the start of the first member of an object, which is open then.

    The end may be SLOW.
    """
    if kind == INNER and byte(text, at) == OPEN:
        at = skip_space(text, at + 1)
        is_open = byte(text, at) != CLOSE
        return (at if is_open else at + 1), is_open
    if kind == FEATURES:
        if notes.skip_empty == 0 or not is_null(text, at):
            return SLOW, False
        notes.is_empty = 1
        return at + 4, False
    return skip_value(text, at), False


@inlined
def _member(text: Any, at: int, parent: int, last: int, mapping: MappingArrays, notes: Any) -> tuple[int, int]:
    """Return the node of the name at `at`, and the start of its value, which may be SLOW."""
    if byte(text, at) != QUOTE:
        return 0, SLOW
    node, at = child(text, at + 1, parent, notes.expected[last], mapping)
    if node > 0:
        notes.expected[last] = node
        # The decoder uses the last value of a repeated field.
        if notes.met >> node & 1 != 0:
            return 0, SLOW
        notes.met |= 1 << node
    return node, value_start(text, at) if at >= 0 else SLOW


@inlined
def _field(text: Any, at: int, kind: int, heads: Heads, words: InternTable, notes: Any, i: int) -> int:
    """Read the value of an id, a time or a label, and return its end, or SLOW or FULL."""
    if notes.skip_nulls != 0 and is_null(text, at):
        return at + 4
    if kind == TS:
        heads.marks[_TS_MARK, i] = at
        return scalar_end(text, at)
    is_string = byte(text, at) == QUOTE
    if kind == ID:
        if not is_string and is_null(text, at):
            return SLOW
        end = string_end(text, at + 1) if is_string else scalar_end(text, at)
        quotes = 1 if is_string else 0
        heads.marks[_ID_AT, i], heads.marks[_ID_SIZE, i] = at + quotes, end - at - 2 * quotes
        return end
    if not is_string:
        at, heads.label_kinds[i], heads.label_values[i] = literal(text, at)
        return at if heads.label_kinds[i] != NULL else SLOW
    end = string_end(text, at + 1)
    if end < 0:
        return SLOW
    word = intern(words, text, at + 1, end - at - 2)
    heads.label_kinds[i], heads.label_values[i] = STRING, word
    return end if word >= 0 else FULL
