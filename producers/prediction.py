"""A prediction as the predictions topic and the HTTP sink get it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.producers.record_size import MessageHeaders

TRACE_HEADERS = frozenset({"traceparent", "tracestate", "baggage"})
"""W3C headers that are copied from a record to its prediction."""
BYTES_MAX = 900_000
"""The largest prediction in bytes; it must fit a topic with Kafka's default limit of a megabyte."""

REST_BYTES_MAX = 4_096
"""The most bytes of a prediction besides its id, its features and its classes."""
_NUMBER_BYTES_MAX = 32


class ModelVersion(msgspec.Struct, frozen=True):
    """The model that answered: its name, the number of its latest snapshot, and its generation.

    The generation counts the models of the partition that have answered.
    """

    name: str
    version: int
    generation: int = 1


class SourceRecord(msgspec.Struct, frozen=True):
    """The record that was answered. Consumers find duplicates by it."""

    topic: str
    partition: int
    offset: int


class PredictionForm(msgspec.Struct, frozen=True):
    """What predictions say: with `features`, also the features; and when a binary one is true.

    It is from a probability of `threshold` on; with None the model itself decides.
    """

    features: bool = False
    threshold: float | None = None

    def decide(self, prediction: Any, proba: Mapping[Any, Any] | None) -> Any:
        """Return the class for the probabilities of a binary model, as the threshold says."""
        if self.threshold is None or not proba:
            return prediction
        return bool(proba.get(True, 0.0) >= self.threshold)


class Prediction(msgspec.Struct, frozen=True):
    """The model's answer, made before it learned the record. `ts` is in milliseconds since 1970.

    `score` is that of an anomaly detector. `proba` is by class, or by target and then by class.
    """

    id: str
    prediction: Any
    model: ModelVersion
    source: SourceRecord
    ts: int
    score: float | msgspec.UnsetType | None = msgspec.UNSET
    proba: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    features: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


def _plain(value: Any) -> Any:
    # Some of River's models answer with numpy's scalars.
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a prediction can't be a {type(value).__name__}")


encode_plain = msgspec.json.Encoder(enc_hook=_plain).encode
"""Encode any JSON value, numpy's scalars included."""


def encode(
    *,
    id_: str,
    prediction: Any,
    proba: Mapping[Any, Any] | None,
    model: ModelVersion,
    source: SourceRecord,
    ts: int,
    score: float | msgspec.UnsetType | None = msgspec.UNSET,
    features: Mapping[str, Any] | None = None,
) -> bytes:
    """Encode a prediction as a JSON object. JSON has no NaN or infinity: such a number becomes null."""
    return encode_plain(
        Prediction(
            id_,
            prediction,
            model,
            source,
            ts,
            score,
            msgspec.UNSET if proba is None else by_name(proba),
            msgspec.UNSET if features is None else features,
        )
    )


def by_name(proba: Mapping[Any, Any]) -> dict[str, Any]:
    """Return probabilities by the names of their classes, or by target and then by class."""
    return {class_name(c): by_name(p) if isinstance(p, Mapping) else p for c, p in proba.items()}


def with_features(value: bytes, features: bytes) -> bytes:
    """Return an encoded prediction with encoded features as its last field."""
    return b'%s,"features":%s}' % (value[:-1], features)


def class_bytes_max(label: Any) -> int:
    """Return how many bytes a class adds to a prediction at most, with its probability and as the answer."""
    return 2 * (len(msgspec.json.encode(str(label))) + _NUMBER_BYTES_MAX)


def trace(headers: MessageHeaders | None) -> MessageHeaders | None:
    """Return a record's trace headers; None when it has none."""
    return [header for header in headers or () if header[0] in TRACE_HEADERS] or None


def class_name(label: Any) -> str:
    """Return the name of a class in `proba`: `true` or `false` for booleans, digits for whole numbers."""
    if label is True:
        return "true"
    if label is False:
        return "false"
    if type(label) is str:
        return label
    return class_name(label.item()) if hasattr(label, "item") else str(label)
