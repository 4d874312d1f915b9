"""Attempts to split a leaf: the best split of each splitter, the Hoeffding bound, and the new branch."""

# ruff: noqa: PLR0917, PLR1730  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.square_root import root
from headrace.state.compiled.ops.tree.cells import (
    add_child,
    add_weight,
    drop_splitters,
    empty_splitter,
    find,
    give_back,
)
from headrace.state.compiled.ops.tree.memory import (
    BINARY,
    DISABLED,
    GAUSSIAN,
    GINI,
    LEAF,
    MAJORITY,
    MULTIWAY,
    NOMINAL,
    NONE,
    NUMERIC,
    UNNAMED,
    Trees,
)
from headrace.state.compiled.ops.tree.merits import NO_MERIT, entropy_of_leaf, merit_of
from headrace.state.compiled.ops.tree.paths import weight_of

_CONST_ROOT = math.sqrt(2.0)


@native
def chance_below(estimate: Any, x: float, half: float) -> float:
    """Return the part of a Gaussian that lies below x: 0 for one without a variance, as River does."""
    variance = estimate.squares / (estimate.n - 1.0) if estimate.n > 1.0 else 0.0
    sigma = root(variance, half)
    if sigma == 0.0:
        return 0.0
    return 0.5 * (1.0 + math.erf((x - estimate.mean) / sigma / _CONST_ROOT))


@native
def put(trees: Trees, child: int, stride: int, place: int, weight: float) -> None:
    """Add a class to the distribution of a child."""
    at = child * stride + trees.sizes[child]
    trees.parts[at].member = place
    trees.parts[at].weight = weight
    trees.sizes[child] += 1


@native
def divide_by_number(trees: Trees, splitter: int, threshold: float, stride: int) -> None:
    """Write the distributions of both sides of a threshold."""
    cells = trees.cells
    trees.sizes[0] = trees.sizes[1] = 0
    at = cells[splitter].first
    while at >= 0:
        place, n = cells[at].key, cells[at].n
        if threshold < cells[at].low:
            put(trees, 1, stride, place, n)
        elif threshold >= cells[at].high:
            put(trees, 0, stride, place, n)
        else:
            left = chance_below(cells[at], threshold, trees.pool[0].half) * n
            put(trees, 0, stride, place, left)
            put(trees, 1, stride, place, n - left)
        at = cells[at].next


@native
def divide_by_value(trees: Trees, splitter: int, pair: int, stride: int) -> None:
    """Write the distributions of the records with a value, and of those with another one."""
    cells = trees.cells
    trees.sizes[0] = trees.sizes[1] = 0
    at = cells[splitter].first
    while at >= 0:
        equal, other, has_equal, has_other = 0.0, 0.0, False, False
        value = cells[at].first
        while value >= 0:
            if cells[value].key == pair:
                equal, has_equal = equal + cells[value].n, True
            else:
                other, has_other = other + cells[value].n, True
            value = cells[value].next
        if has_equal:
            put(trees, 0, stride, cells[at].key, equal)
        if has_other:
            put(trees, 1, stride, cells[at].key, other)
        at = cells[at].next


@native
def divide_by_all_values(trees: Trees, splitter: int, listed: int, values: int, classes: int, stride: int) -> None:
    """Write a distribution for each value, in the order of `orders` from `listed` on. Classes are in sorted order."""
    cells = trees.cells
    for child in range(values):
        trees.sizes[child] = 0
        for position in range(classes):
            place = trees.classes[position].sorted
            at = find(cells, cells[splitter].first, place)
            if at >= 0:
                value = find(cells, cells[at].first, trees.orders[listed + child])
                if value >= 0:
                    put(trees, child, stride, place, cells[value].n)


@native
def best_number(trees: Trees, splitter: int, before: float, stride: int) -> tuple[float, float]:
    """Return the best merit of a Gaussian splitter, and the threshold that has it."""
    cells, splits = trees.cells, trees.pool[0].splits
    low, high, at = math.inf, -math.inf, cells[splitter].first
    while at >= 0:
        if cells[at].low < low:
            low = cells[at].low
        if cells[at].high > high:
            high = cells[at].high
        at = cells[at].next
    best, threshold = NO_MERIT, 0.0
    if low < math.inf:
        width = (high - low) / (splits + 1.0)
        for k in range(splits):
            value = low + width * (k + 1)
            if low < value < high:
                divide_by_number(trees, splitter, value, stride)
                merit = merit_of(trees, 2, before, stride)
                if merit > best:
                    best, threshold = merit, value
    return best, threshold


