"""The naive Bayes models that count, on the machine: multinomial, Bernoulli, and the complement of a class.

In River the very first record may hold a single feature that is no number, and spoils the model; here it is refused.
"""

# ruff: noqa: PLR0917  What is compiled takes its arguments by place.

import math
from typing import Any

from state.bayes import labelled, refuse_words
from state.native import inlined, native
from state.program import (
    ALPHA,
    BASE,
    BERNOULLI,
    BY_RANK,
    BY_ZERO,
    CLASSES,
    COMPENSATED,
    COMPLEMENT,
    FINE,
    LABELLED,
    MARK,
    MET,
    NO_LOGARITHM,
    OPTION,
    SCALAR,
    SCORE,
    SOURCE,
    STRIDE,
    STRING,
    SUM,
    THRESHOLD,
    TOTAL,
    WAY,
    WRONG_TYPE,
)
from state.tally import closed, lost, place_of

_LEAST = 1e-9


@inlined
def counting_answer(op: Any, options: Any, memory: Any, rows: Any, results: Any, record: int) -> int:
    """Predict: each class's score, of which Python makes probabilities."""
    source, option, classes = op[SOURCE], op[OPTION], memory.notes[CLASSES]
    refuse_words(memory, rows, source)
    way, total = options[option + WAY], labelled(memory)
    if way == BERNOULLI:
        memory.notes[MARK] += 1
        for k in range(rows.sizes[source]):
            memory.marks[rows.slots[source, k]] = memory.notes[MARK]
            memory.places[rows.slots[source, k]] = k
    for place in range(classes):
        if way == BERNOULLI:
            fault = bernoulli(op, options, memory, rows, place)
        else:
            fault = frequencies(op, options, memory, rows, place)
        if fault != FINE:
            return fault
        score = memory.tally[SCORE, place]
        if way != COMPLEMENT:
            score = math.log(memory.tally[LABELLED, place] / total) + score
        results.proba[record, place] = score
    results.known[record] = classes
    return FINE


@inlined
def besides(op: Any, options: Any, memory: Any, place: int) -> float:
    """Return what was counted in all other classes, summed in the order in which the features were met."""
    total, rest, alpha = 0.0, 0.0, options[op[OPTION] + ALPHA]
    for rank in range(int(memory.scalars[op[SCALAR]])):
        slot = int(memory.fields[rank * op[STRIDE] + op[BASE] + BY_RANK])
        count = memory.fields[slot * op[STRIDE] + op[BASE] + TOTAL] + alpha
        count -= memory.grid[slot * memory.tally.shape[1] + place]
        rest += lost(total, count)
        total += count
    return closed(total, rest, options[op[OPTION] + COMPENSATED])


@native
def frequencies(op: Any, options: Any, memory: Any, rows: Any, place: int) -> int:
    """Score a row by how often each of its features was counted in a class, or in all others."""
    fields, source, option = memory.fields, op[SOURCE], op[OPTION]
    alpha, complement = options[option + ALPHA], options[option + WAY] == COMPLEMENT
    if complement:
        whole = besides(op, options, memory, place)
    else:
        whole = memory.tally[SUM, place] + alpha * memory.scalars[op[SCALAR]]
    total, rest = 0.0, 0.0
    for k in range(rows.sizes[source]):
        slot = rows.slots[source, k]
        count, at = memory.grid[slot * memory.tally.shape[1] + place], slot * op[STRIDE] + op[BASE]
        if not complement:
            count += alpha
        else:
            count = fields[at + TOTAL] + alpha - count if fields[at + MET] != 0.0 else alpha
        if whole == 0.0:
            return BY_ZERO
        share = count / whole
        if share <= 0.0:
            return NO_LOGARITHM
        if rows.kinds[source, k] >= STRING:
            return WRONG_TYPE
        logarithm = math.log(share)
        term = rows.values[source, k] * (-logarithm if complement else logarithm)
        rest += lost(total, term)
        total += term
    memory.tally[SCORE, place] = closed(total, rest, options[option + COMPENSATED])
    return FINE


@native
def bernoulli(op: Any, options: Any, memory: Any, rows: Any, place: int) -> int:
    """Score a row by which of all features are there, in the order in which they were met."""
    fields, source, option, mark = memory.fields, op[SOURCE], op[OPTION], memory.notes[MARK]
    alpha, total, rest = options[option + ALPHA], 0.0, 0.0
    whole = memory.tally[LABELLED, place] + alpha * 2.0
    for rank in range(int(memory.scalars[op[SCALAR]])):
        slot = int(fields[rank * op[STRIDE] + op[BASE] + BY_RANK])
        share = (memory.grid[slot * memory.tally.shape[1] + place] + alpha) / whole
        true = False
        if memory.marks[slot] == mark:
            k = memory.places[slot]
            if rows.kinds[source, k] >= STRING:
                return WRONG_TYPE
            true = rows.values[source, k] > options[option + THRESHOLD]
        term = math.log(_LEAST + share if true else _LEAST + (1.0 - share))
        rest += lost(total, term)
        total += term
    memory.tally[SCORE, place] = closed(total, rest, options[option + COMPENSATED])
    return FINE


@inlined
def counting_learn(op: Any, options: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn: count the features of a class."""
    fields, scalars, source, option = memory.fields, memory.scalars, op[SOURCE], op[OPTION]
    way, place = options[option + WAY], place_of(memory, label)
    memory.tally[LABELLED, place] += 1.0
    for k in range(rows.sizes[source]):
        slot, x = rows.slots[source, k], rows.values[source, k]
        at = slot * op[STRIDE] + op[BASE]
        if fields[at + MET] == 0.0:
            rank = scalars[op[SCALAR]]
            fields[int(rank) * op[STRIDE] + op[BASE] + BY_RANK] = slot
            fields[at + MET] = scalars[op[SCALAR]] = rank + 1.0
        if way == BERNOULLI:
            x = 1.0 if x > options[option + THRESHOLD] else 0.0
        else:
            memory.tally[SUM, place] += x
        if way == COMPLEMENT:
            fields[at + TOTAL] += x
        memory.grid[slot * memory.tally.shape[1] + place] += x
    return FINE
