"""The schemas that are known, parsed and by id, and the ids that the registry did not know.

The worker adds what it has looked up before a batch is decoded; a command lets the cache ask the registry itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.consumers.formats.avro import AvroReader
from headrace.consumers.formats.json_schema import JsonSchemaReader
from headrace.consumers.formats.protobuf import ProtobufReader
from headrace.consumers.formats.registry import library
from headrace.consumers.formats.writer_schema import PayloadReader, SchemaKind, SchemaUnusable, WriterSchema
from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.refusal import Refusal

KINDS: Mapping[str, SchemaKind] = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}
"""The kinds of schemas by `records.format`."""
_READERS: Mapping[SchemaKind, Callable[[WriterSchema], Any]] = {
    "AVRO": AvroReader,
    "PROTOBUF": ProtobufReader,
    "JSON": JsonSchemaReader,
}

_LIBRARIES: Mapping[SchemaKind, Sequence[str]] = {
    "AVRO": ("fastavro",),
    "PROTOBUF": ("google.protobuf.message_factory", "grpc_tools.protoc"),
    "JSON": ("jsonschema_rs",),
}

ParsedSchema = PayloadReader | Refusal
"""A schema that is ready to read values; or why all its records are refused."""
LogOfPartition = tuple[bool, int]
"""Whether it is the log of the labels, and the partition."""


class SchemaCache:
    """Schemas of one kind. `find` looks up an id that is not known; None means that the registry has no such schema.

    The libraries of the kind are imported at once, since that takes a second. Raises ExtraMissing.
    """

    def __init__(self, kind: SchemaKind, *, find: Callable[[str], WriterSchema | None] | None = None) -> None:
        for name in ("confluent_kafka.schema_registry", *_LIBRARIES[kind]):
            library(name, kind=kind)
        self.kind: SchemaKind = kind
        self.known: dict[str, ParsedSchema] = {}
        self._find = find
        self._unknown: dict[LogOfPartition, Mapping[str, int]] = {}

    def parse(self, schema: str, found: WriterSchema) -> ParsedSchema:
        """Parse the schema with this id; return a refusal if it can't be used. Raises ExtraMissing."""
        if found.kind != self.kind:
            return _not_decodable(f"schema {schema} is of type {found.kind}; records.format wants {self.kind}")
        try:
            parsed: ParsedSchema = _READERS[self.kind](found)
        except SchemaUnusable as error:
            return _not_decodable(f"schema {schema} can't be used: {error}")
        return parsed

    def refuse_below(self, log: LogOfPartition, offsets: Mapping[str, int]) -> None:
        """Refuse records of a log whose offset is below that of their schema: the registry did not know it then."""
        self._unknown[log] = offsets

    def forget(self, partition: int) -> None:
        """Forget which records of a partition were refused because the registry did not know their schema."""
        for labels in (False, True):
            self._unknown.pop((labels, partition), None)

    def refused_below(self, partition: int) -> int:
        """Return an offset of the features from which on no record is refused for what the registry did not know."""
        return max(self._unknown.get((False, partition), {}).values(), default=0)

    def get(self, schema: str, record: Record) -> ParsedSchema:
        """Return the parsed schema of a record, or why the record is refused. Raises the errors of `find`."""
        if self._unknown:
            refused = self._unknown.get((type(record) is LabelRecord, record.partition))
            if refused and record.offset < refused.get(schema, 0):
                return unknown_schema(schema)
        parsed = self.known.get(schema)
        if parsed is None:
            found = None if self._find is None else self._find(schema)
            if found is None:
                return unknown_schema(schema)
            parsed = self.known[schema] = self.parse(schema, found)
        return parsed


def unknown_schema(schema: str) -> Refusal:
    """Return the refusal of a record whose schema the registry does not have."""
    return Refusal("unknown_schema", "decode", f"the schema registry has no schema {schema}")


def _not_decodable(words: str) -> Refusal:
    return Refusal("not_decodable", "decode", words)
