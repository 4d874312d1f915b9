"""Many records at once: a whole batch as columns, where the model takes batches.

With a labels topic the answers to a run of features are columns, and labels are learned one after the other.

Values become columns, columns become answers, answers become the bytes that go out, each in one call. A record is
handled by itself only where it is refused, or where the scanner leaves it to the decoder. The outputs are those of the
engine that takes one record after the other, to the bit.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from headrace.consumers.fastjson import scan as scanning
from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.record import Event, Record, RecordDecoder, Skipped
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers import prediction, replay_proof
from headrace.producers.fastjson import encoder
from headrace.producers.fastjson.encoder import Encoder, Ids
from headrace.producers.output import PREDICTIONS, OutputRecords
from headrace.producers.prediction import PredictionForm
from headrace.state.compiled import program_runner
from headrace.state.event_time import StrayTime, StrayTimes
from headrace.state.models.columns import BOOLEAN, STRING, Answers
from headrace.state.models.learner import LabelError
from headrace.state.models.model import Answer, Model
from headrace.state.shard import Shard

# What a prediction has besides its id and its classes, and what a probability takes, in bytes, at most.
_REST_BYTES_MAX = 4_096
_NUMBER_BYTES_MAX = 32
_NO_LABEL = _NO_TIME = -1


class BatchScanner(Protocol):
    """Reads batches of a format other than JSON to columns."""

    def scan(self, batch: RecordBatch) -> Scan:
        """Read a batch; records that are not sure are slow."""


class ColumnarEngine:
    """Move shards forward over batches of `topic`, read as `decoder` does, on behalf of the pipeline `name`.

    For values that are no JSON, `binary` makes a scanner that shares the vocabulary of the scanner of JSON.
    """

    def __init__(
        self,
        *,
        decoder: RecordDecoder,
        topic: str,
        name: str,
        form: PredictionForm | None = None,
        binary: Callable[[Scanner], BatchScanner] | None = None,
    ) -> None:
        self._decoder = decoder
        self._form = form or PredictionForm()
        self._topic = topic
        self._is_default = decoder.scans is not None and decoder.scans.is_default
        self._scanner = Scanner(value_bytes_max=decoder.value_bytes_max, schema=decoder.schema)
        self._binary = None if binary is None else binary(self._scanner)
        self._encoder = Encoder(topic=topic, name=name)

    def run(
        self, shard: Shard, batch: RecordBatch, outputs: PartitionOutputs, *, now_ms: int, silent: bool
    ) -> dict[int, Refusal] | None:
        """Predict and learn a batch, and return why records of it are refused, by position.

        Returns None, with nothing changed, for a batch whose records go one by one.
        """
        model = shard.model
        scan = self._scan(batch.values) if self._binary is None else self._binary.scan(batch)
        refusals: dict[int, Refusal] = {}
        events, skipped = self._read(batch, scan, refusals)
        ids = _ids(scan, events)
        keys = _Keys(batch, scan, events, refusals.keys() | skipped) if model.can.keys else None
        labels = _Labels(model, len(batch), refusals, field=self._decoder.label_field)
        if not labels.read(scan, events):
            return None
        labels.withhold(self._learned_before(shard, batch))
        if keys is not None:
            keys.refuse(refusals)
        good = _others(len(batch), refusals.keys() | skipped)
        columns = self._scanner.fill(scan, {at: event.features for at, event in events.items()}).only(good)
        features = self._features(batch, events, good) if self._form.features else {}
        if _is_long(ids, [*model.classes, *labels.met], more=max(map(len, features.values()), default=0)):
            return None
        met: Mapping[str, Any] = {} if keys is None else keys.met(good)
        # The class that is chosen is scored, also where nobody reads it.
        unread = silent and model.task != "multiclass"
        answers = model.learn_batch(columns, labels.values[good], silent=unread, **met)
        if answers is None:
            return None
        if keys is not None:
            keys.note(model.ahead, shard.strays)
        answers = self._decided(model, answers)
        if answers.fault.any():
            good, answers = self._refuse_faults(batch, events, model, good, answers, refusals=refusals)
        records = OutputRecords(places=good)
        if not silent:
            lines = self._lines(shard, batch, answers, ids, good=good, features=features, now_ms=now_ms)
            records = _records(batch, good, lines)
        outputs.records[PREDICTIONS], outputs.labelled = records, labels.labelled[good]
        outputs.skipped = len(skipped)
        _score(shard, answers, labels.values[good])
        return refusals

    def answers_ahead(self, shard: Shard, records: Sequence[Record]) -> "AnswersAhead":
        """Predict a run of feature records in one call; records that are refused, or raise, have no answer."""
        model = shard.model
        scan = self._scan([record.value for record in records])
        found = {at: self._decoder.decode(records[at]) for at in np.flatnonzero(scan.slow).tolist()}
        events = {at: event.features for at, event in found.items() if isinstance(event, Event)}
        good = np.array([at for at in range(len(records)) if at not in found or at in events], dtype=np.int64)
        columns = self._scanner.fill(scan, events).only(good)
        answers = model.learn_batch(columns, np.full(len(good), np.nan))
        if answers is None:
            return AnswersAhead(shard, {})
        sound = np.flatnonzero(answers.fault == 0)
        offsets = [records[at].offset for at in good[sound].tolist()]
        return AnswersAhead(
            shard, {o: model.answer(answers, at) for o, at in zip(offsets, sound.tolist(), strict=True)}
        )

    def learn_values(self, shard: Shard, values: Sequence[bytes], labels: Sequence[Any]) -> list[Exception | None]:
        """Learn records that were predicted before, in one call; return the model's error where it raised.

        The `values` are what the decoder keeps of records, JSON of the default mapping.
        """
        model = shard.model
        scan = self._scanner.scan(values)
        slow = {at: self._decoder.features(values[at]) for at in np.flatnonzero(scan.slow).tolist()}
        numbers = np.array([model.label_number(label) for label in labels])
        answers = model.learn_batch(self._scanner.fill(scan, slow), numbers, silent=True)
        assert answers is not None
        faults = zip(answers.fault.tolist(), values, strict=True)
        return [model.fault(code, self._decoder.features(value)) if code else None for code, value in faults]

    def _learned_before(self, shard: Shard, batch: RecordBatch) -> Iterator[int]:
        """Yield the positions of records that a replay has sent, and that the model learned where they stood first."""
        for position, claim in enumerate(batch.headers or ()):
            if claim and replay_proof.is_claimed(claim):
                record = batch.record(position)
                if replay_proof.read(claim, secret=shard.secret, topic=self._topic, record=record).learned:
                    yield position

    def _scan(self, values: Sequence[bytes | None]) -> Scan:
        """Scan values; all of them are slow where the scanner does not know the mapping."""
        return self._scanner.scan(values if self._is_default else [None] * len(values))

    def _read(self, batch: RecordBatch, scan: Scan, refusals: dict[int, Refusal]) -> tuple[dict[int, Event], set[int]]:
        """Decode one by one the records that the scanner is not sure of; return the events, and what is skipped."""
        events: dict[int, Event] = {}
        skipped: set[int] = set()
        for position in np.flatnonzero(scan.slow).tolist():
            found = self._decoder.decode(batch.record(position))
            if isinstance(found, Event):
                events[position] = found
            elif isinstance(found, Skipped):
                skipped.add(position)
            else:
                refusals[position] = found
        return events, skipped

    def _features(self, batch: RecordBatch, events: Mapping[int, Event], good: Any) -> dict[int, bytes]:
        """Return the features of the good records as JSON, by position."""
        found = {}
        for at in good.tolist():
            event = events.get(at) or self._decoder.decode(batch.record(at))
            assert isinstance(event, Event)
            found[at] = msgspec.json.encode(event.features)
        return found

    def _refuse_faults(
        self,
        batch: RecordBatch,
        events: Mapping[int, Event],
        model: Model,
        good: Any,
        answers: Answers,
        *,
        refusals: dict[int, Refusal],
    ) -> tuple[Any, Answers]:
        """Refuse the records on which River would have raised; return the others and their answers."""
        fault = answers.fault
        for position, code in zip(good[fault != 0].tolist(), fault[fault != 0].tolist(), strict=True):
            event = events.get(position) or self._decoder.decode(batch.record(position))
            assert isinstance(event, Event)
            error = model.fault(code, event.features)
            words = f"the model raised {type(error).__name__}: {error}"
            refusals[position] = Refusal("learn_failed", "learn", words)
        sound = fault == 0
        return good[sound], Answers(*(None if column is None else column[sound] for column in answers))

    def _decided(self, model: Model, answers: Answers) -> Answers:
        """Return answers whose classes are those that the configured threshold gives, if there is one."""
        threshold = self._form.threshold
        if threshold is None or not model.has_proba:
            return answers
        return answers._replace(chosen=(answers.value >= threshold).astype(np.int8))

    def _lines(
        self,
        shard: Shard,
        batch: RecordBatch,
        answers: Answers,
        ids: Ids,
        *,
        good: Any,
        features: Mapping[int, bytes],
        now_ms: int,
    ) -> list[bytes]:
        """Encode the predictions of the good records."""
        ids = Ids(ids.text, ids.at[good], ids.size[good])
        place = {"offsets": _array(batch.offsets)[good], "version": shard.model_version, "ts": now_ms}
        lines = self._encode(shard.model, answers, ids, partition=shard.partition, **place)
        if not features:
            return lines
        return [prediction.with_features(line, features[at]) for line, at in zip(lines, good.tolist(), strict=True)]

    def _encode(self, model: Model, answers: Answers, ids: Ids, **place: Any) -> list[bytes]:
        if model.task == "regression":
            return self._encoder.number(ids, values=answers.value, **place)
        if model.task == "binary":
            proba = answers.value if model.has_proba else None
            return self._encoder.binary(ids, chosen=answers.chosen, proba=proba, **place)
        proba = answers.proba if model.has_proba else None
        return self._encoder.classes(
            ids, chosen=answers.value, proba=proba, known=answers.known, names=model.classes, **place
        )


class AnswersAhead:
    """The answers to records that are still to come, by offset: they hold until the model learns."""

    def __init__(self, shard: Shard, answers: Mapping[int, Answer]) -> None:
        self._counts, self._learned = shard.counts, shard.counts.learned
        self._answers = answers

    def get(self, offset: int) -> Answer | None:
        """Return the answer to a record, None where the model must be asked."""
        return self._answers.get(offset) if self._counts.learned == self._learned else None


class _Labels:
    """The labels of a batch as the learner takes them (`values`, NaN for none), and which records are `labelled`."""

    def __init__(self, model: Model, count: int, refusals: dict[int, Refusal], *, field: str) -> None:
        self._field = field
        self.values = np.full(count, np.nan)
        self.labelled = np.zeros(count, dtype=bool)
        self.met: set[Any] = set()
        self._model = model
        self._refusals = refusals

    def read(self, scan: Scan, events: Mapping[int, Event]) -> bool:
        """Take the labels, and refuse records whose label can't be learned; False where the order of labels matters."""
        kinds, found = scan.label_kinds, scan.label_values
        self.labelled = kinds != _NO_LABEL
        odd = self.labelled
        if self._model.task == "binary":
            odd = odd & ((kinds == STRING) | ((found != 0.0) & (found != 1.0)))
        elif self._model.task == "regression":
            odd = odd & ((kinds == STRING) | (kinds == BOOLEAN))
        plain = self.labelled & ~odd
        self.values[plain] = found[plain]
        words = scan.vocabulary.words
        odd_ones = {at: _raw(kinds[at], found[at], words) for at in np.flatnonzero(odd).tolist()}
        odd_ones.update({at: event.label for at, event in events.items() if event.label is not msgspec.UNSET})
        if self._model.task == "multiclass" and len({isinstance(raw, str) for raw in odd_ones.values()}) > 1:
            # Whether a class is of the right kind depends on which was learned first.
            return False
        for position in sorted(odd_ones):
            self._take(position, odd_ones[position])
        return True

    def withhold(self, positions: Iterable[int]) -> None:
        """Learn nothing of records that were learned where they stood first: replays of what only a sink refused."""
        for position in positions:
            self.values[position] = np.nan

    def _take(self, position: int, raw: Any) -> None:
        self.labelled[position] = True
        try:
            label = self._model.label(raw)
        except LabelError as error:
            self._refusals[position] = Refusal("bad_label", "validate", str(error), self._field)
            return
        self.values[position] = self._model.label_number(label)
        if self._model.task == "multiclass":
            self.met.add(label)


