"""Naive Bayes on the machine: what each class's features were like, and the logarithm of how likely a row is."""

# ruff: noqa: PLR0917  What is compiled takes its arguments by place.

import math
from typing import Any

from state.native import inlined
from state.program import (
    BASE,
    CENTRE,
    CLASSES,
    COMPENSATED,
    FINE,
    LABELLED,
    LATE,
    MET,
    OPTION,
    SOURCE,
    SQUARES,
    STRIDE,
    STRING,
    TIMES,
    WRONG_TYPE,
)
from state.tally import closed, lost, place_of

_CELLS = 3
_LEAST = 1e-9
_LEAST_LOG = math.log(_LEAST)
_ROOT = math.sqrt(2.0 * math.pi)


@inlined
def refuse_words(memory: Any, rows: Any, source: int) -> None:
    """Say that learning would raise where a value is no number: predicting looks only at what it knows."""
    for k in range(rows.sizes[source]):
        if rows.kinds[source, k] >= STRING:
            memory.notes[LATE] = WRONG_TYPE


@inlined
def labelled(memory: Any) -> float:
    """Return how often all classes together were learned."""
    total = 0.0
    for other in range(memory.notes[CLASSES]):
        total += memory.tally[LABELLED, other]
    return total


@inlined
def gaussian_answer(op: Any, options: Any, memory: Any, rows: Any, results: Any, record: int) -> int:
    """Predict: each class's score, of which Python makes probabilities."""
    grid, source, classes = memory.grid, op[SOURCE], memory.notes[CLASSES]
    refuse_words(memory, rows, source)
    everything = labelled(memory)
    for place in range(classes):
        total, rest = 0.0, 0.0
        for k in range(rows.sizes[source]):
            at = (rows.slots[source, k] * memory.tally.shape[1] + place) * _CELLS
            term, times = _LEAST_LOG, grid[at + TIMES]
            variance = grid[at + SQUARES] / times if times != 0.0 else 0.0
            if variance > 0.0:
                if rows.kinds[source, k] >= STRING:
                    return WRONG_TYPE
                sigma = math.sqrt(variance)
                x = (rows.values[source, k] - grid[at + CENTRE]) / sigma
                term = math.log(_LEAST + math.exp(-0.5 * x * x) / _ROOT / sigma)
            rest += lost(total, term)
            total += term
        total = closed(total, rest, options[op[OPTION] + COMPENSATED])
        results.proba[record, place] = math.log(memory.tally[LABELLED, place] / everything) + total
    results.known[record] = classes
    return FINE


@inlined
def gaussian_learn(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: the mean and the variance of each feature in its class, after Welford."""
    grid, source = memory.grid, op[SOURCE]
    place = place_of(memory, label)
    memory.tally[LABELLED, place] += 1.0
    for k in range(rows.sizes[source]):
        slot, x = rows.slots[source, k], rows.values[source, k]
        at = (slot * memory.tally.shape[1] + place) * _CELLS
        grid[at + TIMES] += 1.0
        old = grid[at + CENTRE]
        grid[at + CENTRE] = old + (1.0 / grid[at + TIMES]) * (x - old)
        grid[at + SQUARES] += (x - old) * (x - grid[at + CENTRE])
        memory.fields[slot * op[STRIDE] + op[BASE] + MET] = 1.0
    return FINE
