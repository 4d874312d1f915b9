"""Reads a group's committed offsets and the ends of the logs, without joining the group and within a short time.

`status` and `doctor` show the workers' progress with it.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import (
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from headrace.consumers.client_properties import outsider
from headrace.consumers.consumer_errors import NOT_READY, meaning_of
from headrace.consumers.source import SourceAway, SourceDenied
from headrace.consumers.topics import admin_client

TIMEOUT_S = 2.0
"""The time for one answer, in seconds: a person waits for it."""

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]

_RETRY_S = 0.1
# Do not wait for open transactions.
_OWN = {"log_level": 0, "isolation.level": "read_uncommitted"}
_UNKNOWN_STATES = frozenset({"", "Dead", "Unknown"})


class PartitionOffsets(msgspec.Struct, frozen=True):
    """One partition: the group's committed offset (None: none) with its metadata, and the log's two ends.

    `low` is the log's first offset, `high` the offset after the last that a `read_committed` reader can get. `labels`
    holds the same for the labels topic, if there is one.
    """

    committed: int | None
    metadata: str
    low: int
    high: int
    labels: "PartitionOffsets | None" = None

    @property
    def lag(self) -> int | None:
        """Return the number of records left to handle, labels included; all of the log without a committed offset.

        None if the committed offset lies after the log's end: the log has lost records.
        """
        if self.committed is not None and self.committed > self.high:
            return None
        own = self.high - max(self.committed or 0, self.low)
        if self.labels is None:
            return own
        return None if self.labels.lag is None else own + self.labels.lag


class GroupOffsets:
    """The offsets of `group` in `topic`, and in the topic `labels`. Raises SettingsRefused, SourceAway, SourceError."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        group: str,
        topic: str,
        labels: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._admin = admin_client({**settings, "log_level": 0})
        # A consumer reads the committed offsets: an admin client's request to a group coordinator ends the process if
        # the connection breaks meanwhile (librdkafka #4605).
        self._consumer = outsider(settings, group=group, own=_OWN)
        self._group = group
        self._topic = topic
        self._labels = labels
        self._timeout_s = timeout_s

    def read(self) -> dict[int, PartitionOffsets]:
        """Return the offsets of every partition; empty when there is no such topic."""
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                places = self._places(self._topic)
                if self._labels is None:
                    return places
                labels = self._places(self._labels)
                return {
                    partition: msgspec.structs.replace(place, labels=labels.get(partition))
                    for partition, place in places.items()
                }
            except KafkaException as error:
                if error.args[0].code() not in NOT_READY or time.monotonic() > until:
                    raise self._fault(error) from error
            time.sleep(_RETRY_S)

    def members(self) -> int | None:
        """Return the number of the group's members; None when it can't be known.

        The coordinator may not answer, and this request does not list groups of the newer protocol.
        """
        try:
            groups = self._admin.list_groups(self._group, timeout=self._timeout_s)
        except KafkaException:
            return None
        known = [group for group in groups if group.error is None and group.state not in _UNKNOWN_STATES]
        return sum(len(group.members) for group in known) if known else None

    def _places(self, name: str) -> dict[int, PartitionOffsets]:
        topic = self._admin.list_topics(name, timeout=self._timeout_s).topics[name]
        partitions = [TopicPartition(name, partition) for partition in sorted(topic.partitions)]
        if not partitions:
            return {}
        # Read the committed offsets before the logs' ends, which may grow meanwhile.
        committed = self._consumer.committed(partitions, timeout=self._timeout_s)
        for place in committed:
            if place.error is not None:
                raise KafkaException(place.error)
        ends = [
            self._admin.list_offsets(
                dict.fromkeys(partitions, spec),
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self._timeout_s,
            )
            for spec in (_EARLIEST, _LATEST)
        ]
        low, high = ({place.partition: answer.result().offset for place, answer in end.items()} for end in ends)
        return {
            place.partition: PartitionOffsets(
                place.offset if place.offset >= 0 else None,
                place.metadata or "",
                low[place.partition],
                high[place.partition],
            )
            for place in committed
        }

    def _fault(self, error: KafkaException) -> Exception:
        # Only a poll calls `error_cb`, which is told why there is no connection.
        self._admin.poll(0)
        self._consumer.poll(0)
        fault = error.args[0]
        if meaning_of(fault.code()) == "right":
            return SourceDenied(
                f"Kafka denies it: {fault.str()}",
                hint="give the user DESCRIBE on the features topic and on the group",
            )
        return SourceAway(f"Kafka does not answer: {fault.str()}")
