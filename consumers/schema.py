"""Checks the features of a record against the declared schema: their types, ranges, and which are required.

The decoder checks each record. Without a schema every finite number, string or boolean is accepted.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

FeatureType = Literal["number", "integer", "string", "boolean"]
DeclaredType = Literal["number", "integer", "string", "boolean", "milliseconds", "days", "bytes"]
"""A type that a writer's schema declares: times are milliseconds since 1970, dates are days."""

_TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "string": (str,),
    "boolean": (bool,),
}


class Feature(msgspec.Struct, frozen=True):
    """One declared feature. `minimum` and `maximum` bound a number, both inclusive."""

    type: FeatureType = "number"
    required: bool = True
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] | None = None


class Fault(msgspec.Struct, frozen=True):
    """The first feature that breaks the schema, and the reason."""

    code: str
    feature: str
    message: str


class Schema:
    """Check a record's features against their declarations. With `extra`, undeclared features are accepted."""

    def __init__(self, features: Mapping[str, Feature], *, extra: bool = True) -> None:
        self._features = dict(features)
        self._extra = extra
        self.nullable = any(feature.nullable for feature in features.values())

    def is_nullable(self, name: str) -> bool:
        """Tell whether a feature is declared, and may be null."""
        return self.nullable and name in self._features and self._features[name].nullable

    def is_numeric(self, name: str) -> bool:
        """Tell whether a feature is declared as a number or an integer."""
        return name in self._features and self._features[name].type in {"number", "integer"}

    def check(self, features: Mapping[str, Any]) -> Fault | None:
        """Return the first fault of `features`, None when they match the schema."""
        for name, declared in self._features.items():
            if name not in features:
                if declared.required:
                    return Fault("missing_field", name, f"the feature `{name}` is required by the schema")
                continue
            fault = _check_one(name, features[name], declared)
            if fault is not None:
                return fault
        return self._check_undeclared(features)

    def _check_undeclared(self, features: Mapping[str, Any]) -> Fault | None:
        if self._extra and not self.nullable:
            return None
        for name, value in features.items():
            if name in self._features:
                continue
            if not self._extra:
                return Fault("unknown_feature", name, f"the feature `{name}` is not in the schema")
            if value is None:
                return Fault("wrong_type", name, f"{name} is null; the schema does not declare it nullable")
        return None


def _check_one(name: str, value: float | str | None, declared: Feature) -> Fault | None:
    if value is None:
        if declared.nullable:
            return None
        return Fault("wrong_type", name, f"{name} is null; the schema wants a {declared.type}")
    # In Python a boolean is an int, but not in a schema.
    if isinstance(value, bool) != (declared.type == "boolean") or not isinstance(value, _TYPES[declared.type]):
        return Fault("wrong_type", name, f"{name} is {value!r}; the schema wants a {declared.type}")
    if declared.values is not None and value not in declared.values:
        return Fault("out_of_range", name, f"{name} is {value!r}; one of {list(declared.values)} is wanted")
    if isinstance(value, str | bool):
        return None
    if declared.minimum is not None and value < declared.minimum:
        return Fault("out_of_range", name, f"{name} is {value!r}; at least {declared.minimum:g} is wanted")
    if declared.maximum is not None and value > declared.maximum:
        return Fault("out_of_range", name, f"{name} is {value!r}; at most {declared.maximum:g} is wanted")
    return None
