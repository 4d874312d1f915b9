"""Predictions in each format, read back by the libraries that others read them with."""

import io
import json
import math
from typing import Any

import fastavro
import jsonschema_rs
import pytest

from headrace.consumers.formats.protobuf import ProtobufReader
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.producers.formats.prediction_encoder import PredictionEncoder
from headrace.producers.formats.prediction_schema import WITH_PROBA, PredictionFormat, has_schema, schema_text

REST = {
    "model": {"name": "fraud", "version": 17, "generation": 2},
    "source": {"topic": "features", "partition": 3, "offset": 2**40},
    "ts": 1_700_000_000_005,
}
FEATURES = {"amount": 12.5, "hour": -3, "country": "NØ", "known": True, "gone": None, "big": 10**30}
LINES: list[tuple[str, dict[str, Any]]] = [
    ("binary", {"id": "t-1", "prediction": True, **REST, "proba": {"false": 0.07, "true": 0.93}}),
    ("binary", {"id": "t-2", "prediction": False, **REST}),
    ("binary", {"id": "t-3", "prediction": None, **REST, "proba": {"false": None, "true": 1.0}}),
    ("regression", {"id": "ø", "prediction": -0.1, **REST}),
    ("regression", {"id": "", "prediction": None, **REST}),
    ("multiclass", {"id": "m", "prediction": "red", **REST, "proba": {"red": 1.0}}),
    ("multiclass", {"id": "m", "prediction": 3, **REST, "proba": {"3": 1.0}}),
    ("multiclass", {"id": "m", "prediction": None, **REST, "proba": {}}),
    ("anomaly", {"id": "a", "prediction": True, **REST, "score": 0.97}),
    ("anomaly", {"id": "a", "prediction": None, **REST, "score": -3.5}),
    ("anomaly", {"id": "a", "prediction": None, **REST, "score": None}),
    ("clustering", {"id": "c", "prediction": 4, **REST}),
    ("clustering", {"id": "c", "prediction": -1, **REST}),
    ("clustering", {"id": "c", "prediction": None, **REST}),
    ("forecasting", {"id": "f", "prediction": [1.5, -2.0], **REST}),
    ("forecasting", {"id": "f", "prediction": None, **REST}),
    ("recommendation", {"id": "r", "prediction": 3.5, **REST}),
]


def encoded(form: PredictionFormat, task: str, line: dict[str, Any], *, has_features: bool = False) -> bytes:
    encoder = PredictionEncoder(form, task, schema_id=9, has_features=has_features)
    value = encoder.encode(json.dumps(line).encode())
    assert value[:5] == b"\0\0\0\0\x09"
    return value[5:]


def expected(line: dict[str, Any], task: str) -> dict[str, Any]:
    proba = line.get("proba")
    shares = None if proba is None else {name: math.nan if p is None else p for name, p in proba.items()}
    return {**line, "proba": shares} if task in WITH_PROBA else line


@pytest.mark.parametrize(("task", "line"), LINES)
def test_avro_has_the_fields_of_the_json_form(task: str, line: dict[str, Any]) -> None:
    schema = json.loads(schema_text("avro", task, has_features=False))
    schema["fields"][4]["type"] = "long"
    found = fastavro.schemaless_reader(io.BytesIO(encoded("avro", task, line)), schema, None)
    assert json.dumps(found, sort_keys=True) == json.dumps(expected(line, task), sort_keys=True)


@pytest.mark.parametrize(("task", "line"), LINES)
def test_protobuf_has_the_fields_of_the_json_form(task: str, line: dict[str, Any]) -> None:
    text = schema_text("protobuf", task, has_features=False)
    value = encoded("protobuf", task, line)
    found = ProtobufReader(WriterSchema("PROTOBUF", text)).read(value[1:])
    wanted = expected(line, task)
    if task == "multiclass" and wanted["prediction"] is not None:
        wanted["prediction"] = str(wanted["prediction"])
    wanted = {name: part for name, part in wanted.items() if part is not None}
    if task == "forecasting":
        # A list without numbers and one that is not there are the same in Protobuf.
        wanted.setdefault("prediction", [])
    # A map without entries and one that is not there are the same in Protobuf.
    assert json.dumps(found | {"proba": found.get("proba") or {}}, sort_keys=True) == json.dumps(
        wanted | {"proba": wanted.get("proba") or {}}, sort_keys=True
    )


@pytest.mark.parametrize(("task", "line"), LINES)
def test_json_schema_is_the_json_form_behind_the_frame_and_valid(task: str, line: dict[str, Any]) -> None:
    value = encoded("json-schema", task, line)
    assert json.loads(value) == line
    jsonschema_rs.validate(json.loads(schema_text("json-schema", task, has_features=True)), {**line, "features": {}})


def test_a_value_for_each_target_has_a_form_in_json_alone() -> None:
    for task in ("multilabel", "multitarget"):
        assert [form for form in ("json", "avro", "protobuf", "json-schema") if has_schema(form, task)] == [
            "json",
            "json-schema",
        ]


def test_features_are_in_each_format_as_the_model_saw_them() -> None:
    line = {**LINES[0][1], "features": FEATURES}
    schema = json.loads(schema_text("avro", "binary", has_features=True))
    found = fastavro.schemaless_reader(io.BytesIO(encoded("avro", "binary", line, has_features=True)), schema, None)
    assert found["features"] == {**FEATURES, "big": 1e30}
    text = schema_text("protobuf", "binary", has_features=True)
    value = encoded("protobuf", "binary", line, has_features=True)
    features = ProtobufReader(WriterSchema("PROTOBUF", text)).read(value[1:])["features"]
    assert features["amount"] == {"number": 12.5}
    assert features["hour"] == {"integer": -3}
    assert features["country"] == {"text": "NØ"}
    assert features["known"] == {"boolean": True}
    assert features["gone"] == {}
