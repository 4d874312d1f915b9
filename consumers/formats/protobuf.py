"""Reads Protobuf messages with the descriptors of the writer's schema: no generated class is needed.

A registry gives the text of a .proto file, or a serialized FileDescriptorProto in Base64. The text is compiled by
protoc, which grpcio-tools brings as a library; it runs in a process of its own, since it is C++ and the text may come
from anybody.
"""

import base64
import binascii
import importlib.util
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from headrace.consumers.formats.registry import library
from headrace.consumers.formats.writer_schema import NODES_MAX, Absence, NotDecodable, SchemaUnusable, WriterSchema
from headrace.consumers.schema import DeclaredType

COMPILE_S = 30.0
"""How long the compiler may take, in seconds."""
DEPTH_MAX = 64
"""How deep messages may nest in a type that is looked through for its declared types."""

_FILE = "value.proto"
_ERROR_CHARACTERS = 300
_NANOS, _MILLIS = 1_000_000, 1_000
_SCALE_MAX = 300
# Files that Confluent's serializers import, and that no package ships as text.
_BUILT_IN = {
    "confluent/type/decimal.proto": 'syntax = "proto3"; package confluent.type;'
    "message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }",
    "confluent/meta.proto": 'syntax = "proto3"; package confluent; import "google/protobuf/descriptor.proto";'
    "message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }"
    "extend google.protobuf.FileOptions { Meta file_meta = 1088; }"
    "extend google.protobuf.MessageOptions { Meta message_meta = 1088; }"
    "extend google.protobuf.FieldOptions { Meta field_meta = 1088; }"
    "extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }"
    "extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }",
}
WRAPPERS: Mapping[str, DeclaredType] = {
    "DoubleValue": "number", "FloatValue": "number", "Int64Value": "integer", "UInt64Value": "integer",
    "Int32Value": "integer", "UInt32Value": "integer", "BoolValue": "boolean", "StringValue": "string",
    "BytesValue": "bytes",
}  # fmt: skip
"""The messages of google.protobuf that stand for the value in them, and its type."""

_Value = Callable[[Any], Any]


class ProtobufSchema:
    """The descriptors of a .proto file. Raises SchemaUnusable, ExtraMissing."""

    def __init__(self, schema: WriterSchema) -> None:
        self._pool = library("google.protobuf.descriptor_pool", kind="PROTOBUF").DescriptorPool()
        files = _serialized(schema) or _compile(schema)
        try:
            for one in files:
                self._pool.Add(one)
            self.file = self._pool.FindFileByName(files[-1].name)
        except (TypeError, KeyError) as error:
            raise SchemaUnusable(f"its schema is not Protobuf: {error}") from error

    def message(self, indexes: tuple[int, ...]) -> Any:
        """Return the descriptor that indexes choose: a message of the file, and messages inside it."""
        try:
            found = list(self.file.message_types_by_name.values())[indexes[0]]
            for index in indexes[1:]:
                found = found.nested_types[index]
        except IndexError:
            raise NotDecodable(f"its schema has no message with the indexes {list(indexes)}") from None
        return found


class ProtobufReader:
    """Read messages of one schema, as `PayloadReader` says. Raises SchemaUnusable, ExtraMissing."""

    def __init__(self, schema: WriterSchema) -> None:
        self.schema = ProtobufSchema(schema)
        self._factory = library("google.protobuf.message_factory", kind="PROTOBUF")
        self._error = library("google.protobuf.message", kind="PROTOBUF").DecodeError
        self._classes: dict[tuple[int, ...], Any] = {}

    def read(self, payload: bytes, indexes: tuple[int, ...] = (0,)) -> Any:
        """Return the fields of a message by their names in the .proto file. Raises NotDecodable."""
        kind = self._classes.get(indexes)
        if kind is None:
            kind = self._factory.GetMessageClass(self.schema.message(indexes))
            self._classes[indexes] = kind
        try:
            return _fields(kind.FromString(payload))
        except self._error as error:
            raise NotDecodable(f"the bytes are not a {kind.DESCRIPTOR.name}: {error}") from None

    def declared(self, indexes: tuple[int, ...] = (0,)) -> Mapping[str, DeclaredType]:
        """Return the types that the schema declares, by path."""
        nodes = _nodes(self.schema.message(indexes))
        return {path: kind for path, field in nodes if (kind := declared_type(field)) is not None}

    def optional(self, indexes: tuple[int, ...] = (0,)) -> Mapping[str, Absence]:
        """Return the fields with presence that are not required, by path."""
        nodes = _nodes(self.schema.message(indexes))
        return {path: "absent" for path, field in nodes if field.has_presence and not field.is_required}


def _nodes(message: Any) -> Iterator[tuple[str, Any]]:
    """Yield the first fields of a message that are not repeated, at any depth, by path."""
    stack = [(field.name, field, 0) for field in reversed(message.fields)]
    for _ in range(NODES_MAX):
        if not stack:
            return
        path, field, depth = stack.pop()
        if field.is_repeated:
            continue
        yield path, field
        inner = field.message_type
        if inner is not None and inner.full_name not in _WELL_KNOWN and depth < DEPTH_MAX:
            stack += [(f"{path}.{one.name}", one, depth + 1) for one in reversed(inner.fields)]


