"""Makes the shard of a partition: a new one, or one with the models, the counts and the rows of a snapshot.

Models are matched by name. The one that answers must be the configured one, unless it has learned nothing yet. A shadow
goes on where the snapshot has it as it is configured. A model that does not go on begins anew at the snapshot's place,
and rows that nobody uses any more are deleted.
"""

import time
from collections.abc import Mapping

import msgspec
import structlog

from headrace.consumers.interleave import LogOffsets
from headrace.consumers.topics import Topic
from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.recovery import compatibility
from headrace.pipeline.recovery.consistency import FRESH, StateError
from headrace.state import snapshot as snapshots
from headrace.state.labels.label_join import TABLE as LABELS
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.model_check import model_mismatch
from headrace.state.models.task import ModelError
from headrace.state.row_packing import TableDamaged, TableVersion
from headrace.state.shard import Shard
from headrace.state.shard_model import MODEL, ShardModel, table_name
from headrace.state.snapshot import SavedModel, Snapshot
from headrace.state.store.store import Store

log = structlog.get_logger("headrace")


class ShardStart(msgspec.Struct):
    """A shard at its snapshot. `turn` is that of the read order in which it was learned.

    `rows` has the number of rows of each table that the shard goes on with, and `sums` the sum of each table's rows, as
    the snapshot has them.
    """

    shard: Shard
    turn: int = 0
    rows: Mapping[str, int] = {}
    sums: Mapping[str, bytes] = {}


class ShardMaker:
    """Make shards of `topic` with the models of `models`. `rules` is None without a labels topic."""

    def __init__(self, store: Store, *, topic: Topic, models: ModelFactory, rules: LabelRules | None) -> None:
        self._store = store
        self._topic = topic
        self._models = models
        self._rules = rules

    def begin(self, partition: int, start: LogOffsets) -> Shard:
        """Return a new shard whose history begins at these offsets."""
        labels = None if self._rules is None else Labels(self._rules)
        if self._models.replica is not None:
            # A mix that was given up is loaded anew here, and not while a record is learned.
            _ = self._models.replica.local
        model = self._models.make(partition)
        shadows = {name: make(partition) for name, make in self._models.shadows.items()}
        return Shard(
            model,
            partition=partition,
            start=start[0],
            shadows=shadows,
            labels=labels,
            labels_start=start[1],
            measures=self._models.measures,
        )

    def restore(self, snapshot: Snapshot, version: int, labels_start: int) -> ShardStart:
        """Return the shard of a snapshot; its rows come with `bring_tables`.

        `labels_start` is where the history of labels begins if the snapshot has none. Raises StateError for a snapshot
        of another model or topic, and ModelError.
        """
        join = snapshot.join
        shard = self.begin(snapshot.partition, (snapshot.start, labels_start if join is None else join.start))
        self._bring_challengers(shard, snapshot)
        if snapshot.answers not in shard.models:
            raise StateError(
                f"partition {snapshot.partition}: the model {snapshot.answers!r} answers in the store, and the "
                "configuration has no such model",
                hint=f"configure it again, or {FRESH}",
            )
        shard.answer_with(snapshot.answers)
        if MODEL not in snapshot.models and snapshot.history.generation > 1:
            # A former champion that was dropped.
            shard.remove(MODEL)
        compatibility.check(snapshot, topic=self._topic, model=shard.model)
        shard.restore(
            place=(snapshot.offset, labels_start if join is None else join.offset),
            counts=snapshot.counts,
            version=version,
            secret=snapshot.secret,
        )
        tables = _restore_models(shard, snapshot)
        if shard.labels is not None and join is not None:
            shard.labels.resume(join.memory)
            tables.add(LABELS)
        rows = {table: count for table, count in snapshot.tables.items() if table in tables}
        return ShardStart(shard, 0 if join is None else join.turn, rows, snapshot.sums)

    def _bring_challengers(self, shard: Shard, snapshot: Snapshot) -> None:
        """Make the models that entered as challengers, and let the shard's history go on. Raises StateError."""
        shard.history.resume(snapshot.history)
        contend = self._models.contend
        for name, factory in snapshot.history.factories.items():
            try:
                assert contend is not None, "a model that all workers share has no challengers"
                shard.add(name, contend(name, factory, snapshot.partition).model)
            except ModelError as error:
                raise StateError(
                    f"partition {snapshot.partition}: its model {name!r} can't be built with {factory}: {error}",
                    hint=f"restore {factory}, or {FRESH}",
                ) from error

    def bring_tables(self, start: ShardStart) -> None:
        """Roll the store's tables back to the shard's snapshot, and load the waiting labels.

        Tables that the shard does not go on with are emptied. Raises TableDamaged, StoreAway, StoreFenced.
        """
        shard, partition = start.shard, start.shard.partition
        self._store.rewind(partition, epoch=shard.epoch, version=shard.version, sums=start.sums)
        if shard.labels is not None:
            shard.labels.restore(self._store.rows(partition, LABELS))
        unused = [table for table, total in start.sums.items() if table not in start.rows and any(total)]
        if unused:
            self._empty(shard, unused)
        self._resume(shard)
        for table, rows in shard.tables().items():
            if (told := start.rows.get(table, 0)) != rows:
                raise TableDamaged(f"the table {table} has {rows} rows; with version {shard.version} it had {told}")

    def _resume(self, shard: Shard) -> None:
        """Let the models go on with their rows in the store."""
        for one in shard.models.values():
            for table in one.model.tables():
                rows = self._store.count(shard.partition, table_name(one.name, table))
                version = self._store.version(shard.partition)
                one.model.resume(TableVersion(shard.epoch, version, rows))

    def _empty(self, shard: Shard, tables: list[str]) -> None:
        """Save the shard as it stands as a version without the rows of these tables, which can be rolled back."""
        self._resume(shard)
        taken = snapshots.take(
            shard,
            topic=self._topic.name,
            topic_id=self._topic.id,
            now_ms=time.time_ns() // 1_000_000,
            labels=("", "") if self._topic.labels is None else (self._topic.labels.name, self._topic.labels.id),
        )
        own = {table: rows for table, rows in taken.tables.items() if table not in tables}
        gone = {table: {key: None for key, _ in self._store.rows(shard.partition, table)} for table in tables}
        version = self._store.save(msgspec.structs.replace(taken, tables=own), changes=gone, base=shard.version)
        shard.saved({}, place=shard.place, version=version)
        log.info("rows that no model uses any more are deleted", partition=shard.partition, tables=tables)


