"""Measures of scored predictions, and the tallies from which they are computed.

A tally has counts and sums, so that those of several partitions add up to that of all. The names and the values are
River's (`river.metrics`), except for ROCAUC: River counts with ten thresholds between 0 and 1, a tally with 256 steps
that follow the scores, which for an anomaly detector may have any size.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from headrace.state.models.model import Task
from headrace.state.seal import Number

CELLS_MAX = 1_024
"""With more pairs of a label and an answer, as of 32 classes, there is no confusion matrix."""
STEPS_MAX = 256

_BINARY = frozenset({"binary", "anomaly"})
_WITH_CLASSES = frozenset({"binary", "anomaly", "multiclass", "clustering"})
_WITH_CHANCES = frozenset({"binary", "multiclass"})
_WITH_NUMBERS = frozenset({"regression", "forecasting", "recommendation"})
_WITH_MATRIX = frozenset({"binary", "multiclass"})
_OF_TWO = ("F1", "GeometricMean", "Jaccard", "MCC", "Precision", "Recall")
_OF_MANY = (
    *("Accuracy", "BalancedAccuracy", "CohenKappa", "FowlkesMallows", "MacroF1", "MacroJaccard", "MacroPrecision"),
    *("MacroRecall", "MicroF1", "MicroJaccard", "MicroPrecision", "MicroRecall", "Rand", "AdjustedRand", "Homogeneity"),
    *("Completeness", "VBeta", "MutualInfo", "NormalizedMutualInfo", "WeightedF1", "WeightedJaccard"),
    *("WeightedPrecision", "WeightedRecall"),
)
_CURVE, _LOG_LOSS = "ROCAUC", ("LogLoss", "CrossEntropy")
_OF_NUMBERS = ("MAE", "MSE", "RMSE", "R2", "MAPE", "SMAPE", "RMSLE")
_SPELLED = {_CURVE: "roc_auc"}
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PROBABILITY_MIN = 1e-15

Class = bool | int | str


def key_of(measure: str) -> str:
    """Return the name of a measure in figures: macro_f1 for MacroF1."""
    return _SPELLED.get(measure) or _WORD.sub("_", measure).lower()


def fitting(task: Task, *, has_proba: bool) -> tuple[str, ...]:
    """Return the measures that models of a task can have; `has_proba` tells whether their probabilities are known."""
    found: list[str] = []
    if task in _WITH_CLASSES:
        found += _OF_MANY
    if task in _BINARY:
        found += _OF_TWO
    if task == "anomaly" or (task == "binary" and has_proba):
        found.append(_CURVE)
    if task in _WITH_CHANCES and has_proba:
        found += _LOG_LOSS if task == "binary" else _LOG_LOSS[1:]
    if task in _WITH_NUMBERS:
        found += _OF_NUMBERS
    return tuple(sorted(found))


def need_chances(measures: Iterable[str]) -> bool:
    """Tell whether some measures need the probabilities of a classifier."""
    return any(measure == _CURVE or measure in _LOG_LOSS for measure in measures)


class Curve(msgspec.Struct):
    """Scores in order, each with the number of false and of true labels: at most `STEPS_MAX`, twice between calls."""

    steps: list[tuple[float, int, int]] = []

    def add(self, score: float, *, is_true: bool) -> None:
        """Count a score, if it is finite."""
        if math.isfinite(score):
            self.steps.append((score, int(not is_true), int(is_true)))
            if len(self.steps) >= 2 * STEPS_MAX:
                self.steps = _thinned(self.steps)

    def area(self) -> float | None:
        """Return the area under the ROC curve; None without labels of both kinds."""
        below = area = 0.0
        for _, false, true in _joined(self.steps):
            area += true * (below + false / 2)
            below += false
        positives = sum(true for _, _, true in self.steps)
        return area / (below * positives) if below and positives else None


class Tally(msgspec.Struct):
    """What the measures are computed from.

    `cells` counts pairs of a label and an answer, by the JSON of both; it is empty, and the tally `is_over`, if there
    were too many pairs. `sums` has the sum behind each measure that is a mean. `number` is that of scored predictions.
    """

    number: Number = 0
    cells: dict[str, Number] = {}
    is_over: bool = False
    curve: Curve = msgspec.field(default_factory=Curve)
    sums: dict[str, float] = {}

    def count(self, label: Class, answer: Class, times: int = 1) -> None:
        """Count a pair of a label and an answer."""
        if not self.is_over:
            self._count(msgspec.json.encode((label, answer)).decode(), times)

    def _count(self, pair: str, times: int) -> None:
        self.cells[pair] = self.cells.get(pair, 0) + times
        if len(self.cells) > CELLS_MAX:
            self.cells, self.is_over = {}, True

    def add(self, task: Task, label: Any, answer: Any, chance: float, measures: Sequence[str]) -> None:
        """Count a scored prediction. `chance` is its score, or the probability of True or of the label, or NaN."""
        self.number += 1
        if task in _WITH_NUMBERS:
            for measure in measures:
                self._add_number(measure, float(label), float(answer))
            return
        if answer is not None:
            self.count(label, answer)
        if task in _BINARY and _CURVE in measures:
            self.curve.add(chance, is_true=bool(label))
        if chance == chance and not set(measures).isdisjoint(_LOG_LOSS):  # noqa: PLR0124 not NaN
            share = chance if label or task != "binary" else 1 - chance
            share = min(max(share, _PROBABILITY_MIN), 1 - _PROBABILITY_MIN)
            self.sums["log"] = self.sums.get("log", 0.0) - math.log(share)

    def value(self, measure: str) -> float | None:
        """Return a measure; None where there is nothing to compute it from."""
        if measure == _CURVE:
            return self.curve.area()
        if measure in _LOG_LOSS:
            return self.sums["log"] / self.number if "log" in self.sums else None
        if measure in _OF_NUMBERS:
            return self._number_value(measure) if self.number else None
        if not self.cells:
            return None
        return self._by_river(measure)

    def matrix(self) -> dict[str, dict[str, int]]:
        """Return the confusion matrix: the counts of answers by label; empty where there are too many classes."""
        found: dict[str, dict[str, int]] = {}
        for label, answer, count in self._pairs():
            found.setdefault(_name(label), {})[_name(answer)] = count
        return found

    def _pairs(self) -> Iterator[tuple[Class, Class, int]]:
        """Yield each label and answer with their count, in the order of their JSON."""
        for pair, count in sorted(self.cells.items()):
            yield *_decode_pair(pair), count

    def _add_number(self, measure: str, label: float, answer: float) -> None:
        error = abs(label - answer)
        add = self._add_to
        match measure:
            case "MAE":
                add("absolute", error)
            case "MSE" | "RMSE":
                add("squares", error * error)
            case "R2":
                add("squares", error * error)
                add("labels", label)
                add("label squares", label * label)
            case "MAPE":
                add("share", error / abs(label) if label else 0.0)
            case "SMAPE":
                add("balanced share", 2 * error / (abs(label) + abs(answer)) if label or answer else 0.0)
            case "RMSLE":
                is_known = label > -1 and answer > -1
                add("logs", (math.log1p(label) - math.log1p(answer)) ** 2 if is_known else math.nan)

    def _add_to(self, name: str, more: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + more

    def _number_value(self, measure: str) -> float | None:
        sums, number = self.sums, self.number
        try:
            match measure:
                case "MAE":
                    return sums["absolute"] / number
                case "MSE":
                    return sums["squares"] / number
                case "RMSE":
                    return math.sqrt(sums["squares"] / number)
                case "MAPE":
                    return 100 * sums["share"] / number
                case "SMAPE":
                    return 100 * sums["balanced share"] / number
                case "RMSLE":
                    return math.sqrt(sums["logs"] / number)
            spread = sums["label squares"] - sums["labels"] ** 2 / number
            return 1 - sums["squares"] / spread if spread > 0 else 0.0
        except KeyError:
            return None

    def _by_river(self, measure: str) -> float:
        from river import metrics  # noqa: PLC0415 River's import takes a second

        matrix: Any = metrics.ConfusionMatrix()  # type: ignore[no-untyped-call]
        for label, answer, count in self._pairs():
            matrix.update(label, answer, w=count)
        matrix.n_samples = sum(self.cells.values())
        return float(getattr(metrics, measure)(cm=matrix).get())


def merged(tallies: Sequence[Tally]) -> Tally:
    """Return the tally of all that some tallies have counted."""
    found = Tally()
    for one in tallies:
        found.number += one.number
        for pair, count in one.cells.items():
            found._count(pair, count)  # noqa: SLF001 the same class
        for name, total in one.sums.items():
            found.sums[name] = found.sums.get(name, 0.0) + total
    if any(one.is_over for one in tallies):
        found.cells, found.is_over = {}, True
    found.curve = Curve([step for one in tallies for step in one.curve.steps])
    return found


def values(tally: Tally, measures: Iterable[str], suffix: str = "") -> dict[str, float]:
    """Return the measures that are known and finite, by their keys."""
    found = {key_of(measure) + suffix: tally.value(measure) for measure in measures}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _joined(steps: Sequence[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Return steps in order, with one for each score."""
    counts: dict[float, tuple[int, int]] = {}
    for score, false, true in steps:
        known = counts.get(score, (0, 0))
        counts[score] = known[0] + false, known[1] + true
    return [(score, *counts[score]) for score in sorted(counts)]


def _thinned(steps: Sequence[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Return about `STEPS_MAX` steps of about the same weight."""
    ordered = _joined(steps)
    if len(ordered) <= STEPS_MAX:
        return ordered
    # Two neighbours have more than this together: so there are at most `STEPS_MAX`, and one.
    share = 2 * sum(false + true for _, false, true in ordered) / STEPS_MAX
    found: list[tuple[float, int, int]] = []
    weight = 0.0
    for score, false, true in ordered:
        if found and weight + false + true <= share:
            _, before_false, before_true = found[-1]
            found[-1] = score, before_false + false, before_true + true
            weight += false + true
        else:
            found.append((score, false, true))
            weight = float(false + true)
    return found


_decode_pair = msgspec.json.Decoder(tuple[Class, Class]).decode


def _name(one: Class) -> str:
    return str(one).lower() if isinstance(one, bool) else str(one)


def measures_of(task: Task, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the measures that are tallied: those that are `wanted`, or the default of a task."""
    return tuple(wanted) or ((_CURVE,) if task == "anomaly" else ())


def has_matrix(task: Task) -> bool:
    """Tell whether models of a task always have a confusion matrix."""
    return task in _WITH_MATRIX
