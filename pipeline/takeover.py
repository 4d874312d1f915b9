"""Taking a partition over: from the store's snapshot and Kafka's offsets to a shard that may go on.

The order is the promise: claim the epoch, so that no earlier owner can save any more; read the committed
offset Y, waiting out a transaction that is still open; load the newest whole snapshot at X ≤ Y; see that the
log still holds [X, Y). The shard then relearns [X, Y) in silence and must arrive at Y with the counts that Y's
mark tells. Whatever does not add up stops the pipeline with the choices: it never starts afresh in silence.
"""

import time
from collections.abc import Callable
from typing import Literal

import structlog

from consumers.source import Committed, Source
from consumers.topics import Topic
from pipeline import mark
from pipeline.telemetry import Telemetry
from state.learner import Learner
from state.shard import Shard
from state.snapshot import Snapshot
from state.store import Found, Store

log = structlog.get_logger("headrace")

OnLoss = Literal["relearn", "fresh", "stop"]
"""What to do when the store has lost what Kafka knows that it had: learn it again from the log as far as that
reaches, begin a new history at the committed offset, or stop."""

_FRESH = "leave what was learned behind: `headrace run --on-state-loss fresh`"
_CHOICES = f"restore what is missing, or {_FRESH}"


class StateError(Exception):
    """Raised when the model, the offsets and the log do not fit together, so that somebody must choose."""

    status = 409

    def __init__(self, message: str, *, hint: str = _CHOICES) -> None:
        super().__init__(message)
        self.hint = hint


