"""Writes a River model as tables of its objects (`graph.py`).

It visits the objects in rounds, type by type, without recursion, so that no model is too deep. Work for each object is
done by Python's built-in functions on whole columns: a Python loop over a million objects would be too slow.
"""

import collections
import functools
import itertools
import pickle
import sys
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from river._river_rust.vectordict import VectorDict

from headrace.state.models.codec import values
from headrace.state.models.codec.class_layout import OR_PICKLED, is_data, layout_of, without_collection
from headrace.state.models.codec.graph import (
    INLINE,
    NESTED_MAX,
    PICKLE,
    PLAIN,
    Attributes,
    CodecError,
    Column,
    Containers,
    Frozen,
    Graph,
    Instances,
    Named,
    Values,
    encode,
)
from headrace.state.models.codec.graph_columns import ClassTable, InspectedColumn, Objects, joined, shapes, split_ready
from headrace.state.models.codec.trust import (
    ARGUMENT,
    FACTORY,
    ITEM,
    VECTOR,
    Trust,
    check_places,
    is_named,
    is_placed,
    name_of,
)

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_KINDS = {**dict.fromkeys(PLAIN, 0), str: 1}
_ITERATOR: type = type(iter([]))
_FROZEN: dict[type, str] = {
    tuple: "tuple",
    frozenset: "frozenset",
    functools.partial: "partial",
    types.MethodType: "method",
    VectorDict: "vector",
    _ITERATOR: "iterator",
    np.random.Generator: "generator",
    np.random.RandomState: "generator",
}


class _FullError(Exception):
    """Raised when a model takes more than `bytes_max`."""


def write(root: Any, trust: Trust, *, bytes_max: int | None = None) -> bytes | None:
    """Return a model as bytes; stop early and return None when it takes more than `bytes_max`.

    Raises CodecError for a model that can't be saved.
    """
    try:
        with without_collection():
            return encode(_Writer(trust, bytes_max).graph(root))
    except UnicodeEncodeError:
        with without_collection():
            return encode(_Writer(trust, bytes_max, odd_texts=True).graph(root))
    except _FullError:
        return None


