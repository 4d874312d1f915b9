"""The tensors of the Open Inference Protocol: a feature each, as JSON or as bytes behind it. Pure."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

_FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_LENGTH = struct.Struct("<I")


class TensorInvalid(Exception):
    """Raised when a tensor is not what it says."""


class TooManyRecords(TensorInvalid):
    """Raised for tensors of more records than a request may have."""


class TensorParameters(msgspec.Struct):
    """The parameters of a tensor that are read."""

    binary_data_size: int | None = None
    binary_data: bool | None = None


class InputTensor(msgspec.Struct):
    """A feature of all records: its name, and a value for each record."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: TensorParameters = msgspec.field(default_factory=TensorParameters)


def read_columns(tensors: Sequence[InputTensor], binary: bytes, *, records_max: int) -> dict[str, list[Any]]:
    """Return the values of each tensor, all of one length. `binary` has what follows the JSON. Raises TensorInvalid."""
    columns: dict[str, list[Any]] = {}
    at = 0
    for tensor in tensors:
        count = _count(tensor, records_max)
        if (size := tensor.parameters.binary_data_size) is not None:
            if size < 0 or at + size > len(binary):
                raise TensorInvalid(f"{tensor.name}: binary_data_size is {size}, and {len(binary) - at} bytes are left")
            values = _read_bytes(tensor, binary[at : at + size], count)
            at += size
        else:
            values = _read_data(tensor, count)
        if tensor.name in columns:
            raise TensorInvalid(f"two tensors have the name {tensor.name}")
        columns[tensor.name] = values
    if at != len(binary):
        raise TensorInvalid(f"{len(binary) - at} bytes behind the JSON belong to no tensor")
    if len({len(values) for values in columns.values()}) != 1:
        raise TensorInvalid("all tensors must have a value for each record: shape [n] or [n, 1]")
    return columns


def _count(tensor: InputTensor, records_max: int) -> int:
    shape = tensor.shape
    if not shape or len(shape) > 2 or any(size < 0 for size in shape) or shape[1:] not in ([], [1]):  # noqa: PLR2004 [n, 1]
        raise TensorInvalid(f"{tensor.name}: the shape is {shape}; it must be [n] or [n, 1]: a tensor is a feature")
    if shape[0] > records_max:
        raise TooManyRecords(f"{tensor.name}: the shape is {shape}; serve.batch_max is {records_max}")
    if tensor.datatype not in _FORMATS and tensor.datatype != "BYTES":
        raise TensorInvalid(f"{tensor.name}: the datatype {tensor.datatype!r} is not one of the protocol")
    return shape[0]


def _read_data(tensor: InputTensor, count: int) -> list[Any]:
    values = tensor.data
    if isinstance(values, list) and values and all(isinstance(row, list) for row in values):
        values = [value for row in values for value in row]
    if not isinstance(values, list) or len(values) != count:
        raise TensorInvalid(f"{tensor.name}: data must be a list of {count} values")
    if tensor.datatype == "BOOL":
        return [bool(value) if value in (0, 1) else value for value in values]
    if tensor.datatype.startswith("FP"):
        return [float(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values]
    return values


def _read_bytes(tensor: InputTensor, data: bytes, count: int) -> list[Any]:
    if tensor.datatype == "BYTES":
        return _read_strings(tensor, data, count)
    form = _FORMATS[tensor.datatype]
    if len(data) != count * struct.calcsize(form):
        raise TensorInvalid(f"{tensor.name}: {count} values of {tensor.datatype} have not {len(data)} bytes")
    return list(struct.unpack(f"<{count}{form}", data))


def _read_strings(tensor: InputTensor, data: bytes, count: int) -> list[Any]:
    values: list[Any] = []
    at = 0
    while at < len(data) and len(values) < count:
        if at + _LENGTH.size > len(data):
            break
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + size
        try:
            values.append(data[at - size : at].decode())
        except UnicodeDecodeError as error:
            raise TensorInvalid(f"{tensor.name}: value {len(values)} is not UTF-8 text") from error
    if at != len(data) or len(values) != count:
        raise TensorInvalid(f"{tensor.name}: the bytes are not those of {count} strings")
    return values


def datatype_of(values: Sequence[Any]) -> str:
    """Return the datatype of predictions."""
    if all(isinstance(value, bool) for value in values):
        return "BOOL"
    if all(isinstance(value, str) for value in values):
        return "BYTES"
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "INT64"
    return "FP64"


def write_bytes(values: Sequence[Any], datatype: str) -> bytes:
    """Return values as the bytes of a tensor."""
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    if datatype == "FP64":
        values = [math.nan if value is None else float(value) for value in values]
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
