"""Trees as lists of numbers: the structure, the features and categories that it names, and its learned numbers.

Before the structure stands how many learned numbers, nodes, cells, entries of the structure, features and categories
there are. In the structure each tree follows, node by node, a branch before its children. Equal trees have equal lists,
wherever their nodes and cells lie.
"""

# ruff: noqa: FBT001, PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.tree.cells import (
    add_child,
    add_splitter,
    add_under,
    add_value,
    add_weight,
    new_node,
)
from headrace.state.compiled.ops.tree.memory import (
    BINARY,
    DISABLED,
    LEAF,
    MULTIWAY,
    NOMINAL,
    NONE,
    NUMERIC,
    SEEN,
    Trees,
)
from headrace.state.compiled.program import GROWN_HEAD

# Positions in `cursor`.
STRUCTURE, SLOTS, PAIRS, NUMBERS, NODES, CELLS = range(6)


@native
def say(trees: Trees, which: int, target: Any, value: float, writes: bool) -> None:
    """Write the next entry of one of the lists, or only count it."""
    at = trees.cursor[which]
    if writes:
        target[at] = value
    trees.cursor[which] = at + 1


@native
def say_weights(trees: Trees, shapes: Any, numbers: Any, first: int, writes: bool) -> None:
    """Write a list of keys with their weights."""
    count, at = 0, first
    while at >= 0:
        count, at = count + 1, trees.cells[at].next
    say(trees, STRUCTURE, shapes, count, writes)
    trees.cursor[CELLS] += count
    at = first
    while at >= 0:
        say(trees, STRUCTURE, shapes, trees.cells[at].key, writes)
        say(trees, NUMBERS, numbers, trees.cells[at].n, writes)
        at = trees.cells[at].next


@native
def say_counts(trees: Trees, shapes: Any, numbers: Any, first: int, writes: bool) -> None:
    """Write the values of a class of a nominal splitter, or those of the splitter itself, which have no weight."""
    count, at = 0, first
    while at >= 0:
        count, at = count + 1, trees.cells[at].next
    say(trees, STRUCTURE, shapes, count, writes)
    trees.cursor[CELLS] += count
    at = first
    while at >= 0:
        say(trees, PAIRS, shapes, trees.cells[at].key, writes)
        say(trees, NUMBERS, numbers, trees.cells[at].n, writes)
        at = trees.cells[at].next


@native
def say_splitter(trees: Trees, shapes: Any, numbers: Any, splitter: int, writes: bool) -> None:
    """Write a splitter."""
    cells, kind = trees.cells, trees.cells[splitter].kind
    say(trees, STRUCTURE, shapes, kind, writes)
    say(trees, SLOTS, shapes, cells[splitter].key, writes)
    trees.cursor[CELLS] += 1
    if kind == DISABLED:
        return
    count, at = 0, cells[splitter].first
    while at >= 0:
        count, at = count + 1, cells[at].next
    say(trees, STRUCTURE, shapes, count, writes)
    trees.cursor[CELLS] += count
    if kind == NOMINAL:
        say(trees, NUMBERS, numbers, cells[splitter].n, writes)
        say(trees, NUMBERS, numbers, cells[splitter].mean, writes)
        say_counts(trees, shapes, numbers, cells[splitter].first_value, writes)
    at = cells[splitter].first
    while at >= 0:
        say(trees, STRUCTURE, shapes, cells[at].key, writes)
        if kind == NOMINAL:
            say_counts(trees, shapes, numbers, cells[at].first, writes)
        else:
            say(trees, NUMBERS, numbers, cells[at].n, writes)
            say(trees, NUMBERS, numbers, cells[at].mean, writes)
            say(trees, NUMBERS, numbers, cells[at].squares, writes)
            say(trees, NUMBERS, numbers, cells[at].low, writes)
            say(trees, NUMBERS, numbers, cells[at].high, writes)
        at = cells[at].next


@native
def say_node(trees: Trees, shapes: Any, numbers: Any, node: int, writes: bool) -> None:
    """Write a node without its children."""
    own = trees.nodes[node]
    trees.cursor[NODES] += 1
    say(trees, STRUCTURE, shapes, own.kind, writes)
    say_weights(trees, shapes, numbers, own.first_weight, writes)
    if own.kind == LEAF:
        say(trees, STRUCTURE, shapes, own.active, writes)
        say(trees, NUMBERS, numbers, own.attempted, writes)
        say(trees, NUMBERS, numbers, own.majority_right, writes)
        say(trees, NUMBERS, numbers, own.bayes_right, writes)
        count, at = 0, own.first_splitter
        while at >= 0:
            count, at = count + 1, trees.cells[at].next
        say(trees, STRUCTURE, shapes, count, writes)
        at = own.first_splitter
        while at >= 0:
            say_splitter(trees, shapes, numbers, at, writes)
            at = trees.cells[at].next
        return
    say(trees, STRUCTURE, shapes, own.children, writes)
    say(trees, SLOTS, shapes, own.feature, writes)
    trees.cursor[CELLS] += own.children
    if own.kind == NUMERIC:
        say(trees, NUMBERS, numbers, own.threshold, writes)
    elif own.kind == BINARY:
        say(trees, PAIRS, shapes, own.pair, writes)
    else:
        at = own.first_child
        while at >= 0:
            say(trees, PAIRS, shapes, trees.cells[at].key, writes)
            at = trees.cells[at].next


