"""The engine: what happens to a record. It has no Kafka, no Redis and no clock in it.

decode → join labels → predict → encode → learn, one record after the other; each record is handled, skipped, or refused
with its reason. Where the model takes batches, `columnar` does the same for many records at once.
`run` and the tests host this same engine, so a bug that is reproduced here is the bug.

Relearning after a restart runs the same steps and drops the outputs: predictions, model and counts come out as they did
the first time, because nothing here depends on when it happens.
"""

import operator
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.consumers.record import (
    Event,
    LabelDecoder,
    LabelRecord,
    LabelRecordDecoder,
    Record,
    RecordDecoder,
    Skipped,
)
from headrace.consumers.record_batch import RecordBatch, Records, keys_of
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.pipeline.engine import shadows
from headrace.pipeline.engine.dead_letter import DeadLetter, shortened
from headrace.pipeline.engine.join import LabelsStep
from headrace.pipeline.engine.outputs import EncodePrediction, PartitionOutputs
from headrace.producers import prediction, replay_proof
from headrace.producers.output import DEAD_LETTERS, PREDICTIONS, OutputRecords
from headrace.producers.prediction import PredictionForm
from headrace.producers.record_size import SizeLimits
from headrace.state.event_time import StrayTime
from headrace.state.models.learner import LabelError
from headrace.state.models.model import Answer
from headrace.state.shard import Shard
from headrace.state.store.store_errors import STORE_ERRORS

if TYPE_CHECKING:
    # It imports numba, which takes its time, and which not every machine has.
    from headrace.pipeline.engine.columnar import AnswersAhead, ColumnarEngine


# To lay out columns takes as long as to handle this number of records one by one.
_FEW_RECORDS = 2


