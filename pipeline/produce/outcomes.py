"""The outcomes of records that `produce --wait` has sent: their predictions or dead letters, in the order of sending.

Both output topics are read from the offset at which they ended before the first record was sent. An outcome names
the partition and offset of its record, and Kafka tells these for each record that it takes. A record that is skipped
has no output: its outcome is there when the pipeline's committed offset has passed it.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.sections import TopicsConfig
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, printable
from headrace.pipeline.formats import ValueText
from headrace.producers.prediction import SourceRecord, class_name

WINDOW_MAX = 10_000
"""The number of records that may wait for their outcome; further records are sent when some have it."""
_EARLY_MAX = 100_000
# A question for the committed offsets takes some milliseconds, and the broker some work.
_COMMITTED_EVERY_S = 0.25

SentOffset = tuple[int, int]


class _PredictionSource(msgspec.Struct, frozen=True):
    """The part of a prediction that names its record."""

    source: SourceRecord


class _SentRecord(msgspec.Struct):
    """A record that was sent; `line` is the text to print for its outcome."""

    sent_at: float
    refused: bool = False
    line: str | None = None


class Outcomes:
    """Wait for the outcomes of records that were sent to `topics.features`, and `write` each as a line.

    `committed` returns the pipeline's committed offsets of these partitions of the features. `text` shows predictions
    as JSON, whatever their format.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        topics: TopicsConfig,
        text: ValueText,
        committed: Callable[[list[int]], Mapping[int, int]],
        json: bool,
        write: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._text = text
        self._topics = topics
        self._committed = committed
        self._json = json
        self._describe = _as_json if json else _as_text
        self._write = write
        self._queue: deque[_SentRecord] = deque()
        self._sent: dict[SentOffset, _SentRecord] = {}
        self._skipped: dict[SentOffset, _SentRecord] = {}
        self._early: dict[SentOffset, tuple[str, Record]] = {}
        self._moved_at = self._asked_at = time.monotonic()
        names = (topics.predictions, topics.dead_letters)
        reader.watch({(name, p): span.end for name in names for p, span in reader.spans(name).items()})

    @property
    def full(self) -> bool:
        """Whether no more records should be sent until some have their outcome."""
        return len(self._queue) >= WINDOW_MAX

    @property
    def missing(self) -> int:
        """The number of records that have no outcome yet."""
        return sum(sent.line is None and not sent.refused for sent in self._queue)

    @property
    def idle_s(self) -> float:
        """The time since a record was sent or an outcome came, in seconds."""
        return time.monotonic() - self._moved_at

    def expect(self, *, is_skipped: bool = False) -> Callable[[int, int], None]:
        """Wait for one more record, which may be one that the pipeline skips.

        Call the returned function with the partition and offset that Kafka gave it.
        """
        sent = _SentRecord(time.monotonic())
        self._moved_at = sent.sent_at
        self._queue.append(sent)

        def delivered(partition: int, offset: int) -> None:
            if partition < 0:
                sent.refused = True
                return
            if is_skipped:
                self._skipped[partition, offset] = sent
                return
            self._sent[partition, offset] = sent
            if (partition, offset) in self._early:
                self._settle((partition, offset), *self._early.pop((partition, offset)))

        return delivered

    def poll(self, *, wait_s: float, all_delivered: bool) -> None:
        """Read new outcomes, and print those that are next in the order of sending."""
        for topic, record in self._reader.poll(wait_s=wait_s):
            if topic == self._topics.predictions:
                record = msgspec.structs.replace(record, value=self._text.of(record))  # noqa: PLW2901 as JSON
            source = self._source(topic, record)
            if source in self._sent:
                self._settle(source, topic, record)
            elif source is not None and not all_delivered:
                # The outcome may be read before Kafka has told the offset of the record.
                self._early[source] = (topic, record)
                if len(self._early) > _EARLY_MAX:
                    del self._early[next(iter(self._early))]
        if all_delivered:
            self._early.clear()
        if self._skipped and time.monotonic() - self._asked_at >= _COMMITTED_EVERY_S:
            self._settle_skipped()
        while self._queue and (self._queue[0].refused or self._queue[0].line is not None):
            self._print(self._queue.popleft())

    def give_up(self) -> int:
        """Print the remaining outcomes, and return the number of missing ones."""
        missing = self.missing
        while self._queue:
            self._print(self._queue.popleft())
        self._sent.clear()
        self._skipped.clear()
        return missing

    def _source(self, topic: str, record: Record) -> SentOffset | None:
        if topic == self._topics.dead_letters:
            reason = DeadLetterRecord.of(record).reason
            return (reason.partition, reason.offset) if reason.topic == self._topics.features else None
        try:
            source = msgspec.json.decode(record.value or b"", type=_PredictionSource).source
        except msgspec.DecodeError:
            return None
        return (source.partition, source.offset) if source.topic == self._topics.features else None

    def _settle(self, source: SentOffset, topic: str, record: Record) -> None:
        sent = self._sent.pop(source)
        self._moved_at = time.monotonic()
        sent.line = self._describe(self._topics, source, topic, record, self._moved_at - sent.sent_at)

    def _settle_skipped(self) -> None:
        """Settle the skipped records that the committed offsets have passed."""
        committed = self._committed(sorted({partition for partition, _ in self._skipped}))
        self._asked_at = time.monotonic()
        for partition, offset in [at for at in self._skipped if at[1] < committed.get(at[0], 0)]:
            sent = self._skipped.pop((partition, offset))
            self._moved_at = self._asked_at
            source = SourceRecord(self._topics.features, partition, offset)
            sent.line = (
                msgspec.json.encode({"skipped": True, "source": source}).decode()
                if self._json
                else f"→ {source.topic}[{partition}]@{offset}  skipped"
            )

    def _print(self, sent: _SentRecord) -> None:
        if sent.line is not None:
            self._write(sent.line)


