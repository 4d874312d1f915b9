"""Brings labels into the form that a task's models learn or are scored by."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from headrace.state.models.model import Task

# Every integer up to this one is a double.
_EXACT_MAX = 2**53
_SHOWN_MAX = 80


class LabelError(ValueError):
    """Raised for a label that a model of this task can't learn."""


def reader(task: Task, *, is_value: bool, is_multiclass: bool) -> Callable[[Any], Any]:
    """Return the function that brings a label into the form of a task; it raises LabelError.

    `is_value`: the label of an anomaly detector is the value that it judges, not whether that is an anomaly.
    `is_multiclass`: each target of a multi-label model has any number of classes, not only two.
    """
    if task == "anomaly" and is_value:
        return number_label
    if task == "multilabel":
        return _targets(class_label if is_multiclass else binary_label)
    if task == "multitarget":
        return _targets(number_label)
    return _READERS[task]


def binary_label(raw: Any) -> bool:
    """Return true or false, which 1 and 0 stand for, too. Raises LabelError."""
    if raw is True or raw is False:
        return bool(raw)
    if isinstance(raw, int | float) and raw in (0, 1):
        return bool(raw)
    raise LabelError(f"the label {shown(raw)} is neither true nor false; this binary model needs one of them")


def class_label(raw: Any) -> bool | int | str:
    """Return a class. Raises LabelError."""
    if isinstance(raw, bool | int | str):
        return raw
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    raise LabelError(f"the label {shown(raw)} is not a class: a string, a whole number or a boolean")


def number_label(raw: Any) -> int | float:
    """Return a finite number. Raises LabelError."""
    # NaN is not less than anything.
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not abs(raw) <= sys.float_info.max:
        raise LabelError(f"the label {shown(raw)} is not a finite number; this regression model needs one")
    # River's PARegressor computes with the integer itself: a compiled model could not give the same result.
    return float(raw) if abs(raw) > _EXACT_MAX else raw


def class_kind(label: Any) -> str:
    """Return the kind of a class: all classes of a model are of one."""
    return "string" if isinstance(label, str) else "number"


def shown(raw: Any) -> str:
    """Return a label as a message shows it."""
    if isinstance(raw, dict | list):
        # `repr` may fail on deep nesting.
        return "that is an object" if isinstance(raw, dict) else "that is an array"
    text = repr(raw)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."


def _verdict_label(raw: Any) -> bool:
    try:
        return binary_label(raw)
    except LabelError:
        raise LabelError(f"the label {shown(raw)} is neither true (an anomaly) nor false") from None


def _targets(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function that reads a label of several targets, each of them with `read`."""

    def read_all(raw: Any) -> dict[str, Any]:
        if not isinstance(raw, Mapping) or not raw:
            raise LabelError(f"the label {shown(raw)} is not an object with a value for each target")
        found = {}
        for target, value in raw.items():
            try:
                found[target] = read(value)
            except LabelError as error:
                raise LabelError(f"target {shown(target)}: {error}") from None
        return found

    return read_all


_READERS: dict[Task, Callable[[Any], Any]] = {
    "binary": binary_label,
    "multiclass": class_label,
    "regression": number_label,
    "anomaly": _verdict_label,
    "clustering": class_label,
    "forecasting": number_label,
    "recommendation": number_label,
}
