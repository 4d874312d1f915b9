"""Reads topics outside of any membership: what lies between two offsets, or what comes from now on.

For commands that look or replay (`tail`, `dlq`, `produce --wait`), never for the stream itself. All of it is
`read_committed`, so offsets are not dense: markers and aborted records stand between them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.consumers.chunk import Chunk
from headrace.consumers.client_properties import outsider
from headrace.consumers.record import Record
from headrace.consumers.source import Committed

T = TypeVar("T")

_CALL_S = 5.0
_SILENCE_S = 10.0
_AGAIN_S = 0.1
_RECORDS_MAX = 500
# What retention takes away while somebody looks is gone; the reader goes on with what there is.
_OWN = {"auto.offset.reset": "earliest"}
_DEFAULTS = {
    "log_level": 0,
    # The end of a partition is told by an empty answer, which a command should not wait for long.
    "fetch.wait.max.ms": 20,
    "queued.max.messages.kbytes": 16_384,
    # Once so much is fetched ahead the client asks for no more for as long, by default a second.
    "fetch.queue.backoff.ms": 10,
}
_DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 librdkafka's own codes start with an underscore
    }
)

_PASSING = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)


class ReaderAway(Exception):
    """Raised when Kafka does not answer a reader in time."""

    status = 503
    hint = "see that Kafka runs at kafka.bootstrap_servers (`headrace doctor`), then run it again"


class ReaderDenied(Exception):
    """Raised when Kafka does not let this user read."""

    status = 400
    hint = "give the user READ and DESCRIBE on the topic (`headrace doctor`)"


class Span(msgspec.Struct, frozen=True):
    """What a partition holds for a reader: offsets from `start` up to, but not including, `end`."""

    start: int
    end: int


class Reader:
    """Read topics on behalf of `group`, which it never joins. Every call is bounded in time.

    Raises ReaderAway when Kafka does not answer, ReaderDenied when it refuses, and SettingsRefused.
    """

    def __init__(self, settings: Mapping[str, Any], *, group: str) -> None:
        self._settings, self._group = {**_DEFAULTS, **settings}, group
        self._consumer = self._client()

    def spans(self, topic: str) -> dict[int, Span]:
        """Return what each partition holds now; nothing when there is no such topic."""
        asked = _patiently(
            f"{topic} can't be read",
            lambda: self._consumer.list_topics(topic, timeout=_CALL_S).topics[topic].partitions,
        )
        return {partition: self._span(TopicPartition(topic, partition)) for partition in sorted(asked)}

    def between(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield a partition's records from offset `start` up to, but not including, `end`, in order."""
        if start >= end:
            return
        self._consumer.assign([TopicPartition(topic, partition, start)])
        heard, why = time.monotonic(), ""
        while True:
            for message in self._consume(wait_s=0.5):
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    why = f": {_judge(topic, error)}"
                    continue
                # A record past the end, or the end itself: nothing before it is still to come. The broker may
                # tell of an earlier end for a moment while a partition's leader changes; that one is not it.
                if message.offset() >= end:
                    return
                if error is None:
                    yield Chunk([message]).record(0)
                    heard = time.monotonic()
            if time.monotonic() - heard > _SILENCE_S:
                raise ReaderAway(f"{topic}[{partition}] gave nothing for {_SILENCE_S:.0f} s{why}")

    def watch(self, places: Mapping[tuple[str, int], int]) -> None:
        """Go on from these offsets, by topic and partition; `poll` gives what comes."""
        self._consumer.assign(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in places.items()]
        )

    def poll(self, *, wait_s: float) -> list[tuple[str, Record]]:
        """Wait for the first record of those that are watched and return what is there, each with its topic."""
        found = []
        for message in self._consume(wait_s=wait_s):
            error = message.error()
            if error is None:
                found.append((message.topic(), Chunk([message]).record(0)))
            else:
                _judge(message.topic(), error)
        return found

    def committed(self, topic: str, partitions: list[int], *, stable: bool) -> dict[int, Committed]:
        """Return what the group has committed, for the partitions that it has committed anything for.

        With `stable`, a transaction that is still open is waited for; else its offsets do not count.
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
            places = _patiently("the committed offsets can't be read", ask)
        finally:
            consumer.close()
        return {place.partition: Committed(place.offset, place.metadata or "") for place in places if place.offset >= 0}

    def _client(self, **own: Any) -> Consumer:
        return outsider(self._settings, group=self._group, own={**_OWN, **own})

    def membership(self) -> Any:
        """Return the group's metadata, with which offsets can be committed while nobody is a member."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _span(self, place: TopicPartition) -> Span:
        low, high = _patiently(
            f"{place.topic} can't be read",
            lambda: self._consumer.get_watermark_offsets(place, timeout=_CALL_S, cached=False),
        )
        return Span(low, high)

    def _consume(self, *, wait_s: float) -> list[Any]:
        # Asking for many at once waits for all of them or for the whole time.
        first = self._consumer.poll(wait_s)
        return [] if first is None else [first, *self._consumer.consume(_RECORDS_MAX - 1, 0)]


def _judge(topic: str | None, error: KafkaError) -> str:
    """Return the words of an error that may pass; raise the one that will not."""
    if error.code() in _DENIED:
        raise ReaderDenied(f"Kafka denies it for {topic}: {error.str()}")
    return "" if error.code() == KafkaError._PARTITION_EOF else error.str()  # noqa: SLF001


def _patiently(what: str, ask: Callable[[], T]) -> T:
    """Ask again while a leader or a coordinator is being found or starts, as after a broker's start."""
    until = time.monotonic() + _SILENCE_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            fault = error.args[0]
            if fault.code() in _DENIED:
                raise ReaderDenied(f"{what}: {fault.str()}") from error
            if fault.code() not in _PASSING or time.monotonic() > until:
                raise ReaderAway(f"{what}: {fault.str()}") from error
            time.sleep(_AGAIN_S)
