"""The time of a partition's stream, in ms since 1970, taken from its events even if some producers' clocks are wrong.

It is the newest event time among the last 15 records, and one record can't move it far: an event time that is more than
a bound ahead of Kafka's timestamps and of the other events counts only when 8 of the last 15 records have reached it.
Kafka's timestamps may come from the same wrong clock, so they are checked in the same way. After a pause of the stream
its time is right with the eighth record at the latest. After many wrong records it is right again soon, since only the
last 15 count.

The result depends on the records and their order, not on the batches.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec

_AHEAD_MS = 10 * 365 * 86_400_000
_LAST = 15
_MOST = 8
_LEAD_MIN_MS = 60_000
_LEAD_SHARE = 4
NO_TIME = -(2**62)
"""The timestamp of a record at which no time passes."""

_Time = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class Times(msgspec.Struct, frozen=True, array_like=True):
    """The state of a clock: the event times of the last records, and their timestamps in Kafka."""

    events: list[_Time] = []
    logged: list[_Time] = []


class StrayTime(NamedTuple):
    """An event time too far ahead to count: the offset of its record, and its distance to the stream's time."""

    offset: int
    ahead_ms: int
    labels: bool = False


class StrayTimes:
    """Counts the event times too far ahead since the last `drain`, and keeps the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: StrayTime | None = None

    def note(self, stray: StrayTime) -> None:
        """Count one."""
        self.count += 1
        self.first = self.first or stray

    def drain(self) -> tuple[int, StrayTime | None]:
        """Return the count and the first, and start again from zero."""
        count, first = self.count, self.first
        self.count, self.first = 0, None
        return count, first


class EventClock:
    """The stream's time, `now_ms`; -1 before the first event.

    It is for waits of `span_ms`: one record can shorten a wait by a quarter at most, or by a minute if that is more.
    """

    def __init__(self, span_ms: int) -> None:
        self._lead_ms = max(_LEAD_MIN_MS, span_ms // _LEAD_SHARE)
        self._events = _LastTimes()
        self._logged = _LastTimes()
        self._limit_ms = -1
        self.now_ms = -1

    def resume(self, times: Times) -> None:
        """Continue from the state of another clock."""
        self._events, self._logged = _LastTimes(times.events), _LastTimes(times.logged)
        self._update()

    def times(self) -> Times:
        """Return the clock's state."""
        return Times(list(self._events.order), list(self._logged.order))

    def tick(self, at_ms: int | None, logged_ms: int) -> bool:
        """Add a record with its event time, None if it has none; tell whether that time counts."""
        if logged_ms > 0:
            self._logged.add(logged_ms)
        if at_ms is None:
            self._update()
            return True
        possible = is_time(at_ms, logged_ms)
        if possible:
            self._events.add(at_ms)
        self._update()
        return possible and self.accepts(at_ms)

    def tick_all(self, at_ms: Sequence[int], logged_ms: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Add many records; an event time below zero means that the record has only Kafka's timestamp.

        With a timestamp of `NO_TIME`, no time passes at the record.
        Returns the stream's time after each, and the index of each event time that does not count, with its distance.
        """
        nows, strays = [], []
        for place, (at, logged) in enumerate(zip(at_ms, logged_ms, strict=True)):
            time_ms = logged if at < 0 else at
            if logged != NO_TIME and not self.tick(time_ms, logged):
                strays.append((place, time_ms - self.now_ms))
            nows.append(self.now_ms)
        return nows, strays

    def accepts(self, at_ms: int) -> bool:
        """Tell whether an event time is near enough to those of the last records to count."""
        return self._limit_ms < 0 or at_ms <= self._limit_ms

    def fork(self) -> "EventClock":
        """Return an independent copy of this clock."""
        other = EventClock(0)
        other._lead_ms = self._lead_ms
        other.resume(self.times())
        return other

    def _update(self) -> None:
        """Compute the time from the last records, and the limit for the next event times."""
        events, reached, reached_logged = self._events.ranked, self._events.reached, self._logged.reached
        if not events:
            return
        limit_ms = max(reached, reached_logged) + self._lead_ms
        newest = events[-1]
        self._limit_ms = limit_ms
        self.now_ms = newest if newest <= limit_ms else events[bisect_right(events, limit_ms) - 1]


class _LastTimes:
    """The last 15 times, in their order and by size. 8 of them are at `reached` or later; with fewer than 8, all are.

    `reached` is -1 before the first.
    """

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self.order = deque(numbers[-_LAST:])
        self.ranked = sorted(self.order)
        self.reached = self.ranked[-min(_MOST, len(self.ranked))] if self.ranked else -1

    def add(self, number: int) -> None:
        """Add a time; when there are 15, it replaces the oldest."""
        order, ranked = self.order, self.ranked
        if len(order) == _LAST:
            oldest = order.popleft()
            # Times mostly come in order, so the oldest is mostly the smallest.
            del ranked[0 if ranked[0] == oldest else bisect_left(ranked, oldest)]
        order.append(number)
        insort(ranked, number)
        self.reached = ranked[-_MOST] if len(ranked) > _MOST else ranked[0]


def is_time(at_ms: int, logged_ms: int) -> bool:
    """Tell whether an event time is plausible: a decade after Kafka's timestamp it is a mistake, like microseconds."""
    return logged_ms <= 0 or at_ms - _AHEAD_MS <= logged_ms
