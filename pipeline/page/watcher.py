"""Reads the pipeline's state beside the viewers, and makes one frame a second for all of them.

Kafka and the store are each read on a thread of their own, so that one that is away delays neither the other nor the
frame. Without viewers all is read less often. The pipeline's workers are never asked: they write their notes anyway.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from headrace.pipeline.config.config import Config
from headrace.pipeline.page.frame import FrameMaker, Latency, Sighting, StreamFrame
from headrace.pipeline.status.reader import KafkaAnswer, StatusReader, StoreAnswer
from headrace.pipeline.status.report import Note, summarise

log = structlog.get_logger("headrace")

FRAME_S = 1.0
IDLE_S = 5.0
"""The time between two frames without a viewer, in seconds."""
STORE_S = 1.0
_STOP_S = 5.0


class _Latest:
    """The newest answer of one source. It is replaced as a whole, so that readers need no lock."""

    def __init__(self, first: KafkaAnswer | StoreAnswer) -> None:
        self.answer = first
        self.at_ms = 0
        self.silent_since: float | None = None

    @property
    def silence_s(self) -> float:
        """The time since the first question that has no good answer yet, in seconds."""
        return 0.0 if self.silent_since is None else time.monotonic() - self.silent_since

    def ask(self) -> None:
        """Note that a question is asked."""
        if self.silent_since is None:
            self.silent_since = time.monotonic()

    def take(self, answer: KafkaAnswer | StoreAnswer, *, is_good: bool) -> None:
        """Note the answer to the last question."""
        self.answer = answer
        if is_good:
            self.at_ms, self.silent_since = time.time_ns() // 1_000_000, None


class Watcher:
    """Watch one pipeline; `publish` gets each frame, on the watcher's thread.

    `latency` returns that of the newest predictions, if it is known. `is_watched` tells whether anybody looks on.
    """

    def __init__(
        self,
        config: Config,
        *,
        publish: Callable[[StreamFrame], None],
        latency: Callable[[], Latency | None] = lambda: None,
        is_watched: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._reader = StatusReader(config, store_s=STORE_S)
        self._publish = publish
        self._latency = latency
        self._is_watched = is_watched
        self._maker = FrameMaker()
        self._kafka = _Latest(KafkaAnswer())
        self._store = _Latest(StoreAnswer())
        self._versions: Mapping[int, Sequence[Note]] = {}
        self._members = 0
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def versions(self) -> StoreAnswer:
        """The store's newest answer."""
        assert isinstance(self._store.answer, StoreAnswer)
        return self._store.answer

    @property
    def kafka(self) -> KafkaAnswer:
        """Kafka's newest answer."""
        assert isinstance(self._kafka.answer, KafkaAnswer)
        return self._kafka.answer

    def start(self) -> None:
        """Start the threads."""
        for name, work in (("kafka", self._ask_kafka), ("store", self._ask_store), ("frames", self._tick)):
            thread = threading.Thread(target=self._repeat, args=(work,), name=f"page-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads; one that still waits for an answer is left to itself."""
        self._stopping.set()
        until = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def look(self) -> StreamFrame:
        """Read all sources once and return a frame; for those who want no thread."""
        self._ask_kafka()
        self._ask_store()
        return self._frame()

    def _repeat(self, work: Callable[[], None]) -> None:
        due, told = time.monotonic(), ""
        while not self._stopping.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001 the page must outlive whatever a library raises
                reason = f"{type(error).__name__}: {error}"
                if reason != told:
                    log.warning("the page could not read", reason=reason)
                told = reason
            due = max(due + (FRAME_S if self._is_watched() else IDLE_S), time.monotonic())
            self._wait(due)

    def _wait(self, due: float) -> None:
        """Wait until a time; end early at a stop, and when the first viewer comes."""
        while not self._stopping.is_set() and (left := due - time.monotonic()) > 0:
            self._stopping.wait(min(left, FRAME_S))
            if left > FRAME_S and self._is_watched():
                return

    def _ask_kafka(self) -> None:
        self._kafka.ask()
        answer = self._reader.ask_kafka()
        if self.versions.is_away and answer.places:
            self._members = self._reader.count_members(answer.places)
        self._kafka.take(answer, is_good=answer.places is not None)
        self._asked.set()

    def _ask_store(self) -> None:
        # The first question needs the partitions; without Kafka the store is searched for them.
        self._asked.wait(STORE_S)
        self._store.ask()
        answer = self._reader.ask_store(self.kafka.places)
        if answer.versions is not None:
            self._versions = answer.versions
        self._store.take(answer, is_good=not answer.is_away)

    def _tick(self) -> None:
        if self._asked.wait(FRAME_S):
            self._publish(self._frame())

    def _frame(self) -> StreamFrame:
        kafka, store, local = self.kafka, self.versions, self._reader.ask_workers()
        members = self._members if store.is_away else 0
        seen = self._reader.observe(kafka, store, local, unseen_members=members)
        return self._maker.make(
            Sighting(
                at_ms=time.time_ns() // 1_000_000,
                report=summarise(self._config.name, seen),
                places=seen.places,
                places_at_ms=self._kafka.at_ms,
                versions=self._versions,
                faults=seen.faults,
                is_nothing=seen.nothing and bool(seen.faults),
                has_stop_reason=bool(seen.stop_reasons),
                store_silence_s=self._store.silence_s,
                store_patience_s=self._config.redis.timeout,
                store_fault=next(iter(store.faults), "the store does not answer"),
                latency=self._latency(),
            )
        )
