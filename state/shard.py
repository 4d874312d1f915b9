"""One partition's model with its state: counts, quality, and the offsets in the logs.

A shard has learned its partition from the start of its history up to its offset. The engine moves it forward. A record
on which the model raises is undone, as if it had never been learned.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from headrace.state.event_time import StrayTimes
from headrace.state.labels.label_join import TABLE as LABELS
from headrace.state.labels.label_join import Labels
from headrace.state.labels.read_order import Order
from headrace.state.models.model import Model, Task
from headrace.state.row_packing import PackedRows, pack
from headrace.state.seal import Number, RowSeal

_WINDOW = 1_000
_VERSIONS_MAX = 8


Sum = Annotated[float, msgspec.Meta(ge=0.0)]


class Counts(msgspec.Struct):
    """The counts of a shard since the first record of its history.

    Each record has a prediction or a dead letter, or is skipped.
    """

    records: Number = 0
    predictions: Number = 0
    dead_letters: Number = 0
    learned: Number = 0
    skipped: Number = 0


class Score(msgspec.Struct):
    """The number of scored predictions, and the sum of their scores."""

    scored: Number = 0
    total: Sum = 0.0


class Quality(msgspec.Struct):
    """The scores of predictions against their labels: of all, and of the last 1,000.

    A class scores 1 (right) or 0 (wrong), a number its absolute error. This takes 0.3 µs a record; River's running mean
    takes 3 µs, a quarter of a model's step. `versions` has the scores of the model's newest versions.
    """

    task: Task
    scored: Number = 0
    total: Sum = 0.0
    squares: Sum = 0.0
    recent: list[float] = msgspec.field(default_factory=list)
    versions: dict[int, Score] = msgspec.field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the figures by name: accuracy as a fraction, errors in the label's unit."""
        if not self.scored or not self.recent:
            return {"scored": self.scored}
        lately = sum(self.recent) / len(self.recent)
        if self.task == "regression":
            return {
                "scored": self.scored,
                "mae": self.total / self.scored,
                "rmse": (self.squares / self.scored) ** 0.5,
                "mae_recent": lately,
            }
        return {"scored": self.scored, "accuracy": self.total / self.scored, "accuracy_recent": lately}


