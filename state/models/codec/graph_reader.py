"""Makes a River model from its tables (`graph.py`) without running code of the model.

Objects are first made empty, by the `__new__` of object or of the built-in container that their class is derived from.
Then they are filled through their slots and their dict. No method of their classes is called: no `__init__`,
`__setattr__` or `__setstate__`, and no `__hash__` or `__eq__`, since a key must be of a type that Python itself hashes
and compares. The only other calls are the constructors in `values.py`, with checked arguments.
"""

import collections
import functools
import itertools
import pickle
import random
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from river._river_rust.vectordict import VectorDict

from headrace.state.models.codec import values
from headrace.state.models.codec.class_layout import FINISHES, layout_of, make, name_of, without_collection
from headrace.state.models.codec.graph import (
    NESTED_MAX,
    PICKLE,
    Attributes,
    CodecError,
    Column,
    Containers,
    Frozen,
    Graph,
    Instances,
    Named,
    Values,
    decode,
)
from headrace.state.models.codec.trust import ARGUMENT, FACTORY, ITEM, VECTOR, Trust, check_places, is_placed

_TEXTS = frozenset({type(None), bool, str, bytes})
_WHOLES = frozenset({bool, int})
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
# The keys of one container that may have the same hash. With many, each new key would be compared with all of them.
_SAME_HASH_MAX = 64
_SMALL = sys.hash_info.modulus
_ORDERS_MAX = 20_000
_COMPARES = ((tuple.__hash__, tuple.__eq__), (frozenset.__hash__, frozenset.__eq__))
_PAIR = 2
_LAYOUTS_MAX = 12
_SHUFFLED_MAX = 64
# The hash of a tuple visits all values in it; a tuple that it holds twice is visited twice, at every level.
_UNFOLDED_MIN, _UNFOLDED_PER_BYTE = 1 << 20, 16
# Freeing nested deques recurses in C without a limit.
_DEQUES_MAX = 5_000
_NUMERIC = frozenset({int, float, bool, np.float64, np.float32, np.int64})


def read(raw: bytes, trust: Trust) -> Any:
    """Return the model that was saved as bytes. Raises CodecError for invalid bytes."""
    graph = decode(raw)
    try:
        with without_collection():
            return _Reader(graph, trust, objects_max=len(raw)).model()
    except CodecError:
        raise
    except Exception as error:  # noqa: BLE001 invalid bytes may fail in any way
        raise CodecError(f"they contradict themselves: {type(error).__name__}: {error}") from None


