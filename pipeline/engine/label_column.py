"""The labels of a batch as one model takes them, and the scores of that model's answers to them.

A model that learns without labels is taught each record; the labels that are there only score its answers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.consumers.fastjson.scan import Scan
from headrace.consumers.record import Event
from headrace.consumers.refusal import Refusal
from headrace.producers.prediction import PredictionForm
from headrace.state.history.challenge import Rules
from headrace.state.models.columns import BOOLEAN, STRING, Answers, Columns
from headrace.state.models.label import LabelError
from headrace.state.models.model import Model
from headrace.state.promotion.loss import loss
from headrace.state.quality import storable
from headrace.state.shard_model import ShardModel

_NO_LABEL = -1


class LabelColumn:
    """The labels of a batch as numbers (`values`, NaN for none).

    Records are `labelled` that have a label, or are learned without. Those that are `withheld` are not learned, and
    their labels score nothing. `field` is where a label is in a record.
    """

    def __init__(self, model: Model, count: int, refusals: dict[int, Refusal], *, field: str) -> None:
        self._field = field
        self.values = np.full(count, np.nan)
        self.labelled = np.zeros(count, dtype=bool)
        self.met: set[Any] = set()
        self.withheld: list[int] = []
        self._model = model
        self._refusals = refusals

    def read(self, scan: Scan, events: Mapping[int, Event]) -> bool:
        """Take the labels, and refuse records whose label can't be learned; False where the order of labels matters."""
        kinds, found = scan.label_kinds, scan.label_values
        self.labelled = kinds != _NO_LABEL
        odd = self.labelled
        if self._model.task in {"binary", "anomaly"}:
            odd = odd & ((kinds == STRING) | ((found != 0.0) & (found != 1.0)))
        elif self._model.task == "regression":
            odd = odd & ((kinds == STRING) | (kinds == BOOLEAN))
        plain = self.labelled & ~odd
        self.values[plain] = found[plain]
        words = scan.vocabulary.words
        odd_ones = {at: _raw(kinds[at], found[at], words) for at in np.flatnonzero(odd).tolist()}
        odd_ones.update({at: event.label for at, event in events.items() if event.label is not msgspec.UNSET})
        if self._model.task == "multiclass" and len({isinstance(raw, str) for raw in odd_ones.values()}) > 1:
            # Whether a class is of the right kind depends on which was learned first.
            return False
        for position in sorted(odd_ones):
            self._take(position, odd_ones[position])
        return True

    def withhold(self, positions: Iterable[int]) -> None:
        """Learn nothing of records that were learned where they stood first: replays of what only a sink refused."""
        self.withheld = list(positions)
        self.values[self.withheld] = np.nan
        self.labelled = self.labelled | ~np.isnan(self.taught)

    @property
    def taught(self) -> Any:
        """What the model learns of each record: its label, or 0 if it learns without labels; NaN for nothing."""
        if not self._model.can.unlabelled:
            return self.values
        taught = np.zeros(len(self.values))
        taught[self.withheld] = np.nan
        return taught

    def _take(self, position: int, raw: Any) -> None:
        self.labelled[position] = True
        try:
            label = self._model.label(raw)
        except LabelError as error:
            self._refusals[position] = Refusal("bad_label", "validate", str(error), self._field)
            return
        is_verdict = self._model.task == "anomaly"
        self.values[position] = float(label) if is_verdict else self._model.label_number(label)
        if self._model.task == "multiclass":
            self.met.add(label)


def score(one: ShardModel, answers: Answers, truths: Any, version: int) -> None:
    """Score the answers of a model to these labels, NaN for none."""
    known = ~np.isnan(truths)
    truths = truths[known]
    if one.model.task == "anomaly":
        for row, truth in zip(np.flatnonzero(known).tolist(), truths.tolist(), strict=True):
            one.score(one.model.answer(answers, row)[0], bool(truth), version)
        return
    if len(truths):
        _count(one, answers.only(known), truths)
    if one.model.task == "regression":
        # As Python's own numbers, these grow to infinity and say nothing of it.
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(answers.value[known] - truths)
            one.score_all(errors[errors < np.inf], version)
    elif one.model.task == "binary":
        one.score_all((answers.chosen[known] == truths).astype(np.float64), version)
    else:
        chosen = answers.value[known]
        one.score_all((chosen == truths)[chosen >= 0].astype(np.float64), version)


