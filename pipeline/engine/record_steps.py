"""The steps of a feature record before the model answers and behind: its label, and the bytes of the prediction.

The engine takes them for one record after the other; `interleaved` takes the first ones of a whole batch at once.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.consumers.record import Event, Record, RecordDecoder, Skipped
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.pipeline.engine import shadows
from headrace.pipeline.engine.join import LabelsStep
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.engine.prepared_record import PreparedRecord
from headrace.producers import prediction, replay_proof
from headrace.producers.prediction import PredictionForm
from headrace.state.event_time import StrayTime
from headrace.state.models.label import LabelError
from headrace.state.models.model import Anomaly
from headrace.state.shard import Shard


class RecordSteps:
    """Prepare records of `topic`, and encode their predictions on behalf of the pipeline `name`."""

    def __init__(
        self, *, decoder: RecordDecoder, join: LabelsStep, form: PredictionForm, topic: str, name: str
    ) -> None:
        self._decoder = decoder
        self._join = join
        self.form = form
        self._topic = topic
        self._name = name

    def version(self, shard: Shard) -> prediction.ModelVersion:
        """Return the model that answers now."""
        return prediction.ModelVersion(self._name, shard.model_version, shard.history.generation)

    def prepare(self, shard: Shard, record: Record) -> PreparedRecord | Skipped | Refusal:
        """Decode a record, let its time pass, and find its label; or return that it is skipped, or refused."""
        event = self._decoder.decode(record)
        if not isinstance(event, Event):
            return event
        replay = replay_proof.read(record.headers, secret=shard.secret, topic=self._topic, record=record)
        id_ = f"{self._topic}-{record.partition}-{record.offset}" if event.id is msgspec.UNSET else event.id
        if shard.model.can.keys and record.key is None:
            return NO_KEY
        self._pass_time(shard, record, event)
        has_label, label = event.label is not msgspec.UNSET, None
        try:
            if has_label:
                label = shard.model.label(event.label)
        except LabelError as error:
            return Refusal("bad_label", "validate", str(error), self._decoder.label_field)
        if replay.learned:
            # A replay of what only a sink refused: the model has learned it where it stood first.
            label = None
        if shard.labels is not None:
            label = self._join.truth(shard, shard.labels, id_, label)
        return PreparedRecord(
            record, event, id_, label, replay.learned or has_label, has_label, withheld=replay.learned
        )

    def _pass_time(self, shard: Shard, record: Record, event: Event) -> None:
        """Note the time of a record, and of its key."""
        if shard.model.can.keys and record.key is not None:
            ts = None if event.ts is msgspec.UNSET else event.ts
            ahead_ms = shard.model.meet(record.key, ts, record.timestamp_ms)
            # With a labels topic the join notes it.
            if ahead_ms and shard.labels is None:
                shard.strays.note(StrayTime(record.offset, ahead_ms))
        if shard.shadows:
            shadows.meet(shard, shard.shadows, record, event.ts)
        if shard.labels is not None:
            self._join.pass_time(shard, record, event.ts)

    def encode(
        self,
        prepared: PreparedRecord,
        answer: Any,
        proba: Mapping[Any, Any] | None,
        *,
        model: prediction.ModelVersion,
        now_ms: int,
        features: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return the prediction of a record as JSON; `features` are those that the model was given."""
        record, scored = prepared.record, isinstance(answer, Anomaly)
        return prediction.encode(
            id_=prepared.id,
            prediction=answer.verdict if scored else answer,
            score=answer.score if scored else msgspec.UNSET,
            proba=proba,
            model=model,
            source=prediction.SourceRecord(self._topic, record.partition, record.offset),
            ts=now_ms,
            features=features if self.form.features else None,
        )

    def keep(self, prepared: PreparedRecord, features: Mapping[str, Any]) -> bytes:
        """Return the bytes that are kept of a record while its features wait for a label."""
        return self._decoder.keep(prepared.record, features)

    def done(
        self,
        shard: Shard,
        prepared: PreparedRecord,
        value: bytes,
        answer: Any,
        outputs: PartitionOutputs,
        *,
        proba: Mapping[Any, Any] | None,
        version: int,
    ) -> None:
        """Score the answer if its label is there, and add the prediction to the outputs."""
        is_learned = prepared.label_for(shard.model) is not None
        shard.counts.learned += is_learned
        if prepared.truth is not None:
            shard.answering.score(answer, prepared.truth, version, proba)
        record = prepared.record
        outputs.predictions.add(record.key, value, prediction.trace(record.headers))
        outputs.labelled.append(is_learned or shard.labels is not None or prepared.has_label)
