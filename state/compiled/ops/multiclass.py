"""The models of several classes on the machine: what they have in common, and which of them scores and learns.

All of the memory is taken apart here: each function that takes it whole costs most of a second to compile.
"""

# ruff: noqa: PLR0917  What is compiled takes its arguments by place.

import math
from typing import Any

from headrace.state.compiled.ops.class_sums import place_of
from headrace.state.compiled.ops.counting_bayes import bernoulli, count, frequencies
from headrace.state.compiled.ops.gaussian_bayes import gaussian, gaussian_learn
from headrace.state.compiled.ops.jit import inlined
from headrace.state.compiled.ops.softmax import softmax, softmax_learn
from headrace.state.compiled.program import (
    BASE,
    BERNOULLI,
    CLASSES,
    CODE,
    COMPENSATED,
    COUNTING,
    FINE,
    GAUSSIAN,
    LABELLED,
    LATE,
    MARK,
    MET,
    OPTION,
    SCALAR,
    SCORE,
    SOFTMAX,
    SOURCE,
    STRIDE,
    STRING,
    WAY,
    WRONG_TYPE,
)


@inlined
def several_answer(op: Any, options: Any, memory: Any, rows: Any, results: Any, record: int) -> int:  # noqa: C901 a table of cases, and each case costs a call
    """Predict: each class's probability, or the score of which Python makes one."""
    fields, grid, tally, notes = memory.fields, memory.grid, memory.tally, memory.notes
    code, option, classes, size = op[CODE], op[OPTION], notes[CLASSES], rows.sizes[op[SOURCE]]
    slots, kinds, values = rows.slots[op[SOURCE], :size], rows.kinds[op[SOURCE], :size], rows.values[op[SOURCE], :size]
    notes[MARK] += 1
    for k in range(size):
        memory.marks[slots[k]] = notes[MARK]
        memory.places[slots[k]] = k
        if kinds[k] >= STRING:
            # River looks at the value only where there is a weight; learning always does.
            if code == SOFTMAX and fields[slots[k] * op[STRIDE] + op[BASE] + MET] != 0.0:
                return WRONG_TYPE
            notes[LATE] = WRONG_TYPE
    fault = FINE
    if code == SOFTMAX:
        softmax(grid, tally, classes, slots, values, options[option + COMPENSATED])
    elif code == GAUSSIAN:
        fault = gaussian(grid, tally, classes, slots, kinds, values, options[option + COMPENSATED])
    else:
        known = int(memory.scalars[op[SCALAR]])
        for place in range(classes):
            if options[option + WAY] == BERNOULLI:
                marks, places, mark = memory.marks, memory.places, notes[MARK]
                fault = bernoulli(op, options, fields, grid, tally, known, place, kinds, values, marks, places, mark)
            else:
                fault = frequencies(op, options, grid, tally, known, place, slots, kinds, values)
            if fault != FINE:
                break
    total = 0.0
    for place in range(classes):
        total += tally[LABELLED, place]
    for place in range(classes):
        before = math.log(tally[LABELLED, place] / total) if code != SOFTMAX else 0.0
        results.proba[record, place] = before + tally[SCORE, place]
    results.known[record] = classes
    return fault


@inlined
def several_learn(op: Any, options: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: the class, which may be a new one, and what its features were like."""
    fields, grid, tally, notes = memory.fields, memory.grid, memory.tally, memory.notes
    code, option, before, size = op[CODE], op[OPTION], notes[CLASSES], rows.sizes[op[SOURCE]]
    slots, values = rows.slots[op[SOURCE], :size], rows.values[op[SOURCE], :size]
    if code == SOFTMAX:
        softmax(grid, tally, before, slots, values, options[option + COMPENSATED])
    place = place_of(tally, notes, label)
    if code == SOFTMAX:
        softmax_learn(grid, tally, before, notes[CLASSES], place, options, option, slots, values)
    else:
        tally[LABELLED, place] += 1.0
    if code == GAUSSIAN:
        gaussian_learn(grid, tally, place, slots, values)
    if code == COUNTING:
        count(op, options, fields, memory.scalars, grid, tally, place, slots, values)
    else:
        for k in range(size):
            fields[slots[k] * op[STRIDE] + op[BASE] + MET] = 1.0
    return FINE
