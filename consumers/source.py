"""The way in: a member of the consumer group that polls batches of records, and stays a member while it is paused.

A partition is not read until the runner has taken it over and names an offset: the client gets the partition then. The
rebalance callbacks only note which partitions came and went; the runner acts on that between polls.
"""

import contextlib
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

from headrace.consumers.client_properties import BROKERS_KEY, consumer_settings, refusal
from headrace.consumers.consumer_errors import meaning_of
from headrace.consumers.messages import batch_of
from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch

PartitionLog = tuple[bool, int]
"""One of a partition's two logs: whether it is the log of the labels, and the partition."""
Polled = Mapping[PartitionLog, RecordBatch]
"""The batches of one poll, by log. A log that was read to its end has a batch even if it had no more records."""

BYTES_MAX = 16 << 20
"""A batch ends when its values together have about this number of bytes."""

_SLICE_RECORDS = 1_000
_CALL_S = 5.0
_LEAVE_S = 2.0
_LEFT_S = 0.25
_LOOK_S = 0.05
_FRESH = "leave what was learned behind: `headrace run --on-state-loss fresh`"


class SourceAway(Exception):
    """Raised when Kafka does not answer a request that the runner needs."""

    status = 503
    address_key = BROKERS_KEY
    hint = "start Kafka or correct kafka.bootstrap_servers; a running pipeline waits for it and loses nothing"


class SourceLost(Exception):
    """Raised when the client itself has failed: the process must end and be started again."""

    status = 503
    hint = "nothing to do: the worker is started again and goes on from the committed offset"


