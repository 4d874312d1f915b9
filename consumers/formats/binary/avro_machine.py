"""Runs programs of `avro_program` over the bytes of a batch, in compiled code, and writes the columns of a scan.

Lengths and positions are checked against the end of each record; the bytes behind the last record are padding.
"""

# ruff: noqa: PLR0917  Compiled functions have only positional arguments.

from typing import Any

import numpy as np

from headrace.consumers.fastjson.interner import FULL, InternTable
from headrace.consumers.fastjson.jit import byte, double, entry, inlined, load, subroutine
from headrace.consumers.fastjson.number import BOOLEAN as BOOLEAN_KIND
from headrace.consumers.fastjson.number import FLOAT as FLOAT_KIND
from headrace.consumers.fastjson.number import INTEGER as INTEGER_KIND
from headrace.consumers.fastjson.number import NULL as NULL_KIND
from headrace.consumers.fastjson.number import SLOW
from headrace.consumers.fastjson.number import STRING as STRING_KIND
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, matches
from headrace.consumers.formats.binary.avro_program import (
    BOOLEAN,
    BYTES,
    COUNT,
    DOUBLE,
    END,
    FIRST,
    FIXED,
    FLOAT,
    INT,
    JUMP,
    LONG,
    NAME,
    NULL,
    OPERATION,
    SECOND,
    STRING,
    TARGET,
    UNION,
)
from headrace.consumers.formats.binary.places import FEATURE, ID, LABEL, SKIP, TIME
from headrace.consumers.formats.binary.values import (
    EXACT_MAX,
    INT_MAX,
    NOTHING,
    SOURCES,
    TIME_MAX,
    BinaryColumns,
    clear,
    is_plain,
    is_utf8,
    put_number_id,
    read_varint,
    single,
    word_of,
    zigzag,
)

# Up to this number of microseconds a double of milliseconds is rounded to less than a millisecond's thousandth.
_ROUNDED_MAX = (1 << 42) * 1_000


@entry
def run(
    text: Any,
    begins: Any,
    ends: Any,
    programs: Any,
    code: Any,
    symbols: Any,
    columns: BinaryColumns,
    words: InternTable,
    rules: SchemaArrays,
    first: int,
    _sources: int = SOURCES,
) -> int:
    """Read the records from `first` on until all are read or the interner is full; return the number that are read.

    Record i is at `begins[i]` to `ends[i]` without its frame, and `programs[i]` is the first instruction of its
    program, or -1. `symbols` has the word of each symbol.
    """
    for i in range(first, len(begins)):
        start = columns.starts[i]
        clear(columns, i)
        if programs[i] < 0:
            continue
        at = _record(text, begins[i], ends[i], programs[i], code, symbols, columns, words, i)
        if at == FULL:
            return i
        columns.slow[i] = at != ends[i] or not matches(rules, columns, start, columns.starts[i + 1])
        if columns.slow[i]:
            clear(columns, i)
    return len(begins)


@subroutine
def _record(  # noqa: C901 one branch for each kind of instruction
    text: Any,
    at: int,
    end: int,
    pc: int,
    code: Any,
    symbols: Any,
    columns: BinaryColumns,
    words: InternTable,
    i: int,
) -> int:
    """Read a record, and return its end, or SLOW or FULL."""
    k = columns.starts[i]
    while True:
        operation = code[pc, OPERATION]
        if operation == END:
            columns.starts[i + 1] = k
            return at
        if operation == JUMP:
            pc = code[pc, FIRST]
            continue
        if operation == UNION:
            at, branch = _long(text, at)
            if at < 0 or branch < 0 or branch >= code[pc, FIRST]:
                return SLOW
            pc += 1 + branch
            continue
        if operation in (INT, LONG):
            at, kind, value, whole = _integer(text, at, code, pc, columns, i)
        elif operation in (STRING, BYTES):
            at, kind, value, whole = _text(text, at, end, code, pc, words)
        elif operation in (DOUBLE, FLOAT, BOOLEAN):
            at, kind, value, whole = _scalar(text, at, code, pc)
        else:
            at, kind, value, whole = _other(text, at, code, pc, symbols)
        if at < 0 or at > end:
            return min(at, SLOW)
        if kind != NOTHING:
            k = _put(text, at, code, pc, columns, i, k, kind, value, whole)
            if k < 0:
                return SLOW
        pc += 1