@native
def best_value(
    trees: Trees, splitter: int, listed: int, values: int, before: float, classes: int, stride: int
) -> tuple[float, int, int]:
    """Return the best merit of a nominal splitter, the kind of branch, and the pair; NONE as kind for no split.

    `orders` has the values from `listed` on: first in the order of River's set, then sorted.
    """
    best, kind, pair = NO_MERIT, NONE, NONE
    if trees.pool[0].binary_split == 0:
        divide_by_all_values(trees, splitter, listed + values, values, classes, stride)
        best, kind = merit_of(trees, values, before, stride), MULTIWAY
    for k in range(values):
        divide_by_value(trees, splitter, trees.orders[listed + k], stride)
        merit = merit_of(trees, 2, before, stride)
        if merit > best:
            best, kind, pair = merit, BINARY, trees.orders[listed + k]
    return best, kind, pair


@native
def is_pure(cells: Any, first: int) -> bool:
    """Tell whether a leaf has seen less than two classes."""
    count, at = 0, first
    while at >= 0 and count < 2:  # noqa: PLR2004
        count += cells[at].n != 0.0
        at = cells[at].next
    return count < 2  # noqa: PLR2004


@native
def is_dominated(trees: Trees, node: int) -> bool:
    """Tell whether one class has so much of a leaf's weight that River does not look for splits."""
    cells, at = trees.cells, trees.nodes[node].first_weight
    most = cells[at].n
    while at >= 0:
        most = max(most, cells[at].n)
        at = cells[at].next
    total = weight_of(cells, trees.nodes[node].first_weight, trees.pool[0].compensated)
    return bool(most != 0.0 and most / total > trees.pool[0].share_max)


@native
def bound(trees: Trees, node: int) -> float:
    """Return the Hoeffding bound of a leaf."""
    options, classes, at = trees.pool[0], 0, trees.nodes[node].first_weight
    while at >= 0:
        classes += 1
        at = trees.cells[at].next
    span = 1.0 if options.criterion == GINI else math.log2(max(classes, 2))
    weight = weight_of(trees.cells, trees.nodes[node].first_weight, options.compensated)
    return math.sqrt((span * span * math.log(1.0 / options.delta)) / (2.0 * weight))


@native
def activate_leaves(trees: Trees, tree: int) -> None:
    """Activate the leaves that were deactivated, as River does after each split while there is memory."""
    nodes = trees.nodes
    if trees.trees[tree].inactive == 0:
        return
    at = trees.trees[tree].root
    while at >= 0:
        if nodes[at].kind == LEAF:
            if nodes[at].active == 0 and nodes[at].depth < trees.pool[0].max_depth:
                nodes[at].active = 1
                trees.trees[tree].active += 1
                trees.trees[tree].inactive -= 1
        elif nodes[at].first_child >= 0:
            at = trees.cells[nodes[at].first_child].first
            continue
        # The next node in order: the next child of the nearest branch that has one.
        while at >= 0:
            link = nodes[at].link
            if link >= 0 and trees.cells[link].next >= 0:
                at = trees.cells[trees.cells[link].next].first
                break
            at = nodes[at].parent


@native
def deactivate(trees: Trees, tree: int, node: int) -> None:
    """Make a leaf inactive: it only counts its classes, and remembers its poor attributes."""
    nodes, cells = trees.nodes, trees.cells
    at = nodes[node].first_splitter
    nodes[node].first_splitter = nodes[node].last_splitter = NONE
    while at >= 0:
        following = cells[at].next
        cells[at].next = NONE
        if cells[at].kind != DISABLED:
            empty_splitter(cells, trees.pool, at)
            give_back(cells, trees.pool, at, at)
        elif nodes[node].first_splitter < 0:
            nodes[node].first_splitter = nodes[node].last_splitter = at
        else:
            cells[nodes[node].last_splitter].next = at
            nodes[node].last_splitter = at
        at = following
    nodes[node].active = 0
    trees.trees[tree].inactive += 1
    trees.trees[tree].active -= 1


@native
def give_children(trees: Trees, node: int, children: int, listed: int, stride: int) -> None:
    """Give a new branch a leaf for each distribution; those of a multiway branch have the pairs from `listed` on."""
    for child in range(children):
        pair = trees.orders[listed + child] if listed >= 0 else NONE
        leaf = add_child(trees.nodes, trees.cells, trees.pool, node, pair)
        for at in range(child * stride, child * stride + trees.sizes[child]):
            add_weight(trees.nodes, trees.cells, trees.pool, leaf, trees.parts[at].member, trees.parts[at].weight)
        first = trees.nodes[leaf].first_weight
        trees.nodes[leaf].attempted = weight_of(trees.cells, first, trees.pool[0].compensated)


