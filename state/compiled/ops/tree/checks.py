"""Checks trees in bytes of any origin before they are loaded: `storage` trusts what it reads."""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.jit import entry, native, print_of_sources
from headrace.state.compiled.ops.tree.memory import DISABLED, LEAF, MULTIWAY, NOMINAL, NONE, NUMERIC
from headrace.state.compiled.ops.tree.storage import CELLS, NODES, NUMBERS, PAIRS, SLOTS, STRUCTURE

_ESTIMATE = 5
"""The numbers of a class in a Gaussian splitter."""


@native
def may(cursor: Any, which: int, ends: Any, count: int) -> bool:
    """Move on in one of the lists, if it has so many more entries."""
    if count < 0 or count > ends[which] - cursor[which]:
        return False
    cursor[which] += count
    return True


@native
def are_weights(numbers: Any, first: int, count: int) -> bool:
    """Tell whether numbers can be weights."""
    held = True
    for at in range(first, first + count):
        held = held and 0.0 <= numbers[at] < math.inf
    return held


@native
def next_of(structure: Any, cursor: Any, ends: Any, least: int, limit: int) -> int:
    """Return the next entry of the structure, from `least` up to below `limit`, or -1."""
    if cursor[STRUCTURE] >= ends[STRUCTURE]:
        return NONE
    found = structure[cursor[STRUCTURE]]
    cursor[STRUCTURE] += 1
    return int(found) if least <= found < limit else NONE


@native
def may_weights(structure: Any, numbers: Any, cursor: Any, ends: Any, classes: int) -> bool:
    """Move over a list of weights of classes."""
    count = next_of(structure, cursor, ends, 0, ends[STRUCTURE] + 1)
    first = cursor[NUMBERS]
    if count < 0 or not (may(cursor, CELLS, ends, count) and may(cursor, NUMBERS, ends, count)):
        return False
    for _ in range(count):
        if next_of(structure, cursor, ends, 0, classes) < 0:
            return False
    return bool(are_weights(numbers, first, count))


@native
def may_counts(structure: Any, numbers: Any, cursor: Any, ends: Any) -> bool:
    """Move over a list of values."""
    count = next_of(structure, cursor, ends, 0, ends[PAIRS] + 1)
    first = cursor[NUMBERS]
    if count < 0 or not (may(cursor, CELLS, ends, count) and may(cursor, NUMBERS, ends, count)):
        return False
    return bool(may(cursor, PAIRS, ends, count) and are_weights(numbers, first, count))


@native
def may_splitter(structure: Any, numbers: Any, cursor: Any, ends: Any, classes: int, active: int) -> bool:  # noqa: C901 a step for each field
    """Move over a splitter. A leaf that is not active has only disabled ones."""
    kind = next_of(structure, cursor, ends, 0 if active == 1 else DISABLED, DISABLED + 1)
    if kind < 0 or not (may(cursor, SLOTS, ends, 1) and may(cursor, CELLS, ends, 1)):
        return False
    if kind == DISABLED:
        return True
    count = next_of(structure, cursor, ends, 0, classes + 1)
    if count < 0 or not may(cursor, CELLS, ends, count):
        return False
    if kind == NOMINAL:
        first = cursor[NUMBERS]
        if not (may(cursor, NUMBERS, ends, 2) and are_weights(numbers, first, 2)):
            return False
        if not may_counts(structure, numbers, cursor, ends):
            return False
    for _ in range(count):
        if next_of(structure, cursor, ends, 0, classes) < 0:
            return False
        first = cursor[NUMBERS]
        if kind == NOMINAL:
            if not may_counts(structure, numbers, cursor, ends):
                return False
        elif not (may(cursor, NUMBERS, ends, _ESTIMATE) and are_weights(numbers, first, 1) and numbers[first] > 0.0):
            return False
    return True


@native
def may_node(structure: Any, numbers: Any, cursor: Any, ends: Any, classes: int) -> int:
    """Move over a node; return how many children follow, or -1."""
    kind = next_of(structure, cursor, ends, 0, MULTIWAY + 1)
    if kind < 0 or not may(cursor, NODES, ends, 1):
        return NONE
    if not may_weights(structure, numbers, cursor, ends, classes):
        return NONE
    if kind == LEAF:
        active, first = next_of(structure, cursor, ends, 0, 2), cursor[NUMBERS]
        if active < 0 or not (may(cursor, NUMBERS, ends, 3) and are_weights(numbers, first, 3)):
            return NONE
        count = next_of(structure, cursor, ends, 0, ends[STRUCTURE] + 1)
        for _ in range(count):
            if not may_splitter(structure, numbers, cursor, ends, classes, active):
                return NONE
        return min(count, 0)
    children = next_of(structure, cursor, ends, 0, ends[NODES] + 1)
    if children < 0 or not (may(cursor, SLOTS, ends, 1) and may(cursor, CELLS, ends, children)):
        return NONE
    if kind == MULTIWAY:
        return int(children) if may(cursor, PAIRS, ends, children) else NONE
    held = may(cursor, NUMBERS, ends, 1) if kind == NUMERIC else may(cursor, PAIRS, ends, 1)
    return int(children) if held and children == 2 else NONE  # noqa: PLR2004 both sides


def _checker(sources: int) -> Any:  # noqa: C901 as below
    @entry
    def are_trees(structure: Any, numbers: Any, ends: Any, cursor: Any, left: Any, trees: int, classes: int) -> bool:  # noqa: C901
        # `left` holds how many children of each branch above are still to come.
        for _ in range(trees):
            has_root = next_of(structure, cursor, ends, 0, 2)
            for _count in range(2):
                if next_of(structure, cursor, ends, 0, ends[NODES] + 1) < 0:
                    return False
            first = cursor[NUMBERS]
            if has_root < 0 or next_of(structure, cursor, ends, 0, 2) < 0 or not may(cursor, NUMBERS, ends, 4):
                return False
            if not are_weights(numbers, first, 4):
                return False
            depth, left[0] = 0, has_root
            while depth > 0 or left[0] > 0:
                if left[depth] == 0:
                    depth -= 1
                    continue
                left[depth] -= 1
                children = may_node(structure, numbers, cursor, ends, classes)
                if children < 0:
                    return False
                if children > 0:
                    depth += 1
                    left[depth] = children
        for which in range(CELLS + 1):
            if cursor[which] != ends[which]:
                return False
        return sources >= 0

    return are_trees


are_trees = _checker(print_of_sources())
"""Tell whether a structure of any origin can be one of trees that have learned `numbers`.

`ends` are the lengths of the structure, features, categories and numbers, and how many nodes and cells there are.
`cursor` is as long, and zero. `left` is longer than there are nodes.
"""
