"""The classes of a compiled model: their probabilities, and the likeliest class."""

from typing import Any

import numpy as np


def likeliest(proba: Any, known: Any) -> Any:
    """Return the place of each record's likeliest class, the first of equal ones as Python's `max`; -1 for no class."""
    chosen = np.where(known > 0, 0.0, -1.0)
    best = proba[:, 0].copy() if proba.shape[1] else np.zeros(len(known))
    for place in range(1, proba.shape[1]):
        better = (proba[:, place] > best) & (known > place)
        chosen[better] = place
        best[better] = proba[better, place]
    return chosen


def weigh(proba: Any, known: Any, how: Any) -> None:
    """Turn scores into probabilities, records with equal class counts together: numpy's sums depend on that count."""
    for count in np.unique(known).tolist():
        rows = known == count
        if count:
            proba[rows, :count] = how(np.ascontiguousarray(proba[rows, :count]))
