"""A dead letter that its topic has no room for: what is kept, what is left out, and what says so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.consumers.record import Record
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine.dead_letter import DeadLetter, least_bytes, shortened
from headrace.producers.deadletter import read, strip
from headrace.producers.record_size import record_bytes

LEAST = least_bytes(topic="features", group="fraud")
SIZES = st.integers(0, 4_000)


def _letter(key: Any = b"k", value: Any = b"{", headers: Any = None, *, words: str = "no JSON") -> DeadLetter:
    record = Record(3, 1_042, 1_700_000_000_000, key, value, headers)
    return DeadLetter(record, Refusal("not_json", "decode", words, words), "features", "fraud", 2, learned=True)


def _bytes(letter: DeadLetter) -> int:
    return record_bytes(letter.key, letter.value, letter.headers)


@pytest.mark.parametrize(
    ("sizes", "omitted"),
    [
        ((10, 10, 3_000), ("value",)),
        ((10, 3_000, 10), ("headers",)),
        ((3_000, 10, 10), ("key",)),
        ((900, 900, 900), ("headers", "value")),
        ((3_000, 3_000, 10), ("key", "headers")),
        ((3_000, 3_000, 3_000), ("key", "headers", "value")),
    ],
)
def test_as_much_is_kept_as_there_is_room_for(sizes: tuple[int, int, int], omitted: tuple[str, ...]) -> None:
    key, header, value = (b"x" * size for size in sizes)
    headers = [("a", header)]
    found = shortened(_letter(key, value, headers), 2_000)
    assert found.omitted == omitted
    assert found.key == (None if "key" in omitted else key)
    assert found.value == (None if "value" in omitted else value)
    assert strip(found.headers) == ([] if "headers" in omitted else headers)
    told = read(found.headers)
    assert told.omitted == {
        part: size + (part == "headers")
        for part, size in zip(("key", "headers", "value"), sizes, strict=True)
        if part in omitted
    }
    assert (told.topic, told.partition, told.offset, told.replay_count) == ("features", 3, 1_042, 2)


@given(SIZES, SIZES, SIZES, SIZES, st.integers(LEAST, 9_000))
def test_whatever_it_holds_it_fits(key: int, value: int, header: int, words: int, limit: int) -> None:
    letter = _letter(b"k" * key, b"v" * value, [("h", b"x" * header), ("n", None)], words="é" * words)
    found = shortened(letter, limit)
    assert _bytes(found) <= limit
    if _bytes(letter) <= limit:
        assert found is letter
    assert read(found.headers).offset == 1_042


def test_a_record_of_ten_thousand_headers_is_a_dead_letter_without_them() -> None:
    found = shortened(_letter(headers=[("h", None)] * 10_000), 20_000)
    assert (found.omitted, found.key, found.value) == (("headers",), b"k", b"{")
    assert read(found.headers).omitted == {"headers": 10_000}


def test_what_a_record_does_not_have_is_not_left_out() -> None:
    found = shortened(_letter(None, b"x" * 5_000), 2_000)
    assert found.omitted == ("value",)
    assert shortened(_letter(b"", None, words="x" * 1_000), LEAST).omitted == ()
