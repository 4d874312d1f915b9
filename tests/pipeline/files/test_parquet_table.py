"""Parquet: every type of column as JSON has it, and what is left out or refused."""

import datetime as dt
import decimal
import io
import json
import sys
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.parquet_table import ParquetTable, PyarrowMissing
from headrace.pipeline.files.record_form import RecordForm, TableColumns

AT = dt.datetime(2026, 3, 1, 10, 0, 0, 250_000, tzinfo=dt.UTC)
AT_MS = 1_772_359_200_250


def file_of(columns: dict[str, Any]) -> io.BytesIO:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    file.seek(0)
    return file


def read(columns: dict[str, Any], *, ts_unit: str = "ms") -> list[Any]:
    table = ParquetTable(file_of(columns), TableColumns(), ts_unit=ts_unit)
    return [json.loads(row.value) for row in table.rows(RecordForm(features=""))]


def test_each_type_becomes_json_and_nulls_are_missing() -> None:
    columns = {
        "whole": pa.array([2**53 + 1, None]),
        "number": pa.array([0.1, float("nan")]),
        "small": pa.array([0.5, None], pa.float32()),
        "text": ["ø", None],
        "yes": [True, None],
        "category": pa.array(["a", None]).dictionary_encode(),
        "price": pa.array([decimal.Decimal("12.50"), None]),
        "day": pa.array([dt.date(1970, 1, 11), None]),
        "at": pa.array([AT, None], pa.timestamp("us", tz="UTC")),
        "card": [{"country": "NO", "on": dt.date(1970, 1, 2)}, None],
        "history": [[1, 2], None],
    }
    assert read(columns) == [
        {
            "whole": 2**53 + 1, "number": 0.1, "small": 0.5, "text": "ø", "yes": True, "category": "a", "price": 12.5,
            "day": 10, "at": AT_MS, "card": {"country": "NO", "on": 1}, "history": [1, 2],
        },
        {},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ts_unit", "wanted"),
    [
        ("s", b"1772359200.25"),
        ("ms", b"1772359200250"),
        ("ns", b"1772359200250000000"),
        ("iso", b'"2026-03-01T10:00:00.250000Z"'),
    ],
)
@pytest.mark.parametrize("unit", ["us"])
def test_a_time_has_the_unit_that_the_mapping_reads(unit: str, ts_unit: str, wanted: bytes) -> None:
    table = ParquetTable(file_of({"at": pa.array([AT], pa.timestamp(unit))}), TableColumns(), ts_unit=ts_unit)
    [row] = table.rows(RecordForm(features=""))
    assert row.value == b'{"at":%s}' % wanted


def test_nanoseconds_keep_their_digits() -> None:
    column = pa.array([1_772_359_200_250_000_007], pa.timestamp("ns"))
    for ts_unit, wanted in (("ms", b"1772359200250.000007"), ("iso", b'"2026-03-01T10:00:00.250000007Z"')):
        table = ParquetTable(file_of({"at": column}), TableColumns(), ts_unit=ts_unit)
        assert [row.value for row in table.rows(RecordForm(features=""))] == [b'{"at":%s}' % wanted]


def test_an_infinite_number_is_sent_as_one_that_is_refused_by_its_name() -> None:
    [row] = ParquetTable(file_of({"a": [float("inf")]}), TableColumns()).rows(RecordForm())
    assert row.value == b'{"features":{"a":1e999}}'


def test_the_label_the_id_and_the_key_are_columns() -> None:
    file = file_of({"id": [7, 8], "who": ["ann", None], "x": [1.5, 2.5], "y": [True, False]})
    rows = list(ParquetTable(file, TableColumns(label="y", id="id", key="who")).rows(RecordForm()))
    assert [json.loads(row.value) for row in rows] == [
        {"features": {"who": "ann", "x": 1.5}, "id": "7", "label": True},
        {"features": {"x": 2.5}, "id": "8", "label": False},
    ]
    assert [row.key for row in rows] == [b"ann", None]


def test_the_index_of_a_table_and_bytes_are_left_out_with_a_note() -> None:
    table = ParquetTable(file_of({"a": [1], "__index_level_0__": [7], "raw": [b"x"]}), TableColumns())
    assert [row.value for row in table.rows(RecordForm(features=""))] == [b'{"a":1}']
    assert [note.split(" is ")[0].split(" holds ")[0] for note in table.notes] == [
        "the column __index_level_0__", "the column raw",
    ]  # fmt: skip


def test_what_can_not_be_read_is_refused() -> None:
    whole = file_of({"a": [1] * 100}).getvalue()
    with pytest.raises(FileRefused, match="Parquet file can't be read") as raised:
        ParquetTable(io.BytesIO(whole[: len(whole) // 2]), TableColumns())
    assert raised.value.hint
    with pytest.raises(FileRefused, match="--label y: there is no such column"):
        ParquetTable(io.BytesIO(whole), TableColumns(label="y"))


def test_without_pyarrow_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PyarrowMissing) as raised:
        ParquetTable(io.BytesIO(b"PAR1"), TableColumns())
    assert raised.value.status == 503
    assert "headrace[parquet]" in raised.value.hint
