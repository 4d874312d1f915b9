"""Runs a program over batches of records, and does the steps that only Python can do when the machine stops for them.

One call runs the records of many models: `StoredModels` says which records belong to which model.
"""

from typing import Any, Protocol

import numpy as np

from headrace.state.compiled import classes
from headrace.state.compiled.model_arrays import ModelArrays
from headrace.state.compiled.ops.machine import run
from headrace.state.compiled.program import (
    ALL_DONE,
    BY_ZERO,
    FAMILY_WANTED,
    GROUP,
    HALTED,
    IMPUTE,
    LINEAR,
    MISSING,
    MODEL,
    NAME_WANTED,
    NO_LOGARITHM,
    NOT_RUN,
    OVERFLOW,
    PAIR_WANTED,
    SELECT,
    SPACE_WANTED,
    TOO_LARGE,
    WRONG_CLASS,
    Program,
    ProgramBatch,
    ProgramPart,
    StoredModels,
)
from headrace.state.compiled.vocabulary import ModelVocabulary, RecordVocabulary
from headrace.state.models.columns import INTEGER, WIDE, Answers, Columns
from headrace.state.models.label import LabelError

_NO_PROBA, _NO_KNOWN, _NO_WORDS = np.zeros((0, 0)), np.zeros(0, np.int32), np.zeros(0, np.int64)


class Space(Protocol):
    """The arrays of stored models that grow in place, and the `ends` of the shapes and of the numbers in them."""

    ends: tuple[int, int]

    def grow(self, shapes: int, numbers: int) -> None:
        """Make both arrays at least as long as this."""