class _Keys:
    """The keys of a batch, each with a model of its own; a record without a key is to be refused."""

    def __init__(
        self,
        batch: RecordBatch,
        scan: Scan,
        events: Mapping[int, Event],
        left_out: Collection[int],
    ) -> None:
        self._offsets = batch.offsets
        self._keys = [key or b"" for key in batch.keys]
        times = scan.ts.copy()
        for position, event in events.items():
            times[position] = _NO_TIME if event.ts is msgspec.UNSET else event.ts
        logged = np.fromiter(batch.timestamps, np.int64, len(batch))
        self._keyless = []
        self._met = self._keys
        self._positions: Sequence[int] = range(len(batch))
        self._times = times, logged
        if left_out or None in batch.keys:
            # An empty key is a key.
            self._keyless = [at for at, key in enumerate(batch.keys) if key is None and at not in left_out]
            # A record whose label is refused has been seen as well.
            met = [at for at, key in enumerate(batch.keys) if key is not None and at not in left_out]
            self._met, self._positions = [self._keys[at] for at in met], met
            self._times = times[met], logged[met]

    def refuse(self, refusals: dict[int, Refusal]) -> None:
        """Refuse the records that have no key, whatever else is wrong with them."""
        refusals.update(dict.fromkeys(self._keyless, NO_KEY))

    def met(self, good: Any) -> Mapping[str, Any]:
        """Return what `learn_batch` is told of keys, where the good records are answered."""
        answered = None if len(good) == len(self._met) else np.searchsorted(self._positions, good)
        return {"keys": self._met, "answered": answered, "times": self._times}

    def note(self, ahead: Iterable[tuple[int, int]], strays: StrayTimes) -> None:
        """Note the records whose event time was not believed."""
        for place, ahead_ms in ahead:
            strays.note(StrayTime(self._offsets[self._positions[place]], ahead_ms))


