"""Many records at once: a whole batch as columns, where the model takes batches.

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
from headrace.consumers.record import Event, RecordDecoder, Skipped
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine.key_column import KeyColumn
from headrace.pipeline.engine.label_column import LabelColumn, answers_of, decided, score
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.engine.raised import refusal_of
from headrace.pipeline.engine.shadow_batch import ShadowBatch
from headrace.producers import prediction, replay_proof
from headrace.producers.fastjson import encoder
from headrace.producers.fastjson.encoder import Encoder, Ids
from headrace.producers.output import PREDICTIONS, OutputRecords
from headrace.producers.prediction import PredictionForm
from headrace.state.compiled import program_runner
from headrace.state.models.columns import Answers
from headrace.state.models.model import Model
from headrace.state.shard import Shard


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
        self._scanner = Scanner(value_bytes_max=decoder.value_bytes_max, schema=decoder.schema, mapping=decoder.scans)
        self._binary = None if binary is None else binary(self._scanner)
        self._encoder = Encoder(topic=topic, name=name)

    def run(
        self, shard: Shard, batch: RecordBatch, outputs: PartitionOutputs, *, now_ms: int, silent: bool
    ) -> dict[int, Refusal] | None:
        """Predict and learn a batch, and return why records of it are refused, by position.

        Returns None, with nothing changed, for a batch whose records go one by one.
        """
        model, refusals = shard.model, dict[int, Refusal]()
        scan = self._scanner.scan(batch) if self._binary is None else self._binary.scan(batch)
        events, skipped = self._read(batch, scan, refusals)
        ids, undecoded = _ids(scan, events), refusals.keys() | skipped
        keys = KeyColumn(batch, scan, events, undecoded) if model.can.keys else None
        labels = LabelColumn(model, len(batch), refusals, field=self._decoder.label_field)
        if not labels.read(scan, events):
            return None
        labels.withhold(self._learned_before(shard, batch))
        if keys is not None:
            keys.refuse(refusals)
        good = columned = _others(len(batch), refusals.keys() | skipped)
        columns = self._scanner.fill(scan, {at: event.features for at, event in events.items()}).only(good)
        features = self._features(batch, events, good) if self._form.features else {}
        if _is_long(ids, [*model.classes, *labels.met], more=max(map(len, features.values()), default=0)):
            return None
        met: Mapping[str, Any] = {} if keys is None else keys.met(good)
        answers = answers_of(shard.answering, columns, labels.taught[good], silent=silent, **met)
        if answers is None:
            return None
        if keys is not None:
            keys.note(model.ahead, shard.strays)
        answers = decided(model, answers, self._form)
        good, answers = self._refuse_faults(batch, events, model, good, answers, refusals=refusals)
        outputs.records[PREDICTIONS] = OutputRecords(places=good)
        if not silent:
            lines = self._lines(shard, batch, answers, ids, good=good, features=features, now_ms=now_ms)
            outputs.records[PREDICTIONS] = _records(batch, good, lines)
        outputs.labelled, outputs.skipped = labels.labelled[good], len(skipped)
        shard.counts.learned += int(np.count_nonzero(~np.isnan(labels.taught[good])))
        score(shard.answering, answers, labels.values[good], shard.model_version)
        if shard.shadows:
            told = {"undecoded": undecoded, "served": answers, "truths": labels.values[good]}
            seen = ShadowBatch(shard, batch, scan, events, withheld=labels.withheld, **told)
            seen.take(columns, columned, good, silent=silent, decoder=self._decoder, form=self._form)
        return refusals

    def learn_rows(self, shard: Shard, values: Sequence[bytes], labels: Sequence[Any]) -> Answers:
        """Predict rows, then learn those with a label, up to the first one on which the model raises.

        The `values` are what the decoder keeps of records, JSON of the default mapping. A label is None for none, and
        an `Unlabelled` teaches a model that learns without. The rows from that one on have a fault.
        """
        model = shard.model
        scan = self._scanner.scan_kept(values)
        slow = {at: self._decoder.features(values[at]) for at in np.flatnonzero(scan.slow).tolist()}
        numbers = np.array([np.nan if label is None else model.label_number(label) for label in labels])
        answers = model.learn_batch(self._scanner.fill(scan, slow), numbers, halts=True)
        assert answers is not None
        return answers

    def _learned_before(self, shard: Shard, batch: RecordBatch) -> Iterator[int]:
        """Yield the positions of records that a replay has sent, and that the model learned where they stood first."""
        for position, claim in enumerate(batch.headers or ()):
            if claim and replay_proof.is_claimed(claim):
                record = batch.record(position)
                if replay_proof.read(claim, secret=shard.secret, topic=self._topic, record=record).learned:
                    yield position

    def _read(self, batch: RecordBatch, scan: Scan, refusals: dict[int, Refusal]) -> tuple[dict[int, Event], set[int]]:
        """Decode one by one the records that the scanner is not sure of; return the events, and what is skipped."""
        events: dict[int, Event] = {}
        skipped = set(np.flatnonzero(scan.skipped).tolist())
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
        if not fault.any():
            return good, answers
        for position, code in zip(good[fault != 0].tolist(), fault[fault != 0].tolist(), strict=True):
            event = events.get(position) or self._decoder.decode(batch.record(position))
            assert isinstance(event, Event)
            error = model.fault(code, event.features)
            refusals[position] = refusal_of(error, prefix=self._decoder.feature_prefix)
        return good[fault == 0], answers.only(fault == 0)

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
        place["generation"] = shard.history.generation
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
        if model.task == "anomaly":
            return self._encoder.anomaly(ids, verdicts=answers.chosen, scores=answers.value, **place)
        proba = answers.proba if model.has_proba else None
        names, chosen, order = model.classes, answers.value, answers.order
        if order is not None:
            # All keys together may know far more classes than these records.
            used, found = np.unique(np.append(order, chosen), return_inverse=True)
            used, found = (used[1:], found - 1) if used[:1] == -1 else (used, found)
            names = [names[int(number)] for number in used]
            order, chosen = found[: order.size].reshape(order.shape), found[order.size :]
        return self._encoder.classes(
            ids, chosen=chosen, proba=proba, known=answers.known, names=names, order=order, **place
        )


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
    size = prediction.REST_BYTES_MAX + sum(map(prediction.class_bytes_max, classes))
    return int(ids.size.max(initial=0)) + size + more > prediction.BYTES_MAX


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


def warm() -> None:
    """Compile what batches run, or load what another process has compiled."""
    for part in (scanning, program_runner, encoder):
        part.warm()
