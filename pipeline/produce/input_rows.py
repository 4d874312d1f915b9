"""Reads the input of `headrace produce`: JSON lines are sent unchanged, CSV rows become JSON."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import msgspec

from headrace.pipeline.hinted_error import HintedError

_LINE_BYTES_MAX = 100_000_000
_CELL_CHARACTERS_MAX = 10_000_000
# A decimal number, also in forms that JSON does not allow: +1, 007, .5, 1.
_NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d*)(?:\.(?P<part>\d*))?(?P<power>[eE][+-]?\d+)?", re.ASCII)


class RowError(HintedError):
    """Raised when the input can't be read in the way that the options ask for."""


class InputRow(NamedTuple):
    """One record to send."""

    value: bytes
    key: bytes | None


def lines(file: BinaryIO, *, key: str | None) -> Iterator[InputRow]:
    """Yield each line that is not empty, unchanged and unchecked.

    `key` names a feature or, if there is no such feature, a field: its value as text is the Kafka key. A line without
    it has no key.
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
    """Yield a record for each row of a CSV file with a header. Empty cells are left out.

    `label`, `id_` and `key` name columns. The label and the id are not features, the key also is. Raises RowError.
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
                    hint="quote cells that contain commas; the rows before it are sent",
                )
            if cells:
                yield _row(dict(zip(header, cells, strict=False)), label=label, id_=id_, key=key)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RowError(
            f"the CSV can't be read after line {reader.line_num}: {error}",
            hint="fix that line, and save the file as UTF-8; the rows before it are sent",
        ) from error
    finally:
        # The caller closes the file.
        text.detach()


def cell(text: str) -> msgspec.Raw | str | None:
    """Read a cell: a number or a boolean becomes JSON's, other text stays unchanged, an empty cell is None."""
    stripped = text.strip()
    if not stripped:
        return None
    if stripped.lower() in {"true", "false"}:
        return msgspec.Raw(stripped.lower().encode())
    match = _NUMBER.fullmatch(stripped)
    if match is None or not (match["whole"] or match["part"]):
        return text
    # Copy the digits: a conversion to a float would round the number.
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
        raise RowError(f"the header has two columns {double!r}", hint="give each column its own name")
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
