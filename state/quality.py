"""How good a model's predictions were: their scores, of all of them and of the newest ones."""

import math
from typing import Annotated, Any, NamedTuple

import msgspec

from headrace.state.measures import Tally, has_matrix, values
from headrace.state.models.model import Task
from headrace.state.seal import Number

Sum = Annotated[float, msgspec.Meta(ge=0.0)]
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
RECENT = "_recent"
"""The end of the names of the recent figures."""
WINDOW = 1_000
"""The recent figures are those of this number of predictions, the last ones."""


NUMBERS = frozenset({"regression", "multitarget", "forecasting", "recommendation"})
"""The tasks whose answers have a distance to the label, as a number."""
CLASSES = frozenset({"binary", "multiclass", "multilabel"})
"""The tasks whose answers are right or wrong."""


class Score(msgspec.Struct):
    """The number of scored predictions, and the sum of their scores."""

    scored: Number = 0
    total: Sum = 0.0


class _Counted(NamedTuple):
    """The tally of the window when there were a `number` of scored predictions."""

    number: int
    recent: Tally


_COUNTED = "counted"


class Quality(msgspec.Struct, dict=True):
    """The scores of predictions against their labels: of all, and of the last 1,000.

    A class scores 1 (right) or 0 (wrong), a number its absolute error; of several targets it is the mean. This takes
    0.3 µs a record; River's running mean takes 3 µs, a quarter of a model's step. `versions` has the scores of the
    model's newest versions.

    The `tally` counts what the configured `measures` need, and `window` has the last 1,000 labels, answers and scores
    or probabilities for them. Without measures the tally has only the confusion matrix of a classifier.
    """

    task: Task
    scored: Number = 0
    total: Sum = 0.0
    squares: Sum = 0.0
    recent: list[float] = msgspec.field(default_factory=list)
    versions: dict[int, Score] = msgspec.field(default_factory=dict)
    measures: tuple[str, ...] = ()
    tally: Tally = msgspec.field(default_factory=Tally)
    window: list[tuple[Any, Any, float]] = msgspec.field(default_factory=list)

    def count(self, label: Any, answer: Any, chance: float = math.nan) -> None:
        """Count a scored prediction for the measures. `chance` is what `Tally.add` takes."""
        if self.task == "anomaly":
            answer, chance = answer
        elif self.task == "forecasting":
            answer = answer[0]
        label, answer, chance = storable(label), storable(answer), float(chance)
        if not self.measures:
            if has_matrix(self.task) and answer is not None:
                self.tally.count(label, answer)
            return
        self.tally.add(self.task, label, answer, chance, self.measures)
        self.window.append((label, answer, chance))
        del self.window[:-WINDOW]

    def recent_tally(self) -> Tally:
        """Return the tally of the window, which is counted once until another prediction is scored."""
        counted: _Counted | None = vars(self).get(_COUNTED)
        if counted is not None and counted.number == self.tally.number:
            return counted.recent
        found = Tally()
        for label, answer, chance in self.window:
            found.add(self.task, label, answer, chance, self.measures)
        vars(self)[_COUNTED] = _Counted(self.tally.number, found)
        return found

    def tallies(self) -> dict[str, Any]:
        """Return what the measures of several partitions are computed from, as plain values."""
        recent = self.recent_tally() if self.measures else Tally()
        both = {"all": msgspec.to_builtins(self.tally), "recent": msgspec.to_builtins(recent)}
        return {"measures": list(self.measures), **both} if self.measures or self.tally.cells else {}

    def summary(self) -> dict[str, Any]:
        """Return the figures by name: accuracy as a fraction, errors in the label's unit."""
        measured: dict[str, float] = {}
        if self.measures:
            measured = values(self.tally, self.measures) | values(self.recent_tally(), self.measures, RECENT)
        if not self.scored or not self.recent:
            return {"scored": max(self.scored, self.tally.number), **measured}
        lately = sum(self.recent) / len(self.recent)
        if self.task in NUMBERS:
            return {
                "scored": self.scored,
                "mae": self.total / self.scored,
                "rmse": (self.squares / self.scored) ** 0.5,
                "mae_recent": lately,
                **measured,
            }
        return {"scored": self.scored, "accuracy": self.total / self.scored, "accuracy_recent": lately, **measured}


def storable(value: Any) -> Any:
    """Return a label or an answer as a value of MessagePack; None if it is neither a number nor a class."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        return str(value)
    return value if isinstance(value, bool | int | float | str) else None


def score_of(task: Task, prediction: Any, label: Any) -> float:
    """Return the score of a prediction; NaN for one that has none."""
    if prediction is None:
        return math.nan
    if task == "forecasting":
        return distance(prediction[0], label)
    if task in {"multilabel", "multitarget"}:
        known = [(prediction[target], truth) for target, truth in label.items() if target in prediction]
        scores = [_target_score(task, one, truth) for one, truth in known]
        return sum(scores) / len(scores) if scores else math.nan
    if task in NUMBERS:
        return distance(prediction, label)
    return float(prediction == label) if task in CLASSES else math.nan


def _target_score(task: Task, prediction: Any, label: Any) -> float:
    return float(prediction == label) if task == "multilabel" else distance(prediction, label)


def running_sum(total: float, more: Any) -> Any:
    """Add float64 numbers in order: numpy's own sum adds them in another order, with other last bits."""
    more = more.copy()
    more[0] += total
    return more.cumsum()[-1]


def distance(prediction: Any, label: Any) -> float:
    """Return the absolute error as a float; NaN for a prediction that is not a number, or too large for a float."""
    try:
        return abs(float(prediction) - float(label))
    except (OverflowError, TypeError, ValueError):
        return math.nan
