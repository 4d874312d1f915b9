"""Half-space trees on the machine: a score from the masses of the window before, and masses of the present window.

All trees of a model have the same height, so a tree is an array: node n has the children 2n + 1 and 2n + 2. Where a
node splits depends only on the model's options and on the names of the first record that it learned. A model therefore
keeps only its masses, as scalars, and models with the same names share one forest of splits.
"""

# ruff: noqa: FBT001, PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import inlined, native
from headrace.state.compiled.program import (
    ABSENT,
    COUNTER,
    FINE,
    FULL,
    MASSES,
    NAMES,
    NO_FOREST,
    NO_TREES,
    OTHER,
    PLAIN,
    STRING,
    WRONG_TYPE,
)


@native
def forest_of_row(op: Any, memory: Any, rows: Any) -> int:
    """Return the number of the forest for the names of a row; -1 if there is none yet."""
    source, size = op.source, rows.sizes[op.source]
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    for k in range(size):
        memory.slots[rows.slots[source, k]].mark = mark
    for forest in range(len(memory.own.counts)):
        if memory.own.counts[forest] == size:
            name = 0
            while name < size and memory.slots[memory.own.slots[forest, name]].mark == mark:
                name += 1
            if name == size:
                return forest
    return -1


@native
def forest_of_model(op: Any, memory: Any) -> int:
    """Return the number of the forest for the names that the model has learned; -1 if there is none yet."""
    names = int(memory.scalars[op.scalar + NAMES])
    for forest in range(len(memory.own.counts)):
        if memory.own.counts[forest] == names:
            name = 0
            while name < names and memory.fields[memory.own.slots[forest, name] * op.stride + op.base] != 0.0:
                name += 1
            if name == names:
                return forest
    return -1


@native
def gather(op: Any, memory: Any, rows: Any, forest: int) -> bool:
    """Write down the row's values of the forest's names, and tell whether all of them are numbers."""
    source, slots = op.source, memory.slots
    memory.notes[0].mark += 1
    mark = memory.notes[0].mark
    for k in range(rows.sizes[source]):
        slot = rows.slots[source, k]
        slots[slot].mark = mark
        slots[slot].place = k
    whole = True
    for name in range(memory.own.counts[forest]):
        slot = memory.own.slots[forest, name]
        if slots[slot].mark != mark:
            memory.own.kinds[name] = ABSENT
            whole = False
            continue
        k = slots[slot].place
        memory.own.values[name] = rows.values[source, k]
        memory.own.kinds[name] = OTHER if rows.kinds[source, k] >= STRING else PLAIN
        whole = whole and rows.kinds[source, k] < STRING
    return whole


@native
def turn_of(own: Any, name: int, split: float, scalars: Any, children: int) -> int:
    """Return 0 to go left, 1 to go right, or -1 for a value that can't be compared.

    Without a value the child with the larger present mass is chosen; `children` is where the left one's mass is.
    """
    if own.kinds[name] == PLAIN:
        return 0 if own.values[name] < split else 1
    if own.kinds[name] == ABSENT:
        return 1 if scalars[children] < scalars[children + 1] else 0
    return -1


@inlined
def score(op: Any, memory: Any, forest: int, whole: bool) -> float:
    """Return the anomaly score of the values that `gather` has written, or -1 if one of them can't be compared."""
    scalars, height, limit = memory.scalars, op.height, op.size_limit
    features, splits, values = memory.own.features[forest], memory.own.splits[forest], memory.own.values
    branches, nodes = (1 << height) - 1, (2 << height) - 1
    present = op.scalar + MASSES
    past = present + op.trees * nodes
    total = 0.0
    for tree in range(op.trees):
        branch, mass, node, power, sum_ = tree * branches, past + tree * nodes, 0, 1.0, 0.0
        for depth in range(height + 1):
            found = scalars[mass + node]
            sum_ += found * power
            if depth == height or found < limit:
                break
            name = features[branch + node]
            if whole:
                right = 0 if values[name] < splits[branch + node] else 1
            else:
                children = present + tree * nodes + 2 * node + 1
                right = turn_of(memory.own, name, splits[branch + node], scalars, children)
                if right < 0:
                    return -1.0
            node = 2 * node + 1 + right
            power *= 2.0
        total += sum_
    return float(1.0 - total / op.score_max)


