"""The learned state of a compiled model as bytes: no pickle, little-endian, and equal bytes for equal learning.

The bytes are a head, which holds the layout, and the numbers. Models with the same layout have the same head. That of
a model that grows, such as a tree, also holds its structure; it begins otherwise.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from headrace.state.compiled.layouts import ModelLayout, PartLayout, is_flagged, laid_out, lengths, memos, width_of
from headrace.state.compiled.model_arrays import order
from headrace.state.compiled.program import EXACT_MAX, FeatureName, Grown, Memo, ProgramPart
from headrace.state.models.task import ModelError

CODEC = "arrays-2"
_MAGIC, _MAGIC_GROWN = b"HRarray2", b"HRgrown1"
_LENGTH = struct.Struct("<I")
_HEAD_AT = len(_MAGIC) + _LENGTH.size
_WHOLE_MIN, _WHOLE_MAX = -(1 << 63), (1 << 64) - 1
# A model of several classes has numbers for every name with every class: a small head may ask for much memory.
_GRID_MIN_BYTES, _GRID_PER_BYTE = 1 << 28, 256
_Value = str | int | float | bool | list[str] | None
"""A category. A whole number beyond 64 bits is written in decimal digits, in a list."""
_Class = str | int | bool | list[str]
"""A class, written in the same way."""


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One part: the names that it has met (places as little-endian uint32, None for all), and its categories."""

    met: bytes | None
    learned: list[tuple[int, _Value]]


class _Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A hash of the model's spec, and its layout: names in order, parts, classes."""

    version: Literal[2]
    shape: bytes
    names: list[FeatureName]
    parts: list[_Part]
    classes: list[_Class]


