"""Validation by the engine itself: the label is in the record, or comes by the labels topic when it came."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch
from headrace.pipeline.engine.engine import Engine
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.model import Model
from headrace.state.running_metrics import Proba, RunningMetrics
from headrace.state.shard import Shard
from headrace.state.shard_model import MODEL, ShardModel


class _MeasuredModel(ShardModel):
    """A model of a shard whose answers are scored in metrics, and nowhere else."""

    def __init__(self, model: Model, metrics: RunningMetrics) -> None:
        # With any measure the engine gives each label and answer.
        super().__init__(MODEL, model, ("Accuracy",))
        self._metrics = metrics

    def score(
        self,
        prediction: Any,
        label: Any,
        version: int,  # noqa: ARG002 the metrics are those of all versions
        proba: Mapping[Any, float] | None = None,
    ) -> None:
        """Score a prediction against its label."""
        self._metrics.add([label], [prediction], [proba])

    def score_all(self, scores: Any, version: int) -> None:
        """Do nothing: `count_all` has the labels and the answers."""

    def count_all(self, labels: Sequence[Any], answers: Sequence[Any], chances: Sequence[float]) -> None:
        """Score many predictions. `chances` are the probabilities of true, or those of the labels."""
        probas: Sequence[Proba] = chances
        if self.model.task == "multiclass":
            probas = [
                {} if math.isnan(chance) else {label: chance} for label, chance in zip(labels, chances, strict=True)
            ]
        self._metrics.add(labels, answers, probas)


class EngineValidation:
    """The validation of a model for each partition, which `model` makes; their answers are scored in `metrics`.

    `refused` are the codes of refused feature records. With `rules` the labels come by the labels topic.
    """

    def __init__(
        self, engine: Engine, model: Callable[[], Model], metrics: RunningMetrics, *, rules: LabelRules | None = None
    ) -> None:
        self._engine = engine
        self._model = model
        self._metrics = metrics
        self._rules = rules
        self._shards: dict[int, Shard] = {}
        self.refused: Counter[str] = Counter()

    @property
    def read(self) -> int:
        """The number of feature records so far."""
        return sum(shard.counts.records for shard in self._shards.values())

    @property
    def skipped(self) -> int:
        """The number of skipped records so far."""
        return sum(shard.counts.skipped for shard in self._shards.values())

    def take(self, partition: int, records: Sequence[Record]) -> None:
        """Take the next records of a partition, of both topics in the order of their times."""
        shard = self._shards.get(partition) or self._begin(partition)
        outputs = self._engine.run(
            shard, records if shard.labels is not None else RecordBatch.of(records), now_ms=0, silent=True
        )
        self.refused.update(
            letter.refusal.code for letter in outputs.dead_letters if type(letter.record) is not LabelRecord
        )

    def end(self) -> None:
        """Do nothing: all labels have come."""

    def _begin(self, partition: int) -> Shard:
        labels = None if self._rules is None else Labels(self._rules)
        shard = Shard(self._model(), partition=partition, start=0, labels=labels, labels_start=0 if labels else -1)
        shard.models[MODEL] = _MeasuredModel(shard.model, self._metrics)
        shard.answer_with(MODEL)
        self._shards[partition] = shard
        return shard
