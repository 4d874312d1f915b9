"""Reads Avro's binary encoding with the writer's schema: to a dict, with logical types as numbers and text.

fastavro parses the schema. The values are read here: fastavro's reader is compiled, so a value that nests without end
would exhaust the stack of the process, and its errors do not name the field. Here depth, lengths and counts are
bounded. `binary/scan.py` reads batches of most schemas faster, to the same values.

Source: Apache Avro 1.12 specification, "Binary Encoding" and "Logical Types".
"""

# ruff: noqa: ARG001  Readers of all types are called with the same arguments.

import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from headrace.consumers.formats.registry import library
from headrace.consumers.formats.writer_schema import NODES_MAX, Absence, NotDecodable, SchemaUnusable, WriterSchema
from headrace.consumers.schema import DeclaredType

DEPTH_MAX = 64
"""How deep records, arrays and maps may nest."""
SCALE_MAX = 300

_Read = Callable[[bytes, int, int], tuple[Any, int]]
"""Reads a value at a position and a depth; returns it and the position behind it."""

_VARINT_BITS = 70
_LONG_MAX, _LONG_SPAN = 1 << 63, 1 << 64
_CONTINUES = 0x80
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
# Times are divided by this to become milliseconds. Those in milliseconds and days stay as they are.
PARTS = {
    "time-micros": 1_000, "timestamp-micros": 1_000, "local-timestamp-micros": 1_000,
    "timestamp-nanos": 1_000_000, "local-timestamp-nanos": 1_000_000,
}  # fmt: skip
MILLISECONDS = frozenset({"time-millis", "timestamp-millis", "local-timestamp-millis", *PARTS})
"""The logical types that are read as milliseconds."""
_DECLARED: Mapping[str, DeclaredType] = {
    "boolean": "boolean", "int": "integer", "long": "integer", "float": "number", "double": "number",
    "bytes": "bytes", "fixed": "bytes", "string": "string", "enum": "string",
}  # fmt: skip


class AvroSchema:
    """A parsed Avro schema: its parsed form for fastavro as `parsed`, and its named types by full name as `named`."""

    def __init__(self, schema: WriterSchema) -> None:
        """Parse a schema and its references. Raises SchemaUnusable, ExtraMissing."""
        fastavro = library("fastavro", kind="AVRO")
        self.named: dict[str, Any] = {}
        try:
            for _, text in schema.references:
                fastavro.parse_schema(msgspec.json.decode(text), named_schemas=self.named)
            self.parsed: Any = fastavro.parse_schema(msgspec.json.decode(schema.text), named_schemas=self.named)
        except Exception as error:
            # The parser raises errors of many types for schemas that are not Avro.
            raise SchemaUnusable(f"its schema is not Avro: {type(error).__name__}: {error}") from error

    def resolve(self, node: Any) -> Any:
        """Return a type with the definition of a name instead of the name."""
        while isinstance(node, str) and node not in _PRIMITIVES:
            if node not in self.named:
                raise SchemaUnusable(f"its schema names the type {node}, which is not defined")
            node = self.named[node]
        if isinstance(node, dict) and isinstance(node["type"], dict | list):
            return self.resolve(node["type"])
        return {"type": node} if isinstance(node, str) else node


