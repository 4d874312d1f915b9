"""Decodes the sample of a topic whose format is not known yet: JSON, or a format with a schema registry."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.consumers.formats.framing import schema_of, unframe
from headrace.consumers.formats.schema_cache import KINDS, SchemaCache
from headrace.consumers.formats.writer_schema import Absence, NotDecodable
from headrace.consumers.record import Record
from headrace.consumers.refusal import Refusal
from headrace.pipeline import formats
from headrace.pipeline.check.findings import SampleRefused
from headrace.pipeline.check.shape import SampleRecord
from headrace.pipeline.config.config import Config
from headrace.pipeline.config.redaction import address

_MOST = 0.5
_FORMATS = {kind: name for name, kind in KINDS.items()}


class DecodedSample(msgspec.Struct, frozen=True):
    """The records whose value is an object, the number of records without a value, and `records.format`.

    `optional` has the fields that a schema of these records does not demand, by path.
    """

    format: str
    records: list[SampleRecord]
    without_value: int
    optional: Mapping[str, Absence] = {}


def decode_sample(config: Config, sample: Sequence[Record]) -> DecodedSample:
    """Decode records; if most of them name a schema, ask the registry for it.

    Raises SampleRefused, RegistryAway, RegistryRefused, ExtraMissing.
    """
    with_value = [record for record in sample if record.value]
    schemas = [schema for record in with_value if (schema := schema_of(record.value, record.headers)) is not None]
    cache = _cache(config, schemas[-1]) if len(schemas) > _MOST * len(with_value) else None
    found: list[SampleRecord] = []
    optional: dict[str, Absence] = {}
    for record in with_value:
        if cache is not None:
            optional |= _optional(cache, record)
        value = _json(record) if cache is None else formats.decode(cache, record)
        if isinstance(value, dict):
            headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers or ()}
            found.append(SampleRecord(value, headers, record.key is not None))
    form = "json" if cache is None else _FORMATS[cache.kind]
    return DecodedSample(form, found, len(sample) - len(with_value), optional)


def _optional(cache: SchemaCache, record: Record) -> Mapping[str, Absence]:
    """Return what the schema of a record does not demand; nothing if it can't be used."""
    frame = unframe(record.value or b"", record.headers, has_indexes=cache.kind == "PROTOBUF")
    parsed = frame if isinstance(frame, Refusal) else cache.get(frame.schema, record)
    if isinstance(frame, Refusal) or isinstance(parsed, Refusal):
        return {}
    try:
        return parsed.optional(frame.indexes)
    except NotDecodable:
        return {}


def _cache(config: Config, schema: str) -> SchemaCache:
    """Return a cache for the kind of this schema, which asks the registry."""
    hint = "name the topic's schema registry: --registry URL, or HEADRACE__REGISTRY__URL"
    if not config.registry.url:
        raise SampleRefused(f"the records name the schema {schema} of a schema registry", hint=hint)
    found = formats.connect(config, "AVRO").find(schema)
    kind = next((kind for kind in _FORMATS if found is not None and kind == found.kind), None)
    if kind is None:
        what = "no such schema" if found is None else f"a schema of type {found.kind}"
        raise SampleRefused(
            f"the records name the schema {schema}, and {address(config.registry.url)} has {what}", hint=hint
        )
    return SchemaCache(kind, find=formats.connect(config, kind).find)


def _json(record: Record) -> Any:
    try:
        return msgspec.json.decode(record.value or b"")
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
