"""The memory layout of a class: the built-in type that it is derived from, and where its attributes are.

Attributes are read and written through the class's slots and the instance's dict, never with `getattr` and `setattr`,
which could run code of the class.
"""

import collections
import contextlib
import functools
import gc
import statistics
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from headrace.state.models.codec.graph import CodecError

_ROOTS: tuple[type, ...] = (
    collections.defaultdict,
    collections.OrderedDict,
    dict,
    list,
    set,
    collections.deque,
    tuple,
    frozenset,
    object,
)
_HEAP_TYPE = 1 << 9
OR_PICKLED = (
    "write the class in Python without __reduce__ and __getstate__, so that its attributes can be saved, "
    "or allow pickle: model.allow_pickle = true and redis.sign_key"
)
_STATE_METHODS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")


class Layout(NamedTuple):
    """The layout of a class: `root` is the built-in type it is derived from, `get_dict` reads an instance's dict."""

    root: type
    get_dict: Callable[[Any], dict[str, Any]] | None
    slots: dict[str, Any]


@functools.cache
def layout_of(cls: type) -> Layout:
    """Return the layout of a class. Raises CodecError for one that is not written in Python."""
    built_in = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    if built_in not in _ROOTS:
        raise CodecError(f"{cls.__module__}.{cls.__qualname__} keeps its state in native code", hint=OR_PICKLED)
    get_dict, slots = None, {}
    for base in reversed(cls.__mro__):
        if not base.__flags__ & _HEAP_TYPE:
            continue
        for name, found in vars(base).items():
            if type(found) is types.MemberDescriptorType:
                slots[name] = found
            elif name == "__dict__" and type(found) is types.GetSetDescriptorType:
                get_dict = found.__get__
    return Layout(built_in, get_dict, slots)


@functools.cache
def is_data(cls: type) -> bool:
    """Tell whether the attributes and items of instances are all of their state: no method changes how it is saved."""
    try:
        root = layout_of(cls).root
    except CodecError:
        return False
    if cls in (collections.Counter, statistics.NormalDist) or cls.__module__.startswith("river."):
        return True
    return all(
        getattr(cls, name, None) is getattr(root, name, None)
        for name in _STATE_METHODS
        # A named tuple's __getnewargs__ only returns its members.
        if not (root is tuple and name == "__getnewargs__")
    )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Turn the garbage collector off: nothing is freed meanwhile, and its searches would take half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def state_getter(cls: type) -> Callable[[Any], dict[str, Any]] | None:
    """Return the function that reads the attributes to save of an instance; None when it has no dict."""
    if name_of(cls) == _EMBEDDING:
        return _embedding_state
    # The __getstate__ of a River class leaves out parts that can be made again, like a compressor.
    custom = getattr(cls, "__getstate__", None)
    if cls.__module__.startswith("river.") and isinstance(custom, types.FunctionType):
        found: Callable[[Any], dict[str, Any]] = custom
        return found
    return layout_of(cls).get_dict


def name_of(cls: type) -> str:
    """Return the name by which a class is saved."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _embedding_state(one: Any) -> dict[str, Any]:
    """Save the leaves of RandomTreesEmbedding's trees themselves: the class knows them by their memory addresses."""
    held: dict[str, Any] = vars(one)
    return held | {"_leaf_indices": [[*tree.iter_leaves()] for tree in one.trees]}


def _finish_embedding(one: Any) -> None:
    held = vars(one)
    rows = held["_leaf_indices"]
    if type(rows) is not list or any(type(row) is not list for row in rows):
        raise CodecError("they have leaves that are not in lists")
    held["_leaf_indices"] = indices = []
    for row in rows:
        indices.append({id(leaf): place for place, leaf in enumerate(row)})
        # The same list may come again: empty it, so that its leaves are counted once.
        row.clear()


_EMBEDDING = "river.feature_extraction.kernel_approx:RandomTreesEmbedding"
FINISHES: dict[str, Callable[[Any], None]] = {_EMBEDDING: _finish_embedding}
"""The last step for instances of a class, after all their attributes are set."""


def make(cls: type, count: int) -> list[Any]:
    """Return new, empty instances of a class."""
    root: Any = layout_of(cls).root
    return [root.__new__(cls) for _ in range(count)]
