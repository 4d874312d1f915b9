"""River's metrics of a model's answers, updated in the order in which the labels came.

The values are those of `river.evaluate.progressive_val_score`, to the bit. Metrics that are computed from a confusion
matrix are updated with counts of equal pairs, which are whole numbers, so that their order does not matter.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from river import metrics

from headrace.state.measures import Curve, key_of
from headrace.state.models.model import Task
from headrace.state.quality import score_of

Proba = Mapping[Any, float] | float | None
"""The probabilities of a classifier's answer: by class, or only that of True; None where it has none."""

_DEFAULTS: dict[Task, tuple[str, ...]] = {
    "binary": ("Accuracy",),
    "multiclass": ("Accuracy",),
    "multilabel": ("Accuracy",),
    "regression": ("MAE", "RMSE"),
    "forecasting": ("MAE", "RMSE"),
    "recommendation": ("MAE", "RMSE"),
    "multitarget": ("MAE",),
    "anomaly": ("ROCAUC",),
    "clustering": (),
}
_OF_PROBABILITIES = frozenset({"ROCAUC", "LogLoss", "CrossEntropy"})
_POINTS_MAX = 400
_STEP = 10


def metrics_of(task: Task, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics of a task: those that are `wanted`, or the default."""
    return tuple(wanted) or _DEFAULTS[task]


def grows(name: str) -> bool:
    """Tell whether a metric is better the larger it is."""
    return bool(getattr(metrics, name)().bigger_is_better)


class RunningMetrics:
    """The metrics `names` of a model's answers, for a task. `scored` is the number of answers so far.

    `first` is the first of the names, which a search goes by; empty without any.

    If it `has_points`, `points` has the values on the way: the number of scored answers, and the values by key. There
    are at most 400, at equal distances.
    """

    def __init__(self, task: Task, names: Sequence[str], *, has_points: bool = False) -> None:
        self.task = task
        self.first = names[0] if names else ""
        self.scored = 0
        self.points: list[tuple[int, dict[str, float]]] = []
        self._has_points = has_points
        self._step = self._next = _STEP
        self._of_pairs = [name for name in names if _is_of_pairs(task, name)]
        self._pairs: Counter[tuple[Any, Any]] = Counter()
        self._others: dict[str, Any] = {}
        for name in names:
            if name not in self._of_pairs:
                self._others[name] = Curve() if _is_curve(task, name) else getattr(metrics, name)()
        # With several targets the score of an answer is the mean over them.
        self._mean: Any = metrics.MAE() if task in {"multilabel", "multitarget"} else None  # type: ignore[no-untyped-call]
        if self._mean is not None:
            self._others = {}

    @property
    def needs_proba(self) -> bool:
        """Whether a metric needs the probabilities of a classifier's answer."""
        return any(name in _OF_PROBABILITIES for name in self._others)

    def add(self, labels: Sequence[Any], answers: Sequence[Any], probas: Sequence[Proba]) -> None:
        """Update the metrics with labels and the answers to them, in this order.

        Answers are as a model gives them. One that is None, or no finite number where a number is wanted, is left out.
        """
        if not self._has_points:
            self._add(labels, answers, probas)
            return
        begin = 0
        while begin < len(labels):
            end = begin + self._next - self.scored
            self._add(labels[begin:end], answers[begin:end], probas[begin:end])
            begin = end

    def _add(self, labels: Sequence[Any], answers: Sequence[Any], probas: Sequence[Proba]) -> None:
        if self.task == "anomaly":
            self._add_verdicts(labels, answers)
            return
        if self._mean is not None:
            scores = [score_of(self.task, answer, label) for label, answer in zip(labels, answers, strict=True)]
            told = [score for score in scores if score < math.inf]
            self._add_mean(self._mean, told)
            self._note(len(told))
            return
        if self.task == "forecasting":
            answers = [answer[0] if answer else None for answer in answers]
        known = [at for at, answer in enumerate(answers) if answer is not None]
        if self.task not in {"binary", "multiclass", "clustering"}:
            known = [at for at in known if abs(answers[at] - labels[at]) < math.inf]
        if len(known) < len(labels):
            labels, answers, probas = ([column[at] for at in known] for column in (labels, answers, probas))
        if self._of_pairs:
            self._pairs.update(zip(labels, answers, strict=True))
        for name, metric in self._others.items():
            self._add_to(name, metric, labels, answers, probas)
        self._note(len(labels))

    def values(self) -> dict[str, float]:
        """Return the values by key, such as `macro_f1`, without those that are not known or not finite."""
        found: dict[str, Any] = {}
        if self._of_pairs and self._pairs:
            matrix: Any = metrics.ConfusionMatrix()  # type: ignore[no-untyped-call]
            for (label, answer), count in self._pairs.items():
                matrix.update(label, answer, w=float(count))
            matrix.n_samples = sum(self._pairs.values())
            found = {name: getattr(metrics, name)(cm=matrix).get() for name in self._of_pairs}
        for name, metric in self._others.items():
            found[name] = metric.area() if isinstance(metric, Curve) else metric.get()
        if self._mean is not None:
            found["Accuracy" if self.task == "multilabel" else "MAE"] = self._mean.get()
        if not self.scored:
            return {}
        return {key_of(name): value for name, value in found.items() if value is not None and math.isfinite(value)}

    def _add_verdicts(self, labels: Sequence[Any], answers: Sequence[Any]) -> None:
        told = 0
        for label, answer in zip(labels, answers, strict=True):
            if not isinstance(label, bool) or answer is None:
                continue
            told += 1
            if answer.verdict is not None:
                self._pairs[label, answer.verdict] += 1
            if answer.score is not None:
                for curve in self._others.values():
                    curve.add(answer.score, is_true=label)
        self._note(told)

    def _add_to(
        self, name: str, metric: Any, labels: Sequence[Any], answers: Sequence[Any], probas: Sequence[Proba]
    ) -> None:
        if name == "ROCAUC":
            _add_to_curve(metric, labels, probas)
        elif isinstance(metric, metrics.base.MeanMetric):
            given = probas if name in _OF_PROBABILITIES else answers
            evaluate: Any = metric._eval  # noqa: SLF001 `update` calls it and the mean, which takes three times as long
            self._add_mean(metric, [evaluate(label, one) for label, one in zip(labels, given, strict=True)])
        else:
            for label, answer in zip(labels, answers, strict=True):
                metric.update(label, answer)

    def _add_mean(self, metric: Any, scores: Sequence[float]) -> None:
        """Do as `stats.Mean.update` does for each score."""
        mean = metric._mean  # noqa: SLF001 see `_add_to`
        n, value = mean.n, mean._mean  # noqa: SLF001
        for score in scores:
            n += 1.0
            value += (1.0 / n) * (score - value)
        mean.n, mean._mean = n, value  # noqa: SLF001

    def _note(self, more: int) -> None:
        """Count scored answers, and note the values when the next point is due."""
        self.scored += more
        if not self._has_points or self.scored < self._next:
            return
        self.points.append((self.scored, self.values()))
        if len(self.points) > _POINTS_MAX:
            self._step *= 2
            del self.points[::2]
        self._next = self.scored + self._step


def _is_of_pairs(task: Task, name: str) -> bool:
    """Tell whether a metric is computed from counts of labels and answers."""
    return task in {"binary", "multiclass", "anomaly", "clustering"} and name not in _OF_PROBABILITIES


def _is_curve(task: Task, name: str) -> bool:
    """Tell whether the area under a curve is taken from scores of any size, as `status` does."""
    return task == "anomaly" and name == "ROCAUC"


def _add_to_curve(metric: Any, labels: Sequence[Any], probas: Sequence[Proba]) -> None:
    """Do as `ROCAUC.update` does for each label, with one update for all equal pairs."""
    chances = [proba.get(True, 0.0) if isinstance(proba, Mapping) else proba for proba in probas]
    for threshold, matrix in zip(metric.thresholds, metric.cms, strict=True):
        pairs = Counter(
            (label == metric.pos_val, chance > threshold)
            for label, chance in zip(labels, chances, strict=True)
            if chance is not None
        )
        for (label, answer), count in pairs.items():
            matrix.update(label, answer, w=float(count))
