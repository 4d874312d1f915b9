"""A feature record on its way in: from a message's bytes to an event, or to a refusal with its reason.

First stop of every record. A good record is decoded and checked by one typed pass in C; only a bad one
takes the slow road that finds out which field is wrong and how to say so.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from headrace.consumers.refusal import Refusal, leaf_faults, read_json, refuse_ts, wrong_type
from headrace.consumers.schema import Schema

RecordHeaders = Sequence[tuple[str, bytes | None]]

VALUE_BYTES_MAX = 262_144
"""Default bound of a record's value, in bytes. A feature record of this size has thousands of features."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as Kafka holds it. Times are milliseconds since 1970; `offset` counts within `partition`."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders | None


class LabelRecord(Record, frozen=True, gc=False):
    """One message of the labels topic."""


def record_of(message: Any, kind: type[Record], headers: RecordHeaders | None) -> Record:
    """Take a client's message, whose headers were asked for already."""
    return kind(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
    )


class Event(msgspec.Struct, frozen=True):
    """A decoded feature record: the features that the model gets, and the label when it came along."""

    features: dict[str, int | float | str | bool]
    id: str | msgspec.UnsetType = msgspec.UNSET
    ts: int | msgspec.UnsetType = msgspec.UNSET
    label: Any = msgspec.UNSET


class NullableEvent(Event, frozen=True):
    """An event in which the schema lets some features be null; the model gets None for them."""

    features: dict[str, int | float | str | bool | None]  # type: ignore[assignment]


class Decoder:
    """Turn records into events, or into refusals that say what is wrong.

    `value_bytes_max` bounds the value in bytes. With a schema, features are checked against it as well.
    """

    def __init__(self, *, schema: Schema | None = None, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.schema = schema
        self.value_bytes_max = value_bytes_max
        kind = NullableEvent if schema is not None and schema.nullable else Event
        self._decode = msgspec.json.Decoder(kind).decode

    def decode(self, record: Record) -> Event | Refusal:
        """Decode one record. Never raises: whatever the bytes are, the answer is an event or a refusal."""
        return self.read(record.value)

    def read(self, value: bytes | None) -> Event | Refusal:
        """Decode a record's value, as `decode` does."""
        event = read_json(value, self._decode, bytes_max=self.value_bytes_max, faults=_faults)
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
        """Decode the features of a value that was an event before, whatever the schema says by now."""
        return _decode_again(value).features


_NESTED = (dict, list)
_decode_again = msgspec.json.Decoder(NullableEvent).decode


def _faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    """Yield what is wrong with a JSON object that should have been an event, top level first."""
    if "features" not in whole:
        yield Refusal("missing_field", "decode", "the field `features` is missing", "features")
        return
    features = whole["features"]
    if not isinstance(features, dict):
        yield wrong_type("features", features, "an object of names and values")
        return
    if "id" in whole and not isinstance(whole["id"], str):
        yield wrong_type("id", whole["id"], "a string")
    if "ts" in whole and (isinstance(whole["ts"], bool) or not isinstance(whole["ts"], int)):
        yield wrong_type("ts", whole["ts"], "a whole number of milliseconds since 1970")
    for name, value in features.items():
        if value is None or type(value) in _NESTED:
            yield wrong_type(f"features.{name}", value, "a number, a string or a boolean")
    yield from leaf_faults(whole)
