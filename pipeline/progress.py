"""Moves shards over a batch of records: what was learned before is relearned in silence, the rest is new.

The committed offset is the border. Below it the records have had their outputs in an earlier life; they bring
the model back to where it stood, and nothing of them is sent again.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from consumers.record import Record
from consumers.source import Batch
from pipeline.delivery import Pending
from pipeline.engine import Engine, Result
from pipeline.takeover import Takeover
from pipeline.telemetry import Telemetry
from state.shard import Shard

log = structlog.get_logger("headrace")

_BATCH_S = 0.5
_FIRST_RECORDS = 500


class Progress:
    """Learn batches with an engine. `shards` are the runner's, by partition."""

    def __init__(
        self,
        *,
        engine: Engine,
        takeover: Takeover,
        shards: Mapping[int, Shard],
        records_max: int,
        telemetry: Telemetry,
        reach: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._reach = reach
        self._engine = engine
        self._takeover = takeover
        self._shards = shards
        self._records_max = records_max
        self._telemetry = telemetry
        self._clock = clock
        self.relearned = 0
        self.batch_records = min(_FIRST_RECORDS, records_max)

    def learn(self, batch: Batch) -> Pending | None:
        """Learn a batch and return what it has to send; None when all of it was learned before.

        Raises StateError when a shard does not arrive at the counts that its committed offset tells.
        """
        started = self._clock()
        now_ms = time.time_ns() // 1_000_000
        pending = Pending({}, {}, {}, batch.membership, 0)
        for partition, records in batch.records.items():
            shard = self._shards.get(partition)
            if shard is not None:
                self._advance(shard, records, pending, now_ms)
        for partition, end in batch.ends.items():
            self._pass_end(partition, end, pending)
        took_s = self._clock() - started
        self._telemetry.batch_seconds.labels("learn").observe(took_s)
        self._fit(sum(map(len, batch.records.values())), took_s)
        return pending if pending.ends else None

    def _fit(self, records: int, took_s: float) -> None:
        """Let a batch take about _BATCH_S to learn: a slow model gets small ones, so that its end is near."""
        if records:
            fitting = int(records * _BATCH_S / max(took_s, 1e-6))
            self.batch_records = max(1, min(self._records_max, fitting, 2 * self.batch_records))

    def _advance(self, shard: Shard, records: Sequence[Record], pending: Pending, now_ms: int) -> None:
        """Learn a partition's records: those below the committed offset in silence, the others for output."""
        fresh = [record for record in records if record.offset >= shard.offset]
        if not fresh:
            return
        silent = [record for record in fresh if record.offset < shard.committed]
        if silent:
            self._engine.run(shard, silent, now_ms=now_ms)
            self._telemetry.relearned.inc(len(silent))
            self.relearned += len(silent)
            self._reach("relearning")
        new = fresh[len(silent) :]
        if new:
            if shard.offset < shard.committed or silent:
                self._arrive(shard)
            pending.starts[shard.partition] = shard.committed
            pending.results[shard.partition] = self._engine.run(shard, new, now_ms=now_ms)
            self._reach("learned")
            pending.ends[shard.partition] = shard.offset
            pending.newest_ms = max(pending.newest_ms, new[-1].timestamp_ms)
        elif shard.offset >= shard.committed:
            self._arrive(shard)

    def _arrive(self, shard: Shard) -> None:
        shard.offset = max(shard.offset, shard.committed)
        self._takeover.settle(shard)

    def _pass_end(self, partition: int, end: int, pending: Pending) -> None:
        """Pass what lies between the last record and the end of the log: control records, aborted ones."""
        shard = self._shards.get(partition)
        if shard is None or end <= shard.offset:
            return
        if shard.offset < shard.committed:
            shard.offset = min(end, shard.committed)
            if shard.offset == shard.committed:
                self._arrive(shard)
        if end > shard.offset:
            pending.starts.setdefault(partition, shard.committed)
            pending.results.setdefault(partition, Result([], [], []))
            shard.offset = end
            pending.ends[partition] = end
