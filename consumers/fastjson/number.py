"""Parses JSON numbers to the nearest double, in compiled code.

Eight digits are read at once. A short number is the exact quotient or product of two doubles (Clinger, "How to read
floating point numbers accurately", 1990). The others need one or two products with a power of five of 128 bits
(Lemire, "Number parsing at a gigabyte per second", 2021); that is always enough for up to 19 digits (Mushtak and
Lemire, "Fast number parsing without fallback", 2022). The decoder reads longer numbers. Do not mix uint64 with signed
numbers here: numba would turn the result into a double.
"""

from typing import Any

import numpy as np

from headrace.consumers.fastjson.jit import byte, double, inlined, leading, load, product, subroutine, trailing

INTEGER, FLOAT, BOOLEAN, STRING, NULL, WIDE = range(6)
"""Kinds of JSON values, the same as in the model's columns (`state/models/columns.py`)."""
EXACT_MAX = 1 << 53
"""Up to here a double holds each integer; those beyond are wide."""
SLOW = -1
"""Returned instead of an end position: this code can't read the value, the decoder must."""

_ZERO, _POINT, _MINUS, _PLUS, _E = b"0.-+e"
_LOWER_CASE = 0x20
_EIGHT, _BITS = 8, 64
_DIGITS_MAX = 19
# The number of digits of 2 ** 53, and of the longest exponent that is read here.
_EXACT_DIGITS_MAX, _EXPONENT_DIGITS_MAX = 16, 4
_EXACT_MAX = np.uint64(EXACT_MAX)

_0, _1, _2, _3, _8, _16, _32, _63 = (np.uint64(n) for n in (0, 1, 2, 3, 8, 16, 32, 63))
# Eight copies of a byte: "0"; all bits but the highest; the number that lifts any value above 9 over 127; that bit.
_ZEROS, _LOW_BITS, _PAST_NINE, _HIGH_BITS = (
    np.uint64(n * 0x0101_0101_0101_0101) for n in (_ZERO, 0x7F, 0x7F - 9, 0x80)
)
# For `_eight_digits`, which joins pairs of digits, then pairs of pairs, then both halves.
_TEN, _BYTES = np.uint64(10), np.uint64(0x0000_00FF_0000_00FF)
_UPPER, _LOWER = np.uint64(100 + (1_000_000 << 32)), np.uint64(1 + (10_000 << 32))
_TENS = np.array([10**k for k in range(_EIGHT + 1)], dtype=np.uint64)

_CLINGER_MAX = 22
_EXACT_TENS = np.array([10.0**k for k in range(_CLINGER_MAX + 1)])

# With smaller or larger powers of ten any 19 digits give zero or infinity.
_POWER_FIRST, _POWER_LAST = -342, 308
_SURE = np.uint64((1 << 64) - 1 >> 55)
_FRACTION_BITS, _GUARD_BITS = 52, 9
_BIAS, _EXPONENT_LAST = 1_023, 2_046
_HALVES_FIRST, _HALVES_LAST = -4, 23
_HIDDEN, _SIGN = np.uint64(1 << 52), np.uint64(52)


def _power(q: int) -> int:
    """Return 5 ** q, scaled by a power of two to exactly 128 bits: rounded down, or up for a negative q."""
    power: int = 5 ** abs(q)
    bits = power.bit_length()
    if q < 0:
        return (1 << (127 + bits)) // power + 1
    return power << (128 - bits) if bits <= 128 else power >> (bits - 128)  # noqa: PLR2004 as the name says


_POWERS = np.array([divmod(_power(q), 1 << 64) for q in range(_POWER_FIRST, _POWER_LAST + 1)], dtype=np.uint64)


@inlined
def number(text: Any, at: int) -> tuple[int, int, float]:
    """Return the end of the number at `at`, its kind and its value. The end may be SLOW.

    Integers are read up to 2 ** 53, so that a double holds them exactly.
    """
    negative = byte(text, at) == _MINUS
    first = at + 1 if negative else at
    digits, end = digits_at(text, first, _0)
    size = end - first
    if size == 0 or (size > 1 and byte(text, first) == _ZERO):
        return SLOW, INTEGER, 0.0
    follows = byte(text, end)
    if follows == _POINT or follows | _LOWER_CASE == _E:
        end, value = _decimal(text, first, end, digits)
        return end, FLOAT, -value if negative else value
    # The decoder reads -0 as the integer 0, but the double -0.0 has a sign.
    if size > _EXACT_DIGITS_MAX or digits > _EXACT_MAX or (negative and digits == _0):
        return SLOW, INTEGER, 0.0
    value = np.float64(np.int64(digits))
    return end, INTEGER, -value if negative else value


