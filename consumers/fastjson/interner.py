"""Numbers for the strings of JSON text, in compiled code: the names of features, or their string values ("words").

A hash table with open addressing, in arrays. The bytes of all strings are in one arena, each with its closing quote: so
an expected string can be compared with the text without a search for its end. The hash starts from a secret, so that
nobody can send strings with equal hashes.
"""

# ruff: noqa: PLR0917  Compiled functions have only positional arguments.

import itertools
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.jit import PADDING, SOURCES, byte, entry, inlined, load, product, subroutine

FULL = -2
"""Returned instead of a string's number: the string is new, and the table is full."""

_EIGHT, _BITS = 8, 64
_0, _8 = np.uint64(0), np.uint64(8)
_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)
COUNT, _USED, _IS_FULL, _SECRET = range(4)
_HASH, BEGIN, SIZE, STAMP = range(4)
_COLUMNS = 4
_STRINGS_MIN = 256
_ARENA_BYTES_MIN = 8_192
_QUOTE = '"'
# A schema may name a feature with half of a surrogate pair (by an escape), though no UTF-8 text has it.
_SURROGATES = "surrogatepass"


class InternTable(NamedTuple):
    """The arrays of an interner.

    A slot (int32) has a string's number, or -1. A string's row (int64) has its hash, its start in the `arena` (uint8),
    its length, and a stamp that the caller may set. `head` (int64) has the number of strings, the used bytes of the
    arena, whether there was no room for a string, and the secret.
    """

    slots: Any
    rows: Any
    arena: Any
    head: Any


@inlined
def same_bytes(text: Any, at: int, arena: Any, begin: int, size: int) -> bool:
    """Tell whether `size` bytes, at least one, are the same in both arrays."""
    while size > _EIGHT:
        if load(text, at) != load(arena, begin):
            return False
        at += _EIGHT
        begin += _EIGHT
        size -= _EIGHT
    return (load(text, at) ^ load(arena, begin)) << np.uint64(_BITS - _EIGHT * size) == _0  # type: ignore[no-any-return]


@subroutine
def intern(table: InternTable, text: Any, at: int, size: int) -> Any:
    """Return the number of the string that is at `at` in the text, before a quote; add a new string. It may be FULL."""
    found = np.int64(_hash(text, at, size + 1, np.uint64(table.head[_SECRET])))
    mask = len(table.slots) - 1
    slot = found & mask
    while True:
        number = np.int64(table.slots[slot])
        if number < 0:
            return _add(table, text, at, size, found, slot)
        if table.rows[number, _HASH] == found and table.rows[number, SIZE] == size:  # noqa: SIM102 the bytes only then
            if same_bytes(text, at, table.arena, table.rows[number, BEGIN], size + 1):
                return number
        slot = (slot + 1) & mask


@inlined
def _hash(text: Any, at: int, size: int, secret: Any) -> Any:
    found = secret
    while size > _EIGHT:
        upper, lower = product(found ^ load(text, at), _FACTOR)
        found = upper ^ lower
        at += _EIGHT
        size -= _EIGHT
    upper, lower = product(found ^ (load(text, at) << np.uint64(_BITS - _EIGHT * size)), _FACTOR)
    return upper ^ lower


@inlined
def _add(table: InternTable, text: Any, at: int, size: int, found: Any, slot: Any) -> Any:
    """Add a new string at the end, with its quote."""
    number, begin = table.head[COUNT], table.head[_USED]
    end = begin + size + 1
    if number == len(table.rows) or end + PADDING > len(table.arena):
        table.head[_IS_FULL] = 1
        return FULL
    for k in range(size + 1):
        table.arena[begin + k] = byte(text, at + k)
    table.slots[slot] = number
    table.rows[number, _HASH] = found
    table.rows[number, BEGIN] = begin
    table.rows[number, SIZE] = size
    table.rows[number, STAMP] = 0
    table.head[COUNT] = number + 1
    table.head[_USED] = end
    return number