class Takeover:
    """Make shards for partitions of `topic`; `build` gives a new learner each time."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        topic: Topic,
        build: Callable[[], Learner],
        on_loss: OnLoss,
        telemetry: Telemetry,
    ) -> None:
        self._source = source
        self._store = store
        self._topic = topic
        self._build = build
        self._on_loss = on_loss
        self._telemetry = telemetry
        self._marks: dict[int, mark.Mark] = {}
        self._began: dict[int, tuple[int, float]] = {}

    def take(self, partition: int) -> Shard:
        """Take a partition over. Raises StateError, and what the store and the source raise when away."""
        epoch = self._store.claim(partition, floor=0)
        committed = self._source.committed([partition])[partition]
        last = mark.read(committed.metadata)
        if last is not None and last.epoch >= epoch:
            # The store lost its memory of the epochs; Kafka has kept it.
            epoch = self._store.claim(partition, floor=last.epoch)
        low, _ = self._source.watermarks(partition)
        self._marks.pop(partition, None)
        try:
            shard = self._find(partition, committed, last, low)
        except StateError as error:
            if self._on_loss != "fresh":
                raise
            shard = self._begin(partition, max(committed.offset, low))
            log.warning(
                "a new history begins, what was learned is left behind",
                partition=partition,
                start=shard.start,
                reason=str(error),
            )
        else:
            if last is not None:
                self._marks[partition] = last
        shard.epoch = epoch
        self._began[partition] = shard.offset, time.monotonic()
        log.info(
            "partition taken over",
            partition=partition,
            epoch=epoch,
            snapshot=shard.offset,
            committed=shard.committed,
            relearning=shard.committed - shard.offset,
            version=shard.version,
        )
        return shard

    def settle(self, shard: Shard) -> None:
        """Check a shard that has arrived at its committed offset against what that offset's mark tells."""
        self._say_relearned(shard)
        last = self._marks.pop(shard.partition, None)
        if last is None:
            return
        told, found = mark.counts(last), shard.counts
        if (told.records, told.learned) != (found.records, found.learned):
            raise StateError(
                f"partition {shard.partition}: relearning gave {found.records} records and {found.learned} "
                f"learned; at offset {shard.committed} there had been {told.records} and {told.learned}",
                hint="the log or model.py is no longer what it was: undo that, or start under another `name`",
            )
        # A sink's refusals are not in the log, so relearning can't count them.
        shard.counts = told

    def _say_relearned(self, shard: Shard) -> None:
        offset, began = self._began.pop(shard.partition)
        records = shard.offset - offset
        if not records:
            return
        took_s = time.monotonic() - began
        log.info(
            "relearned",
            partition=shard.partition,
            offset=shard.offset,
            learned=shard.counts.learned,
            records=records,
            seconds=round(took_s, 3),
            records_per_second=round(records / max(took_s, 1e-3)),
        )

    def _find(self, partition: int, committed: Committed, last: mark.Mark | None, low: int) -> Shard:
        found = self._store.load(partition, at_most=committed.offset, start=None if last is None else last.start)
        for fault in found.faults:
            log.warning("snapshot passed over", partition=partition, fault=fault)
        self._count_loss(partition, found, last)
        if found.snapshot is not None:
            return self._restore(found.snapshot, found.version, committed, low)
        if committed.offset < 0:
            if found.faults:
                raise StateError(
                    f"partition {partition} has a model in the store, but the group has no committed offset"
                )
            return self._begin(partition, low)
        if last is not None:
            return self._relearn_all(partition, committed, last.start, low)
        if found.ahead is not None:
            self._check(found.ahead, self._build())
            if self._on_loss == "stop":
                raise StateError(
                    f"partition {partition}: the store's model is ahead of the committed offset {committed.offset}, "
                    "which some other tool has set"
                )
            return self._relearn_all(partition, committed, found.ahead.start, low)
        if found.faults:
            raise StateError(f"partition {partition}: no snapshot in the store can be used: {found.faults[0]}")
        return self._begin(partition, max(committed.offset, low))

    def _count_loss(self, partition: int, found: Found, last: mark.Mark | None) -> None:
        """Note a store that has less than what Kafka's mark tells of. Raises StateError if that is to stop it."""
        if last is None or not last.records:
            return
        offset = None if found.snapshot is None else found.snapshot.offset
        # A worker that ended before its first snapshot is no loss of the store's, but nothing tells it from one.
        if offset is None and self._on_loss != "relearn":
            raise StateError(f"partition {partition}: the store has no model of the {last.records} records before")
        if (last.start if offset is None else offset) >= last.snapshot:
            return
        self._telemetry.state_losses.inc()
        log.warning("the store lost snapshots", partition=partition, newest=last.snapshot, left=offset)
        if self._on_loss == "stop":
            raise StateError(
                f"partition {partition}: the store lost its snapshots from {offset} to {last.snapshot}",
                hint="restore the store from a copy, or learn it again: `headrace run --on-state-loss relearn`",
            )

    def _restore(self, snapshot: Snapshot, version: int, committed: Committed, low: int) -> Shard:
        partition = snapshot.partition
        shard = self._begin(partition, snapshot.start)
        self._check(snapshot, shard.learner)
        if low > snapshot.offset:
            raise StateError(
                f"partition {partition}: the log begins at {low}, past {snapshot.offset} where the model stands; "
                f"{low - snapshot.offset} records are gone",
                hint=f"raise the retention of {self._topic.name}; to go on without them, {_CHOICES}",
            )
        shard.restore(offset=snapshot.offset, counts=snapshot.counts, quality=snapshot.quality, model=snapshot.model)
        shard.version = version
        shard.committed = committed.offset
        return shard

    def _relearn_all(self, partition: int, committed: Committed, start: int, low: int) -> Shard:
        if low > start:
            raise StateError(
                f"partition {partition}: the store holds no model, and the log, which begins at {low}, no longer "
                f"reaches back to {start} where the model's history began"
            )
        if start > committed.offset:
            raise StateError(
                f"partition {partition}: the model's history begins at {start}, past the committed offset "
                f"{committed.offset}, which some other tool has set"
            )
        log.info(
            "the store holds no model for this place, learning it again from the log",
            partition=partition,
            start=start,
            committed=committed.offset,
        )
        shard = self._begin(partition, start)
        shard.committed = committed.offset
        return shard

    def _begin(self, partition: int, start: int) -> Shard:
        return Shard(self._build(), partition=partition, start=start)

    def _check(self, snapshot: Snapshot, learner: Learner) -> None:
        partition = snapshot.partition
        if snapshot.topic != self._topic.name or (self._topic.id and snapshot.topic_id != self._topic.id):
            raise StateError(
                f"partition {partition}: the model was taught from another topic than {self._topic.name} "
                "as it is now (deleted and made again?)"
            )
        if snapshot.spec != learner.spec:
            raise StateError(
                f"partition {partition}: model.py builds another model than the one in the store",
                hint=f"undo the change, or {_FRESH}",
            )
        if snapshot.codec != learner.codec:
            raise StateError(
                f"partition {partition}: the snapshot was written by {snapshot.codec}; here is {learner.codec}",
                hint=f"install that release of River; without it, {_CHOICES}",
            )
