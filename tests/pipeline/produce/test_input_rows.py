"""A user's records: JSON lines as they stand, and what CSV cells become."""

import io
import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.produce.input_rows import InputRow, RowError, cell, csv_rows, lines


def rows(text: str, *, label: str | None = None, id_: str | None = None, key: str | None = None) -> list[InputRow]:
    return list(csv_rows(io.BytesIO(text.encode()), label=label, id_=id_, key=key))


def read(found: Iterator[InputRow] | list[InputRow]) -> list[object]:
    return [json.loads(row.value) for row in found]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12", "12"),
        ("-0.50", "-0.50"),
        ("1e3", "1e3"),
        ("+5", "5"),
        ("007", "7"),
        (".5", "0.5"),
        ("5.", "5"),
        ("000", "0"),
        (" 12 ", "12"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e999", "1e999"),
        ("True", "true"),
        ("FALSE", "false"),
    ],
)
def test_a_number_or_boolean_becomes_one_digit_for_digit(text: str, wanted: str) -> None:
    assert bytes(cell(text)) == wanted.encode()


@pytest.mark.parametrize("text", ["NO", "1,5", "1 2", "0x10", "nan", "inf", "1_000", ".", "-", "e5", "١٢", "yes"])
def test_other_text_stays_text(text: str) -> None:
    assert cell(text) == text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62))
def test_every_number_that_python_writes_is_read_back_the_same(number: float) -> None:
    (value,) = read(rows(f"a\n{number!r}\n"))
    assert value == {"features": {"a": number}}
    assert math.copysign(1, value["features"]["a"]) == math.copysign(1, number)


def test_empty_cells_are_left_out_and_missing_ones_too() -> None:
    assert read(rows('a,b,c\n1,,"  "\n2\n\n,,\n')) == [{"features": {"a": 1}}, {"features": {"a": 2}}, {"features": {}}]


def test_label_and_id_are_no_features_and_the_key_stays_one() -> None:
    (row,) = rows("id,who,x,y\n007,ann,1.5,0\n", label="y", id_="id", key="who")
    assert json.loads(row.value) == {"id": "007", "features": {"who": "ann", "x": 1.5}, "label": 0}
    assert row.key == b"ann"
    (row,) = rows("id,who,x,y\n,,1.5,\n", label="y", id_="id", key="who")
    assert (json.loads(row.value), row.key) == ({"features": {"x": 1.5}}, None)


def test_quotes_line_breaks_and_a_byte_order_mark_are_csvs_own() -> None:
    assert read(rows('\ufeffa,b\r\n"x\ny","say ""hi"", you"\r\n')) == [
        {"features": {"a": "x\ny", "b": 'say "hi", you'}}
    ]


def test_rows_before_a_broken_one_are_given_and_the_error_names_the_line() -> None:
    found = csv_rows(io.BytesIO(b"a,b\n1,2\n3,4,5\n"), label=None, id_=None, key=None)
    assert json.loads(next(found).value) == {"features": {"a": 1, "b": 2}}
    with pytest.raises(RowError, match="line 3 has 3 cells, and the header 2"):
        next(found)


def test_the_key_of_a_line_is_its_feature_or_else_its_field_as_text() -> None:
    given_keys = {
        b'{"features": {"k": "a"}, "k": "b"}': b"a",
        b'{"features": {}, "k": "b"}': b"b",
        b'{"k": 12}': b"12",
        b'{"k": 1.5}': b"1.5",
        b'{"k": true}': b"true",
        b'{"k": null}': None,
        b'{"k": {"x": 1}}': None,
        b"[1]": None,
        b"broken \xff": None,
        b"[" * 10_000: None,
    }
    found = list(lines(io.BytesIO(b"\n".join(given_keys)), key="k"))
    assert {row.value: row.key for row in found} == given_keys
