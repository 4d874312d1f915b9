"""Reads the tokens of JSON text in compiled code: white space, strings, literals, and whole values that nobody needs.

Each function takes a position in the text and returns the end of what it has read, or SLOW where only the decoder can
tell. A zero byte follows each record; no token contains one, so every loop ends there.
"""

# ruff: noqa: PLR1714, SIM109  For `in` numba would compile a function of its own.

from typing import Any

import numpy as np

from headrace.consumers.fastjson.jit import byte, inlined, load, subroutine, trailing
from headrace.consumers.fastjson.number import BOOLEAN, INTEGER, NULL, SLOW, number

OPEN, CLOSE, OPEN_ARRAY, CLOSE_ARRAY, COMMA, COLON, QUOTE = b'{}[],:"'
DEPTH_MAX = 60
"""Deeper values are for the decoder."""

_SPACE, _TAB, _LINE, _RETURN = b" \t\n\r"
_BACKSLASH, _U, _T, _F, _N, _E, _POINT, _MINUS, _PLUS, _ZERO, _NINE = b"\\utfne.-+09"
_LOWER_CASE = 0x20
# With these bounds a number that is skipped is finite.
_DIGITS_MAX, _EXPONENT_DIGITS_MAX = 200, 2
_NONE: Any = np.int64(0)
_TRUE, _FALSE, _NULL = (np.uint64(int.from_bytes(word, "little")) for word in (b"true", b"false", b"null"))
_4_BYTES, _5_BYTES = (np.uint64((1 << 8 * n) - 1) for n in (4, 5))
_ESCAPES = np.zeros(256, np.bool_)
_ESCAPES[list(b'"\\/bfnrt')] = True
# The value of a hexadecimal digit, and a number above all of four digits for another byte.
_HEX = np.full(256, 1 << 16, np.int64)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _HEX[list(_digits)] = range(16)

_0 = np.uint64(0)
# Eight copies of a byte: 1, the first byte after the control characters, a quote, a backslash, the highest bit.
_ONES, _SPACES, _QUOTES, _BACKSLASHES, _HIGH_BITS = (
    np.uint64(n * 0x0101_0101_0101_0101) for n in (1, _SPACE, QUOTE, _BACKSLASH, 0x80)
)
_ASCII_END = 0x80
# UTF-8: the lowest first byte of a character of two, three and four bytes, and the first invalid one; the lowest
# code points of three and four bytes; the surrogates and the last code point; continuation bytes.
_TWO, _THREE, _FOUR, _INVALID = 0xC2, 0xE0, 0xF0, 0xF5
_THREE_MIN, _FOUR_MIN = 0x800, 0x1_0000
_SURROGATES_FIRST, _SURROGATES_LAST, _CODE_POINT_LAST = 0xD800, 0xDFFF, 0x10_FFFF
_FOLLOWS, _FOLLOWS_MASK, _FOLLOWS_BITS = 0x80, 0xC0, 6
_FOLLOWS_VALUE = 0x3F


@inlined
def skip_space(text: Any, at: int) -> int:
    """Return the end of the white space at `at`, if there is any."""
    while byte(text, at) <= _SPACE:
        found = byte(text, at)
        if found != _SPACE and found != _LINE and found != _TAB and found != _RETURN:
            return at
        at += 1
    return at


@inlined
def value_start(text: Any, at: int) -> int:
    """Return the start of the value whose name ends at `at`, or SLOW."""
    at = skip_space(text, at)
    return skip_space(text, at + 1) if byte(text, at) == COLON else SLOW


@inlined
def is_null(text: Any, at: int) -> bool:
    """Tell whether null is at `at`."""
    return load(text, at) & _4_BYTES == _NULL  # type: ignore[no-any-return]


@subroutine
def literal(text: Any, at: int) -> tuple[int, int, float]:
    """Return the end of a number, a boolean or null, its kind and its value. The end may be SLOW."""
    found = byte(text, at)
    if found == _T and load(text, at) & _4_BYTES == _TRUE:
        return at + 4, BOOLEAN, 1.0
    if found == _F and load(text, at) & _5_BYTES == _FALSE:
        return at + 5, BOOLEAN, 0.0
    if found == _N and is_null(text, at):
        return at + 4, NULL, 0.0
    if found == _T or found == _F or found == _N:
        return SLOW, INTEGER, 0.0
    return number(text, at)