class Engine:
    """Move shards forward over records of `topic`, and of the topic `labels`, on behalf of the pipeline `name`.

    The outputs fit `limits`, which may be replaced: they decide what goes out, and never what is learned. `outputs` are
    the names of the outputs that have a topic. Predictions have the `form`; `encode` makes them of another format from
    their JSON.
    """

    def __init__(
        self,
        *,
        decoder: RecordDecoder,
        topic: str,
        name: str,
        labels: str = "",
        label_decoder: LabelRecordDecoder | None = None,
        columnar: "ColumnarEngine | None" = None,
        limits: SizeLimits | None = None,
        outputs: Collection[str] = (PREDICTIONS, DEAD_LETTERS),
        form: PredictionForm | None = None,
        encode: EncodePrediction | None = None,
    ) -> None:
        self._encode = encode
        self._decoder = decoder
        self._form = form or PredictionForm()
        self._topic = topic
        self._labels = labels
        self._name = name
        self._columnar = columnar
        self.limits = limits or SizeLimits()
        self._outputs = outputs
        self._join = LabelsStep(decoder=decoder, label_decoder=label_decoder or LabelDecoder())

    def run(self, shard: Shard, records: Records, *, now_ms: int, silent: bool = False) -> PartitionOutputs:
        """Predict and learn a batch in the order given; the shard stands behind its last record afterwards.

        With `silent` nobody reads the outputs, so they may be missing.
        """
        outputs = PartitionOutputs(shard.partition, {name: OutputRecords() for name in self._outputs}, source=records)
        learned_before = shard.counts.learned
        # A copy of a shared model is loaded now: only then is it known whether it takes batches.
        shard.model.fetch(())
        if not self._run_columns(shard, records, outputs, now_ms=now_ms, silent=silent):
            self._run_each(shard, records, outputs, now_ms=now_ms)
        outputs.learned = shard.counts.learned - learned_before
        shard.trim()
        if not silent:
            if self._encode is not None:
                outputs.encode(self._encode)
            self.apply_limits(shard, outputs)
        return outputs

    def _run_columns(
        self, shard: Shard, records: Records, outputs: PartitionOutputs, *, now_ms: int, silent: bool
    ) -> bool:
        """Take a batch as columns; return False, with nothing changed, for one whose records go one by one."""
        columnar = self._columnar
        if not isinstance(records, RecordBatch) or columnar is None or len(records) <= _FEW_RECORDS:
            return False
        if shard.labels is not None or not shard.model.can.batches:
            return False
        refusals = columnar.run(shard, records, outputs, now_ms=now_ms, silent=silent)
        if refusals is None:
            return False
        for position in sorted(refusals):
            self._refuse(shard, records.record(position), refusals[position], outputs)
        counts = shard.counts
        counts.records += len(records)
        counts.predictions += len(outputs.places)
        counts.dead_letters += len(refusals)
        counts.skipped += outputs.skipped
        shard.advance(records.offsets[-1] + 1)
        return True

    def _run_each(self, shard: Shard, records: Records, outputs: PartitionOutputs, *, now_ms: int) -> None:
        """Take one record after the other."""
        model, counts = prediction.ModelVersion(self._name, shard.model_version), shard.counts
        # One round trip to the store for the models of all keys, instead of one for each record.
        shard.fetch(key for key in keys_of(records) if key is not None)
        outputs.source = records = records.records() if isinstance(records, RecordBatch) else records
        runs_to, is_done, ahead = 0, False, None
        for place, record in enumerate(records):
            if place >= runs_to:
                runs_to, is_done, ahead = self._begin_run(shard, records, place, outputs)
            if is_done:
                continue
            if type(record) is LabelRecord:
                self._one_label(shard, record, outputs)
                continue
            outcome = self._one(shard, record, outputs, model, now_ms=now_ms, ahead=ahead)
            counts.records += 1
            if outcome is None:
                counts.predictions += 1
                outputs.places.append(place)
            elif isinstance(outcome, Skipped):
                counts.skipped += 1
                outputs.skipped += 1
            else:
                counts.dead_letters += 1
                self._refuse(shard, record, outcome, outputs)
            shard.advance(record.offset + 1)

    def _begin_run(
        self, shard: Shard, records: Sequence[Record], start: int, outputs: PartitionOutputs
    ) -> "tuple[int, bool, AnswersAhead | None]":
        """Do at once what can be done for the run of records of one topic that begins here.

        Returns the place of its end, whether it is done, as labels are, and the answers to features.
        """
        kind = type(records[start])
        end = start + sum(1 for _ in takewhile(lambda one: type(one) is kind, islice(records, start, None)))
        columnar, labels, can = self._columnar, shard.labels, shard.model.can
        if columnar is None or labels is None or not can.batches or can.keys or end - start <= _FEW_RECORDS:
            return end, False, None
        run = records[start:end]
        if kind is not LabelRecord:
            return end, False, columnar.answers_ahead(shard, run)
        if labels.default is not None:
            return end, False, None
        good, refusals = self._join.take_run(shard, run, outputs.delays_ms, learn=columnar.learn_values)
        for position in sorted(refusals):
            self._refuse(shard, run[position], refusals[position], outputs)
        outputs.labels += good
        shard.advance(-1, run[-1].offset + 1)
        return end, True, None

    def withdraw(self, shard: Shard, outputs: PartitionOutputs, refused: Mapping[int, str]) -> None:
        """Make dead letters of the predictions that the HTTP sink refused, given by position with its words."""
        self._withdraw(shard, outputs, {at: Refusal("sink_refused", "sink", words) for at, words in refused.items()})

    def apply_limits(self, shard: Shard, outputs: PartitionOutputs) -> bool:
        """Make the outputs fit the limits of their topics; return whether anything had to change.

        A prediction that is too large becomes a dead letter, and a dead letter loses what there is no room for. The
        model stays as it is: the limits may be others when the same records are relearned.
        """
        limits = self.limits
        if outputs.limits == limits:
            return False
        outputs.limits = limits
        room = limits.of(PREDICTIONS)
        large = outputs.predictions.larger_than(room)
        words = f"their topic takes {room} (max.message.bytes)"
        refusals = {
            at: Refusal("too_large", "sink", f"its prediction, with key and headers, has {size} bytes; {words}")
            for at, size in large.items()
        }
        self._withdraw(shard, outputs, refusals)
        dead_letters = [shortened(dead_letter, limits.of(DEAD_LETTERS)) for dead_letter in outputs.dead_letters]
        changed = bool(large) or any(map(operator.is_not, dead_letters, outputs.dead_letters))
        outputs.lay_out(dead_letters)
        return changed

    def _withdraw(self, shard: Shard, outputs: PartitionOutputs, refusals: Mapping[int, Refusal]) -> None:
        """Make dead letters of predictions, given by position.

        Where the model has learned a record already, or will when its label comes, the dead letter says so.
        """
        if not refusals:
            return
        for position, refusal in refusals.items():
            learned = bool(outputs.labelled[position])
            self._refuse(shard, outputs.origin(position), refusal, outputs, learned=learned)
        outputs.leave_out(refusals)
        outputs.lay_out(outputs.dead_letters)
        shard.counts.predictions -= len(refusals)
        shard.counts.dead_letters += len(refusals)

    def _refuse(
        self, shard: Shard, record: Record, refusal: Refusal, outputs: PartitionOutputs, *, learned: bool = False
    ) -> None:
        """Make a dead letter of a record."""
        topic = self._labels if type(record) is LabelRecord else self._topic
        replay = replay_proof.read(record.headers, secret=shard.secret, topic=topic, record=record)
        dead_letter = DeadLetter(record, refusal, topic, self._name, replay.count, learned or replay.learned)
        outputs.dead_letters.append(shortened(dead_letter, self.limits.of(DEAD_LETTERS)))

    def _one(
        self,
        shard: Shard,
        record: Record,
        outputs: PartitionOutputs,
        model: prediction.ModelVersion,
        *,
        now_ms: int,
        ahead: "AnswersAhead | None",
    ) -> Skipped | Refusal | None:
        """Handle one record: append its prediction and learn, or return that it is skipped, or why it is refused."""
        event = self._decoder.decode(record)
        if not isinstance(event, Event):
            return event
        replay = replay_proof.read(record.headers, secret=shard.secret, topic=self._topic, record=record)
        id_ = self._id(record, event)
        if shard.model.can.keys:
            if record.key is None:
                return NO_KEY
            ts = None if event.ts is msgspec.UNSET else event.ts
            ahead_ms = shard.model.meet(record.key, ts, record.timestamp_ms)
            # With a labels topic the join notes it.
            if ahead_ms and shard.labels is None:
                shard.strays.note(StrayTime(record.offset, ahead_ms))
        if shard.shadows:
            shadows.meet(shard, shard.shadows, record, event.ts)
        if shard.labels is not None:
            self._join.pass_time(shard, record, event.ts)
        try:
            label = own = self._label(shard, event, learned=replay.learned)
        except LabelError as error:
            return Refusal("bad_label", "validate", str(error), self._decoder.label_field)
        if shard.labels is not None:
            label = self._join.truth(shard, shard.labels, id_, own)
        return self._answer(
            shard,
            record,
            event,
            outputs,
            model,
            id_=id_,
            label=label,
            learned=replay.learned,
            now_ms=now_ms,
            known=None if ahead is None else ahead.get(record.offset),
        )

    def _answer(
        self,
        shard: Shard,
        record: Record,
        event: Event,
        outputs: PartitionOutputs,
        model: prediction.ModelVersion,
        *,
        id_: str,
        label: Any,
        learned: bool,
        now_ms: int,
        known: Answer | None,
    ) -> Refusal | None:
        """Predict, encode, and learn the label if there is one; return why the record is refused where that fails."""
        # A function of the user's own may change the features in its hands; an undo learns them as they came.
        features, key = event.features.copy(), record.key or b""
        try:
            answer, proba = known or shard.model.predict(event.features, key)
            answer = self._form.decide(answer, proba)
            value = prediction.encode(
                id_=id_,
                prediction=answer,
                proba=proba,
                model=model,
                source=self._source(record),
                ts=now_ms,
                features=features if self._form.features else None,
            )
            # Less what is another in each run: a relearning must come to the same verdict.
            size = len(value) - len(f"{model.version}{now_ms}")
            if size <= prediction.BYTES_MAX and label is not None:
                shard.model.learn(event.features, label, key)
        except STORE_ERRORS:
            # No fault of the record's: the model itself could not be loaded.
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything, and none of it may stop the stream
            shard.model.undo(key)
            return Refusal("learn_failed", "learn", f"the model raised {type(error).__name__}: {error}")
        if size > prediction.BYTES_MAX:
            shard.model.undo(key)
            return Refusal("too_large", "learn", f"its prediction would have {len(value)} bytes")
        shard.model.keep(features, label, key)
        if label is not None:
            shard.counts.learned += 1
            shard.answering.score(answer, label, model.version)
        others = shadows.take(shard, event, features, label, record.key, form=self._form) if shard.shadows else {}
        if shard.labels is not None:
            labelled = learned or event.label is not msgspec.UNSET
            kept, sent = self._decoder.keep(record, features), shadows.answers_for_entry(shard, answer, others)
            self._join.note(shard, record, event, id_, kept=kept, answer=sent, labelled=labelled, label=label)
        outputs.predictions.add(record.key, value, prediction.trace(record.headers))
        outputs.labelled.append(label is not None or shard.labels is not None or event.label is not msgspec.UNSET)
        return None

    def _one_label(self, shard: Shard, record: Record, outputs: PartitionOutputs) -> None:
        outcome = self._join.take(shard, record, outputs.delays_ms)
        if outcome is None:
            outputs.labels += 1
        elif not isinstance(outcome, Skipped):
            self._refuse(shard, record, outcome, outputs)
        shard.advance(-1, record.offset + 1)

    def _label(self, shard: Shard, event: Event, *, learned: bool) -> Any:
        if event.label is msgspec.UNSET:
            return None
        label = shard.model.label(event.label)
        # A replay of what only a sink refused: the model has learned it where it stood first.
        return None if learned else label

    def _source(self, record: Record) -> prediction.SourceRecord:
        return prediction.SourceRecord(self._topic, record.partition, record.offset)

    def _id(self, record: Record, event: Event) -> str:
        if event.id is msgspec.UNSET:
            return f"{self._topic}-{record.partition}-{record.offset}"
        return event.id
