"""The machine: runs a program over a batch, record by record, and stops where it needs Python.

It is compiled once for all models. For each record it loads the features into row 0, runs all operations to predict,
and, where there is a label, those that learn, or that read what has changed, a second time. River's pipeline learns in
that order: each step learns and then transforms with what it knows now, and the model proper comes last.
"""

# ruff: noqa: FBT001, PLR0917  What is compiled takes its arguments by place.

from typing import Any

from headrace.state.compiled.ops.encoding import hashed, onehot, rename
from headrace.state.compiled.ops.jit import entry, inlined, native, print_of_sources
from headrace.state.compiled.ops.linear import linear_answer, linear_learn
from headrace.state.compiled.ops.multiclass import several_answer, several_learn
from headrace.state.compiled.ops.passive_aggressive import passive_answer, passive_learn
from headrace.state.compiled.ops.scaling import center, maxabs, minmax, standard
from headrace.state.compiled.ops.selection import discard, impute, merge, select, types
from headrace.state.compiled.program import (
    ASKED,
    BASE,
    CENTER,
    CHANGES,
    CODE,
    DISCARD,
    DONE,
    FIELDS,
    FINE,
    HASH,
    IMPUTE,
    JOURNALED,
    LATE,
    LEARNS,
    LINEAR,
    LIST,
    LISTED,
    LOOK_AHEAD,
    MAXABS,
    MERGE,
    MINMAX,
    NAME_WANTED,
    ONEHOT,
    PAIR_WANTED,
    PASSIVE,
    RENAME,
    ROOM_WANTED,
    SELECT,
    SOFTMAX,
    SOURCE,
    STANDARD,
    STOPPED,
    STRIDE,
    TYPES,
    UNMET,
    WIDTH,
)


@inlined
def load(batch: Any, record: int, rows: Any) -> int:
    """Load a record's features into row 0, or return UNMET for a name that has no slot yet."""
    first, last = batch.starts[record], batch.starts[record + 1]
    for k in range(last - first):
        slot = batch.slots[batch.names[first + k]]
        if slot < 0:
            return UNMET
        rows.slots[0, k] = slot
        rows.kinds[0, k] = batch.kinds[first + k]
        rows.values[0, k] = batch.values[first + k]
    rows.sizes[0] = last - first
    return FINE


@inlined
def begin(memory: Any, late: bool) -> int:
    """Prepare to learn a record, or say why River would raise: so far it has only looked at what it had to."""
    if late:
        open_journal(memory)
    # It is told beforehand, so that nothing has to be undone.
    return int(memory.notes[LATE])


@inlined
def sweep(  # noqa: C901, PLR0912 a table of cases, and each case costs a call
    ops: Any,
    keys: Any,
    options: Any,
    memory: Any,
    rows: Any,
    pairs: Any,
    learn: bool,
    late: bool,
) -> int:
    """Run the operations that write rows on the record in row 0, all of them, or those that learning concerns."""
    fault = begin(memory, late) if learn else FINE
    if fault != FINE:
        return fault
    for j in range(len(ops) - 1):
        op = ops[j]
        code, learns = op[CODE], learn and op[LEARNS] != 0
        if learn and not learns and op[CHANGES] == 0:
            continue
        if late and learns:
            keep(op, memory, rows)
        if code == STANDARD:
            fault = standard(op, options, memory, rows, learns)
        elif code == CENTER:
            fault = center(op, memory, rows, learns)
        elif code == MINMAX:
            fault = minmax(op, memory, rows, learns)
        elif code == MAXABS:
            fault = maxabs(op, memory, rows, learns)
        elif code == SELECT:
            fault = select(op, keys, memory, rows)
        elif code == DISCARD:
            fault = discard(op, memory, rows)
        elif code == TYPES:
            fault = types(op, options, rows)
        elif code == IMPUTE:
            fault = impute(op, keys, options, memory, rows, learns)
        elif code == ONEHOT:
            fault = onehot(op, j, options, memory, rows, pairs, learns)
        elif code == HASH:
            fault = hashed(op, j, memory, rows, pairs)
        elif code == RENAME:
            fault = rename(op, j, memory, rows, pairs)
        elif code == MERGE:
            fault = merge(op, keys, memory, rows)
        if fault != FINE:
            return fault
    return FINE


@inlined
def answer(op: Any, options: Any, memory: Any, rows: Any, results: Any, record: int) -> int:
    """Let the model proper predict. A new one has its line here."""
    if op[CODE] == LINEAR:
        return linear_answer(op, options, memory, rows, results, record)
    if op[CODE] == PASSIVE:
        return passive_answer(op, options, memory, rows, results, record)
    if op[CODE] >= SOFTMAX:
        return several_answer(op, options, memory, rows, results, record)
    return FINE


@inlined
def teach(op: Any, options: Any, memory: Any, rows: Any, label: float) -> int:
    """Let the model proper learn. A new one has its line here."""
    if op[CODE] == LINEAR:
        return linear_learn(op, options, memory, rows, label)
    if op[CODE] == PASSIVE:
        return passive_learn(op, options, memory, rows, label)
    if op[CODE] >= SOFTMAX:
        return several_learn(op, options, memory, rows, label)
    return FINE


@native
def copy_into(target: Any, source: Any) -> None:
    """Copy an array without asking for memory."""
    for k in range(len(source)):
        target[k] = source[k]