class SourceError(Exception):
    """Raised when reading can't go on until a person changes something."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class SourceDenied(SourceError):
    """Raised when the user lacks a right in Kafka."""

    status = 403


class OffsetGone(SourceError):
    """Raised when the log no longer holds the next offset to read."""


class Committed(msgspec.Struct, frozen=True):
    """The group's committed offset for a partition (-1: none), and its metadata.

    `labels` is the committed offset in the labels topic (-1: none).
    """

    offset: int
    metadata: str
    labels: int = -1


class Source:
    """Read the features topic as a member of the group, and the labels topic, if there is one.

    The group assigns only partitions of the features. A member also reads the labels partition of the same number.
    So one worker has both partitions, with every assignor of the group.

    `settings` are librdkafka's. `unreachable` is true after the client has lost every broker, until one answers
    `partitions`. `joined` is true while the group has assigned partitions to this member. Raises SettingsRefused.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        group: str,
        topic: str,
        labels: str | None = None,
    ) -> None:
        self._note_fault = settings.get("error_cb", lambda _: None)
        settings = {**consumer_settings(settings, group=group), "error_cb": self._on_error}
        self._incremental = settings.get("group.protocol") == "consumer" or "cooperative" in settings.get(
            "partition.assignment.strategy", ""
        )
        self._topic = topic
        self._labels = labels
        try:
            self._consumer = Consumer(settings)
        except KafkaException as error:
            raise refusal(error) from error
        self.unreachable = False
        self.joined = False
        self.assigned: set[int] = set()
        # For each log that the client reads: the offset after the last record that was polled.
        self._next: dict[PartitionLog, int] = {}
        self._paused: set[PartitionLog] = set()
        self.membership: Any = None
        """The member of the group, in the generation of the last poll: who loses a partition later can't commit."""

    def subscribe(self, rebalanced: Callable[[Sequence[int], Sequence[int]], None]) -> None:
        """Join the group. The partitions come with later polls.

        `poll` calls `rebalanced` with the partitions that came and the partitions that went; it must return at once.
        """
        self._rebalanced = rebalanced
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, *, records_max: int, wait_s: float, bytes_max: int = BYTES_MAX) -> Polled:
        """Wait for the first record and return it with all others that are fetched already; nothing after `wait_s`.

        The batches may exceed `bytes_max` bytes of values by one slice of messages.

        Raises SourceError for an error that does not pass by itself, and SourceLost for a client that has failed.
        """
        first = self._consumer.poll(wait_s)
        messages = [] if first is None else [first, *self._fetched(records_max - 1, bytes_max - len(first))]
        self.membership = self._consumer.consumer_group_metadata()
        if first is None:
            return {}
        ends: dict[PartitionLog, int] = {}
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._note(message, error, ends)
            messages = [message for message in messages if message.error() is None]
        found: dict[PartitionLog, list[Message]] = {log: [] for log in ends}
        # Messages of one log come in long runs, so grouping costs little for each message.
        for partition, run in groupby(messages, Message.partition):
            for labels, part in groupby(run, self._is_label) if self._labels is not None else ((False, run),):
                found.setdefault((labels, cast("int", partition)), []).extend(part)
        polled = {log: batch_of(log[1], run, LabelRecord if log[0] else Record) for log, run in found.items()}
        for log, end in ends.items():
            polled[log].end = end
        # A log that this same poll revoked is not in `_next` any more.
        for log in polled.keys() & self._next.keys():
            if batch := polled[log]:
                self._next[log] = batch.offsets[-1] + 1
        return polled

    def _fetched(self, records_max: int, bytes_max: int) -> list[Message]:
        """Consume the messages that the client has fetched already, slice by slice, up to both limits."""
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

    def _note(self, message: Message, error: KafkaError, ends: dict[PartitionLog, int]) -> None:
        """Note the end of a log. Raises SourceError or SourceLost for an error that does not pass."""
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's own codes
            ends[message.topic() == self._labels, cast("int", message.partition())] = cast("int", message.offset())
            return
        self._refuse(error)
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            # librdkafka reports a fatal error once, with a partition or without: a lost static member, for example.
            raise SourceLost(f"the consumer can't go on: {error.str()}")
        if meaning_of(error.code()) == "offset" and message.partition() in {None, -1, *(p for _, p in self._next)}:
            raise self._gone(message, error)

    def _gone(self, message: Message, error: KafkaError) -> OffsetGone:
        """Say which records the log no longer holds, as far as Kafka answers."""
        log = message.topic() == self._labels, cast("int", message.partition())
        name, offset = cast("str", message.topic()), self._next.get(log, -1)
        hint = f"raise the retention of {name}; to go on without them, {_FRESH}"
        low, high = -1, -1
        with contextlib.suppress(SourceAway):
            low, high = self._watermarks(log, cached=False)
        if 0 <= offset < low:
            return OffsetGone(
                f"partition {log[1]}: the log of {name} no longer holds the offset {offset}, the next one to read: it "
                f"begins at {low}, and {low - offset} records are gone",
                hint=hint,
            )
        if 0 <= high < offset:
            return OffsetGone(
                f"partition {log[1]}: the log of {name} ends at {high}, before the offset {offset}, the next one to "
                "read: Kafka has lost records",
                hint=f"restore them, or {_FRESH}",
            )
        return OffsetGone(f"the log of {name} no longer holds the offset to read next: {error.str()}", hint=hint)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop fetching both logs of partitions. Messages that were fetched and not polled are dropped."""
        self._pause([log for partition in partitions for log in self._logs(partition) if log in self._next])

    def pause_log(self, partition: int, *, labels: bool) -> None:
        """Stop fetching one of a partition's two logs, until `read_log_from`."""
        self._pause([(labels, partition)])

    def read_from(self, partition: int, offset: int, labels: int = -1) -> None:
        """Read a partition from `offset`, and its labels from the offset `labels`; this ends a pause.

        Raises SourceAway when the client can't yet.
        """
        self.read_log_from(partition, offset, labels=False)
        if self._labels is not None:
            self.read_log_from(partition, labels, labels=True)

    def read_log_from(self, partition: int, offset: int, *, labels: bool) -> None:
        """Read one of a partition's two logs from an offset. Raises SourceAway when the client can't yet."""
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
        """Tell whether a log had no record at an offset or after it at the last fetch; no round trip."""
        try:
            _, high = self._consumer.get_watermark_offsets(self._place((labels, partition)), cached=True)
        except KafkaException:
            return False
        return 0 <= high <= offset

    def _add(self, log: PartitionLog, offset: int) -> None:
        """Give the client a log, with its offset.

        Do not assign the log without an offset and seek then: the client would look an offset up, its answer may come
        after the seek, and reading would jump there without an error.
        """
        if self._incremental:
            self._consumer.incremental_assign([self._place(log, offset)])
            self._next[log] = offset
            return
        self._next[log] = offset
        self._consumer.assign([self._place(log, offset) for log, offset in self._next.items()])
        # A new assignment may forget that logs were paused.
        self._consumer.pause([self._place(log) for log in self._paused])

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        """Return the group's committed offsets; wait until an open transaction has ended."""
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
        """Return a log's first offset, and the offset after the last readable record. Raises SourceAway."""
        return self._watermarks((labels, partition), cached=False)

    def log_range(self, partition: int, *, labels: bool = False) -> tuple[int, int]:
        """Return a log's first offset and the offset of its next record, as the last fetch told. Raises SourceAway.

        A request of its own would wait, and the loop with it, behind a fetch that waits for records. So the broker is
        asked only for a log that is not being fetched.
        """
        log = labels, partition
        if log in self._next and log not in self._paused:
            low, high = self._watermarks(log, cached=True)
            if low >= 0:
                return low, high
        return self._watermarks(log, cached=False)

    def _watermarks(self, log: PartitionLog, *, cached: bool) -> tuple[int, int]:
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
        """Return the topic's partitions; an empty list when there is no topic. Raises SourceAway."""
        try:
            topic = self._consumer.list_topics(self._topic, timeout=_CALL_S).topics[self._topic]
        except KafkaException as error:
            raise self._away("Kafka does not answer", error.args[0]) from error
        self.unreachable = False
        return sorted(topic.partitions)

    def leave(self) -> None:
        """Leave the group, also as a static member, so that it assigns anew. The client can't be used afterwards."""
        self.joined = False
        until = time.monotonic() + _LEAVE_S
        try:
            self._consumer.unsubscribe()
            # The client sends the request after its partitions are revoked, and that happens in a poll.
            while self._consumer.memberid() and time.monotonic() < until:
                self._consumer.poll(_LOOK_S)
            # It clears the member id just before it sends the request.
            self._consumer.poll(_LEFT_S)
        except KafkaException as error:
            raise self._away("the group can't be left", error.args[0]) from error

    def close(self) -> None:
        """Leave the group, so that the other members need not wait for the end of the session."""
        self._consumer.close()

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places]
        # Assign none yet: the runner knows the offsets after it has taken the partitions over.
        if self._incremental:
            consumer.incremental_assign([])
        else:
            consumer.assign([])
            self._next.clear()
            self._paused.clear()
        self.joined = True
        self.assigned.update(partitions)
        self._rebalanced(partitions, ())

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
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

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.joined = False
        self._on_revoke(consumer, places)

    def _on_error(self, error: KafkaError) -> None:
        self._note_fault(error)
        # The client handles the loss of one broker; an idle worker must notice the loss of all.
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 librdkafka's own codes
            self.unreachable = True

    def _away(self, what: str, error: KafkaError) -> SourceAway:
        """Return the error for a call that failed. Raises SourceError for an error that does not pass by itself."""
        self._refuse(error)
        return SourceAway(f"{what}: {error.str()}")

    def _refuse(self, error: KafkaError) -> None:
        meaning = meaning_of(error.code())
        if meaning == "right":
            raise SourceDenied(
                f"Kafka denies it: {error.str()}",
                hint="give the user READ on the features topic and on the group (`headrace doctor`)",
            )
        if meaning == "setting":
            raise SourceError(
                f"Kafka refuses a request: {error.str()}",
                hint="check [kafka.librdkafka], and the broker's own settings and version (`headrace doctor`)",
            )

    def _pause(self, logs: Sequence[PartitionLog]) -> None:
        self._consumer.pause([self._place(log) for log in logs])
        self._paused.update(logs)

    def _logs(self, partition: int) -> tuple[PartitionLog, ...]:
        features, labels = (False, partition), (True, partition)
        return (features,) if self._labels is None else (features, labels)

    def _place(self, log: PartitionLog, offset: int = OFFSET_INVALID) -> TopicPartition:
        labels, partition = log
        return TopicPartition(cast("str", self._labels) if labels else self._topic, partition, offset)
