"""The machine: runs a program over a batch, record by record, and stops where it needs Python.

It is compiled once for each family of models (`families/dispatch.py`). For each record it loads the features into row
0 and runs all operations to predict. If the record has a label, it then runs again the operations that learn, and those
whose input has changed. River's pipeline learns in this order: each step learns, and then transforms with its new
state. The final estimator comes last.
"""

# ruff: noqa: FBT001, PLR0917  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.encoding import hashed, onehot, rename
from headrace.state.compiled.ops.families.dispatch import answer, fits_own, has_own_room, look, teach
from headrace.state.compiled.ops.jit import entry, inlined, native, print_of_sources
from headrace.state.compiled.ops.records import (
    clear_memory,
    is_shape,
    load_model,
    own_part,
    room_of,
    store_model,
    touch,
)
from headrace.state.compiled.ops.scaling import center, maxabs, minmax, standard
from headrace.state.compiled.ops.selection import discard, impute, merge, select, types
from headrace.state.compiled.program import (
    ALL_DONE,
    CENTER,
    DISCARD,
    DONE,
    FAMILY_WANTED,
    FINE,
    HALTED,
    HASH,
    IMPUTE,
    LISTED,
    LOOK_AHEAD,
    MAXABS,
    MERGE,
    MINMAX,
    NAME_WANTED,
    ONEHOT,
    PAIR_WANTED,
    RENAME,
    ROOM_WANTED,
    SELECT,
    SPACE_WANTED,
    STANDARD,
    TYPES,
    UNMET,
    WRONG_CLASS,
)


@inlined
def load(batch: Any, record: int, memory: Any, rows: Any) -> int:
    """Load a record's features into row 0; return UNMET if a name has no slot yet."""
    first, last = batch.starts[record], batch.starts[record + 1]
    for k in range(last - first):
        slot = batch.slots[batch.names[first + k]]
        if slot < 0:
            return UNMET
        rows.slots[0, k] = slot
        rows.kinds[0, k] = batch.kinds[first + k]
        rows.values[0, k] = batch.values[first + k]
        if len(batch.words) > 0:
            memory.slots[slot].word = batch.words[first + k] + 1
    rows.sizes[0] = last - first
    return FINE


@inlined
def begin(memory: Any, late: bool) -> int:
    """Prepare to learn a record, or return the fault if River would raise although it could predict."""
    if late:
        open_journal(memory)
    # The fault is known before anything is learned, so nothing has to be undone.
    return int(memory.notes[0].late)


@inlined
def sweep(  # noqa: C901, PLR0912 a table of cases, and each case costs a call
    ops: Any,
    keys: Any,
    memory: Any,
    rows: Any,
    pairs: Any,
    learn: bool,
    late: bool,
) -> int:
    """Run the transformers on row 0. When learning, run only those that learn and those whose input has changed."""
    fault = begin(memory, late) if learn else FINE
    if fault != FINE:
        return fault
    for j in range(len(ops) - 1):
        op = ops[j]
        code, learns = op.code, learn and op.learns != 0
        if learn and not learns and op.changes == 0:
            continue
        if late and learns:
            keep(op, memory, rows)
        if code == STANDARD:
            fault = standard(op, memory, rows, learns)
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
            fault = types(op, rows)
        elif code == IMPUTE:
            fault = impute(op, keys, memory, rows, learns)
        elif code == ONEHOT:
            fault = onehot(op, j, memory, rows, pairs, learns)
        elif code == HASH:
            fault = hashed(op, j, memory, rows, pairs)
        elif code == RENAME:
            fault = rename(op, j, memory, rows, pairs)
        elif code == MERGE:
            fault = merge(op, keys, memory, rows)
        if fault != FINE:
            return fault
    return FINE


@native
def copy_into(target: Any, source: Any) -> None:
    """Copy an array without allocating memory."""
    for k in range(len(source)):
        target[k] = source[k]


@native
def open_journal(memory: Any) -> None:
    """Start the journal of one record."""
    memory.notes[0].journaled = 0
    copy_into(memory.scalars_kept[0], memory.scalars)
    for at in range(len(memory.sizes)):
        memory.sizes[at].before = memory.sizes[at].size


@native
def keep(op: Any, memory: Any, rows: Any) -> None:
    """Write the fields that an operation is about to change into the journal."""
    at = memory.notes[0].journaled
    for k in range(rows.sizes[op.source]):
        first = rows.slots[op.source, k] * op.stride + op.base
        for field in range(first, first + op.fields):
            memory.journal[at].field = field
            memory.journal[at].value = memory.fields[field]
            at += 1
    memory.notes[0].journaled = at


