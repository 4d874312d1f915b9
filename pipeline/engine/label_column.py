"""The labels of a batch as one model takes them, and the scores of that model's answers to them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.consumers.fastjson.scan import Scan
from headrace.consumers.record import Event
from headrace.consumers.refusal import Refusal
from headrace.producers.prediction import PredictionForm
from headrace.state.models.columns import BOOLEAN, STRING, Answers
from headrace.state.models.learner import LabelError
from headrace.state.models.model import Model
from headrace.state.shard_model import ShardModel

_NO_LABEL = -1


class LabelColumn:
    """The labels of a batch as the learner takes them (`values`, NaN for none), and which records are `labelled`.

    The labels of records that are `withheld` are not learned; `field` is where a label is in a record.
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
        if self._model.task == "binary":
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

    def _take(self, position: int, raw: Any) -> None:
        self.labelled[position] = True
        try:
            label = self._model.label(raw)
        except LabelError as error:
            self._refusals[position] = Refusal("bad_label", "validate", str(error), self._field)
            return
        self.values[position] = self._model.label_number(label)
        if self._model.task == "multiclass":
            self.met.add(label)


def score(one: ShardModel, answers: Answers, truths: Any, version: int) -> int:
    """Score the answers of a model to the labels that it learned; return the number of labels."""
    known = ~np.isnan(truths)
    truths = truths[known]
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
    return len(truths)


def needs_answers(model: Model) -> bool:
    """Return whether the answers of a batch are needed where nobody reads them: the class that is chosen is scored."""
    return model.task == "multiclass"


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
