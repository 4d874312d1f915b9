"""Labels in the form that a task's models learn."""

from typing import Any

import pytest

from headrace.state.models.label import LabelError, reader
from headrace.state.models.model import Task

GOOD: list[tuple[Task, Any, Any]] = [
    ("anomaly", 1, True),
    ("anomaly", False, False),
    ("clustering", "a", "a"),
    ("clustering", 2.0, 2),
    ("forecasting", 3, 3),
    ("recommendation", 0.5, 0.5),
    ("multilabel", {"a": True, "b": 0}, {"a": True, "b": False}),
    ("multitarget", {"a": 1, "b": 2.5}, {"a": 1, "b": 2.5}),
]
BAD: list[tuple[Task, Any, str]] = [
    ("anomaly", "yes", "the label 'yes' is neither true (an anomaly) nor false"),
    ("clustering", 0.5, "the label 0.5 is not a class"),
    ("forecasting", "3", "the label '3' is not a finite number"),
    ("recommendation", True, "the label True is not a finite number"),
    ("multilabel", True, "the label True is not an object with a value for each target"),
    ("multilabel", {}, "the label that is an object is not an object with a value for each target"),
    ("multilabel", {"a": "x"}, "target 'a': the label 'x' is neither true nor false"),
    ("multitarget", {"a": None}, "target 'a': the label None is not a finite number"),
]


@pytest.mark.parametrize(("task", "raw", "label"), GOOD)
def test_a_label_gets_the_form_of_its_task(task: Task, raw: Any, label: Any) -> None:
    found = reader(task, is_value=False, is_multiclass=False)(raw)
    assert (found, type(found)) == (label, type(label))


@pytest.mark.parametrize(("task", "raw", "words"), BAD)
def test_a_label_that_a_task_can_not_use_is_refused_with_the_reason(task: Task, raw: Any, words: str) -> None:
    with pytest.raises(LabelError) as refused:
        reader(task, is_value=False, is_multiclass=False)(raw)
    assert words in str(refused.value)


def test_the_label_of_a_detector_of_values_is_a_number() -> None:
    read = reader("anomaly", is_value=True, is_multiclass=False)
    assert read(7) == 7
    with pytest.raises(LabelError):
        read(True)


def test_the_targets_of_a_model_of_many_classes_may_be_words() -> None:
    assert reader("multilabel", is_value=False, is_multiclass=True)({"a": "red", "b": 2}) == {"a": "red", "b": 2}
