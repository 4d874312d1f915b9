"""A user's own records on their way in: JSON lines as they stand, or CSV rows made into JSON."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import msgspec

_LINE_BYTES_MAX = 100_000_000
_CELL_CHARACTERS_MAX = 10_000_000
# A decimal number as people and programs write them, also those that JSON would not take: +1, 007, .5, 1.
_NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d*)(?:\.(?P<part>\d*))?(?P<power>[eE][+-]?\d+)?", re.ASCII)


class RowError(Exception):
    """Raised when the input can't be read as it was asked for."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class InputRow(NamedTuple):
    """One record to send."""

    value: bytes
    key: bytes | None


def lines(file: BinaryIO, *, key: str | None) -> Iterator[InputRow]:
    """Yield each line that is not empty, byte for byte, whatever it holds.

    `key` names the feature, or else the field, whose value as text is the key; a line without it has none.
    """
    number = 0
    while line := file.readline(_LINE_BYTES_MAX):
        number += 1
        if len(line) == _LINE_BYTES_MAX:
            raise RowError(
                f"line {number} is longer than {_LINE_BYTES_MAX:,} bytes", hint="put each record on a line of its own"
            )
        value = line.removesuffix(b"\n").removesuffix(b"\r")
        if value:
            yield InputRow(value, None if key is None else _key_in(value, key))


def csv_rows(file: BinaryIO, *, label: str | None, id_: str | None, key: str | None) -> Iterator[InputRow]:
    """Yield a record for each row of a CSV file with a header; empty cells are left out.

    `label`, `id_` and `key` name columns. The first two are no features; the key stays one. Raises RowError.
    """
    csv.field_size_limit(_CELL_CHARACTERS_MAX)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        _check_header(header, {"--label": label, "--id": id_, "--key": key})
        for cells in reader:
            if len(cells) > len(header):
                raise RowError(
                    f"line {reader.line_num} has {len(cells)} cells, and the header {len(header)}",
                    hint="quote cells that have commas in them; the rows before it are sent",
                )
            if cells:
                yield _row(dict(zip(header, cells, strict=False)), label=label, id_=id_, key=key)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RowError(
            f"the CSV can't be read after line {reader.line_num}: {error}",
            hint="mend it, and save it as UTF-8; the rows before it are sent",
        ) from error
    finally:
        # The file is the caller's to close.
        text.detach()


def cell(text: str) -> msgspec.Raw | str | None:
    """Read a cell: a number or boolean as JSON has it, other text as it stands, None for an empty one."""
    bare = text.strip()
    if not bare:
        return None
    if bare.lower() in {"true", "false"}:
        return msgspec.Raw(bare.lower().encode())
    match = _NUMBER.fullmatch(bare)
    if match is None or not (match["whole"] or match["part"]):
        return text
    # Digit by digit as it was written: a detour over a float would round it.
    sign = "-" if match["sign"] == "-" else ""
    part = f".{match['part']}" if match["part"] else ""
    return msgspec.Raw(f"{sign}{match['whole'].lstrip('0') or '0'}{part}{match['power'] or ''}".encode())


def _row(cells: Mapping[str, str], *, label: str | None, id_: str | None, key: str | None) -> InputRow:
    features = {name: value for name, text in cells.items() if (value := cell(text)) is not None}
    record: dict[str, object] = {}
    if id_ is not None and features.pop(id_, None) is not None:
        record["id"] = cells[id_]
    truth = features.pop(label, None) if label is not None else None
    record["features"] = features
    if truth is not None:
        record["label"] = truth
    return InputRow(msgspec.json.encode(record), cells[key].encode() if key is not None and cells.get(key) else None)


def _check_header(header: list[str], named: Mapping[str, str | None]) -> None:
    if not any(header):
        raise RowError("the CSV has no header", hint="let its first line name the columns")
    if len(set(header)) < len(header):
        double = next(name for name in header if header.count(name) > 1)
        raise RowError(f"the column {double!r} stands twice in the header", hint="give each column its own name")
    for option, name in named.items():
        if name is not None and name not in header:
            raise RowError(f"{option} {name}: there is no such column", hint=f"the columns are {', '.join(header)}")


def _key_in(value: bytes, name: str) -> bytes | None:
    try:
        whole = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    features = whole.get("features")
    found = features[name] if isinstance(features, dict) and name in features else whole.get(name)
    if found is None or isinstance(found, dict | list):
        return None
    return (found if isinstance(found, str) else json.dumps(found)).encode()
