"""Runs programs of `avro_program` over the bytes of a batch, in compiled code, and writes the columns of a scan.

Lengths and positions are checked against the end of each record; the bytes behind the last record are padding.
"""

# ruff: noqa: PLR0917  Compiled functions have only positional arguments.

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import FULL, InternTable, intern
from headrace.consumers.fastjson.jit import SOURCES, byte, double, entry, inlined, load, subroutine
from headrace.consumers.fastjson.number import BOOLEAN as BOOLEAN_KIND
from headrace.consumers.fastjson.number import FLOAT as FLOAT_KIND
from headrace.consumers.fastjson.number import INTEGER as INTEGER_KIND
from headrace.consumers.fastjson.number import NULL as NULL_KIND
from headrace.consumers.fastjson.number import SLOW
from headrace.consumers.fastjson.number import STRING as STRING_KIND
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, matches
from headrace.consumers.fastjson.tokens import character_end
from headrace.consumers.formats.avro_program import (
    BOOLEAN,
    BYTES,
    COUNT,
    DOUBLE,
    END,
    FEATURE,
    FIRST,
    FIXED,
    FLOAT,
    ID,
    INT,
    JUMP,
    LABEL,
    LONG,
    NAME,
    NULL,
    OPERATION,
    SECOND,
    SKIP,
    STRING,
    TARGET,
    TIME,
    UNION,
)

PADDING = 32
"""The bytes behind the last record that may be read; their values do not matter."""
DIGITS_MAX = 20
"""The room for the digits of an id that is a number."""

# The kind of a value that needs no entry: it is skipped, or it has its entry already.
NOTHING = -1

_CONTINUES, _SHIFT_LAST, _ASCII_END = 0x80, 63, 0x80
_QUOTE, _BACKSLASH, _SPACE, _MINUS, _ZERO = b'"\\ -0'
_0, _1, _7, _32 = (np.uint64(n) for n in (0, 1, 7, 32))
_LOW_BITS = np.uint64(0x7F)
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)
_EXACT_MAX = 1 << 53
_INT_MAX = 1 << 31
_TIME_MAX = 1 << 62
# Up to this number of microseconds a double of milliseconds is rounded to less than a millisecond's thousandth.
_ROUNDED_MAX = (1 << 42) * 1_000


class BinaryColumns(NamedTuple):
    """The columns of a scan (`fastjson.scan.Scan`) that the machine writes.

    `digits` (uint8) has room for an id that is a number, `DIGITS_MAX` bytes for each record; its position counts from
    the end of the text.
    """

    starts: Any
    names: Any
    kinds: Any
    values: Any
    slow: Any
    id_at: Any
    id_size: Any
    ts: Any
    label_kinds: Any
    label_values: Any
    digits: Any


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
        _clear(columns, i)
        if programs[i] < 0:
            continue
        at = _record(text, begins[i], ends[i], programs[i], code, symbols, columns, words, i)
        if at == FULL:
            return i
        columns.slow[i] = at != ends[i] or not matches(rules, columns, start, columns.starts[i + 1])
        if columns.slow[i]:
            _clear(columns, i)
    return len(begins)


@inlined
def _clear(columns: BinaryColumns, i: int) -> None:
    columns.starts[i + 1] = columns.starts[i]
    columns.slow[i] = True
    columns.id_at[i] = columns.id_size[i] = columns.ts[i] = columns.label_kinds[i] = -1
    columns.label_values[i] = 0.0


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
            at, branch = read_long(text, at)
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
    at, whole = read_long(text, at)
    if code[pc, OPERATION] == INT and (whole < -_INT_MAX or whole >= _INT_MAX):
        return SLOW, NOTHING, 0.0, whole
    if target == SKIP:
        return at, NOTHING, 0.0, whole
    if target == TIME:
        is_sure = code[pc, NAME] != 0 or whole <= _ROUNDED_MAX or whole % second == 0
        if whole < 0 or whole > _TIME_MAX // first or not is_sure:
            return SLOW, NOTHING, 0.0, whole
        columns.ts[i] = whole * first // second
        return at, NOTHING, 0.0, whole
    if whole > _EXACT_MAX or whole < -_EXACT_MAX:
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
    at, size = read_long(text, at)
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
    value, end = (double(bits), at + 8) if operation == DOUBLE else (_float(bits), at + 4)
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
    at, whole = read_long(text, at)
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
        columns.id_at[i] = len(text) + i * DIGITS_MAX
        columns.id_size[i] = write_digits(columns.digits, i * DIGITS_MAX, whole)
    return k


@inlined
def read_long(text: Any, at: int) -> tuple[int, Any]:
    """Return the end of a varint with zigzag, and its value; the end is SLOW for one of more than 64 bits."""
    number, shift = _0, _0
    while True:
        found = byte(text, at)
        at += 1
        number |= (np.uint64(found) & _LOW_BITS) << shift
        if found < _CONTINUES:
            break
        shift += _7
        if shift > _SHIFT_LAST:
            return SLOW, np.int64(0)
    if shift == _SHIFT_LAST and found > 1:
        return SLOW, np.int64(0)
    half = np.int64(number >> _1)
    return at, ~half if number & _1 != _0 else half


@inlined
def _float(bits: Any) -> float:
    """Return the float in the lower half of eight bytes as a double."""
    return np.float64(np.uint32(bits & np.uint64(0xFFFF_FFFF)).view(np.float32))


@subroutine
def word_of(text: Any, at: int, size: int, words: InternTable) -> int:
    """Return the number of a string, or a negative one if there is no room. The text is the same afterwards."""
    # The interner compares a string together with the quote behind it.
    behind = text[at + size]
    text[at + size] = _QUOTE
    found = intern(words, text, at, size)
    text[at + size] = behind
    return found  # type: ignore[no-any-return]


@subroutine
def is_plain(text: Any, at: int, end: int) -> bool:
    """Tell whether JSON writes a string as it is, without escapes."""
    while at < end:
        found = byte(text, at)
        if found < _SPACE or found in (_QUOTE, _BACKSLASH):
            return False
        at += 1
    return True


@subroutine
def is_utf8(text: Any, at: int, end: int) -> bool:
    """Tell whether bytes are UTF-8."""
    while at + 8 <= end:
        if load(text, at) & _HIGH_BITS != _0:
            break
        at += 8
    while at < end:
        if byte(text, at) < _ASCII_END:
            at += 1
            continue
        at = character_end(text, at)
        if at < 0:
            return False
    # A character that goes on behind the end is cut off.
    return at == end


@subroutine
def write_digits(digits: Any, at: int, number: Any) -> int:
    """Write a whole number in decimal, and return its length."""
    negative = number < 0
    rest = -number if negative else number
    size = 1
    while rest >= 10**size:
        size += 1
    if negative:
        digits[at] = _MINUS
        at += 1
    for place in range(size - 1, -1, -1):
        digits[at + place] = _ZERO + rest % 10
        rest //= 10
    return size + 1 if negative else size
