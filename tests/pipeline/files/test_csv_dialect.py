"""How a CSV file is written: its delimiter is the one that divides the rows as the header; headers are checked."""

import pytest

from headrace.pipeline.files.csv_dialect import CsvDialect, check_header, dialect_of, looks_like_table
from headrace.pipeline.files.file_kind import FileRefused


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1;2\n", ";"),
        ("a\tb\n1\t2\n", "\t"),
        ("amount;land;fraud\n12,50;NO;1\n3,5;SE;0\n", ";"),
        ("amount;rate\n1,5;2,5\n1,5;2,5\n", ";"),
        ('a,b\n"x;y;z",2\n"p;q;r",3\n', ","),
        ('a\tb\n"one, two, three"\t2\nfour, five\t6\n', "\t"),
        ('text;n\n"first line;\nsecond, line";1\nplain;2\n', ";"),
        ("a\n1\n2\n", ","),
        ("a\n1,2\n", ","),
        ("a,b,c\n1\n1,2\n", ","),
        ("a;b;c\n\n1;2;3\n", ";"),
        ("", ","),
    ],
)
def test_the_delimiter_divides_the_rows_as_the_header(text: str, delimiter: str) -> None:
    assert dialect_of(text.splitlines(keepends=True)).delimiter == delimiter


def test_excels_own_line_about_the_delimiter_is_read_and_left_out() -> None:
    lines = ["sep=;\r\n", "a,b;c\r\n", "1,5;2\r\n"]
    dialect = dialect_of(lines)
    assert dialect == CsvDialect(";", lines_before=1)
    assert list(dialect.reader(lines)) == [["a,b", "c"], ["1,5", "2"]]


def test_a_sample_that_ends_inside_of_quotes_still_shows_the_delimiter() -> None:
    lines = ["a;b\n", *["1;2\n"] * 997, '3;"\n', *["x\n"] * 10]
    assert dialect_of(lines).delimiter == ";"


@pytest.mark.parametrize(
    ("text", "is_table"),
    [
        ("a,b\n1,2\n", True),
        ("a;b;c\n1;2;3\n4;5;6\n", True),
        ("a,b\n", False),
        ("a\n1\n", False),
        ('{"a": 1, "b": 2}\n{"a": 1, "b": 2}\n', False),
        ("broken\n1\n", False),
        ("a,b\n1,2,3\n", False),
        ("", False),
    ],
)
def test_rows_as_wide_as_their_header_look_like_a_table(text: str, is_table: bool) -> None:  # noqa: FBT001
    assert looks_like_table(text.splitlines(keepends=True)) == is_table


def test_names_of_a_header_are_stripped_and_a_first_column_may_be_unnamed() -> None:
    assert check_header(["a", " b", "c "]) == ("a", "b", "c")
    assert check_header(["", "a"]) == ("", "a")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([], "no header"),
        ([" ", ""], "no header"),
        (["a", "b", "a"], "two columns 'a'"),
        (["a", "a "], "two columns 'a'"),
        (["a", "", "c"], "column 2 of the header has no name"),
        (["a", "b", ""], "column 3 of the header has no name"),
    ],
)
def test_a_header_that_repeats_a_name_or_lacks_one_is_refused(header: list[str], words: str) -> None:
    with pytest.raises(FileRefused, match=words) as raised:
        check_header(header)
    assert raised.value.hint