@native
def undo(ops: Any, memory: Any) -> None:
    """Undo everything that was learned since the journal was opened."""
    for at in range(memory.notes[0].journaled - 1, -1, -1):
        memory.fields[memory.journal[at].field] = memory.journal[at].value
    copy_into(memory.scalars, memory.scalars_kept[0])
    for j in range(len(ops)):
        if ops[j].code == ONEHOT:
            at = ops[j].list
            for k in range(memory.sizes[at].before, memory.sizes[at].size):
                memory.pairs[memory.pairs[memory.lists[at, k]].alike].learned = 0
            for k in range(memory.sizes[at + 1].before, memory.sizes[at + 1].size):
                memory.fields[memory.lists[at + 1, k] * ops[j].stride + ops[j].base + LISTED] = 0.0
    for at in range(len(memory.sizes)):
        memory.sizes[at].size = memory.sizes[at].before


@inlined
def width_of(batch: Any, record: int, memory: Any, fan: int) -> int:
    """Return the largest width of a row of this record: each branch repeats a feature, each encoder adds its list."""
    width = batch.starts[record + 1] - batch.starts[record]
    for at in range(1, len(memory.sizes), 2):
        width += memory.sizes[at].size
    return int(width * fan)


@inlined
def has_room(width: int, memory: Any, rows: Any) -> bool:
    """Tell whether rows and lists have room for all that a record of this width may add."""
    longest = 0
    for at in range(len(memory.sizes)):
        longest = max(longest, memory.sizes[at].size)
    # The record may add one class.
    fits = width <= rows.slots.shape[1] and memory.notes[0].classes < memory.tally.shape[1]
    return bool(fits and longest + width <= memory.lists.shape[1])


@inlined
def ready(batch: Any, record: int, memory: Any, rows: Any, fan: int) -> int:
    """Load a record, or return why the machine must stop first. Rows and lists must have room for all it may add."""
    width = width_of(batch, record, memory, fan)
    if not has_room(width, memory, rows):
        memory.notes[0].width = width
        return ROOM_WANTED
    if not has_own_room(memory, width):
        return FAMILY_WANTED
    memory.notes[0].late = FINE
    return NAME_WANTED if load(batch, record, memory, rows) == UNMET else DONE


@inlined
def note_met(ops: Any, memory: Any, rows: Any) -> None:
    """Note the features that were learned: storing the model looks only at those."""
    for j in range(len(ops)):
        if ops[j].saved != 0:
            source = ops[j].source
            for k in range(rows.sizes[source]):
                touch(memory, rows.slots[source, k])


@inlined
def learn(ops: Any, memory: Any, rows: Any, label: float, late: bool) -> int:
    """Teach the final estimator the row that `sweep` has written. On a fault, undo the record and return the fault."""
    last = len(ops) - 1
    if late:
        keep(ops[last], memory, rows)
    fault = teach(ops[last], memory, rows, label)
    if fault == FINE:
        note_met(ops, memory, rows)
        memory.notes[0].learned += 1
    else:
        undo(ops, memory)
    return fault


@inlined
def is_other_kind(ops: Any, memory: Any, label: float) -> bool:
    """Tell whether a label is a string and the classes of the model are numbers, or the other way round."""
    if ops[len(ops) - 1].tallies == 0 or label != label or memory.notes[0].classes == 0:  # noqa: PLR0124 NaN is no label
        return False
    return bool(memory.classes[int(label)].is_word != memory.classes[memory.classes[0].number].is_word)


@inlined
def attempt(
    ops: Any,
    keys: Any,
    memory: Any,
    rows: Any,
    pairs: Any,
    answers: Any,
    record: int,
    label: float,
    late: bool,
) -> int:
    """Predict the record in row 0, then learn it if it has a label: in a loop, so that `sweep` is compiled once."""
    last, fault = len(ops) - 1, FINE
    if is_other_kind(ops, memory, label):
        memory.notes[0].late = WRONG_CLASS
    for learning in range(2):
        fault = sweep(ops, keys, memory, rows, pairs, learning == 1, late)
        if fault == FINE:
            fault = look(ops[last], last, memory, rows, pairs)
            if fault != FINE and learning == 1:
                undo(ops, memory)
        # While the machine only gathers unnamed pairs, it answers and learns nothing.
        if fault == UNMET or memory.notes[0].asked != 0:
            return fault
        if fault == FINE and learning == 0:
            fault = answer(ops[last], memory, rows, answers, record)
        elif fault == FINE:
            fault = learn(ops, memory, rows, label, late)
        if fault != FINE or label != label:  # noqa: PLR0124 NaN is no label
            break
    answers.fault[record] = fault
    return fault