@native
def can_compare(op: Any, memory: Any, forest: int) -> bool:
    """Tell whether the way of a record through each tree reads only numbers."""
    height, features, splits = op.height, memory.own.features[forest], memory.own.splits[forest]
    branches, nodes = (1 << height) - 1, (2 << height) - 1
    for tree in range(op.trees):
        node = 0
        for _ in range(height):
            branch = tree * branches + node
            children = op.scalar + MASSES + tree * nodes + 2 * node + 1
            right = turn_of(memory.own, features[branch], splits[branch], memory.scalars, children)
            if right < 0:
                return False
            node = 2 * node + 1 + right
    return True


@inlined
def add(op: Any, memory: Any, forest: int, whole: bool) -> None:
    """Add the record to the present mass of each node on its way."""
    scalars, height = memory.scalars, op.height
    features, splits, values = memory.own.features[forest], memory.own.splits[forest], memory.own.values
    branches, nodes = (1 << height) - 1, (2 << height) - 1
    for tree in range(op.trees):
        branch, mass, node = tree * branches, op.scalar + MASSES + tree * nodes, 0
        for _ in range(height):
            scalars[mass + node] += 1.0
            name = features[branch + node]
            if whole:
                right = 0 if values[name] < splits[branch + node] else 1
            else:
                right = turn_of(memory.own, name, splits[branch + node], scalars, mass + 2 * node + 1)
            node = 2 * node + 1 + right
        scalars[mass + node] += 1.0


@native
def end_window(op: Any, scalars: Any) -> None:
    """Make the present masses those of the past, and begin a new window."""
    present, count = op.scalar + MASSES, op.trees * ((2 << op.height) - 1)
    for at in range(present, present + count):
        scalars[at + count] = scalars[at]
        scalars[at] = 0.0
    scalars[op.scalar + FULL] = 1.0
    scalars[op.scalar + COUNTER] = 0.0


@inlined
def find(op: Any, memory: Any, rows: Any, learns: bool) -> int:
    """Find the forest of the model: FINE, or NO_FOREST if Python must draw it first."""
    notes = memory.notes[0]
    if memory.scalars[op.scalar + NAMES] != 0.0:
        if notes.forest < 0:
            notes.forest = forest_of_model(op, memory)
    elif not learns:
        return FINE
    elif rows.sizes[op.source] == 0:
        # The first record that is learned decides the splits. River finds none without a feature, and raises.
        notes.late = NO_TREES
        return FINE
    else:
        notes.forest = forest_of_row(op, memory, rows)
    return NO_FOREST if notes.forest < 0 else FINE


@inlined
def half_space_answer(op: Any, memory: Any, rows: Any, answers: Any, record: int, learns: bool) -> int:
    """Predict: the score, and a filter's verdict. `learns` tells whether the record is then learned."""
    notes, scalars = memory.notes[0], memory.scalars
    if find(op, memory, rows, learns) == NO_FOREST:
        return NO_FOREST
    value = 0.0
    if scalars[op.scalar + FULL] != 0.0:
        value = score(op, memory, notes.forest, gather(op, memory, rows, notes.forest))
        if value < 0.0:
            return WRONG_TYPE
    answers.value[record] = value
    answers.chosen[record] = -1
    if op.filters != 0:
        is_anomaly = value >= op.threshold
        answers.chosen[record] = 1 if is_anomaly else 0
        if is_anomaly and op.gates != 0:
            notes.spared = 1
    return FINE


@inlined
def half_space_learn(op: Any, memory: Any, rows: Any) -> int:
    """Learn: add the record to the masses, unless it is an anomaly of which the filter spares the detector."""
    notes, scalars = memory.notes[0], memory.scalars
    forest = notes.forest
    whole = gather(op, memory, rows, forest)
    if op.filters != 0 and op.gates == 0 and scalars[op.scalar + FULL] != 0.0:
        # The steps before have learned, so the score may be another.
        value = score(op, memory, forest, whole)
        if value < 0.0:
            return WRONG_TYPE
        if value >= op.threshold:
            return FINE
    if not (whole or can_compare(op, memory, forest)):
        return WRONG_TYPE
    if scalars[op.scalar + NAMES] == 0.0:
        scalars[op.scalar + NAMES] = memory.own.counts[forest]
        for name in range(memory.own.counts[forest]):
            memory.fields[memory.own.slots[forest, name] * op.stride + op.base] = 1.0
    add(op, memory, forest, whole)
    scalars[op.scalar + COUNTER] += 1.0
    if scalars[op.scalar + COUNTER] == op.window:
        end_window(op, scalars)
    return FINE
