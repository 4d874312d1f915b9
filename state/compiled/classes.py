"""The classes of a compiled model: their numbers, in the order in which they were learned, and which is likeliest."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Classes:
    """`known` are the classes that have been learned, in order; a new one's number holds until the next batch is run.

    So a class's number is its place, but for one whose records were all refused, and those behind it in that batch.
    """

    def __init__(self, known: Iterable[Any] = ()) -> None:
        self.known = list(known)
        self._numbers = {label: number for number, label in enumerate(self.known)}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, label: Any) -> int:
        """Return a class's number, a new one on first sight."""
        return self._numbers.setdefault(label, len(self._numbers))

    def settle(self, places: Sequence[float]) -> None:
        """Note at which place each number was learned, -1 for not at all; those are forgotten."""
        if len(self._numbers) > len(self.known):
            learned = sorted((place, label) for label, place in self._new(places) if place >= 0)
            self.known += [label for _, label in learned]
            self._numbers = {label: number for number, label in enumerate(self.known)}

    def _new(self, places: Sequence[float]) -> list[tuple[Any, float]]:
        new = list(self._numbers)[len(self.known) :]
        return list(zip(new, places[len(self.known) : len(self._numbers)], strict=True))


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
