"""What a compiled model has learned, as bytes: no pickle, little-endian, and a function of what was taught alone."""

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from headrace.state.compiled.model_arrays import order
from headrace.state.compiled.program import EXACT_MAX, FeatureName, Memo, ProgramPart
from headrace.state.models.learner import ModelError

_MAGIC = b"HRarrays"
_WHOLE_MIN, _WHOLE_MAX = -(1 << 63), (1 << 64) - 1
# A model of several classes has numbers for each name with each class, also for those that never met.
_GRID_MIN_BYTES, _GRID_PER_BYTE = 1 << 28, 256
_Value = str | int | float | bool | None
_Class = str | int | bool | list[str]
"""A class; a whole number that has no place in 64 bits is written in digits, in a list."""


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One part: which names it has met, as little-endian uint32, and its columns of each, as little-endian float64."""

    met: bytes
    fields: bytes
    scalars: bytes
    learned: list[tuple[int, _Value]]


class _Ledger(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A model: a format, what it is built of, the names in order, the parts, and the classes."""

    version: Literal[1]
    shape: bytes
    names: list[FeatureName]
    parts: list[_Part]
    classes: list[_Class]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Ledger).decode


def write(memos: Sequence[Memo], classes: Sequence[Any], *, spec: str) -> bytes:
    """Write memos down as bytes; `spec` is what the model is built of."""
    known = {name for memo in memos for name in memo.rows} | {name for memo in memos for name, _ in memo.learned}
    names = sorted(known, key=order)
    places = {name: place for place, name in enumerate(names)}
    parts = []
    for memo in memos:
        met = sorted(places[name] for name in memo.rows)
        numbers = [number for place in met for number in memo.rows[names[place]]]
        parts.append(
            _Part(
                struct.pack(f"<{len(met)}I", *met),
                struct.pack(f"<{len(numbers)}d", *numbers),
                struct.pack(f"<{len(memo.scalars)}d", *memo.scalars),
                [(places[name], value) for name, value in memo.learned],
            )
        )
    return _MAGIC + _encode(_Ledger(1, _shape(spec), names, parts, [_class(label) for label in classes]))


def read(state: bytes, parts: Sequence[ProgramPart], *, spec: str) -> list[Memo]:
    """Read the memos, the last one with its classes, from bytes of any origin.

    Raises ModelError for what no such model can hold.
    """
    if not state.startswith(_MAGIC):
        raise refused("they do not begin as such bytes do")
    try:
        ledger = _decode(state[len(_MAGIC) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refused(str(error)) from error
    if ledger.shape != _shape(spec):
        raise refused("the model was built otherwise")
    if ledger.names != sorted(set(ledger.names), key=order) or len(ledger.parts) != len(parts):
        raise refused("its names or its parts are not in order")
    classes = tuple(map(_label, ledger.classes))
    last = len(parts) - 1
    grid_bytes = 8 * len(ledger.names) * len(classes) * len(parts[last].cells)
    if grid_bytes > max(_GRID_MIN_BYTES, _GRID_PER_BYTE * len(state)):
        raise refused("its names and classes take far more memory than what it tells of them")
    return [
        _memo(entry, part, ledger.names, classes if at == last else ())
        for at, (entry, part) in enumerate(zip(ledger.parts, parts, strict=True))
    ]


def check(memo: Memo, part: ProgramPart) -> None:
    """Refuse what a part can't have learned. Raises ModelError."""
    count, own = len(memo.classes), len(part.scalars)
    if len(memo.scalars) != own + len(part.tallies) * count or (memo.learned and not part.listed):
        raise refused("a part of it is of another kind")
    limits = part.limits + part.cells * count
    for row in memo.rows.values():
        if len(row) != len(limits) or not all(map(_holds, limits, row)):
            raise refused("it holds a number that can't be learned")
    _check_classes(memo, part)
    if not all(map(_holds, part.tallies * count, memo.scalars[own:])):
        raise refused("it holds a number that can't be learned")
    if part.allows is not None and not part.allows(memo.scalars):
        raise refused("it counts what can't be counted")
    if len({(name, value) for name, value in memo.learned}) != len(memo.learned):
        raise refused("it has learned a category twice")


def refused(why: str) -> ModelError:
    """Return the error for bytes, or a River model, that can't be taken on."""
    return ModelError(
        f"this is no state of this model: {why}",
        hint="it was saved by another model or another version; undo that change, or let the model begin anew",
    )


def _check_classes(memo: Memo, part: ProgramPart) -> None:
    """Refuse classes that no model has: of two kinds, or one twice. Raises ModelError."""
    classes = memo.classes
    if classes and not part.tallies:
        raise refused("it has classes, and is a model that has none")
    if any(type(label) not in {str, int, bool} for label in classes) or len(set(classes)) != len(classes):
        raise refused("its classes are no strings, whole numbers and booleans, or one is there twice")
    if len({isinstance(label, str) for label in classes}) > 1:
        raise refused("its classes are strings and numbers")
    if part.holds is not None and not part.holds(memo):
        raise refused("its numbers do not go together")


def _class(label: Any) -> _Class:
    beyond = isinstance(label, int) and not _WHOLE_MIN <= label <= _WHOLE_MAX
    return [str(label)] if beyond else label


def _label(written: _Class) -> Any:
    if not isinstance(written, list):
        return written
    try:
        (digits,) = written
        label = int(digits)
    except ValueError as error:
        raise refused("a class of it is no number") from error
    if _class(label) != written:
        raise refused("a class of it is written otherwise than such classes are")
    return label


def _memo(entry: _Part, part: ProgramPart, names: Sequence[FeatureName], classes: tuple[Any, ...]) -> Memo:
    width, count = len(part.limits) + len(part.cells) * len(classes), len(entry.met) // 4
    if len(entry.met) % 4 or len(entry.fields) != count * width * 8 or len(entry.scalars) % 8:
        raise refused("its numbers are not as many as its names")
    met = struct.unpack(f"<{count}I", entry.met)
    if any(place >= len(names) for place in met) or list(met) != sorted(set(met)) or (met and not width):
        raise refused("it has met a feature that has no name")
    if any(not 0 <= place < len(names) for place, _ in entry.learned):
        raise refused("it has learned a category of a feature that has no name")
    numbers = struct.unpack(f"<{count * width}d", entry.fields)
    rows = {names[place]: numbers[at * width : (at + 1) * width] for at, place in enumerate(met)}
    scalars = struct.unpack(f"<{len(entry.scalars) // 8}d", entry.scalars)
    memo = Memo(rows, scalars, tuple((names[place], value) for place, value in entry.learned), classes)
    check(memo, part)
    return memo


def _holds(limit: str, number: float) -> bool:
    """Tell whether a column of this kind can hold this number."""
    match limit:
        case "count":
            return 1.0 <= number <= EXACT_MAX and number.is_integer()
        case "tally":
            return 0.0 <= number <= EXACT_MAX and number.is_integer()
        case "flag":
            return number == 1.0
        case "above":
            return number >= 0.0 or math.isnan(number)
    return True


def _shape(spec: str) -> bytes:
    return hashlib.sha256(spec.encode()).digest()[:16]
