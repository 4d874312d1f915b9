"""Stored models: the machine loads one into its memory before a group of records, and stores it after the group.

A stored model is a shape and its numbers. The shape is a list of whole numbers: the learned classes and, for each
operation, the slots of the features that it has met, and the pairs that it has learned. The numbers follow in the same
order. Slots ascend, so that equal layouts have equal shapes. The part of the model's family comes last.
"""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.encoding import note
from headrace.state.compiled.ops.families.dispatch import clear_own, load_own, room_of_own, store_own
from headrace.state.compiled.ops.jit import entry, native, print_of_sources
from headrace.state.compiled.ops.square_root import root
from headrace.state.compiled.program import (
    BY_RANK,
    COUNTING,
    DEVIATION,
    LISTED,
    MET,
    STANDARD,
    TALLIES,
    VARIANCE,
)

_DENSE = 8


@native
def touch(memory: Any, slot: int) -> None:
    """Note that the model has met a feature."""
    if memory.slots[slot].touched == 0:
        memory.slots[slot].touched = 1
        memory.slots[memory.notes[0].touches].touch = slot
        memory.notes[0].touches += 1


@native
def order_touches(memory: Any, slots: int) -> None:
    """Sort the slots of the features that the model has met."""
    count, met = memory.notes[0].touches, memory.slots
    if _DENSE * count >= slots:
        at = 0
        for slot in range(slots):
            if memory.slots[slot].touched != 0:
                met[at].touch = slot
                at += 1
        return
    for k in range(1, count):
        slot, at = met[k].touch, k
        while at > 0 and met[at - 1].touch > slot:
            met[at].touch = met[at - 1].touch
            at -= 1
        met[at].touch = slot


