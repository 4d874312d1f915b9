"""The facts of a field: its types, what its texts look like, and how many values it has."""

from typing import Any

import pytest

from headrace.pipeline.check.field import FieldFacts, facts_of, leaves


def facts(*values: Any) -> FieldFacts:
    found = FieldFacts("a.b")
    for value in values:
        found.add(value)
    return found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1, 2), "integer"),
        ((1, 2.5), "number"),
        ((True, False), "boolean"),
        (("a", None), "string"),
        (("a", 1), "mixed"),
        ((True, 1), "mixed"),
        ((None,), "null"),
    ],
)
def test_the_type_is_that_of_all_values_other_than_null(values: tuple[Any, ...], kind: str) -> None:
    assert facts(*values).type == kind


@pytest.mark.parametrize(
    ("look", "yes", "no"),
    [
        ("number", ("1", "2.50", "-3"), ("007", "1e5", "x")),
        ("time", ("2026-03-01", "2026-03-01 10:00", "2026-03-01T10:00:00.123Z"), ("10:00", "20260301")),
        ("rfc3339", ("2026-03-01T10:00:00Z", "2026-03-01 10:00:00.5+01:00"), ("2026-03-01T10:00:00", "2026-03-01")),
        ("address", ("https://example.com/a", "www.example.com"), ("example", "http: no")),
        ("mail", ("a.b@example.com",), ("a@b", "a b@example.com")),
        ("uuid", ("123e4567-e89b-12d3-a456-426614174000",), ("123e4567",)),
    ],
)  # fmt: skip
def test_texts_are_recognised(look: str, yes: tuple[str, ...], no: tuple[str, ...]) -> None:
    assert facts(*yes).all_look(look)
    for text in no:
        assert not facts(text).all_look(look)


def test_values_are_counted_and_a_boolean_is_not_a_number() -> None:
    found = facts(1, 1, True, None)
    assert (found.seen, found.nulls, found.distinct, found.is_unique) == (3, 1, 2, False)
    assert facts("a", "b").is_unique
    assert (facts(3, 1.5, 2).smallest, facts(3, 1.5, 2).largest) == (1.5, 3)
    assert found.leaf == "b"


def test_each_leaf_has_a_path_and_an_array_counts_its_elements() -> None:
    value = {"a": {"b": 1, "c": [True, {"d": None}]}, "e": "x", "empty": {}}
    assert list(leaves(value)) == [("a.b", 1), ("a.c.0", True), ("a.c.1.d", None), ("e", "x")]
    assert {path: field.seen for path, field in facts_of([value, {"e": "y"}]).items()} == {
        "a.b": 1, "a.c.0": 1, "a.c.1.d": 0, "e": 2,
    }  # fmt: skip


def test_very_deep_values_end_the_walk_and_not_the_program() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert list(leaves({"a": deep})) == []
