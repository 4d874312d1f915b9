"""A batch of records over the rows of an array bank: copies the rows out, runs one call, and writes the rows back.

Each key has a row of its own. For the call, the rows of a batch lie next to one another, so one call can do the work of
a call for each record. Importing this module imports numpy; numba is the kernel's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.state.keyed.rows import HEADER, NOWHERE, Kernel, RowTable
from headrace.state.models.columns import Answers, Columns, Vocabulary


class ArrayBatch:
    """Runs batches over `table`, whose rows belong to the keys of `slots`. The row of slot 0 is that of a new model."""

    def __init__(
        self,
        table: RowTable,
        slots: dict[bytes, int],
        *,
        kernel: Kernel,
        fields: int,
        options: Sequence[float],
    ) -> None:
        assert kernel.batch is not None
        self._batch = kernel.batch
        self._table = table
        self._slots = slots
        self._fields = fields
        self._options = np.array(options, dtype=np.float64)
        self._known = -1, 0, 0
        self._offsets = np.zeros(0, np.int64)

    def admit(self, columns: Columns, labels: Any) -> bool:
        """Give all features that may be learned a column; return False if there would be too many."""
        self._turn(columns.vocabulary)
        taught = np.repeat(~np.isnan(labels), np.diff(columns.starts))
        met = np.bincount(columns.names[taught], minlength=len(self._offsets)) > 0
        new = np.flatnonzero(met & (self._offsets == NOWHERE)).tolist()
        if not new:
            return True
        names = columns.vocabulary.names
        if not self._table.admit(tuple(names[number] for number in new)):
            return False
        self._look(columns.vocabulary)
        return True

    def run(self, keys: Sequence[bytes], columns: Columns, labels: Any) -> Answers:
        """Predict each record with its key's row, then learn it if it has a label. `admit` must have allowed all."""
        # A column that was added after `admit` would be read as if it were unknown.
        assert self._known[2] == len(self._table.columns)
        count = len(keys)
        found, unborn = self._find(keys)
        # The slots in order. A number below zero stands for a key without a slot.
        places, which = np.unique(found, return_inverse=True)
        slots = np.maximum(places, 0)
        width = HEADER + self._fields * len(self._table.columns)
        rows = self._table.gather(slots, width)
        reach = np.zeros(len(slots), np.int64)
        answers = Answers(np.empty(count), np.zeros(count, np.int8), None, None, np.zeros(count, np.int8))
        longest = int(np.diff(columns.starts).max(initial=0))
        self._batch(
            rows.reshape(-1),
            width,
            which,
            columns.starts,
            columns.names,
            columns.kinds,
            columns.values,
            labels,
            self._offsets,
            np.concatenate((self._options, np.zeros(1 + longest))),
            np.empty(longest, np.int64),
            self._fields,
            answers.value,
            answers.chosen,
            answers.fault,
            reach,
        )
        taught = np.flatnonzero(reach)
        born = taught[places[taught] < 0]
        slots[born] = self._bear([unborn[~at] for at in places[born].tolist()])
        self._table.scatter(slots[taught], rows[taught], reach[taught])
        return answers

    def _find(self, keys: Sequence[bytes]) -> tuple[Any, list[bytes]]:
        """Return the slots of keys, int64, and the keys without one: ~n stands for the slot of the n-th of these."""
        found: Any = list(map(self._slots.get, keys))
        unborn: dict[bytes, int] = {}
        if None in found:
            pairs = zip(keys, found, strict=True)
            found = [~unborn.setdefault(key, len(unborn)) if slot is None else slot for key, slot in pairs]
        return np.array(found, dtype=np.int64), list(unborn)

    def _bear(self, keys: list[bytes]) -> list[int]:
        """Give each of these keys a new row; return the slots."""
        slots = self._table.take_all(len(keys))
        self._slots.update(zip(keys, slots, strict=True))
        return slots

    def _turn(self, vocabulary: Vocabulary) -> None:
        """Update the offsets in a row if the vocabulary's names or the columns have changed."""
        if self._known != (vocabulary.generation, len(vocabulary.names), len(self._table.columns)):
            self._look(vocabulary)

    def _look(self, vocabulary: Vocabulary) -> None:
        columns, names = self._table.columns, vocabulary.names
        self._known = vocabulary.generation, len(names), len(columns)
        places = (columns.get(name, -1) for name in names)
        found = np.fromiter(places, np.int64, len(names))
        self._offsets = np.where(found < 0, NOWHERE, HEADER + found * self._fields)
