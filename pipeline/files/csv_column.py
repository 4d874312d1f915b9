"""Decides what a column of a CSV file holds, from all its cells, and turns each cell into JSON.

A column has one type in the whole file. If each cell decided for itself, a column of part numbers (A17, 007, 32E0134)
would hold text, whole numbers and decimals in turns.
"""

import re
from typing import Literal

import msgspec

ColumnType = Literal["empty", "boolean", "number", "number with a decimal comma", "text"]

_WHOLE_DIGITS_MAX = 15
"""A double has about 15 digits. A longer number is a card number or an id, and must not be rounded."""

# The whole part has no leading zero. Either the part after the point or the whole part may be missing: .5 and 5.
_POINT = re.compile(r"(?P<sign>[+-]?)(?P<whole>0|[1-9]\d*)?(?:\.(?P<part>\d*))?(?P<power>[eE][+-]?\d+)?", re.ASCII)
# With a decimal comma a point may stand between groups of three digits: 1.234,56.
_COMMA = re.compile(r"(?P<sign>[+-]?)(?P<whole>0|[1-9]\d{0,2}(?:\.\d{3})+|[1-9]\d*)?(?:,(?P<part>\d*))?", re.ASCII)
_BOOLEANS = frozenset(("true", "false"))


class CsvColumn:
    """The type of one column. Give all cells to `see`, then `to_json` turns each of them into JSON."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.type: ColumnType = "empty"
        self.seen = 0
        self.numbers = 0
        self.odd: tuple[int, str] | None = None
        """The line and the text of the first cell that is not a number."""
        self._fits: dict[ColumnType, bool] = dict.fromkeys(("boolean", "number", "number with a decimal comma"), True)

    def see(self, cell: str, line: int) -> None:
        """Take the next cell into account; `line` is its line in the file."""
        text = cell.strip()
        if not text:
            return
        self.seen += 1
        is_number, with_comma = is_number_text(text), _match(_COMMA, text) is not None
        self.numbers += is_number or with_comma
        if not (is_number or with_comma) and self.odd is None:
            self.odd = (line, text)
        fits = self._fits
        fits["boolean"] &= text.lower() in _BOOLEANS
        fits["number"] &= is_number
        fits["number with a decimal comma"] &= with_comma

    @property
    def needs_comma(self) -> bool:
        """Whether its cells are numbers only if the comma is the decimal sign."""
        return self.seen > 0 and not self._fits["number"] and self._fits["number with a decimal comma"]

    def decide(self, *, comma: bool) -> None:
        """Set the type, after the last cell. `comma` says that numbers of this file have a decimal comma."""
        order: tuple[ColumnType, ...] = ("boolean", "number")
        if comma:
            order = ("boolean", "number with a decimal comma", "number")
        self.type = next((kind for kind in order if self._fits[kind]), "text") if self.seen else "empty"

    def to_json(self, cell: str) -> msgspec.Raw | str | None:
        """Return a cell as JSON, digit for digit; None if it is empty. Text stays unchanged."""
        text = cell.strip()
        if not text:
            return None
        if self.type == "text":
            return cell
        if self.type == "boolean":
            return msgspec.Raw(text.lower().encode())
        match = _match(_POINT if self.type == "number" else _COMMA, text)
        assert match is not None
        # Copy the digits: a conversion to a float would round the number.
        sign = "-" if match["sign"] == "-" else ""
        whole = (match["whole"] or "0").replace(".", "")
        part = f".{match['part']}" if match["part"] else ""
        return msgspec.Raw(f"{sign}{whole}{part}{match.groupdict().get('power') or ''}".encode())


def is_number_text(text: str) -> bool:
    """Return whether a text is a number and not an identifier that consists of digits.

    Not a number: a text with a leading zero (007), with more than 15 digits before its point, or that is one only by an
    exponent (32E0134); programs write exponents after a decimal point or with a sign (1.5E3, 1e-05).
    """
    match = _match(_POINT, text)
    if match is None:
        return False
    power = match["power"]
    return not power or match["part"] is not None or power[1] in "+-"


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = pattern.fullmatch(text)
    if match is None or not (match["whole"] or match["part"]):
        return None
    return match if len((match["whole"] or "").replace(".", "")) <= _WHOLE_DIGITS_MAX else None