@inlined
def digits_at(text: Any, at: int, digits: Any) -> tuple[Any, int]:
    """Append the digits from `at` on to a number; return it and the end of the digits. It overflows after 19 digits."""
    while True:
        chunk = load(text, at) ^ _ZEROS
        others = (((chunk & _LOW_BITS) + _PAST_NINE) | chunk) & _HIGH_BITS
        if others == _0:
            digits = digits * _TENS[_EIGHT] + _eight_digits(chunk)
            at += _EIGHT
            continue
        size = trailing(others) >> 3
        if size > 0:
            # The shift puts zeros before the first digit.
            digits = digits * _TENS[size] + _eight_digits(chunk << np.uint64(_BITS - _EIGHT * size))
        return digits, at + size


@inlined
def _eight_digits(chunk: Any) -> Any:
    """Return the number whose eight digits are the bytes of `chunk`, the first digit in the lowest byte."""
    chunk = chunk * _TEN + (chunk >> _8)
    return ((chunk & _BYTES) * _UPPER + ((chunk >> _16) & _BYTES) * _LOWER) >> _32


@inlined
def _decimal(text: Any, first: int, end: int, digits: Any) -> tuple[int, float]:
    """Return the end of a number with a fraction or an exponent, and its value; `end` is that of its first digits."""
    size, power = end - first, 0
    if byte(text, end) == _POINT:
        fraction = end + 1
        digits, end = digits_at(text, fraction, digits)
        if end == fraction:
            return SLOW, 0.0
        size, power = size + end - fraction, fraction - end
    if size > _DIGITS_MAX and size - _leading_zeros(text, first) > _DIGITS_MAX:
        return SLOW, 0.0
    if byte(text, end) | _LOWER_CASE == _E:
        end, exponent = _exponent(text, end + 1)
        power += exponent
    value = _nearest(digits, power)
    return (end, value) if value >= 0.0 else (SLOW, 0.0)


@subroutine
def _leading_zeros(text: Any, at: int) -> int:
    """Count the zeros before the first other digit."""
    count = 0
    while byte(text, at) == _ZERO or byte(text, at) == _POINT:
        count += 1 if byte(text, at) == _ZERO else 0
        at += 1
    return count


@subroutine
def _exponent(text: Any, at: int) -> tuple[int, Any]:
    """Return the end of an exponent, and its value. The end may be SLOW."""
    sign = byte(text, at)
    first = at + 1 if sign in (_MINUS, _PLUS) else at
    digits, end = digits_at(text, first, _0)
    if end == first or end - first > _EXPONENT_DIGITS_MAX:
        return SLOW, 0
    exponent = np.int64(digits)
    return end, -exponent if sign == _MINUS else exponent


@inlined
def _nearest(digits: Any, power: int) -> Any:
    """Return the double nearest to digits * 10 ** power; -1 if it is infinite or subnormal."""
    if power < _POWER_FIRST or power > _POWER_LAST:
        return -1.0
    if digits == _0:
        return 0.0
    if -_CLINGER_MAX <= power <= _CLINGER_MAX and digits <= _EXACT_MAX:
        exact = np.float64(np.int64(digits))
        return exact * _EXACT_TENS[power] if power >= 0 else exact / _EXACT_TENS[-power]
    return _lemire(digits, power)


@inlined
def _lemire(digits: Any, power: int) -> Any:
    """Return the nearest double, from the upper bits of the product of the digits and a power of five."""
    shift = leading(digits)
    digits <<= np.uint64(shift)
    row = power - _POWER_FIRST
    upper, lower = product(digits, _POWERS[row, 0])
    if upper & _SURE == _SURE:
        # A carry from the lower bits could change the result.
        carry, _ = product(digits, _POWERS[row, 1])
        lower += carry
        upper += _1 if carry > lower else _0
    high = upper >> _63
    guard = high + np.uint64(_GUARD_BITS)
    mantissa = upper >> guard
    exponent = ((217_706 * power) >> 16) + 63 + np.int64(high) - shift + _BIAS
    if mantissa & _3 == _1 and lower <= _1 and _HALVES_FIRST <= power <= _HALVES_LAST and mantissa << guard == upper:
        # Exactly between two doubles: round to the even one, which is the lower.
        mantissa -= _1
    mantissa = (mantissa + (mantissa & _1)) >> _1
    if mantissa >= _HIDDEN << _1:
        mantissa = _HIDDEN
        exponent += 1
    if exponent < 1 or exponent > _EXPONENT_LAST:
        return -1.0
    return double((mantissa - _HIDDEN) | (np.uint64(exponent) << _SIGN))