def _raw(kind: int, value: float, words: Sequence[str]) -> Any:
    """Return a label as the decoder would have given it, as far as a learner can tell."""
    if kind == STRING:
        return words[int(value)]
    if kind == BOOLEAN:
        return bool(value)
    return int(value) if float(value).is_integer() else float(value)


def _array(offsets: Sequence[int]) -> Any:
    # numpy reads a range number by number.
    return np.arange(offsets.start, offsets.stop) if isinstance(offsets, range) else np.array(offsets, dtype=np.int64)


def _ids(scan: Scan, events: Mapping[int, Event]) -> Ids:
    """Return where the ids stand; the ids that the decoder read are put behind the text."""
    if not events:
        return Ids(scan.text, scan.id_at, scan.id_size)
    at, size, more = scan.id_at.copy(), scan.id_size.copy(), [scan.text]
    end = len(scan.text)
    for position, event in events.items():
        if event.id is msgspec.UNSET:
            at[position], size[position] = -1, 0
            continue
        quoted = np.frombuffer(msgspec.json.encode(event.id)[1:-1], dtype=np.uint8)
        at[position], size[position] = end, len(quoted)
        end += len(quoted)
        more.append(quoted)
    return Ids(np.concatenate(more), at, size)


def _is_long(ids: Ids, classes: Iterable[Any], *, more: int) -> bool:
    """Return whether a prediction may exceed its bound: then each is measured before its record is learned.

    `classes` are those of the model, and those that the batch may teach it. `more` bytes are added to a prediction.
    """
    size = sum(len(msgspec.json.encode(str(label))) + _NUMBER_BYTES_MAX for label in classes)
    longest = int(ids.size.max(initial=0))
    return longest + 2 * size + more + _REST_BYTES_MAX > prediction.BYTES_MAX


