"""Watches both ends of the log: the end for the lag, and the start for records that retention deletes too early.

Records that a restart must relearn must not be deleted before a snapshot has them. These are the records between the
newest snapshot X and the committed offset Y. If the log holds fewer records below X than that, retention will soon
reach X: log a warning, and save a snapshot at once.

While the stream is paused, retention may also delete records that were never read. Log that at once: the stream stops
only when it is read on, after the batch that waits was sent.
"""

from collections.abc import Callable, Mapping

import structlog

from headrace.consumers.source import Source
from headrace.consumers.topics import Topic
from headrace.pipeline.lag_clock import LagClock
from headrace.pipeline.telemetry import Telemetry
from headrace.state.shard import Shard

log = structlog.get_logger("headrace")

_LOOK_S = 10.0


class Retention:
    """Check one partition after the other, each about every _LOOK_S seconds.

    `shards` are those of the worker. `is_paused` tells whether nothing is read. `hurry` is called with a shard whose
    snapshot is near the start of the log.
    """

    def __init__(
        self,
        source: Source,
        *,
        topic: Topic,
        shards: Mapping[int, Shard],
        is_paused: Callable[[], bool],
        hurry: Callable[[Shard], None],
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._hurry = hurry
        self._source = source
        self._names = topic.name, "" if topic.labels is None else topic.labels.name
        self._shards = shards
        self._is_paused = is_paused
        self._lost: dict[tuple[str, int], int] = {}
        self._telemetry = telemetry
        self._clock = clock
        self._look_at: dict[int, float] = {}
        self._lags: dict[tuple[str, int], LagClock] = {}

    def due(self) -> Shard | None:
        """Return a shard whose check is due, if there is one."""
        now = self._clock()
        return next((s for s in self._shards.values() if self._look_at.get(s.partition, 0.0) <= now), None)

    def look(self, shard: Shard) -> None:
        """Check whether the start of the log comes near the shard's newest snapshot, and warn. Raises SourceAway."""
        self._look_at[shard.partition] = self._clock() + _LOOK_S
        low, high = self._source.log_range(shard.partition)
        self._publish_lag(shard.partition, "features", high, shard.committed)
        self._telemetry.retention_slack.labels(str(shard.partition)).set(shard.snapshot_offset - low)
        self._judge(shard, "features", low, (shard.start, shard.snapshot_offset, shard.committed))
        self._count_lost(shard.partition, self._names[0], shard.offset, low)
        if shard.labels is not None:
            low, high = self._source.log_range(shard.partition, labels=True)
            self._publish_lag(shard.partition, "labels", high, shard.labels_committed)
            places = shard.labels_start, shard.labels_snapshot_offset, shard.labels_committed
            self._judge(shard, "labels", low, places)
            self._count_lost(shard.partition, self._names[1], shard.labels_offset, low)

    def _publish_lag(self, partition: int, topic: str, end: int, committed: int) -> None:
        """Bring the metrics of a log's lag up to date. The seconds count from when the worker saw the record come."""
        clock = self._lags.setdefault((topic, partition), LagClock())
        clock.look(int(self._clock() * 1_000), end)
        self._telemetry.lag_records.labels(str(partition), topic).set(max(0, end - committed))
        self._telemetry.lag_seconds.labels(str(partition), topic).set(clock.age(committed).seconds)

    def _judge(self, shard: Shard, topic: str, low: int, places: tuple[int, int, int]) -> None:
        start, snapshot, committed = places
        slack, unsaved = snapshot - low, committed - snapshot
        # If the history begins at the start of the log, nothing was deleted yet.
        if unsaved <= 0 or slack >= unsaved or low <= start:
            return
        log.warning(
            "retention nears the newest snapshot: what is not saved soon could not be relearned",
            topic=topic,
            partition=shard.partition,
            log_start=low,
            snapshot=snapshot,
            committed=committed,
        )
        self._hurry(shard)

    def _count_lost(self, partition: int, topic: str, offset: int, low: int) -> None:
        """Log how many records were deleted before they were read, if there are more than the last time."""
        lost = low - offset
        # While the stream flows, the client may still hold records that the log has not any more.
        if not self._is_paused() or lost <= self._lost.get((topic, partition), 0):
            return
        self._lost[topic, partition] = lost
        log.error(
            "retention has deleted records that were never read: the stream stops when it is to go on there",
            topic=topic,
            partition=partition,
            log_start=low,
            offset=offset,
            records=lost,
            hint="raise the topic's retention",
        )
