"""Reads topics without joining a group: the records between two offsets, or the new ones as they come.

The commands use it (`tail`, `dlq`, `produce --wait`), never the stream itself. It reads `read_committed`, so offsets
have gaps: transaction markers and aborted records.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.consumers.client_properties import BROKERS_KEY, outsider
from headrace.consumers.consumer_errors import NOT_READY, meaning_of
from headrace.consumers.messages import batch_of
from headrace.consumers.record import Record
from headrace.consumers.source import Committed

T = TypeVar("T")

_CALL_S = 5.0
_SILENCE_S = 10.0
_RETRY_S = 0.1
_RECORDS_MAX = 500
_WINDOW_MIN = 16
# Retention may delete records while a command reads: go on with the first that is left.
_OWN = {"auto.offset.reset": "earliest"}
_DEFAULTS = {
    "log_level": 0,
    # An empty fetch reports the end of a partition; a command should not wait long for it.
    "fetch.wait.max.ms": 20,
    "queued.max.messages.kbytes": 16_384,
    # The client stops fetching for this time when its queue is full; by default a second.
    "fetch.queue.backoff.ms": 10,
}


class ReaderAway(Exception):
    """Raised when Kafka does not answer a reader in time."""

    status = 503
    address_key = BROKERS_KEY
    hint = "check that Kafka runs at kafka.bootstrap_servers (`headrace doctor`), then run it again"


class ReaderDenied(Exception):
    """Raised when Kafka does not let this user read."""

    status = 403
    hint = "give the user READ and DESCRIBE on the topic (`headrace doctor`)"


class Span(msgspec.Struct, frozen=True):
    """The readable offsets of a partition: from `start` up to, but not including, `end`."""

    start: int
    end: int


class Reader:
    """Read topics for `group` without joining it; every call has a timeout.

    Raises ReaderAway when Kafka does not answer, ReaderDenied when the user lacks a right, and SettingsRefused.
    """

    def __init__(self, settings: Mapping[str, Any], *, group: str) -> None:
        self._settings, self._group = {**_DEFAULTS, **settings}, group
        self._consumer = self._client()

    def spans(self, topic: str) -> dict[int, Span]:
        """Return the readable offsets of each partition; empty when there is no such topic."""
        partitions = _with_retries(
            self._consumer,
            f"{topic} can't be read",
            lambda: self._consumer.list_topics(topic, timeout=_CALL_S).topics[topic].partitions,
        )
        return {partition: self.span(topic, partition) for partition in sorted(partitions)}

    def between(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield a partition's records from offset `start` up to, but not including, `end`, in order."""
        if start >= end:
            return
        self._consumer.assign([TopicPartition(topic, partition, start)])
        read_at, why = time.monotonic(), ""
        while True:
            for message in self._consume(wait_s=0.5):
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    why = f": {_passing(topic, error)}"
                    continue
                # A record after the end, or the partition's end: all before it has come. An end before `end` is not
                # final: the broker may report one for a moment while a partition's leader changes.
                if message.offset() >= end:
                    return
                if error is None:
                    yield batch_of(message.partition(), [message]).record(0)
                    read_at = time.monotonic()
            if time.monotonic() - read_at > _SILENCE_S:
                raise ReaderAway(f"{topic}[{partition}] gave nothing for {_SILENCE_S:.0f} s{why}")

    def last(self, topic: str, spans: Mapping[int, Span], n: int) -> list[Record]:
        """Return the last records over these spans of the partitions, at most `n`, oldest first."""
        found = [record for partition, span in spans.items() for record in self._last(topic, partition, span, n)]
        found.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        return found[-n:] if n else []

    def _last(self, topic: str, partition: int, span: Span, n: int) -> list[Record]:
        """Return the last records of a partition, at most `n`.

        Offsets have gaps: transaction markers and aborted records take some of them. So read windows of growing width,
        from the end backwards.
        """
        found: list[Record] = []
        end, width = span.end, max(_WINDOW_MIN, 2 * n)
        while n and len(found) < n and end > span.start:
            start = max(span.start, end - width)
            found = [*deque(self.between(topic, partition, start, end), maxlen=n - len(found)), *found]
            end, width = start, width * 4
        return found

    def watch(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Read on from these offsets, by topic and partition; `poll` returns the records."""
        self._consumer.assign(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        )

    def poll(self, *, wait_s: float) -> list[tuple[str, Record]]:
        """Wait for the first record of the watched partitions; return all that are fetched, each with its topic."""
        found = []
        for message in self._consume(wait_s=wait_s):
            error = message.error()
            if error is None:
                found.append((message.topic(), batch_of(message.partition(), [message]).record(0)))
            else:
                _passing(message.topic(), error)
        return found

    def committed(self, topic: str, partitions: list[int], *, stable: bool) -> dict[int, Committed]:
        """Return the group's committed offsets, without the partitions that have none.

        With `stable`, wait until an open transaction has ended; otherwise ignore its offsets.
        """
        consumer = self._client(**{} if stable else {"isolation.level": "read_uncommitted"})
        asked = [TopicPartition(topic, partition) for partition in partitions]

        def ask() -> list[TopicPartition]:
            places = consumer.committed(asked, timeout=_CALL_S)
            for place in places:
                if place.error is not None:
                    raise KafkaException(place.error)
            return places

        try:
            places = _with_retries(consumer, "the committed offsets can't be read", ask)
        finally:
            consumer.close()
        return {place.partition: Committed(place.offset, place.metadata or "") for place in places if place.offset >= 0}

    def _client(self, **own: Any) -> Consumer:
        return outsider(self._settings, group=self._group, own={**_OWN, **own})

    def membership(self) -> Any:
        """Return the group metadata with which a transaction can commit offsets while the group has no member."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def span(self, topic: str, partition: int) -> Span:
        """Return the readable offsets of one partition."""
        place = TopicPartition(topic, partition)
        low, high = _with_retries(
            self._consumer,
            f"{place.topic} can't be read",
            lambda: self._consumer.get_watermark_offsets(place, timeout=_CALL_S, cached=False),
        )
        return Span(low, high)

    def _consume(self, *, wait_s: float) -> list[Any]:
        # `consume` would wait until it has all of them, or for the whole time.
        first = self._consumer.poll(wait_s)
        return [] if first is None else [first, *self._consumer.consume(_RECORDS_MAX - 1, 0)]


def _passing(topic: str | None, error: KafkaError) -> str:
    """Return the text of an error that may pass. Raises ReaderDenied for a missing right."""
    if meaning_of(error.code()) == "right":
        raise ReaderDenied(f"Kafka denies it for {topic}: {error.str()}")
    return "" if error.code() == KafkaError._PARTITION_EOF else error.str()  # noqa: SLF001


def _with_retries(consumer: Consumer, what: str, ask: Callable[[], T]) -> T:
    """Repeat a request while its leader or coordinator is not ready, as after a broker's start."""
    until = time.monotonic() + _SILENCE_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            fault = error.args[0]
            if meaning_of(fault.code()) == "right":
                raise ReaderDenied(f"{what}: {fault.str()}") from error
            if fault.code() not in NOT_READY or time.monotonic() > until:
                # Only a poll calls `error_cb`, which is told why there is no connection.
                consumer.poll(0)
                raise ReaderAway(f"{what}: {fault.str()}") from error
            time.sleep(_RETRY_S)
