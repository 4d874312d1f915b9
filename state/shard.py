"""One partition's model with everything that is true of it: counts, quality, and the place in the log.

A shard's history is a prefix of its partition. The engine moves it forward record by record; a record on
which the model raises is undone, so that the shard stands as if that record had never been tried.
"""

import math
from collections import deque
from typing import Any

import msgspec

from state.learner import Answer, Learner, Task

_WINDOW = 1_000
_JOURNAL_MIN = 5_000
_JOURNAL_MAX = 100_000


class Counts(msgspec.Struct):
    """What a shard has done since the first record of its history."""

    records: int = 0
    predictions: int = 0
    dead_letters: int = 0
    learned: int = 0


class Quality(msgspec.Struct):
    """How good the predictions were that were scored against their labels, in all and lately.

    Scores are 0 or 1 for a class (right or wrong) and the absolute error for a number. A running mean of
    River's costs 3 µs a record, a quarter of a model step; this costs 0.3.
    """

    task: Task
    scored: int = 0
    total: float = 0.0
    squares: float = 0.0
    recent: list[float] = msgspec.field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the figures by name; fractions for accuracy, the label's own unit for errors."""
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
    """A model and its place: `offset` is the next to learn, `start` the first of its history.

    `committed` is the offset up to which outputs are out (exclusive); below it the shard relearns in
    silence. `version` and `snapshot_offset` are those of the newest snapshot in the store.
    """

    def __init__(self, learner: Learner, *, partition: int, start: int) -> None:
        self.partition = partition
        self.start = start
        self.offset = start
        self.committed = start
        self.snapshot_offset = start
        self.version = 0
        self.epoch = 0
        self.counts = Counts()
        self.quality = Quality(task=learner.task)
        self.learner = learner
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._journal: list[tuple[dict[str, Any], Any]] = []
        self._checkpoint = learner.dump()

    def restore(self, *, offset: int, counts: Counts, quality: Quality, model: bytes) -> None:
        """Become what a snapshot held. Raises ModelError when the bytes are no model of this kind."""
        self.learner.load(model)
        self.offset = self.snapshot_offset = offset
        self.counts = counts
        self.quality = quality
        self._recent = deque(quality.recent, maxlen=_WINDOW)
        self._checkpoint = model
        self._journal.clear()

    def predict(self, features: dict[str, Any]) -> Answer:
        """Answer for features; what the model raises comes through, and the shard must then be undone."""
        return self.learner.predict(features)

    def learn(self, features: dict[str, Any], label: Any) -> None:
        """Teach the model; what it raises comes through, and the shard must then be undone."""
        self.learner.learn(features, label)

    def keep(self, features: dict[str, Any], label: Any) -> None:
        """Note a record that went well, so that a later one that goes wrong can be undone.

        `label` is None for a record that had none.
        """
        self._journal.append((features, label))

    def undo(self) -> None:
        """Put the model back to where it stood after the last record that was kept.

        A model has no inverse, so it is rebuilt: the last checkpoint, and what was kept since, again.
        """
        self.learner.load(self._checkpoint)
        for features, label in self._journal:
            self.learner.predict(features)
            if label is not None:
                self.learner.learn(features, label)
        self.checkpoint()

    def checkpoint(self) -> bytes:
        """Take the model's bytes, from which the next undo starts; the journal begins anew."""
        self._checkpoint = self.learner.dump()
        self._journal.clear()
        return self._checkpoint

    def trim(self) -> None:
        """Bound the journal between batches: a cheap model is checkpointed often, a big one seldom."""
        if len(self._journal) >= min(max(_JOURNAL_MIN, len(self._checkpoint) // 10), _JOURNAL_MAX):
            self.checkpoint()

    def score(self, prediction: Any, label: Any) -> None:
        """Score a prediction that was sent against its label.

        One that is no number scores nothing, nor does the None of a classifier that has seen no class yet.
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

    def quality_now(self) -> Quality:
        """Return the quality with its recent scores, as a snapshot keeps it."""
        self.quality.recent = list(self._recent)
        return self.quality


def _distance(prediction: Any, label: Any) -> float:
    """Return the absolute error as a float; NaN for a prediction that is no number, or none that a float holds."""
    try:
        return abs(float(prediction) - float(label))
    except (OverflowError, TypeError, ValueError):
        return math.nan
