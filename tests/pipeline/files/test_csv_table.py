"""CSV as people have it: what each file becomes, what is said about it, and what is refused before anything is sent."""

import io
import json

import pytest

from headrace.pipeline.files.csv_table import CsvTable
from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.record_form import InputRow, RecordForm, TableColumns

FLAT = RecordForm(features="")


def rows(text: str | bytes, **columns: str) -> list[InputRow]:
    content = text.encode() if isinstance(text, str) else text
    return list(CsvTable(io.BytesIO(content), TableColumns(**columns)).rows(FLAT))


def read(text: str | bytes) -> list[object]:
    return [json.loads(row.value) for row in rows(text)]


def notes(text: str) -> list[str]:
    return CsvTable(io.BytesIO(text.encode()), TableColumns()).notes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("amount;land;fraud\n12,50;NO;1\n1.234,5;SE;0\n", [
            {"amount": 12.5, "land": "NO", "fraud": 1}, {"amount": 1234.5, "land": "SE", "fraud": 0}]),
        ("a\tb\r\n1\tx, y\r\n", [{"a": 1, "b": "x, y"}]),
        ('\ufeffa,b\r\n"x\ny","say ""hi"", you"\r\n', [{"a": "x\ny", "b": 'say "hi", you'}]),
        ("part\nA17\n007\n32E0134\n9E999\n", [{"part": p} for p in ("A17", "007", "32E0134", "9E999")]),
        ("plz,n\n01067,1\n80331,2\n", [{"plz": "01067", "n": 1}, {"plz": "80331", "n": 2}]),
        ("card,n\n4111111111111111,1\n", [{"card": "4111111111111111", "n": 1}]),
        (",a,b\n0,1,x\n1,2,y\n", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        ('a,b,c\n1,,"  "\n2\n\n,,\n', [{"a": 1}, {"a": 2}, {}]),
        ("a,b\rx,1\ry,2\r", [{"a": "x", "b": 1}, {"a": "y", "b": 2}]),
        ("sep=;\na;b\n1;2\n", [{"a": 1, "b": 2}]),
        ("member\nTRUE\nfalse\n", [{"member": True}, {"member": False}]),
        ("a,b\n", []),
    ],
)  # fmt: skip
def test_a_file_becomes_typed_records(text: str, wanted: list[object]) -> None:
    assert read(text) == wanted


def test_a_type_is_decided_by_the_whole_file_and_not_by_its_first_rows() -> None:
    found = read("n\n" + "1\n" * 5_000 + "A1\n")
    assert found[0] == {"n": "1"}
    assert found[-1] == {"n": "A1"}


def test_the_id_and_the_key_are_the_text_of_their_cells() -> None:
    (row,) = rows("id,who,x\n12,+5,1.5\n", id="id", key="who")
    assert (json.loads(row.value), row.key) == ({"id": "12", "who": 5, "x": 1.5}, b"+5")


def test_the_user_is_told_what_was_decided() -> None:
    assert notes("a;b\n1,5;2\n") == ["the delimiter is a semicolon", "numbers have a decimal comma"]
    assert "the first column has no name and is left out" in notes(",a\n0,1\n")[0]
    [note] = notes("age\n" + "1\n" * 20 + "NA\n")
    assert note.startswith("the column age is text, because line 22 has 'NA'")
    assert notes("a,b\n1,x\n") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no header"),
        (b"a,a\n1,2\n", "two columns 'a'"),
        (b"a,,c\n1,2,3\n", "column 2 of the header has no name"),
        (b"a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, and the header 2"),
        (b'a,b\n1,2\n1,"x" y\n', "can't be read at line 3"),
        (b'a,b\n1,2\n1,"x\n', "can't be read at line 3"),
        ("a,b\n1,ø\n".encode("latin-1"), "not UTF-8 text: there is a byte 0xf8"),
    ],
)
def test_a_file_with_any_error_is_refused_before_its_first_record(content: bytes, words: str) -> None:
    with pytest.raises(FileRefused, match=words) as raised:
        CsvTable(io.BytesIO(content), TableColumns())
    assert raised.value.hint
