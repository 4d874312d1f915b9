"""Taking a partition over: from the store's snapshot and Kafka's offsets to a shard that may go on.

The order is the promise: claim the epoch, so that no earlier owner can save any more; read the committed
offset Y, waiting out a transaction that is still open; load the newest whole snapshot at X ≤ Y; see that the
log still holds [X, Y). The shard then relearns [X, Y) in silence and must arrive at Y with the counts that Y's
mark tells. Whatever does not add up stops the pipeline with the choices: it never starts afresh in silence.
"""

import time
from collections.abc import Mapping
from typing import Literal

import structlog

from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Committed, Source, SourceLost
from headrace.consumers.topics import Topic
from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.recovery import compatibility, consistency, offset_metadata, survey
from headrace.pipeline.recovery.consistency import PartitionFacts, SavedSnapshot, StateError
from headrace.pipeline.recovery.offset_metadata import OffsetMetadata
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker import mixer
from headrace.producers import replay_proof
from headrace.state.labels.label_join import TABLE as LABELS
from headrace.state.labels.label_join import LabelCounts, LabelRules, Labels
from headrace.state.labels.read_order import Order, OrderError
from headrace.state.labels.read_order import decode as decode_order
from headrace.state.models.model import Model
from headrace.state.row_packing import TableDamaged, TableVersion
from headrace.state.shard import Shard
from headrace.state.shared.mix_store import MixOffset
from headrace.state.snapshot import Snapshot
from headrace.state.store.store import LoadedSnapshot, Store

log = structlog.get_logger("headrace")

OnLoss = Literal["relearn", "fresh", "stop"]
"""What to do when the store has lost what Kafka knows that it had: learn it again from the log as far as that
reaches, begin a new history at the committed offset, or stop."""


