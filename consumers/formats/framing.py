"""Finds the id of a record's schema: before the value, or in a header, as Confluent's serializers write it.

Before the value stand a zero byte and the id in four bytes. The header `__value_schema_id` has the same, or a one and
a GUID of 16 bytes. In Protobuf the indexes of the message within its file follow, as varints with zigzag.
"""

import uuid
from typing import NamedTuple

from headrace.consumers.record import RecordHeaders
from headrace.consumers.refusal import Refusal

HEADER = "__value_schema_id"
"""The header that names the schema of a record's value."""
PREFIX_BYTES = 5
"""The length of an id before a value."""

_ID, _GUID = 0, 1
_GUID_BYTES = 17
# A message inside a message inside a message: deeper ones are no real schema.
_INDEXES_MAX = 64
_SHIFT_MAX = 31
_NOT_FRAMED = "the value does not begin with a zero byte and the id of a schema"


class Frame(NamedTuple):
    """A value without its frame. `schema` is the id in digits, or the GUID; `indexes` choose the Protobuf message."""

    schema: str
    payload: bytes
    indexes: tuple[int, ...] = ()


def schema_of(value: bytes | None, headers: RecordHeaders | None) -> str | None:
    """Return the id or the GUID of a record's schema; None if the record names none."""
    header = _header(headers)
    if header is None:
        return _named(value or b"", PREFIX_BYTES) if (value or b"x")[0] == _ID else None
    return _named(header, PREFIX_BYTES) or _named(header, _GUID_BYTES)


def unframe(value: bytes, headers: RecordHeaders | None, *, has_indexes: bool) -> Frame | Refusal:
    """Split a value into the id of its schema and the rest; `has_indexes` is true for Protobuf."""
    header = _header(headers)
    framed = value if header is None else header
    schema = schema_of(value, headers)
    if schema is None:
        where = _NOT_FRAMED if header is None else f"the header {HEADER} is not the id of a schema"
        return Refusal("not_framed", "decode", f"{where}; is it written with a schema registry?")
    begin = PREFIX_BYTES if framed[0] == _ID else _GUID_BYTES
    indexes: tuple[int, ...] = ()
    if has_indexes:
        found = _indexes(framed, begin)
        if found is None:
            return Refusal(
                "not_framed", "decode", "the indexes of the message, after the id of the schema, are cut off"
            )
        indexes, begin = found
    return Frame(schema, value[begin:] if header is None else value, indexes)


def prefix(schema_id: int, *, has_indexes: bool = False) -> bytes:
    """Return the frame that precedes a value; `has_indexes` adds the index of the first message of a Protobuf file."""
    return b"\0" + schema_id.to_bytes(4, "big") + (b"\0" if has_indexes else b"")


def _header(headers: RecordHeaders | None) -> bytes | None:
    return next((text or b"" for name, text in headers or () if name == HEADER), None)


def _named(framed: bytes, size: int) -> str | None:
    if len(framed) < size:
        return None
    if size == PREFIX_BYTES and framed[0] == _ID:
        return str(int.from_bytes(framed[1:PREFIX_BYTES], "big"))
    if size == _GUID_BYTES and framed[0] == _GUID:
        return str(uuid.UUID(bytes=bytes(framed[1:_GUID_BYTES])))
    return None


def _indexes(framed: bytes, at: int) -> tuple[tuple[int, ...], int] | None:
    """Return the indexes at a position and the position behind them; a zero alone means the first message."""
    count, at = _varint(framed, at)
    if not 0 <= count <= _INDEXES_MAX:
        return None
    found = []
    for _ in range(count):
        index, at = _varint(framed, at)
        if index < 0:
            return None
        found.append(index)
    return tuple(found) or (0,), at


def _varint(framed: bytes, at: int) -> tuple[int, int]:
    """Return a number with zigzag and the position behind it; -1 if it is cut off or too large."""
    number = 0
    for shift in range(0, _SHIFT_MAX, 7):
        if at >= len(framed):
            break
        byte = framed[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:  # noqa: PLR2004 the highest bit says that another byte follows
            return (number >> 1) ^ -(number & 1), at
    return -1, at
