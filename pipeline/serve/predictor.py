"""Predicts the records of one model: many as columns, in one call of the compiled machine, or one after the other.

The records are read as the stream reads them: by the scanner, or by the decoder where the scanner is not sure. No label
is given to the model, so it learns nothing.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.record import Event, Record, RecordDecoder, Skipped
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine.label_column import decided
from headrace.pipeline.engine.raised import refusal_of
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.producers.prediction import PredictionForm, by_name, class_name, encode_plain
from headrace.state.models.columns import Answers
from headrace.state.models.model import Anomaly, Model

# Up to this number of records, the columns cost more than they save: for a model that River runs singly, and for keys.
_FEW = 16
_FEW_OF_KEYS = 2
_NO_ID = b"null"
_TRUE, _FALSE = b"true", b"false"
_BOTH = frozenset((False, True))
_PAIR = b'{"false":%b,"true":%b}'
_VERDICTS = {1: _TRUE, 0: _FALSE, -1: b"null"}
# With more names or words, the scanner begins anew: clients may invent any number of them.
_NAMES_MAX = 8_192
_WORDS_MAX = 65_536


class Answered(NamedTuple):
    """The answer to one record, each part as JSON.

    `proba` is empty where the model has no probabilities, and `score` where it is no anomaly detector.
    """

    id: bytes
    prediction: bytes
    proba: bytes
    score: bytes = b""


# As Answered(*parts), without a call of Python for each.
_answer: Callable[[Iterable[bytes]], Answered] = partial(tuple.__new__, Answered)

PredictionOutcome = Answered | Refusal | Skipped


class Predictor:
    """Predict records of the topic that `decoder` reads, in the `form` of the topic's predictions.

    Of a model that River runs, the last `cache_max` answers are kept. `renew` is called with a model that has noted too
    many names of features, to have it loaded anew.
    """

    def __init__(
        self, decoder: RecordDecoder, form: PredictionForm, *, renew: Callable[[ServedModel], None], cache_max: int = 0
    ) -> None:
        self._decoder = decoder
        self._form = form
        self._renew = renew
        self._cache_max = cache_max
        self._scanner = Scanner(
            value_bytes_max=decoder.value_bytes_max,
            schema=decoder.schema,
            mapping=decoder.scans,
            names_max=_NAMES_MAX,
            words_max=_WORDS_MAX,
        )

    def predict(
        self, served: ServedModel, values: Sequence[bytes], keys: Sequence[bytes | None]
    ) -> list[PredictionOutcome]:
        """Return an outcome for each record. Never raises for what a record or the user's model does."""
        model = served.model
        if self._cache_max and not model.can.batches and not served.draws:
            return [self._cached(served, value, key) for value, key in zip(values, keys, strict=True)]
        if not model.can.batches or len(values) <= (_FEW_OF_KEYS if model.can.keys else _FEW):
            return [self._one(served, value, key) for value, key in zip(values, keys, strict=True)]
        generation = self._scanner.vocabulary.generation
        outcomes = self._many(model, values, keys)
        if self._scanner.vocabulary.generation != generation:
            self._renew(served)
        return outcomes

    def _cached(self, served: ServedModel, value: bytes, key: bytes | None) -> PredictionOutcome:
        """Return the answer that a record had before; a newer model has none yet."""
        cache = served.cache
        outcome: PredictionOutcome | None = cache.get((value, key))
        if outcome is None:
            outcome = cache[value, key] = self._one(served, value, key)
            if len(cache) > self._cache_max:
                del cache[next(iter(cache))]
        return outcome

    def _one(self, served: ServedModel, value: bytes, key: bytes | None) -> PredictionOutcome:
        event = self._decoder.decode(Record(0, 0, -1, key, value, None))
        if not isinstance(event, Event):
            return event
        model = copy.deepcopy(served.single) if served.draws else served.single
        served.strange.update(event.features)
        if len(served.strange) > _NAMES_MAX:
            served.strange.clear()
            self._renew(served)
        try:
            if model.can.keys:
                # As the stream does at the time of its last record: a key that was silent for too long is new.
                model.recall(key or b"")
            return self._answered(event, *model.predict(event.features, key or b""))
        except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything
            return refusal_of(error, prefix=self._decoder.feature_prefix)

    def _answered(self, event: Event, prediction: Any, proba: Mapping[Any, Any] | None) -> Answered:
        prediction = self._form.decide(prediction, proba)
        if type(prediction) is bool and proba is not None and proba.keys() == _BOTH:
            proba_json = _PAIR % (encode_plain(proba[False]), encode_plain(proba[True]))
            return Answered(_id(event), _TRUE if prediction else _FALSE, proba_json)
        named = b"" if proba is None else encode_plain(by_name(proba))
        if isinstance(prediction, Anomaly):
            return Answered(_id(event), encode_plain(prediction.verdict), named, encode_plain(prediction.score))
        return Answered(_id(event), encode_plain(prediction), named)

    def _many(self, model: Model, values: Sequence[bytes], keys: Sequence[bytes | None]) -> list[PredictionOutcome]:
        count = len(values)
        batch = RecordBatch(0, offsets=range(count), timestamps=[-1] * count, keys=keys, values=values)
        scan = self._scanner.scan(batch)
        columns, good = scan, None
        events: dict[int, Event] = {}
        outcomes: list[Any] = []
        if scan.slow.any() or scan.skipped.any():
            outcomes = [None] * count
            events = self._read(batch, scan, outcomes)
            good = np.array([at for at, outcome in enumerate(outcomes) if outcome is None], dtype=np.int64)
            columns = self._scanner.fill(scan, {at: event.features for at, event in events.items()}).only(good)
        places = range(count) if good is None else good.tolist()
        named = [keys[at] or b"" for at in places] if model.can.keys else ()
        answers = model.learn_batch(columns, np.full(len(places), np.nan), keys=named)
        assert answers is not None
        answers = decided(model, answers, self._form)
        ids = _ids(scan, events)
        lines = _encoded(model, answers)
        if good is None and not answers.fault.any():
            return list(map(_answer, zip(ids, *lines, strict=True)))
        outcomes = outcomes or [None] * count
        faults = answers.fault.tolist()
        for at, fault, *parts in zip(places, faults, *lines, strict=True):
            outcomes[at] = Answered(ids[at], *parts)
            if fault:
                error = model.fault(fault, self._features(batch, events, at))
                outcomes[at] = refusal_of(error, prefix=self._decoder.feature_prefix)
        return outcomes

    def _read(self, batch: RecordBatch, scan: Scan, outcomes: list[Any]) -> dict[int, Event]:
        """Decode the records of which the scanner is not sure; note those that have no features."""
        events: dict[int, Event] = {}
        for at in np.flatnonzero(scan.skipped).tolist():
            outcomes[at] = Skipped()
        for at in np.flatnonzero(scan.slow).tolist():
            found = self._decoder.decode(batch.record(at))
            if isinstance(found, Event):
                events[at] = found
            else:
                outcomes[at] = found
        return events

    def _features(self, batch: RecordBatch, events: Mapping[int, Event], at: int) -> dict[str, Any]:
        event = events.get(at) or self._decoder.decode(batch.record(at))
        assert isinstance(event, Event)
        return dict(event.features)