class _Reader:
    """Reads one model."""

    def __init__(self, graph: Graph, trust: Trust, *, objects_max: int) -> None:
        self._graph = graph
        self._trust = trust
        self._objects_max = objects_max
        self._objects: list[Any] = []
        self._strings = graph.strings
        self._orders_left = _ORDERS_MAX
        # The position of each iterator, which is set after its list is filled.
        self._iterators: list[tuple[Any, int]] = []
        # For each immutable object that holds others: the depth of its nesting, and the values that its hash visits.
        self._depths: dict[int, int] = {}
        self._unfolded: dict[int, int] = {}
        self._unfolded_max = self._hashed_left = max(_UNFOLDED_MIN, _UNFOLDED_PER_BYTE * objects_max)
        self._deques_left = _DEQUES_MAX

    def model(self) -> Any:
        """Return the model."""
        graph = self._graph
        for leaf in graph.leaves:
            self._objects += self._leaves(leaf)
        made = [self._make(table) for table in graph.mutables]
        self._objects += itertools.chain.from_iterable(made)
        for frozen in graph.frozen:
            self._objects += self._freeze(frozen)
        for table, objects in zip(graph.mutables, made, strict=True):
            if isinstance(table, Instances):
                self._fill(table, objects)
            else:
                self._contain(table, objects)
        for attributes in graph.attributes:
            self._fill(attributes, [self._objects[place] for place in attributes.owners])
        for table, objects in zip(graph.mutables, made, strict=True):
            finish = FINISHES.get(table.cls)
            if finish is not None:
                _exhaust(map(finish, objects))
        for iterator, at in self._iterators:
            iterator.__setstate__(at)
        return self._objects[graph.root]

    def _leaves(self, leaf: Named | Values) -> list[Any]:
        if isinstance(leaf, Named):
            return [*map(self._trust.find, leaf.names)]
        if leaf.kind == PICKLE and self._trust.pickles:
            return [*map(pickle.loads, leaf.states)]
        return [values.load(leaf.kind, state) for state in leaf.states]

    def _make(self, table: Instances | Containers) -> list[Any]:
        cls = self._trust.instance_class(table.cls)
        count = table.count if isinstance(table, Instances) else len(table.lengths)
        self._objects_max -= count
        _require(self._objects_max >= 0, "they ask for more objects than they have bytes")
        root = layout_of(cls).root
        _require((root is object) == isinstance(table, Instances) and root not in (tuple, frozenset), f"a {table.cls}")
        return make(cls, count)

    # Columns.

    def _column(self, column: Column, count: int, place: str = ITEM, names: Sequence[str] = ()) -> list[Any]:
        """Return a column's values, after a check that they may be in this place, or in the place of their names."""
        kinds, plain, strings, places = column.kinds, column.plain, column.strings, column.objects
        _require(len(plain) + len(strings) + len(places) == count, "a column's length")
        objects = [*map(self._objects.__getitem__, places)]
        texts = [*map(self._strings.__getitem__, strings)]
        if kinds is None:
            _require((not plain) + (not texts) + (not objects) >= 2, "a column's kinds")  # noqa: PLR2004 of the three
            held = plain or texts or objects
        else:
            _require(len(kinds) == count, "a column's kinds")
            parts = [iter(plain), iter(texts), iter(objects)]
            held = [*map(next, map(parts.__getitem__, kinds))]
        if objects and any(map(is_placed, set(map(type, objects)))):
            check_places(self._trust, held, place, names)
        return held

    def _rows(self, lengths: list[int], column: Column, place: str = ITEM) -> Iterator[list[Any]]:
        held = self._column(column, sum(lengths), place)
        ends = itertools.accumulate(lengths)
        return (held[end - length : end] for end, length in zip(ends, lengths, strict=True))

    # Fill the objects that hold others.

    def _fill(self, table: Instances | Attributes, objects: list[Any]) -> None:
        cls = self._trust.instance_class(table.cls)
        layout = layout_of(cls)
        if isinstance(table, Attributes):
            _require(all(type(one) is cls for one in objects), "attributes of another class")
        names, columns = [], []
        for name, held in zip(table.names, self._attributes(cls, table, len(objects)), strict=True):
            self._trust.check_attribute(cls, name)
            if name in layout.slots:
                _exhaust(map(layout.slots[name].__set__, objects, held))
            else:
                names.append(sys.intern(name))
                columns.append(held)
        if names:
            _require(layout.get_dict is not None, "attributes of an object that has none")
            dicts = map(layout.get_dict, objects)  # type: ignore[arg-type]
            _exhaust(map(dict.update, dicts, map(zip, itertools.repeat(names), zip(*columns, strict=True))))

    def _attributes(self, cls: type, table: Instances | Attributes, count: int) -> list[Any]:
        """Return a list of values for each attribute."""
        names, place = table.names, name_of(cls)
        is_row = count == 1 and len(names) > 0
        _require(len(set(names)) == len(names) and len(table.columns) == (1 if is_row else len(names)), "its columns")
        if is_row:
            return [[value] for value in self._column(table.columns[0], len(names), place, names)]
        return [
            self._column(column, count, f"{place}.{name}") for name, column in zip(names, table.columns, strict=True)
        ]

    def _contain(self, table: Containers, objects: list[Any]) -> None:
        cls = self._trust.instance_class(table.cls)
        root = layout_of(cls).root
        _require((table.values is None) == (not issubclass(root, dict)), "a container's columns")
        _require((table.extra is None) == (root not in (collections.deque, collections.defaultdict)), "its columns")
        rows = self._rows(table.lengths, table.items)
        if root is list:
            _exhaust(map(list.extend, objects, rows))
        elif root is set:
            self._check_keys(self._column(table.items, sum(table.lengths)), table.lengths)
            for one, row in zip(objects, rows, strict=True):
                self._lay_out(one, row)
        elif root is collections.deque:
            bounds = self._column(table.extra, len(objects))  # type: ignore[arg-type]
            held = map(type, map(self._objects.__getitem__, table.items.objects))
            self._deques_left -= [*held].count(collections.deque)
            _require(self._deques_left >= 0, "too many deques lie in deques")
            _exhaust(map(collections.deque.__init__, objects, rows, bounds))
        else:
            self._fill_dicts(root, objects, table)

    def _fill_dicts(self, root: Any, objects: list[Any], table: Containers) -> None:
        count = sum(table.lengths)
        keys = self._column(table.items, count)
        self._check_keys(keys, table.lengths)
        pairs = zip(keys, self._column(table.values, count), strict=True)  # type: ignore[arg-type]
        if root is collections.OrderedDict:
            for one, length in zip(objects, table.lengths, strict=True):
                for key, value in itertools.islice(pairs, length):
                    root.__setitem__(one, key, value)
        else:
            _exhaust(map(dict.update, objects, map(itertools.islice, itertools.repeat(pairs), table.lengths)))
        if root is collections.defaultdict:
            factories = self._column(table.extra, len(objects), FACTORY)  # type: ignore[arg-type]
            _require(all(map(_is_factory, factories)), "a factory that makes nothing")
            _exhaust(map(vars(root)["default_factory"].__set__, objects, factories))

    def _freeze(self, table: Frozen) -> list[Any]:
        freeze: Callable[..., list[Any]] = getattr(self, f"_freeze_{table.kind}")
        place = {"partial": ARGUMENT, "method": ARGUMENT, "vector": VECTOR}.get(table.kind, ITEM)
        rows = [*self._rows(table.lengths, table.items, place)]
        made = freeze(table, rows)
        for one, row in zip(made, rows, strict=True):
            depth = 1 + max(map(self._depths.get, map(id, row), itertools.repeat(0)), default=0)
            _require(depth <= NESTED_MAX, "tuples lie in one another too deep")
            self._depths[id(one)] = depth
            unfolded = 1 + len(row) + sum(map(self._unfolded.get, map(id, row), itertools.repeat(0)))
            _require(unfolded <= self._unfolded_max, "tuples lie in one another too often")
            self._unfolded[id(one)] = unfolded
        return made

    def _freeze_tuple(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:
        cls = self._trust.instance_class(table.cls)
        _require(layout_of(cls).root is tuple, "no tuple")
        return [tuple.__new__(cls, row) for row in rows]

    def _freeze_frozenset(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:
        cls = self._trust.instance_class(table.cls)
        _require(layout_of(cls).root is frozenset, "no frozenset")
        self._check_keys([*itertools.chain.from_iterable(rows)], table.lengths)
        return [frozenset.__new__(cls, row) for row in rows]

    def _freeze_partial(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:
        names = table.names
        made = []
        for function, *arguments in rows:
            _require(len(arguments) >= len(names) and callable(function), "a partial's arguments")
            # `functools.partial` would merge the two, and the arguments would not be checked.
            _require(not isinstance(function, functools.partial), "a partial of a partial")
            self._trust.check_arguments(function, arguments, names)
            split = len(arguments) - len(names)
            named = dict(zip(names, arguments[split:], strict=True))
            made.append(functools.partial(function, *arguments[:split], **named))
        return made

    def _freeze_method(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:
        (name,) = table.names
        function = self._trust.find(name)
        _require(isinstance(function, types.FunctionType), "a method's function")
        made = []
        for (one,) in rows:
            cls = one if isinstance(one, type) else type(one)
            found = (vars(base).get(function.__name__) for base in cls.__mro__)
            _require(any(getattr(method, "__func__", method) is function for method in found), "a method's owner")
            made.append(types.MethodType(function, one))
        return made

    def _freeze_vector(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:  # noqa: ARG002 as the others
        made: list[Any] = []
        for factory, mask, *held in rows:
            keys, numbers = held[: len(held) // 2], held[len(held) // 2 :]
            self._check_keys(keys, [len(keys)])
            # Its native code adds them while it has only borrowed references to them.
            _require(_NUMERIC.issuperset(map(type, numbers)), "a vector of other things than numbers")
            _require(mask is None or type(mask) is frozenset, "a vector's mask")
            # Each vector copies its mask.
            self._hashed_left -= len(mask or ())
            _require(self._hashed_left >= 0, "vectors' masks hold too much")
            _require(_is_factory(factory), "a vector's factory")
            made.append(VectorDict(dict(zip(keys, numbers, strict=True)), factory, mask, True))  # noqa: FBT003
        return made

    def _freeze_iterator(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:  # noqa: ARG002 as the others
        made = []
        for held, *place in rows:
            _require(type(held) is list and all(type(at) is int and 0 <= at <= 1 << 48 for at in place), "an iterator")
            one = iter(held)
            if place:
                self._iterators.append((one, place[0]))
            else:
                _exhaust(one)
            made.append(one)
        return made

    def _freeze_generator(self, table: Frozen, rows: list[list[Any]]) -> list[Any]:
        made: list[Any] = []
        _require(len({id(bits) for bits, *_ in rows}) == len(rows), "generators that share a source")
        for bits, *rest in rows:
            _require(isinstance(bits, np.random.BitGenerator), "a generator's source")
            if table.cls == "numpy.random._generator:Generator":
                made.append(np.random.Generator(bits))
                continue
            has_gauss, gauss = rest
            _require(has_gauss in (0, 1) and type(gauss) is float, "a generator's state")
            source = np.random.RandomState(bits)
            source.set_state(source.get_state(legacy=False) | {"has_gauss": has_gauss, "gauss": gauss})
            made.append(source)
        return made

    def _lay_out(self, held: set[Any], members: list[Any]) -> None:
        """Fill a set so that it iterates in the same order as when it was saved.

        The order decides the last bits of a sum over the members. It depends on the order in which they were added: of
        two that need the same slot, the second gets another. So several orders are tried, first the one that
        `models/learner.py` gives to a new model's sets; for a large set that has grown since, none may fit.
        """
        set.update(held, members)
        if len(members) < _PAIR or [*set.__iter__(held)] == members:
            return
        for order in itertools.islice(_orders(members), self._orders_left):
            set.clear(held)
            set.update(held, order)
            self._orders_left -= 1
            if [*set.__iter__(held)] == members:
                return

    def _check_keys(self, keys: list[Any], lengths: list[int]) -> None:
        """Refuse keys that a class's own method would hash or compare, and too many keys with one hash."""
        kinds = set(map(type, keys))
        if not kinds <= _SCALARS:
            self._hashed_left -= sum(map(self._unfolded.get, map(id, keys), itertools.repeat(1)))
            _require(self._hashed_left >= 0, "keys hold too much")
        for kind in kinds - _SCALARS:
            for key in keys:
                if type(key) is kind:
                    _require(_is_key(key), f"a {kind.__qualname__} is a key")
        if kinds <= _TEXTS or (kinds <= _WHOLES and all(-_SMALL < key < _SMALL for key in keys)):
            return
        ends = itertools.accumulate(lengths)
        for end, length in zip(ends, lengths, strict=True):
            if length > _SAME_HASH_MAX:
                hashes = collections.Counter(map(hash, keys[end - length : end]))
                _require(max(hashes.values()) <= _SAME_HASH_MAX, "many keys have the same hash")


def _is_factory(factory: Any) -> bool:
    """Tell whether a value may be a factory; a container may not, since C recurses into it without a limit."""
    return factory is None or callable(factory)


def _is_key(key: Any) -> bool:
    kind: Any = type(key)
    if kind in _SCALARS or kind is re.Pattern or isinstance(key, np.generic):
        return True
    compares = (kind.__hash__, kind.__eq__)
    if isinstance(key, tuple | frozenset):
        return compares in _COMPARES and all(map(_is_key, key))
    if issubclass(kind, type):
        return compares == (type.__hash__, type.__eq__)
    return compares == (object.__hash__, object.__eq__) or values.kind_of(kind) is not None


def _orders(members: list[Any]) -> Iterator[list[Any]]:
    order = sorted(members, key=repr) if _SCALARS.issuperset(map(type, members)) else [*members]
    yield order
    if len(members) <= _SHUFFLED_MAX:
        source = random.Random(0)  # noqa: S311 any orders will do
        for _ in range(_LAYOUTS_MAX):
            source.shuffle(order)
            yield order
            found = {*order}
            misplaced = next((one for one, other in zip(members, found, strict=False) if one is not other), order[0])
            order.remove(misplaced)
            order.insert(0, misplaced)
            yield order
    yield members


def _require(holds: bool, invalid: str) -> None:  # noqa: FBT001 a condition, and the part that is invalid without it
    if not holds:
        raise CodecError(f"they contradict themselves: {invalid}")


_exhaust = collections.deque[Any](maxlen=0).extend