@native
def open_journal(memory: Any) -> None:
    """Begin to note what a record changes."""
    memory.notes[JOURNALED] = 0
    copy_into(memory.scalars_before, memory.scalars)
    copy_into(memory.sizes_before, memory.sizes)


@native
def keep(op: Any, memory: Any, rows: Any) -> None:
    """Note the fields that an operation is about to change."""
    at = memory.notes[JOURNALED]
    for k in range(rows.sizes[op[SOURCE]]):
        first = rows.slots[op[SOURCE], k] * op[STRIDE] + op[BASE]
        for field in range(first, first + op[FIELDS]):
            memory.journal[at] = field
            memory.journaled[at] = memory.fields[field]
            at += 1
    memory.notes[JOURNALED] = at


@native
def undo(ops: Any, memory: Any) -> None:
    """Take back all that was learned since the journal was opened."""
    for at in range(memory.notes[JOURNALED] - 1, -1, -1):
        memory.fields[memory.journal[at]] = memory.journaled[at]
    copy_into(memory.scalars, memory.scalars_before)
    for j in range(len(ops)):
        if ops[j, CODE] == ONEHOT:
            at = ops[j, LIST]
            for k in range(memory.sizes_before[at], memory.sizes[at]):
                memory.learned[memory.alikes[memory.lists[at, k]]] = 0
            for k in range(memory.sizes_before[at + 1], memory.sizes[at + 1]):
                memory.fields[memory.lists[at + 1, k] * ops[j, STRIDE] + ops[j, BASE] + LISTED] = 0.0
    copy_into(memory.sizes, memory.sizes_before)


@inlined
def width_of(batch: Any, record: int, memory: Any, fan: int) -> int:
    """Return how wide a row of this record can become: branches see each feature, encoders add what they list."""
    width = batch.starts[record + 1] - batch.starts[record]
    for at in range(1, len(memory.sizes), 2):
        width += memory.sizes[at]
    return int(width * fan)


@inlined
def has_room(width: int, memory: Any, rows: Any) -> bool:
    """Tell whether rows are wide enough, and lists long enough for whatever such a record may add."""
    longest = 0
    for at in range(len(memory.sizes)):
        longest = max(longest, memory.sizes[at])
    return bool(width <= rows.slots.shape[1] and longest + width <= memory.lists.shape[1])


@inlined
def ready(batch: Any, record: int, memory: Any, rows: Any, fan: int) -> int:
    """Load a record, or say what is wanted first; rows and lists must have room for whatever it may become."""
    width = width_of(batch, record, memory, fan)
    if not has_room(width, memory, rows):
        memory.notes[WIDTH] = width
        return ROOM_WANTED
    memory.notes[LATE] = FINE
    return NAME_WANTED if load(batch, record, rows) == UNMET else DONE


@inlined
def learn(ops: Any, options: Any, memory: Any, rows: Any, label: float, late: bool) -> int:
    """Teach the model proper what the sweep has written, or leave no trace of the record and say why."""
    last = len(ops) - 1
    if late:
        keep(ops[last], memory, rows)
    fault = teach(ops[last], options, memory, rows, label)
    if fault != FINE:
        undo(ops, memory)
    return fault


@inlined
def attempt(
    ops: Any,
    keys: Any,
    options: Any,
    memory: Any,
    rows: Any,
    pairs: Any,
    results: Any,
    record: int,
    label: float,
    late: bool,
) -> int:
    """Predict the record in row 0, and learn it if it has a label: in a loop, so that `sweep` is compiled once."""
    last, fault = len(ops) - 1, FINE
    for learning in range(2):
        fault = sweep(ops, keys, options, memory, rows, pairs, learning == 1, late)
        # While it only looks for pairs that have no name yet, nothing is answered and nothing learned.
        if fault == UNMET or memory.notes[ASKED] != 0:
            return fault
        if fault == FINE and learning == 0:
            fault = answer(ops[last], options, memory, rows, results, record)
        elif fault == FINE:
            fault = learn(ops, options, memory, rows, label, late)
        if fault != FINE or label != label:  # noqa: PLR0124 NaN is no label
            break
    results.fault[record] = fault
    return fault


def _runner(sources: int) -> Any:
    @entry
    def run(
        ops: Any,
        keys: Any,
        options: Any,
        memory: Any,
        rows: Any,
        pairs: Any,
        batch: Any,
        results: Any,
        first: int,
        fan: int,
        late: bool,
    ) -> int:
        memory.notes[STOPPED], memory.notes[ASKED] = DONE, 0
        stop = len(batch.starts) - 1
        for record in range(first, len(batch.starts) - 1):
            wanted = ready(batch, record, memory, rows, fan)
            if wanted == DONE:
                label = batch.labels[record]
                if attempt(ops, keys, options, memory, rows, pairs, results, record, label, late) == UNMET:
                    # Python is asked rarely, and for many at once: so it looks on for more.
                    stop = min(stop, record)
                    memory.notes[STOPPED] = PAIR_WANTED
                    memory.notes[ASKED] += 1
            elif memory.notes[ASKED] == 0:
                memory.notes[STOPPED] = wanted
                return record
            full = memory.notes[ASKED] == len(memory.asked) or record - stop >= LOOK_AHEAD
            if memory.notes[ASKED] != 0 and (full or wanted != DONE):
                break
        # The number of the sources is named here to be a part of what numba compares, see `print_of_sources`.
        return stop if sources >= 0 else 0

    return run


run = _runner(print_of_sources())
"""Predict and learn from the record `first` on. Return the number of records when done, else where it stopped; the
notes say why."""
