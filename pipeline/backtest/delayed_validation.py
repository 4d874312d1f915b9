"""Validation with labels that come after a given delay: a label scores the answer that was given at the time.

The model is called as the engine calls it. Where it takes batches, many steps are done in one call.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.consumers.record import Record, RecordDecoder
from headrace.consumers.record_batch import RecordBatch
from headrace.pipeline.backtest.examples import Delay, Examples, LabelOf, Schedule
from headrace.pipeline.engine.label_column import decided
from headrace.pipeline.engine.raised import refusal_of
from headrace.producers.prediction import PredictionForm
from headrace.state.models.columns import Answers
from headrace.state.models.label import LabelError
from headrace.state.models.model import Model, Unlabelled
from headrace.state.running_metrics import Proba, RunningMetrics
from headrace.state.shard import Shard

if TYPE_CHECKING:
    # It imports numba, which takes its time, and which not every machine has.
    from headrace.pipeline.engine.columnar import ColumnarEngine

Told = tuple[Any, Proba]
"""An answer, and its probabilities."""


class DelayedValidation:
    """The validation of a model for each partition, which `model` makes; their answers are scored in `metrics`.

    `is_logged` tells whether a record without an event time has that of the log. `refused` are the codes of the records
    that were refused.
    """

    def __init__(
        self,
        model: Callable[[], Model],
        metrics: RunningMetrics,
        *,
        decoder: RecordDecoder,
        form: PredictionForm,
        columnar: "ColumnarEngine | None",
        delay: Delay,
        is_logged: bool,
        label_of: LabelOf | None = None,
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._decoder, self._form, self._columnar = decoder, form, columnar
        self._delay, self._is_logged, self._label_of = delay, is_logged, label_of
        self._logs: dict[int, _Log] = {}

    @property
    def read(self) -> int:
        """The number of records so far."""
        return sum(log.examples.read for log in self._logs.values())

    @property
    def skipped(self) -> int:
        """The number of skipped records so far."""
        return sum(log.examples.skipped for log in self._logs.values())

    @property
    def refused(self) -> Counter[str]:
        """The codes of refused records."""
        return sum((log.examples.refused + log.refused for log in self._logs.values()), Counter())

    def take(self, partition: int, records: Sequence[Record]) -> None:
        """Take the next records of a partition. Raises DelayRefused for a record without a time that needs one."""
        log = self._logs.get(partition)
        if log is None:
            examples = Examples(self._decoder, label_of=self._label_of)
            learner = _Learner(self._model(), decoder=self._decoder, form=self._form, columnar=self._columnar)
            log = self._logs[partition] = _Log(examples, Schedule(self._delay, is_logged=self._is_logged), learner)
        numbers = log.examples.add(RecordBatch.of(records))
        log.do(log.schedule.steps(log.examples, numbers), self._metrics)
        log.examples.forget(log.schedule.oldest(numbers.stop))

    def end(self) -> None:
        """Let the labels come that are left."""
        for log in self._logs.values():
            log.do(log.schedule.rest(), self._metrics)


class _Log:
    """One partition: its examples, their order, its model, and the answers to examples whose label is to come."""

    def __init__(self, examples: Examples, schedule: Schedule, learner: "_Learner") -> None:
        self.examples = examples
        self.schedule = schedule
        self.refused: Counter[str] = Counter()
        self._learner = learner
        # The labels in the model's own form, and the answers, by the numbers of their examples.
        self._labels: dict[int, Any] = {}
        self._answers: dict[int, Told] = {}

    def do(self, steps: Sequence[int], metrics: RunningMetrics) -> None:
        """Do some steps, and score the answers whose label has come."""
        scored: list[tuple[Any, Any, Proba]] = []
        doable = [step for step in steps if self._is_doable(step)]
        while doable:
            told, code = self._learner.take(self.examples, doable, self._labels)
            self._note(doable, told, scored)
            if not code:
                break
            # The model raised on the next step. The later step of that example is left out.
            self.refused[code] += 1
            failed = doable[len(told)]
            self._labels.pop(max(failed, ~failed), None)
            self._answers.pop(max(failed, ~failed), None)
            doable = [step for step in doable[len(told) + 1 :] if step != ~failed]
        if scored:
            metrics.add(*map(list, zip(*scored, strict=True)))
        self._learner.model.trim()

    def _is_doable(self, step: int) -> bool:
        """Tell whether a step can be done: not for an example that was refused, as one whose label can't be learned."""
        if step < 0:
            return ~step in self._labels
        raw = self.examples.labels[step - self.examples.first]
        if raw is not None:
            try:
                self._labels[step] = self._learner.model.label(raw)
            except LabelError:
                self.refused["bad_label"] += 1
                return False
        return True

    def _note(self, steps: Sequence[int], told: Sequence[Told], scored: list[tuple[Any, Any, Proba]]) -> None:
        """Keep the answers, and take out those whose label has come."""
        for step, answer in zip(steps, told, strict=False):
            if step < 0:
                # A label scores the answer of its time, and not the one that the model has now.
                scored.append((self._labels.pop(~step), *self._answers.pop(~step)))
            elif step in self._labels:
                self._answers[step] = answer