class ProgramRunner:
    """A program and its memory, which holds a new model at first."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.arrays = ModelArrays(program)
        self._many = program.parts[-1].has_classes
        self._sorts = program.parts[-1].grows is not None
        self._weigh = program.parts[-1].weigh
        self._late, self._fan = program.late, program.fan
        # The slots and pairs of the batches' vocabularies, and of the vocabulary of single records.
        self._batches, self._singles = ModelVocabulary(), ModelVocabulary()
        self._records = RecordVocabulary()
        self._has_words = False

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays, without the names."""
        return self.arrays.nbytes + self._batches.nbytes + self._singles.nbytes

    def columns(self, features: dict[str, Any]) -> Columns:
        """Return a record as columns. Raises TypeError, ValueError or OverflowError if columns can't hold it."""
        return self._records.columns(features)

    def class_number(self, label: Any) -> int:
        """Return the number of a class, a new one if it has none."""
        number = self.arrays.class_number(label)
        self.arrays.settle()
        return number

    def run(
        self,
        columns: Columns,
        labels: Any,
        models: StoredModels,
        *,
        loaded: bool = False,
        silent: bool = False,
        space: Space | None = None,
        halts: bool = False,
    ) -> tuple[Answers, StoredModels]:
        """Predict each record, then learn it if it has a label, with the model of its group.

        Returns the answers, and the models as they are stored afterwards: in `space`, or in copies of the arrays. The
        answers of a multiclass model have a class's place in the model. With `loaded`, the model of the first group is
        in the memory already. With `silent`, the caller reads only the faults. With `halts`, the machine stops at the
        first record with a fault; then all later records have the fault `NOT_RUN`. The batch must belong to one model.
        """
        vocabulary = self._singles if columns.vocabulary is self._records else self._batches
        vocabulary.turn(columns.vocabulary)
        arrays, notes = self.arrays, self.arrays.notes
        ends = (len(models.shapes), len(models.numbers)) if space is None else space.ends
        arrays.begin(loaded=loaded, halts=halts, ends=ends)
        if space is None and not (loaded and models.groups["stays"][0]):
            models = _with_space(models, 64)
        answers = self._answers(labels, models)
        kinds, values, words = self._with_words(columns)
        while True:
            wanted = run(
                arrays.ops,
                arrays.keys,
                arrays.memory,
                arrays.rows,
                vocabulary.pairs,
                ProgramBatch(columns.starts, columns.names, kinds, values, words, labels, vocabulary.slots),
                answers,
                models,
                self._fan,
                len(arrays.names),
                self._late,
            )
            if wanted in {ALL_DONE, HALTED}:
                if wanted == HALTED:
                    answers.fault[int(notes.at) + 1 :] = NOT_RUN
                if space is not None:
                    space.ends = int(notes.shapes), int(notes.numbers)
                return self._chosen(answers, silent=silent), models
            if wanted == SPACE_WANTED:
                models = self._grown(models, space)
            elif wanted == FAMILY_WANTED:
                arrays.family.help(arrays)
                arrays.settle()
            else:
                self._help(columns, vocabulary, models, wanted)

    def _with_words(self, columns: Columns) -> tuple[Any, Any, Any]:
        """Return the kinds and the values of a batch with wide integers as doubles, and the words with their digits."""
        if self._has_words:
            self.arrays.forget_words()
        at = np.flatnonzero(columns.kinds == WIDE)
        self._has_words = at.size > 0
        if not self._has_words:
            return columns.kinds, columns.values, _NO_WORDS
        kinds, values = columns.kinds.copy(), columns.values.copy()
        words = np.full(len(kinds), -1, np.int64)
        words[at] = values[at]
        kinds[at] = INTEGER
        values[at] = [float(int(columns.vocabulary.words[word])) for word in words[at].tolist()]
        return kinds, values, words

    def _grown(self, models: StoredModels, space: Space | None) -> StoredModels:
        """Return the models with room for another one."""
        notes = self.arrays.notes
        if space is None:
            return _with_space(models, int(notes.width))
        space.grow(int(notes.shapes + notes.width), int(notes.numbers + notes.width))
        return models

    def _answers(self, labels: Any, models: StoredModels) -> Answers:
        count = len(labels)
        proba, known, order = _NO_PROBA, _NO_KNOWN, None
        if self._many:
            most = max(models.shapes[models.index["shape"]].max(initial=0), self.arrays.notes.classes)
            proba = np.zeros((count, min(len(self.arrays.classes), int(most) + len(np.unique(labels)))))
            known = np.zeros(count, np.int32)
            order = np.zeros(proba.shape, np.int64) if self._sorts else None
        return Answers(np.full(count, np.nan), np.zeros(count, np.int8), proba, known, np.zeros(count, np.int8), order)

    def _chosen(self, answers: Answers, *, silent: bool) -> Answers:
        """Turn scores into probabilities, as River does, and answer with the likeliest class."""
        if not self._many:
            return answers._replace(proba=None, known=None)
        if silent:
            return answers
        if self._weigh is not None:
            classes.weigh(answers.proba, answers.known, self._weigh)
        chosen = classes.likeliest(answers.proba, answers.known)
        if answers.order is not None:
            told = chosen >= 0
            chosen[told] = answers.order[told, chosen[told].astype(np.int64)]
        return answers._replace(value=chosen)

    def _help(self, columns: Columns, vocabulary: ModelVocabulary, models: StoredModels, wanted: int) -> None:
        """Do the step for which the machine has stopped, so that it can continue with the same record."""
        arrays, notes = self.arrays, self.arrays.notes
        if wanted == NAME_WANTED:
            first = columns.starts[models.order[notes.at]] if len(models.groups) == 1 else 0
            vocabulary.name(columns.names[first : columns.starts[-1]], arrays.slot)
            arrays.settle()
        elif wanted == PAIR_WANTED:
            # Several records may have asked for the same pair.
            for number, slot, kind, bits in dict.fromkeys(map(tuple, arrays.asked[: notes.asked].tolist())):
                value = arrays.meaning(kind, bits, columns.vocabulary.words)
                vocabulary.enter(number, slot, kind, bits, arrays.pair(number, slot, value))
            arrays.settle()
        else:
            arrays.seat(int(notes.classes) + 1)
            arrays.widen(2 * max(int(notes.width), arrays.rows.slots.shape[1] // 2))

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that River raises for such a record, as far as can be told afterwards."""
        if code == MISSING:
            needing = (part for part in self.program.parts if part.code in {SELECT, IMPUTE})
            missing = [key for part in needing for key in part.keys if key not in features]
            return KeyError(missing[0] if missing else "a feature")
        if code == OVERFLOW:
            return OverflowError("(34, 'Numerical result out of range')")
        if code == NO_LOGARITHM:
            return ValueError("math domain error")
        if code == BY_ZERO:
            return ZeroDivisionError("division by zero")
        if code == TOO_LARGE:
            return OverflowError("an imputed number beyond 2 ** 53 can't be told from its neighbours as a category")
        if code == WRONG_CLASS:
            return LabelError("the label is not of the kind of this model's classes: all are strings, or none is")
        for name, value in features.items():
            if not isinstance(value, int | float):
                return TypeError(f"{name} is a {type(value).__name__} and no number")
        return TypeError("the features are no numbers")


def _with_space(models: StoredModels, wanted: int) -> StoredModels:
    """Return the models with their space doubled, and the wanted space added."""
    shapes = np.empty(2 * len(models.shapes) + wanted, np.int64)
    numbers = np.empty(2 * len(models.numbers) + wanted)
    shapes[: len(models.shapes)], numbers[: len(models.numbers)] = models.shapes, models.numbers
    return models._replace(shapes=shapes, numbers=numbers)


def warm() -> None:
    """Compile the machine, or load it from numba's cache. It takes seconds, and no record should wait for it."""
    runner = ProgramRunner(Program(parts=(ProgramPart(code=LINEAR, path=(), sources=(0,), scalars=(0.0, 0.0)),)))
    runner.run(runner.columns({}), np.array([np.nan]), one_model(1), loaded=True)


def one_model(records: int) -> StoredModels:
    """Return a batch whose records all belong to the model in the memory, which stays there."""
    groups = np.zeros(1, GROUP)
    groups["last"], groups["stays"] = records, 1
    return StoredModels(groups, np.arange(records), np.zeros(1, MODEL), np.zeros(1, np.int64), np.zeros(1))
