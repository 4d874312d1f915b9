"""Learns a batch: relearns the records below the committed offset in silence, and learns the new ones for output.

An earlier owner of the partition has sent the outputs of the records below the committed offset. They bring the model
back to where it stood, and nothing of them is sent again.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from headrace.consumers.interleave import LOGS, Interleave, Log, LogOffsets
from headrace.consumers.record_batch import RecordBatch, Records, newest_ms
from headrace.consumers.source import PartitionLog, Polled, Source, SourceAway
from headrace.consumers.topics import Topic
from headrace.pipeline.control.command_inbox import CommandInbox
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.recovery.consistency import StateError
from headrace.pipeline.recovery.key_placement import PlacementWatch
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.delivery import PendingBatch
from headrace.pipeline.worker.schema_wait import SchemaWait
from headrace.pipeline.worker.takeover import Takeover
from headrace.producers.output import JOURNAL, OutputRecords
from headrace.state.history import journal
from headrace.state.history.journal import JournalError
from headrace.state.row_packing import TableDamaged
from headrace.state.shard import Shard
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")

_NOTHING = RecordBatch(-1, offsets=(), timestamps=(), keys=[], values=[])
# A batch of a slow model takes about this long, so that the loop comes to poll.
_BATCH_S = 0.5
_FIRST_RECORDS = 500
_SPELL_S = 5.0
_WARN_S = 60.0


class Learning:
    """Learn batches with an engine. `shards` are the worker's, by partition.

    `took_s` is the time that the last batch took to learn, `batch_records` the size that the next one should have, and
    `relearned` the number of records that were relearned so far.
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
        schemas: SchemaWait | None,
        inbox: CommandInbox,
        reach: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._schemas = schemas
        self._inbox = inbox
        self._reach = reach
        self._source = source
        # With a labels topic: the two logs of each partition, and those logs that are not fetched now.
        self._interleaves: dict[int, Interleave] = {}
        self._unfetched: set[tuple[int, Log]] = set()
        # Partitions that were relearned in another order: a mark of that order is to be committed first.
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
        """Whether records wait for those of the other log, or commands wait, so that the next poll should be short."""
        waits = self._unmarked or any(any(interleave.buffered) for interleave in self._interleaves.values())
        return bool(waits) or any(self._has_news(shard) for shard in self._shards.values())

    def _has_news(self, shard: Shard) -> bool:
        """Tell whether the next batch of a shard has something to say, though no record may have come."""
        # Commands come after all that the journal has: also where a tool has set the offset back.
        history = shard.history
        is_asked = self._inbox.has(shard.partition) or self._engine.lifecycle.is_behind(shard)
        return (history.is_announced or (is_asked and history.next is None)) and not shard.is_relearning

    def begin(self, shard: Shard, steps: Sequence[LogOffsets] | None) -> None:
        """Begin with a shard that was taken over, in the `steps` to its committed place; None if they are not known."""
        if shard.labels is not None:
            committed = shard.committed, shard.labels_committed
            self._interleaves[shard.partition] = Interleave(shard.place, committed=committed, steps=steps)
            if steps is None:
                self._unmarked.add(shard.partition)
        if shard.model.can.keys:
            self._watch.see_stored(shard.partition)
        self._inbox.begin(shard)
        if not shard.is_relearning:
            self._settle(shard)

    def end(self, partition: int) -> None:
        """Forget a partition that another worker owns now, or that is to be taken over again."""
        self._interleaves.pop(partition, None)
        self._unfetched.difference_update((partition, log) for log in LOGS)
        self._unmarked.discard(partition)
        self._inbox.end(partition)
        if self._schemas is not None:
            self._schemas.forget(partition)

    def read_again(self, shard: Shard) -> None:
        """Read a shard on from where it stands, wherever the client is. Raises SourceAway."""
        if (interleave := self._interleaves.get(shard.partition)) is not None:
            interleave.clear()
            self._unfetched.difference_update((shard.partition, log) for log in LOGS)
        if self._schemas is not None:
            self._schemas.forget(shard.partition)
        self._source.read_from(shard.partition, shard.offset, shard.labels_offset)

    def go_on(self) -> None:
        """Read on the logs that have waited for a schema, where it is known now; and read the commands that have come.

        Raises RegistryRefused, SourceAway.
        """
        self._inbox.look()
        if self._schemas is not None:
            self._schemas.go_on()

    def put_back(self, polled: Polled) -> None:
        """Go back before records that came in spite of a pause: they are read again after it. Raises SourceAway."""
        for (labels, partition), batch in polled.items():
            if batch and partition in self._shards:
                self._source.read_log_from(partition, batch.offsets[0], labels=labels)
                self._source.pause_log(partition, labels=labels)

    def learn(self, polled: Polled, *, read_at: float = 0.0) -> PendingBatch | None:
        """Learn what was polled at `read_at`; return the outputs, None where all records were relearned.

        Raises StateError when a shard does not arrive at the counts of its committed offset's mark.
        """
        started = self._clock()
        now_ms = time.time_ns() // 1_000_000
        pending = PendingBatch(self._source.membership, read_at=read_at)
        learned = 0
        # The partitions take turns: when a batch is full, the others wait for the next one.
        self._turn += 1
        told = {shard.partition for shard in self._shards.values() if self._has_news(shard)}
        partitions = sorted({partition for _, partition in polled} | self._interleaves.keys() | told)
        for index in range(len(partitions)):
            shard = self._shards.get(partitions[(index + self._turn) % len(partitions)])
            if shard is not None:
                # A few partitions may take very long, where thousands of waits for labels end.
                late = self._clock() > started + _SPELL_S
                room = 0 if late else self.batch_records - learned
                learned += self._advance(shard, polled, pending, now_ms, room=room)
        took_s = self._clock() - started
        self._telemetry.batch_seconds.labels("learn").observe(took_s)
        self.took_s = took_s
        self._fit(learned, took_s)
        self._watch.look()
        return pending if pending.outputs else None

    def _fit(self, records: int, took_s: float) -> None:
        """Fit the size of the next batch to the time that this one took."""
        if records:
            fitting = int(records * _BATCH_S / max(took_s, 1e-6))
            self.batch_records = max(1, min(self._records_max, fitting, 2 * self.batch_records))

    def _advance(self, shard: Shard, polled: Polled, pending: PendingBatch, now_ms: int, *, room: int) -> int:
        """Let a shard learn its records of what was polled; return their number.

        With a labels topic, at most `room` of the records that have waited are learned.
        """
        interleave = self._interleaves.get(shard.partition)
        if interleave is not None:
            return self._advance_both(shard, interleave, polled, pending, now_ms, room=room)
        behind = shard.is_relearning
        batch = self._readable((False, shard.partition), polled)
        fresh = batch.since(shard.offset)
        self._watch.see(0, shard.partition, fresh)
        silent, new = fresh.split(shard.committed)
        if silent:
            self._relearn(shard, silent, now_ms)
        end = -1 if batch.end is None else batch.end
        if shard.is_relearning:
            # Between the last record and the committed offset there may be control records and aborted ones.
            shard.advance(shard.committed if end >= shard.committed or len(fresh) > len(silent) else end)
        if shard.is_relearning:
            return len(silent)
        if behind:
            self._settle(shard)
        end = max(end, new.offsets[-1] + 1 if new else -1, shard.offset)
        if end > shard.offset or self._has_news(shard):
            self._add(shard, new, (end, -1), pending, now_ms)
        return len(fresh)

    def _advance_both(
        self, shard: Shard, interleave: Interleave, polled: Polled, pending: PendingBatch, now_ms: int, *, room: int
    ) -> int:
        """Let a shard learn slices of its two logs: all those to relearn, and then one that is new."""
        partition = shard.partition
        for log in LOGS:
            batch = self._readable((log == 1, partition), polled)
            records = batch.records()
            interleave.add(log, records, batch.end)
            self._watch.see(log, partition, records)
        learned = 0
        is_at_end = partial(self._is_at_end, partition)
        while learned < room:
            taken = interleave.next_slice(self._clock(), records_max=room - learned, is_at_end=is_at_end)
            if taken is None:
                break
            learned += len(taken.records)
            if not taken.silent:
                self._add(shard, taken.records, taken.end, pending, now_ms)
                break
            self._relearn(shard, taken.records, now_ms)
            shard.end_step(taken.end, is_recorded=taken.recorded)
            if not shard.is_relearning:
                self._settle(shard)
        if (partition in self._unmarked or self._has_news(shard)) and not shard.is_relearning:
            self._unmarked.discard(partition)
            if partition not in pending.outputs:
                self._add(shard, (), shard.place, pending, now_ms)
        self._balance(partition, interleave)
        return learned

    def _settle(self, shard: Shard) -> None:
        """End the relearning of a shard, with what was done at its last place. Raises StateError."""
        try:
            self._engine.lifecycle.catch_up(shard)
        except JournalError as error:
            raise StateError(f"partition {shard.partition}: {error}", hint=error.hint) from error
        self._takeover.settle(shard)

    def _readable(self, log_: PartitionLog, polled: Polled) -> RecordBatch:
        """Return the records of a log that were polled, up to the first whose schema is not known yet."""
        batch = polled.get(log_, _NOTHING)
        return batch if self._schemas is None or batch is _NOTHING else self._schemas.cut(log_, batch)

    def _learn(self, shard: Shard, records: Records, now_ms: int, *, silent: bool) -> PartitionOutputs:
        """Run the engine over records.

        Raises StoreAway when the store can't serve in the middle of them, has a newer owner, or has damaged rows: then
        the shard is taken over again.
        """
        partition = shard.partition
        try:
            outputs = self._engine.run(shard, records, now_ms=now_ms, silent=silent)
        except StoreFenced as error:
            raise StoreAway(f"partition {partition} is taken over again: {error}") from error
        except TableDamaged as error:
            self._takeover.distrust(partition)
            raise StoreAway(f"partition {partition} is learned again: {error}") from error
        except JournalError as error:
            raise StateError(f"partition {partition}: {error}", hint=error.hint) from error
        self._warn_of_clocks(shard, silent=silent)
        return outputs

    def _warn_of_clocks(self, shard: Shard, *, silent: bool) -> None:
        """Name the first record with an event time that was not believed; at most once a minute and partition."""
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
        """Learn records below the committed offset, in silence."""
        self._learn(shard, records, now_ms, silent=True)
        self._telemetry.relearned.inc(len(records))
        self.relearned += len(records)
        self._reach("relearning")

    def _add(self, shard: Shard, records: Records, end: LogOffsets, pending: PendingBatch, now_ms: int) -> None:
        """Take the commands that have come, then learn new records for output. The shard stands at `end` afterwards."""
        partition = shard.partition
        self._engine.lifecycle.begin(shard, self._inbox.take(partition) if shard.history.next is None else ())
        outputs = self._learn(shard, records, now_ms, silent=False)
        self._journal(shard, outputs)
        if records:
            self._reach("learned")
            pending.newest_ms = max(pending.newest_ms, newest_ms(records))
        shard.end_step(end)
        outputs.offset, outputs.labels_offset = end
        pending.outputs[partition] = outputs

    def _journal(self, shard: Shard, outputs: PartitionOutputs) -> None:
        """Add what was done to the models to the outputs of the batch."""
        records = outputs.records.setdefault(JOURNAL, OutputRecords())
        for entry in shard.history.drain():
            records.add(entry.command.encode() or None, journal.encode(entry))
            log.info("journaled", partition=shard.partition, entry=entry.seq, what=entry.what, name=entry.name)

    def _is_at_end(self, partition: int, log: Log, offset: int) -> bool:
        return self._source.is_at_end(partition, offset, labels=log == 1)

    def _balance(self, partition: int, interleave: Interleave) -> None:
        """Stop fetching a log while many of its records wait for the other log, and fetch it again afterwards."""
        for log in LOGS:
            if (partition, log) not in self._unfetched:
                if interleave.has_enough(log):
                    self._source.pause_log(partition, labels=log == 1)
                    self._unfetched.add((partition, log))
            elif interleave.needs_more(log):
                # If the client can't read on yet, it is asked again after the next poll.
                with contextlib.suppress(SourceAway):
                    self._source.read_log_from(partition, interleave.next_offset(log), labels=log == 1)
                    self._unfetched.discard((partition, log))
