"""Follows both output topics as a `read_committed` reader, and measures latency, accuracy and outcomes."""

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
    """The fields of a prediction that the demo uses."""

    id: str
    prediction: Any
    source: SourceRecord
    proba: dict[str, float] = {}


class Accuracy:
    """The share of correct ones among the last 1,000 predictions, and its minimum."""

    def __init__(self) -> None:
        # One thread adds predictions, another reads the share.
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._right = 0
        self.worst = 1.0
        """The minimum of the share since `watch`, or since the start; updated with each single prediction."""

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
        """Whether there have been 1,000 predictions."""
        return len(self._recent) == _RECENT

    @property
    def share(self) -> float:
        """The share of the last 1,000 predictions, or of all if there are fewer; 0 without predictions."""
        with self._lock:
            return self._share()

    def watch(self) -> float:
        """Reset `worst`, and return the present share."""
        with self._lock:
            self.worst = 1.0
            return self._share()

    def _share(self) -> float:
        return self._right / len(self._recent) if self._recent else 0.0


class Meter:
    """Collect the outcome of each record of a stream, starting with empty topics."""

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
        self.dead_letters: dict[RecordOffset, DeadLetterRecord] = {}
        self.others: dict[str, SeenPrediction] = {}
        """Predictions, by id, for records that the stream did not send."""
        self.fault = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def start(self) -> None:
        """Start to follow the topics."""
        names = (self._topics.predictions, self._topics.dead_letters)
        self._reader.watch({(name, p): span.start for name in names for p, span in self._reader.spans(name).items()})
        self._looked_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop, and close the connection."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        self._reader.close()

    def settled(self) -> set[RecordOffset]:
        """Return the offsets of all records whose prediction or dead letter was read."""
        with self._lock:
            return set(self._settled)

    def figures(self) -> Figures:
        """Return the figures since the last call."""
        sent = self._stream.sent()
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
            len(self.dead_letters),
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
        except Exception as error:  # noqa: BLE001 raised by the main thread, see `Stage.check`
            self.fault = f"{type(error).__name__}: {error}"

    def _take(self, topic: str, record: Record, now: float) -> None:
        if topic == self._topics.dead_letters:
            dead_letter = DeadLetterRecord.of(record)
            at = (dead_letter.reason.partition, dead_letter.reason.offset)
            self.dead_letters[at] = dead_letter
        else:
            seen = msgspec.json.decode(record.value or b"", type=SeenPrediction)
            at = (seen.source.partition, seen.source.offset)
            self._score(seen, now)
        if at in self._settled:
            self.twice.append(at)
        self._settled.add(at)

    def _score(self, seen: SeenPrediction, now: float) -> None:
        self._predictions += 1
        sent = self._stream.unseen.pop(seen.id, None)
        if sent is None:
            self.others[seen.id] = seen
            return
        self._latencies_ms.append((now - sent.at) * 1_000)
        self.accuracy.add(right=seen.prediction == sent.label)


def quantile(values: list[float], share: float) -> float | None:
    """Return the value below which this share of the sorted values lies; None without values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
