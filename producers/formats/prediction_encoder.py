"""Encodes predictions in Avro, Protobuf or JSON Schema, from their JSON form and to the same values.

The schemas are Headrace's own (`prediction_schema`), so their few types are written here, without a library.
"""

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.producers.formats.prediction_schema import WITH_PROBA, PredictionFormat
from headrace.producers.prediction import ModelVersion, SourceRecord, class_name

_DOUBLE = struct.Struct("<d")
_LONG_MIN, _LONG_END = -(1 << 63), 1 << 63
_MORE = 0x80
_BOOLEANS = frozenset({"binary", "anomaly"})
_DOUBLES = frozenset({"regression", "recommendation"})


class _Line(msgspec.Struct, frozen=True):
    """A prediction as its JSON form has it."""

    id: str
    prediction: Any
    model: ModelVersion
    source: SourceRecord
    ts: int
    score: float | None = None
    proba: dict[str, Any] | None = None
    features: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Line).decode


class PredictionEncoder:
    """Encode predictions of models of one task with the id of their schema; its text is `schema_text`'s."""

    def __init__(self, form: PredictionFormat, task: str, *, schema_id: int, has_features: bool) -> None:
        self._prefix = b"\0" + schema_id.to_bytes(4, "big")
        self._task = task
        self._has_features = has_features
        writers: dict[str, Callable[[bytes], bytes]] = {"avro": self._avro, "protobuf": self._protobuf}
        self._write = writers.get(form, bytes)

    def encode(self, line: bytes) -> bytes:
        """Return a prediction, given as a JSON object, in its format, with its frame."""
        return self._prefix + self._write(line)

    def _avro(self, line: bytes) -> bytes:
        found = _decode(line)
        model, source = found.model, found.source
        parts = [
            _text(found.id),
            self._avro_answer(found.prediction),
            _text(model.name) + _zigzag(model.version) + _zigzag(model.generation),
            _text(source.topic) + _zigzag(source.partition) + _zigzag(source.offset),
            _zigzag(found.ts),
        ]
        if self._task == "anomaly":
            parts.append(b"\0" if found.score is None else b"\x02" + _double(found.score))
        if self._task in WITH_PROBA:
            parts.append(b"\0" if found.proba is None else b"\x02" + _avro_map(found.proba, _double))
        if self._has_features:
            parts.append(_avro_map(found.features or {}, _avro_feature))
        return b"".join(parts)

    def _avro_answer(self, answer: Any) -> bytes:
        """Write an answer as the branch of the union that `prediction_schema` has for the task."""
        if answer is None:
            return b"\0"
        if self._task in _BOOLEANS:
            return b"\x02\x01" if answer else b"\x02\0"
        if self._task in _DOUBLES:
            return b"\x02" + _double(answer)
        if self._task == "clustering":
            return b"\x02" + _zigzag(answer)
        if self._task == "forecasting":
            return b"\x02" + _zigzag(len(answer)) + b"".join(map(_double, answer)) + b"\0"
        if isinstance(answer, bool):
            return b"\x06\x01" if answer else b"\x06\0"
        if isinstance(answer, int) and _LONG_MIN <= answer < _LONG_END:
            return b"\x04" + _zigzag(answer)
        return b"\x02" + _text(class_name(answer))

    def _protobuf(self, line: bytes) -> bytes:
        found = _decode(line)
        source = _string(1, found.source.topic) + _number(2, found.source.partition) + _number(3, found.source.offset)
        model = _string(1, found.model.name) + _number(2, found.model.version) + _number(3, found.model.generation)
        parts = [
            b"\0",  # the first message of the file
            _string(1, found.id),
            self._protobuf_answer(found.prediction),
            _bytes(3, model),
            _bytes(4, source),
            _number(5, found.ts),
        ]
        if self._task == "anomaly" and found.score is not None:
            parts.append(_fixed(8, found.score))
        for name, share in (found.proba or {}).items():
            parts.append(_bytes(6, _string(1, name) + _fixed(2, share)))
        if self._has_features:
            parts += [_bytes(7, _string(1, n) + _bytes(2, _feature(v))) for n, v in (found.features or {}).items()]
        return b"".join(parts)

    def _protobuf_answer(self, answer: Any) -> bytes:
        if answer is None:
            return b""
        if self._task in _BOOLEANS:
            return b"\x10\x01" if answer else b"\x10\0"
        if self._task == "clustering":
            return b"\x10" + _zigzag(answer)
        if self._task == "forecasting":
            return _bytes(2, b"".join(map(_double, answer)))
        return _fixed(2, answer) if self._task in _DOUBLES else _bytes(2, class_name(answer).encode())


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= _MORE:
        found.append(number & 0x7F | _MORE)
        number >>= 7
    found.append(number)
    return bytes(found)


def _zigzag(number: int) -> bytes:
    return _varint((number << 1) ^ (number >> 63))


def _double(number: float | None) -> bytes:
    """Write a double; null stands for a number that is not finite, which JSON does not have."""
    return _DOUBLE.pack(math.nan if number is None else number)


def _text(text: str) -> bytes:
    found = text.encode()
    return _zigzag(len(found)) + found


def _avro_map(values: dict[str, Any], write: Any) -> bytes:
    if not values:
        return b"\0"
    return _zigzag(len(values)) + b"".join(_text(name) + write(value) for name, value in values.items()) + b"\0"


def _avro_feature(value: Any) -> bytes:
    """Write a feature as a branch of `AVRO_FEATURE`."""
    if value is None:
        return b"\0"
    if isinstance(value, bool):
        return b"\x02\x01" if value else b"\x02\0"
    if isinstance(value, int) and _LONG_MIN <= value < _LONG_END:
        return b"\x04" + _zigzag(value)
    return b"\x06" + _double(float(value)) if isinstance(value, int | float) else b"\x08" + _text(value)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes((field << 3 | 2,)) + _varint(len(value)) + value


def _string(field: int, text: str) -> bytes:
    return _bytes(field, text.encode()) if text else b""


def _number(field: int, number: int) -> bytes:
    return bytes((field << 3,)) + _varint(number & 0xFFFF_FFFF_FFFF_FFFF) if number else b""


def _fixed(field: int, number: float | None) -> bytes:
    return bytes((field << 3 | 1,)) + _double(number)


def _feature(value: Any) -> bytes:
    """Write a feature as the one of the fields of `Feature` that has its type; nothing for null."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x08\x01" if value else b"\x08\0"
    if isinstance(value, int) and _LONG_MIN <= value < _LONG_END:
        return b"\x10" + _zigzag(value)
    return _fixed(3, float(value)) if isinstance(value, int | float) else _bytes(4, value.encode())
