"""The schemas of predictions, one for each format and task: the fields are those of the JSON form."""

import json
from typing import Any, Literal

PredictionFormat = Literal["avro", "protobuf", "json-schema"]

WITH_PROBA = frozenset({"binary", "multiclass"})
"""The tasks whose predictions have probabilities; those of the task "anomaly" have a score."""
_AVRO_ANSWERS: dict[str, list[Any]] = {
    "binary": ["null", "boolean"],
    "anomaly": ["null", "boolean"],
    "regression": ["null", "double"],
    "recommendation": ["null", "double"],
    "clustering": ["null", "long"],
    "forecasting": ["null", {"type": "array", "items": "double"}],
    # The classes of one model are all of one of these types.
    "multiclass": ["null", "string", "long", "boolean"],
}
AVRO_FEATURE = ["null", "boolean", "long", "double", "string"]
"""The union of a feature's values in Avro."""
_PROTOBUF_ANSWERS = {
    "binary": "optional bool",
    "anomaly": "optional bool",
    "regression": "optional double",
    "recommendation": "optional double",
    "clustering": "optional sint64",
    "forecasting": "repeated double",
    "multiclass": "optional string",
}
_JSON_ANSWERS = {
    "binary": ["boolean"],
    "anomaly": ["boolean"],
    "regression": ["number"],
    "recommendation": ["number"],
    "clustering": ["integer"],
    "forecasting": ["array"],
    "multiclass": ["string", "integer", "boolean"],
    "multilabel": ["object"],
    "multitarget": ["object"],
}


def has_schema(form: str, task: str) -> bool:
    """Tell whether predictions of a task have a form in a format."""
    return form in {"json", "json-schema"} or task in _AVRO_ANSWERS


def schema_text(form: PredictionFormat, task: str, *, has_features: bool) -> str:
    """Return the text of the schema; `has_features` adds the features as the model saw them."""
    if form == "avro":
        return json.dumps(_avro(task, has_features=has_features))
    if form == "protobuf":
        return _protobuf(task, has_features=has_features)
    return json.dumps(_json(task, has_features=has_features))


def _avro(task: str, *, has_features: bool) -> dict[str, Any]:
    fields: list[dict[str, Any]] = [
        {"name": "id", "type": "string"},
        {"name": "prediction", "type": _AVRO_ANSWERS[task]},
        {"name": "model", "type": _avro_model()},
        {"name": "source", "type": _avro_record("Source", topic="string", partition="int", offset="long")},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]
    if task == "anomaly":
        fields.append({"name": "score", "type": ["null", "double"], "default": None})
    if task in WITH_PROBA:
        proba = {"type": "map", "values": "double"}
        fields.append({"name": "proba", "type": ["null", proba], "default": None})
    if has_features:
        fields.append({"name": "features", "type": {"type": "map", "values": AVRO_FEATURE}, "default": {}})
    return {"type": "record", "name": "Prediction", "namespace": "headrace", "fields": fields}


def _avro_model() -> dict[str, Any]:
    model = _avro_record("Model", name="string", version="long")
    # With a default, so that a new reader takes the predictions of an earlier release.
    model["fields"].append({"name": "generation", "type": "long", "default": 1})
    return model


def _avro_record(record: str, **fields: str) -> dict[str, Any]:
    return {"type": "record", "name": record, "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


def _protobuf(task: str, *, has_features: bool) -> str:
    proba = "  map<string, double> proba = 6;\n" if task in WITH_PROBA else ""
    score = "  optional double score = 8;\n" if task == "anomaly" else ""
    features = "  map<string, Feature> features = 7;\n" if has_features else ""
    feature = (
        "  message Feature {\n    oneof value {\n      bool boolean = 1;\n      sint64 integer = 2;\n"
        "      double number = 3;\n      string text = 4;\n    }\n  }\n"
    )
    return (
        'syntax = "proto3";\npackage headrace;\n\nmessage Prediction {\n'
        "  string id = 1;\n"
        f"  {_PROTOBUF_ANSWERS[task]} prediction = 2;\n"
        "  Model model = 3;\n"
        "  Source source = 4;\n"
        "  int64 ts = 5; // milliseconds since 1970\n"
        f"{proba}{features}{score}"
        "  message Model {\n    string name = 1;\n    int64 version = 2;\n    int64 generation = 3;\n  }\n"
        "  message Source {\n    string topic = 1;\n    int32 partition = 2;\n    int64 offset = 3;\n  }\n"
        f"{feature if has_features else ''}"
        "}\n"
    )


def _json(task: str, *, has_features: bool) -> dict[str, Any]:
    text, whole = {"type": "string"}, {"type": "integer"}
    model = {"name": text, "version": whole, "generation": whole}
    properties: dict[str, Any] = {
        "id": text,
        "prediction": {"type": [*_JSON_ANSWERS[task], "null"]},
        "model": {"type": "object", "properties": model},
        "source": {"type": "object", "properties": {"topic": text, "partition": whole, "offset": whole}},
        "ts": whole,
    }
    required = list(properties)
    if task == "anomaly":
        properties["score"] = {"type": ["number", "null"]}
    if task in WITH_PROBA:
        properties["proba"] = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
    if task == "multilabel":
        properties["proba"] = {"type": "object"}
    if has_features:
        properties["features"] = {"type": "object"}
    address = "http://json-schema.org/draft-07/schema#"
    return {"$schema": address, "title": "Prediction", "type": "object", "properties": properties, "required": required}
