"""Asks the model from the page: the newest one in the store, through the loader that everybody uses."""

import threading
import time
from typing import Any

import msgspec

from headrace.consumers.mapped_decoder import MappedDecoder
from headrace.consumers.partitioner import murmur2
from headrace.consumers.record import Event, Record, RecordDecoder
from headrace.consumers.refusal import Refusal
from headrace.pipeline import assembly, model_factory
from headrace.pipeline.config.config import Config
from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.storage import open_store
from headrace.producers.prediction import class_name, encode_plain
from headrace.state.loaded_model import LoadedModel

_KEPT_MAX = 64
_STORE_S = 3.0
_FIELDS_MAX = 200


class AskRefused(HintedError):
    """Raised when a question can't be answered; `code` and `field` are those that a dead letter would have."""

    def __init__(self, message: str, *, hint: str, code: str = "", field: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.field = field


class Asker:
    """Answers questions to the model of one pipeline. It keeps loaded models until the store has newer ones."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = open_store(config, timeout_s=min(config.redis.timeout, _STORE_S))
        self._decoder = _json_decoder(config)
        self._models: dict[tuple[int, bytes], tuple[int, LoadedModel]] = {}
        self._lock = threading.Lock()

    def form(self, last: Record | None) -> dict[str, Any]:
        """Return the fields of a form: declared features, and those of the last record that was read."""
        declared = self._config.schema_.features
        fields: dict[str, dict[str, Any]] = {
            name: {"type": feature.type, "required": feature.required, "values": feature.values, "value": None}
            for name, feature in declared.items()
        }
        event = None if last is None else assembly.decoder(self._config).decode(last)
        if isinstance(event, Event):
            for name, value in list(event.features.items())[:_FIELDS_MAX]:
                known = fields.setdefault(name, {"type": _kind(value), "required": False, "values": None})
                known["value"] = value
        key = None if last is None or last.key is None else last.key.decode(errors="replace")
        return {"fields": fields, "key": key, "extra": self._config.schema_.extra, "scope": self._config.model.scope}

    def answer(self, features: dict[str, Any], *, key: str | None, partitions: int) -> dict[str, Any]:
        """Return a prediction, and the model that made it, with the next offset that it would learn.

        Raises AskRefused, ModelMissing, ModelMismatch, ModelError and the errors of the store.
        """
        event = self._checked(features)
        with self._lock:
            model, partition, began = self._load(key, partitions), None, time.monotonic()
        try:
            answer, proba = model.predict(event)
        except Exception as error:
            raise AskRefused(
                f"the model raised {type(error).__name__}: {error}",
                hint="a record with these features would become a dead letter",
                code="predict_failed",
            ) from error
        took_ms = (time.monotonic() - began) * 1_000
        partition = next(iter(model.offsets), None) if len(model.offsets) == 1 else None
        told: dict[str, Any] = msgspec.json.decode(
            encode_plain(
                {
                    "prediction": self._config.predictions.form.decide(answer, proba),
                    "proba": None if proba is None else {class_name(label): share for label, share in proba.items()},
                    "model": {
                        "name": self._config.name,
                        "version": model.version,
                        "partition": partition,
                        "offsets": {str(number): offset for number, offset in model.offsets.items()},
                    },
                    "took_ms": round(took_ms, 3),
                }
            )
        )
        return told

    def _checked(self, features: dict[str, Any]) -> dict[str, Any]:
        """Return features as the decoder of the topic gives them. Raises AskRefused."""
        value = msgspec.json.encode(_nested(self._config.records.features, features))
        record = Record(0, 0, time.time_ns() // 1_000_000, None, value, None)
        event = self._decoder.decode(record)
        if isinstance(event, Refusal):
            raise AskRefused(
                event.message, hint="change the field and ask again", code=event.code, field=event.field or ""
            )
        if not isinstance(event, Event):
            raise AskRefused("records like this are skipped", hint="fill in the features")
        return dict(event.features)

    def _load(self, key: str | None, partitions: int) -> LoadedModel:
        """Return the model for a key; without one, that of the partition that has learned most."""
        scope, packed = self._config.model.scope, b"" if key is None else key.encode()
        if scope == "key" and not packed:
            raise AskRefused(
                'with model.scope = "key" each key has a model of its own',
                hint="fill in the key",
                field="key",
                code="missing_field",
            )
        if scope == "global":
            return model_factory.load_model(self._config, self._store)
        partition = murmur2(packed) % max(1, partitions) if packed else self._most_learned()
        version, place = self._store.version(partition), (partition, packed if scope == "key" else b"")
        known = self._models.get(place)
        if known is not None and known[0] == version:
            return known[1]
        model = model_factory.load_model(self._config, self._store, partition=partition, key=packed)
        while len(self._models) >= _KEPT_MAX:
            self._models.pop(next(iter(self._models)))
        self._models[place] = version, model
        return model

    def _most_learned(self) -> int:
        learned = {number: self._store.notes(number) for number in self._store.partitions()}
        return max(learned, key=lambda number: learned[number][0]["learned"] if learned[number] else -1, default=0)


def _json_decoder(config: Config) -> RecordDecoder:
    """Return the decoder of questions. They are JSON in every format of the topic, and no function transforms them."""
    decoder = assembly.json_decoder(config)
    if not config.records.transform:
        return decoder
    return MappedDecoder(config.records.mapping, schema=decoder.schema, value_bytes_max=config.records.value_bytes_max)


def _nested(path: str, features: dict[str, Any]) -> dict[str, Any]:
    """Return features as an object at the path where records have them."""
    whole: Any = features
    for name in reversed([name for name in path.split(".") if name]):
        whole = {name: whole}
    return dict(whole)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string"
