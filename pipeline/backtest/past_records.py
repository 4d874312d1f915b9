"""The records of a file or of a topic, in the order of time, for a backtest."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from headrace.consumers.reader import Reader, Span
from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.timestamp import read_time
from headrace.pipeline.config.config import Config
from headrace.pipeline.files.input_file import InputFile
from headrace.pipeline.files.subject import missing_topic
from headrace.pipeline.hinted_error import HintedError

TimeOf = Callable[[Record], int]
"""Returns the time of a record: of its event, else of the log, in ms."""


class PlaceRefused(HintedError):
    """Raised for a place that is neither a time nor an offset of a partition."""


class RangeEnd(NamedTuple):
    """A place in a topic or a file: a time in ms, or offsets by partition."""

    time_ms: int | None = None
    offsets: Mapping[int, int] = {}

    def is_before(self, record: Record, time_of: TimeOf) -> bool:
        """Tell whether a record is before this place."""
        if self.time_ms is not None:
            return time_of(record) < self.time_ms
        # A partition that is not named is not cut.
        return record.offset < self.offsets.get(record.partition, 0)


class Range(NamedTuple):
    """The records of each partition from the first one at or after `start` up to the first one at or after `end`."""

    start: RangeEnd | None = None
    end: RangeEnd | None = None

    def of(self, records: Iterator[Record], time_of: TimeOf) -> Iterator[Record]:
        """Yield the records of one partition that are in the range."""
        if self.start is None and self.end is None:
            yield from records
            return
        is_in = self.start is None
        for record in records:
            is_in = is_in or self.start is None or not self.start.is_before(record, time_of)
            if self.end is not None and not self.end.is_before(record, time_of) and self._ends(record):
                return
            if is_in:
                yield record

    def _ends(self, record: Record) -> bool:
        assert self.end is not None
        return self.end.time_ms is not None or record.partition in self.end.offsets


def place_of(text: str, option: str) -> RangeEnd:
    """Read TIME or P:O[,P:O…]. Raises PlaceRefused."""
    if (number := read_time(int(text), "ms") if text.isdigit() else read_time(text, "iso")) is not None:
        return RangeEnd(time_ms=number)
    offsets: dict[int, int] = {}
    for part in text.split(","):
        partition, colon, offset = part.partition(":")
        if not (colon and partition.isdigit() and offset.isdigit()):
            raise PlaceRefused(
                f"{option} {text}: this is neither a time nor a place in the log",
                hint="write a time like 2026-11-30T15:44:00Z or in ms, or places like 0:1200, PARTITION:OFFSET",
            )
        offsets[int(partition)] = int(offset)
    return RangeEnd(offsets=offsets)


def of_file(file: InputFile) -> Iterator[Record]:
    """Yield the rows of a file as records of partition 0, without a time of the log."""
    for number, row in enumerate(file.rows()):
        yield Record(0, number, 0, row.key, row.value, None)


class PastTopic:
    """A topic from its first record to the end that it has now. `partitions` are its readable offsets.

    `closing` closes its connections. Raises SubjectMissing if there is no such topic, and the errors of Reader.
    """

    def __init__(self, config: Config, topic: str, closing: ExitStack) -> None:
        self.topic = topic
        self._config = config
        self._closing = closing
        missing = missing_topic(config, topic)
        if missing is not None:
            raise missing
        self.partitions: dict[int, Span] = self._reader().spans(topic)

    def partition(self, number: int) -> Iterator[Record]:
        """Yield the records of one partition."""
        span = self.partitions.get(number, Span(0, 0))
        return self._reader().between(self.topic, number, span.start, span.end)

    def labels(self, number: int) -> Iterator[LabelRecord]:
        """Yield the records of one partition as labels."""
        for record in self.partition(number):
            yield LabelRecord(*msgspec.structs.astuple(record))

    def _reader(self) -> Reader:
        reader = Reader(self._config.librdkafka, group=f"{self._config.name}.reader")
        self._closing.callback(reader.close)
        return reader


def by_time(logs: Sequence[Iterator[Record]], time_of: TimeOf) -> Iterator[Record]:
    """Merge the records of several logs by their times; the records of one log keep their order.

    Of equal times the log that stands first comes first. A record counts as no earlier than those before it in its log.
    """

    def timed(rank: int, records: Iterator[Record]) -> Iterator[tuple[int, int, int, Record]]:
        newest = -1
        for number, record in enumerate(records):
            newest = max(newest, time_of(record))
            yield newest, rank, number, record

    if len(logs) == 1:
        return logs[0]
    return (entry[3] for entry in heapq.merge(*(timed(rank, records) for rank, records in enumerate(logs))))
