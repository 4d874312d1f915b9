"""Saves snapshots when they are due: often while they are cheap, and never for more than a share of the time.

The loop itself saves a small model, in less time than it takes to learn a batch. To serialize a big model, or many
rows, would hold up the stream, so a forked child does it (`forked_writer`), and a thread sends the bytes to the store.
The loop only chooses the moment of the fork: when all that was learned is confirmed. It goes on learning, and takes the
result later. So the snapshot is still of a confirmed offset, only not of the newest one.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

import msgspec
import structlog

from headrace.consumers.topics import Topic
from headrace.pipeline.process import failpoint, forked_writer
from headrace.pipeline.process.background import BackgroundCall
from headrace.pipeline.process.forked_writer import ForkedWriter, ForkedWriterError
from headrace.pipeline.recovery.model_limit import ModelLimit
from headrace.pipeline.telemetry import Telemetry
from headrace.state import snapshot
from headrace.state.row_packing import PackedRows, TableDamaged
from headrace.state.seal import RowSeal
from headrace.state.shard import Shard
from headrace.state.shard_model import FailedModel
from headrace.state.snapshot import Snapshot
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")

# Saving may take this share of a worker's time: a big model is saved less often.
_SHARE = 0.05
# After this number of failed children in a row the loop saves the model itself, and its errors tell what is wrong.
_FAILURES_MAX = 3

Outcome = Literal["saved", "begun", "refused", "later"]
"""How a save went. After `refused` the partition is to be taken over again, by this worker or by its newer owner.
`begun` says that a child saves it now. After `later` the shard is still due."""


class SaveParts(msgspec.Struct):
    """What a child wrote: the models' bytes, the rows that have changed, and the keys' models of those rows by model.

    `failed` are the models that can't be saved, and `tables` has the number of rows of the other models' tables.
    """

    states: dict[str, bytes]
    rows: dict[str, PackedRows]
    models: dict[str, dict[bytes, bytes]]
    failed: dict[str, FailedModel]
    tables: dict[str, int]


class BackgroundSave(msgspec.Struct):
    """A save that goes on beside the loop: the shard, the offsets that it stood at, and the result so far.

    `is_wanted` says that this worker still owns the shard. `held_s` is the time for which the save held up the loop.
    """

    shard: Shard
    place: tuple[int, int]
    draft: Snapshot
    base: int
    started_s: float
    held_s: float = 0.0
    ended_s: float = 0.0
    written: SaveParts | None = None
    version: int = 0
    is_wanted: bool = True


class Saver:
    """Save shards of `topic` every `interval_s` seconds, or after `records_max` records.

    `distrust` is called with a partition whose rows in the store are damaged. A model beyond the `limit` is saved, and
    then each method that saves raises ModelTooLarge.
    """

    def __init__(
        self,
        store: Store,
        *,
        topic: Topic,
        interval_s: float,
        records_max: int,
        distrust: Callable[[int], None],
        limit: ModelLimit,
        telemetry: Telemetry,
        clock: Callable[[], float],
        reach: Callable[[str], None] = failpoint.reach,
    ) -> None:
        self._reach = reach
        self._distrust = distrust
        self._store = store
        self._topic = topic
        self._usual_s = self._interval_s = interval_s
        self._records_max = records_max
        self._limit = limit
        self._telemetry = telemetry
        self._clock = clock
        self._due: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._call = BackgroundCall("save")
        self._background: BackgroundSave | None = None
        self._is_away = False

    @property
    def is_out(self) -> bool:
        """Whether a save goes on beside the loop, or has ended and its result was not taken."""
        return self._background is not None

    @property
    def back(self) -> Shard | None:
        """The shard whose save beside the loop has ended; `end` takes the result."""
        return self._background.shard if self._background is not None and self._call.ended else None

    def due(self, shard: Shard) -> bool:
        """Tell whether a shard is to be saved now. The interval of a new shard begins with the first call.

        While one save goes on beside the loop, no other shard that needs a child is due.
        """
        behind = shard.unsaved
        at = self._due.setdefault(shard.partition, self._clock() + self._interval_s)
        if behind <= 0 or self._must_wait(shard):
            return False
        return self._clock() >= at or behind >= self._records_max or shard.is_crowded

    def first_due(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards that are to be saved now, the one that has waited longest first."""
        return sorted(filter(self.due, shards), key=lambda shard: self._due[shard.partition])

    def set_pace(self, interval_s: float) -> None:
        """Save at least as often as this, and as often as is usual."""
        self._interval_s = min(self._usual_s, interval_s)
        latest = self._clock() + self._interval_s
        self._due = {partition: min(at, latest) for partition, at in self._due.items()}

    def hurry(self, shard: Shard) -> None:
        """Make a shard due at once."""
        self._due[shard.partition] = self._clock()

    def forget(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._due.pop(partition, None)
        self._failures.pop(partition, None)
        if self._background is not None and self._background.shard.partition == partition:
            self._background.is_wanted = False

    def begin(self, shard: Shard) -> Outcome:
        """Save a small shard, or begin to save a big one, one at a time. Raises StoreAway.

        All that the shard has learned must be confirmed.
        """
        if not forked_writer.IS_FIT or self._failures.get(shard.partition, 0) >= _FAILURES_MAX:
            return self.finish(shard)
        started_s = self._clock()
        if not shard.is_heavy:
            states = shard.dump_if_light()
            if states is not None:
                return self._save(shard, states, started_s)
        if self._background is not None:
            return "later"
        if self._is_away:
            # A child would be forked in vain while the store does not answer.
            self._store.ping()
        try:
            shard.begin_save()
        except (StoreFenced, TableDamaged) as error:
            return self._refused(shard, error)
        draft = self._take(shard, {})
        save = BackgroundSave(shard, shard.place, draft, _base(shard, draft), started_s)
        try:
            child = ForkedWriter(partial(_write_down, shard, self._seal_of(shard)), reach=self._reach)
        except OSError as error:
            shard.not_saved()
            return self._failed(save, f"no child can be forked to write the snapshot down: {error}")
        self._background = save
        self._call.start(partial(self._go, child, save))
        save.held_s = self._clock() - started_s
        return "begun"

    def end(self, shard: Shard) -> Outcome:
        """Take the result of a big shard's save, unless the shard was forgotten meanwhile. Raises StoreAway."""
        heard_s = self._clock()
        save, self._background = self._background, None
        assert save is not None
        assert save.shard is shard
        written = save.written
        if written is not None:
            # The bytes are right, whether or not the store took them.
            shard.checkpointed(written.states)
            for name, one in written.failed.items():
                shard.fail(name, one.reason)
        try:
            self._call.result()
        except ForkedWriterError as error:
            shard.not_saved()
            return self._failed(save, str(error))
        except (StoreFenced, TableDamaged) as error:
            return self._refused(shard, error) if save.is_wanted else "later"
        except StoreAway:
            shard.not_saved()
            self._is_away = True
            self._telemetry.snapshots.labels("failed").inc()
            raise
        self._is_away = False
        if save.is_wanted and written is not None:
            shard.saved(written.models, place=save.place, version=save.version)
            held_s = save.held_s + self._clock() - heard_s
            size = sum(map(len, written.states.values()))
            self._note(shard, size, took_s=save.ended_s - save.started_s, held_s=held_s)
        return "saved"

    def wait(self, seconds: float) -> None:
        """Wait for the save that goes on beside the loop, for at most this time."""
        self._call.wait(seconds)

    def finish(self, shard: Shard) -> Outcome:
        """Save a shard in the loop, however big it is. Raises StoreAway."""
        return self._save(shard, None, self._clock())

    def _seal_of(self, shard: Shard) -> Callable[[str], RowSeal]:
        return partial(self._store.seal.rows, shard.partition)

    def _must_wait(self, shard: Shard) -> bool:
        return self._background is not None and (shard.is_heavy or shard is self._background.shard)

    def _go(self, child: ForkedWriter, save: BackgroundSave) -> None:
        """Read the child's bytes and save them; in a thread, so it looks at nothing that the loop changes."""
        try:
            written = save.written = msgspec.msgpack.decode(child.read(), type=SaveParts)
            taken = snapshot.put_states(save.draft, written.states, failed=written.failed, tables=written.tables)
            save.version = self._store.save_packed(taken, packed=written.rows, base=save.base)
        finally:
            save.ended_s = self._clock()

    def _take(self, shard: Shard, states: Mapping[str, bytes] | None) -> Snapshot:
        labels = self._topic.labels
        return snapshot.take(
            shard,
            topic=self._topic.name,
            topic_id=self._topic.id,
            now_ms=time.time_ns() // 1_000_000,
            labels=("", "") if labels is None else (labels.name, labels.id),
            states=states,
        )

    def _save(self, shard: Shard, states: Mapping[str, bytes] | None, started_s: float) -> Outcome:
        try:
            shard.begin_save()
            # First, since a model whose rows can't be packed is not in the snapshot.
            packed, models = shard.packed(self._seal_of(shard))
            taken = self._take(shard, states)
            version = self._store.save_packed(taken, packed=packed, base=_base(shard, taken))
        except (StoreFenced, TableDamaged) as error:
            return self._refused(shard, error)
        except StoreAway:
            shard.not_saved()
            self._telemetry.snapshots.labels("failed").inc()
            raise
        shard.saved(models, place=shard.place, version=version)
        took_s = self._clock() - started_s
        self._note(shard, taken.models_bytes, took_s=took_s, held_s=took_s)
        return "saved"

    def _note(self, shard: Shard, size: int, *, took_s: float, held_s: float) -> None:
        self._failures.pop(shard.partition, None)
        self._due[shard.partition] = self._clock() + max(self._interval_s, took_s / _SHARE)
        self._telemetry.snapshots.labels("saved").inc()
        self._telemetry.snapshot_seconds.observe(held_s)
        self._telemetry.snapshot_bytes.labels(str(shard.partition)).set(size)
        self._limit.check(shard.partition, size)
        log.debug(
            "snapshot saved",
            partition=shard.partition,
            snapshot=shard.snapshot_offset,
            committed=shard.committed,
            bytes=size,
            took_ms=round(1_000 * took_s, 1),
            held_ms=round(1_000 * held_s, 1),
        )

    def _refused(self, shard: Shard, error: StoreFenced | TableDamaged) -> Outcome:
        if isinstance(error, StoreFenced):
            self._telemetry.snapshots.labels("fenced").inc()
            log.warning("snapshot refused, the partition is taken over again", reason=str(error))
            return "refused"
        self._telemetry.snapshots.labels("failed").inc()
        self._distrust(shard.partition)
        log.warning("the store's rows are not what they were, the partition is learned again", reason=str(error))
        return "refused"

    def _failed(self, save: BackgroundSave, reason: str) -> Outcome:
        """Make a shard due again later after its child has failed, unless the shard was forgotten."""
        self._telemetry.snapshots.labels("failed").inc()
        log.warning("snapshot failed, it is tried again", partition=save.shard.partition, reason=reason)
        if save.is_wanted:
            partition, now = save.shard.partition, self._clock()
            self._failures[partition] = self._failures.get(partition, 0) + 1
            self._due[partition] = now + max(self._interval_s, (now - save.started_s) / _SHARE)
        return "later"


def _base(shard: Shard, taken: Snapshot) -> int:
    """Return the version that a save builds on; 0, which checks nothing, for a shard without rows."""
    return shard.version if taken.tables else 0


def _write_down(shard: Shard, seal: Callable[[str], RowSeal]) -> bytes:
    """Serialize a shard's models and changed rows. Called in the child, where they stand as they were at the fork."""
    rows, models = shard.packed(seal)
    states = shard.dump()
    return msgspec.msgpack.encode(SaveParts(states, rows, models, shard.failed, shard.tables()))
