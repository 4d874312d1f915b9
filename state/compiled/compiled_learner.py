"""A River model that runs on the machine: a whole batch of columns in one call, and a record at a time as River does.

Equal to River to the last bit, prediction by prediction, with one difference: a record on which River raises in the
middle of learning leaves nothing half learned here.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from river import base

from headrace.state.compiled import classes as roll
from headrace.state.compiled import compiled_codec
from headrace.state.compiled.classes import Classes
from headrace.state.compiled.model_arrays import ModelArrays
from headrace.state.compiled.ops.machine import run
from headrace.state.compiled.program import (
    ASKED,
    BY_ZERO,
    IMPUTE,
    LINEAR,
    MISSING,
    NAME_WANTED,
    NO_LOGARITHM,
    OPTIONS,
    OVERFLOW,
    PAIR_WANTED,
    PLACE,
    SELECT,
    STOPPED,
    TOO_LARGE,
    WIDTH,
    Memo,
    Program,
    ProgramBatch,
    ProgramPart,
    Results,
)
from headrace.state.compiled.vocabulary import ModelVocabulary, RecordVocabulary
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Answer, Capabilities, Model

_CODEC = "arrays-1"
_NO_PROBA, _NO_KNOWN = np.zeros((0, 0)), np.zeros(0, np.int32)


class CompiledLearner(Model):
    """A compiled learner; `compiler.compile_model` makes it."""

    can = Capabilities(batches=True, undo=True)
    codec = _CODEC

    def __init__(self, river: RiverLearner, program: Program) -> None:
        self.task = river.task
        self.spec = river.spec
        self._has_proba = _has_proba(river)
        self._head = program.parts[-1]
        self._river = river
        self._template = copy.deepcopy(river.model)
        self._program = program
        self._late, self._fan = program.late, program.fan
        self._lexicon = RecordVocabulary()
        self._begin(ModelArrays(program))

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._river.label(raw)

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self._has_proba

    @property
    def classes(self) -> list[Any]:
        """The classes of a multiclass model that it has learned, in River's order."""
        return self._classes.known

    def predict(self, features: dict[str, Any], key: bytes = b"") -> Answer:  # noqa: ARG002 one model for all keys
        """Answer as River does, and change nothing. Raises what River would."""
        answers = self._one(features, np.nan)
        value = float(answers.value[0])
        if self.task == "regression":
            return value, None
        if self.task == "multiclass":
            proba = dict(zip(self.classes, answers.proba[0, : answers.known[0]].tolist(), strict=True))
            return (self.classes[int(value)] if proba else None), proba
        true = value if 0.0 < value < 1.0 or value != value else int(value)  # noqa: PLR0124 NaN
        return bool(answers.chosen[0]), {False: 1.0 - true, True: true}

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Learn one labelled record. Raises what River would, and has learned nothing then."""
        many = self.task == "multiclass"
        self._one(features, self.label_number(label), silent=True)
        if many:
            self._settle()

    def learn_batch(self, columns: Columns, labels: Any, *, silent: bool = False, **_keyed: Any) -> Answers:
        """Predict each record of a batch, then learn it where it has a label: `label_number` as float64, NaN for none.

        With `silent` only the faults are read: a batch that is learned again.
        """
        atlas, labels = self._atlas, np.ascontiguousarray(labels, dtype=np.float64)
        atlas.turn(columns.vocabulary)
        if self.task != "multiclass":
            return self._run(columns, labels, atlas)
        if (labels >= len(self._classes)).any() or (labels < 0).any():
            raise ValueError("a label is no number that label_number has given since the last batch")
        try:
            answers = self._run(columns, labels, atlas, silent=silent)
        finally:
            self._settle()
        return answers._replace(proba=answers.proba[:, : len(self.classes)])

    def label_number(self, label: Any) -> float:
        """Return the number that stands for a label in the next batch; a class gets a new one on first sight.

        That is the class's place in `classes`, or will be, if each that is new is learned, in this order.
        """
        if self.task != "multiclass":
            return float(label)
        number = self._classes.number(label)
        if number >= self._room.tally.shape[1]:
            self._room.seat(len(self.classes), wanted=number + 1)
        return number

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that River raises for such a record, as nearly as can be told afterwards."""
        if code == MISSING:
            needing = (part for part in self._program.parts if part.code in {SELECT, IMPUTE})
            missing = [key for part in needing for key in part.keys if key not in features]
            return KeyError(missing[0] if missing else "a feature")
        if code == OVERFLOW:
            return OverflowError("(34, 'Numerical result out of range')")
        if code == NO_LOGARITHM:
            return ValueError("math domain error")
        if code == BY_ZERO:
            return ZeroDivisionError("division by zero")
        if code == TOO_LARGE:
            return OverflowError("a whole number beyond 2 ** 53 can't be told from its neighbours as a category")
        for name, value in features.items():
            if not isinstance(value, int | float):
                return TypeError(f"{name} is a {type(value).__name__} and no number")
        return TypeError("the features are no numbers")

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 one model for all keys
        """Return what was learned as bytes: a function of what was taught, and in what order, alone."""
        return compiled_codec.write(self._room.memos(), self.classes, spec=self.spec)

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Become the learner that `dump` gave these bytes for. Raises ModelError, and has changed nothing then."""
        self._adopt(compiled_codec.read(state, self._program.parts, spec=self.spec))

    def to_river(self, key: bytes = b"") -> Any:  # noqa: ARG002 one model for all keys
        """Return a River model that goes on as this one, to the bit."""
        model = copy.deepcopy(self._template)
        for part, memo in zip(self._program.parts, self._room.memos(), strict=True):
            if part.give is not None:
                part.give(_at(model, part.path), memo._replace(classes=tuple(self.classes)))
        return RiverLearner(model).model

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays; names come on top."""
        return self._room.nbytes + self._atlas.nbytes + self._own.nbytes

    def take_on(self, model: Any) -> None:
        """Go on from a River model of the same shape. Raises ModelError for one that was taught otherwise."""
        memos = []
        for part in self._program.parts:
            try:
                memo = part.take(_at(model, part.path)) if part.take else Memo({}, part.scalars)
            except Exception as error:
                raise compiled_codec.refused(f"{type(error).__name__}: {error}") from error
            compiled_codec.check(memo, part)
            memos.append(memo)
        self._adopt(memos)

    def _adopt(self, memos: list[Memo]) -> None:
        room = ModelArrays(self._program)
        room.fill(memos)
        self._begin(room, memos[-1].classes)

    def _begin(self, room: ModelArrays, classes: Sequence[Any] = ()) -> None:
        self._room, self._classes = room, Classes(classes)
        self._river.know(self.classes)
        # What stands for what: in the batches, and in the records that come one by one.
        self._atlas, self._own = ModelVocabulary(), ModelVocabulary()

    def _settle(self) -> None:
        """Let the classes that were learned have their places, and the others no number any more."""
        if len(self._classes) > len(self.classes):
            self._classes.settle(self._room.tally[PLACE].tolist())
            self._room.seat(len(self.classes))
            self._river.know(self.classes)

    def _one(self, features: dict[str, Any], label: float, *, silent: bool = False) -> Answers:
        columns = self._lexicon.columns(features)
        self._own.turn(self._lexicon)
        answers = self._run(columns, np.array([label]), self._own, silent=silent)
        if answers.fault[0]:
            raise self.fault(int(answers.fault[0]), features)
        return answers

    def _run(self, columns: Columns, labels: Any, atlas: ModelVocabulary, *, silent: bool = False) -> Answers:
        count = len(columns.starts) - 1
        many = self.task == "multiclass"
        answers = Answers(
            np.full(count, np.nan),
            np.zeros(count, np.int8),
            np.zeros((count, len(self._classes))) if many else _NO_PROBA,
            np.zeros(count, np.int32) if many else _NO_KNOWN,
            np.zeros(count, np.int8),
        )
        results = Results(*answers)
        batch = ProgramBatch(columns.starts, columns.names, columns.kinds, columns.values, labels, atlas.slots)
        room, at = self._room, 0
        while True:
            at = run(
                room.ops,
                room.keys,
                room.options,
                room.memory,
                room.rows,
                atlas.pairs,
                batch,
                results,
                at,
                self._fan,
                self._late,
            )
            if at == count:
                return self._choose(answers, silent=silent) if many else answers._replace(proba=None, known=None)
            self._help(columns, at, atlas)

    def _choose(self, answers: Answers, *, silent: bool) -> Answers:
        """Make probabilities of scores, as River does, and let the likeliest class be the answer."""
        if silent:
            return answers
        if self._head.weigh is not None:
            roll.weigh(answers.proba, answers.known, self._head.weigh)
        return answers._replace(value=roll.likeliest(answers.proba, answers.known))

    def _help(self, columns: Columns, at: int, atlas: ModelVocabulary) -> None:
        """Do what the machine can't, so that it can go on with the record at which it stopped."""
        room, notes = self._room, self._room.notes
        if notes[STOPPED] == NAME_WANTED:
            atlas.name(columns.names[columns.starts[at] : columns.starts[-1]], room.slot)
            room.settle()
        elif notes[STOPPED] == PAIR_WANTED:
            # Several records may have asked for one.
            for number, slot, kind, bits in dict.fromkeys(map(tuple, room.asked[: notes[ASKED]].tolist())):
                value = room.meaning(kind, bits, columns.vocabulary.words)
                atlas.enter(number, slot, kind, bits, room.pair(number, slot, value))
            room.settle()
        else:
            room.widen(2 * int(notes[WIDTH]))


