"""Numbers as JSON has them, written into an array of bytes by compiled code: whole ones, and doubles at their shortest.

The bytes are msgspec's to the last one: the shortest decimal that reads back as the same double, and of those the
nearest; `1.0` for a whole number; an exponent from 1e16 on and below 1e-5. Schubfach (Giulietti, "The Schubfach way
to render doubles", 2020) finds the decimal with three products of 64 by 128 bits. A double comes as its bits, so that
nothing in here rounds. Whatever has more than 63 bits stands among uint64 alone, since numba makes a signed number of
a mixture.
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
# The exponent of the mantissa's last bit is the field less this; where the field is 0, it is that of field 1.
_BIAS = 1_075
# What a double is in scientific notation decides its form: with an exponent from here to there it is written out.
_PLAIN_FIRST, _PLAIN_LAST = -5, 15
# The powers of ten that a double's exponent can ask for.
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
    """Return 10 ** k times a power of two, so that it has exactly 128 bits, rounded up."""
    power: int = 10 ** abs(k)
    bits = power.bit_length()
    if k < 0:
        return -((-1 << (127 + bits)) // power)
    return -((-power << 128) >> bits)


_POWERS = np.array([divmod(_power(k), 1 << 64) for k in range(_POWER_FIRST, _POWER_LAST + 1)], dtype=np.uint64)


def compiled(function: _Function) -> _Function:
    """Compile a function when it is first called, and keep the result for other processes where there is a place."""
    # Nothing in here allocates. Without numba's memory there are no counts of references either, and those, one for
    # each array in each call, took a third of the time.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
    try:
        kept: _Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder takes it, as in a read-only container: then each start compiles.
        kept = numba.njit(**options)(function)
    return kept


@compiled
def write_integer(text: Any, at: int, number: int) -> int:
    """Write an int64 at `at`, and return where it ends."""
    rest = np.uint64(number)
    if number < 0:
        text[at] = _BYTE_MINUS
        at += 1
        rest = _0 - rest
    return _write_digits(text, at, rest, _count(rest))


@compiled
def write_double(text: Any, at: int, bits: Any) -> int:
    """Write the double that has these bits (a uint64) at `at`, and return where it ends. What is not finite is null."""
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
    """Tell whether a double is a whole number below 1e16, which is its own shortest decimal, and return it."""
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

    All numbers are quadrupled: the double's, and those of the borders halfway to its neighbours. A border belongs to
    the double where its mantissa is even, as readers round half to even.
    """
    mantissa, binary = fraction | _HIDDEN, exponent - _BIAS
    if exponent == 0:
        mantissa, binary = fraction, 1 - _BIAS
    odd = mantissa & _1
    # Below a power of two the neighbour is nearer.
    near = fraction == _0 and exponent > 1
    # floor(log10(2 ** binary)), of three quarters of it where the neighbour is nearer; and log2(10) below.
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
    """Return a power of ten times a number, without the last 128 bits; whether those were not zero is the last bit."""
    lost = high * number + _product(low, number)
    whole = _product(high, number) + (_1 if lost < high * number else _0)
    return whole | (_1 if lost > _1 else _0)


@compiled
def _product(a: Any, b: Any) -> Any:
    """Return the upper 64 of the 128 bits of a product."""
    a_high, a_low, b_high, b_low = a >> _HALF_BITS, a & _HALF, b >> _HALF_BITS, b & _HALF
    one = a_high * b_low + (a_low * b_low >> _HALF_BITS)
    other = a_low * b_high + (one & _HALF)
    return a_high * b_high + (one >> _HALF_BITS) + (other >> _HALF_BITS)


@compiled
def _write_decimal(text: Any, at: int, digits: Any, power: int) -> int:
    """Write digits times a power of ten, which is not whole or at least 1e16, in the form that its size asks for."""
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
    """Write digits with a point after so many of them, and none after the last."""
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
    """Leave out the zeros at the end: eight at a time, then four, two and one, as there may be sixteen."""
    for step, divisor in ((8, _1E8), (8, _1E8), (4, _10_000), (2, _100), (1, _10)):
        rest = digits // divisor
        if rest * divisor == digits:
            digits, size = rest, size - step
    return digits, size


@compiled
def _count(digits: Any) -> int:
    """Count decimal digits; 0 has one."""
    size = 1
    # Most doubles have 16 or 17 before they are trimmed.
    if digits >= _1E15:
        size, digits = 16, digits // _1E15
    while digits >= _10:
        size, digits = size + 1, digits // _10
    return size


@compiled
def _write_digits(text: Any, at: int, digits: Any, size: int) -> int:
    """Write a number that has so many digits, from its end, and return where it ends."""
    # Never so. But told that no index counts from an array's end, the compiler writes eight bytes as one word.
    if at < 0:
        return at
    left = size
    while left >= _EIGHT:
        rest = digits // _1E8
        left -= _EIGHT
        eight = _spread(digits - rest * _1E8)
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
def _spread(number: Any) -> Any:
    """Return a number below 1e8 as its eight digits, the first in the lowest byte.

    The halves, then their halves, are divided side by side in one word: 10,486 / 2 ** 20 is a hundredth for what is
    below 10,000, and 103 / 2 ** 10 a tenth for what is below 100.
    """
    rest = number // _10_000
    both = rest | (number - rest * _10_000) << np.uint64(32)
    rest = (both * np.uint64(10_486) >> np.uint64(20)) & np.uint64(0x7F_0000_007F)
    both = rest | (both - rest * _100) << np.uint64(16)
    rest = (both * np.uint64(103) >> np.uint64(10)) & np.uint64(0xF_000F_000F_000F)
    return (rest | (both - rest * _10) << np.uint64(8)) + np.uint64(0x3030_3030_3030_3030)
