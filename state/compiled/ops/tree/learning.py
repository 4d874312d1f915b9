"""What a tree learns from a record: the weights and the splitters of its leaf, and now and then a split.

All that can make River raise is tried before anything changes, so a record with a fault leaves no trace.
"""

# ruff: noqa: PLR0917, PLR1730  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.tree.bayes import asks_bayes, bayes, best_of, majority, meet_classes
from headrace.state.compiled.ops.tree.cells import (
    add_child,
    add_splitter,
    add_under,
    add_value,
    add_weight,
    find,
    new_node,
)
from headrace.state.compiled.ops.tree.memory import (
    ADAPTIVE,
    BY_OPTION,
    GAUSSIAN,
    LEAF,
    NOMINAL,
    NONE,
    SEEN,
    Trees,
)
from headrace.state.compiled.ops.tree.paths import end_of, heaviest, is_new_value, leaf_of, mark_stale, weight_of
from headrace.state.compiled.ops.tree.splits import attempt_split, deactivate
from headrace.state.compiled.program import FAMILY_WANTED, FINE, NULL, STRING, WRONG_TYPE

_MAJORITY_RIGHT, _BAYES_RIGHT = 1, 2


@native
def node_for(trees: Trees, tree: int, slots: Any, mark: int, kinds: Any, values: Any) -> int:
    """Return the node that learns the record: a leaf, a branch that gets a child for it, or a fault below zero."""
    nodes, cells, entries, compensated = trees.nodes, trees.cells, trees.entries, trees.pool[0].compensated
    at = end_of(nodes, cells, trees.trees[tree].root, slots, mark, kinds, values, entries)
    while at >= 0 and nodes[at].kind != LEAF and not is_new_value(nodes, at, slots, mark):
        at = heaviest(nodes, cells, at, compensated)
        if at >= 0 and nodes[at].kind != LEAF:
            at = end_of(nodes, cells, at, slots, mark, kinds, values, entries)
    return at


@native
def find_splitters(trees: Trees, node: int, slots: Any, mark: int, kinds: Any) -> int:
    """Note for each feature of the row the leaf's splitter. Return a fault if one can't take its value."""
    for k in range(len(kinds)):
        trees.entries[k].found = NONE
    at = trees.nodes[node].first_splitter
    while at >= 0:
        slot = trees.cells[at].key
        if slots[slot].mark == mark:
            k = slots[slot].place
            if trees.cells[at].kind == GAUSSIAN and kinds[k] == STRING:
                return WRONG_TYPE
            trees.entries[k].found = at
        at = trees.cells[at].next
    return FINE


@native
def judge(trees: Trees, node: int, slots: Any, mark: int, kinds: Any, values: Any, place: int) -> int:
    """Return which of the leaf's two predictions are right, as bits, or a fault below zero."""
    if trees.pool[0].leaf != ADAPTIVE or trees.nodes[node].active == 0:
        return 0
    if trees.nodes[node].first_weight < 0:
        return _MAJORITY_RIGHT
    majority(trees.nodes, trees.cells, node, trees.classes, trees.pool[0].compensated)
    right = _MAJORITY_RIGHT if best_of(trees.nodes, trees.cells, node, trees.classes) == place else 0
    found = bayes(trees, node, slots, mark, kinds, values)
    if found < 0:
        return int(found)
    if found > 0 and best_of(trees.nodes, trees.cells, node, trees.classes) == place:
        right += _BAYES_RIGHT
    return right


@native
def needs_order(trees: Trees, tree: int, node: int, kinds: Any, row: Any, weight: float) -> bool:
    """Tell whether the record may lead to a split for which the order of a nominal feature's values must be known."""
    leaf, options = trees.nodes[node], trees.pool[0]
    if leaf.active == 0 or trees.trees[tree].grows == 0 or leaf.depth >= options.max_depth:
        return False
    total = weight_of(trees.cells, leaf.first_weight, options.compensated) + weight
    # River adds up the weights in another order: its sum may be a little larger.
    if total * (1.0 + 1e-9) - leaf.attempted < options.grace:
        return False
    for k in range(len(row)):
        if trees.entries[k].found < 0 and (kinds[k] >= STRING or trees.nominal[row[k]] & BY_OPTION != 0):
            return True
    at = leaf.first_splitter
    while at >= 0:
        if trees.cells[at].kind == NOMINAL:
            return True
        at = trees.cells[at].next
    return False


