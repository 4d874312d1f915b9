"""Answers from the models in the store without a server: for `headrace ask` and the page, and for a few records."""

import time
from typing import Any

import msgspec

from headrace.consumers.record import RecordDecoder
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

_TRIES_MAX = 3


class StoreAnswers:
    """Answer from the newest models in the store. A model is loaded when it is asked for, and kept while it is newest.

    `decoder` reads the records, by default that of the topic in JSON. For one thread. Each call raises StoreAway,
    StoreRefused, ModelMissing, ModelMismatch, ModelError.
    """

    def __init__(self, config: Config, *, decoder: RecordDecoder | None = None, timeout_s: float | None = None) -> None:
        self._config = config
        self._hot = HotModels(clock=time.monotonic, partitioner=config.serve.partitioner, stale_max_s=None)
        self._hot.reason = f"the store has no model of {config.name}"
        self._store = open_store(config, timeout_s=timeout_s)
        self._loader = ModelLoader(config, self._store)
        decoder = decoder or assembly.json_decoder(config)
        self._predictor = Predictor(decoder, config.predictions.form, renew=self._forget)
        self._newest: dict[int, int] = {}

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
        self._look()
        return [self._answer(record) for record in asked.records]

    def _look(self) -> None:
        """Read which versions are the newest. The model of all workers is loaded at once."""
        now_s = time.monotonic()
        if self._config.model.scope == "global":
            self._hot.put(self._loader.mix(confirmed_s=now_s))
            return
        partitions = self._store.partitions()
        self._hot.know(max(partitions, default=-1) + 1)
        heads = zip(partitions, self._store.heads(partitions), strict=True)
        self._newest = {partition: head.version for partition, head in heads if head.version}
        self._hot.confirm(self._newest, now_s)

    def _forget(self, served: ServedModel) -> None:
        self._hot.models.pop(served.partition, None)

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
        if outcome.score:
            answer["score"] = _plain(outcome.score)
        return {**answer, "model": _plain(served.encode(time.monotonic(), self._config.serve.freshness))}

    def _choose(self, record: AskedRecord) -> ServedModel | Problem:
        scope = self._config.model.scope
        if scope == "global":
            return self._hot.choose(record)
        if scope == "key" and record.key is None:
            return Problem("missing_field", "the record has no key, and each key has a model of its own", "key")
        if record.key is None and record.partition < 0:
            record = msgspec.structs.replace(record, partition=self._most_learned())
        for _ in range(_TRIES_MAX):
            served = self._load(record)
            if not isinstance(served, KeyedModel) or record.key is None:
                return served
            if record.key in served.rows:
                return served if served.rows[record.key] is not None else served.newborn
            rows = self._loader.rows(served, [record.key])
            if not isinstance(rows, int):
                served.take([record.key], rows)
                return served if rows[0] is not None else served.newborn
            self._look()
        return Problem("busy", "the pipeline saves newer versions faster than they can be read: ask again")

    def _load(self, record: AskedRecord) -> ServedModel | Problem:
        """Return the newest model of a record's partition."""
        partition = self._hot.partition_of(record)
        if isinstance(partition, Problem):
            return partition
        loaded, newest = self._hot.models.get(partition), self._newest.get(partition)
        if newest is not None and (loaded is None or loaded.version != newest):
            before = self._hot.put(self._loader.newest(partition, newest, confirmed_s=time.monotonic()))
            if before is not None:
                self._loader.recycle(before)
        return self._hot.choose(record)

    def _most_learned(self) -> int:
        """Return the partition that has learned most."""
        learned = {partition: self._store.notes(partition) for partition in self._newest}
        return max(learned, key=lambda one: (learned[one][0]["learned"] if learned[one] else -1, -one), default=0)


def _plain(text: bytes) -> Any:
    """Parse JSON."""
    return msgspec.json.decode(text)


def _fields(text: bytes) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])
