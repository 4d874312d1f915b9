"""The time of a partition's stream, and the keys that were silent in it for too long."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace.state.event_time import EventClock, Times


class BatchTimes(NamedTuple):
    """The clock behind a batch, and the stream's time at each record (`nows`).

    `ahead` has the event times that did not count: the index of the record, and the distance in ms.
    """

    clock: EventClock
    nows: Sequence[int]
    ahead: Sequence[tuple[int, int]]


class Silence:
    """Keys that send nothing for `span_ms` are forgotten; None keeps them for ever, and no time passes."""

    def __init__(self, span_ms: int | None) -> None:
        self._span_ms = span_ms
        self._clock = EventClock(span_ms or 0)

    @property
    def counts(self) -> bool:
        """Whether keys are forgotten."""
        return self._span_ms is not None

    @property
    def now_ms(self) -> int:
        """The stream's time."""
        return self._clock.now_ms

    def times(self) -> Times:
        """Return the state of the clock."""
        return self._clock.times()

    def resume(self, times: Times) -> None:
        """Continue from the state of another clock."""
        self._clock.resume(times)

    def tick(self, at_ms: int | None, logged_ms: int) -> int:
        """Let the time of a record pass: of its event, None if it has none, and of the log.

        Returns 0, or the distance in ms of an event time that is too far ahead to count.
        """
        if self._span_ms is None:
            return 0
        at_ms = logged_ms if at_ms is None else at_ms
        return 0 if self._clock.tick(at_ms, logged_ms) else at_ms - self._clock.now_ms

    def passes(self, records: int, times: tuple[Any, Any] | None) -> BatchTimes | None:
        """Return how the time of the stream passes during a batch, which `accept` then lets pass.

        `times` (int64, ms) are those of the events, below zero for none, and of the log; None if no time passes.
        Returns None if a key may be forgotten between two records of the batch.
        """
        if self._span_ms is None or not records:
            return BatchTimes(self._clock, (), ())
        if times is None:
            return BatchTimes(self._clock, [self._clock.now_ms] * records, ())
        clock = self._clock.fork()
        nows, ahead = clock.tick_all(*(array.tolist() for array in times))
        return None if max(nows) - min(nows) > self._span_ms else BatchTimes(clock, nows, ahead)

    def accept(self, passed: BatchTimes) -> None:
        """Let the times of a batch pass."""
        self._clock = passed.clock

    def is_over(self, seen_ms: int, now_ms: int | None = None) -> bool:
        """Tell whether a key that was last seen at this time, below zero for none, is forgotten by now."""
        now_ms = self.now_ms if now_ms is None else now_ms
        return self._span_ms is not None and 0 <= seen_ms < now_ms - self._span_ms
