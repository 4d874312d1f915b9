"""Compares a pipeline's records with their outcomes, from its three topics, read from start to end."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.config import Config
from headrace.pipeline.demo.meter import SeenPrediction
from headrace.pipeline.demo.stream import RecordOffset, named
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord


class Balance(msgspec.Struct, frozen=True):
    """The comparison: `lost` records have no outcome, `twice` records have two, `strange` outcomes have no record."""

    records: int
    predictions: int
    dead_letters: int
    lost: Sequence[RecordOffset]
    twice: Sequence[RecordOffset]
    strange: Sequence[RecordOffset]

    def holds(self, *, exact: bool) -> bool:
        """Return whether each record has an outcome and each outcome a record; with `exact`, no record has two."""
        if self.lost or self.strange:
            return False
        return not exact or (not self.twice and self.records == self.predictions + self.dead_letters)

    def __str__(self) -> str:
        faults = {"have no outcome": self.lost, "have two": self.twice, "are outcomes of nothing": self.strange}
        counts = f"{self.records:,} records, {self.predictions:,} predictions, {self.dead_letters:,} dead letters"
        return "; ".join([counts, *(f"{len(p):,} {what}: {named(p)}" for what, p in faults.items() if p)])


class TopicContents(msgspec.Struct, frozen=True):
    """The content of a pipeline's three topics: the records by offset, the predictions and the dead letters."""

    records: dict[RecordOffset, Record]
    predictions: Sequence[SeenPrediction]
    dead_letters: Sequence[DeadLetterRecord]

    @property
    def balance(self) -> Balance:
        """Compare the records with their outcomes."""
        predicted = [(found.source.partition, found.source.offset) for found in self.predictions]
        refused = [(found.reason.partition, found.reason.offset) for found in self.dead_letters]
        return compare(self.records, predicted, refused)


class Occurrence(msgspec.Struct, frozen=True):
    """The features and the label of a record, for plain River."""

    features: dict[str, Any]
    label: Any


def compare(
    records: Iterable[RecordOffset], predicted: Sequence[RecordOffset], refused: Sequence[RecordOffset]
) -> Balance:
    """Compare records with their outcomes, all by partition and offset."""
    offsets = set(records)
    outcomes = Counter(predicted) + Counter(refused)
    return Balance(
        len(offsets),
        len(predicted),
        len(refused),
        lost=sorted(offsets - outcomes.keys()),
        twice=sorted(offset for offset, count in outcomes.items() if count > 1),
        strange=sorted(outcomes.keys() - offsets),
    )


def read(config: Config) -> TopicContents:
    """Read the three topics of a pipeline from start to end. Raises the errors of Reader."""
    topics = config.topics
    reader = Reader(config.librdkafka, group=f"{config.name}.ledger")
    try:
        records = {(record.partition, record.offset): record for record in _all(reader, topics.features)}
        values = [record.value or b"" for record in _all(reader, topics.predictions)]
        predictions = [msgspec.json.decode(value, type=SeenPrediction) for value in values]
        dead_letters = [DeadLetterRecord.of(record) for record in _all(reader, topics.dead_letters)]
    finally:
        reader.close()
    return TopicContents(records, predictions, dead_letters)


def same_as_river(contents: TopicContents, build: Callable[[], Any]) -> int:
    """Count the predictions whose probabilities are, to the last bit, those of plain River without a crash.

    `build` makes a new model for each partition. It predicts and learns the partition's records once, in order.
    """
    predictions = {(found.source.partition, found.source.offset): found for found in contents.predictions}
    models: defaultdict[int, Any] = defaultdict(build)
    same = 0
    for at in sorted(predictions):
        event = msgspec.json.decode(contents.records[at].value or b"", type=Occurrence)
        model = models[at[0]]
        expected = {str(label).lower(): share for label, share in model.predict_proba_one(event.features).items()}
        same += predictions[at].proba == expected
        model.learn_one(event.features, event.label)
    return same


def _all(reader: Reader, topic: str) -> Iterable[Record]:
    for partition, span in reader.spans(topic).items():
        yield from reader.between(topic, partition, span.start, span.end)
