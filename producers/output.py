"""The outputs of the pipeline by name: their records as columns, and what each asks of its topic. No client in here.

An output's name is its key in the configuration's `[topics]`, where it is declared as well.
"""

from collections.abc import Callable, Container, Iterable
from typing import Any, Protocol

import msgspec

from headrace.producers.record_size import HEADER_BYTES_MAX, PLAIN_BYTES_MAX, record_bytes

PREDICTIONS = "predictions"
DEAD_LETTERS = "dead_letters"

Reach = Callable[[str], None]
"""Told of each place that a batch passes on its way."""
OutputHeaders = Iterable[tuple[str, bytes | None]]
"""The headers of a record. They may be made anew each time they are iterated, and are the same each time."""

# A dead letter carries its record and a dozen headers more.
_ADDED_BYTES = 65_536
# A broker weighs a record as it came, compressed; a copy of it may weigh what a client can fetch at most.
_COPY_BYTES_MAX = 100_000_000


class OutputTopic(msgspec.Struct, frozen=True):
    """What an output asks of its topic: how the topic is created, and what `doctor` checks.

    An output that `carries_records` holds whole records of the features topic, with headers added. `retention_ms` is
    that of a topic that is created, None for the broker's default.
    """

    carries_records: bool = False
    retention_ms: int | None = None

    def bytes_wanted(self, record_bytes_max: int) -> int:
        """Return the `max.message.bytes` that the topic needs beside features of this size; 0 for any."""
        return record_bytes_max + _ADDED_BYTES if self.carries_records else 0

    def settings(self, record_bytes_max: int) -> dict[str, str]:
        """Return the settings with which the topic is created beside features of this size."""
        settings = {}
        if wanted := self.bytes_wanted(record_bytes_max):
            settings["max.message.bytes"] = str(max(wanted, _COPY_BYTES_MAX))
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        return settings


class OutputRecords(msgspec.Struct):
    """The records of one output, in order; `headers` holds, by position, those of the records that have any."""

    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: dict[int, OutputHeaders] = {}

    def add(self, key: bytes | None, value: bytes | None, headers: OutputHeaders | None = None) -> None:
        """Add one record at the end."""
        if headers is not None:
            self.headers[len(self.values)] = headers
        self.keys.append(key)
        self.values.append(value)

    def without(self, positions: Container[int]) -> "OutputRecords":
        """Return the records without some of them."""
        kept = OutputRecords()
        for position, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            if position not in positions:
                kept.add(key, value, self.headers.get(position))
        return kept

    def larger_than(self, bytes_max: int) -> dict[int, int]:
        """Return the size in bytes of each record that is larger than its topic takes, by position.

        Lengths are compared first; only a record that comes near the limit is measured.
        """
        keys, values, room = self.keys, self.values, bytes_max - PLAIN_BYTES_MAX
        near: Iterable[int] = ()
        if max(map(len, filter(None, values)), default=0) + max(map(len, filter(None, keys)), default=0) > room:
            pairs = enumerate(zip(keys, values, strict=True))
            near = [place for place, (key, value) in pairs if len(value or b"") + len(key or b"") > room]
        found = {place for place in near if place not in self.headers}
        for place, headers in self.headers.items():
            most = len(keys[place] or b"") + len(values[place] or b"")
            for name, text in headers:
                most += 4 * len(name) + len(text or b"") + HEADER_BYTES_MAX
            if most > room:
                found.add(place)
        sizes = {place: self._bytes(place) for place in sorted(found)}
        return {place: size for place, size in sizes.items() if size > bytes_max}

    def messages(self, begin: int, end: int) -> list[dict[str, Any]]:
        """Return a piece as the client's call for many takes it."""
        pairs = zip(self.keys[begin:end], self.values[begin:end], strict=True)
        return [{"key": key, "value": value} for key, value in pairs]

    def _bytes(self, position: int) -> int:
        headers = self.headers.get(position)
        return record_bytes(self.keys[position], self.values[position], None if headers is None else list(headers))

    def __len__(self) -> int:
        return len(self.values)


class Committable(Protocol):
    """What a batch gives for one partition, as a sink takes it.

    `records` are those of each output, by the output's name. `offset` is the next to consume, and `mark` its metadata;
    `labels_offset` is that of the labels topic, -1 where there is none.
    """

    partition: int
    records: dict[str, OutputRecords]
    offset: int
    labels_offset: int
    mark: str
