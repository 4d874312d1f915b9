"""The last quarter of an hour as columns of numbers, so that a page that opens has charts at once."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.pipeline.page.frame import StreamFrame
from headrace.pipeline.page.timeline import TimelineEvent

SECONDS = 900
EVENTS_MAX = 200
# More lines than these can't be told apart, and the page must stay small.
_LINES_MAX = 64


class History:
    """A ring of frames, reduced to what charts draw."""

    def __init__(self) -> None:
        self._frames: deque[tuple[Sequence[Any], Mapping[int, float]]] = deque(maxlen=SECONDS)
        self._events: deque[TimelineEvent] = deque(maxlen=EVENTS_MAX)

    def add(self, frame: StreamFrame) -> None:
        """Add a frame, in the order of time."""
        self._events.extend(frame.events)
        self._frames.append((point(frame), {row.partition: round(row.lag_s, 1) for row in frame.partitions}))

    def told(self) -> dict[str, Any]:
        """Return the columns by name, the lag of each partition in seconds, and the events."""
        names = ("t", "records", "dead_letters", "lag", "lag_s", "p50", "p99", "recent", "total", "share")
        points = [values for values, _ in self._frames]
        numbers = sorted({number for _, lags in self._frames for number in lags})[:_LINES_MAX]
        return {
            **{name: [values[at] for values in points] for at, name in enumerate(names)},
            "partitions": {number: [lags.get(number) for _, lags in self._frames] for number in numbers},
            "events": list(self._events),
        }


def point(frame: StreamFrame) -> Sequence[Any]:
    """Return the numbers of a frame that are drawn, in the order of `History.told`."""
    quality, latency = frame.quality or {}, frame.latency
    return (
        frame.at,
        round(frame.rates.get("records", 0.0), 1),
        round(frame.rates.get("dead_letters", 0.0), 2),
        frame.lag,
        round(frame.lag_s, 1),
        None if latency is None else latency.p50,
        None if latency is None else latency.p99,
        quality.get("accuracy_recent", quality.get("mae_recent")),
        quality.get("accuracy", quality.get("mae")),
        frame.labelled_share,
    )
