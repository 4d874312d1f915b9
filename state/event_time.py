"""Stream time: what the events of a partition say that the time is, in ms since 1970, however wrong some clocks are.

It is the newest event time among the last records, and no single record moves it far: an event time that lies ahead of
Kafka's timestamps, or of the other events', by more than a bound counts only once most of the last records have come
there. Most means eight of fifteen: Kafka's timestamps may be set by the very clock that is wrong, so these are judged
in the same way. After a pause of the stream, time has caught up with the eighth record at the latest; and since only
the last records count, it is right again soon after most of them were wrong.

It is a function of the records in their order, wherever they are cut into batches.
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


_Time = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class Times(msgspec.Struct, frozen=True, array_like=True):
    """What a clock goes on from: the event times of the last records, and the timestamps that Kafka has of them."""

    events: list[_Time] = []
    logged: list[_Time] = []


class StrayTime(NamedTuple):
    """An event time that was not believed: the offset of its record, and by how much it lay ahead of the stream's."""

    offset: int
    ahead_ms: int
    labels: bool = False


class StrayTimes:
    """Event times that were not believed, since somebody last asked: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: StrayTime | None = None

    def note(self, stray: StrayTime) -> None:
        """Note one."""
        self.count += 1
        self.first = self.first or stray

    def told(self) -> tuple[int, StrayTime | None]:
        """Return how many there were, and the first, and begin anew."""
        count, first = self.count, self.first
        self.count, self.first = 0, None
        return count, first


class EventClock:
    """The stream's time, `now_ms`, -1 before the first event.

    It serves waits of `span_ms`: of those one record takes a quarter away at the most, or a minute.
    """

    def __init__(self, span_ms: int) -> None:
        self._lead_ms = max(_LEAD_MIN_MS, span_ms // _LEAD_SHARE)
        self._events = _Last()
        self._logged = _Last()
        self._limit_ms = -1
        self.now_ms = -1

    def resume(self, times: Times) -> None:
        """Go on from where a clock stood."""
        self._events, self._logged = _Last(times.events), _Last(times.logged)
        self._read()

    def times(self) -> Times:
        """Return what another clock needs to go on from here."""
        return Times(list(self._events.order), list(self._logged.order))

    def tick(self, at_ms: int | None, logged_ms: int) -> bool:
        """See a record of an event at `at_ms`, None where it is not told; tell whether its time is believed by now."""
        if logged_ms > 0:
            self._logged.add(logged_ms)
        if at_ms is None:
            self._read()
            return True
        could_be = is_time(at_ms, logged_ms)
        if could_be:
            self._events.add(at_ms)
        self._read()
        return could_be and self.believes(at_ms)

    def tick_all(self, at_ms: Sequence[int], logged_ms: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """See many records, of events below zero where the log's time is all that is known.

        Returns the time with each, and the places of those that are not believed, with how far ahead they are.
        """
        nows, strays = [], []
        for place, (at, logged) in enumerate(zip(at_ms, logged_ms, strict=True)):
            told_ms = logged if at < 0 else at
            if not self.tick(told_ms, logged):
                strays.append((place, told_ms - self.now_ms))
            nows.append(self.now_ms)
        return nows, strays

    def believes(self, at_ms: int) -> bool:
        """Tell whether an event time is near enough to those of the last records."""
        return self._limit_ms < 0 or at_ms <= self._limit_ms

    def fork(self) -> "EventClock":
        """Return a clock of its own that stands where this one does."""
        other = EventClock(0)
        other._lead_ms = self._lead_ms
        other.resume(self.times())
        return other

    def _read(self) -> None:
        """Read the time off the last records, and how far ahead an event may lie."""
        events, most, most_logged = self._events.ranked, self._events.reached, self._logged.reached
        if not events:
            return
        limit_ms = max(most, most_logged) + self._lead_ms
        newest = events[-1]
        self._limit_ms = limit_ms
        self.now_ms = newest if newest <= limit_ms else events[bisect_right(events, limit_ms) - 1]


class _Last:
    """The last numbers that were seen, in their order and by size; `reached` is the one that most have, -1 for none.

    Of fewer than eight it is the least.
    """

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self.order = deque(numbers[-_LAST:])
        self.ranked = sorted(self.order)
        self.reached = self.ranked[-min(_MOST, len(self.ranked))] if self.ranked else -1

    def add(self, number: int) -> None:
        """Add a number, in the place of the oldest where there are enough."""
        order, ranked = self.order, self.ranked
        if len(order) == _LAST:
            oldest = order.popleft()
            # As it is where they come in order.
            del ranked[0 if ranked[0] == oldest else bisect_left(ranked, oldest)]
        order.append(number)
        insort(ranked, number)
        self.reached = ranked[-_MOST] if len(ranked) > _MOST else ranked[0]


def is_time(at_ms: int, logged_ms: int) -> bool:
    """Tell whether an event time can be one: decades past the log's it is a mistake, such as microseconds."""
    return logged_ms <= 0 or at_ms - _AHEAD_MS <= logged_ms