@native
def splits_unsorted(trees: Trees, node: int, place: int, weight: float) -> bool:
    """Tell whether River, once it has learned the record, would sort the values of this leaf's nominal features."""
    if trees.pool[0].binary_split != 0:
        return False
    at, classes, most, total, met = trees.nodes[node].first_weight, 0, 0.0, 0.0, False
    while at >= 0:
        own = trees.cells[at].n + (weight if trees.cells[at].key == place else 0.0)
        met = met or trees.cells[at].key == place
        classes += own != 0.0
        most, total = max(most, own), total + own
        at = trees.cells[at].next
    if not met:
        classes, most, total = classes + 1, max(most, weight), total + weight
    return bool(classes > 1 and not most / total > trees.pool[0].share_max)


@native
def learn_number(cells: Any, pool: Any, splitter: int, place: int, x: float, weight: float) -> None:
    """Update the estimate of a class in a Gaussian splitter."""
    at = find(cells, cells[splitter].first, place)
    if at < 0:
        at = add_under(cells, pool, splitter, place, 0.0)
        cells[at].low = cells[at].high = x
    cell = cells[at]
    # Not min and max: for NaN, River compares and changes nothing.
    if x < cell.low:
        cell.low = x
    if x > cell.high:
        cell.high = x
    cell.n += weight
    old = cell.mean
    cell.mean = old + (weight / cell.n) * (x - old)
    cell.squares += weight * (x - old) * (x - cell.mean)


@native
def learn_value(cells: Any, pool: Any, splitter: int, place: int, kind: int, pair: int, weight: float) -> None:
    """Count a value in a nominal splitter."""
    cells[splitter].n += weight
    if kind == NULL:
        cells[splitter].mean += weight
        return
    if find(cells, cells[splitter].first_value, pair) < 0:
        add_value(cells, pool, splitter, pair)
    at = find(cells, cells[splitter].first, place)
    if at < 0:
        at = add_under(cells, pool, splitter, place, 0.0)
    value = find(cells, cells[at].first, pair)
    if value < 0:
        value = add_under(cells, pool, at, pair, 0.0)
    cells[value].n += weight


@native
def learn_features(trees: Trees, node: int, row: Any, kinds: Any, values: Any, place: int, weight: float) -> None:
    """Teach the splitters of a leaf the features of the row; `found` has them. New features get new splitters."""
    cells, pool = trees.cells, trees.pool
    for k in range(len(row)):
        splitter, slot = trees.entries[k].found, row[k]
        if splitter < 0:
            by_value = kinds[k] >= STRING or trees.nominal[slot] & BY_OPTION != 0
            splitter = add_splitter(trees.nodes, cells, pool, node, slot, NOMINAL if by_value else GAUSSIAN)
            if by_value:
                trees.nominal[slot] |= SEEN
                pool[0].nominals = 1
        if cells[splitter].kind == GAUSSIAN:
            if kinds[k] != NULL:
                learn_number(cells, pool, splitter, place, values[k], weight)
        elif cells[splitter].kind == NOMINAL:
            learn_value(cells, pool, splitter, place, kinds[k], trees.entries[k].pair, weight)


@native
def learn_weight(trees: Trees, node: int, place: int, weight: float) -> None:
    """Add a record's weight to its class at a leaf."""
    at = find(trees.cells, trees.nodes[node].first_weight, place)
    if at < 0:
        add_weight(trees.nodes, trees.cells, trees.pool, node, place, weight)
    else:
        trees.cells[at].n += weight
    mark_stale(trees.nodes, node)


@native
def grow(trees: Trees, tree: int, node: int, classes: int) -> None:
    """Split a leaf that has seen enough since the last attempt; make one at the largest depth inactive."""
    leaf, options = trees.nodes[node], trees.pool[0]
    if trees.trees[tree].grows == 0 or leaf.active == 0:
        return
    if leaf.depth >= options.max_depth:
        deactivate(trees, tree, node)
        return
    seen = weight_of(trees.cells, leaf.first_weight, options.compensated)
    if seen - leaf.attempted >= options.grace:
        attempt_split(trees, tree, node, classes)
        trees.nodes[node].attempted = seen


