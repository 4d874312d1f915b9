"""The test: an e-process over the paired losses of two models, which may be looked at after every pair.

Pair i has the difference δ, the champion's loss less the challenger's, and δ ≥ -c. For a fixed λ in (0, 1] the product
of (1 + λδ/c) is a nonnegative supermartingale while the mean of the expected differences is never positive, whatever
the differences depend on; by Ville's inequality it ever reaches 1/a with probability a at most. The evidence is a mean
of such products: over twelve λ, and over starts that are ever further apart, so that old losses are left behind after a
drift (Waudby-Smith and Ramdas 2024; Choe and Ramdas 2023; Vovk and Wang 2021). A start that is still to come counts
as 1. Only sums and products of doubles in a fixed order: the same bits on every machine.
"""

import math
from typing import Any

import numpy as np

LAMBDAS = tuple(2.0**-k for k in range(1, 13))
"""The bets; a difference of -c leaves half of the largest one's product."""
STARTS_MAX = 54
"""Starts enough for 2 ** 62 pairs."""
CAP = 1e300
"""The most that one product counts: to cap it can only lose evidence, and no sum grows to infinity."""

_SPACING = 1_024


def start(number: int) -> int:
    """Return the number of pairs before a start."""
    return 0 if number == 0 else _SPACING << (number - 1)


def weight(number: int) -> float:
    """Return the share of a start; the shares of all starts have the sum 1."""
    return 1.0 / ((number + 1) * (number + 2))


def fold(rows: list[list[float]], count: int, ratios: Any) -> tuple[Any, Any]:
    """Add pairs with the differences `ratios`, as δ/c, to the products `rows`, a row a start, after `count` pairs.

    Returns the evidence after each pair, and the number of the start that has the most of it: lists, or arrays where
    the pairs came as one.
    """
    if isinstance(ratios, np.ndarray) and (found := _fold_compiled(rows, count, ratios)) is not None:
        return found
    evidence, best = [], []
    for ratio in map(float, ratios):
        if count == start(len(rows)):
            rows.append([1.0] * len(LAMBDAS))
        value, number = _add(rows, ratio)
        evidence.append(value)
        best.append(number)
        count += 1
    return evidence, best


def _add(rows: list[list[float]], ratio: float) -> tuple[float, int]:
    total, most, best = 0.0, -1.0, 0
    factors = [1.0 + bet * ratio for bet in LAMBDAS]
    for number, row in enumerate(rows):
        products = 0.0
        for k, factor in enumerate(factors):
            row[k] = min(row[k] * factor, CAP)
            products += row[k]
        part = products / 12.0 * weight(number)
        total += part
        if part > most:
            most, best = part, number
    return total + 1.0 / (len(rows) + 1), best


def _fold_compiled(rows: list[list[float]], count: int, ratios: Any) -> tuple[Any, Any] | None:
    """Do as `fold` does, in compiled code; None where there is no compiler."""
    try:
        from headrace.state.promotion import compiled_fold  # noqa: PLC0415 it imports numba, which not every machine has
    except ImportError:
        return None
    table = np.ones((STARTS_MAX, len(LAMBDAS)))
    if rows:
        table[: len(rows)] = rows
    evidence, best = np.empty(len(ratios)), np.empty(len(ratios), dtype=np.int64)
    used = compiled_fold.fold(table, len(rows), count, np.ascontiguousarray(ratios, dtype=np.float64), evidence, best)
    rows[:] = table[:used].tolist()
    return evidence, best


def needed(share: float, *, number: int) -> float:
    """Return the evidence that the challenge of a number needs, so that all challenges together have this `share`."""
    return math.pi * math.pi * number * number / (6.0 * share)
