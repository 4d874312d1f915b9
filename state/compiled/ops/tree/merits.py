"""The merit of a split, by River's criteria. A split is a distribution of classes for each child.

Child number d has its weights in `weights` from d * stride on, `sizes[d]` of them, and their classes in `members`.
"""

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import closed, lost
from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.tree.memory import GINI, INFO_GAIN, Trees

NO_MERIT = -math.inf


@native
def sum_of(parts: Any, first: int, size: int, compensated: int) -> float:
    """Return a sum as Python's `sum` adds it up."""
    total, rest = 0.0, 0.0
    for at in range(first, first + size):
        if compensated != 0:
            rest += lost(total, parts[at].weight)
        total += parts[at].weight
    return float(closed(total, rest, compensated))


@native
def entropy(parts: Any, first: int, size: int) -> float:
    """Return the entropy of a distribution, in bits."""
    found, total = 0.0, 0.0
    for at in range(first, first + size):
        if parts[at].weight > 0.0:
            found -= parts[at].weight * math.log2(parts[at].weight)
            total += parts[at].weight
    return (found + total * math.log2(total)) / total if total > 0.0 else 0.0


@native
def entropy_of_leaf(cells: Any, first: int) -> float:
    """Return the entropy of a list of weights."""
    found, total, at = 0.0, 0.0, first
    while at >= 0:
        if cells[at].n > 0.0:
            found -= cells[at].n * math.log2(cells[at].n)
            total += cells[at].n
        at = cells[at].next
    return (found + total * math.log2(total)) / total if total > 0.0 else 0.0


@native
def impurity(parts: Any, first: int, size: int, total: float) -> float:
    """Return the Gini impurity of a distribution."""
    found = 1.0
    if total != 0.0:
        for at in range(first, first + size):
            part = parts[at].weight / total
            found -= part * part
    return found


@native
def weight_for(trees: Trees, child: int, truth: int, stride: int) -> float:
    """Return a child's weight of the class that equals 1 or 0, or -1 if it does not have that class."""
    for at in range(child * stride, child * stride + trees.sizes[child]):
        if trees.classes[trees.parts[at].member].truth == truth:
            return float(trees.parts[at].weight)
    return -1.0


@native
def hellinger(trees: Trees, stride: int) -> float:
    """Return the Hellinger distance of the first two children; 0 without the classes 1 and 0, as River does."""
    two = trees.pool[0].two
    left_yes, left_no = weight_for(trees, 0, 1, stride), weight_for(trees, 0, 0, stride)
    right_yes, right_no = weight_for(trees, 1, 1, stride), weight_for(trees, 1, 0, stride)
    if min(left_yes, left_no) < 0.0 or min(right_yes, right_no) < 0.0:
        return 0.0
    no, yes = left_no + right_no, left_yes + right_yes
    left = math.pow(math.sqrt(left_no / no) - math.sqrt(left_yes / yes), two)
    right = math.pow(math.sqrt(right_no / no) - math.sqrt(right_yes / yes), two)
    return math.sqrt(left + right)


@native
def merit_of(trees: Trees, children: int, before: float, stride: int) -> float:
    """Return the merit of a split into children; `before` is the entropy of the leaf."""
    parts, sizes, options = trees.parts, trees.sizes, trees.pool[0]
    total = 0.0
    for child in range(children):
        total += sum_of(parts, child * stride, sizes[child], options.compensated)
    large = 0
    if total > 0.0:
        for child in range(children):
            if sum_of(parts, child * stride, sizes[child], options.compensated) / total > options.fraction_min:
                large += 1
    if large < 2:  # noqa: PLR2004
        return NO_MERIT
    if options.criterion == INFO_GAIN:
        after = 0.0
        for child in range(children):
            weight = sum_of(parts, child * stride, sizes[child], options.compensated)
            after += weight * entropy(parts, child * stride, sizes[child])
        return float(before - after / total)
    if options.criterion == GINI:
        found = 0.0
        for child in range(children):
            weight = sum_of(parts, child * stride, sizes[child], options.compensated)
            found += (weight / total) * impurity(parts, child * stride, sizes[child], weight)
        return 1.0 - found
    return float(hellinger(trees, stride))