def _restore_models(shard: Shard, snapshot: Snapshot) -> set[str]:
    """Load the models of a snapshot; return the tables of those that go on. Raises ModelError for the answering one."""
    tables: set[str] = set()
    for name, failed in snapshot.failed.items():
        if name in shard.models and shard.models[name].model.spec == failed.spec:
            shard.fail(name, failed.reason)
    for name, one in list(shard.models.items()):
        saved = snapshot.models.get(name)
        reason = "the snapshot does not hold it" if saved is None else _unfit(saved, one, shard)
        if reason:
            # A model that has learned nothing leaves nothing behind.
            tell = log.warning if snapshot.counts.learned else log.info
            tell("a model begins anew", partition=shard.partition, model=name, offset=shard.offset, reason=reason)
        else:
            tables.update(one.tables())
    for name in snapshot.models.keys() - shard.models.keys() - shard.failed.keys():
        log.warning("a model is not configured any more, and is dropped", partition=shard.partition, model=name)
    return tables


def _unfit(saved: SavedModel, one: ShardModel, shard: Shard) -> str:
    """Load a model; return why it begins anew, or an empty text. Raises ModelError for the model that answers."""
    model = one.model
    found = model_mismatch(saved, scope=model.can.scope, spec=model.spec, codec=model.codec)
    if found is not None:
        return found.message
    try:
        one.restore(saved.state, quality=saved.quality, faults=saved.faults)
    except ModelError as error:
        if one is shard.answering:
            raise
        return str(error)
    return ""
