"""How far the worker is behind the ends of its logs: in records, and for how many seconds.

The seconds are measured on the worker's clock, from when it saw that the log reached beyond the committed offset. So
they do not depend on the records' own times, and a stream of one record an hour is not an hour behind.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from headrace.consumers.source import PartitionLog
from headrace.state.shard import Shard

_SEEN_MAX = 512


class Lag(NamedTuple):
    """`records` are not handled yet, and the oldest of them has waited for `seconds`, as far as the worker saw it."""

    records: int
    seconds: float


class LagClock:
    """Follow the end of one log. Pure: times are arguments, in seconds on a monotonic clock."""

    def __init__(self) -> None:
        # Ends of the log beyond the committed offset, each with the time at which it was seen first.
        self._seen: deque[tuple[int, float]] = deque()
        self._end = -1

    def see(self, end: int, now_s: float) -> None:
        """Note the log's end: the offset of the next record that a producer writes."""
        if end <= self._end:
            return
        self._end = end
        self._seen.append((end, now_s))
        if len(self._seen) > _SEEN_MAX:
            # Of two neighbours the older time stays: the lag is never told shorter than it is.
            pairs = zip(*[iter(self._seen)] * 2, strict=False)
            last = self._seen[-1] if len(self._seen) % 2 else None
            self._seen = deque((later, since) for (_, since), (later, _) in pairs)
            if last is not None:
                self._seen.append(last)

    def lag(self, committed: int, now_s: float) -> Lag:
        """Return the lag of the committed offset, which never goes back."""
        while self._seen and self._seen[0][0] <= committed:
            self._seen.popleft()
        if not self._seen:
            return Lag(0, 0.0)
        return Lag(self._end - committed, now_s - self._seen[0][1])


class LagWatch:
    """The lag of each log of a worker. `shards` are the worker's, by partition; `clock` is monotonic, in seconds."""

    def __init__(self, shards: Mapping[int, Shard], *, clock: Callable[[], float]) -> None:
        self._shards = shards
        self._clock = clock
        self._clocks: dict[PartitionLog, LagClock] = {}

    def see(self, log: PartitionLog, end: int) -> None:
        """Note the end of a log."""
        self._clocks.setdefault(log, LagClock()).see(end, self._clock())

    def forget(self, partition: int) -> None:
        """Forget a partition that another worker has now."""
        for labels in (False, True):
            self._clocks.pop((labels, partition), None)

    def lags(self, partition: int) -> dict[str, Lag]:
        """Return the lag of `features`, and of `labels` if there are such; none that was not seen yet."""
        shard = self._shards[partition]
        committed, now_s = {False: shard.committed, True: shard.labels_committed}, self._clock()
        return {
            "labels" if labels else "features": self._clocks[labels, partition].lag(committed[labels], now_s)
            for labels in (False, True)
            if (labels, partition) in self._clocks
        }
