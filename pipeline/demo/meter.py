"""Follows both output topics as any `read_committed` reader would, and measures what comes out of them."""

import threading
import time
from collections import deque
from typing import Any

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.sections import TopicsConfig
from headrace.pipeline.demo.screen import Figures
from headrace.pipeline.demo.stream import RecordOffset, Stream
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord
from headrace.producers.prediction import SourceRecord

_WAIT_S = 0.1
_STOP_S = 5.0
_RECENT = 1_000


class SeenPrediction(msgspec.Struct, frozen=True):
    """The part of a prediction that the demo looks at."""

    id: str
    prediction: Any
    source: SourceRecord
    proba: dict[str, float] = {}


class Accuracy:
    """The share of the last thousand predictions that were right, and the least that it has been."""

    def __init__(self) -> None:
        # One thread adds, another watches.
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._right = 0
        self.worst = 1.0
        """The least share since `watch`, or the beginning; judged at each prediction, however many come at once."""

    def add(self, *, right: bool) -> None:
        """Count one more prediction."""
        with self._lock:
            if self.full:
                self._right -= self._recent[0]
            self._recent.append(right)
            self._right += right
            if self.full:
                self.worst = min(self.worst, self._share())

    @property
    def full(self) -> bool:
        """Whether there have been a thousand."""
        return len(self._recent) == _RECENT

    @property
    def share(self) -> float:
        """Of the last thousand, or of all where there are fewer; zero of none."""
        with self._lock:
            return self._share()

    def watch(self) -> float:
        """Forget the worst so far, and return the share now."""
        with self._lock:
            self.worst = 1.0
            return self._share()

    def _share(self) -> float:
        return self._right / len(self._recent) if self._recent else 0.0


class Meter:
    """Keep the outcome of each record of a stream, from when both topics were empty."""

    def __init__(self, reader: Reader, *, topics: TopicsConfig, stream: Stream) -> None:
        self._reader = reader
        self._topics = topics
        self._stream = stream
        self._lock = threading.Lock()
        self._settled: set[RecordOffset] = set()
        self.accuracy = Accuracy()
        self._latencies_ms: list[float] = []
        self._looked_at = time.monotonic()
        self._predictions = 0
        self.twice: list[RecordOffset] = []
        self.letters: dict[RecordOffset, DeadLetterRecord] = {}
        self.strangers: dict[str, SeenPrediction] = {}
        """Predictions by id for records that the stream did not make itself."""
        self.fault = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        names = (self._topics.predictions, self._topics.dead_letters)
        self._reader.watch({(name, p): span.start for name in names for p, span in self._reader.spans(name).items()})
        self._looked_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of the connection."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        self._reader.close()

    def settled(self) -> set[RecordOffset]:
        """Return the places of all records whose prediction or dead letter was seen."""
        with self._lock:
            return set(self._settled)

    def figures(self) -> Figures:
        """Return what was measured since the last call."""
        sent = self._stream.places()
        with self._lock:
            latencies, self._latencies_ms = sorted(self._latencies_ms), []
            predictions, self._predictions = self._predictions, 0
            lag = len(sent - self._settled)
        now = time.monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        return Figures(
            predictions / max(seconds, 0.001),
            quantile(latencies, 0.5),
            quantile(latencies, 0.99),
            lag,
            len(self.letters),
            self.accuracy.share if predictions else None,
        )

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                found = self._reader.poll(wait_s=_WAIT_S)
                now = time.monotonic()
                with self._lock:
                    for topic, record in found:
                        self._take(topic, record, now)
        except Exception as error:  # noqa: BLE001 told by the thread that tells the story
            self.fault = f"{type(error).__name__}: {error}"

    def _take(self, topic: str, record: Record, now: float) -> None:
        if topic == self._topics.dead_letters:
            letter = DeadLetterRecord.of(record)
            place = (letter.reason.partition, letter.reason.offset)
            self.letters[place] = letter
        else:
            answer = msgspec.json.decode(record.value or b"", type=SeenPrediction)
            place = (answer.source.partition, answer.source.offset)
            self._score(answer, now)
        if place in self._settled:
            self.twice.append(place)
        self._settled.add(place)

    def _score(self, answer: SeenPrediction, now: float) -> None:
        self._predictions += 1
        sent = self._stream.unseen.pop(answer.id, None)
        if sent is None:
            self.strangers[answer.id] = answer
            return
        self._latencies_ms.append((now - sent.at) * 1_000)
        self.accuracy.add(right=answer.prediction == sent.label)


def quantile(values: list[float], share: float) -> float | None:
    """Return the value below which a share of sorted values lies; None of no values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
