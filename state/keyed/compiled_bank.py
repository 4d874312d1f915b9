"""A compiled model for every key: one machine runs the records of all keys of a batch, each with its key's model.

Each key's predictions equal those of a River model of its own to the last bit. Importing this module imports numpy and
numba.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import filterfalse, repeat
from typing import Any, NamedTuple

import numpy as np

from headrace.state.compiled import compiled_codec
from headrace.state.compiled.compiled_learner import answer_of, given, has_proba, label_number, taken
from headrace.state.compiled.layouts import ModelLayout, PlacedLayout, memos, place
from headrace.state.compiled.model_arena import ModelArena
from headrace.state.compiled.program import Program
from headrace.state.compiled.program_runner import ProgramRunner
from headrace.state.keyed import row_blocks
from headrace.state.keyed.bank import Bank, Births
from headrace.state.keyed.key_batch import KeyBatch, KeyGroups, KeysLearned
from headrace.state.keyed.prior import Prior
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Answer, Capabilities
from headrace.state.row_packing import RowPacker

_NEWBORN = 0
"""The row of a model that has learned nothing. It predicts for every key without a model."""
_HEADS_MAX = 1_024


class _Head(NamedTuple):
    """The layout that a head describes, and the values that its numbers may have."""

    placement: PlacedLayout
    limits: compiled_codec.NumberLimits


class CompiledBank(Bank):
    """A bank of models that the compiler knows; `bank.bank_of` makes it.

    With `prior`, it also has a model of all keys. There is one difference to River: if River raises in the middle of
    learning a record, River has learned a part of it, and this bank nothing.
    """

    codec = compiled_codec.CODEC
    prior: "CompiledPrior | None"

    def __init__(self, river: RiverLearner, program: Program, *, prior: bool) -> None:
        self.task = river.task
        self.can = Capabilities(keys=True, batches=True, undo=True, unlabelled=river.can.unlabelled)
        self.spec = river.spec
        self._river = river
        self._template = copy.deepcopy(river.model)
        self._parts = program.parts
        self._has_proba = has_proba(river)
        self._runner = ProgramRunner(program)
        self._arena = ModelArena(self._runner.arrays)
        self._heads: dict[bytes, _Head] = {}
        self._rows: dict[bytes, int] = {}
        layout, numbers = compiled_codec.checked(taken(river.model, self._parts), self._parts)
        newborn = self._arena.add(self._place(layout), numbers)
        assert newborn == _NEWBORN
        self.prior = CompiledPrior(self) if prior else None

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._river.label(raw)

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self._has_proba

    @property
    def classes(self) -> Sequence[Any]:
        """All classes of all keys, by number."""
        return self._runner.arrays.classes

    def label_number(self, label: Any) -> float:
        """Return the number of a label; a class that is new gets a new number."""
        return label_number(self._runner, label, task=self.task)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that River raises for such a record, as far as can be told afterwards."""
        return self._runner.fault(code, features)

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:  # noqa: ARG002 it judges features
        """Predict as River does, and change nothing. Raises the same exceptions as River, as far as can be told."""
        return self.answer(self._one(features, np.nan, key), 0)

    def answer(self, answers: Answers, at: int) -> Answer:
        """Return one answer of a batch in the form that `predict` returns."""
        return answer_of(answers, at, task=self.task, classes=self.classes)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Teach the prior and the key's model one record. After an exception neither has learned anything."""
        self._one(features, self.label_number(label), key)

    def learn_keys(self, columns: Columns, labels: Any, keys: Sequence[bytes], births: Births) -> Answers | None:
        """Predict each record with its key's model, then teach that, and the prior, if it has a label.

        Returns None, with nothing changed, if the records must go one by one.
        """
        labels = np.ascontiguousarray(labels, dtype=np.float64)
        batch = KeyBatch(self._runner, self._arena, columns, labels, newborn=_NEWBORN)
        groups = KeyGroups(self._rows, keys)
        learned: KeysLearned | None = batch.learn(groups) if self.prior is None else None
        if self.prior is not None:
            learned = batch.learn_with_prior(groups, births, prior=self.prior.row)
        if learned is None:
            return None
        self._rows.update(learned.rows)
        if self.prior is not None and learned.prior is not None:
            self.prior.row = learned.prior
        return learned.answers

    def bear(self, key: bytes) -> bytes | None:
        """Give a key without a model a copy of the prior; return None if that has learned nothing."""
        if self.prior is None or self.prior.row is None:
            return None
        self._rows[key] = self._arena.copy(self.prior.row)
        return b""

    def dump(self, key: bytes = b"") -> bytes:
        """Return one key's model as bytes, which depend only on the records that taught it. Raises KeyError."""
        return self.dump_row(self._rows[key])

    def dump_row(self, row: int) -> bytes:
        """Return the model of a row of the arena as bytes."""
        layout, numbers = self._read(row)
        return compiled_codec.write(layout, numbers, spec=self.spec)

    def dump_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the bytes of `dump` for each of these keys. Raises KeyError."""
        rows = np.array([self._rows[key] for key in keys], np.int64)
        dumped = [b""] * len(keys)
        for at, states in self._blocks(rows):
            for position, state in zip(at.tolist(), states, strict=True):
                dumped[position] = state.tobytes()
        return dumped

    def pack(self, packer: RowPacker, keys: list[bytes], seen_ms: Sequence[int]) -> list[bytes]:
        """Pack the rows of keys, last seen at these times. Return the keys without a model, which have no row."""
        seen = np.array(seen_ms, np.int64)
        rows = np.fromiter(map(self._rows.get, keys, repeat(_NEWBORN)), np.int64, len(keys))
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
        known = np.flatnonzero(rows != _NEWBORN)
        for places, states in self._blocks(rows[known]):
            at = known[places]
            row_blocks.pack(packer, keys, at, lengths=lengths[at], seen_ms=seen[at], states=states)
        return [keys[place] for place in np.flatnonzero(rows == _NEWBORN).tolist()]

    def load(self, state: bytes, key: bytes = b"") -> None:
        """Give a key the model of these bytes. Raises ModelError, and has then changed nothing."""
        self._rows[key] = self.load_row(state, self._rows.get(key))

    def load_row(self, state: bytes, row: int | None) -> int:
        """Read a model into a row of the arena, or into a new one; return the row. Raises ModelError."""
        head, numbers = compiled_codec.split(state)
        found = self._heads.get(head)
        if found is None:
            layout = compiled_codec.read(state, self._parts, spec=self.spec)[0]
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            found = _Head(self._place(layout), compiled_codec.NumberLimits(layout, self._parts))
            self._heads[head] = found
        found.limits.check(numbers)
        return self._arena.add(found.placement, numbers, row)

    def drop(self, key: bytes) -> None:
        """Forget a key. Its row is free for another key."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._arena.release(row)

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that continues this key's model. Raises KeyError."""
        layout, numbers = self._read(self._rows[key])
        return given(self._template, self._parts, memos(layout, numbers.tolist(), self._parts))

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays, without names and keys."""
        return self._arena.nbytes + self._runner.nbytes

    def strangers(self, keys: Iterable[bytes]) -> Iterator[bytes]:
        """Return the keys that have no model in memory."""
        return filterfalse(self._rows.__contains__, keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def _one(self, features: dict[str, Any], label: float, key: bytes) -> Answers:
        answers = self.learn_keys(self._runner.columns(features), np.array([label]), [key], ())
        assert answers is not None
        if answers.fault[0]:
            raise self.fault(int(answers.fault[0]), features)
        return answers

    def _place(self, layout: ModelLayout) -> PlacedLayout:
        placement = place(layout, self._runner.arrays)
        self._runner.arrays.settle()
        return placement

    def _read(self, row: int) -> tuple[ModelLayout, Any]:
        """Return the layout of a row's model, and its numbers in the saved order."""
        rows = np.array([row])
        placement = self._arena.placement(int(self._arena.layouts(rows)[0]))
        return placement.layout, self._arena.block(rows, placement)[0]

    def _blocks(self, rows: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the models of rows in blocks of one layout: places in `rows` (int64), and bytes (uint8, a row each)."""
        layouts = self._arena.layouts(rows)
        order = np.argsort(layouts, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(layouts[order])) + 1) if len(rows) else ():
            placement = self._arena.placement(int(layouts[at[0]]))
            head = compiled_codec.head(placement.layout, spec=self.spec)
            yield at, row_blocks.models(head, self._arena.block(rows[at], placement))


class CompiledPrior(Prior):
    """The model of all keys of a compiled bank: one more `row` of its arena, None if it has learned nothing."""

    def __init__(self, bank: CompiledBank) -> None:
        self._bank = bank
        self.row: int | None = None

    def dump(self) -> bytes:
        """Return the model as bytes; none if it has learned nothing."""
        return b"" if self.row is None else self._bank.dump_row(self.row)

    def load(self, state: bytes) -> None:
        """Load the bytes of `dump`. Raises ModelError, and has then changed nothing."""
        self.row = self._bank.load_row(state, self.row)
