"""The family of trees: the machine's functions for them, which call the units."""

# ruff: noqa: ARG001, PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.class_sums import place_of
from headrace.state.compiled.ops.encoding import category
from headrace.state.compiled.ops.families.tree_units import ANSWER, LOAD, PREPARE, SEAT, STORE, TAKE
from headrace.state.compiled.ops.families.units import call
from headrace.state.compiled.ops.jit import inlined
from headrace.state.compiled.ops.tree.memory import BY_OPTION, HEAP, NONE, SEEN
from headrace.state.compiled.program import FAMILY_WANTED, FINE, STRING, TOO_LARGE, UNMET

_STORED = 2 * HEAP.index("shapes")


@inlined
def ask(own: Any, unit: int) -> int:
    """Call a unit."""
    return int(call(own.calls[unit], own.heap.ctypes.data))


@inlined
def look(op: Any, number: int, memory: Any, rows: Any, pairs: Any) -> int:
    """Mark the features of the row, and look up the categories of those that are compared as such."""
    own, notes, source = memory.own, memory.notes, op.source
    notes[0].mark += 1
    for k in range(rows.sizes[source]):
        slot = rows.slots[source, k]
        memory.slots[slot].mark = notes[0].mark
        memory.slots[slot].place = k
        own.entries[k].pair = NONE
        if rows.kinds[source, k] >= STRING or own.nominal[slot] & (SEEN | BY_OPTION) != 0:
            pair = category(number, source, k, memory, rows, pairs)
            if pair < 0:
                # The machine counts one wanted pair a record: the others of this record come later.
                return TOO_LARGE if pair == -TOO_LARGE else UNMET
            own.entries[k].pair = memory.pairs[pair].alike
    frame = own.frame[0]
    frame.row, frame.size = source * rows.slots.shape[1], rows.sizes[source]
    frame.mark, frame.classes, frame.tree, frame.weight = notes[0].mark, notes[0].classes, 0, 1.0
    return FINE


@inlined
def answer(op: Any, memory: Any, rows: Any, answers: Any, record: int) -> int:
    """Predict the probability of each class, the classes in their sorted order."""
    own, classes = memory.own, memory.notes[0].classes
    fault = ask(own, ANSWER)
    for position in range(classes):
        answers.order[record, position] = own.classes[position].sorted
        answers.proba[record, position] = own.classes[position].chance
    answers.known[record] = classes
    return fault


@inlined
def teach(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn the record's class, which may be new."""
    own, frame = memory.own, memory.own.frame[0]
    frame.place = memory.classes[memory.classes[int(label)].alike].place
    fault = ask(own, PREPARE)
    if fault != FINE:
        return FAMILY_WANTED if fault == FAMILY_WANTED else -fault
    if frame.place < 0:
        frame.place = place_of(memory, label)
        frame.classes = memory.notes[0].classes
        ask(own, SEAT)
    return ask(own, TAKE)


@inlined
def has_room(memory: Any, width: int) -> bool:
    """Tell whether there is room for all that a record of this width may add; note what is wanted."""
    own, classes = memory.own, memory.notes[0].classes + 1
    pool = own.pool[0]
    children = pool.values + 3
    pool.cells_wanted = pool.cells - pool.free_cells + 2 + width * (4 + classes) + children * (2 + classes)
    pool.nodes_wanted = pool.nodes - pool.free_nodes + children
    pool.children_wanted = children
    fits_nodes = pool.cells_wanted <= pool.cells_room and pool.nodes_wanted <= pool.nodes_room
    return bool(fits_nodes and children <= pool.children_room)


@inlined
def fits(memory: Any, shapes: Any, shape: int) -> bool:
    """Tell whether there is room for the trees of a stored model; note what is wanted."""
    pool = memory.own.pool[0]
    pool.nodes_wanted, pool.cells_wanted = shapes[shape + 1], shapes[shape + 2]
    return bool(pool.cells_wanted <= pool.cells_room and pool.nodes_wanted <= pool.nodes_room)


@inlined
def store_or_count(memory: Any, shapes: Any, shape: int, numbers: Any, number: int, writes: int) -> tuple[int, int]:
    """Store the trees, or return where they would end."""
    own, frame = memory.own, memory.own.frame[0]
    own.heap[_STORED], own.heap[_STORED + 1] = shapes.ctypes.data, len(shapes)
    own.heap[_STORED + 2], own.heap[_STORED + 3] = numbers.ctypes.data, len(numbers)
    frame.writes, frame.shape, frame.number = writes, shape, number
    ask(own, STORE)
    return frame.shape, frame.number


@inlined
def room(memory: Any) -> tuple[int, int]:
    """Return the lengths of the trees' part of a stored model."""
    return store_or_count(memory, memory.own.heap, 0, memory.scalars, 0, 0)


@inlined
def load(memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """Load the trees, after the classes."""
    own, frame = memory.own, memory.own.frame[0]
    own.heap[_STORED], own.heap[_STORED + 1] = shapes.ctypes.data, len(shapes)
    own.heap[_STORED + 2], own.heap[_STORED + 3] = numbers.ctypes.data, len(numbers)
    frame.writes, frame.shape, frame.number, frame.classes = 1, shape, number, memory.notes[0].classes
    ask(own, LOAD)
    return frame.shape, frame.number


@inlined
def store(memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """Store the trees."""
    return store_or_count(memory, shapes, shape, numbers, number, 1)


@inlined
def clear(memory: Any) -> None:
    """Forget the trees."""
    memory.own.frame[0].writes = 0
    ask(memory.own, LOAD)
