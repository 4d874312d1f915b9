"""Values as binary formats write them, read in compiled code: varints, strings, and ids for the columns of a scan.

The machines of Avro and Protobuf share them.
"""

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import InternTable, intern
from headrace.consumers.fastjson.jit import byte, fingerprint, inlined, load, subroutine
from headrace.consumers.fastjson.number import SLOW
from headrace.consumers.fastjson.tokens import character_end

SOURCES = fingerprint("fastjson/*.py", "formats/binary/*_*.py", "formats/binary/values.py", "formats/binary/places.py")
"""A number that changes with the sources of the machines, as `jit.SOURCES` does with those of the scanner of JSON."""
PADDING = 32
"""The bytes behind the last record that may be read; their values do not matter."""
DIGITS_MAX = 20
"""The room for the digits of an id that is a number."""
NOTHING = -1
"""The kind of a value that needs no entry: it is skipped, or it has its entry already."""
EXACT_MAX = 1 << 53
"""Integers up to this one, and from its negative on, are exact as doubles."""
INT_MAX = 1 << 31
TIME_MAX = 1 << 62

_CONTINUES, _SHIFT_LAST, _ASCII_END = 0x80, 63, 0x80
_QUOTE, _BACKSLASH, _SPACE, _MINUS, _ZERO = b'"\\ -0'
_0, _1, _7 = (np.uint64(n) for n in (0, 1, 7))
_LOW_BITS = np.uint64(0x7F)
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)


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


@inlined
def clear(columns: BinaryColumns, i: int) -> None:
    """Remove the entries and fields of a record, and mark it slow."""
    columns.starts[i + 1] = columns.starts[i]
    columns.slow[i] = True
    columns.id_at[i] = columns.id_size[i] = columns.ts[i] = columns.label_kinds[i] = -1
    columns.label_values[i] = 0.0


@inlined
def read_varint(text: Any, at: int) -> tuple[int, Any]:
    """Return the end of a varint, and its value as a uint64; the end is SLOW for one of more than 64 bits."""
    number, shift = _0, _0
    while True:
        found = byte(text, at)
        at += 1
        number |= (np.uint64(found) & _LOW_BITS) << shift
        if found < _CONTINUES:
            break
        shift += _7
        if shift > _SHIFT_LAST:
            return SLOW, _0
    return (SLOW if shift == _SHIFT_LAST and found > 1 else at), number


@inlined
def zigzag(number: Any) -> Any:
    """Return the integer that a uint64 stands for: 0, -1, 1, -2 and so on."""
    half = np.int64(number >> _1)
    return ~half if number & _1 != _0 else half


@inlined
def single(bits: Any) -> float:
    """Return the float in the lower half of eight bytes as a double."""
    return np.float64(np.uint32(bits & np.uint64(0xFFFF_FFFF)).view(np.float32))


@inlined
def put_number_id(columns: BinaryColumns, text: Any, i: int, number: Any) -> None:
    """Write a whole number as the id of a record."""
    columns.id_at[i] = len(text) + i * DIGITS_MAX
    columns.id_size[i] = write_digits(columns.digits, i * DIGITS_MAX, number)


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
