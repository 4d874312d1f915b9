"""Says how old the oldest record is that is still to be handled, from where the log's end was at earlier times.

No record is read for it: a record that is unhandled at offset X came between the last look at which the log ended at or
before X and the next one. Pure: times are arguments.
"""

from bisect import bisect_right
from collections import deque

import msgspec

LOOKS_MAX = 900


class LagAge(msgspec.Struct, frozen=True):
    """The age in seconds. With `is_least` it is older: the record was there before the first look."""

    seconds: float
    is_least: bool = False


class LagClock:
    """The ends of one partition's log over time."""

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=LOOKS_MAX)
        self._ends: deque[int] = deque(maxlen=LOOKS_MAX)

    def look(self, at_ms: int, end: int) -> None:
        """Note where the log ends now. A log that ends earlier than before is a new one."""
        if self._ends and end < self._ends[-1]:
            self._times.clear()
            self._ends.clear()
        self._times.append(at_ms)
        self._ends.append(end)

    def age(self, committed: int) -> LagAge:
        """Return the age of the record at an offset at the last look; 0 if the log has no such record yet."""
        if not self._ends or committed >= self._ends[-1]:
            return LagAge(0.0)
        first = bisect_right(self._ends, committed)
        return LagAge((self._times[-1] - self._times[first]) / 1_000, is_least=first == 0)
