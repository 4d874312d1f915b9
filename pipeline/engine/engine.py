"""The engine: what happens to a record. It has no Kafka, no Redis and no clock in it.

decode → join labels → predict → encode → learn, one record after the other; each record is handled, skipped, or refused
with its reason. Where the model takes batches, `columnar` does the same for many records at once.
`run` and the tests host this same engine, so a bug that is reproduced here is the bug.

Relearning after a restart runs the same steps and drops the outputs: predictions, model and counts come out as they did
the first time, because nothing here depends on when it happens.
"""

import operator
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from headrace.consumers.record import (
    LabelDecoder,
    LabelRecord,
    LabelRecordDecoder,
    Record,
    RecordDecoder,
    Skipped,
)
from headrace.consumers.record_batch import RecordBatch, Records, keys_of
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine import shadows
from headrace.pipeline.engine.dead_letter import DeadLetter, shortened
from headrace.pipeline.engine.interleaved import InterleavedEngine
from headrace.pipeline.engine.join import LabelsStep
from headrace.pipeline.engine.lifecycle import Lifecycle
from headrace.pipeline.engine.outputs import EncodePrediction, PartitionOutputs
from headrace.pipeline.engine.pairs import Given
from headrace.pipeline.engine.prepared_record import PreparedRecord
from headrace.pipeline.engine.raised import refusal_of
from headrace.pipeline.engine.record_steps import RecordSteps
from headrace.producers import prediction, replay_proof
from headrace.producers.output import DEAD_LETTERS, PREDICTIONS, OutputRecords
from headrace.producers.prediction import PredictionForm
from headrace.producers.record_size import SizeLimits
from headrace.state.shard import Shard
from headrace.state.store.store_errors import STORE_ERRORS

if TYPE_CHECKING:
    # It imports numba, which takes its time, and which not every machine has.
    from headrace.pipeline.engine.columnar import ColumnarEngine


# To lay out columns takes as long as to handle this number of records one by one.
_FEW_RECORDS = 2