def _fields(message: Any) -> dict[str, Any]:
    """Return the fields of a message: those without presence always, the others if they are set."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        found[field.name] = _value(field, getattr(message, field.name))
    return found


def _value(field: Any, value: Any) -> Any:
    if is_map(field):
        inner = field.message_type.fields_by_name["value"]
        return {_map_key(key): _value(inner, value[key]) for key in value}
    if field.is_repeated:
        return [_single(field, one) for one in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        # proto3 keeps numbers that a newer schema gave a name.
        return str(value) if known is None else known.name
    if field.message_type is None:
        if type(value) is bytes and field.type != field.TYPE_BYTES:
            # proto2 does not check its strings, and gives the bytes of one that is not UTF-8.
            raise NotDecodable("a string is not UTF-8", field.name)
        return value
    convert = _WELL_KNOWN.get(field.message_type.full_name)
    return _fields(value) if convert is None else convert(value)


def is_map(field: Any) -> bool:
    """Tell whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _milliseconds(value: Any) -> float:
    """Return a Timestamp or a Duration in milliseconds, with a fraction if it has one."""
    millis, rest = divmod(value.nanos, _NANOS)
    whole = int(value.seconds) * _MILLIS + millis
    return float(whole + rest / _NANOS) if rest else whole


def _decimal(value: Any) -> float:
    number, scale = int.from_bytes(value.value, "big", signed=True), int(value.scale)
    if not -_SCALE_MAX <= scale <= _SCALE_MAX:
        return math.nan
    try:
        return float(number / 10**scale) if scale > 0 else int(number * 10**-scale)
    except OverflowError:
        # Left as it is: the record is refused, if the field is a feature.
        return number


def _struct(value: Any) -> Any:
    """Return a google.protobuf.Struct, Value or ListValue as the JSON that it stands for."""
    kind = value.DESCRIPTOR.name
    if kind == "Struct":
        return {name: _struct(one) for name, one in value.fields.items()}
    if kind == "ListValue":
        return [_struct(one) for one in value.values]
    chosen = value.WhichOneof("kind")
    if chosen in {None, "null_value"}:
        return None
    found = getattr(value, chosen)
    return _struct(found) if chosen in {"struct_value", "list_value"} else found


_WELL_KNOWN: Mapping[str, _Value] = {
    "google.protobuf.Timestamp": _milliseconds,
    "google.protobuf.Duration": _milliseconds,
    "confluent.type.Decimal": _decimal,
    **{f"google.protobuf.{name}": _struct for name in ("Struct", "Value", "ListValue")},
    **{f"google.protobuf.{name}": lambda wrapped: wrapped.value for name in WRAPPERS},
}


def declared_type(field: Any) -> DeclaredType | None:
    """Return the type of a field that is not repeated; None for a message that has fields of its own."""
    if field.message_type is not None:
        package, _, name = field.message_type.full_name.rpartition(".")
        if package == "google.protobuf":
            return "milliseconds" if name in {"Timestamp", "Duration"} else WRAPPERS.get(name)
        return "number" if field.message_type.full_name == "confluent.type.Decimal" else None
    if field.enum_type is not None or field.cpp_type == field.CPPTYPE_STRING:
        return "bytes" if field.type == field.TYPE_BYTES else "string"
    if field.cpp_type == field.CPPTYPE_BOOL:
        return "boolean"
    return "number" if field.cpp_type in {field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT} else "integer"


def _serialized(schema: WriterSchema) -> list[Any]:
    """Return the files of a schema whose text is a serialized descriptor in Base64; none for .proto text."""
    pb2 = library("google.protobuf.descriptor_pb2", kind="PROTOBUF")
    texts = [*schema.references, (_FILE, schema.text)]
    try:
        parsed = [
            (name, pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))) for name, text in texts
        ]
    except (binascii.Error, ValueError, library("google.protobuf.message", kind="PROTOBUF").DecodeError):
        return []
    for name, one in parsed:
        one.name = name
    own = {name for name, _ in parsed}
    imported = {name for _, one in parsed for name in one.dependency} - own
    # The compiler knows the files that come with Protobuf.
    text = 'syntax = "proto3";' + "".join(f'import "{name}";' for name in sorted(imported))
    known = _compile(WriterSchema("PROTOBUF", text))[:-1] if imported else []
    return [*known, *(one for _, one in parsed)]


def _compile(schema: WriterSchema) -> list[Any]:
    """Compile .proto text with the files that it imports; return the descriptors, each after those that it needs."""
    library("grpc_tools.protoc", kind="PROTOBUF")
    pb2 = library("google.protobuf.descriptor_pb2", kind="PROTOBUF")
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        for name, text in (*_BUILT_IN.items(), *schema.references, (_FILE, schema.text)):
            _write(Path(folder), name, text)
        command = [sys.executable, "-I", "-m", "grpc_tools.protoc", f"-I{folder}", *_shipped()]
        command += ["--include_imports", f"--descriptor_set_out={folder}/compiled", _FILE]
        try:
            done = subprocess.run(  # noqa: S603 our own command; the text is in files
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMPILE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise SchemaUnusable(f"its schema takes more than {COMPILE_S:.0f} s to compile") from None
        if done.returncode:
            words = done.stderr.decode(errors="replace").replace(f"{folder}/", "").strip()
            raise SchemaUnusable(f"its schema is not Protobuf: {words[:_ERROR_CHARACTERS]}")
        compiled: list[Any] = list(pb2.FileDescriptorSet.FromString(Path(folder, "compiled").read_bytes()).file)
        return compiled


def _write(folder: Path, name: str, text: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise SchemaUnusable(f"its schema refers to {name!r}, which is no name of a file")
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise SchemaUnusable(f"its schema refers to {name!r}: {error}") from error


def _shipped() -> Iterable[str]:
    """Yield the options for the folders of the .proto files that packages ship: google/protobuf and google/type."""
    for package, folder in (("grpc_tools", "_proto"), ("google.type", "../..")):
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            yield f"-I{Path(place, folder).resolve()}"
