"""A prediction on its way out: the record that the predictions topic and the HTTP sink get."""

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.producers.record_size import MessageHeaders

TRACE_HEADERS = frozenset({"traceparent", "tracestate", "baggage"})
"""W3C headers that pass from a record to its prediction."""
BYTES_MAX = 900_000
"""A prediction must fit a topic with Kafka's default limit of a megabyte."""


class ModelVersion(msgspec.Struct, frozen=True):
    """Which model answered: its name, and the version (a snapshot's number) that it grew from."""

    name: str
    version: int


class SourceRecord(msgspec.Struct, frozen=True):
    """Where the record stood that was answered. Readers tell duplicates by it."""

    topic: str
    partition: int
    offset: int


class Prediction(msgspec.Struct, frozen=True):
    """What the model answered before it learned from the record. `ts` is milliseconds since 1970."""

    id: str
    prediction: Any
    model: ModelVersion
    source: SourceRecord
    ts: int
    proba: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def _plain(value: Any) -> Any:
    # numpy's scalars are what some of River's models answer with.
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a prediction can't be a {type(value).__name__}")


encode_plain = msgspec.json.Encoder(enc_hook=_plain).encode
"""Encode anything that JSON can hold, numpy's scalars among it."""


def encode(
    *, id_: str, prediction: Any, proba: Mapping[Any, Any] | None, model: ModelVersion, source: SourceRecord, ts: int
) -> bytes:
    """Encode a prediction as a JSON object. A number that is not finite becomes null, as JSON has none."""
    return encode_plain(
        Prediction(
            id_,
            prediction,
            model,
            source,
            ts,
            msgspec.UNSET if proba is None else {class_name(c): p for c, p in proba.items()},
        )
    )


def trace(headers: MessageHeaders | None) -> MessageHeaders | None:
    """Return the headers of a record that pass to its prediction, None for none."""
    return [header for header in headers or () if header[0] in TRACE_HEADERS] or None


def class_name(label: Any) -> str:
    """Name a class as `proba` has it: JSON's own words for booleans, digits for whole numbers, numpy's as well."""
    if label is True:
        return "true"
    if label is False:
        return "false"
    if type(label) is str:
        return label
    return class_name(label.item()) if hasattr(label, "item") else str(label)
