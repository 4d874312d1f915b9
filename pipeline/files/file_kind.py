"""Recognises what a file is by its first bytes, so that nothing is sent from a file that is something else.

Without this check a compressed file, UTF-16 text or a JSON array would become some wrong records, one for each newline.
"""

import codecs
import json

from headrace.pipeline.hinted_error import HintedError

HEAD_BYTES = 1 << 20
"""The number of bytes at the beginning of a file that are looked at."""

_SIGNATURES = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it: gunzip -c FILE | headrace produce"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it: zstd -dc FILE | headrace produce"),
    (b"BZh9", "compressed with bzip2", "unpack it: bzip2 -dc FILE | headrace produce"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it: xz -dc FILE | headrace produce"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV in UTF-8"),
    (b"Obj\x01", "an Avro file", "convert it to JSON lines or to Parquet"),
    (b"SQLite format 3\x00", "a SQLite database", "export the table as CSV"),
    (b"%PDF-", "a PDF document", "name a file of JSON lines, CSV or Parquet"),
)
_PARQUET = b"PAR1"
_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ARRAY = "a JSON array"
_SPREAD = "JSON that is spread over several lines"


class FileRefused(HintedError):
    """Raised when a file is not what its name or an option says, or can't be read; nothing was sent."""


def refuse_other_kinds(head: bytes, *, kind: str) -> None:
    """Refuse a file that is not of `kind`: "json", "csv" or "parquet". `head` are its first bytes.

    Raises FileRefused, which says what the file is instead. Broken lines of JSON are not refused: each becomes a dead
    letter.
    """
    is_parquet = head.startswith(_PARQUET)
    if kind == "parquet":
        if not is_parquet:
            raise FileRefused("the file is not Parquet", hint="name it .csv or .jsonl if it is CSV or JSON lines")
        return
    if is_parquet:
        raise FileRefused("the file is Parquet", hint="give its name the ending .parquet")
    for signature, what, hint in _SIGNATURES:
        if head.startswith(signature):
            raise FileRefused(f"the file is {what}", hint=hint)
    if head.startswith(_MARKS) or b"\0" in head[:4096]:
        _refuse_nul(head)
    if kind == "csv":
        _refuse_json(head)
    elif (form := _json_of_several_lines(head)) is not None:
        raise FileRefused(
            f"the file is {form}", hint="put each record on a line of its own: jq -c '.[]' FILE, or jq -c . FILE"
        )


def _refuse_nul(head: bytes) -> None:
    """Refuse UTF-16, UTF-32 or binary content. A file of broken records may hold a few NULs and is not refused."""
    evens, odds = head[0:4096:2], head[1:4096:2]
    half = max(len(odds), 1) // 2
    if head.startswith(_MARKS) or evens.count(0) > half or odds.count(0) > half:
        width = "32" if head.startswith(_MARKS[:2]) else "16"
        raise FileRefused(f"the file is UTF-{width} text", hint=f"save it as UTF-8: iconv -f UTF-{width} -t UTF-8 FILE")


def _refuse_json(head: bytes) -> None:
    """Refuse JSON that is named CSV."""
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if first.startswith((b'{"', b"{\n", b"{\r", b"[{", b"[\n")):
        what = "an array" if first.startswith(b"[") else "lines"
        raise FileRefused(
            f"the file is JSON ({what}) and not CSV", hint="give its name the ending .jsonl, without --csv"
        )


def _json_of_several_lines(head: bytes) -> str | None:
    """Say what JSON is that does not have a record on each line; None if lines of records are possible."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    line = text.partition(b"\n")[0].strip()
    if line[:1] not in {b"{", b"["}:
        return None
    try:
        whole = json.loads(line)
    except (ValueError, RecursionError):
        return _spread(text, line)
    is_list_of_records = isinstance(whole, list) and any(isinstance(part, dict | list) for part in whole)
    return _ARRAY if is_list_of_records else None


def _spread(text: bytes, line: bytes) -> str | None:
    """Tell whether a first line that is not JSON begins a JSON value that goes on in the next lines."""
    kind = _ARRAY if line.startswith(b"[") else _SPREAD
    if line in {b"{", b"[", b"[{"}:
        return kind
    try:
        _, end = json.JSONDecoder().raw_decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        # A long array on one line is cut at the end of the head.
        return _ARRAY if len(text) >= HEAD_BYTES // 2 and text.startswith(b"[{") else None
    return kind if b"\n" in text[:end] else None