class AvroReader:
    """Read values of one schema, as `PayloadReader` says. Raises SchemaUnusable, ExtraMissing."""

    def __init__(self, schema: WriterSchema) -> None:
        self.schema = AvroSchema(schema)
        self._made: dict[str, _Read] = {}
        self._sized: dict[str, bool] = {}
        self._read = self._reader(self.schema.parsed)

    def read(self, payload: bytes, indexes: tuple[int, ...] = ()) -> Any:  # noqa: ARG002 those are Protobuf's
        """Return the value of a payload. Raises NotDecodable."""
        try:
            value, end = self._read(payload, 0, 0)
        except IndexError:
            raise NotDecodable("the value breaks off") from None
        if end != len(payload):
            raise NotDecodable(f"{len(payload) - end} bytes follow the value that its schema describes")
        return value

    def declared(self, indexes: tuple[int, ...] = ()) -> Mapping[str, DeclaredType]:  # noqa: ARG002 those are Protobuf's
        """Return the types that the schema declares, by path."""
        nodes = self._nodes()
        return {
            path: kind for path, node in nodes if isinstance(node, dict) and (kind := declared_type(node)) is not None
        }

    def optional(self, indexes: tuple[int, ...] = ()) -> Mapping[str, Absence]:  # noqa: ARG002 those are Protobuf's
        """Return the fields whose union has null, by path."""
        null = {"type": "null"}
        return {
            path: "null"
            for path, node in self._nodes()
            if isinstance(node, list) and any(self.schema.resolve(branch) == null for branch in node)
        }

    def _nodes(self) -> Iterator[tuple[str, Any]]:
        """Yield the resolved types of the first fields at any depth, by path, and those in a union with null."""
        stack: list[tuple[str, Any, int]] = [("", self.schema.parsed, 0)]
        for _ in range(NODES_MAX):
            if not stack:
                return
            path, node, depth = stack.pop()
            schema = self.schema.resolve(node)
            yield path, schema
            if isinstance(schema, list):
                others = [branch for branch in schema if self.schema.resolve(branch) != {"type": "null"}]
                stack += [(path, branch, depth) for branch in others if len(others) == 1]
            elif schema["type"] in {"record", "error"} and depth < DEPTH_MAX:
                prefix = f"{path}." if path else ""
                fields = reversed(schema["fields"])
                stack += [(f"{prefix}{field['name']}", field["type"], depth + 1) for field in fields]

    def _reader(self, node: Any) -> _Read:
        schema = self.schema.resolve(node)
        if isinstance(schema, list):
            return partial(_read_union, [self._reader(branch) for branch in schema])
        kind = schema["type"]
        if kind in {"record", "error"}:
            return self._record(schema)
        if kind in {"array", "map"}:
            inner = schema["items" if kind == "array" else "values"]
            if kind == "array" and not self._takes_bytes(inner, 0):
                raise SchemaUnusable("its schema has an array of values without bytes, which could be of any length")
            return partial(_read_array if kind == "array" else _read_map, self._reader(inner))
        return _logical(schema, _leaf(schema))

    def _record(self, schema: Any) -> _Read:
        """Return the reader of a record. A record may contain itself, so it is found by its name while it is made."""
        name = schema["name"]
        if name in self._made:
            return partial(_read_named, self._made, name)
        self._made[name] = _read_nothing
        fields = [(field["name"], self._reader(field["type"])) for field in schema["fields"]]
        self._made[name] = partial(_read_record, fields)
        return self._made[name]

    def _takes_bytes(self, node: Any, depth: int) -> bool:
        schema = self.schema.resolve(node)
        if isinstance(schema, list) or depth > DEPTH_MAX:
            return True
        if schema["type"] in {"record", "error"}:
            if (name := schema["name"]) not in self._sized:
                self._sized[name] = any(self._takes_bytes(field["type"], depth + 1) for field in schema["fields"])
            return self._sized[name]
        return bool(schema["type"] != "null" and schema.get("size", 1) > 0)


def declared_type(schema: Any) -> DeclaredType | None:
    """Return the type of values of a resolved type other than a union or a record; None for arrays, maps and null."""
    logical = schema.get("logicalType")
    if logical in MILLISECONDS and schema["type"] in {"int", "long"}:
        return "milliseconds"
    if logical == "date" and schema["type"] == "int":
        return "days"
    if logical == "decimal" and schema["type"] in {"bytes", "fixed"}:
        return "number"
    if logical == "uuid" and schema["type"] == "fixed":
        return "string"
    return _DECLARED.get(schema["type"])


def _leaf(schema: Any) -> _Read:
    kind = schema["type"]
    if kind == "enum":
        return partial(_read_enum, schema["symbols"])
    if kind == "fixed":
        return partial(_read_fixed, schema["size"])
    return _LEAVES[kind]


def _logical(schema: Any, read: _Read) -> _Read:
    """Return a reader that also converts a logical type; one that Avro does not know is ignored, as Avro says."""
    kind, logical = schema["type"], schema.get("logicalType")
    if logical == "decimal" and kind in {"bytes", "fixed"}:
        scale = schema.get("scale", 0)
        if type(scale) is not int or not 0 <= scale <= SCALE_MAX:
            raise SchemaUnusable(f"its schema has a decimal with the scale {scale!r}; 0 to {SCALE_MAX} can be read")
        return partial(_converted, read, partial(_decimal, 10**scale))
    if logical in PARTS and kind == "long":
        return partial(_converted, read, partial(_milliseconds, PARTS[logical]))
    if logical == "uuid" and kind == "fixed" and schema["size"] == 16:  # noqa: PLR2004 a UUID's bytes
        return partial(_converted, read, lambda found: str(uuid.UUID(bytes=found)))
    return read


def _converted(read: _Read, convert: Callable[[Any], Any], data: bytes, at: int, depth: int) -> tuple[Any, int]:
    value, at = read(data, at, depth)
    return convert(value), at


