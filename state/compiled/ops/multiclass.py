"""The multiclass models on the machine: their common steps, and the choice of the functions that score and learn.

Only these two take the whole memory: each function that takes it needs most of a second to compile.
"""

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import place_of
from headrace.state.compiled.ops.counting_bayes import bernoulli, count, frequencies
from headrace.state.compiled.ops.gaussian_bayes import gaussian, gaussian_learn
from headrace.state.compiled.ops.jit import inlined
from headrace.state.compiled.ops.softmax import softmax, softmax_learn
from headrace.state.compiled.program import (
    BERNOULLI,
    COUNTING,
    FINE,
    GAUSSIAN,
    LABELLED,
    MET,
    SCORE,
    SOFTMAX,
    STRING,
    WRONG_TYPE,
)


@inlined
def several_answer(op: Any, memory: Any, rows: Any, answers: Any, record: int) -> int:  # noqa: C901 a table of cases, and each case costs a call
    """Predict: each class's probability, or the score from which Python computes the probability."""
    fields, grid, tally, notes = memory.fields, memory.grid, memory.tally, memory.notes
    code, classes, size = op.code, notes[0].classes, rows.sizes[op.source]
    slots, kinds, values = rows.slots[op.source, :size], rows.kinds[op.source, :size], rows.values[op.source, :size]
    notes[0].mark += 1
    for k in range(size):
        memory.slots[slots[k]].mark = notes[0].mark
        memory.slots[slots[k]].place = k
        if kinds[k] >= STRING:
            # River reads the value only if the feature has a weight. Learning always reads it.
            if code == SOFTMAX and fields[slots[k] * op.stride + op.base + MET] != 0.0:
                return WRONG_TYPE
            notes[0].late = WRONG_TYPE
    fault = FINE
    if code == SOFTMAX:
        softmax(grid, tally, classes, slots, values, op.compensated)
    elif code == GAUSSIAN:
        fault = gaussian(grid, tally, classes, slots, kinds, values, op.compensated)
    else:
        known = int(memory.scalars[op.scalar])
        for place in range(classes):
            if op.way == BERNOULLI:
                fault = bernoulli(op, fields, grid, tally, known, place, kinds, values, memory.slots, notes[0].mark)
            else:
                fault = frequencies(op, grid, tally, known, place, slots, kinds, values)
            if fault != FINE:
                break
    total = 0.0
    for place in range(classes):
        total += tally[LABELLED, place]
    for place in range(classes):
        before = math.log(tally[LABELLED, place] / total) if code != SOFTMAX else 0.0
        answers.proba[record, place] = before + tally[SCORE, place]
    answers.known[record] = classes
    return fault


@inlined
def several_learn(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn the record's class, which may be new, and the features of that class."""
    fields, grid, tally, notes = memory.fields, memory.grid, memory.tally, memory.notes
    code, before, size = op.code, notes[0].classes, rows.sizes[op.source]
    slots, values = rows.slots[op.source, :size], rows.values[op.source, :size]
    if code == SOFTMAX:
        softmax(grid, tally, before, slots, values, op.compensated)
    place = place_of(memory, label)
    if code == SOFTMAX:
        softmax_learn(grid, tally, before, notes[0].classes, place, op, slots, values)
    else:
        tally[LABELLED, place] += 1.0
    if code == GAUSSIAN:
        gaussian_learn(grid, tally, place, slots, values)
    if code == COUNTING:
        count(op, fields, memory.scalars, grid, tally, place, slots, values)
    else:
        for k in range(size):
            fields[slots[k] * op.stride + op.base + MET] = 1.0
    return FINE
