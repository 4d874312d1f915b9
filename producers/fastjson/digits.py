"""Writes integers and doubles as JSON numbers into an array of bytes, in compiled code.

The bytes are the same as msgspec's: the shortest decimal that reads back as the same double, and the nearest of those;
`1.0` for a whole number; an exponent from 1e16 on and below 1e-5. Schubfach (Giulietti, "The Schubfach way to render
doubles", 2020) finds the decimal with three products of 64 by 128 bits. A double comes as its bits, so that nothing is
rounded here. Do not mix uint64 with signed numbers: numba would make the result signed.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])

DOUBLE_BYTES_MAX = 24
"""The longest double: `-2.2250738585072014e-308`."""
INTEGER_BYTES_MAX = 20
"""The longest integer of 64 bits: `-9223372036854775808`."""

_MANTISSA_BITS = 52
_NOT_FINITE = 0x7FF
# The exponent of the mantissa's last bit is the exponent field minus this; a field of 0 counts as 1.
_BIAS = 1_075
# A number with a decimal exponent in this range is written without an exponent.
_PLAIN_FIRST, _PLAIN_LAST = -5, 15
# The powers of ten that doubles need.
_POWER_FIRST, _POWER_LAST = -292, 324
_EIGHT = 8
_BYTE_ZERO, _BYTE_POINT, _BYTE_MINUS, _BYTE_E = b"0.-e"

_0, _1, _2, _4, _10, _40 = (np.uint64(n) for n in (0, 1, 2, 4, 10, 40))
_100, _10_000, _1E8, _1E15, _1E16 = (np.uint64(10**n) for n in (2, 4, 8, 15, 16))
_HALF_BITS, _LAST_BIT = np.uint64(32), np.uint64(63)
_HALF = np.uint64(0xFFFF_FFFF)
_FRACTION_BITS = np.uint64(_MANTISSA_BITS)
_HIDDEN = np.uint64(1 << _MANTISSA_BITS)
_FRACTION = np.uint64((1 << _MANTISSA_BITS) - 1)


def _power(k: int) -> int:
    """Return 10 ** k, scaled by a power of two to exactly 128 bits and rounded up."""
    power: int = 10 ** abs(k)
    bits = power.bit_length()
    if k < 0:
        return -((-1 << (127 + bits)) // power)
    return -((-power << 128) >> bits)


_POWERS = np.array([divmod(_power(k), 1 << 64) for k in range(_POWER_FIRST, _POWER_LAST + 1)], dtype=np.uint64)


def compiled(function: _Function) -> _Function:
    """Compile a function at its first call, and cache the result for other processes if a folder can be written."""
    # Nothing here allocates, so numba need not count references: that took a third of the time.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
    try:
        made: _Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Without such a folder, as in a read-only container, each start compiles.
        made = numba.njit(**options)(function)
    return made


@compiled
def write_integer(text: Any, at: int, number: int) -> int:
    """Write an int64 at `at`, and return its end."""
    rest = np.uint64(number)
    if number < 0:
        text[at] = _BYTE_MINUS
        at += 1
        rest = _0 - rest
    return _write_digits(text, at, rest, _count(rest))


@compiled
def write_double(text: Any, at: int, bits: Any) -> int:
    """Write the double with these bits (a uint64) at `at`, and return its end. NaN and infinity become null."""
    exponent = np.int64(bits >> _FRACTION_BITS) & _NOT_FINITE
    if exponent == _NOT_FINITE:
        for byte in b"null":
            text[at] = byte
            at += 1
        return at
    if bits >> _LAST_BIT != _0:
        text[at] = _BYTE_MINUS
        at += 1
    fraction = bits & _FRACTION
    whole, is_whole = _whole(fraction, exponent)
    if is_whole:
        at = _write_digits(text, at, whole, _count(whole))
        text[at] = _BYTE_POINT
        text[at + 1] = _BYTE_ZERO
        return at + 2
    digits, power = _shortest(fraction, exponent)
    return _write_decimal(text, at, digits, power)


@compiled
def _whole(fraction: Any, exponent: Any) -> tuple[Any, bool]:
    """Tell whether a double is a whole number below 1e16, and return it: no shorter decimal exists for it."""
    if exponent == 0:
        return fraction, fraction == _0
    mantissa = fraction | _HIDDEN
    shift = _BIAS - exponent
    if shift == -1:
        return mantissa << _1, mantissa << _1 < _1E16
    if shift < 0 or shift > _MANTISSA_BITS:
        return _0, False
    whole = mantissa >> np.uint64(shift)
    return whole, whole << np.uint64(shift) == mantissa


@compiled
def _shortest(fraction: Any, exponent: Any) -> tuple[Any, int]:
    """Return the digits and the power of ten of the shortest decimal, perhaps with zeros at its end.

    The double's value, and the borders halfway to its neighbours, are multiplied by four. A border belongs to a double
    with an even mantissa, since readers round half to even.
    """
    mantissa, binary = fraction | _HIDDEN, exponent - _BIAS
    if exponent == 0:
        mantissa, binary = fraction, 1 - _BIAS
    odd = mantissa & _1
    # The neighbour below a power of two is nearer.
    near = fraction == _0 and exponent > 1
    # floor(log10(2 ** binary)), of three quarters of it if the neighbour is nearer; the next line has log2(10).
    power = (binary * 1_262_611 - (524_031 if near else 0)) >> 22
    shift = np.uint64(binary + ((-power * 1_741_647) >> 19) + 1)
    high, low = _POWERS[-power - _POWER_FIRST]
    middle = mantissa * _4
    lower = _scale(high, low, (middle - (_1 if near else _2)) << shift) + odd
    value = _scale(high, low, middle << shift)
    upper = _scale(high, low, (middle + _2) << shift) - odd
    short = value // _40
    if short != _0:
        below, above = lower <= short * _40, (short + _1) * _40 <= upper
        if below != above:
            return short + (_1 if above else _0), power + 1
    floor = value // _4
    below, above = lower <= floor * _4, (floor + _1) * _4 <= upper
    if below == above:
        half = floor * _4 + _2
        above = value > half or (value == half and floor & _1 != _0)
    return floor + (_1 if above else _0), power


@compiled
def _scale(high: Any, low: Any, number: Any) -> Any:
    """Return the upper bits of a power of ten times a number; the last bit is set if any of the lower 128 bits is."""
    lost = high * number + _product(low, number)
    whole = _product(high, number) + (_1 if lost < high * number else _0)
    return whole | (_1 if lost > _1 else _0)


@compiled
def _product(a: Any, b: Any) -> Any:
    """Return the upper 64 bits of a product."""
    a_high, a_low, b_high, b_low = a >> _HALF_BITS, a & _HALF, b >> _HALF_BITS, b & _HALF
    one = a_high * b_low + (a_low * b_low >> _HALF_BITS)
    other = a_low * b_high + (one & _HALF)
    return a_high * b_high + (one >> _HALF_BITS) + (other >> _HALF_BITS)


@compiled
def _write_decimal(text: Any, at: int, digits: Any, power: int) -> int:
    """Write digits times a power of ten, with an exponent if its size needs one; never a whole number below 1e16."""
    size = _count(digits)
    point = power + size - 1
    digits, size = _trim(digits, size)
    if _PLAIN_FIRST <= point < 0:
        text[at] = _BYTE_ZERO
        text[at + 1] = _BYTE_POINT
        at += 2
        for _ in range(-1 - point):
            text[at] = _BYTE_ZERO
            at += 1
        return _write_digits(text, at, digits, size)
    is_plain = 0 <= point <= _PLAIN_LAST
    at = _write_pointed(text, at, digits, size, point + 1 if is_plain else 1)
    if is_plain:
        return at
    text[at] = _BYTE_E
    return write_integer(text, at + 1, point)


@compiled
def _write_pointed(text: Any, at: int, digits: Any, size: int, before: int) -> int:
    """Write digits with a point after the first `before` of them, unless that is all of them."""
    if size == before:
        return _write_digits(text, at, digits, size)
    end = _write_digits(text, at + 1, digits, size)
    for _ in range(before):
        text[at] = text[at + 1]
        at += 1
    text[at] = _BYTE_POINT
    return end


@compiled
def _trim(digits: Any, size: int) -> tuple[Any, int]:
    """Remove the zeros at the end, up to sixteen: in steps of eight, four, two and one."""
    for step, divisor in ((8, _1E8), (8, _1E8), (4, _10_000), (2, _100), (1, _10)):
        rest = digits // divisor
        if rest * divisor == digits:
            digits, size = rest, size - step
    return digits, size


@compiled
def _count(digits: Any) -> int:
    """Count decimal digits; 0 has one."""
    size = 1
    # Most doubles have 16 or 17 digits before they are trimmed.
    if digits >= _1E15:
        size, digits = 16, digits // _1E15
    while digits >= _10:
        size, digits = size + 1, digits // _10
    return size


@compiled
def _write_digits(text: Any, at: int, digits: Any, size: int) -> int:
    """Write a number of `size` digits, the last digit first, and return its end."""
    # Never true, but it tells the compiler that no index is negative: so it writes eight bytes as one word.
    if at < 0:
        return at
    left = size
    while left >= _EIGHT:
        rest = digits // _1E8
        left -= _EIGHT
        eight = _ascii_digits(digits - rest * _1E8)
        for i in range(_EIGHT):
            text[at + left + i] = np.uint8(eight >> np.uint64(8 * i))
        digits = rest
    while left > 0:
        rest = digits // _10
        left -= 1
        text[at + left] = np.uint8(digits - rest * _10) + _BYTE_ZERO
        digits = rest
    return at + size


@compiled
def _ascii_digits(number: Any) -> Any:
    """Return the eight ASCII digits of a number below 1e8, the first in the lowest byte.

    Both halves, then all four quarters, are divided in one word: 10,486 / 2 ** 20 gives the hundredth of a number below
    10,000, and 103 / 2 ** 10 the tenth of a number below 100.
    """
    rest = number // _10_000
    both = rest | (number - rest * _10_000) << np.uint64(32)
    rest = (both * np.uint64(10_486) >> np.uint64(20)) & np.uint64(0x7F_0000_007F)
    both = rest | (both - rest * _100) << np.uint64(16)
    rest = (both * np.uint64(103) >> np.uint64(10)) & np.uint64(0xF_000F_000F_000F)
    return (rest | (both - rest * _10) << np.uint64(8)) + np.uint64(0x3030_3030_3030_3030)
