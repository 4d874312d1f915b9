"""The records of one partition as columns, so that a batch needs no object for each record.

Only a record that is handled singly, or refused, becomes an object.
"""

from bisect import bisect_left
from collections.abc import Sequence

from headrace.consumers.record import Record, RecordHeaders


class RecordBatch:
    """Records of one partition, in offset order, with a sequence for each field.

    `headers` is None if no record has any. `record` and `records` make objects of `kind`. `end` is the end offset of
    the log if the log was read to its end.
    """

    def __init__(
        self,
        partition: int,
        *,
        offsets: Sequence[int],
        timestamps: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[RecordHeaders | None] | None = None,
        kind: type[Record] = Record,
        end: int | None = None,
    ) -> None:
        self.partition = partition
        self.offsets = offsets
        self.timestamps = timestamps
        self.keys = keys
        self.values = values
        self.headers = headers
        self.end = end
        self._kind = kind

    @classmethod
    def of(cls, records: Sequence[Record]) -> "RecordBatch":
        """Return records of one partition as a batch. There must be one at least."""
        return cls(
            records[0].partition,
            offsets=[record.offset for record in records],
            timestamps=[record.timestamp_ms for record in records],
            keys=[record.key for record in records],
            values=[record.value for record in records],
            headers=[record.headers for record in records],
            kind=type(records[0]),
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def since(self, offset: int) -> "RecordBatch":
        """Return the records from this offset on."""
        return self.split(offset)[1]

    def split(self, offset: int) -> tuple["RecordBatch", "RecordBatch"]:
        """Return the records below an offset, and the others."""
        at = bisect_left(self.offsets, offset)
        return self._piece(0, at), self._piece(at, len(self))

    def first(self, count: int) -> "RecordBatch":
        """Return the first records; unless they are all, nothing is known of the end of the log."""
        return self._piece(0, count)

    def without_first(self, count: int) -> "RecordBatch":
        """Return the records behind the first ones."""
        return self._piece(count, len(self))

    def with_values(self, values: Sequence[bytes | None]) -> "RecordBatch":
        """Return the same records with other values, such as without their frames."""
        return RecordBatch(
            self.partition,
            offsets=self.offsets,
            timestamps=self.timestamps,
            keys=self.keys,
            values=values,
            headers=self.headers,
            kind=self._kind,
        )

    def record(self, position: int) -> Record:
        """Return one record as an object."""
        headers = None if self.headers is None else self.headers[position]
        place = self.partition, self.offsets[position], self.timestamps[position]
        return self._kind(*place, self.keys[position], self.values[position], headers)

    def records(self) -> list[Record]:
        """Return each record as an object."""
        headers = [None] * len(self) if self.headers is None else self.headers
        columns = zip(self.offsets, self.timestamps, self.keys, self.values, headers, strict=True)
        return [self._kind(self.partition, *fields) for fields in columns]

    def _piece(self, begin: int, end: int) -> "RecordBatch":
        if end - begin == len(self):
            return self
        return RecordBatch(
            self.partition,
            offsets=self.offsets[begin:end],
            timestamps=self.timestamps[begin:end],
            keys=self.keys[begin:end],
            values=self.values[begin:end],
            headers=None if self.headers is None else self.headers[begin:end],
            kind=self._kind,
        )


Records = RecordBatch | Sequence[Record]
"""Records of one partition, as columns or as objects."""


def cut(records: Records, at: int) -> tuple[Records, Records]:
    """Return the first `at` records, and the others."""
    if isinstance(records, RecordBatch):
        return records.first(at), records.without_first(at)
    return records[:at], records[at:]


def keys_of(records: Records) -> Sequence[bytes | None]:
    """Return the key of each record."""
    return records.keys if isinstance(records, RecordBatch) else [record.key for record in records]


def newest_ms(records: Records) -> int:
    """Return the timestamp of the last record."""
    return records.timestamps[-1] if isinstance(records, RecordBatch) else records[-1].timestamp_ms
