"""A River model that runs on the machine: a batch of columns in one call, or one record at a time as River does.

Each prediction equals River's to the last bit. There is one difference: if River raises in the middle of learning a
record, River has learned a part of it, and this learner nothing.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from river import base

from headrace.state.compiled import compiled_codec
from headrace.state.compiled.layouts import ModelLayout, PlacedLayout, memos, place, placed
from headrace.state.compiled.program import GROUP, MODEL, Memo, Program, ProgramPart, StoredModels
from headrace.state.compiled.program_runner import ProgramRunner, one_model
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Answer, Capabilities, Model


class CompiledLearner(Model):
    """A compiled learner; `compiler.compile_model` makes it."""

    can = Capabilities(batches=True, undo=True)
    codec = compiled_codec.CODEC

    def __init__(self, river: RiverLearner, program: Program) -> None:
        self.task = river.task
        self.spec = river.spec
        self._has_proba = has_proba(river)
        self._river = river
        self._template = copy.deepcopy(river.model)
        self._program = program
        self._single = one_model(1)
        self._begin(ProgramRunner(program))

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._river.label(raw)

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self._has_proba

    @property
    def classes(self) -> list[Any]:
        """The classes that a multiclass model has learned, in River's order."""
        return list(self._classes)

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:  # noqa: ARG002 one model for all keys, which judges features
        """Predict as River does, and change nothing. Raises the same exceptions as River, as far as can be told."""
        return self.answer(self._one(features, np.nan), 0)

    def answer(self, answers: Answers, at: int) -> Answer:
        """Return one answer of a batch in the form that `predict` returns."""
        return answer_of(answers, at, task=self.task, classes=self._classes)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Learn one labelled record. Raises the same exceptions as River, and has then learned nothing."""
        self._one(features, self.label_number(label), silent=True)

    def learn_batch(
        self, columns: Columns, labels: Any, *, silent: bool = False, halts: bool = False, **_keyed: Any
    ) -> Answers:
        """Predict each record of a batch, then learn it if it has a label: float64 of `label_number`, NaN for no label.

        With `silent` the caller reads only the faults, as when a batch is learned again.
        """
        labels = np.ascontiguousarray(labels, dtype=np.float64)
        if self.task == "multiclass" and ((labels >= len(self._runner.arrays.classes)).any() or (labels < 0).any()):
            raise ValueError("a label is no number that label_number has given since the last batch")
        return self._run(columns, labels, one_model(len(labels)), silent=silent, halts=halts)

    def label_number(self, label: Any) -> float:
        """Return the number of a label in the next batch; a class that is new gets a new number.

        A class's number is its place in `classes`, for a new class after all new ones were learned in this order.
        """
        return float(self._runner.class_number(label) if self.task == "multiclass" else label)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that River raises for such a record, as far as can be told afterwards."""
        return self._runner.fault(code, features)

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 one model for all keys
        """Return the learned numbers as bytes, which depend only on the records learned and their order."""
        layout, numbers = self._stored()
        return compiled_codec.write(layout, numbers, spec=self.spec)

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Load the bytes that `dump` has returned. Raises ModelError, and has then changed nothing."""
        layout, numbers = compiled_codec.read(state, self._program.parts, spec=self.spec)
        self._adopt(layout, numbers)

    def to_river(self, key: bytes = b"") -> Any:  # noqa: ARG002 one model for all keys
        """Return a River model that continues this one, equal to the bit."""
        layout, numbers = self._stored()
        return given(self._template, self._program.parts, memos(layout, numbers.tolist(), self._program.parts))

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays, without the names."""
        return self._runner.nbytes

    def take_on(self, model: Any) -> None:
        """Continue a River model of the same shape. Raises ModelError if its learned state can't be taken over."""
        self._adopt(*compiled_codec.checked(taken(model, self._program.parts), self._program.parts))

    def _adopt(self, layout: ModelLayout, numbers: Any) -> None:
        runner = ProgramRunner(self._program)
        placement = place(layout, runner.arrays)
        runner.arrays.settle()
        # A copy: the machine would be compiled anew for an array that is read-only.
        self._load(runner, placement, np.array(placement.at_rest(numbers)))
        self._begin(runner)

    def _begin(self, runner: ProgramRunner) -> None:
        self._runner = runner
        self._classes: list[Any] = []
        self._know()

    def _know(self) -> None:
        """Update the learned classes. A class that was not learned loses its number."""
        self._classes = self._runner.arrays.renumber_classes()
        self._river.know(self._classes)

    def _load(self, runner: ProgramRunner, placement: PlacedLayout, numbers: Any) -> None:
        groups = np.zeros(1, GROUP)
        groups["stays"] = 1
        models = StoredModels(groups, np.zeros(0, np.int64), np.zeros(1, MODEL), placement.shape, numbers)
        runner.run(runner.columns({}), np.zeros(0), models)

    def _stored(self) -> tuple[ModelLayout, Any]:
        """Return the layout of the model, and its numbers in the saved order."""
        runner = self._runner
        runner.arrays.notes.learned = 1
        models = StoredModels(
            np.zeros(1, GROUP), np.zeros(0, np.int64), np.zeros(1, MODEL), np.full(1, -1), np.zeros(0)
        )
        _, models = runner.run(runner.columns({}), np.zeros(0), models, loaded=True)
        shape, at, size, shape_size = models.index[0].tolist()
        placement = placed(models.shapes[shape : shape + shape_size].copy(), runner.arrays)
        numbers = models.numbers[at : at + size].copy()
        self._load(runner, placement, numbers)
        return placement.layout, placement.saved(numbers)

    def _one(self, features: dict[str, Any], label: float, *, silent: bool = False) -> Answers:
        columns = self._runner.columns(features)
        answers = self._run(columns, np.array([label]), self._single, silent=silent)
        if answers.fault[0]:
            raise self.fault(int(answers.fault[0]), features)
        return answers

    def _run(
        self, columns: Columns, labels: Any, models: StoredModels, *, silent: bool, halts: bool = False
    ) -> Answers:
        try:
            answers, _ = self._runner.run(columns, labels, models, loaded=True, silent=silent, halts=halts)
        finally:
            if self.task == "multiclass":
                self._know()
        if answers.proba is None:
            return answers
        known, order = len(self._classes), answers.order
        order = order if order is None else order[:, :known]
        return answers._replace(proba=answers.proba[:, :known], order=order)


