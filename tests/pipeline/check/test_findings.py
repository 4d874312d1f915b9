"""From the records of a topic to the mapping, the schema and the model, with the reasons, for each shape of records."""

import fnmatch
from typing import Any

import pytest
import topic_shapes

from headrace.pipeline.check.findings import Choices, Findings, SampleRefused, infer
from headrace.pipeline.check.shape import SampleRecord


def said(findings: Findings, subject: str) -> str:
    return "\n".join(sentence for name, sentence in findings.notes if name == subject)


WANTED: dict[str, tuple[dict[str, Any], str]] = {
    "own": ({}, "binary"),
    "flat": (
        {"features": "", "id": "transaction_id", "ts": "created_at", "ts_unit": "iso", "label": "is_fraud"},
        "binary",
    ),
    "debezium": (
        {"features": "payload.after", "id": "payload.after.order_id", "ts": "payload.ts_ms",
         "label": "payload.after.churned", "exclude": ["note"], "empty": "skip"},
        "binary",
    ),
    "cloudevents": ({"features": "data", "ts": "time", "ts_unit": "iso", "label": "data.outcome"}, "multiclass"),
    "mixed": (
        {"features": "", "id": "event_id", "ts_unit": "s", "label": "clicked", "flatten": True,
         "exclude": ["items.*", "amount", "reason"]},
        "binary",
    ),
    "unlabelled": ({"features": "", "id": "", "ts": "t", "ts_unit": "us", "label": ""}, "anomaly"),
    "wordy": (
        {"features": "", "ts": "", "label": "target", "numbers": "parse",
         "exclude": ["user_id", "session", "page", "mail", "text", "seen", "Unnamed: 0"]},
        "regression",
    ),
    "wide": ({"features": "", "id": "", "ts": "", "label": "y"}, "multiclass"),
}  # fmt: skip


@pytest.mark.parametrize("shape", WANTED)
def test_the_mapping_and_the_task_fit_the_records(shape: str) -> None:
    findings = infer(topic_shapes.sample_of(shape))
    assert (findings.records, findings.model.task) == WANTED[shape]
    excluded = findings.records.get("exclude", [])
    assert not [name for name in findings.schema if any(fnmatch.fnmatchcase(name, pattern) for pattern in excluded)]
    assert {name for name, _ in findings.notes} >= {"form", "id", "time", "label"}


def test_every_shape_has_a_row_here() -> None:
    assert set(WANTED) == set(topic_shapes.SHAPES)


def test_the_schema_declares_what_was_seen_and_requires_what_was_always_there() -> None:
    assert infer(topic_shapes.sample_of("flat")).schema == {
        "amount": {"type": "number"}, "country": {"type": "string"}, "hour": {"type": "number"},
        "known": {"type": "boolean"},
    }  # fmt: skip
    mixed = infer(topic_shapes.sample_of("mixed")).schema
    assert mixed["type"] == {"type": "string"}
    assert mixed["shop.size"] == {"type": "number", "required": False}
    wordy = infer(topic_shapes.sample_of("wordy")).schema
    assert wordy["price"] == {"type": "number"}
    assert wordy["zip"] == {"type": "string"}
    assert wordy["store_id"] == {"type": "integer"}


def test_encoders_follow_from_how_many_values_a_text_has() -> None:
    plan = infer(topic_shapes.sample_of("wordy")).model
    assert (plan.one_hot, plan.hashed, plan.codes, plan.has_numbers) == (["zip"], ["category"], ["store_id"], True)
    assert plan.buckets >= 4 * 80


def test_reasons_are_given() -> None:
    mixed = infer(topic_shapes.sample_of("mixed"))
    assert said(mixed, "kinds") == "`type` tells several kinds of records apart: order 34%, click 34%, refund 33%"
    assert "items: an array whose length changes, from 0 to 4" in said(mixed, "left out")
    assert "in 34% of the records" in said(mixed, "label")
    wordy = infer(topic_shapes.sample_of("wordy"))
    assert "user_id: an id is not a feature" in said(wordy, "left out")
    assert "so the model is a regressor" in said(wordy, "label")
    assert "--label PATH" in said(infer(topic_shapes.sample_of("unlabelled")), "label")
    wide = said(infer(topic_shapes.sample_of("wide")), "features")
    assert wide.startswith("numbers, scaled: f000, f001")
    assert wide.endswith(" and 980 more")
    assert len(infer(topic_shapes.sample_of("wide")).notes) < 12


def test_records_without_a_value_or_without_features_are_skipped() -> None:
    findings = infer(topic_shapes.sample_of("flat"), without_value=3)
    assert findings.records["empty"] == "skip"
    assert said(findings, "empty").startswith("3 records")


def test_null_features_count_as_not_there() -> None:
    findings = infer([SampleRecord({"id": n, "a": None if n % 2 else 1.5, "label": n % 2}) for n in range(30)])
    assert findings.records["nulls"] == "skip"
    assert findings.schema == {"a": {"type": "number", "required": False}}


def test_the_users_choices_win_over_the_guesses() -> None:
    findings = infer(topic_shapes.sample_of("flat"), Choices(id="", ts="", label="country"))
    assert (findings.records["id"], findings.records["ts"], findings.records["label"]) == ("", "", "country")
    assert findings.model.task == "multiclass"
    assert "is_fraud" in findings.schema


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (Choices(label="nowhere"), "--label nowhere: no record of the sample has it"),
        (Choices(id="nowhere"), "--id nowhere: no record of the sample has it"),
        (Choices(ts="country"), "--ts country: its values are not times"),
    ],
)
def test_a_choice_that_does_not_fit_the_sample_is_refused(choices: Choices, words: str) -> None:
    with pytest.raises(SampleRefused, match=words) as raised:
        infer(topic_shapes.sample_of("flat"), choices)
    assert raised.value.hint


def test_a_sample_from_which_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(SampleRefused, match="no record of the sample is a JSON object"):
        infer([])
    with pytest.raises(SampleRefused, match="several types"):
        infer([SampleRecord({"a": 1, "label": "x" if n % 2 else 5}) for n in range(9)])


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([True, False], "binary"), ([0, 1], "binary"), ([0.0, 1.0], "binary"), ([1, 2, 3], "multiclass"),
        (["yes", "no"], "multiclass"), (list(range(50)), "regression"), ([0.5, 2], "regression"), ([True, 0], "binary"),
    ],
)  # fmt: skip
def test_the_task_follows_from_the_values_of_the_label(labels: list[Any], task: str) -> None:
    records = [SampleRecord({"a": n / 7, "label": label}) for n, label in enumerate(labels * 30)]
    assert infer(records, Choices(label="label")).model.task == task