@subroutine
def string_end(text: Any, at: int) -> int:
    """Return the position after the closing quote of the string whose first character is at `at`, or SLOW.

    A string with an escape is slow.
    """
    at = plain_end(text, at)
    return at + 1 if at >= 0 and byte(text, at) == QUOTE else SLOW


@subroutine
def plain_end(text: Any, at: int) -> int:
    """Return the position of the first quote, backslash or control character from `at` on, or SLOW."""
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
        if byte(text, at) < _ASCII_END:
            return at
        at = character_end(text, at)
        if at < 0:
            return SLOW


@subroutine
def character_end(text: Any, at: int) -> int:
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


@subroutine
def skip_value(text: Any, at: int) -> int:  # noqa: C901 not recursive, since compiled code has a small stack
    """Return the end of the value at `at`, of any kind and depth, if it surely is JSON; else SLOW."""
    depth = kinds = _NONE
    while True:
        found = byte(text, at)
        if found == OPEN or found == OPEN_ARRAY:
            if depth == DEPTH_MAX:
                return SLOW
            # The last bit says whether this is an object, the bit before it the same of its parent, and so on.
            depth, kinds = depth + 1, kinds << 1 | (1 if found == OPEN else 0)
            at = skip_space(text, at + 1)
        else:
            at = scalar_end(text, at)
            if at < 0 or depth == 0:
                return at
            at = skip_space(text, at)
        while byte(text, at) == (CLOSE if kinds & 1 != 0 else CLOSE_ARRAY):
            depth, kinds = depth - 1, kinds >> 1
            at += 1
            if depth == 0:
                return at
            at = skip_space(text, at)
            found = _NONE
        if found != OPEN and found != OPEN_ARRAY:
            if byte(text, at) != COMMA:
                return SLOW
            at = skip_space(text, at + 1)
        if kinds & 1 != 0:
            at = _name_end(text, at)
            if at < 0:
                return SLOW


@subroutine
def _name_end(text: Any, at: int) -> int:
    """Return the start of the value of the member at `at`, or SLOW."""
    if byte(text, at) != QUOTE:
        return SLOW
    at = _skip_string(text, at + 1)
    return value_start(text, at) if at >= 0 else SLOW


@subroutine
def _skip_string(text: Any, at: int) -> int:
    """Return the position after the closing quote of a string, which may have escapes."""
    while True:
        at = plain_end(text, at)
        if at < 0 or byte(text, at) != _BACKSLASH:
            return at + 1 if at >= 0 and byte(text, at) == QUOTE else SLOW
        escape = byte(text, at + 1)
        at += 2
        if escape == _U:
            code_point = 0
            for k in range(4):
                code_point = code_point << 4 | _HEX[byte(text, at + k)]
                if code_point >= 1 << 16:
                    return SLOW
            # Half of a surrogate pair is no character; the decoder tells whether the other half follows.
            if _SURROGATES_FIRST <= code_point <= _SURROGATES_LAST:
                return SLOW
            at += 4
        elif not _ESCAPES[escape]:
            return SLOW


@subroutine
def scalar_end(text: Any, at: int) -> int:
    """Return the end of a string, a number, a boolean or null, or SLOW."""
    found = byte(text, at)
    if found == QUOTE:
        return _skip_string(text, at + 1)
    if (found == _T and load(text, at) & _4_BYTES == _TRUE) or (found == _N and is_null(text, at)):
        return at + 4
    return at + 5 if found == _F and load(text, at) & _5_BYTES == _FALSE else number_end(text, at)


@subroutine
def number_end(text: Any, at: int) -> int:
    """Return the end of a number that surely is finite, or SLOW. An integer may have many digits."""
    first = at + 1 if byte(text, at) == _MINUS else at
    at = _digits_end(text, first)
    size = at - first
    if size == 0 or size > _DIGITS_MAX or (size > 1 and byte(text, first) == _ZERO):
        return SLOW
    if byte(text, at) == _POINT:
        first = at + 1
        at = _digits_end(text, first)
        if at == first:
            return SLOW
    if byte(text, at) | _LOWER_CASE == _E:
        sign = byte(text, at + 1)
        first = at + 2 if sign == _MINUS or sign == _PLUS else at + 1
        at = _digits_end(text, first)
        if at == first or at - first > _EXPONENT_DIGITS_MAX:
            return SLOW
    return at


@subroutine
def _digits_end(text: Any, at: int) -> int:
    """Return the end of the digits at `at`, if there are any."""
    while byte(text, at) >= _ZERO and byte(text, at) <= _NINE:
        at += 1
    return at
