"""A chunk gives its messages as columns or as records, and splits where it is told."""

from typing import Any

import pytest
from confluent_kafka import Message

from headrace.consumers.chunk import Chunk, keys_of, newest_ms
from headrace.consumers.record import LabelRecord, Record

OFFSETS = [3, 4, 7, 8, 12]


def _chunk(offsets: list[int], headers: Any = None) -> Chunk:
    return Chunk(
        [
            Message(
                topic="in",
                partition=1,
                offset=offset,
                key=b"k%d" % offset,
                value=b"v%d" % offset,
                headers=headers,
                timestamp=(1, 1_000 + offset),
            )
            for offset in offsets
        ]
    )


@pytest.mark.parametrize("offsets", [OFFSETS, [5, 6, 7], [9], []])
@pytest.mark.parametrize("at", range(15))
def test_it_splits_at_any_offset_whether_there_are_gaps_or_none(offsets: list[int], at: int) -> None:
    below, rest = _chunk(offsets).split(at)
    assert list(below.offsets) == [offset for offset in offsets if offset < at]
    assert list(rest.offsets) == [offset for offset in offsets if offset >= at]
    assert list(_chunk(offsets).since(at).offsets) == list(rest.offsets)


def test_columns_and_records_say_the_same() -> None:
    chunk = _chunk(OFFSETS)
    records = chunk.records()
    assert records[2] == chunk.record(2) == Record(1, 7, 1_007, b"k7", b"v7", None)
    assert chunk.values() == [record.value for record in records]
    assert chunk.keys() == keys_of(chunk) == keys_of(records)
    assert newest_ms(chunk) == newest_ms(records) == 1_012
    assert len(chunk) == len(OFFSETS)


def test_headers_are_none_where_nobody_has_any() -> None:
    assert _chunk(OFFSETS).headers() is None
    assert _chunk(OFFSETS, []).headers() is None
    some = Chunk([*_chunk([1]).messages, *_chunk([2], [("a", b"1")]).messages])
    assert some.headers() == [None, [("a", b"1")]]


def test_its_records_are_of_the_kind_that_it_was_told() -> None:
    chunk = Chunk(_chunk([1]).messages, LabelRecord)
    assert type(chunk.record(0)) is LabelRecord
    assert type(chunk.since(0).records()[0]) is LabelRecord
