"""Adds up what came out of a pipeline, from its three topics, read from start to end as `read_committed`."""

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
    """Records against outcomes. `lost` have none, `twice` more than one, `strange` outcomes have no record."""

    records: int
    predictions: int
    dead_letters: int
    lost: Sequence[RecordOffset]
    twice: Sequence[RecordOffset]
    strange: Sequence[RecordOffset]

    def holds(self, *, exact: bool) -> bool:
        """Tell whether each record has an outcome, and each outcome its record; if `exact`, one and no more."""
        if self.lost or self.strange:
            return False
        return not exact or (not self.twice and self.records == self.predictions + self.dead_letters)

    def __str__(self) -> str:
        faults = {"have no outcome": self.lost, "have two": self.twice, "are outcomes of nothing": self.strange}
        counts = f"{self.records:,} records, {self.predictions:,} predictions, {self.dead_letters:,} dead letters"
        return "; ".join([counts, *(f"{len(p):,} {what}: {named(p)}" for what, p in faults.items() if p)])


class TopicContents(msgspec.Struct, frozen=True):
    """What the three topics of a pipeline hold: records by place in order, answers and letters as they stand."""

    records: dict[RecordOffset, Record]
    answers: Sequence[SeenPrediction]
    letters: Sequence[DeadLetterRecord]

    @property
    def balance(self) -> Balance:
        """Hold the records against their outcomes."""
        predicted = [(answer.source.partition, answer.source.offset) for answer in self.answers]
        refused = [(letter.reason.partition, letter.reason.offset) for letter in self.letters]
        return weigh(self.records, predicted, refused)


class Occurrence(msgspec.Struct, frozen=True):
    """A record as plain River takes it."""

    features: dict[str, Any]
    label: Any


def weigh(
    records: Iterable[RecordOffset], predicted: Sequence[RecordOffset], refused: Sequence[RecordOffset]
) -> Balance:
    """Hold records against their outcomes, all by partition and offset."""
    places = set(records)
    outcomes = Counter(predicted) + Counter(refused)
    return Balance(
        len(places),
        len(predicted),
        len(refused),
        lost=sorted(places - outcomes.keys()),
        twice=sorted(place for place, count in outcomes.items() if count > 1),
        strange=sorted(outcomes.keys() - places),
    )


def read(config: Config) -> TopicContents:
    """Read the three topics of a pipeline from start to end. Raises what Reader raises."""
    topics = config.topics
    reader = Reader(config.librdkafka, group=f"{config.name}.ledger")
    try:
        records = {(record.partition, record.offset): record for record in _all(reader, topics.features)}
        answers = [msgspec.json.decode(r.value or b"", type=SeenPrediction) for r in _all(reader, topics.predictions)]
        letters = [DeadLetterRecord.of(record) for record in _all(reader, topics.dead_letters)]
    finally:
        reader.close()
    return TopicContents(records, answers, letters)


def same_as_river(books: TopicContents, build: Callable[[], Any]) -> int:
    """Count the predictions whose probabilities are, to the last bit, those of an undisturbed River.

    `build` makes a new model for each partition, which goes through its records once, in order.
    """
    answers = {(answer.source.partition, answer.source.offset): answer for answer in books.answers}
    models: defaultdict[int, Any] = defaultdict(build)
    same = 0
    for place in sorted(answers):
        event = msgspec.json.decode(books.records[place].value or b"", type=Occurrence)
        model = models[place[0]]
        expected = {str(label).lower(): share for label, share in model.predict_proba_one(event.features).items()}
        same += answers[place].proba == expected
        model.learn_one(event.features, event.label)
    return same


def _all(reader: Reader, topic: str) -> Iterable[Record]:
    for partition, span in reader.spans(topic).items():
        yield from reader.between(topic, partition, span.start, span.end)