@inlined
def _integer(text: Any, at: int, code: Any, pc: int, columns: BinaryColumns, i: int) -> tuple[int, int, float, Any]:
    """Read an integer: return the end, the kind, the value as a double, and the integer. A time is written here."""
    target, first, second = code[pc, TARGET], code[pc, FIRST], code[pc, SECOND]
    at, whole = _long(text, at)
    if code[pc, OPERATION] == INT and (whole < -INT_MAX or whole >= INT_MAX):
        return SLOW, NOTHING, 0.0, whole
    if target == SKIP:
        return at, NOTHING, 0.0, whole
    if target == TIME:
        is_sure = code[pc, NAME] != 0 or whole <= _ROUNDED_MAX or whole % second == 0
        if whole < 0 or whole > TIME_MAX // first or not is_sure:
            return SLOW, NOTHING, 0.0, whole
        columns.ts[i] = whole * first // second
        return at, NOTHING, 0.0, whole
    if whole > EXACT_MAX or whole < -EXACT_MAX:
        return SLOW, NOTHING, 0.0, whole
    if second == 1:
        return at, INTEGER_KIND, float(whole), whole
    if whole % second == 0:
        return at, INTEGER_KIND, float(whole // second), whole
    return at, FLOAT_KIND, float(whole) / float(second), whole


@inlined
def _text(text: Any, at: int, end: int, code: Any, pc: int, words: InternTable) -> tuple[int, int, float, Any]:
    """Read bytes or a string: return the end, the kind, the number of the word, and the length."""
    target = code[pc, TARGET]
    at, size = _long(text, at)
    if at < 0 or size < 0 or size > end - at:
        return SLOW, NOTHING, 0.0, size
    if code[pc, OPERATION] == BYTES:
        return at + size, NOTHING, 0.0, size
    if not is_utf8(text, at, at + size):
        return SLOW, NOTHING, 0.0, size
    if target == SKIP:
        return at + size, NOTHING, 0.0, size
    if target == ID:
        return (at + size if is_plain(text, at, at + size) else SLOW), STRING_KIND, 0.0, size
    word = word_of(text, at, size, words)
    return (at + size if word >= 0 else FULL), STRING_KIND, float(word), size


@inlined
def _scalar(text: Any, at: int, code: Any, pc: int) -> tuple[int, int, float, Any]:
    """Read a float, a double or a boolean."""
    operation, nothing = code[pc, OPERATION], np.int64(0)
    if operation == BOOLEAN:
        found = byte(text, at)
        return (at + 1 if found <= 1 else SLOW), BOOLEAN_KIND, float(found), nothing
    bits = load(text, at)
    value, end = (double(bits), at + 8) if operation == DOUBLE else (single(bits), at + 4)
    is_good = np.isfinite(value) or code[pc, TARGET] == SKIP
    return (end if is_good else SLOW), FLOAT_KIND, value, nothing


@inlined
def _other(text: Any, at: int, code: Any, pc: int, symbols: Any) -> tuple[int, int, float, Any]:
    """Read null, a symbol, a fixed number of bytes, or an array or a map without items."""
    operation, first, whole = code[pc, OPERATION], code[pc, FIRST], np.int64(0)
    if operation == NULL:
        return (SLOW if first == 0 else at), (NOTHING if first == 1 else NULL_KIND), 0.0, whole
    if operation == FIXED:
        return at + first, NOTHING, 0.0, whole
    if operation == COUNT:
        return (at + 1 if byte(text, at) == 0 else SLOW), NOTHING, 0.0, whole
    at, whole = _long(text, at)
    if whole < 0 or whole >= code[pc, SECOND] or code[pc, TARGET] == ID:
        return SLOW, NOTHING, 0.0, whole
    return at, STRING_KIND, float(symbols[first + whole]), whole


@inlined
def _put(
    text: Any, at: int, code: Any, pc: int, columns: BinaryColumns, i: int, k: int, kind: int, value: float, whole: Any
) -> int:
    """Write a value that ends at `at` where it belongs; return the number of entries so far, or SLOW."""
    target = code[pc, TARGET]
    if target == FEATURE:
        columns.names[k], columns.kinds[k], columns.values[k] = code[pc, NAME], kind, value
        return k + 1
    if target == LABEL:
        columns.label_kinds[i], columns.label_values[i] = kind, value
        return SLOW if kind == NULL_KIND else k
    if target == ID and kind == STRING_KIND:
        columns.id_at[i], columns.id_size[i] = at - whole, whole
    elif target == ID:
        put_number_id(columns, text, i, whole)
    return k


@inlined
def _long(text: Any, at: int) -> tuple[int, Any]:
    """Return the end of a long, and its value; the end may be SLOW."""
    at, number = read_varint(text, at)
    return at, zigzag(number)
