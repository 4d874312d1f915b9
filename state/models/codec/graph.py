"""The format of a saved River model: its objects as tables, a table for each class, a column for each attribute.

Every object has a number. First come the leaves, which hold no other objects, then the mutable objects, then the
immutable objects that hold others, each after those that it holds. The reader makes all leaves and empty mutable
objects before it fills them, so objects may be shared and may refer to each other in circles. `graph_writer.py` writes
this format, `graph_reader.py` reads it. Each value takes at least a byte, so that few bytes can't ask for much memory.
"""

from typing import Annotated, Literal

import msgspec

from headrace.state.state_refused import StateRefused

# Python's `hash` of nested tuples recurses in C without a limit.
NESTED_MAX = 64

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
_Plain = None | bool | int | float

PICKLE = "pickle"

PLAIN = frozenset({type(None), bool, int, float})
INLINE = PLAIN | {str}


class CodecError(StateRefused, ValueError):
    """Raised for an object that can't be saved, and for bytes that are not a saved model."""


class Column(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Values in order: numbers themselves, strings and objects by their numbers.

    `kinds` has a byte for each value: 0 for a number, 1 for a string, 2 for an object; None if all are of one kind.
    """

    kinds: bytes | None
    plain: list[_Plain]
    strings: list[_Count]
    objects: list[_Count]


class Named(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="named"):
    """Classes and functions, each by its name: `module:qualified.name`."""

    names: list[str]


class Values(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="values"):
    """Objects that hold no others: numpy arrays, dates, random number generators, River's native parts."""

    kind: str
    states: list[bytes]


class Instances(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="instances"):
    """Instances of one class with the same attributes, and a column for each attribute.

    A single instance has all its values in one column: a column for each would cost more than the values.
    """

    cls: str
    count: _Count
    names: list[str]
    columns: list[Column]


class Containers(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="containers"):
    """Lists, sets, deques or dicts of one class; `items` has the items of all of them, one container after the other.

    For dicts `items` has the keys. `extra` has the maxlen of deques, or the factories of defaultdicts.
    """

    cls: str
    lengths: list[_Count]
    items: Column
    values: Column | None
    extra: Column | None


class Attributes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="attributes"):
    """Attributes of containers whose class is derived from list, dict, set or deque."""

    cls: str
    owners: list[_Count]
    names: list[str]
    columns: list[Column]


class Frozen(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="frozen"):
    """Immutable objects of one kind that hold others.

    Their `items` depend on the kind: the members of a tuple or frozenset; a partial's function, positional arguments
    and named arguments (`names`); a method's owner (its function is in `names`); a VectorDict's factory, mask, keys and
    values; an iterator's list and position; a numpy generator's bit generator.
    """

    kind: Literal["tuple", "frozenset", "partial", "method", "vector", "iterator", "generator"]
    cls: str
    lengths: list[_Count]
    items: Column
    names: list[str]


class Graph(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A whole model. `root` is the number of its outermost object."""

    version: Literal[1]
    strings: list[str]
    leaves: list[Named | Values]
    mutables: list[Instances | Containers]
    frozen: list[Frozen]
    attributes: list[Attributes]
    root: _Count


encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Graph)


def decode(raw: bytes) -> Graph:
    """Decode bytes, and check only their format. Raises CodecError."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"they have another format: {error}") from None
