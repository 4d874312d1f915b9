"""A record's way down a tree, as River's `walk` goes it, and the weight below a branch."""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.class_sums import closed, lost
from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.tree.memory import BINARY, LEAF, MULTIWAY, NONE, NUMERIC
from headrace.state.compiled.program import STRING

NO_TYPE = -2
"""The path goes on at a number, and the record has none there."""
NO_CHILD = -3
"""The branch has no child."""


@native
def weight_of(cells: Any, first: int, compensated: int) -> float:
    """Return the sum of a list of weights, as Python's `sum` adds it up."""
    total, rest, at = 0.0, 0.0, first
    while at >= 0:
        if compensated != 0:
            rest += lost(total, cells[at].n)
        total += cells[at].n
        at = cells[at].next
    return float(closed(total, rest, compensated))


@native
def below(nodes: Any, cells: Any, node: int, compensated: int) -> float:
    """Return the weight of a node: of a branch, the sum of its children's.

    A branch keeps its sum. Learning marks those above the leaf as out of date, so only these are added up again.
    """
    if nodes[node].kind == LEAF:
        return float(weight_of(cells, nodes[node].first_weight, compensated))
    at = node
    while nodes[node].stale != 0:
        link, deeper = nodes[at].first_child, NONE
        while link >= 0:
            child = cells[link].first
            if nodes[child].kind != LEAF and nodes[child].stale != 0:
                deeper = child
                break
            link = cells[link].next
        if deeper >= 0:
            at = deeper
            continue
        total, rest, link = 0.0, 0.0, nodes[at].first_child
        while link >= 0:
            child = cells[link].first
            term = nodes[child].total
            if nodes[child].kind == LEAF:
                term = weight_of(cells, nodes[child].first_weight, compensated)
            if compensated != 0:
                rest += lost(total, term)
            total += term
            link = cells[link].next
        nodes[at].total = closed(total, rest, compensated)
        nodes[at].stale = 0
        at = nodes[at].parent
    return float(nodes[node].total)


@native
def mark_stale(nodes: Any, node: int) -> None:
    """Mark the sums of all branches above a node as out of date."""
    at = nodes[node].parent
    while at >= 0 and nodes[at].stale == 0:
        nodes[at].stale = 1
        at = nodes[at].parent


@native
def heaviest(nodes: Any, cells: Any, node: int, compensated: int) -> int:
    """Return the child of a branch that has seen the most; the first of equal ones."""
    link = nodes[node].first_child
    if link < 0:
        return NO_CHILD
    best, most = cells[link].first, below(nodes, cells, cells[link].first, compensated)
    link = cells[link].next
    while link >= 0:
        weight = below(nodes, cells, cells[link].first, compensated)
        if weight > most:
            best, most = cells[link].first, weight
        link = cells[link].next
    return int(best)


@native
def place_in(slots: Any, mark: int, slot: int) -> int:
    """Return the position of a feature in the row whose features have this mark, or NONE."""
    return int(slots[slot].place) if slots[slot].mark == mark else NONE


@native
def step(nodes: Any, cells: Any, node: int, slots: Any, mark: int, kinds: Any, values: Any, entries: Any) -> int:
    """Return the child to which a branch sends the record: NONE if River raises KeyError, or NO_TYPE."""
    k = place_in(slots, mark, nodes[node].feature)
    if k < 0:
        return NONE
    link = nodes[node].first_child
    if nodes[node].kind == NUMERIC:
        if kinds[k] >= STRING:
            return NO_TYPE
        return int(cells[link if values[k] <= nodes[node].threshold else cells[link].next].first)
    if nodes[node].kind == BINARY:
        return int(cells[link if entries[k].pair == nodes[node].pair else cells[link].next].first)
    while link >= 0 and cells[link].key != entries[k].pair:
        link = cells[link].next
    return int(cells[link].first) if link >= 0 else NONE


@native
def leaf_of(
    nodes: Any, cells: Any, root: int, slots: Any, mark: int, kinds: Any, values: Any, entries: Any, compensated: int
) -> int:
    """Return the leaf that predicts the record, or NO_TYPE or NO_CHILD. Where it has no way, it takes the heaviest."""
    at = root
    while at >= 0 and nodes[at].kind != LEAF:
        child = step(nodes, cells, at, slots, mark, kinds, values, entries)
        at = heaviest(nodes, cells, at, compensated) if child == NONE else child
    return at


@native
def end_of(nodes: Any, cells: Any, root: int, slots: Any, mark: int, kinds: Any, values: Any, entries: Any) -> int:
    """Return the leaf, or the branch at which the record has no way, or NO_TYPE."""
    at = root
    while at >= 0 and nodes[at].kind != LEAF:
        child = step(nodes, cells, at, slots, mark, kinds, values, entries)
        if child == NONE:
            break
        at = child
    return at


@native
def is_new_value(nodes: Any, node: int, slots: Any, mark: int) -> bool:
    """Tell whether a branch at which the record has no way gets a child for the record's value."""
    return bool(nodes[node].kind == MULTIWAY and place_in(slots, mark, nodes[node].feature) >= 0)
