"""How a record is read: where its id, time, label and features are, which features count, and what is skipped.

The decoders of all formats and the scanner of JSON read by the same mapping.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Any, Literal

import msgspec

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
PathSource = Literal["nowhere", "value", "header", "key", "timestamp"]

_HEADERS = "$headers."
_PATTERNS_CACHED = 65_536
# A set of characters in brackets; the first of them may be a bracket, too.
_SET = re.compile(r"\[!?.[^\]]*\]", re.DOTALL)
_FORMS = "use * for any text, ? for one character and [abc] for one of several"


class FieldPath(msgspec.Struct, frozen=True):
    """Where a field is: in the record's value, below objects of these `names`; or in a header of this one name.

    It may also be the record's key or timestamp, or `nowhere`: then no record has the field.
    """

    source: PathSource
    names: tuple[str, ...] = ()


class RecordMapping(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The mapping of a topic's records, with the names, values and defaults of `[records]`.

    `features` is the path of an object, and "" is the whole value. An empty path of another field is none. Patterns
    are shell patterns for the names of features, which are paths below `features`.
    """

    features: str = "features"
    id: str = "id"
    ts: str = "ts"
    ts_unit: TimeUnit = "ms"
    label: str = "label"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    flatten: bool = False
    nulls: Literal["refuse", "skip"] = "refuse"
    empty: Literal["refuse", "skip"] = "refuse"
    numbers: Literal["strict", "parse"] = "strict"

    @cached_property
    def is_default(self) -> bool:
        """Whether records are `{"id": …, "ts": …, "features": {…}, "label": …}`."""
        return self == RecordMapping()

    @property
    def changed(self) -> dict[str, Any]:
        """The values that differ from their defaults, by name."""
        mine, default = msgspec.structs.asdict(self), msgspec.structs.asdict(RecordMapping())
        return {name: value for name, value in mine.items() if value != default[name]}

    @cached_property
    def features_path(self) -> tuple[str, ...]:
        """The names of the objects that lead to the features."""
        return path_of(self.features).names

    @property
    def feature_prefix(self) -> str:
        """What stands before the name of a feature where a reason names its field."""
        return "features." if self.features == "features" else ""

    @cached_property
    def id_path(self) -> FieldPath:
        """Where the id is."""
        return path_of(self.id)

    @cached_property
    def ts_path(self) -> FieldPath:
        """Where the event time is."""
        return path_of(self.ts)

    @cached_property
    def label_path(self) -> FieldPath:
        """Where the label is."""
        return path_of(self.label)

    @cached_property
    def own_fields(self) -> frozenset[str]:
        """The names of the id, the event time and the label where these lie among the features.

        Without `flatten` a field of an inner object is no feature anyway.
        """
        above = len(self.features_path)
        paths = [path.names for path in (self.id_path, self.ts_path, self.label_path) if path.source == "value"]
        below = [names[above:] for names in paths if names[:above] == self.features_path]
        return frozenset(".".join(names) for names in below if len(names) == 1 or (names and self.flatten))

    @cached_property
    def takes_all(self) -> bool:
        """Whether each field below `features` is a feature."""
        return not (self.include or self.exclude or self.own_fields)

    def leaves_out(self, name: str) -> bool:
        """Tell whether a field below `features` is left out, and with `flatten` all that is inside it."""
        return name in self.own_fields or _matches_any(self.exclude, name)

    def takes(self, name: str) -> bool:
        """Tell whether a field below `features` that holds a plain value is a feature."""
        return not self.leaves_out(name) and (not self.include or _matches_any(self.include, name))


def path_of(text: str) -> FieldPath:
    """Read a path: names with dots between them, `$headers.NAME`, `$key` or `$timestamp`. Raises ValueError."""
    if not text:
        return FieldPath("nowhere")
    if text == "$key":
        return FieldPath("key")
    if text == "$timestamp":
        return FieldPath("timestamp")
    if text == _HEADERS.rstrip(".") or text == _HEADERS:
        raise ValueError("the name of the header is missing: write $headers.NAME")
    if text.startswith(_HEADERS):
        return FieldPath("header", (text.removeprefix(_HEADERS),))
    if text.startswith("$"):
        raise ValueError("a path that begins with $ must be $headers.NAME, $key or $timestamp")
    names = tuple(text.split("."))
    if "" in names:
        raise ValueError("a name in the path is empty: put one dot between two names, as in payload.after.id")
    return FieldPath("value", names)


def check_pattern(pattern: str) -> None:
    """Raise ValueError for text that is no shell pattern, or that another kind of pattern reads differently."""
    if not pattern:
        raise ValueError("a pattern is empty: remove it")
    if pattern[0] in "!^":
        raise ValueError(f"the pattern {pattern!r} begins with {pattern[0]}: exclude leaves features out; {_FORMS}")
    plain = _SET.sub("", pattern)
    for sign, fault in (("[", "has a [ without its ]"), ("{", "has braces"), ("\\", "has a backslash")):
        if sign in plain:
            raise ValueError(f"the pattern {pattern!r} {fault}: {_FORMS}")


def header_value(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> bytes | None:
    """Return the value of the last header of this name; None if there is none."""
    return next((value for found, value in reversed(headers or ()) if found == name), None)


@lru_cache(_PATTERNS_CACHED)
def _matches_any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
