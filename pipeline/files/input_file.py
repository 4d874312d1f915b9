"""Opens a file, or standard input, and reads it as records: JSON lines, CSV or Parquet.

Every command that takes a file reads it here, so that a file means the same records everywhere.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from headrace.pipeline.config.config import Config
from headrace.pipeline.files.csv_dialect import looks_like_table
from headrace.pipeline.files.csv_table import CsvTable
from headrace.pipeline.files.file_kind import HEAD_BYTES, FileRefused, refuse_other_kinds
from headrace.pipeline.files.json_lines import json_lines
from headrace.pipeline.files.parquet_table import ParquetTable
from headrace.pipeline.files.record_form import InputRow, RecordForm, TableColumns

FileKind = Literal["json", "csv", "parquet"]

_KINDS: dict[str, FileKind] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_MEMORY_BYTES_MAX = 64_000_000
_LOOK_LINES = 20


class InputFile:
    """An open file with its records, and `notes` for the user about how it was read.

    `can_repeat` is false for JSON lines from a pipe, which can be read only once.
    """

    def __init__(
        self, source: BinaryIO, rows: Callable[[], Iterator[InputRow]], notes: list[str], *, can_repeat: bool = True
    ) -> None:
        self.source = source
        self.notes = notes
        self.can_repeat = can_repeat
        self._rows = rows

    def rows(self) -> Iterator[InputRow]:
        """Return the records, from the beginning if the file can be read again."""
        if self.can_repeat:
            self.source.seek(0)
        return self._rows()


def kind_of(file: Path | None, *, csv: bool) -> FileKind:
    """Return what a file should be, by the option or by the ending of its name."""
    return "csv" if csv else _KINDS.get(file.suffix.lower() if file else "", "json")


@contextlib.contextmanager
def open_file(config: Config, file: Path | None, *, csv: bool, columns: TableColumns) -> Iterator[InputFile]:
    """Open a file, or standard input for None and "-". Its head, or a whole table, is checked at once.

    Raises FileRefused if the file is something else than its name or `csv` says, or does not fit the options.
    """
    kind = kind_of(file, csv=csv)
    if kind == "json" and (columns.label or columns.id):
        raise FileRefused(
            "--label and --id name columns of a table", hint="JSON lines have `label` and `id` fields; or add --csv"
        )
    with _opened(file) as source:
        refuse_other_kinds(source.peek(HEAD_BYTES)[:HEAD_BYTES], kind=kind)
        if kind == "json":
            _refuse_table(source.peek(HEAD_BYTES)[:HEAD_BYTES])
            lines = partial(json_lines, source, key=columns.key, features=config.records.features)
            yield InputFile(source, lines, [], can_repeat=source.seekable())
            return
        with _seekable(source) as whole:
            table = (
                CsvTable(whole, columns)
                if kind == "csv"
                else ParquetTable(whole, columns, ts_unit=config.records.ts_unit)
            )
            yield InputFile(whole, partial(table.rows, _form(config)), table.notes)


def _refuse_table(head: bytes) -> None:
    """Refuse CSV that nothing says is CSV: each of its rows would become a dead letter."""
    lines = head.decode(errors="replace").splitlines(keepends=True)[:_LOOK_LINES]
    if looks_like_table(lines):
        raise FileRefused("the file looks like CSV and not like JSON lines", hint="add --csv, or name it .csv")


def _form(config: Config) -> RecordForm:
    """Return the form in which `[records]` reads a row. A transform gets the row as it is."""
    records = config.records
    if records.transform:
        return RecordForm(features="", id_="", label="")
    return RecordForm(features=records.features, id_=records.id, label=records.label)


@contextlib.contextmanager
def _opened(file: Path | None) -> Iterator["io.BufferedReader[io.FileIO]"]:
    if file is None or str(file) == "-":
        # Never close it: `close` would wait for the thread that waits for the next line.
        yield io.BufferedReader(io.FileIO(0, closefd=False), HEAD_BYTES)
        return
    try:
        opened = io.BufferedReader(io.FileIO(file), HEAD_BYTES)
    except OSError as error:
        raise FileRefused(
            f"{file} can't be read: {error.strerror}", hint="check the path and its permissions"
        ) from error
    with opened:
        yield opened


@contextlib.contextmanager
def _seekable(source: "io.BufferedReader[io.FileIO]") -> Iterator[BinaryIO]:
    """Provide a file that can be read twice: a table from a pipe is copied, and a large one to the disk."""
    if source.seekable():
        yield source
        return
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES_MAX) as copy:
        shutil.copyfileobj(source, copy)
        copy.seek(0)
        yield copy  # type: ignore[misc]  # it has the methods of a binary file
