"""The walk through the bytes of a batch, in compiled code: from JSON straight into columns, with no object a record.

It is sound, not complete. What it takes, the decoder would take too, with the same values to the last bit; wherever
that is not sure, as with an escape or a name that stands twice, the record is slow: it has no entries here, and the
decoder reads it. A zero byte follows each record. No token has one, so that every loop ends there by itself.
"""

# ruff: noqa: FBT001, PLR0917  What is compiled takes its arguments by place.

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import BEGIN, FULL, SIZE, STAMP, InternTable, intern, same
from headrace.consumers.fastjson.jit import SOURCES, aside, byte, entry, load, piece, trailing
from headrace.consumers.fastjson.number import BOOLEAN, INTEGER, NULL, SLOW, STRING, moment, number
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, keeps, nullable

GUESSES = 4_096
"""So many features of a record are expected to have the name, and the word, that the one before it had there."""

# The fields of a record, and the bytes of their names as they are loaded: eight, or fewer with the quote after them.
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
# For each of eight bytes: 1, the first that is no control character, a quote, a backslash, the last bit.
_ONES, _SPACES, _QUOTES, _BACKSLASHES, _HIGH_BITS = (
    np.uint64(n * 0x0101_0101_0101_0101) for n in (1, _SPACE, _QUOTE, b"\\"[0], 0x80)
)
_ASCII_END = 0x80
# UTF-8: the first bytes of letters of two, three and four bytes, and of none; and the least that such letters are.
_TWO, _THREE, _FOUR, _NONE = 0xC2, 0xE0, 0xF0, 0xF5
_THREE_MIN, _FOUR_MIN = 0x800, 0x1_0000
_HALVES_FIRST, _HALVES_LAST, _LETTER_LAST = 0xD800, 0xDFFF, 0x10_FFFF
_FOLLOWS, _FOLLOWS_MASK, _FOLLOWS_BITS = 0x80, 0xC0, 6
_FOLLOWS_VALUE = 0x3F


class ScannedColumns(NamedTuple):
    """The entries that are found, as those of a scan."""

    starts: Any
    names: Any
    kinds: Any
    values: Any


class Heads(NamedTuple):
    """What else is found of each record, as a scan has it; `marks` has rows for `id_at`, `id_size` and `ts`."""

    slow: Any
    marks: Any
    label_kinds: Any
    label_values: Any


