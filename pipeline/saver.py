"""Saves snapshots when they are due: often while they are cheap, and never more than a share of the time."""

import time
from collections.abc import Callable

import structlog

from consumers.topics import Topic
from pipeline.telemetry import Telemetry
from state import snapshot
from state.shard import Shard
from state.store import Store, StoreAway, StoreFenced
from state.table import TableDamaged

log = structlog.get_logger("headrace")

# Saving may take this share of a worker's time: a big model is saved less often.
_SHARE = 0.05


class Saver:
    """Save shards of `topic` at least `interval_s` seconds apart, or after `records_max` records.

    A partition whose rows in the store turn out to be damaged is told to `distrust`.
    """

    def __init__(
        self,
        store: Store,
        *,
        topic: Topic,
        interval_s: float,
        records_max: int,
        distrust: Callable[[int], None],
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._distrust = distrust
        self._store = store
        self._topic = topic
        self._interval_s = interval_s
        self._records_max = records_max
        self._telemetry = telemetry
        self._clock = clock
        self._due: dict[int, float] = {}

    def due(self, shard: Shard) -> bool:
        """Tell whether a shard is to be saved now; one that was never asked about has just been taken over."""
        behind = shard.unsaved
        at = self._due.setdefault(shard.partition, self._clock() + self._interval_s)
        return behind > 0 and (self._clock() >= at or behind >= self._records_max or shard.is_crowded)

    def hurry(self, shard: Shard) -> None:
        """Let a shard be due at once, until it is saved."""
        self._due[shard.partition] = self._clock()

    def forget(self, partition: int) -> None:
        """Forget a partition that is another's now."""
        self._due.pop(partition, None)

    def save(self, shard: Shard) -> bool:
        """Save a shard; return False when it is to be taken over again, by a newer owner or here. Raises StoreAway."""
        started = self._clock()
        labels = self._topic.labels
        try:
            changes = shard.changes()
            taken = snapshot.take(
                shard,
                topic=self._topic.name,
                topic_id=self._topic.id,
                now_ms=time.time_ns() // 1_000_000,
                labels=("", "") if labels is None else (labels.name, labels.id),
            )
            # Without rows, whatever the store has lost meanwhile is made good by this.
            base = shard.version if taken.tables else 0
            shard.version = self._store.save(taken, changes=changes, base=base)
        except StoreFenced as error:
            self._telemetry.snapshots.labels("fenced").inc()
            log.warning("snapshot refused, the partition is taken over again", reason=str(error))
            return False
        except TableDamaged as error:
            self._telemetry.snapshots.labels("failed").inc()
            self._distrust(shard.partition)
            log.warning("the store's rows are not what they were, the partition is learned again", reason=str(error))
            return False
        except StoreAway:
            self._telemetry.snapshots.labels("failed").inc()
            raise
        shard.saved(changes)
        took = self._clock() - started
        self._due[shard.partition] = self._clock() + max(self._interval_s, took / _SHARE)
        self._telemetry.snapshots.labels("saved").inc()
        self._telemetry.snapshot_seconds.observe(took)
        self._telemetry.snapshot_bytes.labels(str(shard.partition)).set(len(taken.model))
        return True
