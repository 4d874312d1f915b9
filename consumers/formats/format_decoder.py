"""Decodes records in Avro, Protobuf and JSON Schema: the frame, the writer's schema, and then the mapping."""

from collections.abc import Callable, Mapping
from typing import Any

from headrace.consumers.formats.framing import Frame, unframe
from headrace.consumers.formats.schema_cache import SchemaCache
from headrace.consumers.formats.writer_schema import NotDecodable, PayloadReader
from headrace.consumers.mapped_decoder import number_text
from headrace.consumers.mapping import FieldPath, RecordMapping
from headrace.consumers.record import (
    SKIPPED,
    VALUE_BYTES_MAX,
    Event,
    Label,
    Record,
    Skipped,
    features_of,
    kept_features,
)
from headrace.consumers.record_reader import Declared, LabelReader, RecordReader, encoded_number
from headrace.consumers.refusal import Refusal, refuse_size
from headrace.consumers.schema import Schema


def declared_by(parsed: PayloadReader, indexes: tuple[int, ...]) -> Declared:
    """Return what a writer's schema declares. A plain field in a union with null may be null."""
    types = parsed.declared(indexes)
    nulls = {path for path, absence in parsed.optional(indexes).items() if absence == "null"}
    return Declared(types, frozenset(nulls.intersection(types)))


class PayloadDecoder:
    """Decode values to dicts. `bytes_max` is the limit of the value in bytes; with `skips` a record may have none."""

    def __init__(self, schemas: SchemaCache, *, bytes_max: int, skips: bool) -> None:
        self.schemas = schemas
        self._bytes_max = bytes_max
        self._skips = skips
        self._declared: dict[tuple[str, tuple[int, ...]], Declared] = {}

    def decode(self, record: Record) -> tuple[dict[str, Any], Declared] | Skipped | Refusal:
        """Return a record's value and what its schema declares. Raises the errors of the cache."""
        value = record.value
        if not value or len(value) > self._bytes_max:
            return SKIPPED if not value and self._skips else refuse_size(value, self._bytes_max)
        frame = unframe(value, record.headers, has_indexes=self.schemas.kind == "PROTOBUF")
        if isinstance(frame, Refusal):
            return frame
        parsed = self.schemas.get(frame.schema, record)
        if isinstance(parsed, Refusal):
            return parsed
        try:
            whole = parsed.read(frame.payload, frame.indexes)
            declared = self._declared.get((frame.schema, frame.indexes))
            if declared is None:
                declared = self._declared[frame.schema, frame.indexes] = declared_by(parsed, frame.indexes)
        except NotDecodable as error:
            return Refusal("not_decodable", "decode", str(error), error.field)
        if not isinstance(whole, dict):
            return Refusal("not_object", "decode", "the schema of the value is no record: its fields have no names")
        return whole, declared


class FormatDecoder:
    """Decode records to events by a mapping, or by a `transform` of the user's. Refusals have their reason.

    `value_bytes_max` is the limit of the value in bytes.
    """

    def __init__(
        self,
        schemas: SchemaCache,
        mapping: RecordMapping,
        *,
        schema: Schema | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        value_bytes_max: int = VALUE_BYTES_MAX,
    ) -> None:
        self.schemas = schemas
        self.schema = schema
        self.value_bytes_max = value_bytes_max
        self.mapping = mapping if transform is None else None
        # The scanner of JSON does not know which features the writer's schema declares as numbers.
        reads_json = schemas.kind == "JSON" and mapping.numbers == "strict"
        self.scans = self.mapping if reads_json else None
        self.label_field, self.feature_prefix = mapping.label, mapping.feature_prefix
        self._payload = PayloadDecoder(schemas, bytes_max=value_bytes_max, skips=mapping.empty == "skip")
        written = _payload_number if schemas.kind == "JSON" else encoded_number
        self._reader = RecordReader(mapping, schema=schema, transform=transform, number_text=written)

    def decode(self, record: Record) -> Event | Skipped | Refusal:
        """Decode one record: any bytes give an event, a skipped record or a refusal."""
        found = self._payload.decode(record)
        return self._reader.read(found[0], record, found[1]) if isinstance(found, tuple) else found

    def keep(self, record: Record, features: Mapping[str, Any]) -> bytes:  # noqa: ARG002 the value needs its schema
        """Return the features in the default form of JSON."""
        return kept_features(features)

    def features(self, kept: bytes) -> dict[str, Any]:
        """Decode the features from the bytes that `keep` returned."""
        return features_of(kept)


class FormatLabelDecoder:
    """Decode records of the labels topic by a mapping. `value_bytes_max` is the limit of the value in bytes."""

    def __init__(self, schemas: SchemaCache, mapping: RecordMapping, *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.label_field = mapping.label
        self._payload = PayloadDecoder(schemas, bytes_max=value_bytes_max, skips=mapping.empty == "skip")
        written = _payload_number if schemas.kind == "JSON" else encoded_number
        self._reader = LabelReader(mapping, number_text=written)

    def decode(self, record: Record) -> Label | Skipped | Refusal:
        """Decode one record: any bytes give a label, a skipped record or a refusal."""
        found = self._payload.decode(record)
        return self._reader.read(found[0], record, found[1]) if isinstance(found, tuple) else found


def _payload_number(record: Record, path: FieldPath, number: float) -> str:
    """Return a number in the JSON behind a frame as it is written there, to the last digit."""
    frame = unframe(record.value or b"", record.headers, has_indexes=False)
    assert isinstance(frame, Frame)
    place = record.partition, record.offset, record.timestamp_ms
    return number_text(Record(*place, record.key, frame.payload, record.headers), path, number)
