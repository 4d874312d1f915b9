"""One of the models of a shard, with its name and all that belongs to it alone: its quality, its faults, its tables."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from headrace.state.measures import measures_of
from headrace.state.models.model import Model
from headrace.state.quality import NUMBERS, WINDOW, Quality, Score, running_sum, score_of
from headrace.state.row_packing import PackedRows
from headrace.state.seal import RowSeal

MODEL = "model"
"""The name of the model that the section `[model]` configures."""

REASON_MAX = 1_000
"""The longest text that says why a model was taken out of its shard."""

_VERSIONS_MAX = 8


def table_name(model: str, table: str) -> str:
    """Return the name that the store has for a table of a model.

    `MODEL` keeps the names of its own tables; other models have their name in it, so that no two share rows.
    """
    return table if model == MODEL else f"{table}/{model}"


class FailedModel(msgspec.Struct, frozen=True):
    """A model that was taken out of its shard: how it was built, and why it was taken out."""

    spec: str
    reason: Annotated[str, msgspec.Meta(max_length=REASON_MAX)]


class ShardModel:
    """A model by its `name`. `faults` counts the records and labels on which it raised while another model answered."""

    def __init__(self, name: str, model: Model, measures: Sequence[str] = ()) -> None:
        self.name = name
        self.model = model
        self.faults = 0
        self.quality = Quality(task=model.task, measures=measures_of(model.task, measures))
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def tables(self) -> dict[str, int]:
        """Return the number of rows of each table in the store after a save."""
        return {table_name(self.name, table): rows for table, rows in self.model.tables().items()}

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[bytes, bytes]]:
        """Return the changed rows of each table, packed, and the models that `Model.saved` needs."""
        rows, models = self.model.packed(lambda table: seal(table_name(self.name, table)))
        return {table_name(self.name, table): changed for table, changed in rows.items()}, models

    def restore(self, state: bytes, *, quality: Quality, faults: int) -> None:
        """Load what a snapshot has of the model. Raises ModelError, and has then changed nothing."""
        self.model.load(state)
        if quality.measures != self.quality.measures:
            # Other measures were tallied: these begin anew.
            begun = self.quality
            quality = msgspec.structs.replace(quality, measures=begun.measures, tally=begun.tally, window=[])
        self.quality, self.faults = quality, faults
        self._recent = deque(quality.recent, maxlen=WINDOW)

    def score(self, prediction: Any, label: Any, version: int, proba: Mapping[Any, float] | None = None) -> None:
        """Score a prediction, by a `version` of the model, against its label; `proba` are its probabilities.

        A prediction that is not a number is not scored, nor the None of a model that can't say yet.
        """
        quality = self.quality
        if quality.task in {"anomaly", "clustering"}:
            self._count_unscored(prediction, label)
            return
        error = score_of(quality.task, prediction, label)
        if not error < float("inf"):
            return
        chance = math.nan
        if proba and quality.measures and quality.task != "multilabel":
            chance = proba.get(True, 0.0) if quality.task == "binary" else proba.get(label, math.nan)
        quality.count(label, prediction, chance)
        if quality.task in NUMBERS:
            quality.squares += error * error
        quality.scored += 1
        quality.total += error
        self._recent.append(error)
        score = self._version_score(version)
        if score is not None:
            score.scored += 1
            score.total += error

    def _count_unscored(self, prediction: Any, label: Any) -> None:
        """Count an answer that is neither right nor wrong; the label of a detector of values is no verdict."""
        is_verdict = self.quality.task == "clustering" or isinstance(label, bool)
        if is_verdict and prediction is not None and (self.quality.task == "clustering" or prediction[1] is not None):
            self.quality.count(label, prediction)

    def count_all(self, labels: Sequence[Any], answers: Sequence[Any], chances: Sequence[float]) -> None:
        """Count many scored predictions for the configured measures, as `Quality.count` does for one."""
        for label, answer, chance in zip(labels, answers, chances, strict=True):
            self.quality.count(label, answer, chance)

    def score_all(self, scores: Any, version: int) -> None:
        """Add the scores of many predictions, as `score` does for one: float64, 0 or 1, or absolute errors."""
        if not len(scores):
            return
        quality = self.quality
        if quality.task in NUMBERS:
            quality.squares = float(running_sum(quality.squares, scores * scores))
        quality.scored += len(scores)
        quality.total = float(running_sum(quality.total, scores))
        self._recent.extend(scores[-WINDOW:].tolist())
        score = self._version_score(version)
        if score is not None:
            score.scored += len(scores)
            score.total = float(running_sum(score.total, scores))

    @property
    def recent(self) -> Sequence[float]:
        """The scores of the newest predictions, at most 1,000."""
        return self._recent

    def quality_now(self) -> Quality:
        """Return the quality with its recent scores, for a snapshot."""
        self.quality.recent = list(self._recent)
        return self.quality

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
