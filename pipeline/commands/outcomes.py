"""What becomes of records that were just sent: each one's prediction or dead letter, in the order of sending.

The two output topics are read from where they ended before the first record was sent, and matched by the
partition and offset that each record was given.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.sections import TopicsConfig
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, printable
from headrace.producers.prediction import SourceRecord, class_name

WINDOW_MAX = 10_000
"""So many records may wait for their outcome; then no more are sent until some have it."""
_EARLY_MAX = 100_000

SentOffset = tuple[int, int]


class _Sourced(msgspec.Struct, frozen=True):
    """The part of a prediction that tells whose it is."""

    source: SourceRecord


class _Awaited(msgspec.Struct):
    """A record that was sent; `line` is what is to be printed of it."""

    sent_at: float
    refused: bool = False
    line: str | None = None


class Outcomes:
    """Wait for the outcomes of records sent to `topics.features`, and `say` each as a line."""

    def __init__(self, reader: Reader, *, topics: TopicsConfig, json: bool, say: Callable[[str], None]) -> None:
        self._reader = reader
        self._topics = topics
        self._describe = _as_json if json else _as_text
        self._say = say
        self._queue: deque[_Awaited] = deque()
        self._places: dict[SentOffset, _Awaited] = {}
        self._early: dict[SentOffset, tuple[str, Record]] = {}
        self._moved_at = time.monotonic()
        names = (topics.predictions, topics.dead_letters)
        reader.watch({(name, p): span.end for name in names for p, span in reader.spans(name).items()})

    @property
    def full(self) -> bool:
        """Whether so many are waited for that no more should be sent."""
        return len(self._queue) >= WINDOW_MAX

    @property
    def missing(self) -> int:
        """How many have no outcome yet."""
        return sum(awaited.line is None and not awaited.refused for awaited in self._queue)

    @property
    def still_s(self) -> float:
        """How long nothing was sent and no outcome came, in seconds."""
        return time.monotonic() - self._moved_at

    def expect(self) -> Callable[[int, int], None]:
        """Wait for one more record; call what is returned with the partition and offset that it was given."""
        awaited = _Awaited(time.monotonic())
        self._moved_at = awaited.sent_at
        self._queue.append(awaited)

        def delivered(partition: int, offset: int) -> None:
            if partition < 0:
                awaited.refused = True
                return
            self._places[partition, offset] = awaited
            if (partition, offset) in self._early:
                self._answer((partition, offset), *self._early.pop((partition, offset)))

        return delivered

    def poll(self, *, wait_s: float, all_delivered: bool) -> None:
        """Take in what came, and print what is next in order."""
        for topic, record in self._reader.poll(wait_s=wait_s):
            place = self._source(topic, record)
            if place in self._places:
                self._answer(place, topic, record)
            elif place is not None and not all_delivered:
                # The outcome may be heard of before the record's own offset is.
                self._early[place] = (topic, record)
                if len(self._early) > _EARLY_MAX:
                    del self._early[next(iter(self._early))]
        if all_delivered:
            self._early.clear()
        while self._queue and (self._queue[0].refused or self._queue[0].line is not None):
            self._print(self._queue.popleft())

    def give_up(self) -> int:
        """Print what came out of order, and return how many outcomes are missing."""
        missing = self.missing
        while self._queue:
            self._print(self._queue.popleft())
        self._places.clear()
        return missing

    def _source(self, topic: str, record: Record) -> SentOffset | None:
        if topic == self._topics.dead_letters:
            reason = DeadLetterRecord.of(record).reason
            return (reason.partition, reason.offset) if reason.topic == self._topics.features else None
        try:
            source = msgspec.json.decode(record.value or b"", type=_Sourced).source
        except msgspec.DecodeError:
            return None
        return (source.partition, source.offset) if source.topic == self._topics.features else None

    def _answer(self, place: SentOffset, topic: str, record: Record) -> None:
        awaited = self._places.pop(place)
        self._moved_at = time.monotonic()
        awaited.line = self._describe(self._topics, place, topic, record, self._moved_at - awaited.sent_at)

    def _print(self, awaited: _Awaited) -> None:
        if awaited.line is not None:
            self._say(awaited.line)


def _as_text(topics: TopicsConfig, _place: SentOffset, topic: str, record: Record, took_s: float) -> str:
    where = f"→ {topic}[{record.partition}]@{record.offset}"
    if topic == topics.dead_letters:
        letter = DeadLetterRecord.of(record)
        return printable(f"{where}  {letter.status} {letter.code}  {letter.reason.message}")
    told = msgspec.json.decode(record.value or b"{}")
    answer, model = told.get("prediction"), told.get("model", {})
    probability = (told.get("proba") or {}).get(class_name(answer))
    parts = [
        where,
        f"{answer:.6g}" if isinstance(answer, float) else class_name(answer),
        *([f"p={probability:.2f}"] if isinstance(probability, int | float) else []),
        f"{model.get('name')} v{model.get('version')}",
        f"{took_s * 1_000:.0f} ms",
    ]
    return printable("  ".join(parts))


def _as_json(topics: TopicsConfig, place: SentOffset, topic: str, record: Record, _took_s: float) -> str:
    source = SourceRecord(topics.features, *place)
    whole: dict[str, Any]
    if topic == topics.dead_letters:
        letter = DeadLetterRecord.of(record)
        reason = letter.reason
        dead_letter = {
            "topic": topic,
            "partition": record.partition,
            "offset": record.offset,
            "status": letter.status,
            "code": letter.code,
            "field": reason.field,
            "stage": reason.stage,
            "message": reason.message,
            "replay_count": reason.replay_count,
        }
        whole = {"outcome": "dead_letter", "source": source, "dead_letter": dead_letter}
    else:
        whole = {"outcome": "prediction", "source": source, "prediction": msgspec.Raw(record.value or b"null")}
    return msgspec.json.encode(whole).decode()