class _Learner:
    """Calls a model for steps: all in one call, or one after the other."""

    def __init__(
        self, model: Model, *, decoder: RecordDecoder, form: PredictionForm, columnar: "ColumnarEngine | None"
    ) -> None:
        self.model = model
        self._decoder = decoder
        self._form = form
        can = model.can
        self._columnar = columnar if can.batches and not (can.keys or can.unlabelled) else None
        self._shard = Shard(model, partition=0, start=0)

    def take(self, examples: Examples, steps: Sequence[int], labels: dict[int, Any]) -> tuple[list[Told], str]:
        """Do steps up to the first one on which the model raises; return the answers, and the code of a refusal.

        The answer of a step that only learns has no meaning.
        """
        if self._columnar is None:
            return self._take_each(examples, steps, labels)
        kept, first = examples.kept, examples.first
        values = [kept[(step if step >= 0 else ~step) - first] for step in steps]
        found = self._columnar.learn_rows(self._shard, values, [labels[~step] if step < 0 else None for step in steps])
        if not found.fault.any():
            return self._told(found, len(steps)), ""
        done = next(row for row, fault in enumerate(found.fault.tolist()) if fault)
        error = self.model.fault(int(found.fault[done]), self._decoder.features(values[done]))
        return self._told(found, done), refusal_of(error, prefix=self._decoder.feature_prefix).code

    def _take_each(self, examples: Examples, steps: Sequence[int], labels: dict[int, Any]) -> tuple[list[Told], str]:
        told: list[Told] = []
        for step in steps:
            at = (step if step >= 0 else ~step) - examples.first
            key = examples.keys[at]
            if key is None and self.model.can.keys:
                return told, "no_key"
            try:
                told.append(self._one(examples, step, at, labels))
            except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything
                self.model.undo(key or b"")
                return told, refusal_of(error, prefix=self._decoder.feature_prefix).code
        return told, ""

    def _one(self, examples: Examples, step: int, at: int, labels: dict[int, Any]) -> Told:
        model, key = self.model, examples.keys[at] or b""
        features = self._decoder.features(examples.kept[at])
        if step < 0:
            if not model.can.unlabelled:
                model.learn(features.copy(), labels[~step], key)
                model.keep(features, labels[~step], key, predicted=False)
            return None, None
        time, logged = examples.times[at], examples.logged[at]
        if model.can.keys:
            model.meet(key, time, logged)
        own = Unlabelled(logged if time is None else time) if model.can.unlabelled else None
        given = features.copy()
        answer, proba = model.predict(given, key)
        answer = self._form.decide(answer, proba)
        if own is not None:
            model.learn(given, own, key)
        model.keep(features, own, key)
        return answer, proba

    def _told(self, answers: Answers, count: int) -> list[Told]:
        """Return the first answers of a batch."""
        model = self.model
        if model.task == "regression":
            return [(value, None) for value in answers.value[:count].tolist()]
        if model.task == "binary":
            chosen = decided(model, answers, self._form).chosen[:count] == 1
            shares = answers.value[:count].tolist() if model.has_proba else [None] * count
            return list(zip(chosen.tolist(), shares, strict=True))
        return [model.answer(answers, row) for row in range(count)]