class LexerMemory(NamedTuple):
    """What is known: names and words by number, and those that are expected next."""

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
    """Read the records from the first one on, and return how many are done when a glossary is full or all are.

    Each begins where `begins` says, and ends before the zero byte before the next one. `stamp` marks the names that the
    first record has had; the numbers after it do for the others.
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
        heads.slow[i] = at != end or not keeps(rules, columns, start, columns.starts[i + 1])
        if heads.slow[i]:
            _clear(columns, heads, i)
    return count


@piece
def _clear(columns: ScannedColumns, heads: Heads, i: int) -> None:
    """Let a record have nothing."""
    columns.starts[i + 1] = columns.starts[i]
    heads.marks[_ID_AT, i] = heads.marks[_ID_SIZE, i] = heads.marks[_TS_MARK, i] = heads.label_kinds[i] = -1
    heads.label_values[i] = 0.0


@piece
def _record(
    text: Any, at: int, columns: ScannedColumns, heads: Heads, memory: LexerMemory, i: int, stamp: int, nulls: bool
) -> int:
    """Read a record, and return where it ends, with the white space after it."""
    at = _blank(text, at)
    if byte(text, at) != _OPEN:
        return SLOW
    met = 0
    more = True
    while more:
        at = _blank(text, at + 1)
        if byte(text, at) != _QUOTE:
            return SLOW
        field, at = _field(text, at + 1)
        # The decoder takes the last of those that stand twice.
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
        at = _blank(text, at)
        more = byte(text, at) == _COMMA
    at = _after(text, at, _CLOSE)
    return _blank(text, at) if at >= 0 and met >> _FEATURES & 1 != 0 else SLOW


@piece
def _blank(text: Any, at: int) -> int:
    """Return where the white space that may be at `at` ends."""
    while byte(text, at) <= _SPACE:
        found = byte(text, at)
        if found != _SPACE and found != _LINE and found != _TAB and found != _RETURN:  # noqa: PLR1714 no sets here
            return at
        at += 1
    return at


@piece
def _value(text: Any, at: int) -> int:
    """Return where the value begins whose name ends at `at`, or SLOW."""
    at = _after(text, _blank(text, at), _COLON)
    return _blank(text, at) if at >= 0 else SLOW


@piece
def _after(text: Any, at: int, token: int) -> int:
    """Return what comes after a token of one byte, or SLOW where another stands."""
    return at + 1 if byte(text, at) == token else SLOW


@piece
def _field(text: Any, at: int) -> tuple[int, int]:
    """Return which field has its name at `at`, and what comes after the quote behind it. That may be SLOW."""
    name = load(text, at)
    if name == _FEATURES_NAME and byte(text, at + 8) == _QUOTE:
        return _FEATURES, at + 9
    if name & _3_BYTES == _ID_NAME:
        return _ID, at + 3
    if name & _3_BYTES == _TS_NAME:
        return _TS, at + 3
    if name & _6_BYTES == _LABEL_NAME:
        return _LABEL, at + 6
    return _OTHER, _close(text, at)


@piece
def _member(text: Any, at: int, field: int, heads: Heads, words: InternTable, i: int) -> int:
    """Read the value of a field that is not the features, and return where it ends, or SLOW or FULL."""
    if field == _TS:
        at, heads.marks[_TS_MARK, i] = moment(text, at)
        return at
    if byte(text, at) != _QUOTE:
        at, kind, value = _bare(text, at)
        if field == _LABEL:
            heads.label_kinds[i], heads.label_values[i] = kind, value
        return SLOW if field == _ID or (field == _LABEL and kind == NULL) else at
    end = _close(text, at + 1)
    size = end - at - 2
    if field == _ID:
        heads.marks[_ID_AT, i], heads.marks[_ID_SIZE, i] = at + 1, size
    elif field == _LABEL and end >= 0:
        word = intern(words, text, at + 1, size)
        heads.label_kinds[i], heads.label_values[i] = STRING, word
        return end if word >= 0 else FULL
    return end


@aside
def _features(text: Any, at: int, columns: ScannedColumns, memory: LexerMemory, i: int, stamp: int, nulls: bool) -> int:  # noqa: C901 see below
    """Read the object of a record's features into its entries, and return where it ends, or SLOW or FULL."""
    # In one piece: what lies below is compiled once more for each level of calls above it.
    if byte(text, at) != _OPEN:
        return SLOW
    first = k = columns.starts[i]
    at = _blank(text, at + 1)
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
            at, kind, value = _bare(text, at)
            if kind == NULL and not nulls:
                return SLOW
            columns.kinds[k], columns.values[k] = kind, value
        if at < 0:
            return at
        columns.names[k] = name
        k += 1
        at = _blank(text, at)
        if byte(text, at) != _COMMA:
            break
        at = _blank(text, at + 1)
    columns.starts[i + 1] = k
    return _after(text, at, _CLOSE)


@piece
def _string(text: Any, at: int, table: InternTable, guesses: Any, guess: int) -> tuple[int, int]:
    """Return where the string at `at` ends, with its quotes, and its number. The end may be SLOW or FULL."""
    if byte(text, at) != _QUOTE:
        return SLOW, 0
    at += 1
    expected = guesses[guess]
    if expected >= 0:
        size = table.rows[expected, SIZE] + 1
        if same(text, at, table.arena, table.rows[expected, BEGIN], size):
            return at + size, expected
    end = _close(text, at)
    if end < 0:
        return SLOW, 0
    found = intern(table, text, at, end - at - 1)
    if found < 0:
        return FULL, 0
    guesses[guess] = found
    return end, found


@aside
def _bare(text: Any, at: int) -> tuple[int, int, float]:
    """Return where a number, a boolean or null ends, its kind and its value. The end may be SLOW."""
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


@aside
def _close(text: Any, at: int) -> int:
    """Return what comes after the quote that ends the string with its first letter at `at`, or SLOW."""
    while True:
        chunk = load(text, at)
        quotes, backslashes = chunk ^ _QUOTES, chunk ^ _BACKSLASHES
        # A borrow may mark a byte above one that is marked rightly; the lowest one is right.
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
        at = _letter(text, at)
        if at < 0:
            return SLOW


@aside
def _letter(text: Any, at: int) -> int:
    """Return where a letter of several bytes ends, or SLOW if it is no UTF-8."""
    first = byte(text, at)
    if first < _TWO or first >= _NONE:
        return SLOW
    size = 2 if first < _THREE else 3 if first < _FOUR else 4
    letter = first & (0x7F >> size)
    for k in range(1, size):
        found = byte(text, at + k)
        if found & _FOLLOWS_MASK != _FOLLOWS:
            return SLOW
        letter = letter << _FOLLOWS_BITS | found & _FOLLOWS_VALUE
    if (first >= _THREE and letter < _THREE_MIN) or (first >= _FOUR and letter < _FOUR_MIN):
        return SLOW
    if _HALVES_FIRST <= letter <= _HALVES_LAST or letter > _LETTER_LAST:
        return SLOW
    return at + size
