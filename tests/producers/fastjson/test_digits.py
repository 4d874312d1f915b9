"""Numbers to their digits: msgspec's bytes, for whatever a double can be."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.producers.fastjson.digits import (
    DOUBLE_BYTES_MAX,
    INTEGER_BYTES_MAX,
    compiled,
    write_double,
    write_integer,
)

SEED = 20_260_101


@compiled
def _doubles(bits: Any, text: Any, ends: Any) -> None:
    at = 0
    for i in range(len(bits)):
        at = write_double(text, at, bits[i])
        ends[i] = at


@compiled
def _integers(numbers: Any, text: Any, ends: Any) -> None:
    at = 0
    for i in range(len(numbers)):
        at = write_integer(text, at, numbers[i])
        ends[i] = at


def cut(text: Any, ends: Any) -> list[bytes]:
    whole, stops = text.tobytes(), ends.tolist()
    assert not any(whole[stops[-1] :])
    return [whole[start:end] for start, end in zip([0, *stops], stops, strict=False)]


def doubles(values: Any) -> list[bytes]:
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    text, ends = np.zeros(len(bits) * DOUBLE_BYTES_MAX, dtype=np.uint8), np.zeros(len(bits), dtype=np.int64)
    _doubles(bits, text, ends)
    return cut(text, ends)


def integers(values: Any) -> list[bytes]:
    numbers = np.array(values, dtype=np.int64)
    text, ends = np.zeros(len(numbers) * INTEGER_BYTES_MAX, dtype=np.uint8), np.zeros(len(numbers), dtype=np.int64)
    _integers(numbers, text, ends)
    return cut(text, ends)


def of_bits(bits: Any) -> Any:
    return np.array(bits, dtype=np.uint64).view(np.float64)


def assert_as_msgspec(values: Any) -> None:
    found = doubles(values)
    wrong = [
        (value, digits)
        for value, digits in zip(np.asarray(values, dtype=np.float64).tolist(), found, strict=True)
        if digits != msgspec.json.encode(value)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        (0.0, b"0.0"),
        (-0.0, b"-0.0"),
        (1.0, b"1.0"),
        (-120.0, b"-120.0"),
        (0.07, b"0.07"),
        (0.1 + 0.2, b"0.30000000000000004"),
        (-123.456, b"-123.456"),
        (1e-5, b"0.00001"),
        (1.5e-6, b"1.5e-6"),
        (1e-7, b"1e-7"),
        (1e15, b"1000000000000000.0"),
        (9_999_999_999_999_998.0, b"9999999999999998.0"),
        (1e16, b"1e16"),
        (1e21, b"1e21"),
        (1e23, b"1e23"),
        (5e-324, b"5e-324"),
        (2.2250738585072014e-308, b"2.2250738585072014e-308"),
        (1.7976931348623157e308, b"1.7976931348623157e308"),
        (math.nan, b"null"),
        (math.inf, b"null"),
        (-math.inf, b"null"),
    ],
)
def test_a_double_is_the_shortest_decimal_in_the_form_of_its_size(value: float, digits: bytes) -> None:
    assert doubles([value]) == [digits] == [msgspec.json.encode(value)]


@given(st.lists(st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: float(of_bits([bits])[0])), min_size=1))
def test_doubles_are_msgspecs(values: list[float]) -> None:
    assert_as_msgspec(values)


def test_hundreds_of_thousands_of_bit_patterns_are_msgspecs() -> None:
    draw = np.random.default_rng(SEED)
    assert_as_msgspec(of_bits(draw.integers(0, 2**64, 250_000, dtype=np.uint64)))
    assert_as_msgspec(draw.random(100_000))


def test_subnormals_are_msgspecs() -> None:
    draw = np.random.default_rng(SEED)
    assert_as_msgspec(of_bits(range(1, 2_000)))
    assert_as_msgspec(of_bits(draw.integers(0, 2**52, 50_000, dtype=np.uint64)))


def test_powers_of_two_and_of_ten_and_their_neighbours_are_msgspecs() -> None:
    powers = np.array([2.0**k for k in range(-1_074, 1_024)] + [float(f"1e{k}") for k in range(-323, 309)])
    for values in (powers, -powers, np.nextafter(powers, np.inf), np.nextafter(powers, 0.0)):
        assert_as_msgspec(values)


def test_short_decimals_of_every_size_are_msgspecs() -> None:
    heads = ("1", "2", "5", "9", "1.5", "1.25", "3.14159", "9.99999999", "1.2345678901234567", "9.999999999999999")
    assert_as_msgspec([float(f"{head}e{k}") for head in heads for k in range(-323, 309)])
    assert_as_msgspec([cents / 100 for cents in range(-20_000, 20_000)])


def test_whole_numbers_are_msgspecs_across_the_border_where_not_each_has_a_double() -> None:
    draw = np.random.default_rng(SEED)
    assert_as_msgspec(range(-1_000, 1_000))
    for low, high in ((-(10**9), 10**9), (2**52, 2**53), (2**53 - 5, 2**53 + 5), (2**53, 10**16), (10**16, 2**63)):
        assert_as_msgspec(draw.integers(low, high, 20_000).astype(np.float64))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_their_digits(values: list[int]) -> None:
    assert integers(values) == [b"%d" % value for value in values]


def test_integers_of_every_size_are_their_digits() -> None:
    sizes = [sign * (10**k + more) for k in range(19) for more in (-1, 0, 1) for sign in (1, -1)]
    values = [0, 7, 2**63 - 1, -(2**63), *sizes]
    assert integers(values) == [b"%d" % value for value in values]


def test_the_longest_numbers_fill_the_declared_size() -> None:
    assert (
        len(doubles([-2.2250738585072014e-308])[0]) == len(doubles([-0.000012345678901234568])[0]) == DOUBLE_BYTES_MAX
    )
    assert len(integers([-(2**63)])[0]) == INTEGER_BYTES_MAX


def test_without_a_cache_folder_each_start_compiles() -> None:
    # What comes from no file has no folder beside it, as a file in a read-only container has none.
    scope: dict[str, Any] = {}
    exec("def double(number): return number * 2", scope)
    assert compiled(scope["double"])(21) == 42
