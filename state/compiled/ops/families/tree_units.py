"""The units of trees: each finds its arrays in the heap, and its arguments in the frame."""

from typing import Any

import numpy as np

from headrace.state.compiled.ops.families.units import Unit, array_of
from headrace.state.compiled.ops.jit import native, print_of_sources
from headrace.state.compiled.ops.tree.bayes import predict_leaf
from headrace.state.compiled.ops.tree.learning import prepare, take, vote
from headrace.state.compiled.ops.tree.memory import (
    CELL,
    CLASS_WORK,
    ENTRY_WORK,
    FRAME,
    HEAP,
    NODE,
    NONE,
    PART_WORK,
    POOL,
    TREE,
    Trees,
)
from headrace.state.compiled.ops.tree.storage import clear_trees, load_trees, store_trees
from headrace.state.compiled.program import CLASS, SLOT, WRONG_TYPE

_ints, _floats, _bytes = array_of(np.dtype(np.int64)), array_of(np.dtype(np.float64)), array_of(np.dtype(np.int8))
_nodes, _cells, _trees, _pool = array_of(NODE), array_of(CELL), array_of(TREE), array_of(POOL)
_class_work, _entry_work, _part_work, _frame = map(array_of, (CLASS_WORK, ENTRY_WORK, PART_WORK, FRAME))
_slots, _classes = array_of(SLOT), array_of(CLASS)

# Positions in the heap; each array has an address and a length.
_FRAME, _SLOTS, _CLASSES, _ROW_SLOTS, _ROW_KINDS, _ROW_VALUES, _SHAPES, _NUMBERS = range(
    2 * len(Trees._fields), 2 * len(HEAP), 2
)
_LENGTH = 2 * len(HEAP)
_PRINT = print_of_sources()


@native
def trees_in(heap: Any) -> Trees:
    """Return the trees of a heap."""
    return Trees(
        _nodes(heap[0], heap[1]),
        _cells(heap[2], heap[3]),
        _trees(heap[4], heap[5]),
        _pool(heap[6], heap[7]),
        _class_work(heap[8], heap[9]),
        _entry_work(heap[10], heap[11]),
        _ints(heap[12], heap[13]),
        _ints(heap[14], heap[15]),
        _part_work(heap[16], heap[17]),
        _ints(heap[18], heap[19]),
        _ints(heap[20], heap[21]),
    )


@native
def row_in(heap: Any, at: int, size: int) -> Any:
    """Return the slots, kinds and values of the row that begins at this place of all rows."""
    slots = _ints(heap[_ROW_SLOTS] + 8 * at, size)
    kinds = _bytes(heap[_ROW_KINDS] + at, size)
    return slots, kinds, _floats(heap[_ROW_VALUES] + 8 * at, size)


@native
def seat(memory_classes: Any, trees: Trees, classes: int) -> None:
    """Put the class that was learned last among the sorted ones."""
    work, at = trees.classes, classes - 1
    rank = work[memory_classes[at].number].rank
    while at > 0 and work[memory_classes[work[at - 1].sorted].number].rank > rank:
        work[at].sorted = work[at - 1].sorted
        at -= 1
    work[at].sorted = classes - 1
    for position in range(at, classes):
        work[work[position].sorted].column = position


def _answer(sources: int) -> Any:
    def answer(address: int) -> int:
        heap = _ints(address, _LENGTH)
        trees, slots = trees_in(heap), _slots(heap[_SLOTS], heap[_SLOTS + 1])
        frame = _frame(heap[_FRAME], 1)[0]
        _, kinds, values = row_in(heap, frame.row, frame.size)
        work = trees.classes
        for position in range(frame.classes):
            work[position].chance = 0.0
        leaf = vote(trees, frame.tree, slots, frame.mark, kinds, values)
        if leaf < 0:
            return WRONG_TYPE if leaf < NONE else 0
        found = predict_leaf(trees, leaf, slots, frame.mark, kinds, values)
        if found > 0:
            at = trees.nodes[leaf].first_weight
            while at >= 0:
                work[work[trees.cells[at].key].column].chance = work[trees.cells[at].key].vote
                at = trees.cells[at].next
        return -min(found, 0) if sources >= 0 else 0

    return answer


def _prepare(sources: int) -> Any:
    def prepare_record(address: int) -> int:
        heap = _ints(address, _LENGTH)
        trees, slots = trees_in(heap), _slots(heap[_SLOTS], heap[_SLOTS + 1])
        frame = _frame(heap[_FRAME], 1)[0]
        row, kinds, values = row_in(heap, frame.row, frame.size)
        frame.node, right = prepare(trees, frame.tree, slots, frame.mark, row, kinds, values, frame.place, frame.weight)
        frame.right = right
        return min(right, 0) if sources >= 0 else 0

    return prepare_record


def _take(sources: int) -> Any:
    def take_record(address: int) -> int:
        heap = _ints(address, _LENGTH)
        trees, slots = trees_in(heap), _slots(heap[_SLOTS], heap[_SLOTS + 1])
        frame = _frame(heap[_FRAME], 1)[0]
        row, kinds, values = row_in(heap, frame.row, frame.size)
        take(
            trees,
            frame.tree,
            frame.node,
            frame.right,
            slots,
            frame.mark,
            row,
            kinds,
            values,
            frame.place,
            frame.weight,
            frame.classes,
        )
        trees.pool[0].ordered = 0
        return 0 if sources >= 0 else 1

    return take_record


def _seat(sources: int) -> Any:
    def seat_class(address: int) -> int:
        heap = _ints(address, _LENGTH)
        frame = _frame(heap[_FRAME], 1)[0]
        seat(_classes(heap[_CLASSES], heap[_CLASSES + 1]), trees_in(heap), frame.classes)
        return 0 if sources >= 0 else 1

    return seat_class


def _store(sources: int) -> Any:
    def store(address: int) -> int:
        heap = _ints(address, _LENGTH)
        frame, shapes = _frame(heap[_FRAME], 1)[0], _ints(heap[_SHAPES], heap[_SHAPES + 1])
        numbers = _floats(heap[_NUMBERS], heap[_NUMBERS + 1])
        frame.shape, frame.number = store_trees(
            trees_in(heap), shapes, frame.shape, numbers, frame.number, frame.writes != 0
        )
        return 0 if sources >= 0 else 1

    return store


def _load(sources: int) -> Any:
    def load(address: int) -> int:
        heap = _ints(address, _LENGTH)
        trees, frame = trees_in(heap), _frame(heap[_FRAME], 1)[0]
        if frame.writes == 0:
            clear_trees(trees)
            return 0
        numbers, shapes = _floats(heap[_NUMBERS], heap[_NUMBERS + 1]), _ints(heap[_SHAPES], heap[_SHAPES + 1])
        for place in range(frame.classes):
            seat(_classes(heap[_CLASSES], heap[_CLASSES + 1]), trees, place + 1)
        frame.shape, frame.number = load_trees(trees, shapes, frame.shape, numbers, frame.number)
        return 0 if sources >= 0 else 1

    return load


UNITS = tuple(Unit(make(_PRINT)) for make in (_answer, _prepare, _take, _seat, _store, _load))
"""Predict; find the node that learns a record; learn it there; seat the newest class; store or count; load or clear."""
ANSWER, PREPARE, TAKE, SEAT, STORE, LOAD = range(len(UNITS))
