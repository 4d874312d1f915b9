"""Reads the JSON of a batch into columns, in compiled code, without a Python object for each record.

It never accepts a record that the decoder would refuse, and reads the same values to the last bit. Where that is not
certain, as with an escape or a repeated name, the record is slow: it has no entries here, and the decoder reads it. A
zero byte follows each record; no token contains one, so every loop ends there.
"""

# ruff: noqa: FBT001, PLR0917  Compiled functions have only positional arguments.

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import BEGIN, FULL, SIZE, STAMP, InternTable, intern, same_bytes
from headrace.consumers.fastjson.jit import SOURCES, byte, entry, inlined, load, subroutine, trailing
from headrace.consumers.fastjson.number import BOOLEAN, INTEGER, NULL, SLOW, STRING, number, timestamp
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, matches, nullable

GUESSES = 4_096
"""The features for which the lexer expects the same name, and the same word, as in the record before."""

# The fields of a record, and their names as `load` returns them: eight bytes, or fewer with the closing quote.
_ID, _TS, _LABEL, _FEATURES, _OTHER = range(5)
_ID_AT, _ID_SIZE, _TS_MARK = range(3)
_ID_NAME, _TS_NAME, _LABEL_NAME, _FEATURES_NAME = (
    np.uint64(int.from_bytes(name, "little")) for name in (b'id"', b'ts"', b'label"', b"features")
)
_TRUE, _FALSE, _NULL = (np.uint64(int.from_bytes(word, "little")) for word in (b"true", b"false", b"null"))
_3_BYTES, _4_BYTES, _5_BYTES, _6_BYTES = (np.uint64((1 << 8 * n) - 1) for n in (3, 4, 5, 6))
_OPEN, _CLOSE, _COMMA, _COLON, _QUOTE, _T, _F, _N = b'{},:"tfn'
_SPACE, _TAB, _LINE, _RETURN = b" \t\n\r"

_0 = np.uint64(0)
# Eight copies of a byte: 1, the first byte after the control characters, a quote, a backslash, the highest bit.
_ONES, _SPACES, _QUOTES, _BACKSLASHES, _HIGH_BITS = (
    np.uint64(n * 0x0101_0101_0101_0101) for n in (1, _SPACE, _QUOTE, b"\\"[0], 0x80)
)
_ASCII_END = 0x80
# UTF-8: the lowest first byte of a character of two, three and four bytes, and the first invalid one; the lowest
# code points of three and four bytes; the surrogates and the last code point; continuation bytes.
_TWO, _THREE, _FOUR, _INVALID = 0xC2, 0xE0, 0xF0, 0xF5
_THREE_MIN, _FOUR_MIN = 0x800, 0x1_0000
_SURROGATES_FIRST, _SURROGATES_LAST, _CODE_POINT_LAST = 0xD800, 0xDFFF, 0x10_FFFF
_FOLLOWS, _FOLLOWS_MASK, _FOLLOWS_BITS = 0x80, 0xC0, 6
_FOLLOWS_VALUE = 0x3F


class ScannedColumns(NamedTuple):
    """The entries of the records, as in `scan.Scan`."""

    starts: Any
    names: Any
    kinds: Any
    values: Any


class Heads(NamedTuple):
    """The other fields of each record, as in `scan.Scan`; `marks` has the rows `id_at`, `id_size` and `ts`."""

    slow: Any
    marks: Any
    label_kinds: Any
    label_values: Any


class LexerMemory(NamedTuple):
    """The names and words by number, and those that are expected next."""

    names: InternTable
    words: InternTable
    next_names: Any
    next_words: Any


@entry
def walk(
    text: Any,
    begins: Any,
    columns: ScannedColumns,
    heads: Heads,
    memory: LexerMemory,
    rules: SchemaArrays,
    first: int,
    stamp: int,
    size_max: int,
    _sources: int = SOURCES,
) -> int:
    """Read the records from `first` on until all are read or an interner is full; return the number that are read.

    `begins` has the start of each record; it ends before the zero byte that precedes the next one. `stamp` marks the
    names that a record has had: record `first` uses it, and each later record the next number.
    """
    count = len(begins) - 1
    for i in range(first, count):
        start = columns.starts[i]
        begin, end = begins[i], begins[i + 1] - 1
        _clear(columns, heads, i)
        at = SLOW
        if 0 < end - begin <= size_max:
            at = _record(text, begin, columns, heads, memory, i, stamp + i - first, nullable(rules))
        if at == FULL:
            return i
        heads.slow[i] = at != end or not matches(rules, columns, start, columns.starts[i + 1])
        if heads.slow[i]:
            _clear(columns, heads, i)
    return count