class _Writer:
    """Writes one model. With `odd_texts`, UTF-8 can't encode some of its strings."""

    def __init__(self, trust: Trust, bytes_max: int | None, *, odd_texts: bool = False) -> None:
        self._trust = trust
        # Each value takes at least a byte.
        self._bytes_left = sys.maxsize if bytes_max is None else bytes_max
        self._odd_texts = odd_texts
        # Keeps every object alive, so that no other object gets its id.
        self._seen: dict[int, Any] = {}
        self._found: list[Objects] = []
        self._groups: dict[type, Objects] = defaultdict(list)
        self._holders: dict[type, str] = {}
        self._pickled: set[type] = set()
        self._tables: dict[str, list[ClassTable]] = defaultdict(list)
        self._numbers: dict[int, int] = {}
        self._strings: dict[str, int] = {}

    def graph(self, root: Any) -> Graph:
        """Return the model as tables."""
        start = self._inspect([root])
        while self._found:
            found, self._found = self._found, []
            groups: dict[type, Objects] = defaultdict(list)
            for value in itertools.chain.from_iterable(found):
                groups[type(value)].append(value)
            for cls, objects in groups.items():
                self._groups[cls] += objects
                self._expand(cls, objects)
        leaves = self._leaves()
        for kind in ("instances", "containers"):
            self._tables[kind] = joined(self._tables[kind])
            for table in self._tables[kind]:
                self._number(table.objects)
        ordered = list(self._ordered())
        for table in ordered:
            self._number(table.objects)
        mutables: list[Any] = [
            *map(self._instances, self._tables["instances"]),
            *map(self._container, self._tables["containers"]),
        ]
        frozen = [*map(self._frozen, ordered)]
        attributes = [self._attributes(table) for table in self._tables["attributes"]]
        (number,) = self._column(start).objects
        return Graph(1, list(self._strings), leaves, mutables, frozen, attributes, number)

    # Find all objects.

    def _inspect(self, column: list[Any], place: str = ITEM, names: tuple[str, ...] = ()) -> InspectedColumn:
        """Look for new objects in a column; for the row of one instance `names` has the name of each value."""
        self._count_bytes(len(column))
        kinds = set(map(type, column))
        if int in kinds and _has_big(column, kinds):
            column = [values.BigInt(value) if type(value) is int and _is_big(value) else value for value in column]
            kinds = set(map(type, column))
        if self._odd_texts and str in kinds:
            column = [values.OddText(value) if type(value) is str and _is_odd(value) else value for value in column]
            kinds = set(map(type, column))
        if not kinds <= INLINE:
            self._add_new(column, kinds, place, names)
        return InspectedColumn(column, kinds)

    def _add_new(self, column: list[Any], kinds: set[type], place: str, names: tuple[str, ...]) -> None:
        seen = self._seen
        new = [value for value in column if type(value) not in INLINE and id(value) not in seen]
        if new:
            before = len(seen)
            seen.update(zip(map(id, new), new, strict=True))
            if len(seen) - before < len(new):
                new = [*dict(zip(map(id, new), new, strict=True)).values()]
            self._found.append(new)
            for kind in kinds - self._holders.keys():
                name = next((f".{name}" for name, value in zip(names, column, strict=False) if type(value) is kind), "")
                self._holders[kind] = place + name
        if any(map(is_placed, kinds)):
            check_places(self._trust, column, place, names)

    def _count_bytes(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise _FullError

    def _expand(self, cls: type, objects: Objects) -> None:
        """Inspect the values that the objects of one class hold."""
        if is_named(cls) or values.kind_of(cls) is not None:
            return
        try:
            if cls in _FROZEN:
                getattr(self, f"_expand_{_FROZEN[cls]}")(cls, objects)
            else:
                self._expand_objects(cls, objects)
        except CodecError as error:
            holder = self._holders[cls]
            where = f", in {holder}" if "." in holder and holder not in str(error) else ""
            raise CodecError(f"{error}{where}", hint=error.hint) from None

    def _expand_objects(self, cls: type, objects: Objects) -> None:
        if self._trust.pickles and not is_data(cls):
            self._pickled.add(cls)
            return
        root = layout_of(cls).root
        self._trust.instance_class(self._trust.note(cls))
        if not is_data(cls):
            raise CodecError(f"{cls.__module__}.{cls.__qualname__} defines itself how it is saved", hint=OR_PICKLED)
        if root is object:
            self._expand_instances(cls, objects, "instances")
            return
        if root in (tuple, frozenset):
            getattr(self, f"_expand_{_FROZEN[root]}")(cls, objects)
        else:
            self._expand_containers(cls, root, objects)
        if cls is not root:
            self._expand_instances(cls, objects, "attributes")

    def _expand_instances(self, cls: type, objects: Objects, kind: str) -> None:
        layout = layout_of(cls)
        for names, group, rows in shapes(cls, layout, objects):
            if kind == "attributes" and not names:
                continue
            for name in names:
                self._trust.check_attribute(cls, name)
            place = name_of(cls)
            if len(group) == 1:
                columns = [self._inspect(list(rows[0]), place, names)] if names else []
            else:
                columns = [
                    self._inspect(list(column), f"{place}.{name}")
                    for name, column in zip(names, zip(*rows, strict=True), strict=True)
                ]
            self._tables[kind].append(ClassTable(cls, group, names, [], columns))

    def _expand_containers(self, cls: type, root: type, objects: Objects) -> None:
        lengths = [*map(root.__len__, objects)]  # type: ignore[attr-defined]
        columns = [self._inspect([*itertools.chain.from_iterable(map(root.__iter__, objects))])]  # type: ignore[attr-defined]
        if issubclass(root, dict):
            columns.append(self._inspect([*itertools.chain.from_iterable(map(root.values, objects))]))
        if root is collections.defaultdict:
            get_factory = vars(root)["default_factory"].__get__
            columns.append(self._inspect([*map(get_factory, objects)], FACTORY))
        if root is collections.deque:
            columns.append(self._inspect([*map(vars(root)["maxlen"].__get__, objects)]))
        self._tables["containers"].append(ClassTable(cls, objects, (), lengths, columns))

    def _expand_tuple(self, cls: type, objects: Objects) -> None:
        self._hold(cls, objects, [*map(tuple.__iter__, objects)], ())

    def _expand_frozenset(self, cls: type, objects: Objects) -> None:
        self._hold(cls, objects, [*map(frozenset.__iter__, objects)], ())

    def _expand_partial(self, cls: type, objects: Objects) -> None:
        for part in objects:
            if part.__dict__:
                raise CodecError("a functools.partial has attributes of its own")
            arguments = [*part.args, *part.keywords.values()]
            self._trust.check_arguments(part.func, arguments, (*part.keywords,))
            self._hold(cls, [part], [[part.func, *arguments]], (*part.keywords,), ARGUMENT)

    def _expand_method(self, cls: type, objects: Objects) -> None:
        for method in objects:
            self._hold(cls, [method], [[method.__self__]], (self._trust.note(method.__func__),), ARGUMENT)

    def _expand_vector(self, cls: type, objects: Objects) -> None:
        for vector in objects:
            _, (data, factory, mask, _) = vector.__reduce__()
            # The vector is made from its mask, so the mask must be immutable, and complete before the vector.
            held = None if mask is None else frozenset(mask)
            self._hold(cls, [vector], [[factory, held, *data, *data.values()]], (), VECTOR)

    def _expand_iterator(self, cls: type, objects: Objects) -> None:
        for iterator in objects:
            _, (held, *_), *place = iterator.__reduce__()
            self._hold(cls, [iterator], [[list(held), *place]], ())

    def _expand_generator(self, cls: type, objects: Objects) -> None:
        for source in objects:
            held = [source._bit_generator]  # noqa: SLF001 it has no public name in a RandomState
            if cls is np.random.RandomState:
                state = source.get_state(legacy=False)
                held += [state["has_gauss"], state["gauss"]]
            self._hold(cls, [source], [held], ())

    def _hold(self, cls: type, objects: Objects, held: list[Any], names: tuple[str, ...], place: str = ITEM) -> None:
        held = [*map(list, held)]
        column = self._inspect([*itertools.chain.from_iterable(held)], place)
        self._tables["frozen"].append(ClassTable(cls, objects, names, [*map(len, held)], [column]))

    # Number the objects.

    def _number(self, objects: Objects) -> None:
        self._numbers.update(zip(map(id, objects), itertools.count(len(self._numbers)), strict=False))

    def _leaves(self) -> list[Named | Values]:
        leaves: list[Named | Values] = []
        for cls, objects in self._groups.items():
            if is_named(cls):
                self._number(objects)
                leaves.append(Named([*map(self._trust.note, objects)]))
            elif cls in self._pickled:
                self._number(objects)
                leaves.append(Values(PICKLE, [self._pickle(value) for value in objects]))
            elif (kind := values.kind_of(cls)) is not None:
                self._number(objects)
                leaves.append(Values(kind, [self._state(kind, value) for value in objects]))
        return leaves

    def _pickle(self, value: Any) -> bytes:
        try:
            state = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise CodecError(
                f"{type(value).__module__}.{type(value).__qualname__} can't be pickled: {error}"
            ) from error
        self._count_bytes(len(state))
        return state

    def _state(self, kind: str, value: Any) -> bytes:
        state = values.dump(kind, value)
        self._count_bytes(len(state))
        return state

    def _ordered(self) -> Iterator[ClassTable]:
        """Yield the immutable objects, each after those that it holds."""
        waiting = self._tables["frozen"]
        unwritten = {key for table in waiting for key in map(id, table.objects)}
        for _ in range(NESTED_MAX):
            later = []
            for table in waiting:
                ready, rest = split_ready(table, unwritten)
                if ready.objects:
                    yield ready
                if rest.objects:
                    later.append(rest)
            if not later:
                return
            unwritten = {key for table in later for key in map(id, table.objects)}
            waiting = later
        raise CodecError(f"tuples are nested more than {NESTED_MAX} deep")

    # Turn the columns of values into columns of numbers.

    def _column(self, column: InspectedColumn) -> Column:
        held, kinds = column
        if kinds <= PLAIN:
            return Column(None, held, [], [])
        if kinds == {str}:
            return Column(None, [], self._texts(held), [])
        if kinds.isdisjoint(INLINE):
            return Column(None, [], [], self._places(held))
        codes = bytes(map(_KINDS.get, map(type, held), itertools.repeat(2)))
        plain, texts, objects = ([*itertools.compress(held, map(kind.__eq__, codes))] for kind in range(3))
        return Column(codes, plain, self._texts(texts), self._places(objects))

    def _texts(self, texts: Sequence[str]) -> list[int]:
        strings = self._strings
        for text in dict.fromkeys(texts):
            strings.setdefault(text, len(strings))
        return [*map(strings.__getitem__, texts)]

    def _places(self, objects: Iterable[Any]) -> list[int]:
        return [*map(self._numbers.__getitem__, map(id, objects))]

    def _instances(self, table: ClassTable) -> Instances:
        columns = [*map(self._column, table.columns)]
        return Instances(name_of(table.cls), len(table.objects), list(table.names), columns)

    def _container(self, table: ClassTable) -> Containers:
        items, *rest = map(self._column, table.columns)
        root = layout_of(table.cls).root
        held = rest.pop(0) if issubclass(root, dict) else None
        return Containers(name_of(table.cls), table.lengths, items, held, rest[0] if rest else None)

    def _frozen(self, table: ClassTable) -> Frozen:
        root = table.cls if table.cls in _FROZEN else layout_of(table.cls).root
        (items,) = map(self._column, table.columns)
        kind: Any = _FROZEN[root]
        cls = name_of(table.cls) if kind in {"tuple", "frozenset", "generator"} else ""
        return Frozen(kind, cls, table.lengths, items, list(table.names))

    def _attributes(self, table: ClassTable) -> Attributes:
        columns = [*map(self._column, table.columns)]
        return Attributes(name_of(table.cls), self._places(table.objects), list(table.names), columns)


def _has_big(column: list[Any], kinds: set[type]) -> bool:
    integers = column if len(kinds) == 1 else [value for value in column if type(value) is int]
    return max(integers) > _INT_MAX or min(integers) < _INT_MIN


def _is_big(value: int) -> bool:
    return not _INT_MIN <= value <= _INT_MAX


def _is_odd(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
