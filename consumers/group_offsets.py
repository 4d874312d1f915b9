"""Where a group stands in the features topic, asked from outside: no membership, no effect, one short wait.

`status` and `doctor` look through it at the offsets that the workers move.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from headrace.consumers.broker_checks import admin
from headrace.consumers.client_properties import outsider
from headrace.consumers.source import SourceAway, SourceError

TIMEOUT_S = 2.0
"""How long one answer may take, in seconds: a person waits for it."""

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]

# A group's coordinator that has just come up, or just moved, answers so for a moment.
_PASSING = frozenset(
    {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}
)
_AGAIN_S = 0.1
# An open transaction's offsets are not waited for.
_OWN = {"log_level": 0, "isolation.level": "read_uncommitted"}
_UNKNOWN_STATES = frozenset({"", "Dead", "Unknown"})


class PartitionOffsets(msgspec.Struct, frozen=True):
    """One partition: what the group has committed (None for nothing) with its metadata, and the log's two ends.

    `low` is the first offset that the log still holds, `high` the next that a `read_committed` reader could get;
    `labels` is the place in the labels topic, where there is one.
    """

    committed: int | None
    metadata: str
    low: int
    high: int
    labels: "PartitionOffsets | None" = None

    @property
    def lag(self) -> int | None:
        """Records that the group has still to handle, labels too; the whole log when it has committed nothing.

        None where the committed offset lies past the log's end: the records behind it are not known.
        """
        if self.committed is not None and self.committed > self.high:
            return None
        own = self.high - max(self.committed or 0, self.low)
        if self.labels is None:
            return own
        return None if self.labels.lag is None else own + self.labels.lag


class GroupOffsets:
    """The partitions of `topic`, and of the topic `labels`, as `group` has left them.

    Raises SettingsRefused, SourceAway, SourceError.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        group: str,
        topic: str,
        labels: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._admin = admin(settings)
        # Asks as a consumer that never joins: the admin client's questions to a group's coordinator end the process
        # where the connection breaks under them (librdkafka #4605).
        self._consumer = outsider(settings, group=group, own=_OWN)
        self._group = group
        self._topic = topic
        self._labels = labels
        self._timeout_s = timeout_s

    def read(self) -> dict[int, PartitionOffsets]:
        """Return every partition's place, by number; nothing when there is no such topic."""
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
                if error.args[0].code() not in _PASSING or time.monotonic() > until:
                    raise _fault(error) from error
            time.sleep(_AGAIN_S)

    def members(self) -> int | None:
        """Return how many members the group has now; None when that can't be known.

        A broker that is silent may be the one that knows, and groups of the newer protocol are not told of.
        """
        try:
            told = self._admin.list_groups(self._group, timeout=self._timeout_s)
        except KafkaException:
            return None
        known = [group for group in told if group.error is None and group.state not in _UNKNOWN_STATES]
        return sum(len(group.members) for group in known) if known else None

    def _places(self, name: str) -> dict[int, PartitionOffsets]:
        topic = self._admin.list_topics(name, timeout=self._timeout_s).topics[name]
        partitions = [TopicPartition(name, partition) for partition in sorted(topic.partitions)]
        if not partitions:
            return {}
        # The last offset that was committed: one of a transaction that is still open is no place yet. First, since the
        # log goes on meanwhile.
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
        low, high = ({place.partition: told.result().offset for place, told in end.items()} for end in ends)
        return {
            place.partition: PartitionOffsets(
                place.offset if place.offset >= 0 else None,
                place.metadata or "",
                low[place.partition],
                high[place.partition],
            )
            for place in committed
        }


def _fault(error: KafkaException) -> Exception:
    fault = error.args[0]
    if "AUTH" in fault.name():
        return SourceError(
            f"Kafka denies it: {fault.str()}",
            hint="give the user DESCRIBE on the features topic and on the group",
        )
    return SourceAway(f"Kafka does not answer: {fault.str()}")
