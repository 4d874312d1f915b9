"""Takes a partition over: makes a shard of the store's snapshot and Kafka's offsets.

The order is the promise. Claim the epoch, so that no earlier owner can save any more. Read the committed offset Y,
which waits for a transaction that is still open. Load the newest whole snapshot at X ≤ Y. See that the log still holds
[X, Y). The shard then relearns [X, Y) in silence, and must arrive at Y with the counts of Y's mark. If something does
not add up, the pipeline stops and names the choices: it never starts afresh in silence.
"""

import time
from typing import Literal

import msgspec
import structlog

from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Committed, Source, SourceLost
from headrace.consumers.topics import Topic
from headrace.pipeline.control.command_inbox import CommandInbox
from headrace.pipeline.model_factory import ModelFactory
from headrace.pipeline.recovery import compatibility, consistency, offset_metadata, survey
from headrace.pipeline.recovery.consistency import PartitionFacts, SavedSnapshot, StateError
from headrace.pipeline.recovery.model_limit import ModelLimit
from headrace.pipeline.recovery.offset_metadata import OffsetMetadata
from headrace.pipeline.recovery.shard_maker import ShardMaker, ShardStart
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker import mixer
from headrace.producers import replay_proof
from headrace.state.labels.join_state import LabelCounts
from headrace.state.labels.label_join import LabelRules
from headrace.state.labels.read_order import Order, OrderError
from headrace.state.labels.read_order import decode as decode_order
from headrace.state.row_packing import TableDamaged
from headrace.state.shard import Shard
from headrace.state.shared.mix_store import MixOffset
from headrace.state.snapshot import Snapshot
from headrace.state.store.store import LoadedSnapshot, Store

log = structlog.get_logger("headrace")

OnLoss = Literal["relearn", "fresh", "stop"]
"""What to do when the store has lost a model that Kafka's mark tells of: relearn it from the log, as far as the log
reaches back; begin a new history at the committed offset; or stop."""


class _Relearning(msgspec.Struct):
    """How a shard comes to its committed offset: since when, from which offset, and which mark must agree there."""

    since_s: float
    offset: int
    mark: OffsetMetadata | None


