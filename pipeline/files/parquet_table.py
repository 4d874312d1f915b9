"""Reads a Parquet file with pyarrow (the extra `parquet`): each row becomes a record."""

import datetime as dt
import decimal
import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.record_form import InputRow, RecordForm, TableColumns, as_text

_BATCH_ROWS = 1_000
_INDEX = "__index_level_"
_UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_OVERFLOW = msgspec.Raw(b"1e999")


class PyarrowMissing(Exception):
    """Raised when a Parquet file should be read and pyarrow is not installed."""

    status = 503
    hint = "install it: pip install 'headrace[parquet]'"


class ParquetTable:
    """A Parquet file. `notes` are lines for the user.

    Times become numbers in `ts_unit` ("s", "ms", "us", "ns") or text ("iso"), dates the days since 1970, decimals
    numbers. A null or a NaN is a missing value. Raises FileRefused, PyarrowMissing.
    """

    def __init__(self, file: BinaryIO, columns: TableColumns, *, ts_unit: str = "ms") -> None:
        try:
            self._arrow = importlib.import_module("pyarrow")
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise PyarrowMissing("a Parquet file needs pyarrow, which is not installed") from error
        try:
            self._file = parquet.ParquetFile(file)
        except (self._arrow.ArrowException, OSError) as error:
            raise FileRefused(f"the Parquet file can't be read: {error}", hint="write the file anew") from error
        self._columns = columns
        self._ts_unit = ts_unit
        self.notes: list[str] = []
        self._names = self._chosen()
        columns.check(self._names)

    def _chosen(self) -> list[str]:
        """Return the columns to read, and note which are left out."""
        names = self._file.schema_arrow.names
        if len(set(names)) < len(names):
            raise FileRefused("the file has two columns of one name", hint="give each column its own name")
        found = []
        for name in names:
            kind = self._file.schema_arrow.field(name).type
            if name.startswith(_INDEX) or not name:
                self.notes.append(f"the column {name or 'without a name'} is the index of a table and is left out")
            elif self._is_bytes(kind):
                self.notes.append(f"the column {name} holds bytes, which a record can't have, and is left out")
            else:
                found.append(name)
        return found

    def _is_bytes(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))

    def rows(self, form: RecordForm) -> Iterator[InputRow]:
        """Yield a record for each row."""
        form.check(self._columns)
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=self._names):
                columns = [self._values(batch.column(number)) for number in range(batch.num_columns)]
                for cells in zip(*columns, strict=True):
                    named = {name: cell for name, cell in zip(self._names, cells, strict=True) if cell is not None}
                    key = as_text(named.get(self._columns.key)) if self._columns.key else None
                    if self._columns.id in named:
                        named[self._columns.id] = as_text(named[self._columns.id])
                    yield form.row(named, self._columns, key=key)
        except (self._arrow.ArrowException, OSError) as error:
            raise FileRefused(f"the Parquet file can't be read: {error}", hint="write the file anew") from error

    def _values(self, column: Any) -> list[Any]:
        types, kind = self._arrow.types, column.type
        if types.is_timestamp(kind):
            # Whole numbers keep nanoseconds, which Python's own times do not have.
            numbers = column.cast(self._arrow.int64()).to_pylist()
            return [None if number is None else self._time(number, kind.unit) for number in numbers]
        convert = self._converter(kind)
        return [None if value is None else convert(value) for value in column.to_pylist()]

    def _converter(self, kind: Any) -> Callable[[Any], Any]:
        types = self._arrow.types
        is_plain = types.is_integer(kind) or types.is_boolean(kind) or types.is_string(kind)
        return (lambda value: value) if is_plain else self._plain

    def _time(self, number: int, unit: str) -> int | str | msgspec.Raw:
        if self._ts_unit == "iso":
            seconds, rest = divmod(number, _UNITS_PER_S[unit])
            fraction = f".{rest:0{len(str(_UNITS_PER_S[unit])) - 1}d}" if rest else ""
            return f"{(_EPOCH + dt.timedelta(seconds=seconds)).strftime('%Y-%m-%dT%H:%M:%S')}{fraction}Z"
        whole, rest = divmod(number * _UNITS_PER_S[self._ts_unit], _UNITS_PER_S[unit])
        if not rest:
            return whole
        # As a decimal: a double has too few digits for nanoseconds since 1970.
        exact = decimal.Decimal(rest) / _UNITS_PER_S[unit]
        return msgspec.Raw(f"{whole}.{str(exact).partition('.')[2]}".encode())

    def _plain(self, value: Any) -> Any:
        """Return a value as JSON has it."""
        if isinstance(value, float):
            return None if math.isnan(value) else (_OVERFLOW if math.isinf(value) else value)
        if isinstance(value, decimal.Decimal):
            return msgspec.Raw(str(value).encode()) if value.is_finite() else None
        if isinstance(value, dt.datetime):
            at = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
            return self._time(round((at - _EPOCH) / dt.timedelta(microseconds=1)), "us")
        if isinstance(value, dt.date):
            return (value - _EPOCH.date()).days
        if isinstance(value, dt.time):
            return value.isoformat()
        if isinstance(value, dt.timedelta):
            return value.total_seconds()
        if isinstance(value, dict):
            return {name: self._plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(part) for part in value]
        return value.hex() if isinstance(value, bytes) else value
