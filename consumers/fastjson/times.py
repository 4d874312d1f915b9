"""Reads times in compiled code: numbers and numeric text in a unit, and RFC 3339 text, to milliseconds since 1970.

The decoder reads what is rare: exponents, leap seconds, times before 1970, and numbers with more digits than a double
keeps.
"""

# ruff: noqa: FBT001, PLR0917, PLR1714  Compiled functions have only positional arguments; `in` compiles slowly.

from typing import Any

import numpy as np

from headrace.consumers.fastjson.jit import SOURCES, byte, entry, inlined, subroutine
from headrace.consumers.fastjson.number import SLOW, digits_at

UNITS = ("", "s", "ms", "us", "ns", "iso")
"""The units of time by number."""

_ISO = UNITS.index("iso")
# numba compiles a function anew for each literal argument, so this is no literal.
_SIGNS: Any = np.frombuffer(b'\x0009.-+:"etz ', np.uint8).astype(np.int64)
_ANY, _ZERO, _NINE, _POINT, _MINUS, _PLUS, _COLON, _QUOTE, _E, _T, _Z, _SPACE = _SIGNS
_LOWER_CASE = 0x20
_0 = np.uint64(0)
_TIME_MAX = np.uint64((1 << 63) - 1)
# With this number of digits there is no overflow. A double keeps all digits of a shorter number.
_DIGITS_MAX, _SHIFT_MAX, _EXACT_DIGITS_MAX = 19, 18, 15
# By unit: the power of ten by which a time is divided.
_SHIFTS = np.array([0, -3, 0, 3, 6], np.int64)
_TENS = np.array([10**k for k in range(_SHIFT_MAX + 1)], np.int64)
# Up to this time, which is far in the future, a double differs from the written number by less than 1/100 ms.
_SAFE_MS, _SAFE_PARTS = 1 << 43, 100
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
_DAYS_BEFORE = np.array([0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334], np.int64)
_FEBRUARY, _MONTHS = 2, 12
# The days from 1 January of the year 1 to 1 January 1970.
_EPOCH_DAYS = 719_162
_HOURS, _MINUTES, _SECOND_MS = 24, 60, 1_000


@entry
def read_times(
    text: Any, begins: Any, unit: int, within_quotes: bool, times: Any, slow: Any, _sources: int = SOURCES
) -> None:
    """Read the time at each of these positions, if it is not negative; mark the records whose time is for the decoder.

    Times are numbers, or text between quotes; else they are text before a zero byte.
    """
    for i in range(len(begins)):
        times[i] = -1
        at = begins[i]
        if at < 0:
            continue
        is_text = not within_quotes or byte(text, at) == _QUOTE
        at = at + 1 if within_quotes and is_text else at
        end: Any = np.int64(SLOW)
        if unit != _ISO:
            end, times[i] = _decimal(text, at, unit, is_text)
        elif is_text:
            end, times[i] = _date_time(text, at)
        if end < 0 or (is_text and byte(text, end) != (_QUOTE if within_quotes else _ANY)):
            times[i] = -1
            slow[i] = True


@inlined
def _decimal(text: Any, at: int, unit: int, is_text: bool) -> tuple[int, int]:
    """Return the end of a number, and the number in milliseconds, without its fraction. The end may be SLOW."""
    digits, end = digits_at(text, at, _0)
    size = whole_size = end - at
    if whole_size == 0 or (whole_size > 1 and byte(text, at) == _ZERO):
        return SLOW, 0
    if byte(text, end) == _POINT:
        digits, fraction_end = digits_at(text, end + 1, digits)
        if fraction_end == end + 1:
            return SLOW, 0
        size, end = whole_size + fraction_end - end - 1, fraction_end
    shift = _SHIFTS[unit] + size - whole_size
    if size > _DIGITS_MAX or digits > _TIME_MAX or shift > _SHIFT_MAX or byte(text, end) | _LOWER_CASE == _E:
        return SLOW, 0
    number = np.int64(digits)
    if shift <= 0:
        if size - shift > _SHIFT_MAX:
            return SLOW, 0
        found, part, one = number * _TENS[-shift], 0, 1
    else:
        one = _TENS[shift]
        found, part = number // one, number % one
    if is_text or size == whole_size or size <= _EXACT_DIGITS_MAX:
        return end, found
    # The decoder has a double: close to a whole millisecond it may be on the other side.
    is_safe = found < _SAFE_MS and part > one // _SAFE_PARTS and part < one - one // _SAFE_PARTS
    return (end if is_safe else SLOW), found