def from_river(river: RiverLearner, program: Program) -> CompiledLearner:
    """Return a compiled learner that goes on as this River model. Raises ModelError where it can't be taken on."""
    compiled = CompiledLearner(river, program)
    compiled.take_on(river.model)
    return compiled


def warm() -> None:
    """Compile the machine, or read what was compiled before: it takes seconds, which no record should wait for."""
    program = Program(
        parts=(ProgramPart(code=LINEAR, path=(), sources=(0,), options=(0.0,) * OPTIONS, scalars=(0.0,) * 3),)
    )
    room, atlas = ModelArrays(program), ModelVocabulary()
    atlas.enter(0, 0, 0, 0, 0)
    columns = RecordVocabulary().columns({})
    arrays = (np.zeros(1), np.zeros(1, np.int8), _NO_PROBA, _NO_KNOWN, np.zeros(1, np.int8))
    batch = ProgramBatch(*columns[:4], np.array([math.nan]), atlas.slots)
    run(room.ops, room.keys, room.options, room.memory, room.rows, atlas.pairs, batch, Results(*arrays), 1, 1, False)  # noqa: FBT003


def _has_proba(river: RiverLearner) -> bool:
    """Tell whether River's model has probabilities, as `RiverLearner.adopt` does."""
    if river.task == "regression":
        return False
    last = river.model
    while hasattr(last, "steps"):
        last = list(last.steps.values())[-1]
    return type(last).predict_proba_one is not base.Classifier.predict_proba_one


def _at(model: Any, path: tuple[str, ...]) -> Any:
    """Return the part of a River model that is at this place."""
    for name in path:
        model = model.steps[name] if hasattr(model, "steps") else model.transformers[name]
    return model
