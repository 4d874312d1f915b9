"""How good a model's predictions were: their scores, of all of them and of the newest ones."""

import math
from typing import Annotated, Any

import msgspec

from headrace.state.models.model import Task
from headrace.state.seal import Number

Sum = Annotated[float, msgspec.Meta(ge=0.0)]


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
