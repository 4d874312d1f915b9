"""Durations as people write them in the configuration: "250ms", "1h", or for an interval "400 records"."""

import math
import re
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_RECORDS = re.compile(r"([1-9]\d{0,8}) records?")


def duration_s(value: Any) -> Any:
    """Convert a duration such as "250ms", "1s", "24h" or "7d" to seconds; a bare number is seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError('a duration is written like "250ms", "30s", "10m", "24h" or "7d"')
        return float(match[1]) * _UNIT_S[match[2]]
    return value


def interval_of(value: Any) -> Any:
    """Convert a duration to seconds; keep a number of records ("400 records") as it is."""
    if records_of(value) is not None:
        return value
    seconds = duration_s(value)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError('an interval is a time like "1s", or a number of records like "400 records"')
    return seconds


def records_of(value: Any) -> int | None:
    """Return the number in "400 records", or None for any other value."""
    match = _RECORDS.fullmatch(str(value))
    return int(match[1]) if match else None
