"""Lists of cells: a new cell, the end of a list, and lists that are given back."""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.tree.memory import LEAF, NOMINAL, NONE


@native
def new_cell(cells: Any, pool: Any, key: int, n: float) -> int:
    """Return an empty cell. There must be room."""
    at = pool[0].free_cell
    if at >= 0:
        pool[0].free_cell = cells[at].next
        pool[0].free_cells -= 1
    else:
        at = pool[0].cells
        pool[0].cells += 1
    cell = cells[at]
    cell.next, cell.key, cell.kind, cell.first, cell.last = NONE, key, 0, NONE, NONE
    cell.count, cell.first_value, cell.last_value = 0, NONE, NONE
    cell.n, cell.mean, cell.squares, cell.low, cell.high = n, 0.0, 0.0, 0.0, 0.0
    return int(at)


@native
def new_node(nodes: Any, pool: Any, depth: int, parent: int, link: int) -> int:
    """Return a new active leaf without weights. There must be room."""
    at = pool[0].free_node
    if at >= 0:
        pool[0].free_node = nodes[at].parent
        pool[0].free_nodes -= 1
    else:
        at = pool[0].nodes
        pool[0].nodes += 1
    node = nodes[at]
    node.kind, node.depth, node.parent, node.link = LEAF, depth, parent, link
    node.feature, node.pair, node.first_child, node.last_child, node.children = NONE, NONE, NONE, NONE, 0
    node.first_weight, node.last_weight, node.first_splitter, node.last_splitter = NONE, NONE, NONE, NONE
    node.active, node.stale = 1, 1
    node.threshold, node.attempted, node.majority_right, node.bayes_right, node.total = 0.0, 0.0, 0.0, 0.0, 0.0
    return int(at)


@native
def find(cells: Any, first: int, key: int) -> int:
    """Return the cell of a list that has this key, or NONE."""
    at = first
    while at >= 0 and cells[at].key != key:
        at = cells[at].next
    return int(at)


@native
def add_weight(nodes: Any, cells: Any, pool: Any, node: int, key: int, n: float) -> None:
    """Add a class's weight to a node, behind the classes that it has."""
    cell = new_cell(cells, pool, key, n)
    if nodes[node].first_weight < 0:
        nodes[node].first_weight = cell
    else:
        cells[nodes[node].last_weight].next = cell
    nodes[node].last_weight = cell


@native
def add_splitter(nodes: Any, cells: Any, pool: Any, node: int, slot: int, kind: int) -> int:
    """Add a splitter to a leaf; return its cell."""
    cell = new_cell(cells, pool, slot, 0.0)
    cells[cell].kind = kind
    if nodes[node].first_splitter < 0:
        nodes[node].first_splitter = cell
    else:
        cells[nodes[node].last_splitter].next = cell
    nodes[node].last_splitter = cell
    return int(cell)


@native
def add_child(nodes: Any, cells: Any, pool: Any, parent: int, pair: int) -> int:
    """Add a leaf to a branch, for a multiway branch with the pair of its value; return the leaf."""
    cell = new_cell(cells, pool, pair, 0.0)
    child = new_node(nodes, pool, nodes[parent].depth + 1, parent, cell)
    cells[cell].first = child
    if nodes[parent].first_child < 0:
        nodes[parent].first_child = cell
    else:
        cells[nodes[parent].last_child].next = cell
    nodes[parent].last_child = cell
    nodes[parent].children += 1
    return int(child)


@native
def add_under(cells: Any, pool: Any, owner: int, key: int, n: float) -> int:
    """Add a cell to the list that another cell has; return it."""
    cell = new_cell(cells, pool, key, n)
    if cells[owner].first < 0:
        cells[owner].first = cell
    else:
        cells[cells[owner].last].next = cell
    cells[owner].last = cell
    return int(cell)


@native
def add_value(cells: Any, pool: Any, splitter: int, pair: int) -> None:
    """Add a value to those that a nominal splitter has seen."""
    cell = new_cell(cells, pool, pair, 0.0)
    if cells[splitter].first_value < 0:
        cells[splitter].first_value = cell
    else:
        cells[cells[splitter].last_value].next = cell
    cells[splitter].last_value = cell
    cells[splitter].count += 1
    pool[0].values = max(pool[0].values, cells[splitter].count)


@native
def give_back(cells: Any, pool: Any, first: int, last: int) -> None:
    """Make the cells of a list free."""
    if first < 0:
        return
    count, at = 1, first
    while at != last:
        at = cells[at].next
        count += 1
    cells[last].next = pool[0].free_cell
    pool[0].free_cell = first
    pool[0].free_cells += count


@native
def empty_splitter(cells: Any, pool: Any, splitter: int) -> None:
    """Make all cells of a splitter free but its own."""
    if cells[splitter].kind == NOMINAL:
        at = cells[splitter].first
        while at >= 0:
            give_back(cells, pool, cells[at].first, cells[at].last)
            at = cells[at].next
        give_back(cells, pool, cells[splitter].first_value, cells[splitter].last_value)
    give_back(cells, pool, cells[splitter].first, cells[splitter].last)
    cells[splitter].first = cells[splitter].last = NONE
    cells[splitter].first_value = cells[splitter].last_value = NONE
    cells[splitter].count = 0


@native
def drop_splitters(nodes: Any, cells: Any, pool: Any, node: int) -> None:
    """Make the cells of all splitters of a leaf free."""
    at = nodes[node].first_splitter
    while at >= 0:
        empty_splitter(cells, pool, at)
        at = cells[at].next
    give_back(cells, pool, nodes[node].first_splitter, nodes[node].last_splitter)
    nodes[node].first_splitter = nodes[node].last_splitter = NONE
