"""What a file is: anything else than its name says is refused by its right name; broken lines are not."""

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from headrace.pipeline.files.file_kind import FileRefused, refuse_other_kinds

RECORDS = [{"id": f"t-{n}", "features": {"amount": n / 7}} for n in range(30)]
LINES = "\n".join(json.dumps(record) for record in RECORDS)
TABLE = "id,amount\n1,2.5\n2,3.5\n"


def zipped(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return (tmp_path / "a.xlsx").read_bytes()


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("json", gzip.compress(LINES.encode(), mtime=0), "compressed with gzip"),
        ("csv", gzip.compress(TABLE.encode(), mtime=0), "compressed with gzip"),
        ("json", bz2.compress(LINES.encode()), "compressed with bzip2"),
        ("json", lzma.compress(LINES.encode()), "compressed with xz"),
        ("json", b"\x28\xb5\x2f\xfd\x04", "compressed with zstd"),
        ("json", b"Obj\x01\x04\x14avro.codec", "an Avro file"),
        ("json", b"PAR1\x15\x04", "the file is Parquet"),
        ("csv", b"SQLite format 3\x00\x10", "a SQLite database"),
        ("parquet", TABLE.encode(), "not Parquet"),
        ("json", LINES.encode("utf-16"), "UTF-16 text"),
        ("csv", TABLE.encode("utf-16"), "UTF-16 text"),
        ("csv", TABLE.encode("utf-16-le"), "UTF-16 text"),
        ("csv", TABLE.encode("utf-32"), "UTF-32 text"),
        ("json", json.dumps(RECORDS).encode(), "a JSON array"),
        ("json", json.dumps(RECORDS, indent=2).encode(), "a JSON array"),
        ("json", json.dumps(RECORDS * 20_000).encode()[: 1 << 20], "a JSON array"),
        ("json", json.dumps(RECORDS[0], indent=2).encode(), "spread over several lines"),
        ("json", b'\xef\xbb\xbf {"a": 1,\n "b": 2}\n{"a": 1,\n "b": 2}', "spread over several lines"),
        ("csv", LINES.encode(), r"JSON \(lines\) and not CSV"),
        ("csv", json.dumps(RECORDS).encode(), r"JSON \(an array\) and not CSV"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_its_right_name(kind: str, content: bytes, words: str) -> None:
    with pytest.raises(FileRefused, match=words) as raised:
        refuse_other_kinds(content, kind=kind)
    assert raised.value.hint


def test_an_excel_workbook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="Excel"):
        refuse_other_kinds(zipped(tmp_path), kind="csv")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("json", LINES.encode()),
        ("json", b"\xef\xbb\xbf" + LINES.encode()),
        ("json", b""),
        ("json", b"\n\n"),
        ("json", b"broken\n" + LINES.encode()),
        ("json", b'{"features": {"a": 1}}\n  broken \xff\x00 \n{"a": NaN}'),
        ("json", b'{"cut off": \n{"features": {}}'),
        ("json", b"[1]\n[2]"),
        ("json", b"1\n2\n3\n"),
        ("json", LINES.encode("latin-1") + "\nø".encode("latin-1")),
        ("csv", TABLE.encode()),
        ("csv", b"\xef\xbb\xbf" + TABLE.encode()),
        ("csv", b'"a","b"\n1,2\n'),
        ("csv", b"BZh,PK,Obj\n1,2,3\n"),
        ("csv", b""),
        ("parquet", b"PAR1\x15\x04"),
    ],
)
def test_what_may_hold_records_is_not_refused_even_if_lines_of_it_are_broken(kind: str, content: bytes) -> None:
    refuse_other_kinds(content, kind=kind)
