"""Decodes JSON records by a mapping other than the default: nested, flat, with fields in headers, or transformed."""

import json
from collections.abc import Callable, Mapping
from typing import Any

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
from headrace.consumers.record_reader import LabelReader, RecordReader, encoded_number, find
from headrace.consumers.refusal import Refusal, parse_json
from headrace.consumers.schema import Schema


class MappedDecoder:
    """Decode JSON records by a mapping, or by a `transform` of the user's that returns the default form.

    `value_bytes_max` is the limit of the value in bytes.
    """

    def __init__(
        self,
        mapping: RecordMapping,
        *,
        schema: Schema | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        value_bytes_max: int = VALUE_BYTES_MAX,
    ) -> None:
        self.schema = schema
        self.value_bytes_max = value_bytes_max
        self.scans = mapping if transform is None else None
        self.label_field, self.feature_prefix = mapping.label, mapping.feature_prefix
        self._mapping = mapping
        self._reader = RecordReader(mapping, schema=schema, transform=transform, number_text=number_text)

    def decode(self, record: Record) -> Event | Skipped | Refusal:
        """Decode one record. Never raises: any bytes give an event, a skipped record or a refusal."""
        whole = _whole(record.value, self._mapping, self.value_bytes_max)
        return self._reader.read(whole, record) if isinstance(whole, dict) else whole

    def keep(self, record: Record, features: Mapping[str, Any]) -> bytes:  # noqa: ARG002 the value needs this mapping
        """Return the features in the default form."""
        return kept_features(features)

    def features(self, kept: bytes) -> dict[str, Any]:
        """Decode the features from the bytes that `keep` returned."""
        return features_of(kept)


class MappedLabelDecoder:
    """Decode JSON records of the labels topic by a mapping. `value_bytes_max` is the limit of the value in bytes."""

    def __init__(self, mapping: RecordMapping, *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.label_field = mapping.label
        self._mapping = mapping
        self._value_bytes_max = value_bytes_max
        self._reader = LabelReader(mapping, number_text=number_text)

    def decode(self, record: Record) -> Label | Skipped | Refusal:
        """Decode one record. Never raises: any bytes give a label, a skipped record or a refusal."""
        whole = _whole(record.value, self._mapping, self._value_bytes_max)
        return self._reader.read(whole, record) if isinstance(whole, dict) else whole


def number_text(record: Record, path: FieldPath, number: float) -> str:
    """Return a number in a record's JSON as it is written there, to the last digit."""
    if isinstance(number, int) and number and number.bit_length() < 64:  # noqa: PLR2004 the common case
        return str(number)
    try:
        whole = json.loads((record.value or b"").decode(), parse_int=str, parse_float=str)
    except RecursionError:
        return encoded_number(record, path, number)
    return str(find(whole, path.names))


def _whole(value: bytes | None, mapping: RecordMapping, bytes_max: int) -> dict[str, Any] | Skipped | Refusal:
    """Parse a value; one without content may be skipped."""
    found: dict[str, Any] | Refusal = parse_json(value, bytes_max=bytes_max)
    if isinstance(found, Refusal) and mapping.empty == "skip":
        is_empty = found.code == "no_value" or (value is not None and value.strip() == b"null")
        return SKIPPED if is_empty else found
    return found
