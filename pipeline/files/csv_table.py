"""Reads a CSV file: once to find its dialect and the type of each column, then again to make a record of each row.

So an error in any row is found before the first record is sent.
"""

import contextlib
import csv
import io
from collections.abc import Generator, Iterable, Iterator
from typing import Any, BinaryIO

from headrace.pipeline.files.csv_column import CsvColumn
from headrace.pipeline.files.csv_dialect import NAMES, CsvDialect, check_header, dialect_of
from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.record_form import InputRow, RecordForm, TableColumns

_NEARLY_ALL = 0.9
_LINE_CHARACTERS_MAX = 100_000_000


class CsvTable:
    """A CSV file with a header, of which all rows were read once. `notes` are lines for the user.

    `file` must be seekable. Raises FileRefused.
    """

    def __init__(self, file: BinaryIO, columns: TableColumns) -> None:
        self._file = file
        self._columns = columns
        self.notes: list[str] = []
        self._dialect = CsvDialect(",")
        lines = _Lines(file)
        try:
            self._dialect = dialect_of(lines)
            self._found = self._examine()
        finally:
            lines.end()
        self._decide()

    def rows(self, form: RecordForm) -> Iterator[InputRow]:
        """Yield a record for each row that is not empty. Empty cells are left out."""
        form.check(self._columns)
        names = [column.name for column in self._found]
        key = names.index(self._columns.key) if self._columns.key else len(names)
        for _, cells in self._read():
            named = {
                column.name: value
                for column, cell in zip(self._found, cells, strict=False)
                if column.name and (value := self._value(column, cell)) is not None
            }
            yield form.row(named, self._columns, key=cells[key] if key < len(cells) else None)

    def _value(self, column: CsvColumn, cell: str) -> Any:
        # An id is a name: it stays as it is written.
        if column.name == self._columns.id:
            return cell if cell.strip() else None
        return column.to_json(cell)

    def _examine(self) -> list[CsvColumn]:
        """Read the file, and return its columns with what their cells are."""
        with contextlib.closing(self._read(with_header=True)) as rows:
            header = check_header(next(rows, (0, []))[1])
            found = [CsvColumn(name) for name in header]
            self._columns.check(name for name in header if name)
            for line, cells in rows:
                if len(cells) > len(header):
                    raise FileRefused(
                        f"line {line} has {len(cells)} cells, and the header {len(header)}",
                        hint=f"quote cells that contain the delimiter, which is a {NAMES[self._dialect.delimiter]}",
                    )
                for column, cell in zip(found, cells, strict=False):
                    column.see(cell, line)
        return found

    def _decide(self) -> None:
        """Set the types of the columns, and note what the user should know."""
        comma = self._dialect.delimiter != "," and any(column.needs_comma for column in self._found)
        for column in self._found:
            column.decide(comma=comma)
        if self._dialect.delimiter != ",":
            self.notes.append(f"the delimiter is a {NAMES[self._dialect.delimiter]}")
        if comma:
            self.notes.append("numbers have a decimal comma")
        if not self._found[0].name:
            self.notes.append("the first column has no name and is left out; it looks like the index of a table")
        for column in self._found:
            if column.type == "text" and column.odd and column.numbers >= _NEARLY_ALL * column.seen:
                line, text = column.odd
                self.notes.append(
                    f"the column {column.name} is text, because line {line} has {text[:40]!r}; its other cells are "
                    "numbers: leave a cell empty if its value is missing"
                )

    def _read(self, *, with_header: bool = False) -> Generator[tuple[int, list[str]]]:
        """Yield the rows that are not empty, each with the number of its last line. Raises FileRefused."""
        self._file.seek(0)
        lines = _Lines(self._file)
        reader = self._dialect.reader(lines)
        try:
            for number, cells in enumerate(filter(None, reader)):
                if number or with_header:
                    yield reader.line_num + self._dialect.lines_before, cells
        except csv.Error as error:
            line = reader.line_num + self._dialect.lines_before
            raise FileRefused(
                f"the CSV can't be read at line {line}: {error}", hint="correct the quotes of that line"
            ) from error
        finally:
            lines.end()


class _Lines(Iterable[str]):
    """The lines of a file as text. Raises FileRefused at a line that is not UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", errors="strict")
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                line = self._text.readline(_LINE_CHARACTERS_MAX)
            except UnicodeDecodeError as error:
                raise FileRefused(
                    f"the CSV is not UTF-8 text: there is a byte 0x{error.object[error.start]:02x} at line "
                    f"{self._number + 1} or soon after it",
                    hint="save it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE",
                ) from error
            if not line:
                return
            self._number += 1
            yield line

    def end(self) -> None:
        """Leave the file open: its opener closes it."""
        if not self._text.closed:
            self._text.detach()
