"""Reads the features of a record into its entries, in compiled code: names and values, flat or one within another.

A name is expected to be the same as that of the record before at this place; only another one is looked up.
"""

# ruff: noqa: FBT001, PLR0917, PLR1714, SIM109  Compiled functions have only positional arguments; `in` compiles slowly.

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import BEGIN, COUNT, FULL, SIZE, STAMP, InternTable, intern, same_bytes
from headrace.consumers.fastjson.jit import byte, inlined, subroutine
from headrace.consumers.fastjson.mapping_arrays import (
    ASKED,
    EXCLUDED,
    MARKED,
    NODES_MAX,
    NOT_INCLUDED,
    NULLABLE,
    NUMERIC,
    ON_PATH,
    OPTIONS,
)
from headrace.consumers.fastjson.number import FLOAT, INTEGER, NULL, SLOW, STRING
from headrace.consumers.fastjson.tokens import (
    CLOSE,
    CLOSE_ARRAY,
    COMMA,
    OPEN,
    OPEN_ARRAY,
    QUOTE,
    literal,
    skip_space,
    skip_value,
    string_end,
    value_start,
)

GUESSES = 4_096
"""The features for which the lexer expects the same name, and the same word, as in the record before."""
NAME_BYTES_MAX = 4_096
"""A flattened name with more bytes is for the decoder."""

_DEPTH_MAX = 32
_DOT, _ZERO = b".0"
_TEN = 10
_NEXT_NAME, _NEXT_WORD, _NEXT_INDEX = range(3)
# Instead of an end: the value is a container whose members must be read. Instead of a kind: a value that is skipped.
_NEEDED, _NOTHING = -5, -1
# The lexer expects the same name at the same place as in the record before. A guess is the name's number and its
# place; the upper bits of a place are the number of the container.
_PLACE_BITS, _IN_ARRAY = 32, 1 << 60
# A record's flattened names together, in bytes; the decoder's bound is a little higher.
_FLAT_BYTES_MAX = 3_900_000
# numba compiles a function anew for each literal argument, so this is no literal.
_NONE: Any = np.int64(0)

LEXER_NOTES = np.dtype(
    [
        *OPTIONS,
        *((name, np.int64) for name in ("met", "asked", "is_empty", "later", "depth", "widest", "begin")),
        ("expected", np.int64, (2 * NODES_MAX,)),
        *((name, np.int64, (NODES_MAX,)) for name in ("nodes", "starts", "parents")),
        *((name, np.int64, (_DEPTH_MAX,)) for name in ("places", "prefixes", "indices")),
    ]
)
"""The options of the mapping, and the state of the lexer within a record.

It has the nodes that the record has had, as bits (`met`), whether a name is for Python, and whether the record has no
features. `later` fields below the features are read after them, by their `nodes` and the `starts` of their values.
`expected` has the child that follows each node, and then the first child of each. Of the containers around the present
value, `parents` has the nodes above the features; `places`, `prefixes` and `indices` describe those below, `depth` is
their number, and `widest` the largest prefix. The features `begin` at a position.
"""


class ScannedColumns(NamedTuple):
    """The entries of the records, as in `scan.Scan`."""

    starts: Any
    names: Any
    kinds: Any
    values: Any


class LexerMemory(NamedTuple):
    """The names and words by number, those that are expected next, and room to write a flattened name.

    A column of `expected` (int64) has a name's number with its place, a word's number, and the index in an array.
    `declared` (int64) has the bits of the declared features.
    """

    names: InternTable
    words: InternTable
    expected: Any
    scratch: Any
    declared: Any


