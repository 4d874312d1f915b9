"""A record's size against the bytes of the protocol, and what of a parcel is found to be too large."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.producers.output import OutputRecords
from headrace.producers.record_size import SizeLimits, record_bytes

FIELDS = st.none() | st.integers(0, 20_000).map(lambda size: b"x" * size)
HEADERS = st.none() | st.lists(st.tuples(st.text(max_size=80), FIELDS), max_size=4)


def _varint(number: int) -> bytes:
    left, found = (number << 1) ^ (number >> 63), bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def _sized(field: bytes | None) -> bytes:
    return _varint(-1) if field is None else _varint(len(field)) + field


def _batch(key: bytes | None, value: bytes | None, headers: Any) -> bytes:
    """Write the batch of one record, as Kafka's documentation has it."""
    told = b"".join(_sized(name.encode()) + _sized(text) for name, text in headers or ())
    body = b"\0" + _varint(0) + _varint(0) + _sized(key) + _sized(value) + _varint(len(headers or ())) + told
    head = 8 + 4 + 4 + 1 + 4 + 2 + 4 + 8 + 8 + 8 + 2 + 4 + 4
    return b"\0" * head + _sized(body)


@given(FIELDS, FIELDS, HEADERS)
def test_a_records_size_is_that_of_its_batch(key: bytes | None, value: bytes | None, headers: Any) -> None:
    assert record_bytes(key, value, headers) == len(_batch(key, value, headers))


def test_the_numbers_of_a_record_grow_with_what_they_count() -> None:
    for size in (0, 63, 64, 8_191, 8_192, 1_048_575, 1_048_576):
        assert record_bytes(None, b"x" * size, None) == len(_batch(None, b"x" * size, None))
    many: Any = [("h", None)] * 10_000
    assert record_bytes(b"", None, many) == len(_batch(b"", None, many))


@given(st.lists(st.tuples(FIELDS, st.binary(max_size=300), HEADERS), max_size=12), st.integers(0, 3_000))
def test_the_records_larger_than_a_limit_are_found_and_no_others(records: Any, limit: int) -> None:
    parcel = OutputRecords()
    for record in records:
        parcel.add(*record)
    sizes = [record_bytes(*record) for record in records]
    assert parcel.larger_than(limit) == {place: size for place, size in enumerate(sizes) if size > limit}


def test_the_smaller_limit_is_that_of_a_batch() -> None:
    assert SizeLimits({"a": 5, "b": 7}).batch == SizeLimits({"a": 9, "b": 5}).batch == SizeLimits({"a": 5}).of("a") == 5
