"""Collects facts about each field of the sample: how often it is there, its types, and what its values look like."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from headrace.consumers.formats.writer_schema import Absence
from headrace.pipeline.files.csv_column import is_number_text

DISTINCT_MAX = 10_000
_DEPTH_MAX = 20
_TIME_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?)?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+", re.IGNORECASE)
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_LOOKS: dict[str, Callable[[str], bool]] = {
    "number": is_number_text,
    "time": lambda text: _TIME_TEXT.fullmatch(text) is not None,
    "rfc3339": lambda text: _RFC_3339.fullmatch(text) is not None,
    "address": lambda text: _ADDRESS.fullmatch(text) is not None,
    "mail": lambda text: _MAIL.fullmatch(text) is not None,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "sentence": lambda text: text.count(" ") >= 3,  # noqa: PLR2004 four words
}


class FieldFacts:
    """What the sample shows of one field; `name` is its path, with dots."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen = 0
        """The number of records in which it has a value other than null."""
        self.nulls = 0
        self.absence: Absence | None = None
        """How a record may lack it, if the schema of its writer says so."""
        self.types: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        """How many of its texts look like a number, a time, an address, …"""
        self.values: Counter[Any] = Counter()
        """The distinct values with their counts, up to `DISTINCT_MAX` of them."""
        self.smallest: float | None = None
        self.largest: float | None = None

    def add(self, value: Any) -> None:
        """Take the value of the next record into account."""
        if value is None:
            self.nulls += 1
            return
        self.seen += 1
        kind = type_of(value)
        self.types[kind] += 1
        # A boolean equals a number in Python, and would be counted as the same value.
        if len(self.values) < DISTINCT_MAX or (kind, value) in self.values:
            self.values[kind, value] += 1
        if kind == "string":
            self.looks.update(name for name, test in _LOOKS.items() if test(value.strip()))
        elif kind in {"integer", "number"}:
            self.smallest = value if self.smallest is None else min(self.smallest, value)
            self.largest = value if self.largest is None else max(self.largest, value)

    @property
    def distinct(self) -> int:
        """The number of distinct values."""
        return len(self.values)

    @property
    def is_unique(self) -> bool:
        """Whether no value came twice."""
        return self.seen > 0 and self.distinct == min(self.seen, DISTINCT_MAX)

    @property
    def type(self) -> str:
        """The type of all values: number, integer, string or boolean; "mixed" if there are several."""
        kinds = set(self.types)
        if kinds == {"integer", "number"}:
            return "number"
        return kinds.pop() if len(kinds) == 1 else ("mixed" if kinds else "null")

    def all_look(self, kind: str) -> bool:
        """Return whether all values are texts that look like this."""
        return self.seen > 0 and self.looks[kind] == self.seen

    @property
    def leaf(self) -> str:
        """The last name of its path."""
        return self.name.rpartition(".")[2]


def type_of(value: Any) -> str:
    """Return the type of a JSON value as `[schema]` names it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, bytes):
        return "bytes"
    return "string" if isinstance(value, str) else "nested"


def leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the path of each value that is not nested, with the value. An element of an array has its index as name."""
    if depth < _DEPTH_MAX and isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}.{name}" if path else str(name), depth + 1)
    elif path and not isinstance(value, dict | list):
        yield path, value


def facts_of(values: list[Mapping[str, Any]]) -> dict[str, FieldFacts]:
    """Return the facts of all fields of these values, by path, in the order in which they came first."""
    found: dict[str, FieldFacts] = {}
    for value in values:
        for path, leaf in leaves(value):
            found.setdefault(path, FieldFacts(path)).add(leaf)
    return found
