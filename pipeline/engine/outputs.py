"""What a batch gives for one partition: one value from the engine to the commit."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch, Records
from headrace.pipeline.engine.dead_letter import DeadLetter
from headrace.producers.output import DEAD_LETTERS, PREDICTIONS, OutputRecords
from headrace.producers.record_size import SizeLimits

EncodePrediction = Callable[[bytes], bytes]
"""Makes a prediction of the configured format from its JSON."""


def _no_records() -> dict[str, OutputRecords]:
    return {PREDICTIONS: OutputRecords(), DEAD_LETTERS: OutputRecords()}


class PartitionOutputs(msgspec.Struct):
    """The outputs of a batch for one partition, by name, and where the partition stands behind the batch.

    `offset` and `labels_offset` are the next to consume; `mark` is committed with them, and is empty until the batch is
    sent for the first time. What goes out fits `limits`, and `posted` says that the HTTP sink has taken or refused it.
    Prediction i answers the record at `places[i]` of `source`, and `labelled[i]` tells whether the model has learned
    its label, or waits for it. `lines` are the predictions in JSON if their topic has another format. `dead_letters`
    are the refused records, and `skipped` counts those that have no output. `learned` counts the labels that the model
    learned, `labels` the good records of the labels topic; `delays_ms` tells after how long each of those was joined.
    `replayed` counts the records that a replay has sent.
    """

    partition: int
    records: dict[str, OutputRecords] = msgspec.field(default_factory=_no_records)
    offset: int = -1
    labels_offset: int = -1
    mark: str = ""
    source: Records = ()
    labelled: Any = []
    dead_letters: list[DeadLetter] = []
    skipped: int = 0
    learned: int = 0
    labels: int = 0
    replayed: int = 0
    delays_ms: list[int] = []
    lines: list[Any] | None = None
    limits: SizeLimits | None = None
    posted: bool = False

    @property
    def predictions(self) -> OutputRecords:
        """The records of the predictions topic."""
        return self.records[PREDICTIONS]

    @property
    def places(self) -> Any:
        """The places in `source` of the records that the predictions answer."""
        return self.predictions.places

    @property
    def good(self) -> int:
        """The number of records that were handled: with a prediction, or as a label."""
        return len(self.predictions) + self.labels

    @property
    def codes(self) -> Counter[str]:
        """The number of dead letters by code."""
        return Counter(dead_letter.refusal.code for dead_letter in self.dead_letters)

    def origin(self, position: int) -> Record:
        """Return the record that a prediction answers."""
        place = self.places[position]
        return self.source.record(place) if isinstance(self.source, RecordBatch) else self.source[place]

    @property
    def json_lines(self) -> list[Any]:
        """The predictions in JSON, whatever the format of their topic."""
        return self.predictions.values if self.lines is None else self.lines

    def extend(self, other: "PartitionOutputs", *, first: int) -> None:
        """Add the outputs of the records behind these, the first of which has the place `first` in the whole batch."""
        for name, records in other.records.items():
            self.records[name].extend(records, first=first)
        if not isinstance(self.labelled, list):
            self.labelled = list(self.labelled)
        self.labelled += list(other.labelled)
        self.dead_letters += other.dead_letters
        self.skipped += other.skipped
        self.labels += other.labels
        self.delays_ms += other.delays_ms

    def encode(self, encode: EncodePrediction) -> None:
        """Make the predictions of another format, and keep their JSON."""
        self.lines = list(self.predictions.values)
        self.predictions.values = [encode(line) for line in self.lines]

    def leave_out(self, positions: Collection[int]) -> None:
        """Leave out the predictions at these positions, and whatever else answers the same records."""
        places = {self.places[position] for position in positions}
        self.labelled = [labelled for at, labelled in enumerate(self.labelled) if at not in positions]
        if self.lines is not None:
            self.lines = [line for at, line in enumerate(self.lines) if at not in positions]
        self.records = {name: records.without(places) for name, records in self.records.items()}

    def lay_out(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Make records of these dead letters: those of the features in order, then those of the labels."""
        self.dead_letters = sorted(dead_letters, key=_order)
        self.records[DEAD_LETTERS] = records = OutputRecords()
        for dead_letter in self.dead_letters:
            records.add(dead_letter.key, dead_letter.value, dead_letter)


def _order(dead_letter: DeadLetter) -> tuple[bool, int]:
    return type(dead_letter.record) is LabelRecord, dead_letter.record.offset
