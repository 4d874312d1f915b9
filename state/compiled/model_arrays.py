"""The arrays of `ProgramMemory`, which grow by doubling, and the names of its slots and pairs."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.state.compiled.family import FamilyArrays, NoFamilyArrays
from headrace.state.compiled.program import (
    ASKED_COLUMNS,
    ASKED_MAX,
    CHANGE,
    CLASS,
    LIST,
    MERGE,
    NOTES,
    OPERATION,
    PAIR,
    SLOT,
    TALLIES,
    FeatureName,
    Program,
    ProgramMemory,
    Rows,
)
from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, STRING, WIDE

_SLOTS_MIN = 16
_CLASSES_MIN = 2

_BEGINNING = [
    list(NOTES.fields or ()).index(name) for name in ("group", "loaded", "at", "newest", "halts", "shapes", "numbers")
]


class ModelArrays:
    """The memory of a program. A slot is a feature's name, a pair is a feature with one of its values.

    New slots and pairs get the next number, in predictions too; the saved bytes of a model do not depend on it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: list[FeatureName] = []
        self._slots: dict[FeatureName, int] = {}
        self.pairs: list[tuple[int, int, Any]] = []
        self._numbers: dict[tuple[int, int, str], int] = {}
        self._firsts: dict[tuple[int, int, Any], int] = {}
        self.words: list[str] = []
        self.classes: list[Any] = []
        self._class_numbers: dict[tuple[type, Any], int] = {}
        self._first_classes: dict[Any, int] = {}
        parts, lists = program.parts, 2 * sum(part.listed for part in program.parts)
        self.scalars = np.array([scalar for part in parts for scalar in part.scalars] or [0.0])
        self._scalars_kept = np.stack([self.scalars, self.scalars])
        self.fields = np.zeros(_SLOTS_MIN * program.stride)
        self.lists, self.sizes = np.zeros((lists, _SLOTS_MIN), np.int64), np.zeros(lists, LIST)
        self._features, self._pairs = np.zeros(_SLOTS_MIN, SLOT), np.zeros(_SLOTS_MIN, PAIR)
        self._classes = np.zeros(_CLASSES_MIN, CLASS)
        self._notes, self.asked = np.zeros(1, NOTES), np.zeros((ASKED_MAX, ASKED_COLUMNS), np.int64)
        self.notes: Any = self._notes.view(np.recarray)[0]
        self._numbered_notes = self._notes.view(np.int64)
        self._cells = len(parts[-1].cells)
        self.grid = np.zeros(_SLOTS_MIN * _CLASSES_MIN * self._cells)
        self.tally = np.zeros((TALLIES + len(parts[-1].tallies), _CLASSES_MIN))
        family = parts[-1].family
        self.family: FamilyArrays = NoFamilyArrays() if family is None else family()
        self.ops, self.keys = self._assemble()
        self.widen(_SLOTS_MIN)

    def begin(self, *, loaded: bool, halts: bool, ends: tuple[int, int]) -> None:
        """Set the notes for a new batch; `ends` are those of the stored shapes and numbers."""
        # One assignment: each attribute of a record array costs microseconds.
        self._numbered_notes[_BEGINNING] = 0, loaded, 0, -1, halts, *ends

    def slot(self, name: FeatureName) -> int:
        """Return the slot of a name, a new one if it has none. Call `settle` afterwards."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = len(self.names)
            self.names.append(name)
            if slot >= len(self._features):
                self._features = _doubled(self._features)
                self.fields, self.grid = _doubled(self.fields), _doubled(self.grid)
        return slot

    def pair(self, number: int, slot: int, value: Any) -> int:
        """Return the number of a feature with one of its values in part `number`, a new one if it has none."""
        # 1, 1.0 and True are one category with three names.
        key = number, slot, f"{type(value).__name__} {value!r}"
        pair = self._numbers.get(key)
        if pair is None:
            pair = self._numbers[key] = len(self.pairs)
            if pair >= len(self._pairs):
                self._pairs = _doubled(self._pairs)
            name = self.program.parts[number].name
            assert name is not None
            out, sign = name(self.names[slot], value)
            self._pairs[pair] = self.slot(out), self._firsts.setdefault((number, slot, value), pair), 0, sign
            self.pairs.append((number, slot, value))
        return pair

    def class_number(self, label: Any) -> int:
        """Return the number of a class, a new one if it has none. Call `settle` afterwards."""
        number = self._class_numbers.get((type(label), label))
        if number is None:
            number = self._class_numbers[type(label), label] = len(self.classes)
            self.classes.append(label)
            if number >= len(self._classes):
                self._classes = _doubled(self._classes)
            # 1 and True are one class. The model keeps the value that came first.
            alike = self._first_classes.setdefault(label, number)
            self._classes[["alike", "is_word", "place"]][number] = alike, isinstance(label, str), -1
        return number

    def renumber_classes(self) -> list[Any]:
        """Give the model's classes numbers in the order learned, and forget all other classes; return them."""
        learned = self.classes_learned()
        if self.classes != learned or any(map(_differ, self.classes, learned)):
            self.classes, self._class_numbers, self._first_classes = [], {}, {}
            self._classes["place"] = -1
            for place, label in enumerate(learned):
                self._classes["number"][place] = self.class_number(label)
                self._classes["place"][place] = place
            self.settle()
        return learned

    def meaning(self, kind: int, bits: int, words: Sequence[str]) -> Any:
        """Return the value of a kind and its bits; None for a null, and for a name without a value.

        The bits of a wide integer are the number of its word.
        """
        if kind == WIDE:
            return int(words[bits])
        (value,) = struct.unpack("<d", struct.pack("<q", bits))
        match kind:
            case _ if kind == STRING:
                return words[int(value)] if value >= 0.0 else self.words[-1 - int(value)]
            case _ if kind == INTEGER:
                return int(value)
            case _ if kind == FLOAT:
                return value
            case _ if kind == BOOLEAN:
                return value != 0.0
        return None

    def forget_words(self) -> None:
        """Forget the wide integers of the batch before."""
        self._features["word"] = 0

    def widen(self, width: int) -> None:
        """Give rows this width, and lists room for the same number of further entries."""
        rows = len(self.program.parts) + 1
        values = np.zeros((rows, width))
        self.rows = Rows(
            np.zeros((rows, width), np.int64),
            np.zeros((rows, width), np.int8),
            values,
            values.view(np.int64),
            np.zeros(rows, np.int64),
        )
        self.lengthen(int(self.sizes["size"].max(initial=0)) + width)
        kept = width * self.program.stride if self.program.late else 1
        self._journal = np.zeros(kept, CHANGE)
        self.settle()

    def lengthen(self, length: int) -> None:
        """Give lists room for this number of entries. Call `settle` afterwards."""
        if length > self.lists.shape[1]:
            lists = np.zeros((len(self.sizes), 2 * length), np.int64)
            lists[:, : self.lists.shape[1]] = self.lists
            self.lists = lists

    def seat(self, classes: int) -> None:
        """Make room for this number of classes. Call `settle` afterwards."""
        while self.tally.shape[1] < classes:
            if self._cells:
                cells = self.grid.reshape(-1, self.tally.shape[1], self._cells)
                self.grid = np.concatenate([cells, np.zeros_like(cells)], axis=1).reshape(-1)
            self.tally = np.concatenate([self.tally, np.zeros_like(self.tally)], axis=1)
            if len(self._classes) < self.tally.shape[1]:
                self._classes = _doubled(self._classes)

    def settle(self) -> None:
        """Make the machine work on the present arrays."""
        self.memory = ProgramMemory(
            fields=self.fields,
            scalars=self.scalars,
            scalars_kept=self._scalars_kept,
            lists=self.lists,
            sizes=self.sizes,
            slots=self._features,
            pairs=self._pairs,
            classes=self._classes,
            notes=self._notes,
            asked=self.asked,
            journal=self._journal,
            grid=self.grid,
            tally=self.tally,
            own=self.family.own(self),
        )

    def classes_learned(self) -> list[Any]:
        """Return the classes of the loaded model, in the order in which it has learned them."""
        return [self.classes[number] for number in self._classes["number"][: self.notes.classes].tolist()]

    @property
    def slot_records(self) -> Any:
        """The array of SLOT."""
        return self._features

    @property
    def class_records(self) -> Any:
        """The array of CLASS."""
        return self._classes

    @property
    def slot_room(self) -> int:
        """The number of slots for which there is room."""
        return len(self._features)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays, without the names."""
        return self.family.nbytes + sum(array.nbytes for group in (self.memory[:-1], self.rows[:3]) for array in group)

    def _assemble(self) -> tuple[Any, Any]:
        """Return the program as arrays: its operations, and the slots or rows that they name."""
        parts = self.program.parts
        ops = np.zeros(len(parts), OPERATION)
        keys: list[int] = []
        base = scalar = listed = 0
        for number, (part, changes) in enumerate(zip(parts, self.program.changing(), strict=True)):
            named = part.sources if part.code == MERGE else tuple(map(self.slot, part.keys))
            op = ops[number]
            options = dict(part.options)
            if part.word is not None:
                # The batch's vocabulary may not have this word, so its number is below zero.
                self.words.append(part.word)
                options["fill"] = float(-len(self.words))
            placed = {"code": part.code, "source": part.sources[0], "target": number + 1, "learns": part.learns}
            placed |= {"stride": self.program.stride, "base": base, "fields": part.columns, "changes": changes}
            placed |= {"saved": len(part.limits), "flag": part.limits[:1] == ("flag",), "listed": part.listed}
            placed |= {"scalar": scalar, "scalars": len(part.scalars), "key": len(keys), "keys": len(named)}
            placed |= {"list": listed, "cells": len(part.cells), "tallies": len(part.tallies)}
            for name, value in (placed | options).items():
                op[name] = value
            if part.flagged:
                self.fields.reshape(-1, self.program.stride)[list(named), base] = 1.0
            base += part.columns
            scalar += len(part.scalars)
            listed += 2 * part.listed
            keys += named
        return ops, np.array(keys or [0], np.int64)


def order(name: FeatureName) -> tuple[bool, FeatureName]:
    """Return the sort key of a name: numbers come before strings."""
    return isinstance(name, str), name


def _differ(one: Any, other: Any) -> bool:
    return type(one) is not type(other)


def _doubled(array: Any) -> Any:
    return np.concatenate([array, np.zeros_like(array)])
