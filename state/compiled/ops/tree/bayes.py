"""The answers of a leaf: its majority, or naive Bayes over its splitters, as River computes them."""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import closed, lost
from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.ops.tree.cells import add_under, find
from headrace.state.compiled.ops.tree.memory import ADAPTIVE, BAYES, DISABLED, GAUSSIAN, NOMINAL, NONE, Trees
from headrace.state.compiled.ops.tree.paths import place_in, weight_of
from headrace.state.compiled.program import FINE, OVERFLOW, STRING, WRONG_TYPE

_HALF_LOG_TAU = 0.5 * math.log(math.tau)
_NO_CHANCE = -math.inf


@native
def majority(nodes: Any, cells: Any, node: int, classes: Any, compensated: int) -> None:
    """Vote by the weights of a leaf's classes: River's `normalize_values_in_dict`."""
    first = nodes[node].first_weight
    factor = weight_of(cells, first, compensated)
    plain = factor == 0.0 or math.isnan(factor)
    multiplier = 1.0 if plain else 1.0 / factor
    at = first
    while at >= 0:
        classes[cells[at].key].vote = cells[at].n if plain else cells[at].n * multiplier
        at = cells[at].next


@native
def log_density(estimate: Any, x: float, two: float) -> float:
    """Return the logarithm of a Gaussian's density at x; NaN if River raises because a square is too large."""
    if estimate.n > 1.0:
        variance = estimate.squares / (estimate.n - 1.0)
        if variance > 0.0:
            apart = x - estimate.mean
            square = math.pow(apart, two)
            if math.isinf(square) and not math.isinf(apart):
                return math.nan
            density = square / (-2.0 * variance) - _HALF_LOG_TAU - 0.5 * math.log(variance)
            return _NO_CHANCE if math.isnan(density) else density
    return _NO_CHANCE


@native
def vote_by_numbers(cells: Any, splitter: int, kind: int, x: float, classes: Any, two: float) -> int:
    """Add the log density of a number in each class that the leaf has seen."""
    at = cells[splitter].first
    while at >= 0:
        place = cells[at].key
        if classes[place].share > 0.0:
            if kind >= STRING:
                if cells[at].n > 1.0 and cells[at].squares / (cells[at].n - 1.0) > 0.0:
                    return WRONG_TYPE
            else:
                density = log_density(cells[at], x, two)
                if math.isnan(density):
                    return OVERFLOW
                if density > _NO_CHANCE:
                    classes[place].vote += density
        at = cells[at].next
    return FINE


@native
def vote_by_values(cells: Any, splitter: int, pair: int, classes: Any, compensated: int) -> None:
    """Add the logarithm of the part that a value has in each class that the leaf has seen."""
    at = cells[splitter].first
    while at >= 0:
        place = cells[at].key
        if classes[place].share > 0.0:
            value = find(cells, cells[at].first, pair) if pair >= 0 else NONE
            if value >= 0:
                part = cells[value].n / weight_of(cells, cells[at].first, compensated)
                if part > 0.0:
                    classes[place].vote += math.log(part)
        at = cells[at].next


@native
def normalize(cells: Any, first: int, classes: Any, compensated: int) -> None:
    """Turn the logarithms of the classes in a list of weights into probabilities: River's log-sum-exp."""
    most, at = classes[cells[first].key].vote, cells[first].next
    while at >= 0:
        most = max(classes[cells[at].key].vote, most)
        at = cells[at].next
    total, rest, at = 0.0, 0.0, first
    while at >= 0:
        term = math.exp(classes[cells[at].key].vote - most)
        if compensated != 0:
            rest += lost(total, term)
        total += term
        at = cells[at].next
    most += math.log(closed(total, rest, compensated))
    at = first
    while at >= 0:
        classes[cells[at].key].vote = math.exp(classes[cells[at].key].vote - most)
        at = cells[at].next


@native
def bayes(trees: Trees, node: int, slots: Any, mark: int, kinds: Any, values: Any) -> int:
    """Vote by naive Bayes: write the probability of each class of the leaf. Return 1, 0 for no vote, or less: a fault.

    The sums go class by class over the splitters in their order, as River's do.
    """
    nodes, cells, classes = trees.nodes, trees.cells, trees.classes
    compensated, first = trees.pool[0].compensated, nodes[node].first_weight
    total = weight_of(cells, first, compensated)
    if first < 0 or total == 0.0:
        return 0
    for place in range(len(classes)):
        classes[place].share = 0.0
    at = first
    while at >= 0:
        place, weight = cells[at].key, cells[at].n
        classes[place].share = weight
        classes[place].vote = math.log(weight / total) if weight > 0.0 else 0.0
        at = cells[at].next
    at = nodes[node].first_splitter
    while at >= 0:
        k = place_in(slots, mark, cells[at].key)
        if k >= 0 and cells[at].kind == GAUSSIAN:
            fault = vote_by_numbers(cells, at, kinds[k], values[k], classes, trees.pool[0].two)
            if fault != FINE:
                return -fault
        elif k >= 0 and cells[at].kind != DISABLED:
            vote_by_values(cells, at, trees.entries[k].pair, classes, compensated)
        at = cells[at].next
    normalize(cells, first, classes, compensated)
    return 1


@native
def best_of(nodes: Any, cells: Any, node: int, classes: Any) -> int:
    """Return the place of the class with the most votes at a leaf, the first of equal ones."""
    at = nodes[node].first_weight
    best = cells[at].key
    most, at = classes[best].vote, cells[at].next
    while at >= 0:
        if classes[cells[at].key].vote > most:
            best, most = cells[at].key, classes[cells[at].key].vote
        at = cells[at].next
    return int(best)


@native
def asks_bayes(nodes: Any, cells: Any, pool: Any, node: int) -> bool:
    """Tell whether a leaf answers by naive Bayes now."""
    if nodes[node].active == 0 or pool[0].leaf < BAYES:
        return False
    if pool[0].leaf == ADAPTIVE:
        return bool(nodes[node].bayes_right >= nodes[node].majority_right)
    return bool(weight_of(cells, nodes[node].first_weight, pool[0].compensated) >= pool[0].bayes_from)


@native
def predict_leaf(trees: Trees, node: int, slots: Any, mark: int, kinds: Any, values: Any) -> int:
    """Write the votes of a leaf: 1, 0 if it has none, or less: a fault."""
    if asks_bayes(trees.nodes, trees.cells, trees.pool, node):
        return int(bayes(trees, node, slots, mark, kinds, values))
    majority(trees.nodes, trees.cells, node, trees.classes, trees.pool[0].compensated)
    return 1 if trees.nodes[node].first_weight >= 0 else 0


@native
def meet_classes(trees: Trees, node: int, slots: Any, mark: int) -> None:
    """Let the nominal splitters of a leaf know all of its classes: in River, to ask for a class is to know it.

    The order of the classes decides the order of sums. It changes with the first learned record that is asked.
    """
    at = trees.nodes[node].first_splitter
    while at >= 0:
        if trees.cells[at].kind == NOMINAL and place_in(slots, mark, trees.cells[at].key) >= 0:
            weight = trees.nodes[node].first_weight
            while weight >= 0:
                place = trees.cells[weight].key
                if trees.cells[weight].n > 0.0 and find(trees.cells, trees.cells[at].first, place) < 0:
                    add_under(trees.cells, trees.pool, at, place, 0.0)
                weight = trees.cells[weight].next
        at = trees.cells[at].next