def _id(event: Event) -> bytes:
    return _NO_ID if event.id is msgspec.UNSET else msgspec.json.encode(event.id)


def _ids(scan: Scan, events: Mapping[int, Event]) -> list[bytes]:
    """Return the id of each record as JSON."""
    starts = scan.id_at
    if starts.max(initial=-1) < 0:
        found = [_NO_ID] * len(starts)
    else:
        text = scan.text.tobytes()
        pairs = zip(starts.tolist(), (starts + scan.id_size).tolist(), strict=True)
        found = [b'"%b"' % text[start:end] if start >= 0 else _NO_ID for start, end in pairs]
    for at, event in events.items():
        found[at] = _id(event)
    return found


def _encoded(model: Model, answers: Answers) -> Sequence[list[bytes]]:
    """Return the prediction and the probabilities of each answer, and the score of an anomaly detector's, as JSON."""
    nothing = [b""] * len(answers.value)
    if model.task == "regression":
        return _numbers(answers.value), nothing, nothing
    if model.task == "binary":
        chosen = [_TRUE if one else _FALSE for one in answers.chosen.tolist()]
        if not model.has_proba:
            return chosen, nothing, nothing
        pairs = zip(_numbers(1.0 - answers.value), _numbers(answers.value), strict=True)
        return chosen, list(map(_PAIR.__mod__, pairs)), nothing
    if model.task == "anomaly":
        verdicts = [_VERDICTS[one] for one in answers.chosen.tolist()]
        return verdicts, nothing, _numbers(answers.value)
    several = [_several(*model.answer(answers, at), has_proba=model.has_proba) for at in range(len(answers.value))]
    return [prediction for prediction, _ in several], [proba for _, proba in several], nothing


def _several(prediction: Any, proba: Mapping[Any, float] | None, *, has_proba: bool) -> tuple[bytes, bytes]:
    named = {class_name(label): p for label, p in (proba or {}).items()}
    return encode_plain(prediction), encode_plain(named) if has_proba else b""


def _numbers(values: Any) -> list[bytes]:
    """Return numbers as JSON; those that are not finite are null."""
    return msgspec.json.encode(values.tolist())[1:-1].split(b",") if len(values) else []