@inlined
def _clear(columns: ScannedColumns, heads: Heads, i: int) -> None:
    """Remove the entries and fields of a record."""
    columns.starts[i + 1] = columns.starts[i]
    heads.marks[_ID_AT, i] = heads.marks[_ID_SIZE, i] = heads.marks[_TS_MARK, i] = heads.label_kinds[i] = -1
    heads.label_values[i] = 0.0


@inlined
def _record(
    text: Any, at: int, columns: ScannedColumns, heads: Heads, memory: LexerMemory, i: int, stamp: int, nulls: bool
) -> int:
    """Read a record, and return the end of it and of the white space after it; or SLOW or FULL."""
    at = _skip_space(text, at)
    if byte(text, at) != _OPEN:
        return SLOW
    met = 0
    more = True
    while more:
        at = _skip_space(text, at + 1)
        if byte(text, at) != _QUOTE:
            return SLOW
        field, at = _field(text, at + 1)
        # The decoder uses the last value of a repeated field.
        if at < 0 or (field != _OTHER and met >> field & 1 != 0):
            return SLOW
        met |= 1 << field
        at = _value(text, at)
        if at < 0:
            return SLOW
        if field == _FEATURES:
            at = _features(text, at, columns, memory, i, stamp, nulls)
        else:
            at = _member(text, at, field, heads, memory.words, i)
        if at < 0:
            return at
        at = _skip_space(text, at)
        more = byte(text, at) == _COMMA
    at = _expect(text, at, _CLOSE)
    return _skip_space(text, at) if at >= 0 and met >> _FEATURES & 1 != 0 else SLOW


@inlined
def _skip_space(text: Any, at: int) -> int:
    """Return the end of the white space at `at`, if there is any."""
    while byte(text, at) <= _SPACE:
        found = byte(text, at)
        if found != _SPACE and found != _LINE and found != _TAB and found != _RETURN:  # noqa: PLR1714 no sets here
            return at
        at += 1
    return at


@inlined
def _value(text: Any, at: int) -> int:
    """Return the start of the value whose name ends at `at`, or SLOW."""
    at = _expect(text, _skip_space(text, at), _COLON)
    return _skip_space(text, at) if at >= 0 else SLOW


@inlined
def _expect(text: Any, at: int, token: int) -> int:
    """Return the position after a token of one byte, or SLOW if another byte is there."""
    return at + 1 if byte(text, at) == token else SLOW


@inlined
def _field(text: Any, at: int) -> tuple[int, int]:
    """Return the field whose name is at `at`, and the position after its closing quote, which may be SLOW."""
    name = load(text, at)
    if name == _FEATURES_NAME and byte(text, at + 8) == _QUOTE:
        return _FEATURES, at + 9
    if name & _3_BYTES == _ID_NAME:
        return _ID, at + 3
    if name & _3_BYTES == _TS_NAME:
        return _TS, at + 3
    if name & _6_BYTES == _LABEL_NAME:
        return _LABEL, at + 6
    return _OTHER, _string_end(text, at)


@inlined
def _member(text: Any, at: int, field: int, heads: Heads, words: InternTable, i: int) -> int:
    """Read the value of a field other than the features, and return its end, or SLOW or FULL."""
    if field == _TS:
        at, heads.marks[_TS_MARK, i] = timestamp(text, at)
        return at
    if byte(text, at) != _QUOTE:
        at, kind, value = _literal(text, at)
        if field == _LABEL:
            heads.label_kinds[i], heads.label_values[i] = kind, value
        return SLOW if field == _ID or (field == _LABEL and kind == NULL) else at
    end = _string_end(text, at + 1)
    size = end - at - 2
    if field == _ID:
        heads.marks[_ID_AT, i], heads.marks[_ID_SIZE, i] = at + 1, size
    elif field == _LABEL and end >= 0:
        word = intern(words, text, at + 1, size)
        heads.label_kinds[i], heads.label_values[i] = STRING, word
        return end if word >= 0 else FULL
    return end


