"""A River model that runs on the machine: a whole batch of columns in one call, and a record at a time as River does.

Equal to River to the last bit, prediction by prediction, with one difference: a record on which River raises in the
middle of learning leaves nothing half learned here.
"""

import copy
import math
from typing import Any, NamedTuple

import numpy as np
from river import base

from state import ledger
from state.columns import Columns
from state.learner import Answer, RiverLearner
from state.lexicon import Atlas, Lexicon
from state.machine import run
from state.program import (
    ASKED,
    IMPUTE,
    LINEAR,
    MISSING,
    NAME_WANTED,
    OPTIONS,
    OVERFLOW,
    PAIR_WANTED,
    SELECT,
    STOPPED,
    TOO_LARGE,
    WIDTH,
    Batch,
    Memo,
    Part,
    Program,
    Results,
)
from state.room import Room

_CODEC = "arrays-1"
_NO_PROBA, _NO_KNOWN = np.zeros((0, 0)), np.zeros(0, np.int32)


class Answers(NamedTuple):
    """The answers for a batch: one entry a record in each array.

    `value` (float64) is the prediction of a regression; the probability of True of a binary model, or 1 or 0 for its
    class where it has no probabilities; the number of the class that a multiclass model predicts, -1 for none.
    `chosen` (int8) is a binary model's class. Of a multiclass model `proba` (float64) has a column a class, and `known`
    (int32) says how many of those it knew when it answered. `fault` (int8) is 0, or the reason why River would have
    raised on this record, which has left no trace then.
    """

    value: Any
    chosen: Any
    proba: Any
    known: Any
    fault: Any


class Compiled:
    """A compiled learner; `compiler.compile_model` makes it."""

    atomic = True
    codec = _CODEC

    def __init__(self, river: RiverLearner, program: Program) -> None:
        self.task = river.task
        self.spec = river.spec
        self.has_proba = _has_proba(river)
        self.classes: list[Any] = []
        self._river = river
        self._template = copy.deepcopy(river.model)
        self._program = program
        self._late, self._fan = program.late, program.fan
        self._lexicon = Lexicon()
        self._begin(Room(program))

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._river.label(raw)

    def predict(self, features: dict[str, Any]) -> Answer:
        """Answer as River does, and change nothing. Raises what River would."""
        value, chosen = self._one(features, np.nan)
        if self.task == "regression":
            return value, None
        true = value if 0.0 < value < 1.0 or value != value else int(value)  # noqa: PLR0124 NaN
        return bool(chosen), {False: 1.0 - true, True: true}

    def learn(self, features: dict[str, Any], label: Any) -> None:
        """Learn one labelled record. Raises what River would, and has learned nothing then."""
        self._one(features, float(label))

    def run(self, columns: Columns, labels: Any, *, silent: bool = False) -> Answers:
        """Predict each record of a batch, then learn it where it has a label.

        `labels` is float64: the number, 0 or 1 of a binary model, `class_index` of a multiclass one, NaN for none. With
        `silent` nobody reads the answers but the faults: a batch that is learned again.
        """
        del silent
        atlas = self._atlas
        atlas.turn(columns.vocabulary)
        return self._run(columns, np.ascontiguousarray(labels, dtype=np.float64), atlas)

    def class_index(self, label: Any) -> int:
        """Return the number of a class for `run`, a new one on first sight."""
        raise NotImplementedError(f"{label!r}: no multiclass model is compiled yet")

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that River raises for such a record, as nearly as can be told afterwards."""
        if code == MISSING:
            needing = (part for part in self._program.parts if part.code in {SELECT, IMPUTE})
            missing = [key for part in needing for key in part.keys if key not in features]
            return KeyError(missing[0] if missing else "a feature")
        if code == OVERFLOW:
            return OverflowError("(34, 'Numerical result out of range')")
        if code == TOO_LARGE:
            return OverflowError("a whole number beyond 2 ** 53 can't be told from its neighbours as a category")
        for name, value in features.items():
            if not isinstance(value, int | float):
                return TypeError(f"{name} is a {type(value).__name__} and no number")
        return TypeError("the features are no numbers")

    def dump(self) -> bytes:
        """Return what was learned as bytes: a function of what was taught, and in what order, alone."""
        return ledger.write(self._room.memos(), self.classes, spec=self.spec)

    def load(self, state: bytes) -> None:
        """Become the learner that `dump` gave these bytes for. Raises ModelError, and has changed nothing then."""
        memos, classes = ledger.read(state, self._program.parts, spec=self.spec)
        self._adopt(memos)
        self.classes = list(classes)

    def to_river(self) -> Any:
        """Return a River model that goes on as this one, to the bit."""
        model = copy.deepcopy(self._template)
        for part, memo in zip(self._program.parts, self._room.memos(), strict=True):
            if part.give is not None:
                part.give(_at(model, part.path), memo)
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
                raise ledger.refused(f"{type(error).__name__}: {error}") from error
            ledger.check(memo, part)
            memos.append(memo)
        self._adopt(memos)

    def _adopt(self, memos: list[Memo]) -> None:
        room = Room(self._program)
        room.fill(memos)
        self._begin(room)

    def _begin(self, room: Room) -> None:
        self._room = room
        # What stands for what: in the batches, and in the records that come one by one.
        self._atlas, self._own = Atlas(), Atlas()

    def _one(self, features: dict[str, Any], label: float) -> tuple[float, int]:
        columns = self._lexicon.columns(features)
        self._own.turn(self._lexicon)
        answers = self._run(columns, np.array([label]), self._own)
        if answers.fault[0]:
            raise self.fault(int(answers.fault[0]), features)
        return float(answers.value[0]), int(answers.chosen[0])

    def _run(self, columns: Columns, labels: Any, atlas: Atlas) -> Answers:
        count = len(columns.starts) - 1
        answers = Answers(
            np.full(count, np.nan),
            np.zeros(count, np.int8),
            _NO_PROBA,
            _NO_KNOWN,
            np.zeros(count, np.int8),
        )
        results = Results(*answers)
        batch = Batch(columns.starts, columns.names, columns.kinds, columns.values, labels, atlas.slots)
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
                return answers._replace(proba=None, known=None)
            self._help(columns, at, atlas)

    def _help(self, columns: Columns, at: int, atlas: Atlas) -> None:
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


def from_river(river: RiverLearner, program: Program) -> Compiled:
    """Return a compiled learner that goes on as this River model. Raises ModelError where it can't be taken on."""
    compiled = Compiled(river, program)
    compiled.take_on(river.model)
    return compiled


def warm() -> None:
    """Compile the machine, or read what was compiled before: it takes seconds, which no record should wait for."""
    program = Program(parts=(Part(code=LINEAR, path=(), sources=(0,), options=(0.0,) * OPTIONS, scalars=(0.0,) * 3),))
    room, atlas = Room(program), Atlas()
    atlas.enter(0, 0, 0, 0, 0)
    columns = Lexicon().columns({})
    arrays = (np.zeros(1), np.zeros(1, np.int8), _NO_PROBA, _NO_KNOWN, np.zeros(1, np.int8))
    batch = Batch(*columns[:4], np.array([math.nan]), atlas.slots)
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
