"""Reads a batch of Protobuf messages by the tables of `protobuf_program`, in compiled code, to the columns of a scan.

A field that comes twice, or with another wire type or a number that the schema does not have, makes its record slow.
Lengths and positions are checked against the end of each message; the bytes behind the last record are padding.
"""

# ruff: noqa: PLR0917  Compiled functions have only positional arguments.

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import FULL, InternTable
from headrace.consumers.fastjson.jit import double, entry, inlined, load, subroutine
from headrace.consumers.fastjson.number import BOOLEAN as BOOLEAN_KIND
from headrace.consumers.fastjson.number import FLOAT as FLOAT_KIND
from headrace.consumers.fastjson.number import INTEGER as INTEGER_KIND
from headrace.consumers.fastjson.number import SLOW
from headrace.consumers.fastjson.number import STRING as STRING_KIND
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, matches
from headrace.consumers.formats.binary.places import FEATURE, ID, LABEL, SKIP, TIME
from headrace.consumers.formats.binary.protobuf_program import (
    ABSENT,
    BOOL,
    BYTES,
    DEPTH_MAX,
    DOUBLE,
    EIGHT_BYTES,
    END,
    ENUM,
    EXPLICIT,
    FIRST,
    FIXED64,
    FLOAT,
    FOUR_BYTES,
    INT32,
    LENGTH,
    MESSAGE,
    NAME,
    ONEOF,
    OPERATION,
    PARENT,
    PRESENCE,
    REQUIRED,
    SECOND,
    SFIXED32,
    SINT32,
    SINT64,
    STRING,
    TARGET,
    TIMESTAMP,
    UINT32,
    UINT64,
    VARINT,
    WIRE,
)
from headrace.consumers.formats.binary.values import (
    EXACT_MAX,
    INT_MAX,
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

_3, _7, _32, _LOWER = (np.uint64(n) for n in (3, 7, 32, 0xFFFF_FFFF))
_SECONDS_MAX = 1 << 32
_SECONDS_TAG, _NANOS_TAG = 0x08, 0x10
_NANOS_END, _MILLI_NANOS = 1_000_000_000, 1_000_000
# A double of milliseconds keeps this number of nanoseconds above a millisecond apart from the next millisecond.
_ROUNDED_MAX = 999_000


class Fields(NamedTuple):
    """What the machine notes of the fields of a record, by their rows.

    `seen` (int64) is the stamp of the last record that had the field, `kinds` (int8) and `values` (float64) are as in a
    scan. `outer` (int64) has the rows and the ends of the messages around the one that is read.
    """

    seen: Any
    kinds: Any
    values: Any
    outer: Any


def fields(rows: int) -> Fields:
    """Return the room for the notes of a table with this number of rows; no stamp is 0."""
    return Fields(
        seen=np.zeros(rows, np.int64),
        kinds=np.zeros(rows, np.int8),
        values=np.zeros(rows, np.float64),
        outer=np.zeros((DEPTH_MAX + 2, 2), np.int64),
    )


@entry
def run(
    text: Any,
    begins: Any,
    ends: Any,
    programs: Any,
    code: Any,
    dispatch: Any,
    symbols: Any,
    columns: BinaryColumns,
    words: InternTable,
    rules: SchemaArrays,
    notes: Fields,
    stamp: int,
    first: int,
    _sources: int = SOURCES,
) -> int:
    """Read the records from `first` on until all are read or the interner is full; return the number that are read.

    Record i is at `begins[i]` to `ends[i]` without its frame, and `programs[i]` is the first row of its table, or -1.
    `symbols` has the word of each symbol, or -1. Record i uses the stamp `stamp` + i.
    """
    for i in range(first, len(begins)):
        start = columns.starts[i]
        clear(columns, i)
        if programs[i] < 0:
            continue
        at = _message(
            text, begins[i], ends[i], programs[i], code, dispatch, symbols, columns, words, notes, i, stamp + i
        )
        if at == FULL:
            return i
        is_read = at == ends[i] and _lay_out(programs[i], code, symbols, columns, notes, i, stamp + i)
        columns.slow[i] = not is_read or not matches(rules, columns, start, columns.starts[i + 1])
        if columns.slow[i]:
            clear(columns, i)
    return len(begins)


@subroutine
def _message(  # noqa: C901 one loop over all fields: so nothing is inlined twice
    text: Any,
    at: int,
    end: int,
    first: int,
    code: Any,
    dispatch: Any,
    symbols: Any,
    columns: BinaryColumns,
    words: InternTable,
    notes: Fields,
    i: int,
    stamp: int,
) -> int:
    """Read the fields of a message and of those inside it; return its end, or SLOW or FULL."""
    message, depth = first, 0
    notes.seen[message] = stamp
    while True:
        while at == end and depth > 0:
            depth -= 1
            message, end = notes.outer[depth, 0], notes.outer[depth, 1]
        if at >= end:
            return at if at == end else SLOW
        at, tag = read_varint(text, at)
        number = np.int64(tag >> _3)
        if at < 0 or number >= code[message, SECOND]:
            return SLOW
        row = dispatch[code[message, FIRST] + number]
        if row < 0 or code[row, WIRE] != np.int64(tag & _7) or notes.seen[row] == stamp:
            return SLOW
        notes.seen[row] = stamp
        oneof = code[row, ONEOF]
        if oneof >= 0:
            if notes.seen[oneof] == stamp:
                return SLOW
            notes.seen[oneof] = stamp
        if code[row, WIRE] != LENGTH:
            at = _number(text, at, row, code, symbols, columns, notes, i)
        else:
            at, size = read_varint(text, at)
            if at < 0 or at > end or size > np.uint64(end - at):
                return SLOW
            if code[row, OPERATION] == MESSAGE:
                notes.outer[depth, 0], notes.outer[depth, 1] = message, end
                message, end, depth = row, at + np.int64(size), depth + 1  # type: ignore[assignment]
                continue
            at = _sized(text, at, np.int64(size), row, code, columns, words, notes, i)
        if at < 0:
            return at


@inlined
def _number(  # noqa: C901 one branch for each type
    text: Any, at: int, row: int, code: Any, symbols: Any, columns: BinaryColumns, notes: Fields, i: int
) -> int:
    """Read a value without a length, and return its end, or SLOW."""
    operation, wire, target = code[row, OPERATION], code[row, WIRE], code[row, TARGET]
    if wire == VARINT:
        at, bits = read_varint(text, at)
        if at < 0:
            return SLOW
    else:
        bits = load(text, at)
        at += 8 if wire == EIGHT_BYTES else 4
    if operation in (FLOAT, DOUBLE):
        value = double(bits) if operation == DOUBLE else single(bits)
        notes.kinds[row], notes.values[row] = FLOAT_KIND, value
        return at if target == SKIP or np.isfinite(value) else SLOW
    whole = np.int64(bits & _LOWER) if wire == FOUR_BYTES else np.int64(bits)
    if operation in (SINT32, SINT64):
        whole = zigzag(bits)
    elif operation == SFIXED32:
        whole = np.int64(np.int32(whole))
    low, high = -EXACT_MAX, EXACT_MAX
    if operation in (INT32, SINT32):
        low, high = -INT_MAX, INT_MAX - 1
    elif operation == UINT32:
        low, high = 0, 2 * INT_MAX - 1
    elif operation in (UINT64, FIXED64):
        low = 0
    elif operation == BOOL:
        low, high = 0, 1
    elif operation == ENUM:
        low, high = 0, code[row, SECOND] - 1
    if whole < low or whole > high:
        # Integers of 64 bits are good in a field that is left out.
        return at if target == SKIP and high == EXACT_MAX else SLOW
    return _put(text, at, whole, row, code, symbols, columns, notes, i)


@inlined
def _put(
    text: Any, at: int, whole: Any, row: int, code: Any, symbols: Any, columns: BinaryColumns, notes: Fields, i: int
) -> int:
    """Note an integer, a boolean or a symbol; return `at`, or SLOW."""
    operation, target = code[row, OPERATION], code[row, TARGET]
    notes.kinds[row], notes.values[row] = INTEGER_KIND, np.float64(whole)
    if operation == BOOL:
        notes.kinds[row] = BOOLEAN_KIND
    elif operation == ENUM:
        word = symbols[code[row, FIRST] + whole]
        notes.kinds[row], notes.values[row] = STRING_KIND, np.float64(word)
        return at if word >= 0 else SLOW
    if target == TIME:
        factor = code[row, FIRST]
        if whole < 0 or whole > TIME_MAX // factor:
            return SLOW
        columns.ts[i] = whole * factor // code[row, SECOND]
    elif target == ID:
        put_number_id(columns, text, i, whole)
    return at


@inlined
def _sized(
    text: Any,
    at: int,
    size: Any,
    row: int,
    code: Any,
    columns: BinaryColumns,
    words: InternTable,
    notes: Fields,
    i: int,
) -> int:
    """Read a value of this size, and return its end, or SLOW or FULL."""
    operation, target, end = code[row, OPERATION], code[row, TARGET], at + size
    if operation == BYTES:
        return end  # type: ignore[no-any-return]
    if operation == TIMESTAMP:
        return _timestamp(text, at, end, row, target, columns, notes, i)
    if operation == ABSENT or not is_utf8(text, at, end):
        return SLOW
    if target == ID:
        columns.id_at[i], columns.id_size[i] = at, size
        return end if is_plain(text, at, end) else SLOW
    if target != SKIP:
        word = word_of(text, at, size, words)
        notes.kinds[row], notes.values[row] = STRING_KIND, np.float64(word)
        return end if word >= 0 else FULL
    return end  # type: ignore[no-any-return]


@subroutine
def _timestamp(
    text: Any, at: int, end: int, row: int, target: int, columns: BinaryColumns, notes: Fields, i: int
) -> int:
    """Read a time of seconds and nanoseconds, which both come once at most and in this order."""
    seconds = nanos = np.uint64(0)
    if at < end and text[at] == _SECONDS_TAG:
        at, seconds = read_varint(text, at + 1)
    if 0 < at < end and text[at] == _NANOS_TAG:
        at, nanos = read_varint(text, at + 1)
    if at != end or seconds > np.uint64(_SECONDS_MAX) or nanos >= np.uint64(_NANOS_END):
        return SLOW
    whole = np.int64(seconds) * 1_000 + np.int64(nanos) // _MILLI_NANOS
    rest = np.int64(nanos) % _MILLI_NANOS
    if target == TIME:
        columns.ts[i] = whole
        return at if rest <= _ROUNDED_MAX else SLOW
    notes.kinds[row] = INTEGER_KIND if rest == 0 else FLOAT_KIND
    notes.values[row] = np.float64(whole) + np.float64(rest) / np.float64(_MILLI_NANOS)
    return at


@subroutine
def _lay_out(first: int, code: Any, symbols: Any, columns: BinaryColumns, notes: Fields, i: int, stamp: int) -> bool:
    """Write the features in the order of the table, and the zeros of fields that are not written; False if unsure."""
    k, row = columns.starts[i], first
    if notes.seen[code[first, NAME]] != stamp:
        return False
    while code[row, OPERATION] != END:
        target = code[row, TARGET]
        if notes.seen[row] != stamp:
            presence = code[row, PRESENCE]
            if presence == EXPLICIT or notes.seen[code[row, PARENT]] != stamp:
                row += 1
                continue
            if presence == REQUIRED or not _zero(row, code, symbols, columns, notes, i):
                return False
        if target == FEATURE:
            columns.names[k], columns.kinds[k], columns.values[k] = code[row, NAME], notes.kinds[row], notes.values[row]
            k += 1
        elif target == LABEL:
            columns.label_kinds[i], columns.label_values[i] = notes.kinds[row], notes.values[row]
        row += 1
    columns.starts[i + 1] = k
    return True


@inlined
def _zero(row: int, code: Any, symbols: Any, columns: BinaryColumns, notes: Fields, i: int) -> bool:
    """Note the zero of a field that is not written; False if the decoder must tell."""
    operation, target = code[row, OPERATION], code[row, TARGET]
    if target == ID:
        return False
    if target == TIME:
        columns.ts[i] = 0
    notes.values[row] = 0.0
    notes.kinds[row] = INTEGER_KIND
    if operation == BOOL:
        notes.kinds[row] = BOOLEAN_KIND
    elif operation in (FLOAT, DOUBLE):
        notes.kinds[row] = FLOAT_KIND
    elif operation in (STRING, ENUM):
        word = symbols[code[row, FIRST]]
        notes.kinds[row], notes.values[row] = STRING_KIND, np.float64(word)
        return word >= 0  # type: ignore[no-any-return]
    return True