def _decimal(unit: int, found: bytes) -> float:
    number = int.from_bytes(found, "big", signed=True)
    try:
        return number if unit == 1 else number / unit
    except OverflowError:
        # Left as it is: the record is refused, if the field is a feature.
        return number


def _milliseconds(parts: int, number: int) -> float:
    return number // parts if number % parts == 0 else number / parts


def _read_nothing(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    raise SchemaUnusable("its schema has a record that contains itself at once, without a union or an array")


def _read_named(made: Mapping[str, _Read], name: str, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    return made[name](data, at, depth)


def _read_record(fields: list[tuple[str, _Read]], data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > DEPTH_MAX:
        raise NotDecodable(f"the value nests more than {DEPTH_MAX} deep")
    found = {}
    name = ""
    try:
        for name, read in fields:
            found[name], at = read(data, at, depth + 1)
    except NotDecodable as error:
        raise NotDecodable(str(error), f"{name}.{error.field}" if error.field else name) from None
    except IndexError:
        raise NotDecodable("the value breaks off", name) from None
    return found, at


def _read_union(branches: list[_Read], data: bytes, at: int, depth: int) -> tuple[Any, int]:
    index, at = _read_long(data, at, depth)
    if not 0 <= index < len(branches):
        raise NotDecodable(f"the union has {len(branches)} branches, and the value names branch {index}")
    value, at = branches[index](data, at, depth)
    return value, at


def _count(data: bytes, at: int, depth: int) -> tuple[int, int]:
    """Read the number of items of a block; a negative one is followed by the block's size."""
    if depth > DEPTH_MAX:
        raise NotDecodable(f"the value nests more than {DEPTH_MAX} deep")
    count, at = _read_long(data, at, depth)
    if count < 0:
        count = -count
        _, at = _read_long(data, at, depth)
    if count > len(data) - at:
        raise NotDecodable(f"a block of {count} items in {len(data) - at} bytes")
    return count, at


def _read_array(read: _Read, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    found: list[Any] = []
    count, at = _count(data, at, depth)
    while count:
        for _ in range(count):
            value, at = read(data, at, depth + 1)
            found.append(value)
        count, at = _count(data, at, depth)
    return found, at


def _read_map(read: _Read, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    found: dict[str, Any] = {}
    count, at = _count(data, at, depth)
    while count:
        for _ in range(count):
            name, at = _read_string(data, at, depth)
            found[name], at = read(data, at, depth + 1)
        count, at = _count(data, at, depth)
    return found, at


def _read_null(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    return None, at


def _read_boolean(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if data[at] > 1:
        raise NotDecodable(f"a boolean is the byte {data[at]}; it must be 0 or 1")
    return data[at] == 1, at + 1


def _read_long(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    number = data[at]
    at += 1
    if number >= _CONTINUES:
        number &= 0x7F
        for shift in range(7, _VARINT_BITS, 7):
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < _CONTINUES:
                break
        else:
            raise NotDecodable("a number has more than ten bytes")
        if number >= _LONG_SPAN:
            raise NotDecodable("a number does not fit 64 bits")
    return (number >> 1) ^ -(number & 1), at


def _read_int(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    number, at = _read_long(data, at, depth)
    if not -(1 << 31) <= number < 1 << 31:
        raise NotDecodable("an int does not fit 32 bits")
    return number, at


def _read_float(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at + 4 > len(data):
        raise IndexError
    return _FLOAT.unpack_from(data, at)[0], at + 4


def _read_double(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at + 8 > len(data):
        raise IndexError
    return _DOUBLE.unpack_from(data, at)[0], at + 8


def _read_bytes(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    size, at = _read_long(data, at, depth)
    return _read_fixed(size, data, at, depth)


def _read_fixed(size: int, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if not 0 <= size <= len(data) - at:
        raise NotDecodable(f"{size} bytes are announced, and {len(data) - at} follow")
    return data[at : at + size], at + size


def _read_string(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    text, at = _read_bytes(data, at, depth)
    try:
        return text.decode(), at
    except UnicodeDecodeError as error:
        raise NotDecodable(f"byte {error.start} of a string is not UTF-8") from None


def _read_enum(symbols: list[str], data: bytes, at: int, depth: int) -> tuple[Any, int]:
    index, at = _read_long(data, at, depth)
    if not 0 <= index < len(symbols):
        raise NotDecodable(f"the enum has {len(symbols)} symbols, and the value names symbol {index}")
    return symbols[index], at


_LEAVES: Mapping[str, _Read] = {
    "null": _read_null, "boolean": _read_boolean, "int": _read_int, "long": _read_long, "float": _read_float,
    "double": _read_double, "bytes": _read_bytes, "string": _read_string,
}  # fmt: skip
