"""One order for the two logs of a partition: which features and which labels are handled next.

A pure state machine between the source and the engine. New records go by their timestamps, as far as both logs are
known; what was handled before goes again in the very steps in which it went then. A slice that it gives is a run of
records in their one order, and the places at which the two logs stand after it.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import accumulate
from typing import Literal

import msgspec

from headrace.consumers.record import LabelRecord, Record

Log = Literal[0, 1]
"""The features or the labels."""
LogOffsets = tuple[int, int]
"""An offset of the features and one of the labels."""
IsAtEnd = Callable[[Log, int], bool]
"""Tells whether a log, 0 the features and 1 the labels, is known to have nothing from an offset on."""

LOGS: tuple[Log, Log] = (0, 1)
"""Both logs of a partition."""
# Records of one log that wait for the other's, beyond which the log is not fetched any further.
_HELD_MAX = 20_000
# How long one log may wait to learn whether the other has something older.
_PATIENCE_S = 0.5
_LOOK_S = 0.05


class Slice(msgspec.Struct, frozen=True):
    """Records of both logs in one order. `silent` ones have had their outputs in an earlier life.

    `again` tells a step that was taken before, in this order.
    """

    records: Sequence[Record]
    end: LogOffsets
    silent: bool
    again: bool = False


class Interleave:
    """Order what comes of one partition from `place` on.

    Up to `committed` the order is that of `steps`, each the place at which it ended; where they are not known, it is
    that of the timestamps. `held` are the records that wait.
    """

    def __init__(self, place: LogOffsets, *, committed: LogOffsets, steps: Sequence[LogOffsets] | None) -> None:
        self.place = place
        self.held: tuple[list[Record], list[Record]] = ([], [])
        self._committed = committed
        self._steps = list(steps or ())
        self._steps.reverse()
        self._ends = [-1, -1]
        self._looked_s: float | None = None
        self._waited_s = 0.0

    @property
    def is_relearning(self) -> bool:
        """Whether the committed place is not reached yet."""
        return any(place < committed for place, committed in zip(self.place, self._committed, strict=True))

    def feed(self, log: Log, records: Sequence[Record], end: int | None) -> None:
        """Add what came of a log, and the offset at which it ends, where that came, too."""
        behind = self._next(log)
        self.held[log].extend([record for record in records if record.offset >= behind])
        if end is not None:
            self._ends[log] = end

    def clear(self) -> None:
        """Forget what is held: it is read again from `place` on."""
        for log in self.held:
            log.clear()
        self._ends = [-1, -1]

    def has_enough(self, log: Log) -> bool:
        """Tell whether so much of a log is held that no more should be fetched; not while the next step lacks some."""
        if self._steps and not self._is_there(log, self._steps[-1]):
            return False
        return len(self.held[log]) > _HELD_MAX

    def lacks(self, log: Log) -> bool:
        """Tell whether a log that is not fetched should be again: what comes next may lack it."""
        if self._steps and not self._is_there(log, self._steps[-1]):
            return True
        return len(self.held[log]) <= _HELD_MAX // 2

    def next_offset(self, log: Log) -> int:
        """Return the offset of a log from which on nothing has come yet."""
        return self._next(log)

    def take(self, now_s: float, *, records_max: int, is_at_end: IsAtEnd) -> Slice | None:
        """Give the next slice, None when more must come first. What follows it is asked for by calling again."""
        if self._steps:
            return self._take_step(self._steps[-1])
        if self.is_relearning:
            return self._take_by_time(now_s, records_max, is_at_end, limit=self._committed)
        return self._take_by_time(now_s, records_max, is_at_end, limit=None)

    def _take_step(self, end: LogOffsets) -> Slice | None:
        """Take a step that was taken before: at once when it is in one log alone, else when it is there as a whole."""
        whole = self._is_there(0, end) and self._is_there(1, end)
        alone = self.place[0] == end[0] or self.place[1] == end[1]
        if not whole and not alone:
            return None
        first, second = (self._below(log, end) for log in LOGS)
        if not whole and not (first or second):
            return None
        records = self._cut(len(first), len(second))
        if whole:
            self._steps.pop()
            self.place = end
        return Slice(records, self.place, silent=True, again=True)

    def _take_by_time(
        self, now_s: float, records_max: int, is_at_end: IsAtEnd, *, limit: LogOffsets | None
    ) -> Slice | None:
        counts = self._known(is_at_end, limit)
        waiting = any(self._below(log, limit) for log in LOGS)
        if not any(counts) and waiting:
            # What passes while other partitions are learned is no silence of the log's: little counts for each look.
            if self._looked_s is not None:
                self._waited_s += min(now_s - self._looked_s, _LOOK_S)
            self._looked_s = now_s
            if self._waited_s < _PATIENCE_S:
                return None
            # The other log is silent, and nobody knows whether it is empty: this one can't wait for ever.
            counts = [len(self._below(log, limit)) for log in LOGS]
        self._looked_s, self._waited_s = None, 0.0
        before = self.place
        records = self._cut(*counts, records_max=records_max)
        self._pass_ends(limit)
        if not records and self.place == before:
            return None
        return Slice(records, self.place, silent=limit is not None)

    def _known(self, is_at_end: IsAtEnd, limit: LogOffsets | None) -> list[int]:
        """Count, of each log, the records that nothing older can come before any more."""
        horizon: int | None = None
        for log in LOGS:
            held = self._below(log, limit)
            done = limit is not None and self._is_there(log, limit)
            if done or self._ends[log] >= self._next(log) or is_at_end(log, self._next(log)):
                continue
            last_ms = held[-1].timestamp_ms if held else -1
            horizon = last_ms if horizon is None else min(horizon, last_ms)
        counts = []
        for log in LOGS:
            held = self._below(log, limit)
            count = len(held)
            # One that is dated later than those behind it holds none of them up.
            while count and horizon is not None and held[count - 1].timestamp_ms > horizon:
                count -= 1
            counts.append(count)
        return counts

    def _cut(self, features: int, labels: int, *, records_max: int | None = None) -> list[Record]:
        """Take so many records of each log, in one order, and at most `records_max` of them."""
        first, second = self.held[1][:labels], self.held[0][:features]
        ordered = _merged(first, second)[:records_max]
        taken = sum(type(record) is LabelRecord for record in ordered)
        if len(ordered) < len(first) + len(second):
            # A relearning has no more of a step than what it took: that alone decides on the order.
            ordered = _merged(first[:taken], second[: len(ordered) - taken])
        ends = list(self.place)
        for log, count in ((0, len(ordered) - taken), (1, taken)):
            if count:
                ends[log] = self.held[log][count - 1].offset + 1
                del self.held[log][:count]
        self.place = ends[0], ends[1]
        return ordered

    def _pass_ends(self, limit: LogOffsets | None) -> None:
        """Pass what lies behind the last record of a log: control records, aborted ones."""
        place = list(self.place)
        for log in LOGS:
            if limit is not None and self._is_there(log, limit) and not self._below(log, limit):
                place[log] = max(place[log], limit[log])
            elif limit is None and not self.held[log]:
                place[log] = max(place[log], self._ends[log])
        self.place = place[0], place[1]

    def _is_there(self, log: Log, end: LogOffsets) -> bool:
        """Tell whether all of a log below a place has come."""
        return self._next(log) >= end[log] or self._ends[log] >= end[log]

    def _below(self, log: Log, limit: LogOffsets | None) -> Sequence[Record]:
        held = self.held[log]
        if limit is None or not held or held[-1].offset < limit[log]:
            return held
        return [record for record in held if record.offset < limit[log]]

    def _next(self, log: Log) -> int:
        return self.held[log][-1].offset + 1 if self.held[log] else self.place[log]


def _merged(labels: list[Record], features: list[Record]) -> list[Record]:
    """Merge records of both logs by their timestamps, those of each log in its order.

    A record counts as no later than any behind it in its log: one producer's fast clock must not hold up all others'.
    Of the same millisecond the label goes first: it is of features that came before.
    """
    if not labels or not features:
        return labels or features
    return [record for _, record in merge(_dated(labels), _dated(features), key=_time)]


def _dated(records: Sequence[Record]) -> Iterator[tuple[int, Record]]:
    times = [*accumulate((record.timestamp_ms for record in reversed(records)), min)]
    return zip(reversed(times), records, strict=True)


def _time(dated: tuple[int, Record]) -> int:
    return dated[0]
