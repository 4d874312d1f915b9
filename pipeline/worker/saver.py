"""Saves snapshots when they are due: often while they are cheap, and never more than a share of the time.

What is small is saved by the loop, in less than it takes to learn a batch. To write a big model down, or many rows,
would hold the stream up for as long as it takes, so a child does that (`scribe`), and a thread hands it to the store
(`courier`). The loop only says at which moment: when all that was learned is confirmed. It goes on from there, and
notes how it went when that is known. So what is saved is of a confirmed place still, and lies a little behind the
newest one.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import msgspec
import structlog

from headrace.consumers.topics import Topic
from headrace.pipeline.process import failpoint, forked_writer
from headrace.pipeline.process.background import BackgroundCall
from headrace.pipeline.process.forked_writer import ForkedWriter, ForkedWriterError
from headrace.pipeline.telemetry import Telemetry
from headrace.state import snapshot
from headrace.state.row_packing import PackedRows, TableDamaged
from headrace.state.seal import RowSeal
from headrace.state.shard import Shard
from headrace.state.snapshot import Snapshot
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")

# Saving may take this share of a worker's time: a big model is saved less often.
_SHARE = 0.05
# So often in a row may a child fail; then the loop writes the model down, and says what is wrong with it.
_FAILURES_MAX = 3

Outcome = Literal["saved", "begun", "refused", "later"]
"""What became of a save; a shard whose snapshot was refused is to be taken over again, by a newer owner or here."""


class SaveParts(msgspec.Struct):
    """What a child has written down: the model, the rows that have changed, and the models that serve the next undo."""

    model: bytes
    tables: dict[str, PackedRows]
    models: dict[bytes, bytes]


class BackgroundSave(msgspec.Struct):
    """A save that goes on beside the loop: whose, of which moment, and what has come of it so far.

    `token` is that moment for a model that is one; `is_wanted` as long as the shard is this worker's; `held_s` is for
    how long the loop was held up by it.
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
        reach: Callable[[str], None] = failpoint.reach,
    ) -> None:
        self._reach = reach
        self._distrust = distrust
        self._store = store
        self._topic = topic
        self._interval_s = interval_s
        self._records_max = records_max
        self._telemetry = telemetry
        self._clock = clock
        self._due: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._call = BackgroundCall("save")
        self._errand: BackgroundSave | None = None
        self._is_away = False

    @property
    def is_out(self) -> bool:
        """Whether a save goes on beside the loop, or has ended and was not heard of."""
        return self._errand is not None

    @property
    def back(self) -> Shard | None:
        """The shard whose save has ended beside the loop and is to be heard of by `end`."""
        return self._errand.shard if self._errand is not None and self._call.ended else None

    def due(self, shard: Shard) -> bool:
        """Tell whether a shard is to be saved now; one that was never asked about has just been taken over.

        While a save goes on beside the loop no other that would is due.
        """
        behind = shard.unsaved
        at = self._due.setdefault(shard.partition, self._clock() + self._interval_s)
        if behind <= 0 or self._must_wait(shard):
            return False
        return self._clock() >= at or behind >= self._records_max or shard.is_crowded

    def first_due(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards that are to be saved now, that first which has waited longest."""
        return sorted(filter(self.due, shards), key=lambda shard: self._due[shard.partition])

    def hurry(self, shard: Shard) -> None:
        """Let a shard be due at once, until it is saved."""
        self._due[shard.partition] = self._clock()

    def forget(self, partition: int) -> None:
        """Forget a partition that is another's now."""
        self._due.pop(partition, None)
        self._failures.pop(partition, None)
        if self._errand is not None and self._errand.shard.partition == partition:
            self._errand.is_wanted = False

    def begin(self, shard: Shard) -> Outcome:
        """Save a small shard, and begin to save a big one: one at a time. Raises StoreAway.

        All that the shard has learned is confirmed.
        """
        if not forked_writer.IS_FIT or self._failures.get(shard.partition, 0) >= _FAILURES_MAX:
            return self.finish(shard)
        started_s = self._clock()
        if not shard.is_heavy:
            model = shard.model.dump_if_light()
            if model is not None:
                return self._save(shard, model, started_s)
        if self._errand is not None:
            return "later"
        if self._is_away:
            # No child is made for a store that does not answer.
            self._store.ping()
        try:
            shard.begin_save()
        except (StoreFenced, TableDamaged) as error:
            return self._refused(shard, error)
        draft = self._take(shard, b"")
        errand = BackgroundSave(shard, shard.place, draft, _base(shard, draft), started_s)
        try:
            child = ForkedWriter(partial(_write_down, shard, self._seal_of(shard)), reach=self._reach)
        except OSError as error:
            shard.not_saved()
            return self._failed(errand, f"no child can be forked to write the snapshot down: {error}")
        self._errand = errand
        self._call.start(partial(self._go, child, errand))
        errand.held_s = self._clock() - started_s
        return "begun"

    def end(self, shard: Shard) -> Outcome:
        """Note how the save of a big shard went that has ended. Raises StoreAway.

        Of a shard that was forgotten meanwhile nothing is noted.
        """
        heard_s = self._clock()
        errand, self._errand = self._errand, None
        assert errand is not None
        assert errand.shard is shard
        written = errand.written
        if written is not None:
            # These bytes are the model's, whatever the store makes of them.
            shard.model.checkpointed(written.model)
        try:
            self._call.result()
        except ForkedWriterError as error:
            shard.not_saved()
            return self._failed(errand, str(error))
        except (StoreFenced, TableDamaged) as error:
            return self._refused(shard, error) if errand.is_wanted else "later"
        except StoreAway:
            shard.not_saved()
            self._is_away = True
            self._telemetry.snapshots.labels("failed").inc()
            raise
        self._is_away = False
        if errand.is_wanted and written is not None:
            shard.saved(written.models, place=errand.place, version=errand.version)
            held_s = errand.held_s + self._clock() - heard_s
            self._note(shard, written.model, took_s=errand.ended_s - errand.started_s, held_s=held_s)
        return "saved"

    def wait(self, seconds: float) -> None:
        """Wait so long at most for the save that goes on beside the loop."""
        self._call.wait(seconds)

    def finish(self, shard: Shard) -> Outcome:
        """Save a shard, however big it is, before anything else is done. Raises StoreAway."""
        return self._save(shard, None, self._clock())

    def _seal_of(self, shard: Shard) -> Callable[[str], RowSeal]:
        return partial(self._store.seal.rows, shard.partition)

    def _must_wait(self, shard: Shard) -> bool:
        return self._errand is not None and (shard.is_heavy or shard is self._errand.shard)

    def _go(self, child: ForkedWriter, errand: BackgroundSave) -> None:
        """See a save through that goes on beside the loop: looks at nothing that the loop changes."""
        try:
            written = errand.written = msgspec.msgpack.decode(child.read(), type=SaveParts)
            taken = snapshot.put_model(errand.draft, written.model)
            errand.version = self._store.save_packed(taken, packed=written.tables, base=errand.base)
        finally:
            errand.ended_s = self._clock()

    def _take(self, shard: Shard, model: bytes | None) -> Snapshot:
        labels = self._topic.labels
        return snapshot.take(
            shard,
            topic=self._topic.name,
            topic_id=self._topic.id,
            now_ms=time.time_ns() // 1_000_000,
            labels=("", "") if labels is None else (labels.name, labels.id),
            model=model,
        )

    def _save(self, shard: Shard, model: bytes | None, started_s: float) -> Outcome:
        try:
            shard.begin_save()
            taken = self._take(shard, model)
            packed, models = shard.packed(self._seal_of(shard))
            version = self._store.save_packed(taken, packed=packed, base=_base(shard, taken))
        except (StoreFenced, TableDamaged) as error:
            return self._refused(shard, error)
        except StoreAway:
            shard.not_saved()
            self._telemetry.snapshots.labels("failed").inc()
            raise
        shard.saved(models, place=shard.place, version=version)
        took_s = self._clock() - started_s
        self._note(shard, taken.model, took_s=took_s, held_s=took_s)
        return "saved"

    def _note(self, shard: Shard, model: bytes | None, *, took_s: float, held_s: float) -> None:
        self._failures.pop(shard.partition, None)
        self._due[shard.partition] = self._clock() + max(self._interval_s, took_s / _SHARE)
        self._telemetry.snapshots.labels("saved").inc()
        self._telemetry.snapshot_seconds.observe(held_s)
        self._telemetry.snapshot_bytes.labels(str(shard.partition)).set(len(model or b""))
        log.debug(
            "snapshot saved",
            partition=shard.partition,
            snapshot=shard.snapshot_offset,
            committed=shard.committed,
            bytes=len(model or b""),
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

    def _failed(self, errand: BackgroundSave, reason: str) -> Outcome:
        """Let a shard be due again later whose model was not written down; of one that was forgotten nothing is due."""
        self._telemetry.snapshots.labels("failed").inc()
        log.warning("snapshot failed, it is tried again", partition=errand.shard.partition, reason=reason)
        if errand.is_wanted:
            partition, now = errand.shard.partition, self._clock()
            self._failures[partition] = self._failures.get(partition, 0) + 1
            self._due[partition] = now + max(self._interval_s, (now - errand.started_s) / _SHARE)
        return "later"


def _base(shard: Shard, taken: Snapshot) -> int:
    """Return the version that a save rests on; without rows, whatever the store has lost meanwhile is made good."""
    return shard.version if taken.tables else 0


def _write_down(shard: Shard, seal: Callable[[str], RowSeal]) -> bytes:
    """Write a shard's model and rows down, as they stood when the save was begun: for a child, which has them so."""
    return msgspec.msgpack.encode(SaveParts(shard.model.dump(), *shard.packed(seal)))