@inlined
def _date_time(text: Any, at: int) -> tuple[int, int]:
    """Return the end of a date, a time and a zone, and the time in UTC. The end may be SLOW."""
    # Every part is checked before the next one is read: so nothing is read beyond the end of the record.
    at, century = _two_digits(text, at, _ANY)
    at, years = _two_digits(text, at, _ANY)
    at, month = _two_digits(text, at, _MINUS)
    at, day = _two_digits(text, at, _MINUS)
    at, hours = _two_digits(text, at, _T)
    at, minutes = _two_digits(text, at, _COLON)
    at, seconds = _two_digits(text, at, _COLON)
    if at < 0 or hours >= _HOURS or minutes >= _MINUTES or seconds >= _MINUTES:
        return SLOW, 0
    days = _days(100 * century + years, month, day)
    at, ms = _fraction(text, at)
    at, offset = _zone(text, at)
    found = (((days * _HOURS + hours) * _MINUTES + minutes - offset) * _MINUTES + seconds) * _SECOND_MS + ms
    return (at if days >= 0 and found >= 0 else SLOW), found


@subroutine
def _two_digits(text: Any, at: int, before: int) -> tuple[int, int]:
    """Return the end of two digits, and their number; `before` them is this byte, if it is not zero. It may be SLOW.

    A space may stand for the T between the date and the time.
    """
    if at < 0:
        return SLOW, 0
    if before != _ANY:
        found = byte(text, at)
        if found != before and not (before == _T and (found | _LOWER_CASE == _T or found == _SPACE)):
            return SLOW, 0
        at += 1
    upper = byte(text, at)
    if upper < _ZERO or upper > _NINE:
        return SLOW, 0
    lower = byte(text, at + 1)
    if lower < _ZERO or lower > _NINE:
        return SLOW, 0
    return at + 2, 10 * (upper - _ZERO) + lower - _ZERO


@inlined
def _days(year: int, month: int, day: int) -> int:
    """Return the number of days from 1970 to a date; negative for earlier ones, and for dates that do not exist."""
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year == 0 or month == 0 or month > _MONTHS or day == 0:
        return -1
    if day > _MONTH_DAYS[month] + (1 if is_leap and month == _FEBRUARY else 0):
        return -1
    before = year - 1
    leap_days = before // 4 - before // 100 + before // 400 + (1 if is_leap and month > _FEBRUARY else 0)
    return 365 * before + leap_days + _DAYS_BEFORE[month] + day - 1 - _EPOCH_DAYS  # type: ignore[no-any-return]


@inlined
def _fraction(text: Any, at: int) -> tuple[int, int]:
    """Return the end of a fraction of a second, if there is one, and its whole milliseconds. The end may be SLOW."""
    if at < 0 or byte(text, at) != _POINT:
        return at, 0
    first = at + 1
    at, ms, weight = first, 0, 100
    while byte(text, at) >= _ZERO and byte(text, at) <= _NINE:
        ms += weight * (byte(text, at) - _ZERO)
        weight //= 10
        at += 1
    return (at if at > first else SLOW), ms


@inlined
def _zone(text: Any, at: int) -> tuple[int, int]:
    """Return the end of a zone, and its distance from UTC in minutes. The end may be SLOW."""
    if at < 0:
        return SLOW, 0
    found = byte(text, at)
    if found | _LOWER_CASE == _Z:
        return at + 1, 0
    if found != _PLUS and found != _MINUS:
        return SLOW, 0
    at, hours = _two_digits(text, at + 1, _ANY)
    at, minutes = _two_digits(text, at, _COLON)
    if at < 0 or hours >= _HOURS or minutes >= _MINUTES:
        return SLOW, 0
    offset = _MINUTES * hours + minutes
    return at, -offset if found == _MINUS else offset
