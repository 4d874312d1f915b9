"""The naive Bayes models that count, on the machine: multinomial and Bernoulli.

A first record with a single feature that is no number spoils River's model. Here it is refused.
"""

# ruff: noqa: PLR0917  Compiled functions take their arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import closed, lost
from headrace.state.compiled.ops.jit import native
from headrace.state.compiled.program import (
    BERNOULLI,
    BY_RANK,
    BY_ZERO,
    FINE,
    LABELLED,
    MET,
    NO_LOGARITHM,
    SCORE,
    STRING,
    SUM,
    WRONG_TYPE,
)

_LEAST = 1e-9


@native
def frequencies(
    op: Any,
    grid: Any,
    tally: Any,
    known: int,
    place: int,
    slots: Any,
    kinds: Any,
    values: Any,
) -> int:
    """Score a row by the share of each of its features in the counts of a class."""
    alpha, total, rest = op.smoothing, 0.0, 0.0
    whole = tally[SUM, place] + alpha * known
    for k in range(len(slots)):
        count = grid[slots[k] * tally.shape[1] + place] + alpha
        if whole == 0.0:
            return BY_ZERO
        share = count / whole
        if share <= 0.0:
            return NO_LOGARITHM
        if kinds[k] >= STRING:
            return WRONG_TYPE
        term = values[k] * math.log(share)
        rest += lost(total, term)
        total += term
    tally[SCORE, place] = closed(total, rest, op.compensated)
    return FINE


@native
def bernoulli(
    op: Any,
    fields: Any,
    grid: Any,
    tally: Any,
    known: int,
    place: int,
    kinds: Any,
    values: Any,
    present: Any,
    mark: int,
) -> int:
    """Score a row by the presence of each known feature, in the order in which the features were met."""
    alpha, total, rest = op.smoothing, 0.0, 0.0
    whole = tally[LABELLED, place] + alpha * 2.0
    for rank in range(known):
        slot = int(fields[rank * op.stride + op.base + BY_RANK])
        share = (grid[slot * tally.shape[1] + place] + alpha) / whole
        true = False
        if present[slot].mark == mark:
            k = present[slot].place
            if kinds[k] >= STRING:
                return WRONG_TYPE
            true = values[k] > op.threshold
        term = math.log(_LEAST + share if true else _LEAST + (1.0 - share))
        rest += lost(total, term)
        total += term
    tally[SCORE, place] = closed(total, rest, op.compensated)
    return FINE


@native
def count(op: Any, fields: Any, scalars: Any, grid: Any, tally: Any, place: int, slots: Any, values: Any) -> None:
    """Learn: count the features of a class."""
    way = op.way
    for k in range(len(slots)):
        x, at = values[k], slots[k] * op.stride + op.base
        if fields[at + MET] == 0.0:
            rank = scalars[op.scalar]
            fields[int(rank) * op.stride + op.base + BY_RANK] = slots[k]
            fields[at + MET] = scalars[op.scalar] = rank + 1.0
        if way == BERNOULLI:
            x = 1.0 if x > op.threshold else 0.0
        else:
            tally[SUM, place] += x
        grid[slots[k] * tally.shape[1] + place] += x
