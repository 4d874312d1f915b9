"""A batch of records over the rows of a slab: gathered, gone through in one call, and put back.

Each key's model is a row of its own, so in a batch the rows that it touches lie next to one another for as long as the
call takes, and one call does what a call a record would. Importing this module takes numpy; numba is the kernel's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.state.keyed.rows import HEADER, NOWHERE, Kernel, RowTable
from headrace.state.models.columns import Answers, Columns, Vocabulary


class ArrayBatch:
    """Go through batches over `table`, whose rows belong to the keys of `slots`; those of slot 0 are yet to be born."""

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
        """Give all features that may be learned a column; return False when there would be too many."""
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
        """Predict each record of a batch by its key's row, then learn it where it has a label; all is admitted."""
        # A column that came since `admit` would be read as if nothing were known of it.
        assert self._known[2] == len(self._table.columns)
        count = len(keys)
        found, unborn = self._find(keys)
        # Slots, in order, and below zero who has none.
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
        """Return the slots of keys, int64, and those that have none: of the n-th of these ~n stands for the slot."""
        found: Any = list(map(self._slots.get, keys))
        unborn: dict[bytes, int] = {}
        if None in found:
            pairs = zip(keys, found, strict=True)
            found = [~unborn.setdefault(key, len(unborn)) if slot is None else slot for key, slot in pairs]
        return np.array(found, dtype=np.int64), list(unborn)

    def _bear(self, keys: list[bytes]) -> list[int]:
        """Give keys that have none a row each; return the slots."""
        slots = self._table.take_all(len(keys))
        self._slots.update(zip(keys, slots, strict=True))
        return slots

    def _turn(self, vocabulary: Vocabulary) -> None:
        """Know where the names of a vocabulary lie in a row."""
        if self._known != (vocabulary.generation, len(vocabulary.names), len(self._table.columns)):
            self._look(vocabulary)

    def _look(self, vocabulary: Vocabulary) -> None:
        columns, names = self._table.columns, vocabulary.names
        self._known = vocabulary.generation, len(names), len(columns)
        places = (columns.get(name, -1) for name in names)
        found = np.fromiter(places, np.int64, len(names))
        self._offsets = np.where(found < 0, NOWHERE, HEADER + found * self._fields)
