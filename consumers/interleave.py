"""Puts the records of a partition's two logs, features and labels, into one order.

A pure state machine between the source and the engine. New records are ordered by their timestamps, as far as both logs
have been read. Records that were handled before come in the same steps as the first time. A slice is a run of ordered
records, with the offsets of both logs after it.
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
"""An offset in the features and one in the labels."""
IsAtEnd = Callable[[Log, int], bool]
"""Tells whether a log is known to have no record at an offset or after it."""

LOGS: tuple[Log, Log] = (0, 1)
"""Both logs of a partition."""
# With more buffered records than this, a log is not fetched any further.
_BUFFERED_MAX = 20_000
# How long one log waits for older records of the other.
_WAIT_MAX_S = 0.5
_LOOK_S = 0.05


class Slice(msgspec.Struct, frozen=True):
    """Records of both logs in one order. The outputs of `silent` records are committed already.

    A `recorded` slice is one of the steps that were given: its order is known already.
    """

    records: Sequence[Record]
    end: LogOffsets
    silent: bool
    recorded: bool = False


class Interleave:
    """Order the records of one partition from `position` on.

    Below `committed` the order follows `steps`, the offsets at which each step ended. Without steps it follows the
    timestamps. `buffered` holds the records that wait, by log.
    """

    def __init__(self, position: LogOffsets, *, committed: LogOffsets, steps: Sequence[LogOffsets] | None) -> None:
        self.position = position
        self.buffered: tuple[list[Record], list[Record]] = ([], [])
        self._committed = committed
        self._steps = list(steps or ())
        self._steps.reverse()
        self._ends = [-1, -1]
        self._looked_s: float | None = None
        self._waited_s = 0.0

    @property
    def is_relearning(self) -> bool:
        """Whether the committed offsets are not reached yet."""
        return any(offset < committed for offset, committed in zip(self.position, self._committed, strict=True))

    def add(self, log: Log, records: Sequence[Record], end: int | None) -> None:
        """Buffer records of a log. `end` is the log's end, if the read reached it."""
        start = self.next_offset(log)
        self.buffered[log].extend([record for record in records if record.offset >= start])
        if end is not None:
            self._ends[log] = end

    def clear(self) -> None:
        """Drop the buffered records: they are read again from `position` on."""
        for log in self.buffered:
            log.clear()
        self._ends = [-1, -1]

    def has_enough(self, log: Log) -> bool:
        """Tell whether fetching of a log should pause. It goes on while the next step is incomplete."""
        if self._steps and not self._is_read(log, self._steps[-1]):
            return False
        return len(self.buffered[log]) > _BUFFERED_MAX

    def needs_more(self, log: Log) -> bool:
        """Tell whether fetching of a paused log should go on."""
        if self._steps and not self._is_read(log, self._steps[-1]):
            return True
        return len(self.buffered[log]) <= _BUFFERED_MAX // 2

    def next_offset(self, log: Log) -> int:
        """Return the offset after the last buffered record of a log."""
        return self.buffered[log][-1].offset + 1 if self.buffered[log] else self.position[log]

    def next_slice(self, now_s: float, *, records_max: int, is_at_end: IsAtEnd) -> Slice | None:
        """Remove the next slice from the buffers and return it; None while it needs records that are not read yet."""
        if self._steps:
            return self._next_step(self._steps[-1])
        if self.is_relearning:
            return self._next_by_time(now_s, records_max, is_at_end, limit=self._committed)
        return self._next_by_time(now_s, records_max, is_at_end, limit=None)

    def _next_step(self, end: LogOffsets) -> Slice | None:
        """Return a recorded step. A step of one log may come in parts; one of both logs must be complete."""
        complete = self._is_read(0, end) and self._is_read(1, end)
        in_one_log = self.position[0] == end[0] or self.position[1] == end[1]
        if not complete and not in_one_log:
            return None
        features, labels = (self._below(log, end) for log in LOGS)
        if not complete and not (features or labels):
            return None
        records = self._remove(len(features), len(labels))
        if complete:
            self._steps.pop()
            self.position = end
        return Slice(records, self.position, silent=True, recorded=True)

    def _next_by_time(
        self, now_s: float, records_max: int, is_at_end: IsAtEnd, *, limit: LogOffsets | None
    ) -> Slice | None:
        counts = self._ready(is_at_end, limit)
        waiting = any(self._below(log, limit) for log in LOGS)
        if not any(counts) and waiting:
            # The worker may have been busy with other partitions since the last call: count only a little of that time.
            if self._looked_s is not None:
                self._waited_s += min(now_s - self._looked_s, _LOOK_S)
            self._looked_s = now_s
            if self._waited_s < _WAIT_MAX_S:
                return None
            # The other log is silent, and may be empty: do not wait for it for ever.
            counts = [len(self._below(log, limit)) for log in LOGS]
        self._looked_s, self._waited_s = None, 0.0
        before = self.position
        records = self._remove(*counts, records_max=records_max)
        self._skip_to_ends(limit)
        if not records and self.position == before:
            return None
        return Slice(records, self.position, silent=limit is not None)

    def _ready(self, is_at_end: IsAtEnd, limit: LogOffsets | None) -> list[int]:
        """Count the records of each log before which no older record can still arrive."""
        horizon: int | None = None
        for log in LOGS:
            records = self._below(log, limit)
            start = self.next_offset(log)
            done = limit is not None and self._is_read(log, limit)
            if done or self._ends[log] >= start or is_at_end(log, start):
                continue
            last_ms = records[-1].timestamp_ms if records else -1
            horizon = last_ms if horizon is None else min(horizon, last_ms)
        counts = []
        for log in LOGS:
            records = self._below(log, limit)
            count = len(records)
            # From the end: a record from a fast clock must not hold up the older ones behind it.
            while count and horizon is not None and records[count - 1].timestamp_ms > horizon:
                count -= 1
            counts.append(count)
        return counts

    def _remove(self, features: int, labels: int, *, records_max: int | None = None) -> list[Record]:
        """Remove these numbers of records, `records_max` at most, and return them in one order."""
        from_labels, from_features = self.buffered[1][:labels], self.buffered[0][:features]
        ordered = _merged(from_labels, from_features)[:records_max]
        labelled = sum(type(record) is LabelRecord for record in ordered)
        if len(ordered) < len(from_labels) + len(from_features):
            # Relearning sees only the records of this step, so only they may decide on the order.
            ordered = _merged(from_labels[:labelled], from_features[: len(ordered) - labelled])
        ends = list(self.position)
        for log, count in ((0, len(ordered) - labelled), (1, labelled)):
            if count:
                ends[log] = self.buffered[log][count - 1].offset + 1
                del self.buffered[log][:count]
        self.position = ends[0], ends[1]
        return ordered

    def _skip_to_ends(self, limit: LogOffsets | None) -> None:
        """Skip the control records and aborted records behind the last record of a log."""
        position = list(self.position)
        for log in LOGS:
            if limit is not None and self._is_read(log, limit) and not self._below(log, limit):
                position[log] = max(position[log], limit[log])
            elif limit is None and not self.buffered[log]:
                position[log] = max(position[log], self._ends[log])
        self.position = position[0], position[1]

    def _is_read(self, log: Log, end: LogOffsets) -> bool:
        """Tell whether all records of a log below `end` are read."""
        return self.next_offset(log) >= end[log] or self._ends[log] >= end[log]

    def _below(self, log: Log, limit: LogOffsets | None) -> Sequence[Record]:
        records = self.buffered[log]
        if limit is None or not records or records[-1].offset < limit[log]:
            return records
        return [record for record in records if record.offset < limit[log]]


def _merged(labels: list[Record], features: list[Record]) -> list[Record]:
    """Merge the records of both logs by their timestamps; the records of one log keep their order.

    A record counts as no later than any record behind it in its log: the fast clock of one producer must not hold up
    the records of the others. With equal timestamps the label comes first: its features came before.
    """
    if not labels or not features:
        return labels or features
    return [record for _, record in merge(_timed(labels), _timed(features), key=_time)]


def _timed(records: Sequence[Record]) -> Iterator[tuple[int, Record]]:
    times = [*accumulate((record.timestamp_ms for record in reversed(records)), min)]
    return zip(reversed(times), records, strict=True)


def _time(timed: tuple[int, Record]) -> int:
    return timed[0]
