"""The form of a topic's records, and the kinds of records that are mixed in it."""

import pytest
import topic_shapes

from headrace.pipeline.check.field import facts_of
from headrace.pipeline.check.shape import SampleRecord, features_in, kinds_of, shape_of


@pytest.mark.parametrize(
    ("shape", "features", "id_", "ts"),
    [
        ("own", "features", "id", "ts"),
        ("flat", "", None, None),
        ("debezium", "payload.after", None, "payload.ts_ms"),
        ("cloudevents", "data", "id", "time"),
        ("mixed", "", None, None),
        ("wide", "", None, None),
    ],
)
def test_the_form_says_where_the_features_are(shape: str, features: str, id_: str | None, ts: str | None) -> None:
    found = shape_of(topic_shapes.sample_of(shape))
    assert (found.features, found.id, found.ts) == (features, id_, ts)
    assert found.has_deletes == (shape == "debezium")


def test_changes_without_their_schema_are_recognised() -> None:
    inner = [SampleRecord(record.value["payload"]) for record in topic_shapes.sample_of("debezium")]
    assert shape_of(inner).features == "after"


def test_cloudevents_in_binary_mode_have_their_id_and_time_in_headers() -> None:
    record = SampleRecord({"amount": 1}, {"ce_specversion": "1.0", "ce_id": "7", "ce_time": "2026-03-01T10:00:00Z"})
    found = shape_of([record] * 3)
    assert (found.features, found.id, found.ts) == ("", "$headers.ce_id", "$headers.ce_time")


def test_a_single_object_with_a_usual_name_holds_the_features() -> None:
    assert shape_of([SampleRecord({"id": n, "data": {"a": 1}}) for n in range(5)]).features == "data"
    assert shape_of([SampleRecord({"id": n, "card": {"a": 1}}) for n in range(5)]).features == ""
    assert shape_of([SampleRecord({"data": {"a": 1}, "meta": {"b": 2}}) for _ in range(5)]).features == ""


def test_a_path_leads_to_an_object_or_nowhere() -> None:
    assert features_in({"a": {"b": {"c": 1}}}, "a.b") == {"c": 1}
    assert features_in({"a": {"b": None}}, "a.b") is None
    assert features_in({"a": 1}, "a.b") is None


def test_kinds_are_told_apart_by_a_field_if_they_have_other_fields() -> None:
    values = [record.value for record in topic_shapes.sample_of("mixed")]
    assert kinds_of(values, facts_of(values)) == ("type", {"order": 67, "click": 67, "refund": 66})
    alike = [{"type": ("a", "b")[n % 2], "x": 1} for n in range(10)]
    assert kinds_of(alike, facts_of(alike)) is None
