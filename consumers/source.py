"""The way in: a member of the consumer group that gives batches and keeps its place while it is paused.

Nothing of a partition is read until the runner has taken it over and says from which offset: only then does the
client get it. The rebalance callbacks only note what happened: all work on it is done between polls.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, cast

import msgspec
from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from headrace.consumers.chunk import Chunk
from headrace.consumers.client_properties import SettingsRefused, consumer_settings
from headrace.consumers.consumer_errors import meaning_of
from headrace.consumers.record import LabelRecord, Record

_Log = tuple[bool, int]
"""One of a partition's two logs: whether it is that of the labels, and the partition."""

BYTES_MAX = 16 << 20
"""About so many bytes of values make a batch, however small or large its records are."""

_SLICE_RECORDS = 1_000
_CALL_S = 5.0
_LEAVE_S = 2.0
_LEFT_S = 0.25
_LOOK_S = 0.05


class SourceAway(Exception):
    """Raised when Kafka does not answer a question that the runner can't go on without."""

    status = 503
    hint = "nothing is lost: the pipeline waits for Kafka and goes on by itself"


class SourceLost(Exception):
    """Raised when the client itself can't go on: the process must end, and another take its place."""

    status = 503
    hint = "nothing to do: the worker is started again and goes on from the committed offset"


