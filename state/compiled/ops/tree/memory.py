"""The arrays of trees: nodes, the cells of their lists, and the options that all trees of a model share."""

from typing import Any, NamedTuple

import numpy as np

NONE = -1
"""No node, no cell, no pair."""

# Kinds of a node.
LEAF, NUMERIC, BINARY, MULTIWAY = range(4)
# Kinds of a splitter. A disabled one is a poor attribute, which the leaf ignores from then on.
GAUSSIAN, NOMINAL, DISABLED = range(3)
# Predictions at a leaf, by River's names: mc, nb, nba.
MAJORITY, BAYES, ADAPTIVE = range(3)
INFO_GAIN, GINI, HELLINGER = range(3)
# What `nominal` says of a feature: compared as a category somewhere, or by option; 4 is added for a name that is false.
SEEN, BY_OPTION, UNNAMED = 1, 2, 4

NODE = np.dtype(
    [
        (name, np.int32)
        for name in (
            # What it is, how deep, its parent, and the cell in which the parent lists it.
            "kind", "depth", "parent", "link",
            # A branch: the slot of its feature, the pair that it compares with, the list of its children.
            "feature", "pair", "first_child", "last_child", "children",
            # The weights of the classes, in River's order: of a leaf now, of a branch when it was split.
            "first_weight", "last_weight",
            # A leaf: the splitters, whether it has any at all (is active).
            "first_splitter", "last_splitter", "active",
            # A branch: whether `total` is out of date.
            "stale",
        )
    ]
    + [(name, np.float64) for name in ("threshold", "attempted", "majority_right", "bayes_right", "total")]
)  # fmt: skip
"""A node. `attempted` is the weight at the last attempt to split the leaf."""

CELL = np.dtype(
    [(name, np.int32) for name in ("next", "key", "kind", "first", "last", "count", "first_value", "last_value")]
    + [(name, np.float64) for name in ("n", "mean", "squares", "low", "high")]
)
"""An entry of a list; `next` is the entry behind it.

- A weight: `key` is the class's place, `n` the weight.
- A child: `key` is the pair of a multiway branch's value, `first` the node.
- A splitter: `key` is the slot, `first` to `last` list its classes. A nominal one lists its values, `count` of them,
  with the pair as `key`; `n` is the weight that it has seen, `mean` that of missing values.
- A class of a Gaussian splitter: `key` is its place, the rest its estimate.
- A class of a nominal splitter: `key` is its place, `first` to `last` list its values, each with the pair as `key` and
  the weight as `n`.
"""

TREE = np.dtype(
    [(name, np.int64) for name in ("root", "active", "inactive", "grows")]
    + [(name, np.float64) for name in ("seen", "active_bytes", "inactive_bytes", "overhead")]
)
"""A tree: its root, its leaves by kind, whether it may grow, the weight learned, River's estimates of its size."""

OPTIONS = np.dtype(
    [
        (name, np.int64)
        for name in ("max_depth", "criterion", "leaf", "binary_split", "preprune", "poor", "splits", "compensated")
    ]
    + [
        (name, np.float64)
        for name in ("grace", "delta", "tau", "bayes_from", "fraction_min", "share_max", "period", "two", "half")
    ]
)
"""The options of the trees. `splits` is the number of points at which a Gaussian splitter would split."""

POOL = np.dtype(
    [
        (name, np.int64)
        for name in (
            # How many nodes and cells were ever used, the first free one, and the number of free ones.
            "nodes", "free_node", "free_nodes", "cells", "free_cell", "free_cells",
            # The most values that a nominal splitter has, and whether `nominal` says of any feature that it is one.
            "values", "nominals",
            # What the machine waits for: room for so many nodes and cells, or the order of the values of this leaf.
            "nodes_wanted", "cells_wanted", "leaf_wanted", "children_wanted",
            # How many nodes and cells there is room for, and how many children in a split.
            "nodes_room", "cells_room", "children_room",
            # One more than the leaf whose values `orders` has, 0 for none; and whether these can be sorted.
            "ordered", "sortable",
        )
    ]
    + [(name, kind) for name, (kind, *_) in (OPTIONS.fields or {}).items()]
)  # fmt: skip
"""What the trees of a model share, their options among it."""

FRAME = np.dtype(
    [
        (name, np.int64)
        for name in (
            # The row: where it begins in the arrays of all rows, its length, and the mark of its features.
            "row", "size", "mark",
            # The number of classes, the place of the record's class, the tree, the node that learns the record, and
            # which of its predictions are right.
            "classes", "place", "tree", "node", "right",
            # Stored models: whether to write or only to count; the positions in `shapes` and `numbers`, before and then
            # behind the trees; the lengths of both.
            "writes", "shape", "number",
        )
    ]
    + [("weight", np.float64)]
)  # fmt: skip
"""What the machine hands to a unit, and what comes back."""

CLASS_WORK = np.dtype(
    [(name, np.int64) for name in ("rank", "truth", "sorted", "column")]
    + [(name, np.float64) for name in ("vote", "share", "chance")]
)
"""By class number: `rank`, its place in the sorted order of all classes, and `truth`, which is 1 or 0 for a class that
equals it, else -1. By position: `sorted`, the places of the model's classes in their sorted order, and `chance`, the
probability that a tree answers. By place: `column`, the position in `sorted`; `vote` and `share`, of the record.
"""

ENTRY_WORK = np.dtype([("pair", np.int64), ("found", np.int64)])
"""By position in the row: the value's category, and the leaf's splitter of that feature."""

PART_WORK = np.dtype([("weight", np.float64), ("member", np.int64)])
"""Of the distributions of a split: a weight, and the place of its class."""


class Trees(NamedTuple):
    """The trees of the loaded model, and room for the work on one record.

    `nominal` (by slot) says whether values of the feature are compared as categories. `orders` are, for each nominal
    splitter of a leaf, the number of its values, their pairs in the order of River's set, and the pairs sorted by
    value. `sizes` has the number of classes of each child of a split. `cursor` is for storing.
    """

    nodes: Any
    cells: Any
    trees: Any
    pool: Any
    classes: Any
    entries: Any
    nominal: Any
    orders: Any
    parts: Any
    sizes: Any
    cursor: Any


class TreeCalls(NamedTuple):
    """What the machine itself needs of trees: the units' addresses, the heap that they take, and the frame in it.

    `entries`, `nominal`, `classes` and `pool` are those of `Trees`.
    """

    calls: Any
    heap: Any
    frame: Any
    entries: Any
    nominal: Any
    classes: Any
    pool: Any


HEAP = (
    *Trees._fields,
    *("frame", "slots", "memory_classes", "row_slots", "row_kinds", "row_values", "shapes", "numbers"),
)
"""The arrays of the heap, in its order: first those of `Trees`, then those of the machine and of a stored model."""
