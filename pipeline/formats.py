"""Builds the parts for formats other than JSON from the configuration, for the worker and for the commands."""

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from headrace.consumers.formats.avro import AvroReader
from headrace.consumers.formats.framing import prefix, schema_of, unframe
from headrace.consumers.formats.json_schema import JsonSchemaReader
from headrace.consumers.formats.protobuf import ProtobufSchema
from headrace.consumers.formats.registry import Registry, SchemaRefused, library
from headrace.consumers.formats.schema_cache import KINDS, SchemaCache
from headrace.consumers.formats.writer_schema import NotDecodable, SchemaKind, WriterSchema
from headrace.consumers.record import Record
from headrace.consumers.refusal import Refusal
from headrace.pipeline.config.config import Config
from headrace.pipeline.hinted_error import HintedError
from headrace.producers.formats.prediction_encoder import PredictionEncoder
from headrace.producers.formats.prediction_schema import schema_text
from headrace.state.store.schema_store import SchemaStore
from headrace.state.store.store import Store


class RecordRefused(HintedError):
    """Raised when a record that is to be sent does not fit the schema of its topic."""


def connect(config: Config, kind: SchemaKind) -> Registry:
    """Return the client of the registry, without connecting to it. Raises ExtraMissing, RegistryRefused."""
    return Registry(config.registry.url, config.registry.client, kind=kind)


def cache_of(config: Config, *, is_asking: bool = False) -> SchemaCache | None:
    """Return an empty cache for the schemas of records and labels; None if both are JSON.

    If it `is_asking`, it asks the registry for what it lacks, and its users wait for the answer.
    """
    kind = KINDS.get(config.schema_format)
    if kind is None:
        return None
    return SchemaCache(kind, find=connect(config, kind).find if is_asking else None)


def prediction_encoder(config: Config, task: str, store: Store) -> PredictionEncoder | None:
    """Return the encoder of predictions; None for JSON. Their schema is registered, if it is not yet.

    The id is kept in the store, so a later start needs no registry. Raises RegistryAway, RegistryRefused,
    SchemaRefused, ExtraMissing, StoreAway.
    """
    form = config.predictions.format
    if form == "json":
        return None
    has_features = config.predictions.features
    text = schema_text(form, task, has_features=has_features)
    subject = f"{config.topics.predictions}-value"
    name = f"prediction:{hashlib.sha256(f'{config.registry.url} {subject} {text}'.encode()).hexdigest()}"
    kept = SchemaStore(store, name=config.name).find([name]).get(name, b"")
    if kept.isdigit():
        schema_id = int(kept)
    else:
        schema = WriterSchema(KINDS[form], text)
        schema_id = connect(config, KINDS[form]).enter(subject, schema, register=config.registry.register_)
        SchemaStore(store, name=config.name).keep(name, b"%d" % schema_id)
    return PredictionEncoder(form, task, schema_id=schema_id, has_features=has_features)


def record_encoder(config: Config, topic: str) -> Callable[[bytes], bytes] | None:
    """Return a function that encodes JSON objects for a topic by its subject's newest schema; None for JSON.

    The function raises RecordRefused for an object that does not fit the schema. Raises SchemaRefused, RegistryAway,
    RegistryRefused, ExtraMissing.
    """
    key, form = ("labels", config.label_format) if topic == config.topics.labels else ("records", config.records.format)
    kind = KINDS.get(form)
    if kind is None:
        return None
    subject = f"{topic}-value"
    found = connect(config, kind).latest(subject)
    if found is None:
        raise SchemaRefused(
            f"the schema registry has no schema under {subject}", hint=f"register the schema of {topic} there"
        )
    schema_id, schema = found
    if schema.kind != kind:
        raise SchemaRefused(f"{subject} has the type {schema.kind}", hint=f"set {key}.format to it")
    write = _WRITERS[kind](schema)
    return partial(_encode, write, prefix(schema_id, has_indexes=kind == "PROTOBUF"))


def _encode(write: Callable[[Any], bytes], frame: bytes, line: bytes) -> bytes:
    try:
        return frame + write(msgspec.json.decode(line))
    except Exception as error:
        # The libraries of the formats raise errors of many types.
        raise RecordRefused(
            f"a record does not fit the schema of its topic: {type(error).__name__}: {error}",
            hint="correct the record; those before it are sent",
        ) from error


def _avro_writer(schema: WriterSchema) -> Callable[[Any], bytes]:
    fastavro, parsed = library("fastavro", kind="AVRO"), AvroReader(schema).schema

    def write(value: Any) -> bytes:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, parsed.parsed, value)
        return file.getvalue()

    return write


def _protobuf_writer(schema: WriterSchema) -> Callable[[Any], bytes]:
    made = library("google.protobuf.message_factory", kind="PROTOBUF").GetMessageClass(
        ProtobufSchema(schema).message((0,))
    )
    parse = library("google.protobuf.json_format", kind="PROTOBUF").ParseDict
    return lambda value: bytes(parse(value, made()).SerializeToString())


def _json_writer(schema: WriterSchema) -> Callable[[Any], bytes]:
    check = JsonSchemaReader(schema).read

    def write(value: Any) -> bytes:
        payload = msgspec.json.encode(value)
        check(payload)
        return payload

    return write


_WRITERS: Mapping[SchemaKind, Callable[[WriterSchema], Callable[[Any], bytes]]] = {
    "AVRO": _avro_writer,
    "PROTOBUF": _protobuf_writer,
    "JSON": _json_writer,
}


class ValueText:
    """Shows values in a format as JSON, with the schemas of the registry; other values as they are."""

    def __init__(self, config: Config, form: str) -> None:
        self._cache: SchemaCache | None = None
        if (kind := KINDS.get(form)) is not None:
            self._cache = SchemaCache(kind, find=connect(config, kind).find)

    def of(self, record: Record) -> bytes:
        """Return a record's value as JSON if it can be read; the value itself otherwise. Raises RegistryAway."""
        value = record.value or b""
        schema = schema_of(value, record.headers)
        if self._cache is None or schema is None:
            return value
        found = decode(self._cache, record)
        return value if isinstance(found, Refusal) else msgspec.json.encode(_plain(found))


def decode(cache: SchemaCache, record: Record) -> Any:
    """Return a record's value as its schema says, or the reason for which it can't be read."""
    frame = unframe(record.value or b"", record.headers, has_indexes=cache.kind == "PROTOBUF")
    if isinstance(frame, Refusal):
        return frame
    parsed = cache.get(frame.schema, record)
    if isinstance(parsed, Refusal):
        return parsed
    try:
        return parsed.read(frame.payload, frame.indexes)
    except NotDecodable as error:
        return Refusal("not_decodable", "decode", str(error), error.field)


def _plain(value: Any) -> Any:
    """Return a decoded value with its bytes as text: JSON has no bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
