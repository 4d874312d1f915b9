"""The role of each field: which names the record, which is its time or its label, and which are no features."""

import re
from typing import Any

import pytest

from headrace.pipeline.check.field import FieldFacts, facts_of
from headrace.pipeline.check.role import find_id, find_labels, find_ts, role_of, unit_of

UUIDS = [f"123e4567-e89b-12d3-a456-4266141{n:05d}" for n in range(100)]


def facts(name: str, values: list[Any]) -> FieldFacts:
    found = FieldFacts(name)
    for value in values:
        found.add(value)
    return found


@pytest.mark.parametrize(
    ("name", "values", "encoding"),
    [
        ("amount", [n / 7 for n in range(100)], "number"),
        ("hour", [n % 24 for n in range(100)], "number"),
        ("known", [n % 2 == 0 for n in range(100)], "number"),
        ("price", [f"{n}.50" for n in range(100)], "parsed number"),
        ("country", ["NO", "SE", "DE", "FR"] * 25, "one-hot"),
        ("merchant", [f"m{n % 60}" for n in range(120)], "hashed"),
        ("zip", [f"0{1000 + n % 40}" for n in range(100)], "one-hot"),
        ("store_id", [n % 9 for n in range(100)], "code"),
        ("color_id", ["red", "blue"] * 50, "one-hot"),
        ("customer_id", [n * 7919 for n in range(100)], "left out"),
        ("customerId", [f"c{n}" for n in range(100)], "left out"),
        ("session", UUIDS, "left out"),
        ("reference", [f"r{n}x" for n in range(100)], "left out"),
        ("page", [f"https://example.com/{n % 3}" for n in range(100)], "left out"),
        ("contact", [f"a{n}@example.com" for n in range(100)], "left out"),
        ("day", [f"2026-03-{n % 28 + 1:02d}" for n in range(100)], "left out"),
        ("updated_at", [1_750_000_000 + n for n in range(100)], "left out"),
        ("text", [f"a text of words {n}" for n in range(100)], "left out"),
        ("Unnamed: 0", list(range(100)), "left out"),
        ("odd", ["a", 1] * 50, "left out"),
        ("nothing", [None] * 100, "left out"),
        ("name", ["ann", "bob"], "one-hot"),
        ("n", [1, 2, 3], "number"),
    ],
)
def test_a_field_is_encoded_by_what_its_values_are(name: str, values: list[Any], encoding: str) -> None:
    role = role_of(facts(name, values), len(values))
    assert role.encoding == encoding, role.reason
    assert role.reason


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("customer_id", [n * 7919 for n in range(100)], "an id is not a feature"),
        ("reference", [f"r{n}x" for n in range(100)], "an id is not a feature"),
        ("page", [f"https://example.com/{n % 3}" for n in range(100)], r"an address \(URL\) is not a feature"),
        ("text", [f"a text of words {n}" for n in range(100)], "free text"),
        ("rows", list(range(100)), "it counts the records"),
        ("odd", ["a", 1, 2], "its type changes: integer in 2 and string in 1 records"),
    ],
)
def test_what_is_left_out_has_a_reason(name: str, values: list[Any], words: str) -> None:
    assert re.search(words, role_of(facts(name, values), len(values)).reason)


@pytest.mark.parametrize(
    ("low", "unit"),
    [(1_750_000_000, "s"), (1_750_000_000_000, "ms"), (1_750_000_000_000_000, "us"), (1_750_000_000_000_000_000, "ns"),
     (1_750_000_000.25, "s"), (17, None), (-1, None)],
)  # fmt: skip
def test_the_unit_of_a_time_follows_from_its_size(low: float, unit: str | None) -> None:
    assert unit_of(facts("ts", [low, low + 1])) == unit


def test_rfc_3339_text_is_a_time_only_with_its_zone() -> None:
    assert unit_of(facts("at", ["2026-03-01T10:00:00+01:00"])) == "iso"
    assert unit_of(facts("at", ["2026-03-01T10:00:00"])) is None


def test_the_id_is_the_field_whose_name_says_so_and_whose_values_never_repeat() -> None:
    fields = facts_of([{"customer_id": n % 3, "order_id": f"o{n}", "uid": n, "n": n} for n in range(30)])
    found = find_id(fields, 30)
    assert found is not None
    assert found.name == "order_id"
    assert find_id(facts_of([{"id": n % 3} for n in range(30)]), 30) is None
    assert find_id(facts_of([{"id": n, "event_id": n} for n in range(30)]), 30).name == "id"  # type: ignore[union-attr]


def test_the_time_is_the_field_whose_name_says_so_and_whose_values_are_times() -> None:
    records = [{"created_at": "2026-03-01T10:00:00Z", "ts": 1_750_000_000_000 + n, "time": "noon"} for n in range(30)]
    found = find_ts(facts_of(records), 30)
    assert found is not None
    assert (found[0].name, found[1]) == ("ts", "ms")
    assert find_ts(facts_of([{"amount": 1_750_000_000}]), 1) is None


def test_labels_are_found_by_their_names_the_likeliest_first() -> None:
    fields = facts_of([{"fraud": 1, "data": {"label": True}, "amount": 2, "churn": None}])
    assert [field.name for field in find_labels(fields.values())] == ["data.label", "fraud"]
