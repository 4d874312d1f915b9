"""The arrays of one compiled model, which grow by doubling, and the names that their slots and pairs stand for."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.state.compiled.program import (
    ASKED_COLUMNS,
    ASKED_MAX,
    BASE,
    CHANGES,
    CLASSES,
    CODE,
    FIELDS,
    FILL,
    KEY,
    KEYS,
    LEARNS,
    LIST,
    LISTED,
    MERGE,
    NOTES,
    OP_COLUMNS,
    OPTION,
    PLACE,
    SCALAR,
    SOURCE,
    STRIDE,
    TALLIES,
    TARGET,
    FeatureName,
    Memo,
    Program,
    ProgramMemory,
    ProgramPart,
    Rows,
)
from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, STRING

_SLOTS_MIN = 16
_CLASSES_MIN = 2


class ModelArrays:
    """What one model has learned. A slot is a feature's name, a pair is a feature with one of its values.

    Slots and pairs are numbered as they come, predictions included; what is read out of here does not tell.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: list[FeatureName] = []
        self._slots: dict[FeatureName, int] = {}
        self.pairs: list[tuple[int, int, Any]] = []
        self._numbers: dict[tuple[int, int, str], int] = {}
        self._firsts: dict[tuple[int, int, Any], int] = {}
        self.words: list[str] = []
        parts, lists = program.parts, 2 * sum(part.listed for part in program.parts)
        self.scalars = np.array([scalar for part in parts for scalar in part.scalars] or [0.0])
        self.fields = np.zeros(_SLOTS_MIN * program.stride)
        self.lists, self.sizes = np.zeros((lists, _SLOTS_MIN), np.int64), np.zeros(lists, np.int64)
        self.outs, self.alikes = np.zeros(_SLOTS_MIN, np.int64), np.zeros(_SLOTS_MIN, np.int64)
        self.signs, self.learned = np.zeros(_SLOTS_MIN), np.zeros(_SLOTS_MIN, np.int8)
        self.places, self.marks = np.zeros(_SLOTS_MIN, np.int64), np.zeros(_SLOTS_MIN, np.int64)
        self.notes, self.asked = np.zeros(NOTES, np.int64), np.zeros((ASKED_MAX, ASKED_COLUMNS), np.int64)
        self._cells = len(parts[-1].cells)
        self.grid = np.zeros(_SLOTS_MIN * _CLASSES_MIN * self._cells)
        self.tally = np.zeros((TALLIES + len(parts[-1].tallies), _CLASSES_MIN))
        self.tally[PLACE] = -1.0
        self.ops, self.keys, self.options = self._assemble()
        self.widen(_SLOTS_MIN)

    def slot(self, name: FeatureName) -> int:
        """Return the slot of a name, a new one if need be. `settle` has to be called afterwards."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = len(self.names)
            self.names.append(name)
            if slot >= len(self.places):
                self.places, self.marks = _doubled(self.places), _doubled(self.marks)
                self.fields, self.grid = _doubled(self.fields), _doubled(self.grid)
        return slot

    def pair(self, number: int, slot: int, value: Any) -> int:
        """Return the number of a feature with one of its values in part `number`, a new one if need be."""
        # 1, 1.0 and True are one category, and have three names.
        key = number, slot, f"{type(value).__name__} {value!r}"
        pair = self._numbers.get(key)
        if pair is None:
            pair = self._numbers[key] = len(self.pairs)
            if pair >= len(self.outs):
                self.outs, self.alikes = _doubled(self.outs), _doubled(self.alikes)
                self.signs, self.learned = _doubled(self.signs), _doubled(self.learned)
            name = self.program.parts[number].name
            assert name is not None
            out, self.signs[pair] = name(self.names[slot], value)
            self.outs[pair] = self.slot(out)
            self.alikes[pair] = self._firsts.setdefault((number, slot, value), pair)
            self.pairs.append((number, slot, value))
        return pair

    def meaning(self, kind: int, bits: int, words: Sequence[str]) -> Any:
        """Return the value that stands in a row as a kind and its bits; None also where a name alone is looked up."""
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

    def widen(self, width: int) -> None:
        """Let rows be so wide, and lists so much longer than they are."""
        rows = len(self.program.parts) + 1
        values = np.zeros((rows, width))
        self.rows = Rows(
            np.zeros((rows, width), np.int64),
            np.zeros((rows, width), np.int8),
            values,
            values.view(np.int64),
            np.zeros(rows, np.int64),
        )
        room = int(max(self.sizes, default=0)) + width
        if room > self.lists.shape[1]:
            lists = np.zeros((len(self.sizes), 2 * room), np.int64)
            lists[:, : self.lists.shape[1]] = self.lists
            self.lists = lists
        kept = width * self.program.stride if self.program.late else 1
        self._journal, self._journaled = np.zeros(kept, np.int64), np.zeros(kept)
        self.settle()

    def settle(self) -> None:
        """Let the machine work on the arrays as they are now."""
        self.memory = ProgramMemory(
            fields=self.fields,
            scalars=self.scalars,
            lists=self.lists,
            sizes=self.sizes,
            outs=self.outs,
            signs=self.signs,
            alikes=self.alikes,
            learned=self.learned,
            places=self.places,
            marks=self.marks,
            notes=self.notes,
            asked=self.asked,
            journal=self._journal,
            journaled=self._journaled,
            scalars_before=np.zeros_like(self.scalars),
            sizes_before=np.zeros_like(self.sizes),
            grid=self.grid,
            tally=self.tally,
        )

    def seat(self, classes: int, *, wanted: int = 0) -> None:
        """Let the first `classes` be those that have been learned, with room for so many as are wanted."""
        have = self.tally.shape[1]
        while self.tally.shape[1] < max(wanted, classes):
            cells = self.grid.reshape(-1, self.tally.shape[1], self._cells)
            self.grid = np.concatenate([cells, np.zeros_like(cells)], axis=1).reshape(-1)
            self.tally = np.concatenate([self.tally, np.zeros_like(self.tally)], axis=1)
        self.tally[PLACE] = np.where(np.arange(self.tally.shape[1]) < classes, np.arange(self.tally.shape[1]), -1.0)
        self.notes[CLASSES] = classes
        if have != self.tally.shape[1]:
            self.settle()

    def memos(self) -> list[Memo]:
        """Read out what each part has learned, features by name, numbers before strings."""
        return [self._memo(number) for number in range(len(self.program.parts))]

    def fill(self, memos: Sequence[Memo]) -> None:
        """Learn what the memos hold; this room has learned nothing yet."""
        for number, memo in enumerate(memos):
            op = self.ops[number]
            for name in memo.rows:
                self.slot(name)
            part, fields = self.program.parts[number], self._fields(number)
            for name, row in memo.rows.items():
                fields[self._slots[name], : len(part.limits)] = row[: len(part.limits)]
            if memo.classes:
                self._fill_classes(part, memo)
            if part.derive is not None:
                part.derive(fields)
            self.scalars[op[SCALAR] : op[SCALAR] + len(part.scalars)] = memo.scalars[: len(part.scalars)]
            for name, value in memo.learned:
                self._list(number, self.pair(number, self.slot(name), value))
        self.widen(self.rows.slots.shape[1])

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays; names come on top."""
        return sum(array.nbytes for group in (self.memory, self.rows[:3]) for array in group)

    def _fields(self, number: int) -> Any:
        """Return the fields of one part, as a view of slots by columns."""
        op = self.ops[number]
        return self.fields.reshape(-1, self.program.stride)[:, op[BASE] : op[BASE] + op[FIELDS]]

    def _memo(self, number: int) -> Memo:
        part, op = self.program.parts[number], self.ops[number]
        rows: dict[FeatureName, tuple[float, ...]] = {}
        if part.limits:
            fields = self._fields(number)
            met = np.flatnonzero(fields[:, 0])
            values = fields[met, : len(part.limits)]
            if part.cells:
                cells = self.grid.reshape(len(self.fields) // self.program.stride, -1)
                values = np.hstack([values, cells[met, : self.notes[CLASSES] * self._cells]])
            found = zip((self.names[slot] for slot in met), values.tolist(), strict=True)
            rows = {name: tuple(row) for name, row in sorted(found, key=lambda item: order(item[0]))}
        learned: tuple[tuple[FeatureName, Any], ...] = ()
        if part.listed:
            pairs = (self.pairs[pair] for pair in self.lists[op[LIST], : self.sizes[op[LIST]]])
            learned = tuple((self.names[slot], value) for _, slot, value in pairs)
        scalars = self.scalars[op[SCALAR] : op[SCALAR] + len(part.scalars)].tolist()
        if part.tallies:
            scalars += self.tally[TALLIES:, : self.notes[CLASSES]].T.ravel().tolist()
        return Memo(rows, tuple(scalars), learned)

    def _fill_classes(self, part: ProgramPart, memo: Memo) -> None:
        """Learn what a model proper has of each class."""
        count, first = len(memo.classes), len(part.limits)
        self.seat(count)
        cells = self.grid.reshape(len(self.fields) // self.program.stride, -1)
        for name, row in memo.rows.items():
            cells[self._slots[name], : len(row) - first] = row[first:]
        tallies = memo.scalars[len(part.scalars) :]
        self.tally[TALLIES:, :count] = np.reshape(tallies, (count, len(part.tallies))).T

    def _list(self, number: int, pair: int) -> None:
        """Learn a category, as the machine does."""
        at, alike, slot = self.ops[number, LIST], self.alikes[pair], self.outs[pair]
        if self.learned[alike]:
            return
        self.learned[alike] = 1
        self._append(at, pair)
        fields = self._fields(number)
        if not fields[slot, LISTED]:
            fields[slot, LISTED] = 1.0
            self._append(at + 1, slot)

    def _append(self, at: int, number: int) -> None:
        if self.sizes[at] >= self.lists.shape[1]:
            self.lists = np.concatenate([self.lists, np.zeros_like(self.lists)], axis=1)
        self.lists[at, self.sizes[at]] = number
        self.sizes[at] += 1

    def _assemble(self) -> tuple[Any, Any, Any]:
        """Write the program down in numbers."""
        parts = self.program.parts
        ops = np.zeros((len(parts), OP_COLUMNS), np.int64)
        keys: list[int] = []
        options: list[float] = []
        base = scalar = listed = 0
        for number, (part, changes) in enumerate(zip(parts, self.program.changing(), strict=True)):
            named = part.sources if part.code == MERGE else tuple(map(self.slot, part.keys))
            row = ops[number]
            row[CODE], row[SOURCE], row[TARGET] = part.code, part.sources[0], number + 1
            row[STRIDE], row[BASE], row[FIELDS] = self.program.stride, base, part.columns
            row[SCALAR], row[OPTION], row[KEY], row[KEYS] = scalar, len(options), len(keys), len(named)
            row[LIST], row[LEARNS], row[CHANGES] = listed, part.learns, changes
            if part.flagged:
                self.fields.reshape(-1, self.program.stride)[list(named), base] = 1.0
            base += part.columns
            scalar += len(part.scalars)
            listed += 2 * part.listed
            keys += named
            options += part.options
            if part.word is not None:
                # What the batch's vocabulary need not have has a number below zero.
                self.words.append(part.word)
                options[row[OPTION] + FILL] = float(-len(self.words))
        return ops, np.array(keys or [0], np.int64), np.array(options or [0.0])


def order(name: FeatureName) -> tuple[bool, FeatureName]:
    """Order names: numbers, then strings."""
    return isinstance(name, str), name


def _doubled(array: Any) -> Any:
    return np.concatenate([array, np.zeros_like(array)])