def _count(one: ShardModel, answers: Answers, truths: Any) -> None:
    """Count the answers to labels for the measures; without configured ones, for the confusion matrix."""
    quality, task = one.quality, one.model.task
    if quality.measures:
        one.count_all(*_listed(one.model, answers, truths))
    elif task == "binary":
        for pair, times in enumerate(np.bincount((2 * truths + answers.chosen).astype(np.int64), minlength=4).tolist()):
            if times:
                quality.tally.count(pair > 1, pair % 2 == 1, times)
    elif task == "multiclass":
        classes, told = one.model.classes, answers.value >= 0
        pairs = truths[told].astype(np.int64) * len(classes) + answers.value[told].astype(np.int64)
        for pair, times in zip(*map(np.ndarray.tolist, np.unique(pairs, return_counts=True)), strict=True):
            label, answer = divmod(pair, len(classes))
            quality.tally.count(storable(classes[label]), storable(classes[answer]), times)


def _listed(model: Model, answers: Answers, truths: Any) -> tuple[list[Any], list[Any], list[float]]:
    """Return the labels, the answers to them, and the probabilities of true, or of the label; NaN for none."""
    count = len(truths)
    if model.task == "regression":
        told = np.abs(answers.value - truths) < np.inf
        return truths[told].tolist(), answers.value[told].tolist(), [math.nan] * int(told.sum())
    if model.task == "binary":
        chances = answers.value if model.has_proba else np.full(count, np.nan)
        return (truths == 1.0).tolist(), (answers.chosen == 1).tolist(), chances.tolist()
    classes, labels, listed, shares = model.classes, [], [], []
    for row in np.flatnonzero(answers.value >= 0).tolist():
        answer, proba = model.answer(answers, row)
        labels.append(classes[int(truths[row])])
        listed.append(answer)
        shares.append(math.nan if not proba else proba.get(labels[-1], math.nan))
    return labels, listed, shares


def answers_of(one: ShardModel, columns: Columns, labels: Any, *, silent: bool, **met: Any) -> Answers | None:
    """Let a model learn a batch; with `silent` nobody reads its answers, but for those that are scored."""
    is_silent = silent and one.model.task != "multiclass" and not one.quality.measures
    return one.model.learn_batch(columns, labels, silent=is_silent, **met)


def label_of(model: Model, truth: float) -> Any:
    """Return the label behind its number."""
    if model.task == "binary":
        return truth == 1.0
    return model.classes[int(truth)] if model.task == "multiclass" else truth


def losses(rules: Rules, model: Model, answers: Answers, truths: Any) -> Any:
    """Return the loss of each answer (float64); NaN where there is no label or no answer.

    They are those of `loss.loss`, to the last bit.
    """
    if model.task == "regression":
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(answers.value - truths)
            errors[~(errors < np.inf)] = np.nan
            return errors * errors if rules.loss == "squared" else errors
    if model.task == "binary" and rules.loss == "zero-one":
        return np.where(np.isnan(truths), np.nan, (answers.chosen != truths).astype(np.float64))
    if model.task == "binary" and rules.loss == "brier":
        misses = answers.value - truths
        if rules.task == "binary":
            return misses * misses
        others = (1.0 - answers.value) - (1.0 - truths)
        return others * others + misses * misses
    found = np.full(len(truths), np.nan)
    for row in np.flatnonzero(~np.isnan(truths)).tolist():
        answer, proba = model.answer(answers, row)
        found[row] = loss(rules.loss, rules.task, answer, proba, label_of(model, truths[row]))
    return found


def decided(model: Model, answers: Answers, form: PredictionForm) -> Answers:
    """Return answers whose classes are those that the configured threshold gives, if there is one."""
    if form.threshold is None or not model.has_proba:
        return answers
    return answers._replace(chosen=(answers.value >= form.threshold).astype(np.int8))


def _raw(kind: int, value: float, words: Sequence[str]) -> Any:
    """Return a label as the decoder would have given it, as far as a learner can tell."""
    if kind == STRING:
        return words[int(value)]
    if kind == BOOLEAN:
        return bool(value)
    return int(value) if float(value).is_integer() else float(value)
