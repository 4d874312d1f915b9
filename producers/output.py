"""The outputs of the pipeline by name: their records as columns, and the settings of their topics, without a client.

An output's name is its key in the configuration's `[topics]`, where the output is declared.
"""

from collections.abc import Callable, Container, Iterable
from typing import Any, Protocol

import msgspec

from headrace.producers.record_size import HEADER_BYTES_MAX, PLAIN_BYTES_MAX, record_bytes

PREDICTIONS = "predictions"
DEAD_LETTERS = "dead_letters"
JOURNAL = "journal"
"""What was done to the models. Its topic has the pipeline's name, and no key in `[topics]`."""

Reach = Callable[[str], None]
"""Called with the name of each point that a batch passes on its way (`failpoint`)."""
OutputHeaders = Iterable[tuple[str, bytes | None]]
"""The headers of a record; each iteration may make them again, always the same."""

# For the dozen headers that a dead letter has besides its record.
_ADDED_BYTES = 65_536
# The limit of the features topic holds for compressed records; their copies may be much larger.
_COPY_BYTES_MAX = 100_000_000


class OutputTopic(msgspec.Struct, frozen=True):
    """The settings of an output's topic, for its creation and for the checks of `doctor`.

    With `carries_records` the topic holds whole records of the features topic, with more headers. `retention_ms` is set
    when the topic is created; None is the broker's default. An empty topic name turns an `optional` output off.
    """

    carries_records: bool = False
    retention_ms: int | None = None
    optional: bool = False

    def bytes_wanted(self, record_bytes_max: int) -> int:
        """Return the `max.message.bytes` that the topic needs if feature records have this size; 0 for any."""
        return record_bytes_max + _ADDED_BYTES if self.carries_records else 0

    def settings(self, record_bytes_max: int) -> dict[str, str]:
        """Return the settings with which the topic is created if feature records have this size."""
        settings = {}
        if wanted := self.bytes_wanted(record_bytes_max):
            settings["max.message.bytes"] = str(max(wanted, _COPY_BYTES_MAX))
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        return settings


class OutputRecords(msgspec.Struct):
    """The records of one output, in order; `headers` has the headers by position, for the records that have any.

    If each record answers an input record, `places` has the places of those in the batch; otherwise it is empty.
    """

    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: dict[int, OutputHeaders] = {}
    places: Any = []

    def add(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: OutputHeaders | None = None,
        *,
        place: int | None = None,
    ) -> None:
        """Add one record at the end."""
        if headers is not None:
            self.headers[len(self.values)] = headers
        self.keys.append(key)
        self.values.append(value)
        if place is not None:
            self.places.append(place)

    def extend(self, other: "OutputRecords", *, first: int) -> None:
        """Add the records of another part of the batch, whose first input record has the place `first`."""
        count = len(self.values)
        if other.headers:
            self.headers = {**self.headers, **{count + at: headers for at, headers in other.headers.items()}}
        self.keys += other.keys
        self.values += other.values
        if not isinstance(self.places, list):
            self.places = list(self.places)
        self.places += [place + first for place in other.places]

    def without(self, places: Container[int]) -> "OutputRecords":
        """Return the records except those that answer the input records at these places."""
        if not len(self.places):
            return self
        kept = OutputRecords()
        for position, (key, value, place) in enumerate(zip(self.keys, self.values, self.places, strict=True)):
            if place not in places:
                kept.add(key, value, self.headers.get(position), place=place)
        return kept

    def larger_than(self, bytes_max: int) -> dict[int, int]:
        """Return the size in bytes of each record that is larger than `bytes_max`, by position.

        Upper bounds are compared first; only records near the limit are measured.
        """
        keys, values, room = self.keys, self.values, bytes_max - PLAIN_BYTES_MAX
        near: Iterable[int] = ()
        if max(map(len, filter(None, values)), default=0) + max(map(len, filter(None, keys)), default=0) > room:
            pairs = enumerate(zip(keys, values, strict=True))
            near = [place for place, (key, value) in pairs if len(value or b"") + len(key or b"") > room]
        found = {place for place in near if place not in self.headers}
        for place, headers in self.headers.items():
            size_max = len(keys[place] or b"") + len(values[place] or b"")
            for name, text in headers:
                size_max += 4 * len(name) + len(text or b"") + HEADER_BYTES_MAX
            if size_max > room:
                found.add(place)
        sizes = {place: self._bytes(place) for place in sorted(found)}
        return {place: size for place, size in sizes.items() if size > bytes_max}

    def messages(self, begin: int, end: int) -> list[dict[str, Any]]:
        """Return a range of the records for the client's `produce_batch`."""
        pairs = zip(self.keys[begin:end], self.values[begin:end], strict=True)
        return [{"key": key, "value": value} for key, value in pairs]

    def _bytes(self, position: int) -> int:
        headers = self.headers.get(position)
        return record_bytes(self.keys[position], self.values[position], None if headers is None else list(headers))

    def __len__(self) -> int:
        return len(self.values)


class Committable(Protocol):
    """The outputs of a batch for one partition, and the offsets to commit with them.

    `records` has the records of each output by its name. `offset` is the next offset of the features, `mark` its
    metadata; `labels_offset` is the next offset of the labels topic, -1 without one.
    """

    partition: int
    records: dict[str, OutputRecords]
    offset: int
    labels_offset: int
    mark: str