@subroutine
def read_features(  # noqa: C901, PLR0912 see below
    text: Any, at: int, columns: ScannedColumns, memory: LexerMemory, notes: Any, i: int, stamp: int
) -> int:
    """Read the features of a record into its entries, and return the end of the object, or SLOW or FULL."""
    # One long function: inlined ones are compiled once more for each level of calls. What is rare is in the notes.
    names, flatten, k = memory.names, notes.flatten != 0, columns.starts[i]
    # The container of the present value: its place, the bytes of its name and the dot, and the index in an array.
    place, prefix, index, members = _NONE, _NONE, _NONE - 1, _NONE
    notes.begin, notes.depth, notes.widest = at, 0, 0
    at = skip_space(text, at + 1)
    if byte(text, at) == CLOSE:
        return at + 1
    while True:
        guess, members = members & (GUESSES - 1), members + 1
        at, name = _name(text, at, names, memory.expected, memory.scratch, place, prefix, index, guess, notes.asks)
        if at < 0:
            return at
        found, mark, end = byte(text, at), names.rows[name, STAMP], _NONE + _NEEDED
        is_container = flatten and (found == OPEN or found == OPEN_ARRAY)
        if mark < stamp:
            names.rows[name, STAMP] = stamp
        else:
            end = _marked(text, at, names.rows, names.arena, name, prefix, is_container, notes, stamp)
            if end == SLOW:
                return SLOW
        if end != _NEEDED:
            at = end
        elif is_container:
            if notes.depth == _DEPTH_MAX:
                return SLOW
            at, place, prefix, index = _enter(text, at, names, name, notes, place, prefix, index)
            if byte(text, at) != CLOSE and byte(text, at) != CLOSE_ARRAY:
                continue
        else:
            at, kind, value = _feature(text, at, memory.words, memory.expected, memory.declared, name, guess, notes)
            if at < 0:
                return at
            columns.names[k], columns.kinds[k], columns.values[k] = name, kind, value
            k += 1 if kind != _NOTHING else 0
        at, place, prefix, index = _next(text, at, notes, place, prefix, index)
        if at < 0 or notes.depth < 0:
            columns.starts[i + 1] = k
            return at if not flatten or members * notes.widest + at - notes.begin <= _FLAT_BYTES_MAX else SLOW


@inlined
def _enter(
    text: Any, at: int, names: InternTable, name: int, notes: Any, place: int, prefix: int, index: int
) -> tuple[int, int, int, int]:
    """Return the start of a container's first member, and the container; note the one around it."""
    notes.places[notes.depth], notes.prefixes[notes.depth], notes.indices[notes.depth] = place, prefix, index
    notes.depth += 1
    place, prefix, index = (name + 1) << _PLACE_BITS, names.rows[name, SIZE] + 1, _NONE - 1
    notes.widest = max(notes.widest, prefix)
    if byte(text, at) == OPEN_ARRAY:
        place, index = place | _IN_ARRAY, _NONE
    return skip_space(text, at + 1), place, prefix, index


@inlined
def _next(text: Any, at: int, notes: Any, place: int, prefix: int, index: int) -> tuple[int, int, int, int]:
    """Return the start of the next member, and its container, or the end of the features, with a depth of -1.

    The start may be SLOW.
    """
    at = skip_space(text, at)
    while byte(text, at) != COMMA:
        if byte(text, at) != (CLOSE if index < 0 else CLOSE_ARRAY):
            return SLOW, place, prefix, index
        at += 1
        notes.depth -= 1
        if notes.depth < 0:
            return at, place, prefix, index
        place, prefix, index = notes.places[notes.depth], notes.prefixes[notes.depth], notes.indices[notes.depth]
        at = skip_space(text, at)
    return skip_space(text, at + 1), place, prefix, (index + 1 if index >= 0 else index)


@inlined
def _name(
    text: Any,
    at: int,
    names: InternTable,
    expected: Any,
    scratch: Any,
    place: int,
    prefix: int,
    index: int,
    guess: int,
    asks: int,
) -> tuple[int, int]:
    """Return the start of the value of the member at `at`, and the number of its name. It may be SLOW or FULL."""
    name = expected[_NEXT_NAME, guess] ^ place
    is_likely = name >> _PLACE_BITS == 0
    if index >= 0:
        if is_likely and expected[_NEXT_INDEX, guess] == index:
            return at, name
        end, name = _look_up(text, at, names, scratch, place, prefix, index, asks)
        expected[_NEXT_NAME, guess], expected[_NEXT_INDEX, guess] = place | name, index
        return (at if end >= 0 else end), name
    if byte(text, at) != QUOTE:
        return SLOW, 0
    at += 1
    if is_likely and same_bytes(
        text, at, names.arena, names.rows[name, BEGIN] + prefix, names.rows[name, SIZE] + 1 - prefix
    ):
        at += names.rows[name, SIZE] + 1 - prefix
    else:
        at, name = _look_up(text, at, names, scratch, place, prefix, index, asks)
        expected[_NEXT_NAME, guess] = place | name
    return (value_start(text, at) if at >= 0 else at), name


