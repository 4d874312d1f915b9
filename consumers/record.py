"""Decodes records: from a message's bytes to an event or a label, or to a refusal with its reason.

The first step for every record. One typed pass in C decodes and checks a good record; only for a bad one a slow search
finds the wrong field and the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from headrace.consumers.mapping import RecordMapping
from headrace.consumers.refusal import Refusal, leaf_faults, read_json, refuse_ts, wrong_type
from headrace.consumers.schema import Schema
from headrace.consumers.timestamp import UNITS, read_time, refuse_time

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


class _RawEvent(Event, frozen=True):
    """An event whose id is JSON text, of any type, and whose time may have a fraction or be a text."""

    id: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]
    ts: int | float | str | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


class _RawNullableEvent(NullableEvent, frozen=True):
    """An event with nulls whose id is JSON text, of any type, and whose time may have a fraction or be a text."""

    id: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]
    ts: int | float | str | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


class _RawLabel(Label, frozen=True, kw_only=True, gc=False):
    """A label whose id is JSON text, of any type, and whose time may have a fraction or be a text."""

    id: msgspec.Raw  # type: ignore[assignment]
    ts: int | float | str | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


class _Kept(msgspec.Struct, frozen=True):
    """The features of a value that is kept until its label comes."""

    features: dict[str, int | float | str | bool | None]


class Skipped(msgspec.Struct, frozen=True):
    """The outcome of a record that has nothing to predict from, such as a delete: it is only counted."""


SKIPPED = Skipped()


class RecordDecoder(Protocol):
    """Decodes the records of the features topic, in one format and with one mapping.

    `scans` is the mapping by which a scanner of JSON may read the same values, and None if only the decoder can. In
    reasons `label_field` names the field of the label, and `feature_prefix` stands before the name of a feature.
    """

    schema: Schema | None
    value_bytes_max: int
    scans: RecordMapping | None
    label_field: str
    feature_prefix: str

    def decode(self, record: Record) -> "Event | Skipped | Refusal":
        """Decode one record. Never raises."""

    def keep(self, record: Record, features: Mapping[str, Any]) -> bytes:
        """Return the bytes that are kept of a record while its features, as they were decoded, wait for a label.

        They are always JSON of the default mapping, so that reading them needs no schema, header or transform.
        """

    def features(self, kept: bytes) -> dict[str, Any]:
        """Return the features from the bytes that `keep` returned, even if the schema has changed since."""


class LabelRecordDecoder(Protocol):
    """Decodes the records of the labels topic. `label_field` names the field of the label in reasons."""

    label_field: str

    def decode(self, record: Record) -> "Label | Skipped | Refusal":
        """Decode one record. Never raises."""


class Decoder:
    """Decode JSON records of the default mapping to events, or to refusals with the reason.

    `value_bytes_max` is the limit of the value in bytes. With a schema, features are checked against it as well.
    """

    def __init__(self, *, schema: Schema | None = None, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.schema = schema
        self.value_bytes_max = value_bytes_max
        mapping = RecordMapping()
        self.scans: RecordMapping | None = mapping
        self.label_field, self.feature_prefix = "label", mapping.feature_prefix
        is_nullable = schema is not None and schema.nullable
        self._decode = _of_any_form(*((NullableEvent, _RawNullableEvent) if is_nullable else (Event, _RawEvent)))

    def decode(self, record: Record) -> Event | Refusal:
        """Decode one record. Never raises: any bytes give an event or a refusal."""
        event = read_json(record.value, self._decode, bytes_max=self.value_bytes_max, faults=_event_faults)
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

    def keep(self, record: Record, features: Mapping[str, Any]) -> bytes:  # noqa: ARG002 other decoders keep them
        """Return the record's value: all of it can be read again."""
        assert record.value is not None
        return record.value

    def features(self, kept: bytes) -> dict[str, Any]:
        """Decode the features of a value that was an event before, even if the schema has changed since."""
        return features_of(kept)