class Takeover:
    """Make shards for partitions of `topic` with the models of `models`.

    `rules` tell how features wait for labels, None without a labels topic. `inbox` has the journals. `mix_offsets`
    tells how far the mix of all workers has come in the partitions that were taken over.
    """

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        topic: Topic,
        identity: TopicIdentity,
        models: ModelFactory,
        rules: LabelRules | None,
        inbox: CommandInbox,
        on_loss: OnLoss,
        limit: ModelLimit,
        telemetry: Telemetry,
    ) -> None:
        self._identity = identity
        self._inbox = inbox
        self._rules = rules
        self._source = source
        self._store = store
        self._topic = topic
        self._make_model = models.make
        self._maker = ShardMaker(store, topic=topic, models=models, rules=rules)
        self._replica = models.replica
        self.mix_offsets: dict[int, MixOffset | None] = {}
        self._on_loss = on_loss
        self._limit = limit
        self._telemetry = telemetry
        self._relearning: dict[int, _Relearning] = {}
        self._distrusted: set[int] = set()

    def take(self, partition: int) -> tuple[Shard, list[LogOffsets] | None]:
        """Take a partition over; return its shard, and the steps to its committed place, None if they are not known.

        Raises StateError; StoreAway, StoreFenced and SourceAway; and SourceLost for a partition that is new.
        """
        if partition >= self._topic.partitions:
            raise SourceLost(f"{self._topic.name} has more partitions than at the start: all topics are looked at anew")
        # The topics may have changed: a worker without partitions asks for nothing for a long time.
        self._identity.confirm()
        newest = survey.saved(self._store, partition)
        self._refuse_foreign(partition, newest)
        epoch = self._store.claim(partition, floor=0)
        facts = survey.facts(partition, topic=self._topic, source=self._source, newest=newest)
        if facts.mark is not None and facts.mark.epoch >= epoch:
            # The store has lost the epochs, Kafka has kept them.
            epoch = self._store.claim(partition, floor=facts.mark.epoch)
        try:
            shard, steps = self._make_shard(facts, epoch)
        except TableDamaged as error:
            if self._on_loss == "stop":
                raise StateError(f"partition {partition}: {error}") from error
            log.warning("the store's rows are damaged, all is passed over", partition=partition, reason=str(error))
            self._distrusted.add(partition)
            shard, steps = self._make_shard(facts, epoch)
        self._distrusted.discard(partition)
        log.info(
            "partition taken over",
            partition=partition,
            epoch=epoch,
            snapshot=shard.offset,
            committed=shard.committed,
            relearning=max(0, shard.committed - shard.offset),
            version=shard.version,
        )
        return shard, steps

    def _refuse_foreign(self, partition: int, newest: SavedSnapshot | None) -> None:
        """See that no model of another project is claimed under the same name. Raises NameTaken."""
        if newest is None or newest.topic == self._topic.name:
            return
        facts = survey.facts(partition, topic=self._topic, source=self._source, newest=newest)
        if self._on_loss != "fresh" or self._identity.is_there(newest.topic):
            consistency.check_name(facts)

    def _make_shard(self, facts: PartitionFacts, epoch: int) -> tuple[Shard, list[LogOffsets] | None]:
        """Make the shard at its snapshot, with its tables, and find the steps to its committed place."""
        partition, last = facts.partition, facts.mark
        self._claim_mix(partition, epoch)
        compared: OffsetMetadata | None = None
        try:
            consistency.check(facts)
            start = self._find(facts)
            self._inbox.follow(start.shard, last)
        except StateError as error:
            if self._on_loss != "fresh":
                raise
            start = self._begin_anew(facts, error)
            steps: list[LogOffsets] | None = []
        else:
            steps = self._follow(start, last)
            # In another order the counts may be others.
            compared = None if steps is None else last
        shard = start.shard
        # The mark's secret goes before the snapshot's: replays are signed with it.
        secret = (last.secret if last is not None else "") or shard.secret or replay_proof.new_secret()
        shard.take_over(epoch=epoch, mark=facts.place.metadata, secret=secret)
        self._bring_tables(start)
        self._relearning[partition] = _Relearning(time.monotonic(), shard.offset, compared)
        return shard, steps

    def _begin_anew(self, facts: PartitionFacts, error: StateError) -> ShardStart:
        partition = facts.partition
        is_other = isinstance(error, consistency.NameTaken | consistency.TopicReplaced)
        if is_other and self._replica is not None and self.mix_offsets.get(partition) is not None:
            # In the mix, what was learned from another topic can't be separated from the rest.
            self._replica.clear(self._replica.version)
            self.mix_offsets[partition] = None
        shard = self._maker.begin(partition, consistency.beginning(facts))
        log.warning(
            "a new history begins, what was learned is left behind",
            partition=partition,
            start=shard.start,
            reason=str(error),
        )
        if not self._inbox.is_off:
            shard.history.begin_anew(self._inbox.journal(partition))
        return ShardStart(shard)

    def distrust(self, partition: int) -> None:
        """Ignore the store's snapshots of a partition, whose rows were found damaged, when it is next taken over."""
        self._distrusted.add(partition)

    def settle(self, shard: Shard) -> None:
        """Check a shard that has arrived at its committed offset against what that offset's mark tells."""
        relearning = self._relearning.pop(shard.partition)
        _log_relearned(shard, relearning)
        last = relearning.mark
        if last is None:
            return
        self._inbox.settle(shard, last)
        told, found = offset_metadata.counts(last), shard.counts
        tally = None if last.join is None or shard.labels is None else last.join.tally
        if (told.records, told.learned) != (found.records, found.learned) or not _agree(shard, tally):
            message = (
                f"partition {shard.partition}: relearning gave {found.records} records and {found.learned} "
                f"learned; at offset {shard.committed} there had been {told.records} and {told.learned}"
                + ("" if _agree(shard, tally) else f"; of labels there had been {tally}")
            )
            if self._replica is not None and told.records == found.records:
                # Whether a model can learn a record may depend on what the others had contributed to the mix.
                log.warning("relearning came to other counts", reason=message)
                return
            raise StateError(
                message,
                hint="the log, model.py or [labels] is no longer what it was: undo that, or start under another `name`",
            )
        # The log does not hold the HTTP sink's refusals, so that relearning can't count them.
        shard.set_counts(told)

    def _follow(self, start: ShardStart, last: OffsetMetadata | None) -> list[LogOffsets] | None:
        """Find the steps from where a shard stands to its committed place; None when they are not known.

        Then the history is learned in another order, and a mark of that order must be committed.
        """
        shard, turn = start.shard, start.turn
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

    def _bring_tables(self, start: ShardStart) -> None:
        """Bring the shard's tables to its snapshot. Raises TableDamaged."""
        shard = start.shard
        # Damaged fields are removed from the store, whether or not there are tables.
        is_whole = shard.partition not in self._distrusted and self._replica is None
        if not is_whole or shard.tables() or self._store.has_tables(shard.partition):
            self._maker.bring_tables(start)

    def _claim_mix(self, partition: int, epoch: int) -> None:
        """Ask how far the mix of all workers has come in a partition, and keep an older owner from moving it."""
        if self._replica is not None:
            stops = self._on_loss == "stop"
            self.mix_offsets[partition] = mixer.claim(self._replica, partition, epoch, stops=stops)

    def _find(self, facts: PartitionFacts) -> ShardStart:
        """Make the shard at the newest snapshot that fits, or at the start of its history."""
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
            return ShardStart(self._maker.begin(partition, lows))
        if last is not None:
            compatibility.check_mark(facts, self._make_model(partition))
            labels_start = lows[1] if last.join is None else last.join.start
            return self._relearn_all(partition, committed, (last.start, labels_start), lows)
        if found.ahead is not None:
            compatibility.check(found.ahead, topic=self._topic, model=self._make_model(partition))
            labels_start = lows[1] if found.ahead.join is None else found.ahead.join.start
            if self._on_loss == "stop":
                raise StateError(
                    f"partition {partition}: the store's model is ahead of the committed offset {committed.offset}, "
                    "which some other tool has set"
                )
            return self._relearn_all(partition, committed, (found.ahead.start, labels_start), lows)
        if found.faults:
            raise StateError(f"partition {partition}: no snapshot in the store can be used: {found.faults[0]}")
        log_left_out(facts)
        return ShardStart(self._maker.begin(partition, _later(committed, lows)))

    def _load(self, partition: int, committed: Committed, last: OffsetMetadata | None) -> LoadedSnapshot:
        if partition in self._distrusted and self._on_loss == "stop":
            raise StateError(f"partition {partition}: the store's rows do not belong to any of its snapshots")
        if partition in self._distrusted:
            # The snapshots and the rest of the rows are dropped only after the log was found to reach back.
            return LoadedSnapshot()
        mixed = self.mix_offsets.get(partition)
        newest = None if self._replica is None else (0 if mixed is None else mixed.version)
        found = self._store.load(
            partition,
            at_most=committed.offset,
            start=None if last is None else last.start,
            newest=newest,
            topic=(self._topic.name, self._topic.id),
        )
        if self._replica is not None and mixed is not None and not _is_of(found, mixed):
            fault = (
                f"partition {partition}: the mix has come to offset {mixed.offset}, and the snapshot of that moment "
                f"(version {mixed.version}) can't be used: {'; '.join(found.faults) or 'it is gone'}"
            )
            if self._on_loss != "relearn":
                raise StateError(fault)
            # In the mix, this partition's part can't be separated from the rest: all of it is relearned.
            log.warning("the mix is given up, every partition is learned again", reason=fault)
            self._replica.clear(self._replica.version)
            self.mix_offsets[partition] = None
            return LoadedSnapshot()
        return found

    def _count_loss(self, partition: int, found: LoadedSnapshot, last: OffsetMetadata | None) -> None:
        """Count a loss if the store has an older snapshot than Kafka's mark tells of. Raises StateError with `stop`."""
        if last is None or not last.records:
            return
        offset = None if found.snapshot is None else found.snapshot.offset
        # A worker that ended before its first snapshot looks the same as a store that has lost everything.
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

    def _restore(self, snapshot: Snapshot, version: int, committed: Committed, lows: LogOffsets) -> ShardStart:
        self._limit.check(snapshot.partition, snapshot.models_bytes)
        # If the labels topic is new to the model, its history of labels begins now.
        start = self._maker.restore(snapshot, version, _later(committed, lows)[1])
        start.shard.relearn_to(committed.offset, committed.labels)
        if self._on_loss == "fresh" and self._has_all_learned(start.shard) and lows[0] > snapshot.offset:
            # Only records that nobody has read are gone. The history goes on behind them: the next commit says so.
            log.warning(
                "records that were never read are gone, the model goes on behind them",
                partition=snapshot.partition,
                offset=snapshot.offset,
                log_start=lows[0],
                records=lows[0] - snapshot.offset,
            )
            start.shard.skip_to(lows[0])
            return start
        consistency.check_log("features", snapshot.partition, low=lows[0], offset=snapshot.offset)
        if snapshot.join is not None:
            consistency.check_log("labels", snapshot.partition, low=lows[1], offset=snapshot.join.offset)
        return start

    def _has_all_learned(self, shard: Shard) -> bool:
        """Tell whether a shard of one log, with a model of its own, stands at its committed offset."""
        return shard.offset == shard.committed and shard.labels is None and self._replica is None

    def _relearn_all(self, partition: int, committed: Committed, start: LogOffsets, lows: LogOffsets) -> ShardStart:
        """Make a shard at the start of a history, which is to be relearned from the log."""
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
        shard = self._maker.begin(partition, start)
        shard.relearn_to(committed.offset, committed.labels)
        return ShardStart(shard)