@native
def say_trees(trees: Trees, shapes: Any, numbers: Any, writes: bool) -> None:
    """Write all trees, from the positions in `cursor` on."""
    for tree in range(len(trees.trees)):
        own = trees.trees[tree]
        at = own.root
        say(trees, STRUCTURE, shapes, 1 if at >= 0 else 0, writes)
        say(trees, STRUCTURE, shapes, own.active, writes)
        say(trees, STRUCTURE, shapes, own.inactive, writes)
        say(trees, STRUCTURE, shapes, own.grows, writes)
        say(trees, NUMBERS, numbers, own.seen, writes)
        say(trees, NUMBERS, numbers, own.active_bytes, writes)
        say(trees, NUMBERS, numbers, own.inactive_bytes, writes)
        say(trees, NUMBERS, numbers, own.overhead, writes)
        while at >= 0:
            say_node(trees, shapes, numbers, at, writes)
            if trees.nodes[at].first_child >= 0:
                at = trees.cells[trees.nodes[at].first_child].first
                continue
            while at >= 0:
                link = trees.nodes[at].link
                if link >= 0 and trees.cells[link].next >= 0:
                    at = trees.cells[trees.cells[link].next].first
                    break
                at = trees.nodes[at].parent


@native
def store_trees(trees: Trees, shapes: Any, shape: int, numbers: Any, number: int, writes: bool) -> tuple[int, int]:
    """Write the trees, or only count; return the positions behind them."""
    cursor = trees.cursor
    for k in range(len(cursor)):
        cursor[k] = 0
    say_trees(trees, shapes, numbers, writes=False)
    structure, slots, pairs, count = cursor[STRUCTURE], cursor[SLOTS], cursor[PAIRS], cursor[NUMBERS]
    if writes:
        shapes[shape] = count
        shapes[shape + 1] = cursor[NODES]
        shapes[shape + 2] = cursor[CELLS]
        shapes[shape + 3] = structure
        shapes[shape + 4] = slots
        shapes[shape + 5] = pairs
        cursor[STRUCTURE] = shape + GROWN_HEAD
        cursor[SLOTS] = shape + GROWN_HEAD + structure
        cursor[PAIRS] = shape + GROWN_HEAD + structure + slots
        cursor[NUMBERS] = number
        say_trees(trees, shapes, numbers, writes=True)
    return shape + GROWN_HEAD + structure + slots + pairs, number + count


@native
def hear(trees: Trees, which: int, source: Any) -> Any:
    """Return the next entry of one of the lists."""
    at = trees.cursor[which]
    trees.cursor[which] = at + 1
    return source[at]


@native
def hear_splitter(trees: Trees, shapes: Any, numbers: Any, node: int) -> None:
    """Read a splitter."""
    kind, slot = hear(trees, STRUCTURE, shapes), hear(trees, SLOTS, shapes)
    splitter = add_splitter(trees.nodes, trees.cells, trees.pool, node, slot, kind)
    if kind == DISABLED:
        return
    classes = hear(trees, STRUCTURE, shapes)
    if kind == NOMINAL:
        trees.nominal[slot] |= SEEN
        trees.pool[0].nominals = 1
        trees.cells[splitter].n = hear(trees, NUMBERS, numbers)
        trees.cells[splitter].mean = hear(trees, NUMBERS, numbers)
        for _ in range(hear(trees, STRUCTURE, shapes)):
            add_value(trees.cells, trees.pool, splitter, hear(trees, PAIRS, shapes))
            hear(trees, NUMBERS, numbers)
    for _ in range(classes):
        at = add_under(trees.cells, trees.pool, splitter, hear(trees, STRUCTURE, shapes), 0.0)
        if kind == NOMINAL:
            for _value in range(hear(trees, STRUCTURE, shapes)):
                add_under(trees.cells, trees.pool, at, hear(trees, PAIRS, shapes), hear(trees, NUMBERS, numbers))
        else:
            trees.cells[at].n = hear(trees, NUMBERS, numbers)
            trees.cells[at].mean = hear(trees, NUMBERS, numbers)
            trees.cells[at].squares = hear(trees, NUMBERS, numbers)
            trees.cells[at].low = hear(trees, NUMBERS, numbers)
            trees.cells[at].high = hear(trees, NUMBERS, numbers)