class Takeover:
    """Make shards for partitions of `topic`; `models` makes models, `rules` how labels are waited for."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        topic: Topic,
        identity: TopicIdentity,
        models: ModelFactory,
        rules: LabelRules | None,
        on_loss: OnLoss,
        telemetry: Telemetry,
    ) -> None:
        self._identity = identity
        self._rules = rules
        self._source = source
        self._store = store
        self._topic = topic
        self._build = models.make
        self._commons = models.replica
        self.places: dict[int, MixOffset | None] = {}
        self._on_loss = on_loss
        self._telemetry = telemetry
        self._marks: dict[int, OffsetMetadata] = {}
        self._began: dict[int, tuple[int, float]] = {}
        self._distrusted: set[int] = set()
        self._turns: dict[int, int] = {}
        self._rows: dict[int, tuple[Mapping[str, int], Mapping[str, bytes]]] = {}

    def take(self, partition: int) -> tuple[Shard, list[LogOffsets] | None]:
        """Take a partition over; return with it the steps that lead to its committed place, where they are known.

        Raises StateError, what the store and the source raise when away, and SourceLost for a partition that is new.
        """
        if partition >= self._topic.partitions:
            raise SourceLost(f"{self._topic.name} has more partitions than at the start: all topics are looked at anew")
        # What the worker knows of the topics may be old: it may have been without partitions for long.
        self._identity.confirm()
        newest = survey.saved(self._store, partition)
        self._refuse_foreign(partition, newest)
        epoch = self._store.claim(partition, floor=0)
        facts = survey.facts(partition, topic=self._topic, source=self._source, newest=newest)
        if facts.mark is not None and facts.mark.epoch >= epoch:
            # The store lost its memory of the epochs; Kafka has kept it.
            epoch = self._store.claim(partition, floor=facts.mark.epoch)
        try:
            shard, steps = self._stand(facts, epoch)
        except TableDamaged as error:
            if self._on_loss == "stop":
                raise StateError(f"partition {partition}: {error}") from error
            log.warning("the store's rows are damaged, all is passed over", partition=partition, reason=str(error))
            self._distrusted.add(partition)
            shard, steps = self._stand(facts, epoch)
        self._distrusted.discard(partition)
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
        return shard, steps

    def _refuse_foreign(self, partition: int, newest: SavedSnapshot | None) -> None:
        """Keep off the models of another project before anything of theirs is claimed. Raises consistency.NameTaken."""
        if newest is None or newest.topic == self._topic.name:
            return
        facts = survey.facts(partition, topic=self._topic, source=self._source, newest=newest)
        if self._on_loss != "fresh" or self._identity.is_there(newest.topic):
            consistency.check_name(facts)

    def _stand(self, facts: PartitionFacts, epoch: int) -> tuple[Shard, list[LogOffsets] | None]:
        """Make the shard at its snapshot, with its tables, and say in which steps it comes to its committed place."""
        partition, last = facts.partition, facts.mark
        self._marks.pop(partition, None)
        self._claim_place(partition, epoch)
        try:
            consistency.check(facts)
            shard = self._find(facts)
        except StateError as error:
            if self._on_loss != "fresh":
                raise
            shard = self._begin_anew(facts, error)
            steps: list[LogOffsets] | None = []
        else:
            steps = self._follow(shard, last)
            if last is not None and steps is not None:
                self._marks[partition] = last
        # The mark's before the snapshot's: it is what a replay signs with.
        secret = (last.secret if last is not None else "") or shard.secret or replay_proof.new_secret()
        shard.take_over(epoch=epoch, mark=facts.place.metadata, secret=secret)
        self._bring_tables(shard)
        return shard, steps

    def _begin_anew(self, facts: PartitionFacts, error: StateError) -> Shard:
        partition = facts.partition
        is_other = isinstance(error, consistency.NameTaken | consistency.TopicReplaced)
        if is_other and self._commons is not None and self.places.get(partition) is not None:
            # What was learned of another topic can't be told from the rest of the mix.
            self._commons.clear(self._commons.version)
            self.places[partition] = None
        shard = self._begin(partition, consistency.beginning(facts))
        log.warning(
            "a new history begins, what was learned is left behind",
            partition=partition,
            start=shard.start,
            reason=str(error),
        )
        return shard

    def distrust(self, partition: int) -> None:
        """Do without what the store has of a partition, whose rows were found to be damaged, when it is next taken."""
        self._distrusted.add(partition)

    def settle(self, shard: Shard) -> None:
        """Check a shard that has arrived at its committed offset against what that offset's mark tells."""
        self._say_relearned(shard)
        last = self._marks.pop(shard.partition, None)
        if last is None:
            return
        told, found = offset_metadata.counts(last), shard.counts
        tally = None if last.join is None or shard.labels is None else last.join.tally
        if (told.records, told.learned) != (found.records, found.learned) or not _agree(shard, tally):
            message = (
                f"partition {shard.partition}: relearning gave {found.records} records and {found.learned} "
                f"learned; at offset {shard.committed} there had been {told.records} and {told.learned}"
                + ("" if _agree(shard, tally) else f"; of labels there had been {tally}")
            )
            if self._commons is not None and told.records == found.records:
                # Whether a model can learn a record may depend on what the others had brought into the mix.
                log.warning("relearning came to other counts", reason=message)
                return
            raise StateError(
                message,
                hint="the log, model.py or [labels] is no longer what it was: undo that, or start under another `name`",
            )
        # A sink's refusals are not in the log, so relearning can't count them.
        shard.settle(told)

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

    def _follow(self, shard: Shard, last: OffsetMetadata | None) -> list[LogOffsets] | None:
        """Find the steps from where a shard stands to its committed place; None when they are not known.

        Then the history is learned in an order of its own, and a mark of its own must be committed.
        """
        turn = self._turns.pop(shard.partition, 0)
        if shard.labels is None:
            return []
        if last is None or last.join is None:
            shard.follow(Order(shard.place, turn=turn))
            return []
        order = _order_of(last.join)
        steps = None if order is None or order.turn != turn else order.since(shard.place)
        if order is not None and steps is not None:
            shard.follow(order)
            return steps
        shard.follow(Order(shard.place, turn=1 + max(turn, 0 if order is None else order.turn)))
        log.warning(
            "the order of features and labels is not known this far back, they are relearned by their timestamps",
            partition=shard.partition,
            offset=shard.offset,
            labels_offset=shard.labels_offset,
        )
        return None

    def _bring_tables(self, shard: Shard) -> None:
        """Let the store's tables stand where the shard does, and bring what it needs of them. Raises TableDamaged."""
        told_rows, sums = self._rows.pop(shard.partition, ({}, {}))
        # A store whose fields made no sense is emptied of them, be there tables or not.
        is_whole = shard.partition not in self._distrusted and self._commons is None
        if is_whole and not shard.tables() and not self._store.has_tables(shard.partition):
            return
        self._store.rewind(shard.partition, epoch=shard.epoch, version=shard.version, sums=sums)
        if shard.labels is not None:
            shard.labels.restore(self._store.rows(shard.partition, LABELS))
        for table in shard.model.tables():
            rows, version = self._store.count(shard.partition, table), self._store.version(shard.partition)
            shard.model.resume(TableVersion(shard.epoch, version, rows))
        for table, rows in shard.tables().items():
            if (told := told_rows.get(table, 0)) != rows:
                raise TableDamaged(f"the table {table} has {rows} rows; with version {shard.version} it had {told}")

    def _claim_place(self, partition: int, epoch: int) -> None:
        """Find out how far the mix of all workers has come in a partition, and keep an older owner from moving it."""
        if self._commons is None:
            return
        self.places[partition] = mixer.claim(self._commons, partition, epoch, stops=self._on_loss == "stop")

    def _find(self, facts: PartitionFacts) -> Shard:
        partition, last, committed = facts.partition, facts.mark, survey.committed(facts)
        lows = facts.place.low, -1 if facts.place.labels is None else facts.place.labels.low
        if self._rules is None and last is not None and last.join is not None:
            raise StateError(
                f"partition {partition}: {last.join.asked} records wait for labels, and the configuration has no "
                "topics.labels any more",
                hint=f"set topics.labels again, or {consistency.FRESH}",
            )
        found = self._load(partition, committed, last)
        for fault in found.faults:
            log.warning("snapshot passed over", partition=partition, fault=fault)
        self._count_loss(partition, found, last)
        if found.snapshot is not None:
            return self._restore(found.snapshot, found.version, committed, lows)
        if committed.offset < 0:
            if found.faults:
                raise StateError(
                    f"partition {partition} has a model in the store, but the group has no committed offset"
                )
            return self._begin(partition, lows)
        if last is not None:
            check_mark(facts, self._build(partition))
            labels_start = lows[1] if last.join is None else last.join.start
            return self._relearn_all(partition, committed, (last.start, labels_start), lows)
        if found.ahead is not None:
            self._check(found.ahead, self._build(partition))
            labels_start = lows[1] if found.ahead.join is None else found.ahead.join.start
            if self._on_loss == "stop":
                raise StateError(
                    f"partition {partition}: the store's model is ahead of the committed offset {committed.offset}, "
                    "which some other tool has set"
                )
            return self._relearn_all(partition, committed, (found.ahead.start, labels_start), lows)
        if found.faults:
            raise StateError(f"partition {partition}: no snapshot in the store can be used: {found.faults[0]}")
        say_left_out(facts)
        return self._begin(partition, _later(committed, lows))

    def _load(self, partition: int, committed: Committed, last: OffsetMetadata | None) -> LoadedSnapshot:
        if partition in self._distrusted and self._on_loss == "stop":
            raise StateError(f"partition {partition}: the store's rows do not belong to any of its snapshots")
        if partition in self._distrusted:
            # Only when it is known that the log reaches back are the snapshots dropped, with what is left of the rows.
            return LoadedSnapshot()
        place = self.places.get(partition)
        newest = None if self._commons is None else (0 if place is None else place.version)
        found = self._store.load(
            partition,
            at_most=committed.offset,
            start=None if last is None else last.start,
            newest=newest,
            topic=(self._topic.name, self._topic.id),
        )
        if self._commons is not None and place is not None and not _is_of(found, place):
            fault = (
                f"partition {partition}: the mix has come to offset {place.offset}, and the snapshot of that moment "
                f"(version {place.version}) can't be used: {'; '.join(found.faults) or 'it is gone'}"
            )
            if self._on_loss != "relearn":
                raise StateError(fault)
            # What is in the mix of this partition can't be told from the rest: all of it is learned again.
            log.warning("the mix is given up, every partition is learned again", reason=fault)
            self._commons.clear(self._commons.version)
            self.places[partition] = None
            return LoadedSnapshot()
        return found

    def _count_loss(self, partition: int, found: LoadedSnapshot, last: OffsetMetadata | None) -> None:
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

    def _restore(self, snapshot: Snapshot, version: int, committed: Committed, lows: LogOffsets) -> Shard:
        partition = snapshot.partition
        join = snapshot.join
        # Where the labels topic is new to the model, its history of labels begins now.
        labels_start = _later(committed, lows)[1] if join is None else join.start
        shard = self._begin(partition, (snapshot.start, labels_start))
        self._check(snapshot, shard.model)
        self._reach("features", partition, low=lows[0], offset=snapshot.offset)
        if join is not None:
            self._reach("labels", partition, low=lows[1], offset=join.offset)
        shard.restore(
            place=(snapshot.offset, labels_start if join is None else join.offset),
            counts=snapshot.counts,
            quality=snapshot.quality,
            model=snapshot.model,
            version=version,
            secret=snapshot.secret,
        )
        if shard.labels is not None and join is not None:
            shard.labels.resume(join.memory)
            self._turns[partition] = join.turn
        self._rows[partition] = snapshot.tables, snapshot.sums
        shard.relearn_to(committed.offset, committed.labels)
        return shard

    def _reach(self, topic: str, partition: int, *, low: int, offset: int) -> None:
        if low > offset:
            raise StateError(
                f"partition {partition}: the log of {topic} begins at {low}, past {offset} where the model stands; "
                f"{low - offset} records are gone",
                hint=f"raise the topic's retention; to go on without them, {consistency.CHOICES}",
            )

    def _relearn_all(self, partition: int, committed: Committed, start: LogOffsets, lows: LogOffsets) -> Shard:
        if lows[0] > start[0] or lows[1] > start[1]:
            raise StateError(
                f"partition {partition}: the store holds no model, and the log, which begins at {_shown(lows)}, no "
                f"longer reaches back to {_shown(start)} where the model's history began"
            )
        if start[0] > committed.offset:
            raise StateError(
                f"partition {partition}: the model's history begins at {start[0]}, past the committed offset "
                f"{committed.offset}, which some other tool has set"
            )
        log.info(
            "the store holds no model for this place, learning it again from the log",
            partition=partition,
            start=start[0],
            committed=committed.offset,
        )
        shard = self._begin(partition, start)
        shard.relearn_to(committed.offset, committed.labels)
        return shard

    def _begin(self, partition: int, start: LogOffsets) -> Shard:
        labels = None if self._rules is None else Labels(self._rules)
        return Shard(self._build(partition), partition=partition, start=start[0], labels=labels, labels_start=start[1])

    def _check(self, snapshot: Snapshot, model: Model) -> None:
        found = compatibility.mismatch(snapshot, topic=self._topic, model=model)
        if found is not None:
            hint = f"{found.hint}, or {consistency.FRESH}" if found.hint else consistency.CHOICES
            raise StateError(f"partition {snapshot.partition}: {found.message}", hint=hint)


