"""Gaussian naive Bayes on the machine: the mean and variance of each class's features, and a row's log likelihood."""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import closed, lost
from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.program import (
    CENTRE,
    FINE,
    SCORE,
    SQUARES,
    STRING,
    TIMES,
    WRONG_TYPE,
)

_CELLS = 3
_LEAST = 1e-9
_LEAST_LOG = math.log(_LEAST)
_ROOT = math.sqrt(2.0 * math.pi)


@native
def gaussian(grid: Any, tally: Any, classes: int, slots: Any, kinds: Any, values: Any, compensated: float) -> int:
    """Score a row: the log likelihood of its features in each class."""
    for place in range(classes):
        total, rest = 0.0, 0.0
        for k in range(len(slots)):
            at = (slots[k] * tally.shape[1] + place) * _CELLS
            term, times = _LEAST_LOG, grid[at + TIMES]
            variance = grid[at + SQUARES] / times if times != 0.0 else 0.0
            if variance > 0.0:
                if kinds[k] >= STRING:
                    return WRONG_TYPE
                sigma = math.sqrt(variance)
                x = (values[k] - grid[at + CENTRE]) / sigma
                term = math.log(_LEAST + math.exp(-0.5 * x * x) / _ROOT / sigma)
            rest += lost(total, term)
            total += term
        tally[SCORE, place] = closed(total, rest, compensated)
    return FINE


@native
def gaussian_learn(grid: Any, tally: Any, place: int, slots: Any, values: Any) -> None:
    """Update the mean and the variance of each feature in its class, by Welford's method."""
    for k in range(len(slots)):
        x, at = values[k], (slots[k] * tally.shape[1] + place) * _CELLS
        grid[at + TIMES] += 1.0
        old = grid[at + CENTRE]
        grid[at + CENTRE] = old + (1.0 / grid[at + TIMES]) * (x - old)
        grid[at + SQUARES] += (x - old) * (x - grid[at + CENTRE])