def _is_of(found: LoadedSnapshot, place: MixOffset) -> bool:
    return found.snapshot is not None and (found.snapshot.offset, found.version) == (place.offset, place.version)


def _later(committed: Committed, lows: LogOffsets) -> LogOffsets:
    """Return where a history without a past begins: at the committed offset, or at the log's start if that is later."""
    return max(committed.offset, lows[0]), max(committed.labels, lows[1])


def log_left_out(facts: PartitionFacts) -> None:
    """Log the number of records that a history leaves out because another tool has set the offset."""
    if left_out := consistency.left_out(facts):
        log.warning(
            "the history begins at an offset that another tool has set: it carries no mark of this pipeline",
            partition=facts.partition,
            log_start=facts.place.low,
            offset=facts.place.committed,
            left_out=left_out,
        )


def _log_relearned(shard: Shard, relearning: _Relearning) -> None:
    records = shard.offset - relearning.offset
    if not records:
        return
    took_s = time.monotonic() - relearning.since_s
    log.info(
        "relearned",
        partition=shard.partition,
        offset=shard.offset,
        learned=shard.counts.learned,
        records=records,
        seconds=round(took_s, 3),
        records_per_second=round(records / max(took_s, 1e-3)),
    )


def _agree(shard: Shard, told: LabelCounts | None) -> bool:
    return told is None or shard.labels is None or shard.labels.tally == told


def _shown(place: LogOffsets) -> str:
    return f"{place[0]}" if place[1] < 0 else f"{place[0]} (labels: {place[1]})"


def _order_of(join: offset_metadata.JoinMetadata) -> Order | None:
    try:
        return decode_order(join.order)
    except OrderError:
        # Another tool has written it.
        return None
