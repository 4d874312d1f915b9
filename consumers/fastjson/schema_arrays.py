"""A schema as arrays, with which compiled code checks records.

The declared features have the first numbers among the names of a vocabulary, in their order; so have the listed words.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.jit import inlined
from headrace.consumers.fastjson.number import BOOLEAN, FLOAT, INTEGER, NULL, STRING
from headrace.consumers.schema import Feature

_KINDS = {"number": (INTEGER, FLOAT), "integer": (INTEGER,), "string": (STRING,), "boolean": (BOOLEAN,)}
_KINDS_ALLOWED, _IS_REQUIRED, _IS_LISTED, _FIRST, _LAST = range(5)
_REQUIRED, _EXTRA = range(2)


class SchemaArrays(NamedTuple):
    """The declared features, by the numbers of their names.

    A row of `features` (int64) has a bit for each allowed kind, whether the feature is required, whether its strings
    are listed, and the range of its words in `words` (int64), which are sorted there. A row of `bounds` (float64) has
    the lowest and the highest value. `options` (int64) has the number of required features, and whether undeclared
    features are allowed.
    """

    features: Any
    bounds: Any
    words: Any
    options: Any


@inlined
def matches(rules: SchemaArrays, columns: Any, first: int, last: int) -> bool:
    """Tell whether the record with the entries from `first` to `last` surely matches the schema."""
    required = 0
    for k in range(first, last):
        name, kind = columns.names[k], columns.kinds[k]
        if name < len(rules.features):
            if not _fits(rules, name, kind, columns.values[k]):
                return False
            required += rules.features[name, _IS_REQUIRED]
        elif rules.options[_EXTRA] == 0 or kind == NULL:
            return False
    return required == rules.options[_REQUIRED]  # type: ignore[no-any-return]


@inlined
def _fits(rules: SchemaArrays, name: int, kind: int, value: float) -> bool:
    if rules.features[name, _KINDS_ALLOWED] >> kind & 1 == 0:
        return False
    if kind in (INTEGER, FLOAT):
        return not (value < rules.bounds[name, 0] or value > rules.bounds[name, 1])
    if kind != STRING or rules.features[name, _IS_LISTED] == 0:
        return True
    low, high = rules.features[name, _FIRST], rules.features[name, _LAST]
    while low < high:
        middle = (low + high) >> 1
        if rules.words[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < rules.features[name, _LAST] and rules.words[low] == value  # type: ignore[no-any-return]


def arrays_of(features: Mapping[str, Feature], *, extra: bool, numbers: Mapping[str, int]) -> SchemaArrays:
    """Return a schema as arrays; `numbers` has the numbers of the words that it lists."""
    declared = features.values()
    rows: list[tuple[int, ...]] = []
    words: list[int] = []
    for feature in declared:
        listed = sorted({numbers[word] for word in feature.values or ()})
        row = _kinds(feature), feature.required, feature.values is not None, len(words), len(words) + len(listed)
        rows.append(row)
        words += listed
    bounds = [(_bound(feature.minimum, -math.inf), _bound(feature.maximum, math.inf)) for feature in declared]
    required = sum(feature.required for feature in declared)
    return SchemaArrays(
        features=np.array(rows, np.int64).reshape(-1, 5),
        bounds=np.array(bounds, np.float64).reshape(-1, 2),
        words=np.array(words, np.int64),
        options=np.array([required, extra], np.int64),
    )


def _kinds(feature: Feature) -> int:
    kinds = _KINDS[feature.type]
    if feature.values is not None and feature.type != "string":
        # Listed values are strings, so no value of another type is allowed.
        kinds = ()
    if not (_is_exact(feature.minimum) and _is_exact(feature.maximum)):
        kinds = ()
    return sum(1 << kind for kind in kinds) | (1 << NULL if feature.nullable else 0)


def _is_exact(bound: float | None) -> bool:
    """Tell whether a double holds a bound exactly; it may be an integer of any size."""
    try:
        return bound is None or float(bound) == bound
    except OverflowError:
        return False


def _bound(bound: float | None, default: float) -> float:
    return float(bound) if bound is not None and _is_exact(bound) else default
