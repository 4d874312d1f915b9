from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.consumers.schema import Fault, Feature, Schema

AMOUNT = Feature(type="number", minimum=0, maximum=100)
SCHEMA = Schema(
    {
        "amount": AMOUNT,
        "count": Feature(type="integer", required=False),
        "country": Feature(type="string", required=False, values=("NO", "SE")),
        "member": Feature(type="boolean", required=False),
    }
)


def fault(features: dict[str, Any], schema: Schema = SCHEMA) -> tuple[str, str] | None:
    found = schema.check(features)
    assert found is None or found.feature in found.message
    return None if found is None else (found.code, found.feature)


@pytest.mark.parametrize(
    "features",
    [
        {"amount": 0},
        {"amount": 100},
        {"amount": 99.9, "count": -3, "country": "SE", "member": False},
        {"amount": -0.0},
        {"amount": 1, "another": "x"},
    ],
)
def test_features_that_keep_the_schema_pass(features: dict[str, Any]) -> None:
    assert SCHEMA.check(features) is None


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, ("missing_field", "amount")),
        ({"count": 1}, ("missing_field", "amount")),
        ({"amount": -0.001}, ("out_of_range", "amount")),
        ({"amount": -(10**400)}, ("out_of_range", "amount")),
        ({"amount": 100.001}, ("out_of_range", "amount")),
        ({"amount": "1"}, ("wrong_type", "amount")),
        ({"amount": True}, ("wrong_type", "amount")),
        ({"amount": None}, ("wrong_type", "amount")),
        ({"amount": 1, "count": 1.0}, ("wrong_type", "count")),
        ({"amount": 1, "count": False}, ("wrong_type", "count")),
        ({"amount": 1, "country": 47}, ("wrong_type", "country")),
        ({"amount": 1, "country": True}, ("wrong_type", "country")),
        ({"amount": 1, "country": "DK"}, ("out_of_range", "country")),
        ({"amount": 1, "country": ""}, ("out_of_range", "country")),
        ({"amount": 1, "member": 1}, ("wrong_type", "member")),
        ({"amount": 1, "member": "true"}, ("wrong_type", "member")),
    ],
)
def test_the_first_fault_is_named(features: dict[str, Any], expected: tuple[str, str]) -> None:
    assert fault(features) == expected


def test_the_faults_come_in_the_order_of_the_declarations() -> None:
    assert fault({"member": 1, "country": 1, "amount": "x"}) == ("wrong_type", "amount")


def test_others_may_not_come_where_the_schema_says_so() -> None:
    closed = Schema({"amount": AMOUNT}, extra=False)
    assert closed.check({"amount": 1}) is None
    assert fault({"amount": 1, "extra": 2}, closed) == ("unknown_feature", "extra")


def test_null_is_taken_for_a_nullable_feature_only() -> None:
    schema = Schema({"a": Feature(nullable=True, minimum=0), "b": Feature(type="string", required=False)})
    assert schema.nullable
    assert schema.check({"a": None}) is None
    assert fault({"a": -1}, schema) == ("out_of_range", "a"), "a bound holds for what is there"
    assert fault({"a": 1, "b": None}, schema) == ("wrong_type", "b")
    assert fault({"a": 1, "undeclared": None}, schema) == ("wrong_type", "undeclared")
    assert fault({}, schema) == ("missing_field", "a"), "nullable is not optional"


def test_a_schema_without_nullable_features_is_not_nullable() -> None:
    assert not SCHEMA.nullable
    assert not Schema({}).nullable
    assert Schema({}).check({"a": 1}) is None


_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
_FEATURES = st.builds(
    Feature,
    type=st.sampled_from(["number", "integer", "string", "boolean"]),
    required=st.booleans(),
    nullable=st.booleans(),
    minimum=st.none() | st.floats(-5, 0),
    maximum=st.none() | st.floats(0, 5),
    values=st.none() | st.just(("a", "b")),
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from("abc"), _FEATURES), st.dictionaries(st.sampled_from("abcd"), _VALUES))
def test_any_features_get_a_fault_that_is_theirs_or_none(
    declared: dict[str, Feature], features: dict[str, Any]
) -> None:
    found = Schema(declared, extra=False).check(features)
    if found is not None:
        assert isinstance(found, Fault)
        assert found.feature in features or found.code == "missing_field"
        return
    assert set(features) <= set(declared)
    assert {name for name, feature in declared.items() if feature.required} <= set(features)
    assert all(declared[name].nullable for name, value in features.items() if value is None)