@native
def leaf_grows(trees: Trees, tree: int, node: int, slots: Any, mark: int, kinds: Any, values: Any) -> bool:
    """Tell whether the record went to this leaf by its own features: only then River tries to split it."""
    nodes, cells = trees.nodes, trees.cells
    root = trees.trees[tree].root
    return bool(end_of(nodes, cells, root, slots, mark, kinds, values, trees.entries) == node)


@native
def prepare(
    trees: Trees, tree: int, slots: Any, mark: int, row: Any, kinds: Any, values: Any, place: int, weight: float
) -> tuple[int, int]:
    """Return the node that learns the record, below zero for none yet, and which predictions are right, or a fault.

    A fault is below zero; FAMILY_WANTED is one. Nothing has changed then.
    """
    node = node_for(trees, tree, slots, mark, kinds, values)
    if node < NONE:
        return node, -WRONG_TYPE
    if node < 0 or trees.nodes[node].kind != LEAF:
        for k in range(len(row)):
            trees.entries[k].found = NONE
        # A leaf that is new has no classes yet, so its majority counts as right.
        return node, _MAJORITY_RIGHT if trees.pool[0].leaf == ADAPTIVE else 0
    if trees.nodes[node].active != 0:
        fault = find_splitters(trees, node, slots, mark, kinds)
        if fault != FINE:
            return node, -fault
    right = judge(trees, node, slots, mark, kinds, values, place)
    if right < 0:
        return node, right
    if needs_order(trees, tree, node, kinds, row, weight):
        if trees.pool[0].ordered != node + 1:
            trees.pool[0].leaf_wanted = node
            return node, FAMILY_WANTED
        unsorted = trees.pool[0].sortable == 0 and splits_unsorted(trees, node, place, weight)
        if unsorted and leaf_grows(trees, tree, node, slots, mark, kinds, values):
            return node, -WRONG_TYPE
    return node, right


@native
def take(
    trees: Trees,
    tree: int,
    node: int,
    right: int,
    slots: Any,
    mark: int,
    row: Any,
    kinds: Any,
    values: Any,
    place: int,
    weight: float,
    classes: int,
) -> None:
    """Learn a record at the node that `prepare` has found."""
    own, options = trees.trees[tree], trees.pool[0]
    own.seen += weight
    is_leaf = node >= 0 and trees.nodes[node].kind == LEAF
    if node < 0:
        node = new_node(trees.nodes, trees.pool, 0, NONE, NONE)
        own.root, own.active = node, 1
        is_leaf = True
    elif not is_leaf:
        k = slots[trees.nodes[node].feature].place
        node = add_child(trees.nodes, trees.cells, trees.pool, node, trees.entries[k].pair)
        own.active += 1
    if trees.nodes[node].active != 0:
        if right & _MAJORITY_RIGHT != 0:
            trees.nodes[node].majority_right += weight
        if right & _BAYES_RIGHT != 0:
            trees.nodes[node].bayes_right += weight
        # A leaf that always votes by Bayes was asked before it learns; an adaptive one asks itself.
        if options.leaf == ADAPTIVE or asks_bayes(trees.nodes, trees.cells, trees.pool, node):
            meet_classes(trees, node, slots, mark)
    learn_weight(trees, node, place, weight)
    if trees.nodes[node].active != 0:
        learn_features(trees, node, row, kinds, values, place, weight)
    if is_leaf and leaf_grows(trees, tree, node, slots, mark, kinds, values):
        grow(trees, tree, node, classes)


@native
def vote(trees: Trees, tree: int, slots: Any, mark: int, kinds: Any, values: Any) -> int:
    """Return the leaf that predicts the record, NONE for a tree without nodes, or less: a fault."""
    root, compensated = trees.trees[tree].root, trees.pool[0].compensated
    return int(leaf_of(trees.nodes, trees.cells, root, slots, mark, kinds, values, trees.entries, compensated))