@native
def hear_node(trees: Trees, shapes: Any, numbers: Any, node: int) -> None:
    """Read a node without its children."""
    own = trees.nodes[node]
    own.kind = hear(trees, STRUCTURE, shapes)
    for _ in range(hear(trees, STRUCTURE, shapes)):
        key = hear(trees, STRUCTURE, shapes)
        add_weight(trees.nodes, trees.cells, trees.pool, node, key, hear(trees, NUMBERS, numbers))
    if own.kind == LEAF:
        own.active = hear(trees, STRUCTURE, shapes)
        own.attempted = hear(trees, NUMBERS, numbers)
        own.majority_right = hear(trees, NUMBERS, numbers)
        own.bayes_right = hear(trees, NUMBERS, numbers)
        for _ in range(hear(trees, STRUCTURE, shapes)):
            hear_splitter(trees, shapes, numbers, node)
        return
    children = hear(trees, STRUCTURE, shapes)
    own.feature = hear(trees, SLOTS, shapes)
    if own.kind == NUMERIC:
        own.threshold = hear(trees, NUMBERS, numbers)
    else:
        trees.nominal[own.feature] |= SEEN
        trees.pool[0].nominals = 1
        if own.kind == BINARY:
            own.pair = hear(trees, PAIRS, shapes)
        else:
            # The children's pairs, until they are read.
            own.pair = trees.cursor[PAIRS]
            trees.cursor[PAIRS] += children
    # How many children are still to be read.
    own.active = children


@native
def hear_tree(trees: Trees, shapes: Any, numbers: Any, tree: int) -> None:
    """Read a tree."""
    own = trees.trees[tree]
    has_root = hear(trees, STRUCTURE, shapes)
    own.active = hear(trees, STRUCTURE, shapes)
    own.inactive = hear(trees, STRUCTURE, shapes)
    own.grows = hear(trees, STRUCTURE, shapes)
    own.seen = hear(trees, NUMBERS, numbers)
    own.active_bytes = hear(trees, NUMBERS, numbers)
    own.inactive_bytes = hear(trees, NUMBERS, numbers)
    own.overhead = hear(trees, NUMBERS, numbers)
    own.root = NONE
    if has_root == 0:
        return
    at = new_node(trees.nodes, trees.pool, 0, NONE, NONE)
    own.root = at
    hear_node(trees, shapes, numbers, at)
    while at >= 0:
        node = trees.nodes[at]
        if node.kind != LEAF and node.active > 0:
            # `active` counts the children that are still to be read.
            node.active -= 1
            pair = shapes[node.pair + node.children] if node.kind == MULTIWAY else NONE
            at = add_child(trees.nodes, trees.cells, trees.pool, at, pair)
            hear_node(trees, shapes, numbers, at)
            continue
        if node.kind == MULTIWAY:
            node.pair = NONE
        at = int(node.parent)


@native
def load_trees(trees: Trees, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """Read trees that `store_trees` has written, into an empty memory with room; return the positions behind them."""
    cursor = trees.cursor
    structure, slots, pairs = shapes[shape + 3], shapes[shape + 4], shapes[shape + 5]
    end = number + shapes[shape]
    cursor[STRUCTURE] = shape + GROWN_HEAD
    cursor[SLOTS] = shape + GROWN_HEAD + structure
    cursor[PAIRS] = shape + GROWN_HEAD + structure + slots
    cursor[NUMBERS] = number
    for tree in range(len(trees.trees)):
        hear_tree(trees, shapes, numbers, tree)
    return shape + GROWN_HEAD + structure + slots + pairs, end


@native
def clear_trees(trees: Trees) -> None:
    """Forget all trees."""
    for tree in range(len(trees.trees)):
        own = trees.trees[tree]
        own.root, own.active, own.inactive, own.grows = NONE, 0, 0, 1
        own.seen, own.active_bytes, own.inactive_bytes, own.overhead = 0.0, 0.0, 0.0, 1.0
    pool = trees.pool[0]
    pool.nodes, pool.free_node, pool.free_nodes = 0, NONE, 0
    pool.cells, pool.free_cell, pool.free_cells = 0, NONE, 0
    pool.values, pool.ordered = 0, 0
    if pool.nominals != 0:
        for slot in range(len(trees.nominal)):
            trees.nominal[slot] &= ~SEEN
        pool.nominals = 0
