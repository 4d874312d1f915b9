"""Puts the columns of a table where `[records]` looks for them, so that a file and a topic are read alike."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from headrace.pipeline.files.file_kind import FileRefused

Path = tuple[str, ...]


class InputRow(NamedTuple):
    """One record of a file: its value as JSON, and its Kafka key."""

    value: bytes
    key: bytes | None


class TableColumns(msgspec.Struct, frozen=True):
    """The columns of a table that an option names: the label, the id, and the Kafka key."""

    label: str | None = None
    id: str | None = None
    key: str | None = None

    def check(self, names: Iterable[str]) -> None:
        """Raise FileRefused if an option names a column that the table does not have."""
        there = list(names)
        for option, name in (("--label", self.label), ("--id", self.id), ("--key", self.key)):
            if name is not None and name not in there:
                raise FileRefused(
                    f"{option} {name}: there is no such column", hint=f"the columns are {', '.join(map(str, there))}"
                )


class RecordForm:
    """Make records from rows. `features`, `id` and `label` are the paths of `[records]`; an empty text is no path."""

    def __init__(self, *, features: str = "features", id_: str = "id", label: str = "label") -> None:
        self._features = _split(features)
        self._paths = {"id": id_, "label": label}

    def check(self, columns: TableColumns) -> None:
        """Raise FileRefused if a column is named for a field that no value has a place for."""
        for option, name in (("id", columns.id), ("label", columns.label)):
            path = self._paths[option]
            if name is not None and (not path or path.startswith("$")):
                where = f"is {path}, which is not in the value" if path else "is empty"
                raise FileRefused(
                    f"--{option} {name}: records.{option} {where}",
                    hint=f"leave --{option} out, or set records.{option} to a path in the value",
                )

    def row(self, cells: Mapping[str, Any], columns: TableColumns, *, key: str | None) -> InputRow:
        """Return the record of a row. `cells` are JSON values by their column's name, without the missing ones.

        The label and the id are not features, the column with the key also is.
        """
        features = dict(cells)
        record: dict[str, Any] = {}
        taken = [(self._paths[option], name) for option, name in (("id", columns.id), ("label", columns.label)) if name]
        values = [(path, features.pop(name)) for path, name in taken if name in features]
        _place(record, self._features, features)
        for path, value in values:
            _place(record, _split(path), value)
        return InputRow(msgspec.json.encode(record), None if not key else key.encode())


def as_text(value: Any) -> str | None:
    """Return a JSON value as the text of a Kafka key; None if it is missing or nested."""
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _split(path: str) -> Path:
    return tuple(path.split(".")) if path else ()


def _place(record: dict[str, Any], path: Path, value: Any) -> None:
    """Put a value at a path; an object is merged with the one that is there."""
    node = record
    for name in path[:-1]:
        node = node.setdefault(name, {})
    if not path:
        record.update(value)
    elif isinstance(value, dict) and isinstance(node.get(path[-1]), dict):
        node[path[-1]].update(value)
    else:
        node[path[-1]] = value
