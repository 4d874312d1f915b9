"""The classes of a compiled model: what is likely of each, and which is likeliest."""

from typing import Any

import numpy as np


def likeliest(proba: Any, known: Any) -> Any:
    """Return the place of each record's likeliest class, of several the first, as Python's `max` does; -1 for none."""
    chosen = np.where(known > 0, 0.0, -1.0)
    best = proba[:, 0].copy() if proba.shape[1] else np.zeros(len(known))
    for place in range(1, proba.shape[1]):
        better = (proba[:, place] > best) & (known > place)
        chosen[better] = place
        best[better] = proba[better, place]
    return chosen


def weigh(proba: Any, known: Any, how: Any) -> None:
    """Make probabilities of the scores in `proba`, of as many as each record knew: numpy's sums hang on how many."""
    for count in np.unique(known).tolist():
        rows = known == count
        if count:
            proba[rows, :count] = how(np.ascontiguousarray(proba[rows, :count]))
