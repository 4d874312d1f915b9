"""Rows become records in the form that `[records]` reads."""

import json
from typing import Any

import pytest

from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.record_form import RecordForm, TableColumns

CELLS = {"id": "7", "amount": 2.5, "fraud": True}
NAMED = TableColumns(label="fraud", id="id")


@pytest.mark.parametrize(
    ("form", "columns", "wanted"),
    [
        (RecordForm(), NAMED, {"features": {"amount": 2.5}, "id": "7", "label": True}),
        (RecordForm(), TableColumns(), {"features": CELLS}),
        (RecordForm(features="", id_="id", label="fraud"), TableColumns(), CELLS),
        (RecordForm(features="", id_="who", label="y"), NAMED, {"amount": 2.5, "who": "7", "y": True}),
        (
            RecordForm(features="payload.after", id_="payload.after.key", label="payload.after.bad"),
            NAMED,
            {"payload": {"after": {"amount": 2.5, "key": "7", "bad": True}}},
        ),
        (
            RecordForm(features="data", id_="meta.id", label=""),
            TableColumns(id="id"),
            {"data": {"amount": 2.5, "fraud": True}, "meta": {"id": "7"}},
        ),
    ],
)
def test_columns_lie_where_the_mapping_looks_for_them(form: RecordForm, columns: TableColumns, wanted: Any) -> None:
    form.check(columns)
    row = form.row(CELLS, columns, key="k")
    assert (json.loads(row.value), row.key) == (wanted, b"k")


def test_a_missing_label_id_or_key_leaves_its_field_out() -> None:
    row = RecordForm().row({"amount": 1}, NAMED, key=None)
    assert (json.loads(row.value), row.key) == ({"features": {"amount": 1}}, None)


def test_a_column_for_a_field_that_is_not_in_the_value_is_refused() -> None:
    with pytest.raises(FileRefused, match=r"records\.id is \$headers\.ce_id, which is not in the value"):
        RecordForm(id_="$headers.ce_id").check(NAMED)
    with pytest.raises(FileRefused, match=r"--label fraud: records\.label is empty"):
        RecordForm(label="").check(NAMED)


def test_an_option_that_names_no_column_is_refused_with_the_columns_that_are_there() -> None:
    with pytest.raises(FileRefused, match="--key who: there is no such column") as raised:
        TableColumns(key="who").check(["a", "b"])
    assert raised.value.hint == "the columns are a, b"
