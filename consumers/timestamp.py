"""Reads event times: numbers and text in a unit, and RFC 3339, as milliseconds since 1970."""

import re
from datetime import date
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

from headrace.consumers.mapping import TimeUnit
from headrace.consumers.refusal import Refusal

UNITS: dict[TimeUnit, str] = {
    "s": "a number of seconds since 1970",
    "ms": "a number of milliseconds since 1970",
    "us": "a number of microseconds since 1970",
    "ns": "a number of nanoseconds since 1970",
    "iso": "a time with its zone, such as 2026-11-30T15:44:00Z",
}
"""The time that each unit stands for, as messages name it."""
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
"""Text that is a decimal number."""

_SCALES: dict[TimeUnit, Decimal] = {"s": Decimal(1_000), "ms": Decimal(1), "us": Decimal("1e-3"), "ns": Decimal("1e-6")}
_TOO_LARGE = 2**63
# Far more digits than a time of 63 bits has: more are cut, and never rounded up.
_DIGITS = Context(prec=60, rounding=ROUND_FLOOR)
_EXPONENT_MAX = 40
_SHOWN_MAX = 60
# Integers of fewer bits fit a double.
_BITS_MAX = 1_023
_DAY_ZERO = date(1970, 1, 1).toordinal()
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d+))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)


def read_time(found: float | str, unit: TimeUnit) -> int | None:
    """Return the milliseconds since 1970 of a time in a unit, without a fraction; None for a value that is no time."""
    if unit == "iso":
        return _read_rfc3339(found) if isinstance(found, str) else None
    if isinstance(found, str):
        found = found.strip()
        if not NUMBER.fullmatch(found):
            return None
        number = _DIGITS.create_decimal(found)
    elif isinstance(found, int):
        # An integer of any size: Python writes no more than 4,300 digits.
        number = Decimal(found if abs(found) < 10**_EXPONENT_MAX else 10**_EXPONENT_MAX * (1 if found > 0 else -1))
    else:
        # The shortest text that is this number, so that 1700000000.123 seconds are 1700000000123 ms.
        number = Decimal(repr(found))
    if not number.is_finite():
        return None
    if number.adjusted() >= _EXPONENT_MAX:
        return _TOO_LARGE if number > 0 else -1
    return int(_DIGITS.multiply(number, _SCALES[unit]).to_integral_value(rounding=ROUND_FLOOR))


def refuse_time(found: float | str, unit: TimeUnit, field: str) -> Refusal:
    """Return the refusal of a value that is no time in a unit."""
    words = f'{field} is {_shown(found)}; it must be {UNITS[unit]} (records.ts_unit = "{unit}")'
    return Refusal("bad_time", "decode", words, field)


def _shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, int) and value.bit_length() > _BITS_MAX:
        return "an integer too large for a double"
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _read_rfc3339(text: str) -> int | None:
    parts = _RFC_3339.fullmatch(text)
    if parts is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = parts.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _DAY_ZERO
    except ValueError:
        return None
    seconds = ((days * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    if sign is not None:
        ahead = (int(zone_hours) * 60 + int(zone_minutes)) * 60
        seconds -= ahead if sign == "+" else -ahead
    return seconds * 1_000 + int((fraction or "")[:3].ljust(3, "0"))
