"""The newest predictions with their records' keys and labels, and the time from a record to its prediction.

Once a second it reads only the ends of the logs, whatever the stream's rate is: the newest predictions, the records
that they answer, and the newest labels. It joins no group.
"""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from headrace.consumers.formats.registry import RegistryAway
from headrace.consumers.reader import Reader, ReaderAway, ReaderDenied, Span
from headrace.consumers.record import Event, Label, Record
from headrace.pipeline import assembly
from headrace.pipeline.config.config import Config
from headrace.pipeline.formats import ValueText
from headrace.pipeline.page.frame import Latency

log = structlog.get_logger("headrace")

SHOWN_MAX = 50
_KEPT_MAX = 500
_FIRST = 200
_SHARE = 400
_READ_S = 0.8
_QUIET_S = 0.1
_EVERY_S = 1.0
_LATENCY_MIN = 5
_FRESH_S = 15.0
# Small fetches: only the ends of the logs are wanted.
_FETCH = {"fetch.message.max.bytes": 131_072, "queued.min.messages": 100}
_ERRORS = (ReaderAway, ReaderDenied, RegistryAway)

RecordPlace = tuple[int, int]


class PredictionRow(msgspec.Struct, omit_defaults=True):
    """One prediction as it is shown; the place is that of its record. Times are in ms.

    Only the answers of an anomaly detector have a `score`; it is None while the detector knows too little.
    """

    id: str
    partition: int
    offset: int
    prediction: Any
    proba: Any
    version: int
    at: int
    key: str | None = None
    label: Any = None
    has_label: bool = False
    latency_ms: int | None = None
    features: dict[str, Any] | None = None
    score: Any = msgspec.UNSET


class _Value(msgspec.Struct):
    """The fields of a prediction that are read; other writers of the topic may leave some out."""

    id: str = ""
    prediction: Any = None
    score: Any = msgspec.UNSET
    proba: dict[str, Any] | None = None
    model: dict[str, Any] = {}
    source: dict[str, Any] = {}
    features: dict[str, Any] | None = None