@native
def load_features(op: Any, memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> int:
    """Load an operation's numbers of each feature; return the position after them."""
    fields, cells = memory.fields, memory.notes[0].classes * op.cells
    for k in range(shape + 1, shape + 1 + shapes[shape]):
        slot = shapes[k]
        touch(memory, slot)
        at = slot * op.stride + op.base
        if op.flag != 0:
            fields[at] = 1.0
        for field in range(at + op.flag, at + op.saved):
            fields[field] = numbers[number]
            number += 1
        if op.code == STANDARD:
            fields[at + DEVIATION] = root(fields[at + VARIANCE], op.half)
        elif op.code == COUNTING:
            fields[int(fields[at + MET] - 1.0) * op.stride + op.base + BY_RANK] = slot
        at = slot * memory.tally.shape[1] * op.cells
        for cell in range(at, at + cells):
            memory.grid[cell] = numbers[number]
            number += 1
    return number


@native
def load_sums(op: Any, memory: Any, numbers: Any, number: int) -> int:
    """Load an operation's scalars and tallies; return the position after them."""
    for scalar in range(op.scalar, op.scalar + op.scalars):
        memory.scalars[scalar] = numbers[number]
        number += 1
    for place in range(memory.notes[0].classes):
        for tally in range(TALLIES, TALLIES + op.tallies):
            memory.tally[tally, place] = numbers[number]
            number += 1
    return number


@native
def load_model(ops: Any, memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> None:
    """Load a model into the memory, which must hold a new one."""
    memory.notes[0].classes = shapes[shape]
    for place in range(shapes[shape]):
        label = shapes[shape + 1 + place]
        memory.classes[place].number = label
        memory.classes[memory.classes[label].alike].place = place
    shape += 1 + shapes[shape]
    for j in range(len(ops)):
        op = ops[j]
        if op.saved != 0:
            number = load_features(op, memory, shapes, shape, numbers, number)
            shape += 1 + shapes[shape]
        number = load_sums(op, memory, numbers, number)
        if op.listed != 0:
            for k in range(shape + 1, shape + 1 + shapes[shape]):
                note(op, shapes[k], memory)
            shape += 1 + shapes[shape]
    load_own(memory, shapes, shape, numbers, number)


@native
def own_part(ops: Any, shapes: Any, shape: int) -> int:
    """Return where the part of the model's family begins in a shape."""
    at = shape + 1 + shapes[shape]
    for j in range(len(ops)):
        if ops[j].saved != 0:
            at += 1 + shapes[at]
        if ops[j].listed != 0:
            at += 1 + shapes[at]
    return int(at)


@native
def room_of(ops: Any, memory: Any) -> tuple[int, int]:
    """Return the largest lengths that the shape and the numbers of the loaded model may have."""
    touches, classes = memory.notes[0].touches, memory.notes[0].classes
    shape, numbers = 1 + classes, 0
    for j in range(len(ops)):
        op = ops[j]
        if op.saved != 0:
            shape += 1 + touches
            numbers += touches * (op.saved + op.cells * classes)
        if op.listed != 0:
            shape += 1 + memory.sizes[op.list].size
        numbers += op.scalars + op.tallies * classes
    own_shape, own_numbers = room_of_own(memory)
    return shape + own_shape, numbers + own_numbers


@native
def store_features(op: Any, memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> int:
    """Store an operation's numbers of each feature; return the position after them."""
    fields, cells, count = memory.fields, memory.notes[0].classes * op.cells, 0
    for k in range(memory.notes[0].touches):
        slot = memory.slots[k].touch
        at = slot * op.stride + op.base
        if fields[at] == 0.0:
            continue
        count += 1
        shapes[shape + count] = slot
        for field in range(at + op.flag, at + op.saved):
            numbers[number] = fields[field]
            number += 1
        at = slot * memory.tally.shape[1] * op.cells
        for cell in range(at, at + cells):
            numbers[number] = memory.grid[cell]
            number += 1
    shapes[shape] = count
    return number


@native
def store_sums(op: Any, memory: Any, numbers: Any, number: int) -> int:
    """Store an operation's scalars and tallies; return the position after them."""
    for scalar in range(op.scalar, op.scalar + op.scalars):
        numbers[number] = memory.scalars[scalar]
        number += 1
    for place in range(memory.notes[0].classes):
        for tally in range(TALLIES, TALLIES + op.tallies):
            numbers[number] = memory.tally[tally, place]
            number += 1
    return number


@native
def store_model(
    ops: Any, memory: Any, slots: int, shapes: Any, shape: int, numbers: Any, number: int
) -> tuple[int, int]:
    """Store the loaded model; return where its shape and its numbers end."""
    order_touches(memory, slots)
    shapes[shape] = memory.notes[0].classes
    for place in range(shapes[shape]):
        shapes[shape + 1 + place] = memory.classes[place].number
    shape += 1 + shapes[shape]
    for j in range(len(ops)):
        op = ops[j]
        if op.saved != 0:
            number = store_features(op, memory, shapes, shape, numbers, number)
            shape += 1 + shapes[shape]
        number = store_sums(op, memory, numbers, number)
        if op.listed != 0:
            shapes[shape] = memory.sizes[op.list].size
            for k in range(shapes[shape]):
                shapes[shape + 1 + k] = memory.lists[op.list, k]
            shape += 1 + shapes[shape]
    return store_own(memory, shapes, shape, numbers, number)


@native
def is_shape(shapes: Any, one: int, other: int, size: int) -> bool:
    """Tell whether the shape at `one` is that at `other`, of this size. No shape is the beginning of another one."""
    k = 0
    while k < size and shapes[one + k] == shapes[other + k]:
        k += 1
    return k == size


@native
def clear_features(op: Any, memory: Any) -> None:
    """Forget an operation's numbers of each feature."""
    cells = memory.notes[0].classes * op.cells
    for k in range(memory.notes[0].touches):
        slot = memory.slots[k].touch
        at = slot * op.stride + op.base
        for field in range(at, at + op.fields):
            memory.fields[field] = 0.0
        at = slot * memory.tally.shape[1] * op.cells
        for cell in range(at, at + cells):
            memory.grid[cell] = 0.0


@native
def clear_lists(op: Any, memory: Any) -> None:
    """Forget the categories that an encoder has learned."""
    for k in range(memory.sizes[op.list].size):
        memory.pairs[memory.pairs[memory.lists[op.list, k]].alike].learned = 0
    for k in range(memory.sizes[op.list + 1].size):
        memory.fields[memory.lists[op.list + 1, k] * op.stride + op.base + LISTED] = 0.0
    memory.sizes[op.list].size = memory.sizes[op.list + 1].size = 0


@native
def clear_memory(ops: Any, memory: Any) -> None:
    """Forget the loaded model, so that the memory holds a new one."""
    for j in range(len(ops)):
        if ops[j].saved != 0:
            clear_features(ops[j], memory)
        if ops[j].listed != 0:
            clear_lists(ops[j], memory)
    for scalar in range(len(memory.scalars)):
        memory.scalars[scalar] = memory.scalars_kept[1, scalar]
    for place in range(memory.notes[0].classes):
        memory.classes[memory.classes[memory.classes[place].number].alike].place = -1
        for tally in range(memory.tally.shape[0]):
            memory.tally[tally, place] = 0.0
    for k in range(memory.notes[0].touches):
        memory.slots[memory.slots[k].touch].touched = 0
    clear_own(memory)
    memory.notes[0].touches = memory.notes[0].classes = 0


def _settler(sources: int) -> Any:
    @entry
    def settle(numbers: Any, starts: Any, sizes: Any, targets: Any, end: int) -> int:
        for k in range(len(starts)):
            if targets[k] < 0:
                targets[k] = end
                end += sizes[k]
            for at in range(sizes[k]):
                numbers[targets[k] + at] = numbers[starts[k] + at]
        return end if sources >= 0 else 0

    return settle


settle = _settler(print_of_sources())
"""Move the numbers of models that begin at `starts`, in ascending order, to their `targets`; return the new end.

A target of -1 stands for the next place from `end` on, and is replaced by it. `end` is not behind the first start.
"""