def _others(count: int, left_out: Collection[int]) -> Any:
    """Return the other positions of a batch."""
    if not left_out:
        return np.arange(count)
    good = np.ones(count, dtype=bool)
    good[list(left_out)] = False
    return np.flatnonzero(good)


def _records(batch: RecordBatch, good: Any, lines: list[Any]) -> OutputRecords:
    """Return the predictions of the good records with the keys of those, and the headers that pass on."""
    positions = good.tolist() if len(good) < len(batch) else range(len(batch))
    keys = [batch.keys[position] for position in positions] if len(good) < len(batch) else list(batch.keys)
    records = OutputRecords(keys, lines, places=good)
    if batch.headers is not None:
        for place, position in enumerate(positions):
            if (passed := prediction.trace(batch.headers[position])) is not None:
                records.headers[place] = passed
    return records


def _score(shard: Shard, answers: Answers, truths: Any) -> None:
    """Count the labels that were learned, and score the answers to them."""
    known = ~np.isnan(truths)
    truths = truths[known]
    shard.counts.learned += len(truths)
    if shard.model.task == "regression":
        # As Python's own numbers, these grow to infinity and say nothing of it.
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(answers.value[known] - truths)
            shard.score_all(errors[errors < np.inf])
    elif shard.model.task == "binary":
        shard.score_all((answers.chosen[known] == truths).astype(np.float64))
    else:
        chosen = answers.value[known]
        shard.score_all((chosen == truths)[chosen >= 0].astype(np.float64))


def warm(*, machine: bool = True) -> None:
    """Compile what batches run, or load what another process has compiled; models by key do not need the `machine`."""
    for part in (scanning, program_runner, encoder) if machine else (scanning, encoder):
        part.warm()