@native
def branch_off(
    trees: Trees, tree: int, node: int, splitter: int, kind: int, threshold: float, pair: int, listed: int, classes: int
) -> None:
    """Turn a leaf into a branch with new leaves."""
    stride, slot = len(trees.classes), trees.cells[splitter].key
    children, first = 2, NONE
    if kind == NUMERIC:
        divide_by_number(trees, splitter, threshold, stride)
    elif kind == BINARY:
        divide_by_value(trees, splitter, pair, stride)
    else:
        children = trees.cells[splitter].count
        first = listed + children
        divide_by_all_values(trees, splitter, first, children, classes, stride)
    drop_splitters(trees.nodes, trees.cells, trees.pool, node)
    branch = trees.nodes[node]
    branch.kind, branch.feature, branch.threshold, branch.pair, branch.stale = kind, slot, threshold, pair, 1
    give_children(trees, node, children, first, stride)
    trees.trees[tree].active += children - 1


@native
def disable_poor(trees: Trees, node: int, best: float, limit: float) -> None:
    """Disable the splitters of a leaf whose merit is too far below the best one."""
    at = trees.nodes[node].first_splitter
    while at >= 0:
        cell = trees.cells[at]
        if cell.kind != DISABLED and cell.high != 0.0 and best - cell.squares > limit:
            empty_splitter(trees.cells, trees.pool, at)
            trees.cells[at].kind = DISABLED
        at = trees.cells[at].next


@native
def suggest(
    trees: Trees, splitter: int, listed: int, before: float, classes: int, stride: int
) -> tuple[float, int, float, int]:
    """Return the best split of a splitter: its merit, the kind of branch (NONE for no split), threshold and pair.

    The merit is also noted in the splitter's cell: `disable_poor` compares them.
    """
    cells, kind, threshold, pair = trees.cells, NONE, 0.0, NONE
    if cells[splitter].kind == GAUSSIAN:
        merit, threshold = best_number(trees, splitter, before, stride)
        kind = NUMERIC if merit > NO_MERIT else NONE
    else:
        merit, kind, pair = best_value(trees, splitter, listed, cells[splitter].count, before, classes, stride)
    # River takes a feature without a name, or bucket 0, for no feature here.
    named = kind >= 0 and trees.nominal[cells[splitter].key] < UNNAMED
    cells[splitter].squares, cells[splitter].high = merit, 1.0 if named else 0.0
    return merit, kind, threshold, pair


@native
def attempt_split(trees: Trees, tree: int, node: int, classes: int) -> None:  # noqa: C901 a step each, as River has them
    """Attempt to split a leaf, as River's `_attempt_to_split` does.

    The last of equally good splits wins. Without a split before it, a leaf of one splitter needs no bound.
    """
    nodes, cells, options = trees.nodes, trees.cells, trees.pool[0]
    if is_pure(cells, nodes[node].first_weight):
        return
    before, dominated = entropy_of_leaf(cells, nodes[node].first_weight), is_dominated(trees, node)
    suggestions, best, second = (1 if options.preprune != 0 or dominated else 0), NO_MERIT, NO_MERIT
    chosen, kind, threshold, pair, listed, orders = NONE, NONE, 0.0, NONE, NONE, 0
    at = NONE if dominated else int(nodes[node].first_splitter)
    while at >= 0:
        if cells[at].kind != DISABLED:
            found = suggest(trees, at, orders + 1, before, classes, len(trees.classes))
            if suggestions == 0 or found[0] >= best:
                second, best = best, found[0]
                chosen, kind, threshold, pair, listed = at, found[1], found[2], found[3], orders + 1
            elif found[0] >= second:
                second = found[0]
            suggestions += 1
            if cells[at].kind == NOMINAL:
                orders += 1 + 2 * cells[at].count
        at = int(cells[at].next)
    splits = suggestions > 0
    if suggestions > 1:
        limit = bound(trees, node)
        splits = best - second > limit or limit < options.tau
        if options.poor != 0 and options.leaf == MAJORITY:
            disable_poor(trees, node, best, limit)
    if splits:
        if kind < 0:
            deactivate(trees, tree, node)
        else:
            branch_off(trees, tree, node, chosen, kind, threshold, pair, listed, classes)
        activate_leaves(trees, tree)
