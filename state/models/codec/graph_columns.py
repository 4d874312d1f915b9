"""The tables and columns of a model while it is being written: grouped by class, joined, and put in order."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from headrace.state.models.codec.class_layout import state_getter

Objects = list[Any]


class InspectedColumn(NamedTuple):
    """A column's values, and their types."""

    values: list[Any]
    types: set[type]


class ClassTable(NamedTuple):
    """Objects of one class, and their columns."""

    cls: type
    objects: Objects
    names: tuple[str, ...]
    lengths: list[int]
    columns: list[InspectedColumn]


def shapes(cls: type, layout: Any, objects: Objects) -> Iterator[tuple[tuple[str, ...], Objects, list[Any]]]:
    """Group instances by their attributes: yield the attributes' names, the instances, and their rows of values."""
    if not layout.slots and layout.get_dict is None:
        yield (), objects, [() for _ in objects]
        return
    if not layout.slots:
        get_state: Any = state_getter(cls)
        held = [*map(get_state, objects)]
        names = [*map(tuple, held)]
        if len(set(names)) == 1:
            yield names[0], objects, [*map(dict.values, held)]
            return
        rows: Iterable[dict[str, Any]] = held
    else:
        rows = [_slotted(layout, one) for one in objects]
        names = [*map(tuple, rows)]
    groups: dict[tuple[str, ...], tuple[Objects, list[Any]]] = {}
    for shape, one, row in zip(names, objects, rows, strict=True):
        group, kept = groups.setdefault(shape, ([], []))
        group.append(one)
        kept.append(row.values())
    for shape, (group, kept) in groups.items():
        yield shape, group, kept


def _slotted(layout: Any, one: Any) -> dict[str, Any]:
    row = dict(layout.get_dict(one)) if layout.get_dict is not None else {}
    for name, slot in layout.slots.items():
        try:
            row[name] = slot.__get__(one)
        except AttributeError:
            continue
    return row


def joined(tables: list[ClassTable]) -> list[ClassTable]:
    """Join the tables that have the same class and columns."""
    groups: dict[tuple[type, tuple[str, ...]], list[ClassTable]] = defaultdict(list)
    for table in tables:
        groups[table.cls, table.names].append(table)
    joined = []
    for (cls, names), parts in groups.items():
        if len(parts) == 1:
            joined.append(parts[0])
            continue
        columns = [
            InspectedColumn(
                [*itertools.chain.from_iterable(part.values for part in column)],
                set().union(*(p.types for p in column)),
            )
            for column in zip(*map(_columns, parts), strict=True)
        ]
        objects = [*itertools.chain.from_iterable(part.objects for part in parts)]
        lengths = [*itertools.chain.from_iterable(part.lengths for part in parts)]
        joined.append(ClassTable(cls, objects, names, lengths, columns))
    return joined


def _columns(table: ClassTable) -> list[InspectedColumn]:
    """Return a column for each name; the table of one object has its values as a row."""
    if len(table.objects) > 1 or not table.names:
        return table.columns
    (row,) = table.columns
    return [InspectedColumn([value], {type(value)}) for value in row.values]


def split_ready(table: ClassTable, unwritten: set[int]) -> tuple[ClassTable, ClassTable]:
    """Split a table into the objects that hold none of the unwritten ones, and the others."""
    (column,) = table.columns
    if unwritten.isdisjoint(map(id, column.values)):
        return table, table._replace(objects=[])
    ends = itertools.accumulate(table.lengths)
    rows = [column.values[end - length : end] for end, length in zip(ends, table.lengths, strict=True)]
    is_ready = [unwritten.isdisjoint(map(id, row)) for row in rows]
    return _chosen(table, rows, is_ready), _chosen(table, rows, [not ready for ready in is_ready])


def _chosen(table: ClassTable, rows: list[list[Any]], chosen: list[bool]) -> ClassTable:
    kept = [*itertools.compress(rows, chosen)]
    held = [*itertools.chain.from_iterable(kept)]
    column = InspectedColumn(held, set(map(type, held)))
    return table._replace(
        objects=[*itertools.compress(table.objects, chosen)], lengths=[*map(len, kept)], columns=[column]
    )
