"""Softmax regression on the machine: a weight for each feature and class, and one step for all classes together."""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import closed, lost
from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.ops.linear import rate_at
from headrace.state.compiled.program import (
    FACTOR,
    RANK,
    SCORE,
    STEPS,
    WEIGHTS,
)

_CELLS = 2
_LOW, _HIGH = 1e-15, 1 - 1e-15
"""River's own bounds of a probability."""


@inlined
def product(grid: Any, place: int, tally: Any, slots: Any, values: Any, compensated: float) -> float:
    """Return weights · features of one class, in River's order of the sum: the order of the shorter of the two."""
    total, rest, width = 0.0, 0.0, tally.shape[1]
    shorter, before, turn = tally[WEIGHTS, place] < len(slots), 0.0, 0
    # In the row's order, a turn takes the next feature. In the weights' order, it searches for the weight met next.
    while turn < len(slots):
        found = turn
        if shorter:
            nearest, found = math.inf, -1
            for k in range(len(slots)):
                rank = grid[(slots[k] * width + place) * _CELLS + RANK]
                if before < rank < nearest:
                    nearest, found = rank, k
            if found < 0:
                break
            before = nearest
        turn += 1
        at = (slots[found] * width + place) * _CELLS
        if grid[at + RANK] != 0.0:
            term = grid[at + FACTOR] * values[found]
            rest += lost(total, term)
            total += term
    return closed(total, rest, compensated)


@native
def softmax(grid: Any, tally: Any, classes: int, slots: Any, values: Any, compensated: float) -> None:
    """Score a row: the probability of each class."""
    for place in range(classes):
        tally[SCORE, place] = product(grid, place, tally, slots, values, compensated)
    most, total = tally[SCORE, 0], 0.0
    for place in range(1, classes):
        # Not `max`: NaN must pass through as in Python's.
        most = tally[SCORE, place] if tally[SCORE, place] > most else most  # noqa: FURB136
    for place in range(classes):
        tally[SCORE, place] = math.exp(tally[SCORE, place] - most)
        total += tally[SCORE, place]
    for place in range(classes):
        tally[SCORE, place] /= total


@native
def softmax_learn(
    grid: Any, tally: Any, before: int, classes: int, true: int, op: Any, slots: Any, values: Any
) -> None:
    """Learn a scored row: one step of each class's optimizer against the gradient of the cross-entropy."""
    for place in range(classes):
        slope = tally[SCORE, place] if place < before else 0.0
        slope = _HIGH if slope > _HIGH else slope  # noqa: FURB136
        slope = _LOW if slope < _LOW else slope  # noqa: FURB136
        slope -= 1.0 if place == true else 0.0
        rate = rate_at(op.rate, op.rate_a, op.rate_b, tally[STEPS, place])
        for k in range(len(slots)):
            cell = (slots[k] * tally.shape[1] + place) * _CELLS
            if grid[cell + RANK] == 0.0:
                tally[WEIGHTS, place] += 1.0
                grid[cell + RANK] = tally[WEIGHTS, place]
            grid[cell + FACTOR] -= rate * (values[k] * slope + op.l2 * grid[cell + FACTOR])
        tally[STEPS, place] += 1.0