@inlined
def open_group(ops: Any, memory: Any, models: Any, group: Any) -> None:
    """Load the model of a group."""
    model = models.index[group.model]
    load_model(ops, memory, models.shapes, model.shape, models.numbers, model.numbers)
    memory.notes[0].learned = 0


@inlined
def close_group(ops: Any, memory: Any, models: Any, group: Any, slots: int) -> bool:
    """Store the model of a group if it has learned; return False if there is no space for it."""
    notes = memory.notes[0]
    model = models.index[group.into]
    if group.into != group.model:
        before = models.index[group.model]
        model.shape, model.numbers = before.shape, before.numbers
        model.size, model.shape_size = before.size, before.shape_size
    if notes.learned != 0:
        shape_room, numbers_room = room_of(ops, memory)
        full = notes.shapes + shape_room > len(models.shapes) or notes.numbers + numbers_room > len(models.numbers)
        if full:
            notes.width = max(shape_room, numbers_room)
            return False
        start = notes.numbers
        end, number = store_model(ops, memory, slots, models.shapes, notes.shapes, models.numbers, start)
        size = end - notes.shapes
        # Most models keep their shape, and most new models of a batch have the same one.
        model.size, model.shape_size = number - start, size
        same = is_shape(models.shapes, model.shape, notes.shapes, size)
        if same and group.in_place != 0:
            for at in range(number - start):
                models.numbers[model.numbers + at] = models.numbers[start + at]
        else:
            model.numbers, notes.numbers = start, number
        if not same:
            if notes.newest < 0 or not is_shape(models.shapes, notes.newest, notes.shapes, size):
                notes.newest, notes.shapes = notes.shapes, end
            model.shape = notes.newest
    clear_memory(ops, memory)
    return True


@inlined
def turn(ops: Any, memory: Any, models: Any, slots: int) -> int:
    """Close the finished group and open the next one with records. Return DONE, or why the machine stops."""
    notes = memory.notes[0]
    while True:
        group = models.groups[notes.group]
        if notes.loaded != 0 and notes.at < group.last:
            return DONE
        if notes.loaded != 0:
            if group.stays != 0:
                return ALL_DONE
            if not close_group(ops, memory, models, group, slots):
                return SPACE_WANTED
            notes.loaded = 0
            notes.group += 1
            if notes.group == len(models.groups):
                return ALL_DONE
            continue
        if not fits_own(memory, models.shapes, own_part(ops, models.shapes, models.index[group.model].shape)):
            return FAMILY_WANTED
        open_group(ops, memory, models, group)
        notes.loaded = 1


def _runner(sources: int) -> Any:  # noqa: C901 a reason to stop each
    @entry
    def run(
        ops: Any,
        keys: Any,
        memory: Any,
        rows: Any,
        pairs: Any,
        batch: Any,
        answers: Any,
        models: Any,
        fan: int,
        slots: int,
        late: bool,
    ) -> int:
        notes = memory.notes[0]
        notes.asked, first_asked = 0, 0
        while True:
            if notes.asked == 0:
                wanted = turn(ops, memory, models, slots)
                if wanted != DONE:
                    return wanted
            record = models.order[notes.at]
            wanted = ready(batch, record, memory, rows, fan)
            if wanted == DONE:
                fault = attempt(ops, keys, memory, rows, pairs, answers, record, batch.labels[record], late)
                if fault == UNMET:
                    # A return to Python is slow: scan further records for more unnamed pairs first.
                    first_asked = notes.at if notes.asked == 0 else first_asked
                    notes.asked += 1
                elif fault == FAMILY_WANTED:
                    return FAMILY_WANTED
                elif fault != FINE and notes.halts != 0 and notes.asked == 0:
                    return HALTED
            elif notes.asked == 0:
                return wanted
            notes.at += 1
            full = notes.asked == len(memory.asked) or notes.at - first_asked > LOOK_AHEAD
            if notes.asked != 0 and (full or wanted != DONE or notes.at == len(models.order)):
                notes.at = first_asked
                # `sources` is used here so that numba compares it: see `print_of_sources`.
                return PAIR_WANTED if sources >= 0 else DONE

    return run


run = _runner(print_of_sources())
"""Predict and learn the records of all groups. Return ALL_DONE or the step that Python must do before the next call."""