def _as_text(topics: TopicsConfig, _source: SentOffset, topic: str, record: Record, took_s: float) -> str:
    where = f"→ {topic}[{record.partition}]@{record.offset}"
    if topic == topics.dead_letters:
        dead_letter = DeadLetterRecord.of(record)
        return printable(f"{where}  {dead_letter.status} {dead_letter.code}  {dead_letter.reason.message}")
    value = msgspec.json.decode(record.value or b"{}")
    prediction, model = value.get("prediction"), value.get("model", {})
    probability = (value.get("proba") or {}).get(class_name(prediction))
    parts = [
        where,
        *([str(value["id"])] if "id" in value else []),
        f"{prediction:.6g}" if isinstance(prediction, float) else class_name(prediction),
        *([f"p={probability:.2f}"] if isinstance(probability, int | float) else []),
        f"{model.get('name')} v{model.get('version')}",
        f"{took_s * 1_000:.0f} ms",
    ]
    return printable("  ".join(parts))


def _as_json(topics: TopicsConfig, sent_at: SentOffset, topic: str, record: Record, _took_s: float) -> str:
    source = SourceRecord(topics.features, *sent_at)
    outcome: dict[str, Any]
    if topic == topics.dead_letters:
        dead_letter = DeadLetterRecord.of(record)
        reason = dead_letter.reason
        fields = {
            "topic": topic,
            "partition": record.partition,
            "offset": record.offset,
            "status": dead_letter.status,
            "code": dead_letter.code,
            "field": reason.field,
            "stage": reason.stage,
            "message": reason.message,
            "replay_count": reason.replay_count,
        }
        outcome = {"outcome": "dead_letter", "source": source, "dead_letter": fields}
    else:
        outcome = {"outcome": "prediction", "source": source, "prediction": msgspec.Raw(record.value or b"null")}
    return msgspec.json.encode(outcome).decode()
