"""The arrays of trees: they grow by doubling, and Python puts the values of nominal features in order for a split."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.state.compiled.family import FamilyArrays
from headrace.state.compiled.ops.tree.memory import (
    BY_OPTION,
    CELL,
    CLASS_WORK,
    ENTRY_WORK,
    FRAME,
    HEAP,
    NODE,
    NOMINAL,
    NONE,
    PART_WORK,
    POOL,
    TREE,
    UNNAMED,
    TreeCalls,
    Trees,
)
from headrace.state.models.columns import NULL, STRING

if TYPE_CHECKING:
    from headrace.state.compiled.model_arrays import ModelArrays

_NODES_MIN, _CELLS_MIN, _CHILDREN_MIN, _ORDERS_MIN = 16, 256, 8, 64


class TreeArrays(FamilyArrays):
    """The arrays of `count` trees with these `options`, of dtype OPTIONS. `nominal` are features, by option."""

    def __init__(self, options: Any, *, count: int, nominal: frozenset[Any]) -> None:
        self._nominal_names = nominal
        self._nodes, self._cells = np.zeros(_NODES_MIN, NODE), np.zeros(_CELLS_MIN, CELL)
        self._trees, self._pool, self._frame = np.zeros(count, TREE), np.zeros(1, POOL), np.zeros(1, FRAME)
        for name in options.dtype.names:
            self._pool[name] = options[name]
        for name in ("free_node", "free_cell", "leaf_wanted"):
            self._pool[name] = NONE
        self._trees["root"], self._trees["grows"], self._trees["overhead"] = NONE, 1, 1.0
        self._classes, self._entries = np.zeros(2, CLASS_WORK), np.zeros(1, ENTRY_WORK)
        self._nominal, self._flagged = np.zeros(1, np.int64), 0
        self._orders, self._parts = np.zeros(_ORDERS_MIN, np.int64), np.zeros(1, PART_WORK)
        self._sizes, self._cursor = np.zeros(_CHILDREN_MIN, np.int64), np.zeros(6, np.int64)
        self._heap = np.zeros(2 * len(HEAP), np.int64)
        self._ranked: list[Any] = []
        self._ranked_count = 0
        # It imports numba.
        units = importlib.import_module("headrace.state.compiled.ops.families.tree_units").UNITS
        self._calls = np.array([unit.address for unit in units], np.int64)

    def own(self, arrays: "ModelArrays") -> TreeCalls:
        """Return the arrays, with room for the names, classes and rows of `arrays`."""
        self._classes = _at_least(self._classes, max(arrays.tally.shape[1], len(arrays.classes)))
        self._entries = _at_least(self._entries, arrays.rows.slots.shape[1])
        self._sizes = _at_least(self._sizes, int(self._pool["children_wanted"][0]))
        # The distribution of a child takes as much as there are classes at most.
        self._parts = _at_least(self._parts, len(self._sizes) * len(self._classes))
        self._flag(arrays)
        self._rank(arrays.classes)
        self._pool["nodes_room"], self._pool["cells_room"] = len(self._nodes), len(self._cells)
        self._pool["children_room"] = len(self._sizes)
        held = Trees(
            self._nodes,
            self._cells,
            self._trees,
            self._pool,
            self._classes,
            self._entries,
            self._nominal,
            self._orders,
            self._parts,
            self._sizes,
            self._cursor,
        )
        rows = arrays.rows.slots, arrays.rows.kinds, arrays.rows.values
        for at, array in enumerate((*held, self._frame, arrays.slot_records, arrays.class_records, *rows)):
            self._heap[2 * at : 2 * at + 2] = array.ctypes.data, len(array)
        return TreeCalls(self._calls, self._heap, self._frame, self._entries, self._nominal, self._classes, self._pool)

    def help(self, arrays: "ModelArrays") -> None:
        """Make room, or put the values of a leaf's nominal features in order."""
        pool = self._pool[0]
        self._nodes = _at_least(self._nodes, int(pool["nodes_wanted"]))
        self._cells = _at_least(self._cells, int(pool["cells_wanted"]))
        if pool["leaf_wanted"] >= 0:
            leaf = int(pool["leaf_wanted"])
            pool["ordered"], pool["leaf_wanted"] = leaf + 1, NONE
            self._order(arrays, leaf)

    @property
    def nbytes(self) -> int:
        """The bytes of the nodes and cells, and of the room for a split."""
        return sum(array.nbytes for array in (self._nodes, self._cells, self._parts, self._orders))

    def _flag(self, arrays: "ModelArrays") -> None:
        """Note what is known of new features: some are nominal by option, some have a name that is false."""
        self._nominal = _at_least(self._nominal, arrays.slot_room)
        for slot in range(self._flagged, len(arrays.names)):
            name = arrays.names[slot]
            self._nominal[slot] |= BY_OPTION * (name in self._nominal_names) | UNNAMED * (not name)
        self._flagged = len(arrays.names)

    def _rank(self, classes: list[Any]) -> None:
        """Note the sorted order of the classes, by number."""
        if classes is self._ranked and len(classes) == self._ranked_count:
            return
        self._ranked, self._ranked_count = classes, len(classes)
        for rank, number in enumerate(
            sorted(range(len(classes)), key=lambda n: (isinstance(classes[n], str), classes[n]))
        ):
            self._classes["rank"][number] = rank
        for number, label in enumerate(classes):
            self._classes["truth"][number] = 1 if label == 1 else 0 if label == 0 else -1

    def _order(self, arrays: "ModelArrays", leaf: int) -> None:
        """Write the values of each nominal feature of a leaf in River's orders, the current record's among them."""
        source = int(arrays.ops[-1]["source"])
        size = int(arrays.rows.sizes[source])
        row, kinds = arrays.rows.slots[source, :size].tolist(), arrays.rows.kinds[source, :size].tolist()
        positions = {slot: k for k, slot in enumerate(row)}
        listed: list[list[int]] = []
        known = set()
        for splitter in self._list(int(self._nodes["first_splitter"][leaf])):
            slot = int(self._cells["key"][splitter])
            known.add(slot)
            if self._cells["kind"][splitter] != NOMINAL:
                continue
            values = [int(self._cells["key"][at]) for at in self._list(int(self._cells["first_value"][splitter]))]
            k = positions.get(slot)
            if k is not None and kinds[k] != NULL and int(self._entries["pair"][k]) not in values:
                values.append(int(self._entries["pair"][k]))
            listed.append(values)
        for k, slot in enumerate(row):
            if slot not in known and (kinds[k] >= STRING or self._nominal[slot] & BY_OPTION):
                listed.append([] if kinds[k] == NULL else [int(self._entries["pair"][k])])
        words, sortable = list[int](), True
        for pairs in listed:
            own, sorts = _ordered(pairs, [arrays.pairs[pair][2] for pair in pairs])
            words += own
            sortable = sortable and sorts
        self._pool["sortable"] = sortable
        self._orders = _at_least(self._orders, len(words))
        self._orders[: len(words)] = words

    def _list(self, first: int) -> Iterator[int]:
        at = first
        while at >= 0:
            yield at
            at = int(self._cells["next"][at])


def _ordered(pairs: list[int], values: list[Any]) -> tuple[list[int], bool]:
    """Return the number of values, their pairs in the order of a set, then sorted; and whether they can be sorted."""
    by_value, found = dict(zip(values, pairs, strict=True)), set[Any]()
    # One by one: the order of a set depends on how it grew.
    for value in values:
        found.add(value)
    try:
        return [len(pairs), *map(by_value.__getitem__, found), *map(by_value.__getitem__, sorted(values))], True
    except TypeError:
        return [len(pairs), *map(by_value.__getitem__, found), *pairs], False


def _at_least(array: Any, length: int) -> Any:
    """Return an array that is at least this long, and at least doubled if it grows."""
    if length <= len(array):
        return array
    grown = np.zeros(max(length, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
