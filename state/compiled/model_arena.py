"""The stored models of many keys, in a few arrays that grow in place: a row is the number of a model.

Models with the same layout share its shape. A run stores the models that it has changed behind all others, so nothing
has changed until `commit` moves them to their places.
"""

from typing import Any

import numpy as np

from headrace.state.compiled.layouts import PlacedLayout, placed
from headrace.state.compiled.model_arrays import ModelArrays
from headrace.state.compiled.ops.records import settle
from headrace.state.compiled.program import MODEL
from headrace.state.compiled.program_runner import Space

_LAYOUT = np.dtype([(name, np.int64) for name in ("start", "size", "length")])
"""Where the shape of a layout begins, the numbers of a model that has it, and the length of the shape."""
_ROWS_MIN, _SPACE_MIN, _LAYOUTS_MIN = 64, 1_024, 64
# With a quarter of the numbers unused, the others move together.
_UNUSED_MIN, _UNUSED_PART = 1 << 16, 4
_NONE = -1


class ModelArena(Space):
    """The models of one program, whose names, pairs and classes are those of `arrays`."""

    def __init__(self, arrays: ModelArrays) -> None:
        self.shapes, self.numbers = np.empty(_SPACE_MIN, np.int64), np.empty(_SPACE_MIN)
        self.ends = 0, 0
        self._arrays = arrays
        # Of each row: the number of its layout, and where its numbers begin, below zero for a free row.
        self._layout_of = np.zeros(_ROWS_MIN, np.int32)
        self._start_of = np.full(_ROWS_MIN, _NONE, np.int64)
        self._free = list(range(_ROWS_MIN - 1, -1, -1))
        self._unused = 0
        self._forget_layouts()

    def grow(self, shapes: int, numbers: int) -> None:
        """Make both arrays at least as long as this."""
        _grow(self.shapes, shapes)
        _grow(self.numbers, numbers)

    def take(self, count: int) -> Any:
        """Return this number of free rows, int64. `commit` must give each of them a model."""
        if len(self._free) < count:
            rows = len(self._start_of)
            _grow(self._layout_of, rows + count)
            _grow(self._start_of, rows + count)
            self._start_of[rows:] = _NONE
            self._free[:0] = range(len(self._start_of) - 1, rows - 1, -1)
        taken = self._free[len(self._free) - count :][::-1]
        del self._free[len(self._free) - count :]
        return np.array(taken, np.int64)

    def release(self, row: int) -> None:
        """Make a row free."""
        self._unused += int(self._table["size"][self._layout_of[row]])
        self._start_of[row] = _NONE
        self._free.append(row)
        self._tidy()

    def index(self, rows: Any) -> Any:
        """Return where the models of rows are stored, an entry of `MODEL` each."""
        found = np.zeros(len(rows), MODEL)
        found["shape"], found["numbers"] = self._table["start"][self._layout_of[rows]], self._start_of[rows]
        return found

    def copied(self, entries: Any) -> Any:
        """Store copies of models behind all others, and return their entries, which `commit` may then take."""
        found = entries.copy()
        # The entry of a model that was stored before this run has no size.
        older = np.flatnonzero(found["size"] == 0)
        layouts = self._layouts_at(found["shape"][older])
        found["size"][older], found["shape_size"][older] = self._table["size"][layouts], self._table["length"][layouts]
        shapes, end = self.ends
        self.grow(shapes, end + int(found["size"].sum()))
        for entry in found:
            start, size = int(entry["numbers"]), int(entry["size"])
            self.numbers[end : end + size] = self.numbers[start : start + size]
            entry["numbers"] = end
            end += size
        self.ends = shapes, end
        return found

    def commit(self, rows: Any, entries: Any, *, ends: tuple[int, int]) -> None:
        """Give rows the models that were stored since `ends`, in the order in which they were stored.

        All others that were stored since then are forgotten.
        """
        stays = entries["numbers"] == self._start_of[rows]
        if stays.all():
            self.ends = ends
            return
        rows, entries = rows[~stays], entries[~stays]
        layouts = self._adopted(entries, ends)
        before, sizes = self._start_of[rows], self._table["size"][self._layout_of[rows]]
        moves = (before < 0) | (sizes != entries["size"])
        self._unused += int(sizes[moves & (before >= 0)].sum())
        targets = np.where(moves, _NONE, before)
        end = settle(self.numbers, entries["numbers"].copy(), entries["size"].copy(), targets, ends[1])
        self.ends = self.ends[0], int(end)
        self._layout_of[rows], self._start_of[rows] = layouts, targets
        self._tidy()

    def copy(self, row: int) -> int:
        """Return a new row with a copy of a row's model."""
        rows, ends = self.take(1), self.ends
        self.commit(rows, self.copied(self.index(np.array([row]))), ends=ends)
        return int(rows[0])

    def add(self, placement: PlacedLayout, numbers: Any, row: int | None = None) -> int:
        """Store a model whose numbers are in the saved order, in this row or in a new one; return the row."""
        number = self._layout(placement.shape, placement.size)
        if row is None:
            row = int(self.take(1)[0])
        else:
            self._unused += int(self._table["size"][self._layout_of[row]])
        shapes, end = self.ends
        self.grow(shapes, end + placement.size)
        self.numbers[end : end + placement.size] = placement.at_rest(numbers)
        self.ends = shapes, end + placement.size
        self._layout_of[row], self._start_of[row] = number, end
        self._tidy()
        return row

    def layouts(self, rows: Any) -> Any:
        """Return the number of each row's layout, int32. They hold until a model changes."""
        return self._layout_of[rows]

    def placement(self, number: int) -> PlacedLayout:
        """Return the layout of this number."""
        if number not in self._placed:
            start, _, length = self._table[number].tolist()
            self._placed[number] = placed(self.shapes[start : start + length].copy(), self._arrays)
        return self._placed[number]

    def block(self, rows: Any, placement: PlacedLayout) -> Any:
        """Return the numbers of rows that have this layout, in the saved order, a row each."""
        return placement.saved(self.numbers[self._start_of[rows][:, None] + np.arange(placement.size)])

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        arrays = self.shapes, self.numbers, self._layout_of, self._start_of, self._table
        return sum(array.nbytes for array in arrays)

    def _adopted(self, entries: Any, ends: tuple[int, int]) -> Any:
        """Return the numbers of the layouts of models, and keep each new one once."""
        fresh = entries["shape"] >= ends[0]
        layouts = np.empty(len(entries), np.int32)
        layouts[~fresh] = self._layouts_at(entries["shape"][~fresh])
        _, first, which = np.unique(entries["shape"][fresh], return_index=True, return_inverse=True)
        # Copies, since the layouts that stay are written over them.
        made = [
            (self.shapes[start : start + length].copy(), size)
            for start, _, size, length in entries[fresh][first].tolist()
        ]
        self.ends = ends[0], self.ends[1]
        layouts[fresh] = np.array([self._layout(*one) for one in made], np.int32)[which]
        return layouts

    def _layout(self, shape: Any, size: int) -> int:
        """Return the number of a layout, given by its shape; a model of it has `size` numbers."""
        words = shape.tobytes()
        number = self._known.get(words)
        if number is None:
            number = self._known[words] = len(self._known)
            start, numbers = self.ends
            self.ends = start + len(shape), numbers
            self.grow(*self.ends)
            self.shapes[start : start + len(shape)] = shape
            _grow(self._table, number + 1)
            self._table[number] = start, size, len(shape)
        return number

    def _layouts_at(self, starts: Any) -> Any:
        """Return the numbers of the layouts whose shapes begin here."""
        return np.searchsorted(self._table["start"][: len(self._known)], starts)

    def _tidy(self) -> None:
        """Move all models together if too many numbers are unused, and forget layouts that no model has."""
        if self._unused <= max(_UNUSED_MIN, self.ends[1] // _UNUSED_PART):
            return
        rows = np.flatnonzero(self._start_of >= 0)
        rows = rows[np.argsort(self._start_of[rows])]
        layouts, targets = self._layout_of[rows], np.full(len(rows), _NONE, np.int64)
        end = int(settle(self.numbers, self._start_of[rows], self._table["size"][layouts], targets, 0))
        self._start_of[rows] = targets
        self.numbers.resize(max(end + end // 8, _SPACE_MIN), refcheck=False)
        self.ends, self._unused = (self.ends[0], end), 0
        used, which = np.unique(layouts, return_inverse=True)
        if len(self._known) > 2 * len(used) + _LAYOUTS_MIN:
            kept = [(self.shapes[at : at + length].copy(), size) for at, size, length in self._table[used].tolist()]
            self._forget_layouts()
            self._layout_of[rows] = np.array([self._layout(*one) for one in kept], np.int32)[which]

    def _forget_layouts(self) -> None:
        self.ends = 0, self.ends[1]
        # The layouts in the order of their numbers, and so of their places in `shapes`.
        self._table = np.zeros(_LAYOUTS_MIN, _LAYOUT)
        self._known: dict[bytes, int] = {}
        self._placed: dict[int, PlacedLayout] = {}


def _grow(array: Any, length: int) -> None:
    """Make an array at least this long in place: no large array is copied, and nothing else refers to its memory."""
    if length > len(array):
        array.resize(length + length // 16, refcheck=False)
