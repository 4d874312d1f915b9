"""How the objects of a class are laid out in memory: which container they are made of, and where attributes are kept.

Attributes are read and written by the class's own slots and by the dict of the instance, never by `getattr` and
`setattr`: those would run what a class has put in their way.
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
    "let its objects be what they hold, without __reduce__, __getstate__ and native code, "
    "or have them pickled: model.allow_pickle = true and redis.sign_key"
)
_STATE_METHODS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")


class Layout(NamedTuple):
    """A class's memory: `root` is the built-in that it is made of, `get_dict` reads an instance's dict."""

    root: type
    get_dict: Callable[[Any], dict[str, Any]] | None
    slots: dict[str, Any]


@functools.cache
def layout_of(cls: type) -> Layout:
    """Find out how a class keeps what it holds. Raises CodecError for one that is not written in Python."""
    built_in = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    if built_in not in _ROOTS:
        raise CodecError(f"{cls.__module__}.{cls.__qualname__} keeps what it holds in native code", hint=OR_PICKLED)
    get_dict, slots = None, {}
    for base in reversed(cls.__mro__):
        if not base.__flags__ & _HEAP_TYPE:
            continue
        for name, found in vars(base).items():
            if type(found) is types.MemberDescriptorType:
                slots[name] = found
            elif name == "__dict__" and type(found) is types.GetSetDescriptorType:
                get_dict = found.__get__
    # A container's subclass that has no slots has its dict from where it was first made from the built-in.
    return Layout(built_in, get_dict, slots)


@functools.cache
def is_data(cls: type) -> bool:
    """Tell whether all that a class's instances are is what they hold: it has no say in how it is saved."""
    try:
        root = layout_of(cls).root
    except CodecError:
        return False
    if cls in (collections.Counter, statistics.NormalDist) or cls.__module__.startswith("river."):
        return True
    return all(
        getattr(cls, name, None) is getattr(root, name, None)
        for name in _STATE_METHODS
        # A named tuple says what it is made of: its members.
        if not (root is tuple and name == "__getnewargs__")
    )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Let no memory be searched for circles meanwhile: all that is made stays, and the search takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def state_getter(cls: type) -> Callable[[Any], dict[str, Any]] | None:
    """Return what reads the attributes of a class's instances that are saved: mostly all of them, None for no dict."""
    if name_of(cls) == _EMBEDDING:
        return _embedding_state
    # A River class may say by itself what need not be saved: a compressor that can be made anew.
    custom = getattr(cls, "__getstate__", None)
    if cls.__module__.startswith("river.") and isinstance(custom, types.FunctionType):
        found: Callable[[Any], dict[str, Any]] = custom
        return found
    return layout_of(cls).get_dict


def name_of(cls: type) -> str:
    """Return the name by which a class is saved."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _embedding_state(one: Any) -> dict[str, Any]:
    """Hold the leaves of RandomTreesEmbedding's trees themselves: it knows them by where they lie in memory."""
    held: dict[str, Any] = vars(one)
    return held | {"_leaf_indices": [[*tree.iter_leaves()] for tree in one.trees]}


def _finish_embedding(one: Any) -> None:
    held = vars(one)
    rows = held["_leaf_indices"]
    if type(rows) is not list or any(type(row) is not list for row in rows):
        raise CodecError("they hold leaves that are no lists")
    held["_leaf_indices"] = indices = []
    for row in rows:
        indices.append({id(leaf): place for place, leaf in enumerate(row)})
        # A list that stands in many places is gone through once.
        row.clear()


_EMBEDDING = "river.feature_extraction.kernel_approx:RandomTreesEmbedding"
FINISHES: dict[str, Callable[[Any], None]] = {_EMBEDDING: _finish_embedding}
"""What is left to do for instances of a class, once all that they hold is there."""


def make(cls: type, count: int) -> list[Any]:
    """Return new, empty instances of a class."""
    root: Any = layout_of(cls).root
    return [root.__new__(cls) for _ in range(count)]
