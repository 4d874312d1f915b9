"""One key's model of an array bank as bytes: its saved form, and the checks when it is read."""

import struct
from typing import Any, Literal

import msgspec

from headrace.state.keyed.rows import COUNT, VARIANCE
from headrace.state.models.learner import ModelError
from headrace.state.seal import UNREADABLE

_COUNT_MAX = 1 << 53
"""Up to here a float holds every whole number."""


class ArrayRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The saved form: a version, the names in order, and each name's fields as little-endian float64."""

    version: Literal[1]
    scaled: bool
    learned: int
    intercept: float
    names: list[str]
    fields: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ArrayRow).decode


def write(learned: int, intercept: float, names: list[str], fields: bytes, *, scaled: bool) -> bytes:
    """Return a model as bytes."""
    return _encode(ArrayRow(1, scaled, learned, intercept, names, fields))


def read(state: bytes, *, scaled: bool, fields: int) -> ArrayRow:
    """Read a model with this number of fields a feature. Raises ModelError if the bytes are no such model."""
    try:
        row = _decode(state)
    except UNREADABLE as error:
        raise no_model(str(error)) from error
    if row.scaled != scaled:
        raise no_model("it is one with a scaler" if row.scaled else "it is one without a scaler")
    if len(row.fields) != len(row.names) * fields * 8:
        raise no_model(f"{len(row.fields)} bytes are not {fields} numbers for {len(row.names)} features")
    if row.names != sorted(set(row.names)):
        raise no_model("its features are not in order")
    numbers, most = struct.unpack(f"<{len(row.fields) // 8}d", row.fields), _COUNT_MAX if row.scaled else 1
    counts = numbers[COUNT::fields]
    if not 0 <= row.learned <= _COUNT_MAX or not all(1 <= count <= most and count % 1 == 0 for count in counts):
        raise no_model("it counts what can't be counted")
    if row.scaled and any(variance < 0.0 for variance in numbers[VARIANCE::fields]):
        raise no_model("it has a variance below zero")
    return row


def describe(state: bytes) -> dict[str, Any] | None:
    """Return a model for people to read: how many records it has learned, and the numbers of each feature.

    Return None if the bytes are another kind of model, which is not decoded, or no model.
    """
    try:
        row = _decode(state)
    except UNREADABLE:
        return None
    names = ("count", "weight", "mean", "variance") if row.scaled else ("seen", "weight")
    if len(row.fields) != len(row.names) * len(names) * 8:
        return None
    numbers = struct.unpack(f"<{len(row.fields) // 8}d", row.fields)
    return {
        "learned": row.learned,
        "intercept": row.intercept,
        "features": {
            name: dict(zip(names, numbers[at : at + len(names)], strict=True))
            for name, at in zip(row.names, range(0, len(numbers), len(names)), strict=True)
        },
    }


def no_model(why: str) -> ModelError:
    """Return the error for bytes that are no model of this bank."""
    return ModelError(
        f"these are no bytes of a model of this bank: {why}",
        hint="they were saved by another model or another version; undo that change, or let the key begin anew",
    )
