"""What a column holds is decided by all of its cells, and each cell then becomes JSON of that type."""

import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.files.csv_column import CsvColumn, is_number_text


def column(cells: Sequence[str], *, comma: bool = False) -> CsvColumn:
    found = CsvColumn("a")
    for line, cell in enumerate(cells, 2):
        found.see(cell, line)
    found.decide(comma=comma)
    return found


def read(cells: Sequence[str], *, comma: bool = False) -> list[Any]:
    found = column(cells, comma=comma)
    return [None if value is None else json.loads(msgspec.json.encode(value)) for value in map(found.to_json, cells)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12", "12"),
        ("-0.50", "-0.50"),
        ("1.5e3", "1.5e3"),
        ("1e-05", "1e-05"),
        ("1e+16", "1e+16"),
        ("+5", "5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("0", "0"),
        ("0.10", "0.10"),
        (" 12 ", "12"),
        ("123456789012345", "123456789012345"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("True", "true"),
        ("FALSE", "false"),
    ],
)
def test_a_number_or_boolean_becomes_one_digit_for_digit(text: str, wanted: str) -> None:
    assert msgspec.json.encode(column([text]).to_json(text)) == wanted.encode()


@pytest.mark.parametrize(
    "text",
    ["NO", "1,5", "1 2", "0x10", "nan", "inf", "1_000", ".", "-", "e5", "١٢", "yes", "007", "00.5", "000", "-012",
     "1234567890123456", "4111111111111111", "9E999", "32E0134", "1e5", "1E5"],
)  # fmt: skip
def test_other_text_and_identifiers_of_digits_stay_text(text: str) -> None:
    assert not is_number_text(text)
    assert read([text]) == [text]
    assert read(["1.5", text, "2"]) == ["1.5", text, "2"]


def test_part_numbers_are_text_in_every_row() -> None:
    cells = ["A17", "007", "32E0134", "9E999", "12"]
    assert column(cells).type == "text"
    assert read(cells) == cells


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", "", "  "], "number"),
        (["", " "], "empty"),
        (["true", "FALSE", ""], "boolean"),
        (["true", "1"], "text"),
        (["1", "x"], "text"),
    ],
)
def test_a_column_has_the_type_that_fits_all_of_its_cells(cells: list[str], kind: str) -> None:
    assert column(cells).type == kind


def test_empty_cells_are_missing() -> None:
    assert read(["1", "", "  "]) == [1, None, None]


def test_numbers_with_a_decimal_comma_are_read_where_the_file_has_them() -> None:
    cells = ["12,50", "3", "1.234,56", "1.234", "-,5", "1.000.000"]
    assert column(cells).needs_comma
    assert read(cells, comma=True) == [12.5, 3, 1234.56, 1234, -0.5, 1_000_000]
    assert read(cells) == cells


def test_a_column_with_decimal_points_is_read_beside_columns_with_decimal_commas() -> None:
    assert read(["52.1", "13.4050"], comma=True) == [52.1, 13.405]
    assert not column(["1", "2"]).needs_comma


@pytest.mark.parametrize(
    "cells", [["1,5", "2.5"], ["1,5", "07,5"], ["1,5", "1.23,5"], ["1,5,5"], ["1234567890123456,5"]]
)
def test_what_is_no_number_with_a_decimal_comma_stays_text(cells: list[str]) -> None:
    assert read(cells, comma=True) == cells


def test_the_first_cell_that_is_no_number_is_remembered_with_its_line() -> None:
    found = column(["1", "", "NA", "2", "n/a"])
    assert (found.odd, found.numbers, found.seen) == ((4, "NA"), 2, 4)


BELOW = 10.0**15


@given(
    st.lists(
        st.floats(-BELOW, BELOW, exclude_min=True, exclude_max=True) | st.integers(1 - 10**15, 10**15 - 1), min_size=1
    )
)
def test_every_number_that_python_writes_is_read_back_the_same(numbers: list[float]) -> None:
    cells = [repr(number) for number in numbers]
    for number, value in zip(numbers, read(cells), strict=True):
        assert value == number
        assert math.copysign(1, value) == math.copysign(1, number)
