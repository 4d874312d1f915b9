"""Finds out how a CSV file is written: its delimiter and its header.

Each candidate parses the first lines; the one that gives rows as wide as the header wins. (`csv.Sniffer` counts
characters instead, and is often wrong on text and on decimal commas.)
"""

import contextlib
import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from headrace.pipeline.files.file_kind import FileRefused

DELIMITERS = (",", ";", "\t")
NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
CELL_CHARACTERS_MAX = 10_000_000
_ROWS_MAX = 1_000
_TABLE_LINES_MIN = 2
# Excel writes the delimiter before the header, and reads it from there.
_EXCEL_HINT = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)


class CsvDialect(msgspec.Struct, frozen=True):
    """How a CSV file is written: its delimiter, and the number of lines before the header."""

    delimiter: str
    lines_before: int = 0

    def reader(self, lines: Iterable[str]) -> Any:
        """Return Python's reader of these lines, without the lines before the header."""
        csv.field_size_limit(CELL_CHARACTERS_MAX)
        return csv.reader(itertools.islice(lines, self.lines_before, None), delimiter=self.delimiter, strict=True)


def dialect_of(lines: Iterable[str]) -> CsvDialect:
    """Return the dialect of a file that begins with these lines; a comma if no delimiter is better."""
    first = list(itertools.islice(lines, _ROWS_MAX))
    if first and (told := _EXCEL_HINT.fullmatch(first[0])):
        return CsvDialect(told[1], lines_before=1)
    return max((CsvDialect(delimiter) for delimiter in DELIMITERS), key=lambda dialect: _fitness(dialect, first))


def looks_like_table(lines: Sequence[str]) -> bool:
    """Return whether the rows of these lines, which are not JSON, are as wide as their header, of several columns."""
    if len(lines) < _TABLE_LINES_MIN or lines[0].lstrip().startswith(("{", "[", '"{')):
        return False
    return max(_fitness(CsvDialect(delimiter), lines) for delimiter in DELIMITERS)[0] == 1.0


def _fitness(dialect: CsvDialect, lines: Sequence[str]) -> tuple[float, int]:
    """Return how well a delimiter divides the lines: the share of rows as wide as the header, then its width."""
    widths: list[int] = []
    # The last row of a sample may break off inside of quotes.
    with contextlib.suppress(csv.Error):
        widths.extend(len(cells) for cells in dialect.reader(lines) if cells)
    if not widths or widths[0] == 1:
        return 0.0, 0
    return widths.count(widths[0]) / len(widths), widths[0]


def check_header(header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns; the first is empty if it is an index without a name. Raises FileRefused."""
    names = tuple(name.strip() for name in header)
    if not any(names):
        raise FileRefused("the CSV has no header", hint="let its first line name the columns")
    for number, name in enumerate(names[1:], 2):
        if not name:
            raise FileRefused(
                f"column {number} of the header has no name", hint="name it, or take the column out of the file"
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FileRefused(f"the header has two columns {twice!r}", hint="give each column its own name")
    return names
