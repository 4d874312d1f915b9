"""Answers from the models in the store without a server: for `headrace ask`, once and for a few records."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.consumers.refusal import Refusal
from headrace.pipeline import assembly
from headrace.pipeline.config.config import Config
from headrace.pipeline.serve.http.problem import Problem, of_refusal
from headrace.pipeline.serve.models.hot_models import HotModels
from headrace.pipeline.serve.models.model_loader import KeyedModel, ModelLoader
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.predictor import Answered, Predictor
from headrace.pipeline.serve.request_body import AskedRecord, BodyReader
from headrace.pipeline.storage import open_store


class StoreAnswers:
    """The newest models in the store. Raises StoreAway, StoreRefused, ModelMissing, ModelMismatch, ModelError."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hot = HotModels(clock=time.monotonic, partitioner=config.serve.partitioner, stale_max_s=None)
        store = open_store(config)
        self._loader = ModelLoader(config, store)
        self._predictor = Predictor(assembly.json_decoder(config), config.predictions.form, renew=lambda _: None)
        self._hot.reason = f"the store has no model of {config.name}"
        if config.model.scope == "global":
            self._hot.put(self._loader.mix(confirmed_s=time.monotonic()))
            return
        partitions = store.partitions()
        self._hot.know(max(partitions, default=-1) + 1)
        for partition, head in zip(partitions, store.heads(partitions), strict=True):
            if head.version:
                self._hot.put(self._loader.newest(partition, head.version, confirmed_s=time.monotonic()))

    def ask(self, body: bytes, key: bytes | None) -> list[dict[str, Any]]:
        """Return an answer, or an `error`, for each record of a body."""
        config = self._config
        reader = BodyReader(
            config.records.mapping,
            is_transformed=bool(config.records.transform),
            has_key="key" in config.schema_.features,
        )
        asked = reader.read(body, is_lines=False, key=key)
        if isinstance(asked, Problem):
            return [_fields(asked.item())]
        return [self._answer(record) for record in asked.records]

    def _answer(self, record: AskedRecord | Problem) -> dict[str, Any]:
        served = self._choose(record) if isinstance(record, AskedRecord) else record
        if isinstance(served, Problem):
            return _fields(served.item())
        assert isinstance(record, AskedRecord)
        [outcome] = self._predictor.predict(served, [record.value], [record.key])
        if isinstance(outcome, Refusal):
            return _fields(of_refusal(outcome).item())
        if not isinstance(outcome, Answered):
            return {"skipped": True}
        answer = {"id": _plain(outcome.id), "prediction": _plain(outcome.prediction)}
        if outcome.proba:
            answer["proba"] = _plain(outcome.proba)
        return {**answer, "model": _plain(served.encode(time.monotonic(), self._config.serve.freshness))}

    def _choose(self, record: AskedRecord) -> ServedModel | Problem:
        served = self._hot.choose(record)
        if not isinstance(served, KeyedModel):
            return served
        if record.key is None:
            return Problem(
                "missing_field", "the record has no key, and each key has a model: name it with --key", "key"
            )
        rows: Sequence[bytes | None] | int = self._loader.rows(served, [record.key])
        if isinstance(rows, int):
            return Problem("busy", "the pipeline has saved a newer version meanwhile: ask again")
        served.take([record.key], rows)
        return served if rows[0] is not None else served.newborn


def _plain(text: bytes) -> Any:
    """Parse JSON."""
    return msgspec.json.decode(text)


def _fields(text: bytes) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])
