"""Kafka's side of a worker in memory: one topic with its group, a consumer of it, and a sink of transactions.

`Kafka.faults` holds the errors that the next calls of a name raise, in order; None lets a call pass. What is in
`Kafka.meanwhile` happens with each call of its name.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Message

from headrace.consumers.messages import batch_of
from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.source import Committed, Polled
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers.sink import BatchStale

TOPIC_NAME, LABELS_NAME = "in", "truths"


class Kafka:
    """The logs, the offsets of the group, and what committed transactions brought."""

    def __init__(self, partitions: int = 1) -> None:
        self.logs: dict[int, list[Message]] = {partition: [] for partition in range(partitions)}
        self.labels: dict[int, list[Message]] = {partition: [] for partition in range(partitions)}
        self.lows = dict.fromkeys(self.logs, 0)
        self.offsets: dict[int, Committed] = {}
        self.generation = 1
        self.predictions: dict[int, list[Any]] = {partition: [] for partition in self.logs}
        self.letters: dict[int, list[int]] = {partition: [] for partition in self.logs}
        self.faults: dict[str, deque[Exception | None]] = {}
        self.calls: list[str] = []
        self.meanwhile: dict[str, Callable[[], Any]] = {}
        self.may_answer = threading.Event()
        self.may_answer.set()

    def append(self, partition: int, values: Iterable[bytes | None], *, at_ms: int = 5, labels: bool = False) -> None:
        """Append records to a partition's log of the features, or of the labels."""
        log, topic = (self.labels, LABELS_NAME) if labels else (self.logs, TOPIC_NAME)
        for value in values:
            offset = len(log[partition])
            found = Message(
                topic=topic, partition=partition, offset=offset, key=b"k", value=value, timestamp=(1, at_ms)
            )
            log[partition].append(found)

    def call(self, name: str) -> None:
        """Note a call, and raise what it is to raise."""
        self.calls.append(name)
        if (happens := self.meanwhile.get(name)) is not None:
            happens()
        waiting = self.faults.get(name)
        if waiting and (error := waiting.popleft()) is not None:
            raise error

    def fail(self, name: str, *errors: Exception | None) -> None:
        """Let the next calls of this name fail, one error each."""
        self.faults.setdefault(name, deque()).extend(errors)

    def take(self, outputs: Sequence[PartitionOutputs]) -> None:
        """Take what a transaction brings: its outputs and its offsets together."""
        for output in outputs:
            self.predictions[output.partition] += map(json.loads, output.predictions.values)
            self.letters[output.partition] += [letter.record.offset for letter in output.dead_letters]
            self.offsets[output.partition] = Committed(output.offset, output.mark, output.labels_offset)

    def predicted(self, partition: int = 0) -> list[int]:
        """Return the offsets of the records that have predictions, in the order in which those came."""
        return [prediction["source"]["offset"] for prediction in self.predictions[partition]]


Log = tuple[int, bool]
"""One of a partition's two logs: its partition, and whether it is that of the labels."""


