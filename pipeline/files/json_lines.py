"""Reads JSON lines: each line is a record, unchanged and unchecked."""

import codecs
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.record_form import InputRow, as_text

_LINE_BYTES_MAX = 100_000_000
_decode = msgspec.json.Decoder().decode


def json_lines(file: BinaryIO, *, key: str | None, features: str = "features") -> Iterator[InputRow]:
    """Yield each line that is not empty, byte for byte. Raises FileRefused for an endless line.

    `key` names a feature, below the path `features`, or else a field of the value: its value as text is the Kafka key.
    A line without it has no key.
    """
    number = 0
    while line := file.readline(_LINE_BYTES_MAX):
        number += 1
        if len(line) == _LINE_BYTES_MAX:
            raise FileRefused(
                f"line {number} is longer than {_LINE_BYTES_MAX:,} bytes", hint="put each record on a line of its own"
            )
        if number == 1:
            # A program may have put a byte order mark before the first record.
            line = line.removeprefix(codecs.BOM_UTF8)
        value = line.removesuffix(b"\n").removesuffix(b"\r")
        if value:
            yield InputRow(value, None if key is None else _key_in(value, key, features))


def _key_in(value: bytes, name: str, features: str) -> bytes | None:
    try:
        whole = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    inner = lookup(whole, features) if features else whole
    found = as_text(lookup(inner, name))
    if found is None:
        found = as_text(lookup(whole, name))
    return None if found is None else found.encode()


def lookup(value: Any, path: str) -> Any:
    """Return the value at a path of names with dots; a name that has dots itself is found as well. None: not there."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value