class _Grown(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a family has grown: see `Grown`. Features are places of names (little-endian uint32)."""

    structure: bytes
    names: bytes
    values: list[tuple[int, _Value]]
    at: bytes
    numbers: int
    nodes: int
    cells: int


class _GrownHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The head of a model that grows. `values` of `_Grown` has each category once; `at` says where each one stands."""

    head: _Head
    grown: _Grown


_encode = msgspec.msgpack.Encoder().encode
_decode, _decode_grown = msgspec.msgpack.Decoder(_Head).decode, msgspec.msgpack.Decoder(_GrownHead).decode


def head(layout: ModelLayout, *, spec: str) -> bytes:
    """Return the bytes that stand before the numbers of a model; `spec` describes how the model is built."""
    parts = layout.parts
    grown = parts[-1].grown
    known = {name for part in parts for name in part.met} | {name for part in parts for name, _ in part.learned}
    if grown is not None:
        known |= {*grown.names, *(name for name, _ in grown.values)}
    names = sorted(known, key=order)
    places = {name: place for place, name in enumerate(names)}
    written = [
        _Part(
            None if len(part.met) == len(names) else struct.pack(f"<{len(part.met)}I", *map(places.get, part.met)),
            [(places[name], _written(value)) for name, value in part.learned],
        )
        for part in parts
    ]
    head = _Head(2, _shape(spec), names, written, [_written(label) for label in layout.classes])
    magic, body = _MAGIC, _encode(head)
    if grown is not None:
        magic, body = _MAGIC_GROWN, _encode(_GrownHead(head, _grown_written(grown, places)))
    return magic + _LENGTH.pack(len(body)) + body


def _grown_written(grown: Grown, places: Mapping[FeatureName, int]) -> _Grown:
    # 1, 1.0 and True are one category with three names.
    first = {(name, type(value), value): at for at, (name, value) in reversed(list(enumerate(grown.values)))}
    order = sorted(first.values())
    number = {at: place for place, at in enumerate(order)}
    found = [number[first[name, type(value), value]] for name, value in grown.values]
    return _Grown(
        grown.structure,
        np.array([places[name] for name in grown.names], "<u4").tobytes(),
        [(places[grown.values[at][0]], _written(grown.values[at][1])) for at in order],
        np.array(found, "<u4").tobytes(),
        grown.numbers,
        grown.nodes,
        grown.cells,
    )


def write(layout: ModelLayout, numbers: Any, *, spec: str) -> bytes:
    """Return a model as bytes; its numbers are in the saved order."""
    return b"".join((head(layout, spec=spec), numbers.astype("<f8", copy=False).tobytes()))


def split(state: bytes) -> tuple[bytes, Any]:
    """Split bytes of any origin into the head and the numbers, float64. Raises ModelError."""
    if not state.startswith((_MAGIC, _MAGIC_GROWN)) or len(state) < _HEAD_AT:
        raise refused("they do not begin as such bytes do")
    end = _HEAD_AT + _LENGTH.unpack_from(state, len(_MAGIC))[0]
    if end > len(state) or (len(state) - end) % 8:
        raise refused("they end too early")
    return state[:end], np.frombuffer(state, "<f8", offset=end).astype(np.float64, copy=False)


def read_head(written: bytes, parts: Sequence[ProgramPart], *, spec: str, state_bytes: int) -> ModelLayout:
    """Read a layout. Raises ModelError if no such model can have it."""
    grown, grows = None, parts[-1].grows is not None
    if written.startswith(_MAGIC_GROWN) is not grows:
        raise refused("it grows, and the model does not, or the other way round")
    try:
        if grows:
            both = _decode_grown(written[_HEAD_AT:])
            found, grown = both.head, both.grown
        else:
            found = _decode(written[_HEAD_AT:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refused(str(error)) from error
    if found.shape != _shape(spec):
        raise refused("the model was built otherwise")
    names = found.names
    if names != sorted(set(names), key=order) or len(found.parts) != len(parts):
        raise refused("its names or its parts are not in order")
    classes = tuple(map(_read, found.classes))
    if 8 * len(names) * len(classes) * len(parts[-1].cells) > max(_GRID_MIN_BYTES, _GRID_PER_BYTE * state_bytes):
        raise refused("its names and classes take far more memory than what it tells of them")
    own = [_part(own, part, names) for own, part in zip(found.parts, parts, strict=True)]
    if grown is not None:
        own[-1] = own[-1]._replace(grown=_grown_read(grown, names))
    layout = ModelLayout(classes, tuple(own))
    _check_classes(classes, parts[-1])
    if head(layout, spec=spec) != written:
        raise refused("it is written otherwise than such a model is")
    return layout


def read(state: bytes, parts: Sequence[ProgramPart], *, spec: str) -> tuple[ModelLayout, Any]:
    """Read the layout of a model and its numbers, in the saved order, from bytes of any origin.

    Raises ModelError if no such model can hold them.
    """
    written, numbers = split(state)
    layout = read_head(written, parts, spec=spec, state_bytes=len(state))
    count, pairs = len(layout.classes), zip(parts, layout.parts, strict=True)
    # Before anything is made that is as long as the head says: it may say anything.
    if len(numbers) != sum(
        width_of(part, count) * len(own.met) + lengths(part, count, own.grown) for part, own in pairs
    ):
        raise refused("its numbers are not as many as its names")
    NumberLimits(layout, parts).check(numbers)
    return layout, numbers


def checked(learned: Sequence[Memo], parts: Sequence[ProgramPart]) -> tuple[ModelLayout, Any]:
    """Return the layout and the numbers of a River model. Raises ModelError if they cannot have been learned."""
    for memo, part in zip(learned, parts, strict=True):
        _check_memo(memo, part)
    layout, numbers = laid_out(learned, parts)
    found = np.array(numbers, np.float64)
    NumberLimits(layout, parts).check(found)
    return layout, found


class NumberLimits:
    """The values that the numbers of a layout may have, in the saved order."""

    def __init__(self, layout: ModelLayout, parts: Sequence[ProgramPart]) -> None:
        self._layout, self._parts = layout, parts
        words: list[str] = []
        self._scalars: list[tuple[ProgramPart, int]] = []
        count = len(layout.classes)
        for part, own in zip(parts, layout.parts, strict=True):
            words += [*part.limits[is_flagged(part) :], *part.cells * count] * len(own.met)
            self._scalars += [(part, len(words))] if part.allows is not None else []
            words += ["any"] * len(part.scalars) + [*part.tallies * count]
        grown = layout.parts[-1].grown
        self._grown_at = len(words)
        words += ["any"] * (0 if grown is None else grown.numbers)
        found = np.array(words or ["any"])[: len(words)]
        self.size = len(words)
        self._whole = np.flatnonzero((found == "count") | (found == "tally"))
        self._least = (found[self._whole] == "count").astype(np.float64)
        self._above = np.flatnonzero(found == "above")

    def check(self, numbers: Any) -> None:
        """Refuse numbers that cannot have been learned. Raises ModelError."""
        if len(numbers) != self.size:
            raise refused("its numbers are not as many as its names")
        whole, above = numbers[self._whole], numbers[self._above]
        # NaN is no count.
        if (
            not ((whole >= self._least) & (whole <= EXACT_MAX) & (whole == np.floor(whole))).all()
            or (above < 0.0).any()
        ):
            raise refused("it holds a number that can't be learned")
        for part, at in self._scalars:
            if part.allows is not None and not part.allows(tuple(numbers[at : at + len(part.scalars)].tolist())):
                raise refused("it counts what can't be counted")
        grown, last = self._layout.parts[-1].grown, self._parts[-1]
        if grown is not None and last.grows is not None:
            is_grown = last.grows(grown, numbers[self._grown_at :], len(self._layout.classes))
            if not is_grown:
                raise refused("its structure is none that can be grown")
        if any(part.holds is not None for part in self._parts):
            for memo, part in zip(memos(self._layout, numbers.tolist(), self._parts), self._parts, strict=True):
                if part.holds is not None and not part.holds(memo):
                    raise refused("its numbers do not go together")


def _check_memo(memo: Memo, part: ProgramPart) -> None:
    """Refuse a memo whose form differs from its part's. Raises ModelError."""
    if len(memo.scalars) != lengths(part, len(memo.classes)) or (memo.learned and not part.listed):
        raise refused("a part of it is of another kind")
    width = is_flagged(part) + width_of(part, len(memo.classes))
    if any(len(row) != width for row in memo.rows.values()) or (memo.rows and not part.limits):
        raise refused("a part of it is of another kind")
    if (memo.grown is None) is not (part.grows is None):
        raise refused("a part of it is of another kind")
    if len({(name, value) for name, value in memo.learned}) != len(memo.learned):
        raise refused("it has learned a category twice")
    _check_classes(memo.classes, part)


def refused(why: str) -> ModelError:
    """Return the error for bytes, or a River model, that can't be taken over."""
    return ModelError(
        f"this is no state of this model: {why}",
        hint="it was saved by another model or another version; undo that change, or let the model begin anew",
    )


def _check_classes(classes: Sequence[Any], part: ProgramPart) -> None:
    """Refuse classes that no model can have: of two kinds, or one twice. Raises ModelError."""
    if classes and not part.has_classes:
        raise refused("it has classes, and is a model that has none")
    if any(type(label) not in {str, int, bool} for label in classes) or len(set(classes)) != len(classes):
        raise refused("its classes are no strings, whole numbers and booleans, or one is there twice")
    if len({isinstance(label, str) for label in classes}) > 1:
        raise refused("its classes are strings and numbers")


def _written(value: Any) -> Any:
    """Return a class or a category as it is written."""
    beyond = isinstance(value, int) and not _WHOLE_MIN <= value <= _WHOLE_MAX
    return [str(value)] if beyond else value


def _read(written: Any) -> Any:
    """Return a written class or category. Raises ModelError."""
    if not isinstance(written, list):
        return written
    try:
        (digits,) = written
        value = int(digits)
    except ValueError as error:
        raise refused("a class or a category of it is no number") from error
    if _written(value) != written:
        raise refused("a class or a category of it is written otherwise than such numbers are")
    return value


def _part(own: _Part, part: ProgramPart, names: Sequence[FeatureName]) -> PartLayout:
    met: Sequence[int] = range(len(names))
    if own.met is not None:
        if len(own.met) % 4:
            raise refused("its numbers are not as many as its names")
        met = struct.unpack(f"<{len(own.met) // 4}I", own.met)
    if any(place >= len(names) for place in met) or list(met) != sorted(set(met)) or (met and not part.limits):
        raise refused("it has met a feature that has no name")
    if any(not 0 <= place < len(names) for place, _ in own.learned) or (own.learned and not part.listed):
        raise refused("it has learned a category of a feature that has no name")
    learned = tuple((names[place], _read(value)) for place, value in own.learned)
    if len(set(learned)) != len(learned):
        raise refused("it has learned a category twice")
    return PartLayout(tuple(names[place] for place in met), learned)


def _grown_read(grown: _Grown, names: Sequence[FeatureName]) -> Grown:
    """Return what a family has grown. Raises ModelError if its parts do not fit."""
    if len(grown.structure) % 4 or len(grown.names) % 4 or len(grown.at) % 4:
        raise refused("its structure ends too early")
    places, at = np.frombuffer(grown.names, "<u4"), np.frombuffer(grown.at, "<u4")
    values = [(place, _read(value)) for place, value in grown.values]
    if (places >= len(names)).any() or any(not 0 <= place < len(names) for place, _ in values):
        raise refused("it has grown by a feature that has no name")
    if (at >= len(values)).any() or min(grown.numbers, grown.nodes, grown.cells) < 0:
        raise refused("it has grown by a category that is not there")
    return Grown(
        grown.structure,
        tuple(names[place] for place in places.tolist()),
        tuple((names[values[k][0]], values[k][1]) for k in at.tolist()),
        grown.numbers,
        grown.nodes,
        grown.cells,
    )


def _shape(spec: str) -> bytes:
    return hashlib.sha256(spec.encode()).digest()[:16]
