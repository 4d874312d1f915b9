"""Taking a partition over: from the store's snapshot and Kafka's offsets to a shard that may go on.

The order is the promise: claim the epoch, so that no earlier owner can save any more; read the committed
offset Y, waiting out a transaction that is still open; load the newest whole snapshot at X ≤ Y; see that the
log still holds [X, Y). The shard then relearns [X, Y) in silence and must arrive at Y with the counts that Y's
mark tells. Whatever does not add up stops the pipeline with the choices: it never starts afresh in silence.
"""

from collections.abc import Callable

import structlog

from consumers.source import Committed, Source
from consumers.topics import Topic
from pipeline import mark
from state.learner import Learner
from state.shard import Shard
from state.snapshot import Snapshot
from state.store import Store

log = structlog.get_logger("headrace")

_NEW_NAME = "start a new history under another `name`, or restore what is missing"


class StateError(Exception):
    """Raised when the model, the offsets and the log do not fit together, so that somebody must choose."""

    status = 409

    def __init__(self, message: str, *, hint: str = _NEW_NAME) -> None:
        super().__init__(message)
        self.hint = hint


class Takeover:
    """Make shards for partitions of `topic`; `build` gives a new learner each time."""

    def __init__(self, *, source: Source, store: Store, topic: Topic, build: Callable[[], Learner]) -> None:
        self._source = source
        self._store = store
        self._topic = topic
        self._build = build
        self._marks: dict[int, mark.Mark] = {}

    def take(self, partition: int) -> Shard:
        """Take a partition over. Raises StateError, and what the store and the source raise when away."""
        epoch = self._store.claim(partition, floor=0)
        committed = self._source.committed([partition])[partition]
        last = mark.read(committed.metadata)
        if last is not None and last.epoch >= epoch:
            # The store lost its memory of the epochs; Kafka has kept it.
            epoch = self._store.claim(partition, floor=last.epoch)
        low, _ = self._source.watermarks(partition)
        shard = self._find(partition, committed, last, low)
        shard.epoch = epoch
        if last is not None:
            self._marks[partition] = last
        log.info(
            "partition taken over",
            partition=partition,
            epoch=epoch,
            snapshot=shard.offset,
            committed=shard.committed,
            version=shard.version,
        )
        return shard

    def settle(self, shard: Shard) -> None:
        """Check a shard that has arrived at its committed offset against what that offset's mark tells."""
        last = self._marks.pop(shard.partition, None)
        if last is None:
            return
        told, found = mark.counts(last), shard.counts
        if (told.records, told.learned) != (found.records, found.learned):
            raise StateError(
                f"partition {shard.partition}: relearning gave {found.records} records and {found.learned} "
                f"learned; at offset {shard.committed} there had been {told.records} and {told.learned}"
            )
        # A sink's refusals are not in the log, so relearning can't count them.
        shard.counts = told

    def _find(self, partition: int, committed: Committed, last: mark.Mark | None, low: int) -> Shard:
        version, snapshot, faults = self._store.load(partition, at_most=committed.offset)
        for fault in faults:
            log.warning("snapshot passed over", partition=partition, fault=fault)
        if snapshot is not None:
            return self._restore(snapshot, version, committed, last, low)
        if committed.offset < 0:
            if faults:
                raise StateError(
                    f"partition {partition} has a model in the store, but the group has no committed offset"
                )
            return self._begin(partition, low)
        if last is None:
            if faults:
                raise StateError(
                    f"partition {partition}: the store's model is ahead of the committed offset "
                    f"{committed.offset}, which some other tool has set"
                )
            return self._begin(partition, max(committed.offset, low))
        return self._relearn_all(partition, committed, last, low)

    def _restore(
        self, snapshot: Snapshot, version: int, committed: Committed, last: mark.Mark | None, low: int
    ) -> Shard:
        partition = snapshot.partition
        shard = Shard(self._build(), partition=partition, start=snapshot.start)
        self._check(snapshot, shard.learner)
        if low > snapshot.offset:
            raise StateError(
                f"partition {partition}: the log begins at {low}, past {snapshot.offset} where the model stands; "
                f"{low - snapshot.offset} records are gone",
                hint=f"raise the retention of {self._topic.name}; to go on without them, {_NEW_NAME}",
            )
        if last is not None and snapshot.offset < last.snapshot:
            log.warning(
                "the store lost its newest snapshots, relearning from an older one",
                partition=partition,
                lost_to=last.snapshot,
                snapshot=snapshot.offset,
            )
        shard.restore(offset=snapshot.offset, counts=snapshot.counts, quality=snapshot.quality, model=snapshot.model)
        shard.version = version
        shard.committed = committed.offset
        return shard

    def _relearn_all(self, partition: int, committed: Committed, last: mark.Mark, low: int) -> Shard:
        if low > last.start:
            raise StateError(
                f"partition {partition}: the store holds no model, and the log, which begins at {low}, no longer "
                f"reaches back to {last.start} where the model's history began",
                hint=f"restore the store from a copy; without one, {_NEW_NAME}",
            )
        # A worker that ended before its first snapshot is no loss of the store's.
        say = log.warning if last.snapshot > last.start else log.info
        say(
            "the store holds no model, relearning it from the log",
            partition=partition,
            start=last.start,
            committed=committed.offset,
        )
        shard = Shard(self._build(), partition=partition, start=last.start)
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
                hint="undo the change, or start a new history under another `name`",
            )
        if snapshot.codec != learner.codec:
            raise StateError(
                f"partition {partition}: the snapshot was written by {snapshot.codec}; here is {learner.codec}",
                hint="install that release of River, or start a new history under another `name`",
            )
