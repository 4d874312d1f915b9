"""Softmax regression on the machine: a weight for each class of each feature, and a step for all of them at once."""

# ruff: noqa: PLR0917  What is compiled takes its arguments by place.

import math
from typing import Any

from state.linear import rate_at
from state.native import inlined, native
from state.program import (
    BASE,
    CLASSES,
    COMPENSATED,
    DECAY,
    FACTOR,
    FINE,
    LATE,
    MET,
    OPTION,
    RANK,
    SCORE,
    SOURCE,
    STEP,
    STEPS,
    STRIDE,
    STRING,
    WEIGHTS,
    WRONG_TYPE,
)
from state.tally import closed, lost, place_of

_CELLS = 2
_LOW, _HIGH = 1e-15, 1 - 1e-15
"""River's own bounds of a probability."""


@inlined
def product(grid: Any, place: int, tally: Any, slots: Any, values: Any, compensated: float) -> float:
    """Return weights · features of one class in River's order: that of the shorter of the two."""
    total, rest, width = 0.0, 0.0, tally.shape[1]
    shorter, before, turn = tally[WEIGHTS, place] < len(slots), 0.0, 0
    # In the row's order one feature is one turn. Else it is a look for the weight that was met next.
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
        # Written out, so that NaN comes through as it does through Python's max.
        most = tally[SCORE, place] if tally[SCORE, place] > most else most  # noqa: FURB136
    for place in range(classes):
        tally[SCORE, place] = math.exp(tally[SCORE, place] - most)
        total += tally[SCORE, place]
    for place in range(classes):
        tally[SCORE, place] /= total


@inlined
def softmax_answer(op: Any, options: Any, memory: Any, rows: Any, results: Any, record: int) -> int:
    """Predict: the probability of each class."""
    source, classes = op[SOURCE], memory.notes[CLASSES]
    size = rows.sizes[source]
    for k in range(size):
        if rows.kinds[source, k] >= STRING:
            # River looks at the value only where there is a weight; learning always does.
            if memory.fields[rows.slots[source, k] * op[STRIDE] + op[BASE] + MET] != 0.0:
                return WRONG_TYPE
            memory.notes[LATE] = WRONG_TYPE
    slots, values = rows.slots[source, :size], rows.values[source, :size]
    softmax(memory.grid, memory.tally, classes, slots, values, options[op[OPTION] + COMPENSATED])
    for place in range(classes):
        results.proba[record, place] = memory.tally[SCORE, place]
    results.known[record] = classes
    return FINE


@inlined
def softmax_learn(op: Any, options: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: one step of each class's optimizer against the cross-entropy's gradient at this row."""
    tally, source, option, before = memory.tally, op[SOURCE], op[OPTION], memory.notes[CLASSES]
    size = rows.sizes[source]
    slots, values = rows.slots[source, :size], rows.values[source, :size]
    softmax(memory.grid, tally, before, slots, values, options[option + COMPENSATED])
    true = place_of(memory, label)
    for place in range(memory.notes[CLASSES]):
        slope = tally[SCORE, place] if place < before else 0.0
        slope = _HIGH if slope > _HIGH else slope  # noqa: FURB136
        slope = _LOW if slope < _LOW else slope  # noqa: FURB136
        slope -= 1.0 if place == true else 0.0
        rate = rate_at(options, option + STEP, tally[STEPS, place])
        descend(memory.grid, place, tally, slots, values, slope, rate, options[option + DECAY])
        tally[STEPS, place] += 1.0
    for k in range(size):
        memory.fields[slots[k] * op[STRIDE] + op[BASE] + MET] = 1.0
    return FINE


@inlined
def descend(
    grid: Any, place: int, tally: Any, slots: Any, values: Any, slope: float, rate: float, decay: float
) -> None:
    """Move one class's weights down the gradient."""
    for k in range(len(slots)):
        at = (slots[k] * tally.shape[1] + place) * _CELLS
        if grid[at + RANK] == 0.0:
            tally[WEIGHTS, place] += 1.0
            grid[at + RANK] = tally[WEIGHTS, place]
        grid[at + FACTOR] -= rate * (values[k] * slope + decay * grid[at + FACTOR])
