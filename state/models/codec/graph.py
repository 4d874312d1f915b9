"""The form in which a River model is saved: its objects as tables, one a class, with a column an attribute.

An object is known by its number: the leaves come first, then the mutable objects, then the immutable ones that hold
others, each behind those that it holds. A reader makes the first two before it looks at what they hold, so references
may be shared and may go in circles. `graph_writer.py` writes this, `graph_reader.py` reads it. Each value
takes at least a byte, so that few bytes can't ask for much memory.
"""

from typing import Annotated, Literal

import msgspec

# `hash` goes down through tuples in C, without a bound of its own.
NESTED_MAX = 64

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
_Plain = None | bool | int | float

PICKLE = "pickle"

PLAIN = frozenset({type(None), bool, int, float})
INLINE = PLAIN | {str}


class CodecError(ValueError):
    """Raised for an object that can't be saved, and for bytes that are no model."""

    status = 400

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Column(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Values, in order: numbers as they are, strings and objects by number.

    `kinds` has a byte a value, 0 for a number, 1 for a string, 2 for an object; None where all are of one kind.
    """

    kinds: bytes | None
    plain: list[_Plain]
    strings: list[_Count]
    objects: list[_Count]


class Named(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="named"):
    """Classes and functions, each by its name: `module:qualified.name`."""

    names: list[str]


class Values(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="values"):
    """Objects that hold no others: numpy's, dates, generators of random numbers, River's native parts."""

    kind: str
    states: list[bytes]


class Instances(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="instances"):
    """Instances of one class that have the same attributes, with a column for each.

    A single instance has all of its values in one column: many columns of one value cost more than those values.
    """

    cls: str
    count: _Count
    names: list[str]
    columns: list[Column]


class Containers(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="containers"):
    """Lists, sets, deques, or dicts, of one class: what they hold, one after the other.

    A dict's `items` are its keys, and it has `values`; `extra` holds a deque's maxlen, or a defaultdict's factory.
    """

    cls: str
    lengths: list[_Count]
    items: Column
    values: Column | None
    extra: Column | None


class Attributes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="attributes"):
    """Attributes of containers whose class is made from list, dict, set or deque."""

    cls: str
    owners: list[_Count]
    names: list[str]
    columns: list[Column]


class Frozen(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="frozen"):
    """Immutable objects that hold others, of one kind, which says what `items` are.

    A tuple's or frozenset's members; a partial's function, positional arguments, then those that have `names`; a
    method's owner, the function's name in `names`; a VectorDict's factory, mask, keys, then values; an iterator's list
    and place; a numpy generator's source of bits.
    """

    kind: Literal["tuple", "frozenset", "partial", "method", "vector", "iterator", "generator"]
    cls: str
    lengths: list[_Count]
    items: Column
    names: list[str]


class Graph(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A whole model. `root` is its number."""

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
    """Return what the bytes hold, checked for their form alone. Raises CodecError."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"they have another form: {error}") from None