@subroutine
def _features(text: Any, at: int, columns: ScannedColumns, memory: LexerMemory, i: int, stamp: int, nulls: bool) -> int:  # noqa: C901 see below
    """Read the features of a record into its entries, and return the end of the object, or SLOW or FULL."""
    # One long function: inlined functions are compiled once more for each level of calls above them.
    if byte(text, at) != _OPEN:
        return SLOW
    first = k = columns.starts[i]
    at = _skip_space(text, at + 1)
    if byte(text, at) == _CLOSE:
        return at + 1
    while True:
        guess = (k - first) & (GUESSES - 1)
        at, name = _string(text, at, memory.names, memory.next_names, guess)
        if at < 0:
            return at
        if memory.names.rows[name, STAMP] == stamp:
            return SLOW
        memory.names.rows[name, STAMP] = stamp
        at = _value(text, at)
        if at < 0:
            return at
        if byte(text, at) == _QUOTE:
            at, word = _string(text, at, memory.words, memory.next_words, guess)
            columns.kinds[k], columns.values[k] = STRING, word
        else:
            at, kind, value = _literal(text, at)
            if kind == NULL and not nulls:
                return SLOW
            columns.kinds[k], columns.values[k] = kind, value
        if at < 0:
            return at
        columns.names[k] = name
        k += 1
        at = _skip_space(text, at)
        if byte(text, at) != _COMMA:
            break
        at = _skip_space(text, at + 1)
    columns.starts[i + 1] = k
    return _expect(text, at, _CLOSE)


@inlined
def _string(text: Any, at: int, table: InternTable, guesses: Any, guess: int) -> tuple[int, int]:
    """Return the end of the string at `at`, quotes included, and its number. The end may be SLOW or FULL."""
    if byte(text, at) != _QUOTE:
        return SLOW, 0
    at += 1
    expected = guesses[guess]
    if expected >= 0:
        size = table.rows[expected, SIZE] + 1
        if same_bytes(text, at, table.arena, table.rows[expected, BEGIN], size):
            return at + size, expected
    end = _string_end(text, at)
    if end < 0:
        return SLOW, 0
    found = intern(table, text, at, end - at - 1)
    if found < 0:
        return FULL, 0
    guesses[guess] = found
    return end, found


@subroutine
def _literal(text: Any, at: int) -> tuple[int, int, float]:
    """Return the end of a number, a boolean or null, its kind and its value. The end may be SLOW."""
    found = byte(text, at)
    if found == _T and load(text, at) & _4_BYTES == _TRUE:
        return at + 4, BOOLEAN, 1.0
    if found == _F and load(text, at) & _5_BYTES == _FALSE:
        return at + 5, BOOLEAN, 0.0
    if found == _N and load(text, at) & _4_BYTES == _NULL:
        return at + 4, NULL, 0.0
    if found in (_T, _F, _N):
        return SLOW, INTEGER, 0.0
    return number(text, at)


@subroutine
def _string_end(text: Any, at: int) -> int:
    """Return the position after the closing quote of the string whose first character is at `at`, or SLOW."""
    while True:
        chunk = load(text, at)
        quotes, backslashes = chunk ^ _QUOTES, chunk ^ _BACKSLASHES
        # A borrow may also mark a byte above a marked one, so only the lowest mark counts.
        low = ((chunk - _SPACES) & ~chunk) | ((quotes - _ONES) & ~quotes) | ((backslashes - _ONES) & ~backslashes)
        marks = (low | chunk) & _HIGH_BITS
        if marks == _0:
            at += 8
            continue
        at += trailing(marks) >> 3
        found = byte(text, at)
        if found == _QUOTE:
            return at + 1
        if found < _ASCII_END:
            return SLOW
        at = _character_end(text, at)
        if at < 0:
            return SLOW


@subroutine
def _character_end(text: Any, at: int) -> int:
    """Return the end of a character of several bytes, or SLOW if it is not UTF-8."""
    first = byte(text, at)
    if first < _TWO or first >= _INVALID:
        return SLOW
    size = 2 if first < _THREE else 3 if first < _FOUR else 4
    code_point = first & (0x7F >> size)
    for k in range(1, size):
        found = byte(text, at + k)
        if found & _FOLLOWS_MASK != _FOLLOWS:
            return SLOW
        code_point = code_point << _FOLLOWS_BITS | found & _FOLLOWS_VALUE
    if (first >= _THREE and code_point < _THREE_MIN) or (first >= _FOUR and code_point < _FOUR_MIN):
        return SLOW
    if _SURROGATES_FIRST <= code_point <= _SURROGATES_LAST or code_point > _CODE_POINT_LAST:
        return SLOW
    return at + size
