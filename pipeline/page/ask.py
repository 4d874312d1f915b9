"""Asks the model from the page, as `headrace ask` does: the running server, or the newest model in the store."""

import time
from typing import Any

import msgspec

from headrace.consumers.mapped_decoder import MappedDecoder
from headrace.consumers.record import Event, Record, RecordDecoder
from headrace.pipeline import assembly
from headrace.pipeline.config.config import Config
from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.serve.model_client import ModelClient

_FIELDS_MAX = 200


class AskRefused(HintedError):
    """Raised when a question can't be answered; `code` and `field` are those that a dead letter would have."""

    def __init__(self, message: str, *, hint: str, code: str = "", field: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.field = field


class Asker:
    """Answers questions to the model of one pipeline. A read of the store may take `store_s` seconds."""

    def __init__(self, config: Config, *, store_s: float) -> None:
        self._config = config
        self._client = ModelClient(config, decoder=_untransformed(config), store_s=store_s)

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

    def answer(self, features: dict[str, Any], *, key: str | None) -> dict[str, Any]:
        """Return a prediction, the model and the offset behind it, and the record that was asked about.

        Raises AskRefused, AnswerRefused, ModelMissing, ModelMismatch, ModelError and the errors of the store.
        """
        body = msgspec.json.encode(_nested(self._config.records.features, features))
        began = time.monotonic()
        told = self._client.ask(body, None if key is None else key.encode())
        took_ms = (time.monotonic() - began) * 1_000
        answer = told.answers[0]
        if (error := answer.get("error")) is not None:
            raise AskRefused(
                error["detail"], hint="change the field and ask again", code=error["code"], field=error["field"]
            )
        if answer.get("skipped"):
            raise AskRefused("records like this are skipped", hint="fill in the features")
        return {**answer, "by": told.by, "took_ms": round(took_ms, 3)}


def _untransformed(config: Config) -> RecordDecoder | None:
    """Return a decoder for features that a function has made already; None if no function transforms records."""
    if not config.records.transform:
        return None
    schema = assembly.json_decoder(config).schema
    return MappedDecoder(config.records.mapping, schema=schema, value_bytes_max=config.records.value_bytes_max)


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