def check_mark(facts: PartitionFacts, model: Model) -> None:
    """Compare the model that left a mark with the one that is to learn its history again. Raises StateError."""
    found = (
        None if facts.mark is None else compatibility.mark_mismatch(facts.mark, scope=model.can.scope, spec=model.spec)
    )
    if found is not None:
        message = f"partition {facts.partition}, at offset {facts.place.committed}: {found.message}"
        raise StateError(message, hint=f"{found.hint}, or {consistency.FRESH}")


def _is_of(found: LoadedSnapshot, place: MixOffset) -> bool:
    return found.snapshot is not None and (found.snapshot.offset, found.version) == (place.offset, place.version)


def _later(committed: Committed, lows: LogOffsets) -> LogOffsets:
    """Return where a history without a past begins: where the group stands, or the log where that begins later."""
    return max(committed.offset, lows[0]), max(committed.labels, lows[1])


def say_left_out(facts: PartitionFacts) -> None:
    """Say which records a history leaves out that begins where somebody else has set the offset."""
    if left_out := consistency.left_out(facts):
        log.warning(
            "the history begins at an offset that another tool has set: it carries no mark of this pipeline",
            partition=facts.partition,
            log_start=facts.place.low,
            offset=facts.place.committed,
            left_out=left_out,
        )


def _agree(shard: Shard, told: LabelCounts | None) -> bool:
    return told is None or shard.labels is None or shard.labels.tally == told


def _shown(place: LogOffsets) -> str:
    return f"{place[0]}" if place[1] < 0 else f"{place[0]} (labels: {place[1]})"


def _order_of(join: offset_metadata.JoinMetadata) -> Order | None:
    try:
        return decode_order(join.order)
    except OrderError:
        # Some other tool has written it.
        return None
