"""A batch of features and labels in one call of the model.

Labels come between the records that they do not belong to, so that runs of one topic are short, and a call of the
model for each run costs far more than its arithmetic. So the join first takes the whole batch, as if no record made the
model raise. Then the model predicts, or learns, all of it in the order of the records.

If the model raises on a record, it stops there. The join then returns to its state before the batch and takes the
records before that one again; the engine takes the rest one by one. The outcome is the same, to the bit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.consumers.record import LabelRecord, Record, Skipped
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine.join import LabelsStep, MatchedLabel
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.engine.prepared_record import PreparedRecord
from headrace.pipeline.engine.record_steps import RecordSteps
from headrace.producers import prediction
from headrace.state.labels.join_entry import Entry, plain
from headrace.state.shard import Shard
from headrace.state.shard_model import MODEL

if TYPE_CHECKING:
    # It imports numba, which takes its time, and which not every machine has.
    from headrace.pipeline.engine.columnar import ColumnarEngine

# JSON writes a character as six bytes at most.
_ESCAPED_BYTES_MAX = 6


class PredictedRecord(NamedTuple):
    """Features that are predicted with a row; the `entry` waits for their label, None if none is waited for."""

    prepared: PreparedRecord
    entry: Entry | None
    row: int


class LearnedLabel(NamedTuple):
    """A label that is learned with a row, or that only scores."""

    matched: MatchedLabel


Step = PredictedRecord | LearnedLabel | Skipped | Refusal | None
"""What happens to a record; None is a good label that teaches the model nothing."""


class Plan(NamedTuple):
    """What happens to the records of a batch, and the rows for the model.

    A row has the kept bytes of features, what is learned with them, None to predict only, and the place of its record.
    """

    steps: list[Step]
    values: list[bytes]
    labels: list[Any]
    places: list[int]


class InterleavedEngine:
    """Move a shard with a labels topic forward over batches of both topics."""

    def __init__(self, *, steps: RecordSteps, join: LabelsStep, columnar: "ColumnarEngine") -> None:
        self._steps = steps
        self._join = join
        self._columnar = columnar

    def takes(self, shard: Shard) -> bool:
        """Tell whether this shard's batches can be planned.

        A default label is learned when a wait ends, between the records. Models by key note the time of each record.
        Shadows learn one record after the other. With its features a prediction may have any size, which
        decides whether its record is learned.
        """
        can, labels = shard.model.can, shard.labels
        alone = not shard.shadows and shard.answering.name == MODEL
        planned = alone and labels is not None and labels.default is None and not self._steps.form.features
        return planned and can.batches and not can.keys

    def run(
        self, shard: Shard, records: Sequence[Record], first: int, outputs: PartitionOutputs, *, now_ms: int
    ) -> tuple[list[Skipped | Refusal | None], bool]:
        """Handle the records from the place `first` on, up to one that must be handled by itself.

        Returns the outcome of each record, None for a good one, and whether the model raised on the next one.
        """
        labels, strays = shard.labels, (shard.strays.count, shard.strays.first)
        assert labels is not None
        labels.begin()
        plan = self._plan(shard, records[first:])
        answers = self._columnar.learn_rows(shard, plan.values, plan.labels)
        raised = next((row for row, fault in enumerate(answers.fault.tolist()) if fault), None)
        if raised is not None:
            labels.rollback()
            shard.strays.count, shard.strays.first = strays
            labels.begin()
            plan = self._plan(shard, records[first : first + plan.places[raised]])
        labels.commit()
        version = self._steps.version(shard)
        for step in plan.steps:
            if isinstance(step, LearnedLabel):
                shard.counts.learned += not shard.model.can.unlabelled
                self._join.score(shard, step.matched, outputs.delays_ms)
            elif isinstance(step, PredictedRecord):
                answer, proba = shard.model.answer(answers, step.row)
                answer = self._steps.form.decide(answer, proba)
                value = self._steps.encode(step.prepared, answer, proba, model=version, now_ms=now_ms)
                if step.entry is not None:
                    step.entry.answer = plain(answer)
                self._steps.done(shard, step.prepared, value, answer, outputs, proba=proba, version=version.version)
        return [step if isinstance(step, Skipped | Refusal) else None for step in plan.steps], raised is not None

    def _plan(self, shard: Shard, records: Sequence[Record]) -> Plan:
        plan, known = Plan([], [], [], []), set(shard.model.classes)
        by_class = shard.model.task == "multiclass"
        # The kind of the first class decides which labels are good.
        is_open = by_class and not known
        room = prediction.BYTES_MAX - prediction.REST_BYTES_MAX - sum(map(prediction.class_bytes_max, known))
        for record in records:
            if _size(record) > room:
                break
            rows = len(plan.labels)
            plan.steps.append(self._step(shard, record, plan))
            label = plan.labels[-1] if len(plan.labels) > rows else None
            if by_class and label is not None and label not in known:
                known.add(label)
                # From here on a prediction has a probability of this class, too.
                room -= prediction.class_bytes_max(label)
                if is_open:
                    break
        return plan

    def _step(self, shard: Shard, record: Record, plan: Plan) -> Step:
        """Take a record into the join, and add its row to the plan."""
        row = len(plan.values)
        if type(record) is LabelRecord:
            found = self._join.match(shard, record)
            if not isinstance(found, MatchedLabel):
                return found
            self._join.note_learned(shard, found)
            if shard.model.can.unlabelled:
                # It learned the features when they were read.
                return LearnedLabel(found)
            value, label = found.entry.value, found.label
            step: Step = LearnedLabel(found)
        else:
            prepared = self._steps.prepare(shard, record)
            if not isinstance(prepared, PreparedRecord):
                return prepared
            value, label = self._steps.keep(prepared, prepared.event.features), prepared.label_for(shard.model)
            step = PredictedRecord(prepared, self._join.note(shard, prepared, kept=value, answer=None), row)
        plan.values.append(value)
        plan.labels.append(label)
        plan.places.append(len(plan.steps))
        return step


def _size(record: Record) -> int:
    """Return how long the id of a record can be in JSON, wherever it comes from."""
    headers = sum(len(value or b"") for _, value in record.headers or ())
    return _ESCAPED_BYTES_MAX * (len(record.value or b"") + len(record.key or b"") + headers)