@subroutine
def _look_up(
    text: Any, at: int, names: InternTable, scratch: Any, place: int, prefix: int, index: int, asks: int
) -> tuple[int, int]:
    """Return the end of the name at `at`, and the number of it and its containers' names. The end may be SLOW or FULL.

    In an array the name is the index.
    """
    end, source, begin = at, text, at
    size = digits = _NONE
    if index < 0:
        end = string_end(text, at)
        size = end - at - 1
        if end < 0:
            return SLOW, 0
    else:
        rest = index
        while rest > 0 or digits == 0:
            rest //= _TEN
            digits += 1
    if place != 0:
        if prefix + size + digits > NAME_BYTES_MAX:
            return SLOW, 0
        container = ((place & ~_IN_ARRAY) >> _PLACE_BITS) - 1
        for k in range(prefix - 1):
            scratch[k] = names.arena[names.rows[container, BEGIN] + k]
        scratch[prefix - 1] = _DOT
        for k in range(size):
            scratch[prefix + k] = byte(text, at + k)
        rest = index
        for k in range(digits - 1, -1, -1):
            scratch[prefix + k] = _ZERO + rest % _TEN
            rest //= _TEN
        source, begin, size = scratch, _NONE, prefix + size + digits
        scratch[size] = QUOTE
    count = names.head[COUNT]
    name = intern(names, source, begin, size)
    if asks != 0 and name == count:
        names.rows[name, STAMP] = MARKED + ASKED
    return (end if name >= 0 else FULL), name


@subroutine
def _marked(
    text: Any,
    at: int,
    rows: Any,
    arena: Any,
    name: int,
    prefix: int,
    is_container: bool,
    notes: Any,
    stamp: int,
) -> int:
    """Pass over the value of a name that is no plain feature; return its end, or SLOW, or _NEEDED to read it."""
    mark = rows[name, STAMP] - MARKED
    if mark < 0 or notes.is_default != 0:
        # The name stands twice in the record, or the features were kept when another mapping was configured.
        return SLOW
    is_needed = is_container and mark != EXCLUDED
    if mark >= NOT_INCLUDED:
        if mark == NOT_INCLUDED + stamp:
            return SLOW
        rows[name, STAMP] = MARKED + NOT_INCLUDED + stamp
    elif mark == ASKED:
        notes.asked = 1
    elif mark >= ON_PATH:
        node, is_needed = mark - ON_PATH, False
        if notes.met >> node & 1 != 0:
            return SLOW
        for k in range(rows[name, BEGIN] + prefix, rows[name, BEGIN] + rows[name, SIZE]):
            if arena[k] == _DOT:
                # The name only looks like a path.
                return SLOW
        notes.met |= 1 << node
        notes.nodes[notes.later], notes.starts[notes.later] = node, at
        notes.later += 1
    return _NEEDED if is_needed else skip_value(text, at)


@inlined
def _feature(
    text: Any, at: int, words: InternTable, expected: Any, declared: Any, name: int, guess: int, notes: Any
) -> tuple[int, int, float]:
    """Return the end of a feature's value, its kind and its number. The end may be SLOW or FULL, the kind _NOTHING."""
    is_string = byte(text, at) == QUOTE
    is_number = is_string and name < len(declared) and declared[name] & NUMERIC != 0
    if is_string and not is_number:
        at, word = _string(text, at + 1, words, expected, guess)
        return at, STRING, np.float64(word)
    end, kind, value = literal(text, at + 1 if is_number else at)
    if is_number:
        is_whole = end >= 0 and (kind == INTEGER or kind == FLOAT) and byte(text, end) == QUOTE
        return (end + 1 if is_whole else SLOW), kind, value
    if kind == NULL and (name >= len(declared) or declared[name] & NULLABLE == 0):
        return (end if notes.skip_nulls != 0 else SLOW), _NOTHING, value
    return end, kind, value


@inlined
def _string(text: Any, at: int, words: InternTable, expected: Any, guess: int) -> tuple[int, int]:
    """Return the end of the string at `at`, its quote included, and its number. The end may be SLOW or FULL."""
    word = expected[_NEXT_WORD, guess]
    if word >= 0:
        size = words.rows[word, SIZE] + 1
        if same_bytes(text, at, words.arena, words.rows[word, BEGIN], size):
            return at + size, word
    end = string_end(text, at)
    if end < 0:
        return SLOW, 0
    word = intern(words, text, at, end - at - 1)
    expected[_NEXT_WORD, guess] = word
    return (end if word >= 0 else FULL), word
