"""Moves shards over a batch of records: what was learned before is relearned in silence, the rest is new.

The committed offset is the border. Below it the records have had their outputs in an earlier life; they bring
the model back to where it stood, and nothing of them is sent again.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from headrace.consumers.interleave import LOGS, Interleave, Log, LogOffsets
from headrace.consumers.record_batch import RecordBatch, Records, newest_ms
from headrace.consumers.source import Batch, Source, SourceAway
from headrace.consumers.topics import Topic
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.recovery.key_placement import PlacementWatch
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.delivery import PendingBatch
from headrace.pipeline.worker.takeover import Takeover
from headrace.state.row_packing import TableDamaged
from headrace.state.shard import Shard
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")

_NOTHING = RecordBatch(-1, offsets=(), timestamps=(), keys=[], values=[])
_BATCH_S = 0.5
_FIRST_RECORDS = 500
_SPELL_S = 5.0
_WARN_S = 60.0


class Learning:
    """Learn batches with an engine. `shards` are the runner's, by partition.

    `took_s` tells how long the last batch took to learn.
    """

    def __init__(
        self,
        *,
        source: Source,
        engine: Engine,
        takeover: Takeover,
        shards: Mapping[int, Shard],
        topic: Topic,
        watch: PlacementWatch,
        records_max: int,
        telemetry: Telemetry,
        reach: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._reach = reach
        self._source = source
        self._weaves: dict[int, Interleave] = {}
        self._held: set[tuple[int, Log]] = set()
        # Relearned in an order of their own: a mark of theirs is to be committed before anything is compared with it.
        self._unmarked: set[int] = set()
        self._turn = 0
        self._engine = engine
        self._takeover = takeover
        self._shards = shards
        self._topic = topic
        self._watch = watch
        self._warned: dict[int, float] = {}
        self._records_max = records_max
        self._telemetry = telemetry
        self._clock = clock
        self.relearned = 0
        self.took_s = 0.0
        self.batch_records = min(_FIRST_RECORDS, records_max)

    @property
    def waits(self) -> bool:
        """Whether records that were read wait for those of another log, so that no long poll should be begun."""
        return bool(self._unmarked) or any(any(weave.buffered) for weave in self._weaves.values())

    def begin(self, shard: Shard, steps: Sequence[LogOffsets] | None) -> None:
        """Begin with a shard; with a labels topic, in the steps that lead to its committed place, if they are known."""
        if shard.labels is not None:
            committed = shard.committed, shard.labels_committed
            self._weaves[shard.partition] = Interleave(shard.place, committed=committed, steps=steps)
            if steps is None:
                self._unmarked.add(shard.partition)
        if shard.model.can.keys:
            self._watch.see_stored(shard.partition)
        if not shard.is_relearning:
            self._takeover.settle(shard)

    def end(self, partition: int) -> None:
        """Be done with a partition that is not this worker's any more, or is to be begun anew."""
        self._weaves.pop(partition, None)
        self._held.difference_update((partition, log) for log in LOGS)
        self._unmarked.discard(partition)

    def read_again(self, shard: Shard) -> None:
        """Read a shard on from where it stands, whatever was read beyond. Raises SourceAway."""
        if (weave := self._weaves.get(shard.partition)) is not None:
            weave.clear()
            self._held.difference_update((shard.partition, log) for log in LOGS)
        self._source.read_from(shard.partition, shard.offset, shard.labels_offset)

    def put_back(self, batch: Batch) -> None:
        """Give back what came in spite of a pause: it is read again when the stream goes on. Raises SourceAway."""
        for labels, logs in ((False, batch.records), (True, batch.labels)):
            for partition, records in logs.items():
                if partition in self._shards:
                    self._source.read_log_from(partition, records.offsets[0], labels=labels)
                    self._source.pause_log(partition, labels=labels)

    def learn(self, batch: Batch, *, read_at: float = 0.0) -> PendingBatch | None:
        """Learn a batch, read at that time, and return what it has to send; None when all of it was learned before.

        Raises StateError when a shard does not arrive at the counts that its committed offset tells.
        """
        started = self._clock()
        now_ms = time.time_ns() // 1_000_000
        pending = PendingBatch(batch.membership, read_at=read_at)
        learned = 0
        # Each partition is the first at some time: those behind a full batch wait for the next one.
        self._turn += 1
        partitions = sorted({*batch.records, *batch.ends, *self._weaves})
        for index in range(len(partitions)):
            shard = self._shards.get(partitions[(index + self._turn) % len(partitions)])
            if shard is not None:
                # Where labels' waits end by the thousand, a few partitions may take all the time that there is.
                late = self._clock() > started + _SPELL_S
                room = 0 if late else self.batch_records - learned
                learned += self._advance(shard, batch, pending, now_ms, room=room)
        took_s = self._clock() - started
        self._telemetry.batch_seconds.labels("learn").observe(took_s)
        self.took_s = took_s
        self._fit(learned, took_s)
        self._watch.look()
        return pending if pending.outputs else None

    def _fit(self, records: int, took_s: float) -> None:
        """Let a batch take about _BATCH_S to learn: a slow model gets small ones, so that its end is near."""
        if records:
            fitting = int(records * _BATCH_S / max(took_s, 1e-6))
            self.batch_records = max(1, min(self._records_max, fitting, 2 * self.batch_records))

    def _advance(self, shard: Shard, batch: Batch, pending: PendingBatch, now_ms: int, *, room: int) -> int:
        """Move a shard on by what a batch brought; return the number of records that were learned.

        Of what had waited no more than `room` records are learned.
        """
        weave = self._weaves.get(shard.partition)
        if weave is not None:
            return self._advance_both(shard, weave, batch, pending, now_ms, room=room)
        behind = shard.is_relearning
        fresh = batch.records.get(shard.partition, _NOTHING).since(shard.offset)
        self._watch.see(0, shard.partition, fresh)
        silent, new = fresh.split(shard.committed)
        if silent:
            self._relearn(shard, silent, now_ms)
        end = batch.ends.get(shard.partition, -1)
        if shard.is_relearning:
            # What lies between the last record and the end of the log: control records, aborted ones.
            shard.advance(shard.committed if end >= shard.committed or len(fresh) > len(silent) else end)
        if shard.is_relearning:
            return len(silent)
        if behind:
            self._takeover.settle(shard)
        end = max(end, new.offsets[-1] + 1 if new else -1)
        if end > shard.offset:
            self._add(shard, new, (end, -1), pending, now_ms)
        return len(fresh)

    def _advance_both(
        self, shard: Shard, weave: Interleave, batch: Batch, pending: PendingBatch, now_ms: int, *, room: int
    ) -> int:
        """Move a shard on by slices of its two logs: those that are relearned, and then one that is new."""
        partition = shard.partition
        features, labels = (read.get(partition, _NOTHING).records() for read in (batch.records, batch.labels))
        weave.add(0, features, batch.ends.get(partition))
        weave.add(1, labels, batch.label_ends.get(partition))
        self._watch.see(0, partition, features)
        self._watch.see(1, partition, labels)
        learned = 0
        is_at_end = partial(self._is_at_end, partition)
        while learned < room:
            taken = weave.next_slice(self._clock(), records_max=room - learned, is_at_end=is_at_end)
            if taken is None:
                break
            learned += len(taken.records)
            if not taken.silent:
                self._add(shard, taken.records, taken.end, pending, now_ms)
                break
            self._relearn(shard, taken.records, now_ms)
            shard.end_step(taken.end, is_recorded=taken.recorded)
            if not shard.is_relearning:
                self._takeover.settle(shard)
        if partition in self._unmarked and not shard.is_relearning:
            self._unmarked.discard(partition)
            if partition not in pending.outputs:
                self._add(shard, (), shard.place, pending, now_ms)
        self._balance(partition, weave)
        return learned

    def _learn(self, shard: Shard, records: Records, now_ms: int, *, silent: bool) -> PartitionOutputs:
        """Run the engine over records. Raises StoreAway.

        A store that can't serve in the middle of it, or serves another owner, or has lost rows, is away for this shard:
        it begins again.
        """
        partition = shard.partition
        try:
            outputs = self._engine.run(shard, records, now_ms=now_ms, silent=silent)
        except StoreFenced as error:
            raise StoreAway(f"partition {partition} is taken over again: {error}") from error
        except TableDamaged as error:
            self._takeover.distrust(partition)
            raise StoreAway(f"partition {partition} is learned again: {error}") from error
        self._warn_of_clocks(shard, silent=silent)
        return outputs

    def _warn_of_clocks(self, shard: Shard, *, silent: bool) -> None:
        """Name the first record whose event time was not believed; at most once a minute for each partition."""
        count, stray = shard.strays.drain()
        if stray is None or silent:
            return
        self._telemetry.times_ahead.inc(count)
        now_s = self._clock()
        if now_s - self._warned.get(shard.partition, -_WARN_S) < _WARN_S:
            return
        self._warned[shard.partition] = now_s
        labels = self._topic.labels
        log.warning(
            "an event time is far ahead of the others and moves no wait: is a producer's clock wrong?",
            topic=labels.name if stray.labels and labels is not None else self._topic.name,
            partition=shard.partition,
            offset=stray.offset,
            ahead_s=round(stray.ahead_ms / 1_000),
            records=count,
        )

    def _relearn(self, shard: Shard, records: Records, now_ms: int) -> None:
        """Learn records below the committed place, in silence."""
        self._learn(shard, records, now_ms, silent=True)
        self._telemetry.relearned.inc(len(records))
        self.relearned += len(records)
        self._reach("relearning")

    def _add(self, shard: Shard, records: Records, end: LogOffsets, pending: PendingBatch, now_ms: int) -> None:
        """Learn new records, for output; the shard stands at `end` afterwards."""
        partition = shard.partition
        outputs = self._learn(shard, records, now_ms, silent=False)
        if records:
            self._reach("learned")
            pending.newest_ms = max(pending.newest_ms, newest_ms(records))
        shard.end_step(end)
        outputs.offset, outputs.labels_offset = end
        pending.outputs[partition] = outputs

    def _is_at_end(self, partition: int, log: Log, offset: int) -> bool:
        return self._source.is_at_end(partition, offset, labels=log == 1)

    def _balance(self, partition: int, weave: Interleave) -> None:
        """Fetch no more of a log of which much waits for the other, and go on when that has changed."""
        for log in LOGS:
            if (partition, log) not in self._held:
                if weave.has_enough(log):
                    self._source.pause_log(partition, labels=log == 1)
                    self._held.add((partition, log))
            elif weave.needs_more(log):
                # Where the client can't go on yet, it is asked again after the next poll.
                with contextlib.suppress(SourceAway):
                    self._source.read_log_from(partition, weave.next_offset(log), labels=log == 1)
                    self._held.discard((partition, log))
