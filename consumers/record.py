"""Decodes records: from a message's bytes to an event or a label, or to a refusal with its reason.

The first step for every record. One typed pass in C decodes and checks a good record; only for a bad one a slow search
finds the wrong field and the reason.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from headrace.consumers.refusal import Refusal, leaf_faults, read_json, refuse_ts, wrong_type
from headrace.consumers.schema import Schema

RecordHeaders = Sequence[tuple[str, bytes | None]]

VALUE_BYTES_MAX = 262_144
"""The default limit of a record's value, in bytes. A feature record of this size has thousands of features."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message of Kafka. Times are milliseconds since 1970; `offset` counts within `partition`."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders | None


class LabelRecord(Record, frozen=True, gc=False):
    """One message of the labels topic."""


class Event(msgspec.Struct, frozen=True):
    """A decoded feature record: the features for the model, and the label if the record has one."""

    features: dict[str, int | float | str | bool]
    id: str | msgspec.UnsetType = msgspec.UNSET
    ts: int | msgspec.UnsetType = msgspec.UNSET
    label: Any = msgspec.UNSET


class NullableEvent(Event, frozen=True):
    """An event in which some features may be null, as the schema allows; the model gets None for them."""

    features: dict[str, int | float | str | bool | None]  # type: ignore[assignment]


class Label(msgspec.Struct, frozen=True, gc=False):
    """A decoded label: the `id` of its features, the truth, and the event time in ms, if given."""

    id: str
    label: Any
    ts: int | msgspec.UnsetType = msgspec.UNSET


class Decoder:
    """Decode records to events, or to refusals with the reason.

    `value_bytes_max` is the limit of the value in bytes. With a schema, features are checked against it as well.
    """

    def __init__(self, *, schema: Schema | None = None, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.schema = schema
        self.value_bytes_max = value_bytes_max
        kind = NullableEvent if schema is not None and schema.nullable else Event
        self._decode = msgspec.json.Decoder(kind).decode

    def decode(self, record: Record) -> Event | Refusal:
        """Decode one record. Never raises: any bytes give an event or a refusal."""
        return self.read(record.value)

    def read(self, value: bytes | None) -> Event | Refusal:
        """Decode a record's value, as `decode` does."""
        event = read_json(value, self._decode, bytes_max=self.value_bytes_max, faults=_event_faults)
        if type(event) is Refusal:
            return event
        assert isinstance(event, Event)
        if (refusal := refuse_ts(event.ts)) is not None:
            return refusal
        if self.schema is not None:
            fault = self.schema.check(event.features)
            if fault is not None:
                return Refusal(fault.code, "validate", fault.message, f"features.{fault.feature}")
        return event

    def features(self, value: bytes) -> dict[str, Any]:
        """Decode the features of a value that was an event before, even if the schema has changed since."""
        return _decode_again(value).features


class LabelDecoder:
    """Decode records of the labels topic to labels, or to refusals with the reason.

    `value_bytes_max` is the limit of the value in bytes. The model decides later which labels it can learn.
    """

    def __init__(self, *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self._value_bytes_max = value_bytes_max
        self._decode = msgspec.json.Decoder(Label).decode

    def decode(self, record: Record) -> Label | Refusal:
        """Decode one record. Never raises: any bytes give a label or a refusal."""
        label = read_json(record.value, self._decode, bytes_max=self._value_bytes_max, faults=_label_faults)
        if type(label) is Refusal:
            return label
        assert isinstance(label, Label)
        return refuse_ts(label.ts) or label


_NESTED = (dict, list)
_decode_again = msgspec.json.Decoder(NullableEvent).decode


def _event_faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    """Yield the faults of a JSON object that should have been an event, top level first."""
    if "features" not in whole:
        yield _missing("features")
        return
    features = whole["features"]
    if not isinstance(features, dict):
        yield wrong_type("features", features, "an object of names and values")
        return
    if "id" in whole:
        yield from _id_faults(whole["id"], "a string")
    yield from _ts_faults(whole)
    for name, value in features.items():
        if value is None or type(value) in _NESTED:
            yield wrong_type(f"features.{name}", value, "a number, a string or a boolean")
    yield from leaf_faults(whole)


def _label_faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    """Yield the faults of a JSON object that should have been a label."""
    for field in ("id", "label"):
        if field not in whole:
            yield _missing(field)
            return
    yield from _id_faults(whole["id"], "a string, the id of the features that the label belongs to")
    yield from _ts_faults(whole)
    yield from leaf_faults(whole)


def _id_faults(found: Any, wanted: str) -> Iterator[Refusal]:
    if not isinstance(found, str):
        yield wrong_type("id", found, wanted)


def _ts_faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    if "ts" in whole and (isinstance(whole["ts"], bool) or not isinstance(whole["ts"], int)):
        yield wrong_type("ts", whole["ts"], "a whole number of milliseconds since 1970")


def _missing(field: str) -> Refusal:
    return Refusal("missing_field", "decode", f"the field `{field}` is missing", field)