class Shard:
    """A model, and its offsets in the logs of its partition. Only the shard moves its offsets.

    `version` is the newest snapshot in the store, `epoch` that of the partition's owner. `mark` is the metadata of the
    last committed offset. `secret` signs replays, and is the same for the whole history. With a labels topic `labels`
    is its join, and `order` the order in which the two logs were read.
    """

    def __init__(
        self, model: Model, *, partition: int, start: int, labels: Labels | None = None, labels_start: int = -1
    ) -> None:
        self.partition = partition
        self.start, self.labels_start = start, labels_start
        self._place = self._committed = self._snapshot = start, labels_start
        self.order = None if labels is None else Order(self._place)
        self.version = 0
        self.epoch = 0
        self.mark = ""
        self.secret = ""
        self.counts = Counts()
        self.quality = Quality(task=model.task)
        self.model = model
        self.labels = labels
        self.strays = StrayTimes()
        self._recent: deque[float] = deque(maxlen=_WINDOW)

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
        """The number of offsets, of features and labels, since the newest snapshot."""
        return sum(self._place) - sum(self._snapshot)

    def advance(self, offset: int, labels_offset: int = -1) -> None:
        """Note that all features below an offset are learned, and all labels below another. Nothing moves back."""
        self._place = max(self._place[0], offset), max(self._place[1], labels_offset)

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

    def tables(self) -> dict[str, int]:
        """Return the number of rows of each table in the store after a save."""
        tables = {} if self.labels is None else {LABELS: len(self.labels)}
        return {**tables, **self.model.tables()}

    @property
    def is_heavy(self) -> bool:
        """Whether to encode the changes would hold up the stream."""
        return self.model.is_heavy or (self.labels is not None and self.labels.is_heavy)

    def begin_save(self) -> None:
        """Begin to save all changed rows; `saved` or `not_saved` follows. Raises StoreAway and TableDamaged."""
        self.model.begin_save()
        if self.labels is not None:
            self.labels.begin_save()

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[bytes, bytes]]:
        """Return the changed rows of each table, packed, and the models that `saved` needs.

        `seal` returns the seal for a table's rows.
        """
        packed = {} if self.labels is None else {LABELS: pack(self.labels.changes(), seal(LABELS))}
        rows, models = self.model.packed(seal)
        return packed | rows, models

    @property
    def is_crowded(self) -> bool:
        """Whether a snapshot should be saved soon, since only that makes room."""
        return (self.order is not None and self.order.is_due) or self.model.is_crowded

    @property
    def is_full(self) -> bool:
        """Whether the shard can't learn more before a snapshot is saved."""
        return (self.order is not None and self.order.is_full) or self.model.is_full

    def saved(self, models: Mapping[bytes, bytes], *, place: tuple[int, int], version: int) -> None:
        """Note that the state at the offsets `place` is saved as a version; `models` are those of `packed`."""
        self.version = version
        self._snapshot = place
        if self.labels is not None:
            self.labels.saved()
        self.model.saved(models, version)
        if self.order is not None:
            self.order.saved(place)

    def not_saved(self) -> None:
        """Note that the save has failed, perhaps after some rows."""
        if self.labels is not None:
            self.labels.not_saved()
        self.model.not_saved()

    def restore(
        self,
        *,
        place: tuple[int, int],
        counts: Counts,
        quality: Quality,
        model: bytes,
        version: int = 0,
        secret: str = "",
    ) -> None:
        """Load the state of a snapshot. Raises ModelError when the bytes are not a model of this kind."""
        self.model.load(model)
        self._place = self._snapshot = place
        self.counts, self.quality = counts, quality
        self.version, self.secret = version, secret
        self._recent = deque(quality.recent, maxlen=_WINDOW)

    def score(self, prediction: Any, label: Any, version: int) -> None:
        """Score a prediction that was sent, by a `version` of the model, against its label.

        A prediction that is not a number is not scored, nor the None of a classifier that has learned no class yet.
        """
        quality = self.quality
        if quality.task == "regression":
            error = _distance(prediction, label)
            if not error < float("inf"):
                return
            quality.squares += error * error
        elif prediction is None:
            return
        else:
            error = 1.0 if prediction == label else 0.0
        quality.scored += 1
        quality.total += error
        self._recent.append(float(error))
        self._score_version(version, float(error))

    def score_all(self, scores: Any) -> None:
        """Add the scores of many predictions, as `score` does for one: float64, 0 or 1, or absolute errors."""
        if not len(scores):
            return
        quality = self.quality
        if quality.task == "regression":
            quality.squares = float(_sum(quality.squares, scores * scores))
        quality.scored += len(scores)
        quality.total = float(_sum(quality.total, scores))
        self._recent.extend(scores[-_WINDOW:].tolist())
        score = self._version_score(self.model_version)
        if score is not None:
            score.scored += len(scores)
            score.total = float(_sum(score.total, scores))

    def _score_version(self, version: int, error: float) -> None:
        score = self._version_score(version)
        if score is not None:
            score.scored += 1
            score.total += error

    def _version_score(self, version: int) -> Score | None:
        """Return the score of a version of the model; None for a version older than those that are kept."""
        versions = self.quality.versions
        if version not in versions:
            if len(versions) >= _VERSIONS_MAX and version < min(versions):
                return None
            versions[version] = Score()
            if len(versions) > _VERSIONS_MAX:
                del versions[min(versions)]
        return versions[version]

    def quality_now(self) -> Quality:
        """Return the quality with its recent scores, for a snapshot."""
        self.quality.recent = list(self._recent)
        return self.quality


def _sum(total: float, more: Any) -> Any:
    """Add the numbers in order: numpy's own sum adds them in another order, with other last bits."""
    more = more.copy()
    more[0] += total
    return more.cumsum()[-1]


def _distance(prediction: Any, label: Any) -> float:
    """Return the absolute error as a float; NaN for a prediction that is not a number, or too large for a float."""
    try:
        return abs(float(prediction) - float(label))
    except (OverflowError, TypeError, ValueError):
        return math.nan