class PredictionSample:
    """Sample the newest predictions of one pipeline on a thread; `publish` gets the rows when they have changed."""

    def __init__(
        self,
        config: Config,
        *,
        publish: Callable[[Sequence[PredictionRow]], None],
        is_watched: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._publish = publish
        self._is_watched = is_watched
        self._rows: OrderedDict[RecordPlace, PredictionRow] = OrderedDict()
        self._labels: OrderedDict[str, Any] = OrderedDict()
        self._ends: dict[tuple[str, int], int] = {}
        self._reader: Reader | None = None
        self._decoder = assembly.decoder(config)
        self._label_decoder = assembly.label_decoder(config)
        self._text = ValueText(config, config.predictions.format)
        self._stopping = threading.Event()
        self.last_record: Record | None = None
        self._latency: Latency | None = None
        self._read_at = 0.0

    @property
    def latency(self) -> Latency | None:
        """The latency of the newest predictions; None if none has come for a while."""
        return self._latency if time.monotonic() - self._read_at < _FRESH_S else None

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="page-predictions", daemon=True).start()

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()

    def newest(self, count: int = SHOWN_MAX) -> list[PredictionRow]:
        """Return the newest rows, the newest first."""
        rows = sorted(self._rows.values(), key=lambda row: (row.at, row.partition, row.offset), reverse=True)
        return rows[:count]

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._is_watched():
                try:
                    if self.read():
                        self._publish(self.newest())
                except _ERRORS:
                    # The banner tells it; a new client finds the brokers faster than one that backs off.
                    self._close()
                except Exception as error:  # noqa: BLE001 the page must outlive whatever a library raises
                    log.warning("predictions were not read", reason=f"{type(error).__name__}: {error}")
                    self._close()
            self._stopping.wait(_EVERY_S)
        self._close()

    def read(self) -> bool:
        """Read what is new; return whether a row has changed. Raises ReaderAway, ReaderDenied, RegistryAway."""
        topics = self._config.topics
        found = self._newest_of(topics.predictions)
        rows = [row for record in found if (row := self._row(record)) is not None]
        rows.sort(key=lambda row: (row.at, row.partition, row.offset))
        rows = rows[-SHOWN_MAX:]
        self._add_records({(row.partition, row.offset): row for row in rows})
        for row in rows:
            self._rows[row.partition, row.offset] = row
        while len(self._rows) > _KEPT_MAX:
            self._rows.popitem(last=False)
        changed = self._add_labels() if topics.labels is not None else False
        if rows:
            self._read_at = time.monotonic()
            self._measure()
        return bool(rows) or changed

    def _newest_of(self, topic: str) -> list[Record]:
        """Return the records at the ends of a topic's partitions that were not read yet, but not too many."""
        spans = self._open().spans(topic)
        share = max(10, _SHARE // max(1, len(spans)))
        starts: dict[tuple[str, int], int] = {}
        for partition, span in spans.items():
            known = self._ends.get((topic, partition))
            back = _FIRST if known is None else share
            start = max(span.start, span.end - back, known or 0)
            if start < span.end:
                starts[topic, partition] = start
            self._ends[topic, partition] = span.end
        return self._fetch(starts, spans)

    def _fetch(self, starts: Mapping[tuple[str, int], int], spans: Mapping[int, Span]) -> list[Record]:
        """Read from these offsets up to the ends, or until nothing more comes."""
        if not starts:
            return []
        reader, found = self._open(), []
        reader.watch(starts)
        open_partitions = {partition for _, partition in starts}
        until = time.monotonic() + _READ_S
        quiet_at = until
        while open_partitions and (now := time.monotonic()) < min(until, quiet_at):
            more = reader.poll(wait_s=_QUIET_S)
            if more:
                # The last offsets may be a transaction's markers, which nobody gets.
                quiet_at = now + 2 * _QUIET_S
            for _, record in more:
                if record.offset < spans[record.partition].end:
                    found.append(record)
                if record.offset >= spans[record.partition].end - 1:
                    open_partitions.discard(record.partition)
        reader.watch({})
        return found

    def _row(self, record: Record) -> PredictionRow | None:
        try:
            value = msgspec.json.decode(self._text.of(record), type=_Value)
            source, model = value.source, value.model
            return PredictionRow(
                id=value.id,
                partition=int(source["partition"]),
                offset=int(source["offset"]),
                prediction=value.prediction,
                proba=value.proba,
                version=int(model.get("version", 0)),
                at=record.timestamp_ms,
                key=None if record.key is None else record.key.decode(errors="backslashreplace"),
                features=value.features,
                score=value.score,
            )
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            # Anybody may have written it.
            return None

    def _add_records(self, rows: Mapping[RecordPlace, PredictionRow]) -> None:
        """Read the records of these predictions, for their labels and times."""
        topic = self._config.topics.features
        starts: dict[tuple[str, int], int] = {}
        ends: dict[int, int] = {}
        for partition, offset in rows:
            starts[topic, partition] = min(offset, starts.get((topic, partition), offset))
            ends[partition] = max(offset + 1, ends.get(partition, 0))
        spans = {partition: Span(starts[topic, partition], end) for partition, end in ends.items()}
        for record in self._fetch(starts, spans):
            row = rows.get((record.partition, record.offset))
            if row is None:
                continue
            self.last_record = record
            row.latency_ms = max(0, row.at - record.timestamp_ms)
            with contextlib.suppress(RegistryAway):
                event = self._decoder.decode(record)
                if isinstance(event, Event):
                    row.features = row.features or dict(event.features)
                    if event.label is not msgspec.UNSET:
                        row.label, row.has_label = event.label, True

    def _add_labels(self) -> bool:
        topic = self._config.topics.labels
        assert topic is not None
        for record in self._newest_of(topic):
            label = self._label_decoder.decode(record)
            if isinstance(label, Label):
                self._labels[label.id] = label.label
        while len(self._labels) > 4 * _KEPT_MAX:
            self._labels.popitem(last=False)
        changed = False
        for row in self._rows.values():
            if row.id in self._labels and not row.has_label:
                row.label, row.has_label, changed = self._labels[row.id], True, True
        return changed

    def _measure(self) -> None:
        times = sorted(row.latency_ms for row in self.newest() if row.latency_ms is not None)
        if len(times) >= _LATENCY_MIN:
            self._latency = Latency(times[len(times) // 2], times[len(times) * 99 // 100], len(times))

    def _open(self) -> Reader:
        if self._reader is None:
            self._reader = Reader({**self._config.librdkafka, **_FETCH}, group=f"{self._config.name}.reader")
        return self._reader

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