@entry
def _enter(table: InternTable, text: Any, ends: Any, numbers: Any, first: int, _sources: int = SOURCES) -> int:
    """Write the numbers of strings that follow one another, each before a quote; return the number that had room.

    `ends` has the positions of the quotes.
    """
    for k in range(first, len(ends)):
        begin = ends[k - 1] + 1 if k > 0 else 0
        number = intern(table, text, begin, ends[k] - begin)
        if number < 0:
            return k
        numbers[k] = number
    return len(ends)


@entry
def _fill_slots(slots: Any, rows: Any, count: int, _sources: int = SOURCES) -> None:
    """Give each of `count` strings one of the empty slots."""
    mask = len(slots) - 1
    for number in range(count):
        slot = rows[number, _HASH] & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = number


class Interner:
    """Give strings numbers from 0 on, in the order in which they come first."""

    def __init__(self) -> None:
        self._strings: list[str] = []
        self._numbers: dict[str, int] = {}
        self.table = InternTable(
            slots=np.full(2 * _STRINGS_MIN, -1, np.int32),
            rows=np.zeros((_STRINGS_MIN, _COLUMNS), np.int64),
            arena=np.zeros(_ARENA_BYTES_MIN, np.uint8),
            head=np.array([0, 0, 0, int.from_bytes(os.urandom(8), "little", signed=True)], np.int64),
        )

    def __len__(self) -> int:
        return int(self.table.head[COUNT])

    @property
    def arena_bytes(self) -> int:
        """The bytes of all strings together."""
        return int(self.table.head[_USED])

    @property
    def strings(self) -> list[str]:
        """The strings by number; this decodes those that are new since the last call."""
        known, count = len(self._strings), len(self)
        if known < count:
            begins, sizes = self.table.rows[known:count, BEGIN].tolist(), self.table.rows[known:count, SIZE].tolist()
            base = begins[0]
            blob = self.table.arena[base : self.arena_bytes].tobytes()
            self._strings.extend(
                blob[begin - base : begin - base + size].decode(errors=_SURROGATES)
                for begin, size in zip(begins, sizes, strict=True)
            )
        return self._strings

    def numbers(self, strings: list[str]) -> list[int]:
        """Return the numbers of strings; add the new ones."""
        known = self._numbers
        if len(known) < len(self):
            first = len(known)
            known.update(zip(self.strings[first:], itertools.count(first), strict=False))
        found: list[Any] = list(map(known.get, strings))
        if None in found:
            new = list(dict.fromkeys(string for string, number in zip(strings, found, strict=True) if number is None))
            known.update(zip(new, self._intern(new), strict=True))
            found = list(map(known.__getitem__, strings))
        return found

    def grow(self) -> None:
        """Make room for more strings, if one had no room."""
        table = self.table
        if table.head[_IS_FULL] == 0:
            return
        table.head[_IS_FULL] = 0
        if len(self) == len(table.rows):
            table = table._replace(slots=np.full(2 * len(table.slots), -1, np.int32), rows=_doubled(table.rows))
            _fill_slots(table.slots, table.rows, len(self))
        else:
            table = table._replace(arena=_doubled(table.arena))
        self.table = table

    def _intern(self, strings: Iterable[str]) -> list[int]:
        parts = [string.encode(errors=_SURROGATES) for string in strings]
        text = np.frombuffer(bytearray(b'"').join([*parts, bytes(PADDING)]), np.uint8)
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        ends = np.cumsum(sizes + 1) - 1
        numbers = np.empty(len(parts), np.int64)
        done = _enter(self.table, text, ends, numbers, 0)
        while done < len(parts):
            self.grow()
            done = _enter(self.table, text, ends, numbers, done)
        return numbers.tolist()


def _doubled(array: Any) -> Any:
    return np.concatenate([array, np.zeros_like(array)])
