"""A batch gives its records as columns or as objects, and splits where it is told."""

from typing import Any

import pytest
from confluent_kafka import Message

from headrace.consumers.messages import batch_of
from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch, keys_of, newest_ms

OFFSETS = [3, 4, 7, 8, 12]


def _message(offset: int, headers: Any = None) -> Message:
    key, value = b"k%d" % offset, b"v%d" % offset
    time = 1, 1_000 + offset
    return Message(topic="in", partition=1, offset=offset, key=key, value=value, headers=headers, timestamp=time)


def _batch(offsets: list[int], headers: Any = None) -> RecordBatch:
    return batch_of(1, [_message(offset, headers) for offset in offsets])


@pytest.mark.parametrize("offsets", [OFFSETS, [5, 6, 7], [9]])
@pytest.mark.parametrize("at", range(15))
def test_it_splits_at_any_offset_whether_there_are_gaps_or_none(offsets: list[int], at: int) -> None:
    below, rest = _batch(offsets).split(at)
    assert list(below.offsets) == [offset for offset in offsets if offset < at]
    assert list(rest.offsets) == [offset for offset in offsets if offset >= at]
    assert list(_batch(offsets).since(at).offsets) == list(rest.offsets)
    assert below.records() + rest.records() == _batch(offsets).records()


def test_an_empty_batch_splits_into_empty_ones() -> None:
    empty = RecordBatch(1, offsets=(), timestamps=(), keys=[], values=[])
    assert [len(part) for part in empty.split(3)] == [0, 0]
    assert empty.records() == []


def test_columns_and_records_say_the_same() -> None:
    batch = _batch(OFFSETS)
    records = batch.records()
    assert records[2] == batch.record(2) == Record(1, 7, 1_007, b"k7", b"v7", None)
    assert batch.values == [record.value for record in records]
    assert batch.keys == keys_of(batch) == keys_of(records)
    assert list(batch.timestamps) == [record.timestamp_ms for record in records]
    assert list(batch.timestamps[1:3]) == [1_004, 1_007]
    assert newest_ms(batch) == newest_ms(records) == 1_012
    assert len(batch) == len(OFFSETS)


def test_headers_are_none_where_no_record_has_any() -> None:
    assert _batch(OFFSETS).headers is None
    assert _batch(OFFSETS, []).headers is None
    some = batch_of(1, [_message(1), _message(2, [("a", b"1")])])
    assert some.headers == [None, [("a", b"1")]]
    assert some.record(1).headers == [("a", b"1")]


def test_its_records_are_of_the_kind_that_it_was_told() -> None:
    batch = batch_of(1, [_message(1)], LabelRecord)
    assert type(batch.record(0)) is LabelRecord
    assert type(batch.since(0).records()[0]) is LabelRecord