def from_river(river: RiverLearner, program: Program) -> CompiledLearner:
    """Return a compiled learner that continues this River model. Raises ModelError if the model can't be taken over."""
    compiled = CompiledLearner(river, program)
    compiled.take_on(river.model)
    return compiled


def answer_of(answers: Answers, at: int, *, task: str, classes: Sequence[Any]) -> Answer:
    """Return one answer of a batch in River's form."""
    value = float(answers.value[at])
    if task == "regression":
        return value, None
    if task == "multiclass":
        known = int(answers.known[at])
        own = range(known) if answers.order is None else answers.order[at, :known].tolist()
        proba = dict(zip(map(classes.__getitem__, own), answers.proba[at, :known].tolist(), strict=True))
        return (classes[int(value)] if proba else None), proba
    true = value if 0.0 < value < 1.0 or value != value else int(value)  # noqa: PLR0124 NaN
    return bool(answers.chosen[at]), {False: 1.0 - true, True: true}


def has_proba(river: RiverLearner) -> bool:
    """Tell whether River's model has probabilities, by the rule of `RiverLearner`."""
    if river.task == "regression":
        return False
    last = river.model
    while hasattr(last, "steps"):
        last = list(last.steps.values())[-1]
    return type(last).predict_proba_one is not base.Classifier.predict_proba_one


def taken(model: Any, parts: Sequence[ProgramPart]) -> list[Memo]:
    """Return the learned state of each part of a River model. Raises ModelError if it can't be taken over."""
    found = []
    for part in parts:
        try:
            found.append(part.take(_at(model, part.path)) if part.take else Memo({}, part.scalars))
        except Exception as error:
            raise compiled_codec.refused(f"{type(error).__name__}: {error}") from error
    return found


def given(template: Any, parts: Sequence[ProgramPart], learned: Any) -> Any:
    """Return a copy of a River model with this learned state."""
    model = copy.deepcopy(template)
    for part, memo in zip(parts, learned, strict=True):
        if part.give is not None:
            part.give(_at(model, part.path), memo)
    return RiverLearner(model).model


def _at(model: Any, path: tuple[str, ...]) -> Any:
    """Return the object at this path in a River model."""
    for name in path:
        model = model.steps[name] if hasattr(model, "steps") else model.transformers[name]
    return model