class LabelDecoder:
    """Decode JSON records `{"id": …, "label": …, "ts": …}` of the labels topic, or return the reason of a refusal.

    `value_bytes_max` is the limit of the value in bytes. The model decides later which labels it can learn.
    """

    def __init__(self, *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.label_field = "label"
        self._value_bytes_max = value_bytes_max
        self._decode = _of_any_form(Label, _RawLabel)

    def decode(self, record: Record) -> Label | Refusal:
        """Decode one record. Never raises: any bytes give a label or a refusal."""
        label = read_json(record.value, self._decode, bytes_max=self._value_bytes_max, faults=_label_faults)
        if type(label) is Refusal:
            return label
        assert isinstance(label, Label)
        return refuse_ts(label.ts) or label


def kept_features(features: Mapping[str, Any]) -> bytes:
    """Return features as a JSON object of the default mapping."""
    return msgspec.json.encode({"features": features})


def features_of(kept: bytes) -> dict[str, Any]:
    """Decode the features of a JSON object of the default mapping that was checked before."""
    return _decode_again(kept).features


_NESTED = (dict, list)
_FIRST_OF_PLAIN = b"-0123456789tf"
_decode_again = msgspec.json.Decoder(_Kept).decode
_decode_text = msgspec.json.Decoder(str).decode


def _of_any_form(kind: type[Event | Label], raw_kind: type[Event | Label]) -> Callable[[bytes], Any]:
    """Return a decoder of `kind`, which takes an id of any plain type and a time of any form.

    An id that is a number or a boolean is its JSON text. A time that is a text or has a fraction becomes whole
    milliseconds. Both are rare, so the value is decoded a second time only if the first time fails.
    """
    decode, decode_raw = msgspec.json.Decoder(kind).decode, msgspec.json.Decoder(raw_kind).decode

    def read(value: bytes) -> Any:
        try:
            return decode(value)
        except msgspec.DecodeError:
            raw = decode_raw(value)
            fields = msgspec.structs.asdict(raw)
            if raw.ts is not msgspec.UNSET:
                fields["ts"] = read_time(raw.ts, "ms")
                if fields["ts"] is None:
                    raise
            # An id that is not there is no text.
            if text := bytes(raw.id):  # type: ignore[arg-type]
                fields["id"] = text.decode() if text[0] in _FIRST_OF_PLAIN else _decode_text(text)
            else:
                fields["id"] = msgspec.UNSET
            return kind(**fields)

    return read


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
        yield from _id_faults(whole["id"], "a string, a number or a boolean")
    yield from _ts_faults(whole)
    for name, value in features.items():
        if value is None or type(value) in _NESTED:
            yield wrong_type(f"features.{name}", value, "a number, a string or a boolean")
    yield from leaf_faults(_without_plain_id(whole))


def _label_faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    """Yield the faults of a JSON object that should have been a label."""
    for field in ("id", "label"):
        if field not in whole:
            yield _missing(field)
            return
    wanted = "a string, a number or a boolean: the id of the features that the label belongs to"
    yield from _id_faults(whole["id"], wanted)
    yield from _ts_faults(whole)
    yield from leaf_faults(_without_plain_id(whole))


def _id_faults(found: Any, wanted: str) -> Iterator[Refusal]:
    if not isinstance(found, str | int | float):
        yield wrong_type("id", found, wanted)


def _without_plain_id(whole: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without its id, if that is a number: as a text it may have any number of digits."""
    is_number = isinstance(whole.get("id"), int | float)
    return {name: value for name, value in whole.items() if name != "id"} if is_number else whole


def _ts_faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    found = whole.get("ts", 0)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        yield wrong_type("ts", found, UNITS["ms"])
    elif isinstance(found, str) and read_time(found, "ms") is None:
        yield refuse_time(found, "ms", "ts")


def _missing(field: str) -> Refusal:
    return Refusal("missing_field", "decode", f"the field `{field}` is missing", field)
