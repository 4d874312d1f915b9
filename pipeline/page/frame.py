"""One frame: all that the page and `top` show of a second, made from the reports of this and earlier seconds. Pure."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.pipeline.lag_clock import LagAge, LagClock
from headrace.pipeline.page.advice import STATUS, advise
from headrace.pipeline.page.timeline import Moment, TimelineEvent, events
from headrace.pipeline.recovery import offset_metadata
from headrace.pipeline.status.report import LabelTotals, Note, Report, Totals
from headrace.state.shard_model import MODEL

_RATE_MS = 3_000
_HASTE_S = 1.5
# A worker's note is at most this much older than what the worker knows, in seconds.
_NOTE_S = 2.0
_COUNTED = ("records", "predictions", "dead_letters", "learned", "skipped")


class Banner(msgspec.Struct, frozen=True):
    """How the stream is. `status` is the outcome of a record that comes now (0: nobody reads the topic).

    `since` is a time in ms. `words` and `command` say what to do; `faults` and `warnings` are further sentences.
    """

    state: str
    status: int
    since: int
    reason: str
    cause: str
    words: str
    command: str
    faults: Sequence[str]
    warnings: Sequence[str]


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from a record's timestamp to that of its prediction, over the `count` newest predictions."""

    p50: float
    p99: float
    count: int


class PartitionRow(msgspec.Struct, frozen=True):
    """One partition. `rate` is in records a second; `saved` is the time of the newest snapshot in ms."""

    partition: int
    committed: int | None
    lag: int | None
    lag_s: float
    lag_is_least: bool
    rate: float
    learned: int | None
    snapshot: int | None
    version: int | None
    saved: int | None
    worker: int | None


class StreamFrame(msgspec.Struct, frozen=True):
    """What is shown of one second. `at` is its time, and `counted` that of Kafka's answer that it rests on, in ms.

    What is not known is None. `events` are those since the frame before.
    """

    seq: int
    at: int
    counted: int | None
    banner: Banner
    counts: Totals | None
    rates: Mapping[str, float]
    lag: int | None
    lag_s: float
    lag_is_least: bool
    latency: Latency | None
    partitions: Sequence[PartitionRow]
    quality: Mapping[str, float] | None
    labels: LabelTotals | None
    labelled_share: float | None
    workers: Sequence[Mapping[str, Any]]
    events: Sequence[TimelineEvent]


class Sighting(msgspec.Struct, frozen=True):
    """What one second's frame is made from: a report, and the answers that it rests on with their times.

    `store_silence_s` is the time since the store's last answer, 0 while it answers. `store_patience_s` is the time
    after which a worker gives up waiting for it.
    """

    at_ms: int
    report: Report
    places: Mapping[int, PartitionOffsets] | None
    places_at_ms: int
    versions: Mapping[int, Sequence[Note]]
    faults: Sequence[str] = ()
    is_nothing: bool = False
    has_stop_reason: bool = False
    store_silence_s: float = 0.0
    store_patience_s: float = 3.0
    store_fault: str = ""
    latency: Latency | None = None