class SourceError(Exception):
    """Raised when reading can't go on without somebody's help."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class OffsetGone(SourceError):
    """Raised when the log does not hold the offset that is to be read next."""


class Committed(msgspec.Struct, frozen=True):
    """What the group has committed for a partition: the next offset (-1 for none) and its metadata.

    `labels` is the next offset of the labels topic, -1 where there is none.
    """

    offset: int
    metadata: str
    labels: int = -1


class Batch(msgspec.Struct, frozen=True):
    """Records by partition, in offset order, with the membership that held when they were consumed.

    `ends` has, for each partition that was read to its end, the offset that the next record will have. `labels` and
    `label_ends` are those of the labels topic.
    """

    records: Mapping[int, Chunk]
    ends: Mapping[int, int]
    membership: Any
    labels: Mapping[int, Chunk] = {}
    label_ends: Mapping[int, int] = {}


class Source:
    """The features topic, as a member of the group sees it, and beside it the labels topic, if there is one.

    The group is joined for the features. Whoever has a partition of them reads the labels of the same number, so
    that the two are never apart, whatever the group's assignor does.

    `settings` are librdkafka's, `group` is the consumer group. `rebalanced` is called from within `poll`
    with the partitions that came and those that went; it must return at once. `unreachable` is true from when
    the client has lost every broker until one answers `partitions`; `joined` says that the group has this member, and
    has told it its partitions. Raises SettingsRefused.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        group: str,
        topic: str,
        rebalanced: Callable[[Sequence[int], Sequence[int]], None],
        labels: str | None = None,
    ) -> None:
        settings = {**consumer_settings(settings, group=group), "error_cb": self._heard}
        self._incremental = settings.get("group.protocol") == "consumer" or "cooperative" in settings.get(
            "partition.assignment.strategy", ""
        )
        self._topic = topic
        self._labels = labels
        self._rebalanced = rebalanced
        try:
            self._consumer = Consumer(settings)
        except KafkaException as error:
            raise SettingsRefused(error.args[0].str()) from error
        self.unreachable = False
        self.joined = False
        self.assigned: set[int] = set()
        # Of each log that the client has: the offset after the last record that it gave.
        self._next: dict[_Log, int] = {}
        self._paused: set[_Log] = set()

    def subscribe(self) -> None:
        """Join the group. The partitions come with later polls."""
        self._consumer.subscribe([self._topic], on_assign=self._came, on_revoke=self._went, on_lost=self._lost)

    def poll(self, *, records_max: int, wait_s: float, bytes_max: int = BYTES_MAX) -> Batch | None:
        """Wait for the first record, then take what else is there; None when nothing came in time.

        Once there are `bytes_max` bytes of values, no more is taken than a slice of messages.

        Raises SourceError for what no waiting mends and SourceLost for a client that is dead; its other errors are
        waited out.
        """
        first = self._consumer.poll(wait_s)
        if first is None:
            return None
        messages = [first, *self._fetched(records_max - 1, bytes_max - len(first))]
        ends: dict[_Log, int] = {}
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._note(message, error, ends)
            messages = [message for message in messages if message.error() is None]
        found: dict[_Log, list[Message]] = {}
        # A log's messages come in long runs.
        for partition, run in groupby(messages, Message.partition):
            for labels, part in groupby(run, self._is_label) if self._labels is not None else ((False, run),):
                found.setdefault((labels, cast("int", partition)), []).extend(part)
        records = {log: Chunk(run, LabelRecord if log[0] else Record) for log, run in found.items()}
        # Once a log, not once a record; and what was revoked within this very poll is no longer the client's.
        for log in records.keys() & self._next.keys():
            self._next[log] = records[log].offsets[-1] + 1
        return self._batch(records, ends) if records or ends else None

    def _fetched(self, records_max: int, bytes_max: int) -> list[Message]:
        """Take what the client has fetched, slice by slice, until there is enough of it."""
        messages: list[Message] = []
        while records_max > len(messages) and bytes_max > 0:
            slice_ = self._consumer.consume(min(_SLICE_RECORDS, records_max - len(messages)), 0)
            if not slice_:
                break
            messages += slice_
            bytes_max -= sum(map(len, slice_))
        return messages

    def _is_label(self, message: Message) -> bool:
        return message.topic() == self._labels

    def _note(self, message: Message, error: KafkaError, ends: dict[_Log, int]) -> None:
        """Note where a log ends, or judge any other event that is no record."""
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's own codes
            ends[message.topic() == self._labels, cast("int", message.partition())] = cast("int", message.offset())
            return
        self._refuse(error)
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            # Comes with a partition or without, and only once: a static member that lost its session, say.
            raise SourceLost(f"the consumer can't go on: {error.str()}")
        if meaning_of(error.code()) == "offset" and message.partition() in {None, -1, *(p for _, p in self._next)}:
            raise OffsetGone(
                f"the log no longer holds the offset to read next: {error.str()}",
                hint="raise the topic's retention; `headrace status` shows where each partition stands",
            )

    def nothing(self) -> Batch:
        """Return an empty batch, for records that wait from earlier ones: its membership is as good for them."""
        return self._batch({}, {})

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop fetching what is being read. What was fetched and not polled is dropped."""
        reading = [log for partition in partitions for log in self._logs(partition) if log in self._next]
        self._hold(reading)

    def hold(self, partition: int, *, labels: bool) -> None:
        """Stop fetching one of a partition's two logs, until `read_on`."""
        self._hold([(labels, partition)])

    def read_from(self, partition: int, offset: int, labels: int = -1) -> None:
        """Read a partition from an offset on, and its labels from theirs, paused or not before.

        Raises SourceAway when the client can't yet.
        """
        self.read_on(partition, offset, labels=False)
        if self._labels is not None:
            self.read_on(partition, labels, labels=True)

    def read_on(self, partition: int, offset: int, *, labels: bool) -> None:
        """Read one of a partition's two logs from an offset on. Raises SourceAway when the client can't yet."""
        log = labels, partition
        try:
            if log in self._next:
                self._consumer.seek(self._place(log, offset))
                self._next[log] = offset
            else:
                self._add(log, offset)
            self._consumer.resume([self._place(log)])
        except KafkaException as error:
            raise self._away(f"partition {partition} can't be read yet", error.args[0]) from error
        self._paused.discard(log)

    def is_at_end(self, partition: int, offset: int, *, labels: bool) -> bool:
        """Tell whether a log had no record at an offset or beyond, as the last fetch has shown; no round trip."""
        try:
            _, high = self._consumer.get_watermark_offsets(self._place((labels, partition)), cached=True)
        except KafkaException:
            return False
        return 0 <= high <= offset

    def _add(self, log: _Log, offset: int) -> None:
        """Give the client a log, at an offset that it has not to look up.

        A place to be looked up, such as the log's end, with a seek after it is no way: the answer may come after
        the seek, and then the reading jumps there in silence.
        """
        if self._incremental:
            self._consumer.incremental_assign([self._place(log, offset)])
            self._next[log] = offset
            return
        self._next[log] = offset
        self._consumer.assign([self._place(log, offset) for log, offset in self._next.items()])
        # The others begin anew, and it is not to be relied on that they remember that they were paused.
        self._consumer.pause([self._place(log) for log in self._paused])

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        """Return what the group has committed, waiting out a transaction that is still open."""
        asked = [self._place(log) for partition in partitions for log in self._logs(partition)]
        try:
            places = self._consumer.committed(asked, timeout=_CALL_S)
        except KafkaException as error:
            raise self._away("the committed offsets can't be read", error.args[0]) from error
        for place in places:
            if place.error is not None:
                raise self._away("the committed offsets can't be read", place.error)
        labels = {place.partition: max(place.offset, -1) for place in places if place.topic == self._labels}
        return {
            place.partition: Committed(max(place.offset, -1), place.metadata or "", labels.get(place.partition, -1))
            for place in places
            if place.topic == self._topic
        }

    def watermarks(self, partition: int, *, labels: bool = False) -> tuple[int, int]:
        """Return the first offset that a log still holds, and the next that a reader could get. Raises SourceAway."""
        return self._watermarks((labels, partition), cached=False)

    def log_start(self, partition: int, *, labels: bool = False) -> int:
        """Return the first offset that a log still holds, as it was told with what came last. Raises SourceAway.

        A question of its own would wait behind a fetch that waits for records, and the loop with it: it is asked only
        where nothing is fetched.
        """
        log = labels, partition
        low = self._watermarks(log, cached=True)[0] if log in self._next and log not in self._paused else -1
        return low if low >= 0 else self._watermarks(log, cached=False)[0]

    def _watermarks(self, log: _Log, *, cached: bool) -> tuple[int, int]:
        try:
            return self._consumer.get_watermark_offsets(self._place(log), timeout=_CALL_S, cached=cached)
        except KafkaException as error:
            raise self._away("the log's ends can't be read", error.args[0]) from error

    def commit(self, offsets: Mapping[int, Committed]) -> None:
        """Commit offsets outside a transaction (at-least-once). Raises SourceAway."""
        places = [TopicPartition(self._topic, p, c.offset, c.metadata) for p, c in offsets.items()]
        if self._labels is not None:
            places += [TopicPartition(self._labels, p, c.labels) for p, c in offsets.items()]
        try:
            done = self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            raise self._away("the offsets can't be committed", error.args[0]) from error
        for place in done or ():
            if place.error is not None:
                raise self._away("the offsets can't be committed", place.error)

    def partitions(self) -> list[int]:
        """Return the topic's partitions. Raises SourceAway; an empty list says that there is no topic."""
        try:
            topic = self._consumer.list_topics(self._topic, timeout=_CALL_S).topics[self._topic]
        except KafkaException as error:
            raise self._away("Kafka does not answer", error.args[0]) from error
        self.unreachable = False
        return sorted(topic.partitions)

    def leave(self) -> None:
        """Leave the group, static member or not, so that all is given out anew; this client is done then."""
        self.joined = False
        until = time.monotonic() + _LEAVE_S
        try:
            self._consumer.unsubscribe()
            # The request goes out when what the member had has been taken from it, which a poll hears of.
            while self._consumer.memberid() and time.monotonic() < until:
                self._consumer.poll(_LOOK_S)
            # The member forgets who it is just before the request goes out.
            self._consumer.poll(_LEFT_S)
        except KafkaException as error:
            raise self._away("the group can't be left", error.args[0]) from error

    def close(self) -> None:
        """Leave the group, so that the others need not wait for the session to end."""
        self._consumer.close()

    def _came(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places]
        # None yet: where they are read from is known when they have been taken over.
        if self._incremental:
            consumer.incremental_assign([])
        else:
            consumer.assign([])
            self._next.clear()
            self._paused.clear()
        self.joined = True
        self.assigned.update(partitions)
        self._rebalanced(partitions, ())

    def _went(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places]
        self.assigned.difference_update(partitions)
        self._rebalanced((), partitions)
        if self._incremental:
            logs = [log for partition in partitions for log in self._logs(partition) if log in self._next]
            consumer.incremental_unassign([self._place(log) for log in logs])
        else:
            self.joined = False
            consumer.unassign()
        for log in [log for partition in partitions for log in self._logs(partition)]:
            self._next.pop(log, None)
            self._paused.discard(log)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.joined = False
        self._went(consumer, places)

    def _heard(self, error: KafkaError) -> None:
        # Whether one broker is gone is the client's business; an idle worker must notice when all are.
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 librdkafka's own codes
            self.unreachable = True

    def _away(self, what: str, error: KafkaError) -> SourceAway:
        """Return what a call raises that Kafka has not answered. Raises SourceError for what no waiting mends."""
        self._refuse(error)
        return SourceAway(f"{what}: {error.str()}")

    def _refuse(self, error: KafkaError) -> None:
        meaning = meaning_of(error.code())
        if meaning == "right":
            raise SourceError(
                f"Kafka denies it: {error.str()}",
                hint="give the user READ on the features topic and on the group (`headrace doctor`)",
            )
        if meaning == "setting":
            raise SourceError(
                f"Kafka does not take a request as it is: {error.str()}",
                hint="look at [kafka.librdkafka], and at the broker's own settings and version (`headrace doctor`)",
            )

    def _batch(self, records: Mapping[_Log, Chunk], ends: Mapping[_Log, int]) -> Batch:
        return Batch(
            {partition: found for (labels, partition), found in records.items() if not labels},
            {partition: end for (labels, partition), end in ends.items() if not labels},
            self._consumer.consumer_group_metadata(),
            {partition: found for (labels, partition), found in records.items() if labels},
            {partition: end for (labels, partition), end in ends.items() if labels},
        )

    def _hold(self, logs: Sequence[_Log]) -> None:
        self._consumer.pause([self._place(log) for log in logs])
        self._paused.update(logs)

    def _logs(self, partition: int) -> tuple[_Log, ...]:
        features, labels = (False, partition), (True, partition)
        return (features,) if self._labels is None else (features, labels)

    def _place(self, log: _Log, offset: int = OFFSET_INVALID) -> TopicPartition:
        labels, partition = log
        return TopicPartition(cast("str", self._labels) if labels else self._topic, partition, offset)
