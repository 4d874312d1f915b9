"""The state of one partition: its models, of which one answers, the counts, and the offsets in the logs.

A shard has learned its partition from the start of its history up to its offset. The engine moves it forward. A record
on which a model raises is undone, as if that model had never learned it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from headrace.state.event_time import StrayTimes
from headrace.state.history.history import ShardHistory
from headrace.state.labels.label_join import TABLE as LABELS
from headrace.state.labels.label_join import Labels
from headrace.state.labels.read_order import Order
from headrace.state.models.model import Model
from headrace.state.models.task import ModelError
from headrace.state.quality import Quality
from headrace.state.row_packing import PackedRows, pack
from headrace.state.seal import Number, RowSeal
from headrace.state.shard_model import MODEL, REASON_MAX, FailedModel, ShardModel

T = TypeVar("T")

SHARED_ALONE = "a model that all workers share can't have others beside it: no snapshot of a partition holds it"
"""Why a model of the scope "global" has no challengers."""
SHARED_HINT = 'set model.scope = "partition" or "key"'


class Counts(msgspec.Struct):
    """The counts of a shard since the first record of its history.

    Each record has a prediction or a dead letter, or is skipped.
    """

    records: Number = 0
    predictions: Number = 0
    dead_letters: Number = 0
    learned: Number = 0
    skipped: Number = 0


class Shard:
    """The models of a partition, by name, and its offsets in the logs. Only the shard moves its offsets.

    One of the models answers (`answering`, `model`). The others are its `shadows`: they see the same records and
    labels, and what they raise is counted for them and changes nothing else. `failed` are the shadows that were taken
    out. Raises ModelError for shadows beside a model that all workers share.

    `version` is the newest snapshot in the store, `epoch` that of the partition's owner. `mark` is the metadata of the
    last committed offset. `secret` signs replays, and is the same for the whole history. With a labels topic `labels`
    is its join, and `order` the order in which the two logs were read. `measures` are those of the models' quality.
    `history` is what was done to the models beside learning.
    """

    def __init__(
        self,
        model: Model,
        *,
        partition: int,
        start: int,
        shadows: Mapping[str, Model] | None = None,
        labels: Labels | None = None,
        labels_start: int = -1,
        measures: Sequence[str] = (),
    ) -> None:
        self.partition = partition
        self.start, self.labels_start = start, labels_start
        self._place = self._committed = self._snapshot = start, labels_start
        self._gone = 0
        self.order = None if labels is None else Order(self._place)
        self.version = 0
        self.epoch = 0
        self.mark = ""
        self.secret = ""
        self.counts = Counts()
        named = {MODEL: model, **(shadows or {})}
        if len(named) > 1 and any(one.can.shared for one in named.values()):
            raise ModelError(SHARED_ALONE, hint=SHARED_HINT)
        self._measures = measures
        self.models = {name: ShardModel(name, one, measures) for name, one in named.items()}
        self.failed: dict[str, FailedModel] = {}
        self.answer_with(MODEL)
        self.labels = labels
        self.strays = StrayTimes()
        self.history = ShardHistory()

    @property
    def place(self) -> tuple[int, int]:
        """The next offsets to learn, of the features and of the labels."""
        return self._place

    @property
    def offset(self) -> int:
        """The next offset of the features to learn."""
        return self._place[0]

    @property
    def labels_offset(self) -> int:
        """The next offset of the labels to learn."""
        return self._place[1]

    @property
    def committed(self) -> int:
        """The committed offset of the features: below it the shard relearns, without outputs."""
        return self._committed[0]

    @property
    def labels_committed(self) -> int:
        """The committed offset of the labels."""
        return self._committed[1]

    @property
    def snapshot_offset(self) -> int:
        """The newest snapshot's offset of the features."""
        return self._snapshot[0]

    @property
    def labels_snapshot_offset(self) -> int:
        """The newest snapshot's offset of the labels."""
        return self._snapshot[1]

    @property
    def is_relearning(self) -> bool:
        """Whether the shard has not reached its committed offsets yet."""
        return self._place[0] < self._committed[0] or self._place[1] < self._committed[1]

    @property
    def unsaved(self) -> int:
        """The number of offsets, of features and labels, since the newest snapshot, without those that are gone."""
        return sum(self._place) - sum(self._snapshot) - self._gone

    def advance(self, offset: int, labels_offset: int = -1) -> None:
        """Note that all features below an offset are learned, and all labels below another. Nothing moves back."""
        self._place = max(self._place[0], offset), max(self._place[1], labels_offset)

    def skip_to(self, offset: int) -> None:
        """Go on behind features that are gone and that nobody has learned. The next commit brings the new place."""
        self._gone = offset - self._place[0]
        self.advance(offset)

    def end_step(self, place: tuple[int, int], *, is_recorded: bool = False) -> None:
        """Advance to the end of a step through the logs, and add it to the order unless that has it already."""
        self.advance(*place)
        if self.order is not None and not is_recorded:
            self.order.add(place)

    def relearn_to(self, offset: int, labels_offset: int) -> None:
        """Note the offsets that an earlier owner has committed: up to them the shard learns without outputs."""
        self._committed = offset, max(labels_offset, self._place[1])

    def confirm(self, offset: int, labels_offset: int, mark: str) -> None:
        """Note that these offsets are committed, with `mark` as their metadata."""
        self._committed, self.mark = (offset, labels_offset), mark

    def take_over(self, *, epoch: int, mark: str, secret: str) -> None:
        """Note the epoch of the new owner, the committed metadata that it found, and the secret of the history."""
        self.epoch, self.mark, self.secret = epoch, mark, secret

    def follow(self, order: Order) -> None:
        """Note the order in which the two logs are read."""
        self.order = order

    def set_counts(self, counts: Counts) -> None:
        """Replace the counts by those of the committed metadata: relearning can't count the refusals of a sink."""
        self.counts = counts

    @property
    def model_version(self) -> int:
        """The version of the model that answers: that of the shard's newest snapshot, or of the mix."""
        version = self.model.version
        return self.version if version is None else version

    def answer_with(self, name: str) -> None:
        """Let the model of this name answer from the next record on. Raises KeyError."""
        self.answering = self.models[name]
        self.model = self.answering.model
        self.shadows = tuple(one for one in self.models.values() if one is not self.answering)

    def add(self, name: str, model: Model) -> None:
        """Add a shadow, in place of an earlier one of its name. Raises ModelError where models are shared."""
        if model.can.shared or self.model.can.shared:
            raise ModelError(SHARED_ALONE, hint=SHARED_HINT)
        self.failed.pop(name, None)
        self.models[name] = ShardModel(name, model, self._measures)
        self.answer_with(self.answering.name)

    def remove(self, name: str) -> None:
        """Remove a shadow, if there is one of this name."""
        if name != self.answering.name:
            self.models.pop(name, None)
            self.failed.pop(name, None)
            self.answer_with(self.answering.name)

    def fail(self, name: str, reason: str) -> None:
        """Take a shadow out of the shard: it can't be saved, or not be returned to the state before it raised."""
        if name in self.models and name != self.answering.name:
            self.failed[name] = FailedModel(self.models.pop(name).model.spec, reason[:REASON_MAX])
            self.answer_with(self.answering.name)

    def fault(self, one: ShardModel, key: bytes) -> None:
        """Count a fault of a shadow, and undo what it raised on; the shadow fails where it can't be undone."""
        one.faults += 1
        self._try(one, partial(one.model.undo, key))

    def quality_now(self) -> Quality:
        """Return the quality of the model that answers, with its recent scores."""
        return self.answering.quality_now()

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Bring the models of keys into memory. Raises as `Model.fetch` does."""
        if self.shadows:
            keys = list(keys)
        for one in self.models.values():
            one.model.fetch(keys)

    def trim(self) -> None:
        """Free memory, between batches."""
        for one in list(self.models.values()):
            self._try(one, one.model.trim)

    def tables(self) -> dict[str, int]:
        """Return the number of rows of each table in the store after a save."""
        tables = {} if self.labels is None else {LABELS: len(self.labels)}
        for one in self.models.values():
            tables |= one.tables()
        return tables

    @property
    def is_heavy(self) -> bool:
        """Whether to encode the changes would hold up the stream."""
        is_heavy = any(one.model.is_heavy for one in self.models.values())
        return is_heavy or (self.labels is not None and self.labels.is_heavy)

    def begin_save(self) -> None:
        """Begin to save all changed rows; `saved` or `not_saved` follows. Raises StoreAway and TableDamaged."""
        try:
            for one in self.models.values():
                one.model.begin_save()
        except BaseException:
            # Those that have begun would begin again, and forget what they were saving.
            self.not_saved()
            raise
        if self.labels is not None:
            self.labels.begin_save()

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[str, dict[bytes, bytes]]]:
        """Return the changed rows of each table, packed, and the keys' models that `saved` needs, by model.

        `seal` returns the seal for a table's rows. A shadow whose rows can't be packed fails.
        """
        packed = {} if self.labels is None else {LABELS: pack(self.labels.changes(), seal(LABELS))}
        models: dict[str, dict[bytes, bytes]] = {}
        for one in list(self.models.values()):
            found = self._try(one, partial(one.packed, seal))
            if found is not None:
                packed |= found[0]
                models[one.name] = found[1]
        return packed, models

    def dump(self) -> dict[str, bytes]:
        """Return the bytes of each model. A shadow that can't be saved fails. Raises ModelError for another."""
        states = ((one.name, self._try(one, one.model.dump)) for one in list(self.models.values()))
        return {name: state for name, state in states if state is not None}

    def dump_if_light(self) -> dict[str, bytes] | None:
        """Return the bytes of each model as `dump` does; None if one of them is heavy."""
        states: dict[str, bytes] = {}
        for one in list(self.models.values()):
            state = self._try(one, one.model.dump_if_light)
            if state is not None:
                states[one.name] = state
            elif one.name in self.models:
                return None
        return states

    def _try(self, one: ShardModel, step: Callable[[], T]) -> T | None:
        """Call a step of a model; a shadow on which it raises an error of its own fails, and the result is None."""
        if one is self.answering:
            return step()
        try:
            return step()
        except (Exception, SystemExit) as error:  # noqa: BLE001 a part of the user's own may raise anything while it is saved
            self.fail(one.name, f"{type(error).__name__}: {error}")
        return None

    @property
    def is_crowded(self) -> bool:
        """Whether a snapshot should be saved soon, since only that makes room."""
        is_crowded = any(one.model.is_crowded for one in self.models.values())
        return is_crowded or (self.order is not None and self.order.is_due)

    @property
    def is_full(self) -> bool:
        """Whether the shard can't learn more before a snapshot is saved."""
        is_full = any(one.model.is_full for one in self.models.values())
        return is_full or (self.order is not None and self.order.is_full)

    def checkpointed(self, states: Mapping[str, bytes]) -> None:
        """Note the bytes of each model at the time of `begin_save`; a forked process has made them."""
        for name, state in states.items():
            if name in self.models:
                self.models[name].model.checkpointed(state)

    def saved(self, models: Mapping[str, Mapping[bytes, bytes]], *, place: tuple[int, int], version: int) -> None:
        """Note that the state at the offsets `place` is saved as a version; `models` are those of `packed`."""
        self.version = version
        self._snapshot = place
        self._gone = 0
        if self.labels is not None:
            self.labels.saved()
        for one in self.models.values():
            one.model.saved(models.get(one.name, {}), version)
        if self.order is not None:
            self.order.saved(place)

    def not_saved(self) -> None:
        """Note that the save has failed, perhaps after some rows."""
        if self.labels is not None:
            self.labels.not_saved()
        for one in self.models.values():
            one.model.not_saved()

    def restore(self, *, place: tuple[int, int], counts: Counts, version: int = 0, secret: str = "") -> None:
        """Go to the place of a snapshot, with its counts; `ShardModel.restore` loads each model."""
        self._place = self._snapshot = place
        self.counts = counts
        self.version, self.secret = version, secret