class FrameMaker:
    """Make frames of sightings that come in the order of time."""

    def __init__(self) -> None:
        self._seq = 0
        self._clocks: dict[int, LagClock] = {}
        self._counted: deque[tuple[int, Mapping[int, offset_metadata.OffsetMetadata]]] = deque()
        self._places: Mapping[int, PartitionOffsets] = {}
        self._known: Report | None = None
        self._state = ""
        self._since_ms = 0
        self._moment: Moment | None = None

    def make(self, seen: Sighting) -> StreamFrame:
        """Return the next frame."""
        if seen.places is not None:
            self._look(seen.places_at_ms, seen.places)
            self._known = seen.report
        known = self._known or seen.report
        state, reason, cause = self._state_of(seen)
        rows = [self._row(number, seen, state) for number in sorted(self._places)]
        oldest = max((self._age(number) for number in self._places), key=lambda age: age.seconds, default=LagAge(0.0))
        self._seq += 1
        return StreamFrame(
            seq=self._seq,
            at=seen.at_ms,
            counted=seen.places_at_ms or None,
            banner=self._banner(seen, state, reason, cause),
            counts=known.counts,
            rates=self._rates(),
            lag=known.lag,
            lag_s=oldest.seconds,
            lag_is_least=oldest.is_least,
            latency=seen.latency,
            partitions=rows,
            quality=seen.report.quality,
            labels=known.labels,
            labelled_share=_labelled_share(known),
            workers=seen.report.workers,
            events=self._events(seen, state, reason),
        )

    def _look(self, at_ms: int, places: Mapping[int, PartitionOffsets]) -> None:
        """Note an answer of Kafka, unless it is known already."""
        if self._counted and self._counted[-1][0] == at_ms:
            return
        self._places = places
        for partition, place in places.items():
            self._clocks.setdefault(partition, LagClock()).look(at_ms, place.high)
        marks = {number: offset_metadata.read(place.metadata) for number, place in places.items()}
        self._counted.append((at_ms, {number: mark for number, mark in marks.items() if mark is not None}))
        while len(self._counted) > 2 and at_ms - self._counted[1][0] >= _RATE_MS:  # noqa: PLR2004 a rate needs two
            self._counted.popleft()

    def _rates(self) -> dict[str, float]:
        """Return the records a second by outcome, over the last seconds."""
        parts = [self._rate(number, name) for name in _COUNTED for number in self._places]
        count = len(self._places)
        return {name: sum(parts[at * count : (at + 1) * count]) for at, name in enumerate(_COUNTED)}

    def _rate(self, partition: int, name: str) -> float:
        (then_ms, then), (now_ms, now) = (self._counted[0], self._counted[-1]) if self._counted else ((0, {}), (0, {}))
        if now_ms <= then_ms or partition not in now:
            return 0.0
        before = getattr(then[partition], name) if partition in then else 0
        counted = int(getattr(now[partition], name)) - int(before)
        return max(0.0, counted * 1_000 / (now_ms - then_ms))

    def _age(self, partition: int) -> LagAge:
        place = self._places[partition]
        return self._clocks[partition].age(max(place.committed or 0, place.low))

    def _state_of(self, seen: Sighting) -> tuple[str, str, str]:
        """Return the state, its reason and its cause."""
        report = seen.report
        notes = [note for note in report.workers if note.get("reason")]
        cause = next((str(note["cause"]) for note in notes if note.get("cause")), "")
        if seen.is_nothing:
            return "unknown", "", ""
        if report.state == "paused":
            fallback = "store" if seen.store_silence_s >= _HASTE_S else "" if seen.places is not None else "kafka"
            return "paused", report.reason or "", cause or fallback
        # A worker whose call to the store hangs writes no note until the call gives up, and handles no record.
        is_hanging = _HASTE_S <= seen.store_silence_s < seen.store_patience_s + _NOTE_S
        if report.state == "running" and is_hanging:
            return "paused", seen.store_fault, "store"
        return report.state, report.reason or "", cause

    def _banner(self, seen: Sighting, state: str, reason: str, cause: str) -> Banner:
        if state != self._state:
            told = [int(note.get("since_ms", 0)) for note in seen.report.workers if note.get("state") == state]
            self._since_ms = min([number for number in told if number] or [seen.at_ms])
            self._state = state
        is_new = self._known is not None and not (self._known.counts and self._known.counts.records)
        advice = advise(state, cause, has_stop_reason=seen.has_stop_reason, is_new=is_new)
        return Banner(
            state=state,
            status=STATUS.get(state, 0),
            since=self._since_ms,
            reason=reason,
            cause=cause,
            words=advice.words,
            command=advice.command,
            faults=[fault for fault in seen.faults if fault not in reason],
            warnings=seen.report.warnings,
        )

    def _row(self, partition: int, seen: Sighting, state: str) -> PartitionRow:
        place = self._places[partition]
        mark = offset_metadata.read(place.metadata)
        newest = next(iter(seen.versions.get(partition, ())), None)
        age = self._age(partition)
        owner = next(
            (note.get("ordinal") for note in seen.report.workers if partition in note.get("partitions", ())), None
        )
        return PartitionRow(
            partition=partition,
            committed=place.committed,
            lag=place.lag,
            lag_s=age.seconds,
            lag_is_least=age.is_least,
            rate=0.0 if state == "stopped" else self._rate(partition, "records"),
            learned=None if mark is None else mark.learned,
            snapshot=None if newest is None else newest["offset"],
            version=None if newest is None else newest["version"],
            saved=None if newest is None else newest["created_ms"],
            worker=owner,
        )

    def _events(self, seen: Sighting, state: str, reason: str) -> list[TimelineEvent]:
        epochs: dict[int, int] = {}
        for note in seen.report.workers:
            for number, epoch in (note.get("epochs") or {}).items():
                epochs[int(number)] = max(epoch, epochs.get(int(number), 0))
        if self._moment is not None:
            epochs = {**self._moment.epochs, **epochs}
        models = {number: notes[0].get("answers", MODEL) for number, notes in seen.versions.items() if notes}
        now = Moment(state, reason, seen.report.workers, epochs, models)
        before, self._moment = self._moment, now
        return [] if before is None else list(events(before, now, at_ms=seen.at_ms))


def _labelled_share(report: Report) -> float | None:
    """Return the share of the features with a label, of those whose wait is over; None before there is one."""
    if report.labels is not None:
        done = report.labels.joined + report.labels.expired + report.labels.evicted
        return report.labels.joined / done if done else None
    counts = report.counts
    return counts.learned / counts.predictions if counts is not None and counts.predictions else None