class Engine:
    """Move shards forward over records of `topic`, and of the topic `labels`, on behalf of the pipeline `name`.

    The outputs fit `limits`, which may be replaced: they decide what goes out, and never what is learned. `outputs` are
    the names of the outputs that have a topic. Predictions have the `form`; `encode` makes them of another format from
    their JSON. `lifecycle` is what happens to the models between the records.
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
        lifecycle: Lifecycle | None = None,
    ) -> None:
        self._encode = encode
        self.lifecycle = lifecycle or Lifecycle()
        self._feature_prefix = decoder.feature_prefix
        self._topic = topic
        self._labels = labels
        self._name = name
        self._columnar = columnar
        self.limits = limits or SizeLimits()
        self._outputs = outputs
        self._join = LabelsStep(decoder=decoder, label_decoder=label_decoder or LabelDecoder())
        form = form or PredictionForm()
        self._steps = RecordSteps(decoder=decoder, join=self._join, form=form, topic=topic, name=name)
        self._interleaved = None
        if columnar is not None:
            self._interleaved = InterleavedEngine(steps=self._steps, join=self._join, columnar=columnar)

    def run(self, shard: Shard, records: Records, *, now_ms: int, silent: bool = False) -> PartitionOutputs:
        """Predict and learn a batch in the order given; the shard stands behind its last record afterwards.

        With `silent` nobody reads the outputs, so they may be missing.
        """
        learned_before, place = shard.counts.learned, 0
        outputs: PartitionOutputs | None = None
        for piece in self.lifecycle.pieces(shard, records):
            found = self._run(shard, piece, now_ms=now_ms, silent=silent)
            if outputs is None:
                outputs = found
            else:
                outputs.extend(found, first=place)
                outputs.source = records
            place += len(piece)
        assert outputs is not None
        outputs.learned = shard.counts.learned - learned_before
        outputs.replayed = 0 if silent else self._replayed(shard, records)
        shard.trim()
        if not silent:
            if self._encode is not None:
                outputs.encode(self._encode)
            self.apply_limits(shard, outputs)
        return outputs

    def _run(self, shard: Shard, records: Records, *, now_ms: int, silent: bool) -> PartitionOutputs:
        """Predict and learn records between which nothing else is done to the models."""
        outputs = PartitionOutputs(shard.partition, {name: OutputRecords() for name in self._outputs}, source=records)
        # A copy of a shared model is loaded now: only then is it known whether it takes batches.
        shard.model.fetch(())
        if not self._run_columns(shard, records, outputs, now_ms=now_ms, silent=silent):
            self._run_each(shard, records, outputs, now_ms=now_ms)
        return outputs

    def _replayed(self, shard: Shard, records: Records) -> int:
        """Count the records that a replay has sent."""
        if isinstance(records, RecordBatch):
            claims = enumerate(records.headers or ())
            records = [records.record(at) for at, claim in claims if claim and replay_proof.is_claimed(claim)]
        return sum(self._claim(shard, record).count > 0 for record in records if record.headers)

    def _claim(self, shard: Shard, record: Record) -> replay_proof.ReplayClaim:
        """Return the claims of the replay that has sent a record."""
        topic = self._labels if type(record) is LabelRecord else self._topic
        return replay_proof.read(record.headers, secret=shard.secret, topic=topic, record=record)

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
        """Take one record after the other, or many at once where the join and the model can."""
        model = self._steps.version(shard)
        # One round trip to the store for the models of all keys, instead of one for each record.
        shard.fetch(key for key in keys_of(records) if key is not None)
        outputs.source = records = records.records() if isinstance(records, RecordBatch) else records
        singly = self._interleaved is None or not self._interleaved.takes(shard)
        place = 0
        while place < len(records):
            outcomes: list[Skipped | Refusal | None] = []
            if not singly and len(records) - place > _FEW_RECORDS:
                assert self._interleaved is not None
                outcomes, singly = self._interleaved.run(shard, records, place, outputs, now_ms=now_ms)
            if not outcomes:
                outcomes = [self._one(shard, records[place], outputs, model, now_ms=now_ms)]
            for outcome in outcomes:
                self._note_outcome(shard, records[place], place, outcome, outputs)
                place += 1

    def _note_outcome(
        self, shard: Shard, record: Record, place: int, outcome: Skipped | Refusal | None, outputs: PartitionOutputs
    ) -> None:
        """Count the outcome of a record, None for a good one, and move the shard behind it."""
        if isinstance(outcome, Refusal):
            self._refuse(shard, record, outcome, outputs)
        if type(record) is LabelRecord:
            outputs.labels += outcome is None
            shard.advance(-1, record.offset + 1)
            return
        counts = shard.counts
        counts.records += 1
        if outcome is None:
            counts.predictions += 1
            outputs.places.append(place)
        elif isinstance(outcome, Skipped):
            counts.skipped += 1
            outputs.skipped += 1
        else:
            counts.dead_letters += 1
        shard.advance(record.offset + 1)

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
        replay = self._claim(shard, record)
        dead_letter = DeadLetter(record, refusal, topic, self._name, replay.count, learned or replay.learned)
        outputs.dead_letters.append(shortened(dead_letter, self.limits.of(DEAD_LETTERS)))

    def _one(
        self, shard: Shard, record: Record, outputs: PartitionOutputs, model: prediction.ModelVersion, *, now_ms: int
    ) -> Skipped | Refusal | None:
        """Handle one record of either topic: return None for a good one, that it is skipped, or why it is refused."""
        if type(record) is LabelRecord:
            return self._join.take(shard, record, outputs.delays_ms)
        prepared = self._steps.prepare(shard, record)
        if not isinstance(prepared, PreparedRecord):
            return prepared
        # A function of the user's own may change the features in its hands; an undo learns them as they came.
        given, key, label = prepared.event.features, record.key or b"", prepared.label_for(shard.model)
        features = given.copy()
        try:
            answer, proba = shard.model.predict(given, key, label=prepared.truth)
            answer = self._steps.form.decide(answer, proba)
            value = self._steps.encode(prepared, answer, proba, model=model, now_ms=now_ms, features=features)
            # Less what is another in each run: a relearning must come to the same verdict.
            size = len(value) - len(f"{model.version}{now_ms}")
            if size <= prediction.BYTES_MAX and label is not None:
                shard.model.learn(given, label, key)
        except STORE_ERRORS:
            # No fault of the record's: the model itself could not be loaded.
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything, and none of it may stop the stream
            shard.model.undo(key)
            return refusal_of(error, prefix=self._feature_prefix)
        if size > prediction.BYTES_MAX:
            shard.model.undo(key)
            return Refusal("too_large", "learn", f"its prediction would have {len(value)} bytes")
        shard.model.keep(features, label, key)
        self._steps.done(shard, prepared, value, answer, outputs, proba=proba, version=model.version)
        served = Given(answer, proba)
        others = shadows.take(shard, prepared, features, served=served, form=self._steps.form) if shard.shadows else {}
        if shard.labels is not None:
            answers = shadows.answers_for_entry(shard, served, others)
            self._join.note(shard, prepared, kept=self._steps.keep(prepared, features), answer=answers)
        return None