class MemorySource:
    """A member of the group. `changes` come with the next polls: partitions that come, partitions that go."""

    def __init__(
        self,
        kafka: Kafka,
        *,
        idle: Callable[[float], None],
        assigned: Sequence[int],
        labels: bool = False,
    ) -> None:
        self._kafka = kafka
        self._idle = idle
        self._first = list(assigned)
        self._logs = (False, True) if labels else (False,)
        self.changes: deque[tuple[Sequence[int], Sequence[int]]] = deque()
        self.unreachable = self.joined = self.closed = False
        self.assigned: set[int] = set()
        self.next: dict[Log, int] = {}
        self.paused: set[Log] = set()
        self._told: dict[Log, int] = {}
        self.membership = kafka.generation

    def subscribe(self, rebalanced: Callable[[Sequence[int], Sequence[int]], None]) -> None:
        self._rebalanced = rebalanced
        self.changes.append((self._first, ()))

    def poll(self, *, records_max: int, wait_s: float) -> Polled:
        self._kafka.call("poll")
        self.membership = self._kafka.generation
        if self.changes:
            self._change(*self.changes.popleft())
            return {}
        polled: dict[tuple[bool, int], RecordBatch] = {}
        for log in sorted(self.next.keys() - self.paused):
            at = self.next[log]
            if run := self._log(log)[at : at + records_max]:
                polled[log[::-1]] = batch_of(log[0], run, LabelRecord if log[1] else Record)
                self.next[log] = at + len(run)
                records_max -= len(run)
            elif self._told.get(log) != at:
                polled[log[::-1]] = batch_of(log[0], ())
                polled[log[::-1]].end = self._told[log] = at
        if not polled:
            self._idle(wait_s)
        return polled

    def _log(self, log: Log) -> list[Message]:
        return (self._kafka.labels if log[1] else self._kafka.logs)[log[0]]

    def _change(self, came: Sequence[int], went: Sequence[int]) -> None:
        self.joined = True
        self.assigned.difference_update(went)
        self.assigned.update(came)
        # While it is told what goes, a member may still commit.
        self._rebalanced(came, went)
        self._kafka.generation += 1
        for log in [log for log in self.next if log[0] in went]:
            self.next.pop(log)
            self.paused.discard(log)

    def pause(self, partitions: Iterable[int]) -> None:
        self.paused.update(log for log in self.next if log[0] in set(partitions))

    def pause_log(self, partition: int, *, labels: bool) -> None:
        self.paused.add((partition, labels))

    def read_from(self, partition: int, offset: int, labels: int = -1) -> None:
        for log in self._logs:
            self.read_log_from(partition, labels if log else offset, labels=log)

    def read_log_from(self, partition: int, offset: int, *, labels: bool) -> None:
        self._kafka.call("read_log_from")
        self.next[partition, labels] = offset
        self._told.pop((partition, labels), None)
        self.paused.discard((partition, labels))

    def is_at_end(self, partition: int, offset: int, *, labels: bool) -> bool:
        return offset >= len(self._log((partition, labels)))

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        self._kafka.call("committed")
        return {partition: self._kafka.offsets.get(partition, Committed(-1, "")) for partition in partitions}

    def watermarks(self, partition: int, *, labels: bool = False) -> tuple[int, int]:
        self._kafka.call("watermarks")
        return 0 if labels else self._kafka.lows[partition], len(self._log((partition, labels)))

    def log_range(self, partition: int, *, labels: bool = False) -> tuple[int, int]:
        return self.watermarks(partition, labels=labels)

    def commit(self, offsets: Mapping[int, Committed]) -> None:
        self._kafka.call("commit")
        self._kafka.offsets.update(offsets)

    def partitions(self) -> list[int]:
        self._kafka.call("partitions")
        self.unreachable = False
        return sorted(self._kafka.logs)

    def leave(self) -> None:
        self.joined = False

    def close(self) -> None:
        self.closed = True


class MemorySink:
    """A producer: `send` is a transaction whose offsets a member of an older generation can't commit.

    Faults of "send" come before the commit, those of "sent" after it.
    """

    aborts = 0
    begun_at: float | None = None

    def __init__(self, kafka: Kafka, *, commits: bool = True) -> None:
        self._kafka = kafka
        self.commits = commits
        self.batch_bytes_max = 0

    def open(self) -> None:
        self._kafka.call("open")

    def send(self, outputs: Sequence[PartitionOutputs], membership: Any, permit: Callable[[], None]) -> None:
        self._kafka.call("send")
        assert self._kafka.may_answer.wait(20)
        if not self.commits:
            offsets = dict(self._kafka.offsets)
            self._kafka.take(outputs)
            self._kafka.offsets = offsets
            return
        if membership != self._kafka.generation:
            raise BatchStale("the member is of an older generation")
        permit()
        self._kafka.take(outputs)
        self._kafka.call("sent")

    def close(self) -> None:
        self._kafka.call("close")
