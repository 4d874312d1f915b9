"""Says what becomes of each field that a binary schema describes, by the mapping of the topic's records."""

from collections.abc import Callable
from typing import NamedTuple

from headrace.consumers.mapping import RecordMapping

SKIP, FEATURE, ID, TIME, LABEL = range(5)
"""What becomes of a value."""
TIME_UNITS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
"""The factor and the divisor that make milliseconds of each unit."""


class Unsuitable(Exception):
    """Raised when a schema has no program: all its records are slow."""


class Place(NamedTuple):
    """What becomes of the value of a field: the target, and the name of a feature."""

    target: int
    name: str = ""


FindPlace = Callable[[tuple[str, ...]], Place]
"""Says what becomes of the field at a path."""


class FieldPlaces:
    """Say what becomes of the fields of a schema, by a mapping."""

    def __init__(self, mapping: RecordMapping) -> None:
        self._mapping = mapping
        self.has_features = False
        paths = ((mapping.id_path, ID), (mapping.ts_path, TIME), (mapping.label_path, LABEL))
        self._own = {path.names: target for path, target in paths if path.source == "value"}

    def find(self, path: tuple[str, ...]) -> Place:
        """Return what becomes of the field at a path. Raises Unsuitable where the decoder must tell."""
        mapping, above = self._mapping, self._mapping.features_path
        is_inside = len(path) > len(above) and path[: len(above)] == above
        self.has_features = self.has_features or is_inside
        if self._leads_on(path) or any(path[:size] in self._own for size in range(1, len(path))):
            # The one should be an object, and holds a plain value; the other should be plain, and is an object.
            raise Unsuitable
        if (target := self._own.get(path)) is not None:
            return Place(target)
        if not is_inside:
            return Place(SKIP)
        below = path[len(above) :]
        if not mapping.flatten and len(below) > 1:
            if mapping.takes(below[0]):
                raise Unsuitable
            return Place(SKIP)
        outer = (".".join(below[:size]) for size in range(1, len(below)))
        name = ".".join(below)
        if any(map(mapping.leaves_out, outer)) or not mapping.takes(name):
            return Place(SKIP)
        return Place(FEATURE, name)

    def are_features(self, path: tuple[str, ...]) -> bool:
        """Tell whether the features are the fields of the object at a path."""
        return path == self._mapping.features_path

    def flattens(self, path: tuple[str, ...]) -> bool:
        """Tell whether each value inside the object or the array at a path is a feature of its own."""
        above = self._mapping.features_path
        return self._mapping.flatten and len(path) > len(above) and path[: len(above)] == above

    def refuses(self, path: tuple[str, ...]) -> bool:
        """Tell whether an object at a path stands where a plain value must be, which makes its record a bad one."""
        above = self._mapping.features_path
        if path in self._own:
            return True
        is_inside = len(path) == len(above) + 1 and path[: len(above)] == above
        return is_inside and not self._mapping.flatten and self._mapping.takes(path[-1])

    def _leads_on(self, path: tuple[str, ...]) -> bool:
        """Tell whether a field of the record is inside the object at a path."""
        mapping = self._mapping
        return any(
            path == names[: len(path)] and len(names) > len(path) for names in (*self._own, mapping.features_path)
        )
