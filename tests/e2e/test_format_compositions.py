"""Formats together with the rest: labels that come later, models by key, one model for all, references, and readers.

The readers are Confluent's own deserializers of Avro and Protobuf. That of JSON Schema needs a library which nothing
else here needs: its values are validated by another one. All three formats must give the same predictions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastavro
import jsonschema_rs
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory
from harness import Project, nursery
from schemas import Registrar, avro, framed, url_of

from headrace.consumers.formats.protobuf import ProtobufSchema
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.consumers.topics import Topics
from headrace.pipeline.embedded import Server, Stack

pytestmark = pytest.mark.xdist_group("registry")

COUNT = 120
FORMATS = ("avro", "protobuf", "json-schema")
KINDS = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}

AVRO_CARD = {"type": "record", "name": "Card", "fields": [{"name": "kind", "type": "string"}]}
AVRO = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "card", "type": "Card"},
        {"name": "label", "type": ["null", "boolean"]},
    ],
}
PROTO_CARD = 'syntax = "proto3"; message Card { string kind = 1; }'
PROTO = """syntax = "proto3"; import "card.proto";
message Payment { string id = 1; double amount = 2; Card card = 3; optional bool label = 4; }"""
JSON_CARD = {"type": "object", "properties": {"kind": {"type": "string"}}}
JSON = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "amount": {"type": "number"},
        "card": {"$ref": "card.json"},
        "label": {"type": ["boolean", "null"]},
    },
}
MODEL = """
from river import compose, linear_model, preprocessing

def build():
    numbers = compose.Select("amount") | preprocessing.StandardScaler()
    words = compose.Select("card.kind") | preprocessing.OneHotEncoder()
    return (numbers + words) | linear_model.LogisticRegression()
"""
LABELS: dict[str, Any] = {
    "avro": {
        "type": "record",
        "name": "Label",
        "fields": [{"name": "id", "type": "string"}, {"name": "label", "type": "boolean"}],
    },
    "protobuf": 'syntax = "proto3"; message Label { string id = 1; bool label = 2; }',
    "json-schema": {"type": "object", "required": ["id", "label"]},
}


def event(number: int) -> dict[str, Any]:
    kind = ("visa", "ø")[number % 2]
    return {"id": f"t-{number}", "amount": number % 7 - 3.5, "card": {"kind": kind}, "label": number % 3 == 0}


def message_class(text: str, references: tuple[tuple[str, str], ...] = ()) -> Any:
    return message_factory.GetMessageClass(ProtobufSchema(WriterSchema("PROTOBUF", text, references)).message((0,)))


class Writer:
    """Writes events, each with a schema that refers to another one, and labels."""

    def __init__(self, registrar: Registrar, form: str) -> None:
        self._registrar, self._form = registrar, form

    def events(self, topic: str, events: list[dict[str, Any]]) -> list[bytes]:
        if self._form == "json":
            return [json.dumps(one).encode() for one in events]
        card, text, name = {
            "avro": (AVRO_CARD, AVRO, "Card"),
            "protobuf": (PROTO_CARD, PROTO, "card.proto"),
            "json-schema": (JSON_CARD, JSON, "card.json"),
        }[self._form]
        kind = KINDS[self._form]
        self._registrar.register(f"{topic}.{name}", card, kind)
        number = self._registrar.register(f"{topic}-value", text, kind, [(name, f"{topic}.{name}", 1)])
        if self._form == "avro":
            named: dict[str, Any] = {}
            fastavro.parse_schema(AVRO_CARD, named_schemas=named)
            return [framed(number, avro(AVRO, one, dict(named))) for one in events]
        if self._form == "protobuf":
            made = message_class(PROTO, (("card.proto", PROTO_CARD),))
            return [framed(number, b"\0" + made(**one).SerializeToString()) for one in events]
        return [framed(number, json.dumps(one).encode()) for one in events]

    def labels(self, topic: str, events: list[dict[str, Any]]) -> list[bytes]:
        found = [{"id": one["id"], "label": one["label"]} for one in events]
        if self._form == "json":
            return [json.dumps(one).encode() for one in found]
        text, kind = LABELS[self._form], KINDS[self._form]
        number = self._registrar.register(f"{topic}-value", text, kind)
        if self._form == "avro":
            return [framed(number, avro(text, one)) for one in found]
        if self._form == "protobuf":
            return [framed(number, b"\0" + message_class(text)(**one).SerializeToString()) for one in found]
        return [framed(number, json.dumps(one).encode()) for one in found]


def settings(registry: Server, form: str, **more: str) -> dict[str, str]:
    keys = {
        "REGISTRY__URL": url_of(registry),
        "RECORDS__FORMAT": form,
        "PREDICTIONS__FORMAT": form,
        "RECORDS__FEATURES": "",
        "RECORDS__FLATTEN": "true",
        "RECORDS__TS": "",
        "RECORDS__NULLS": "skip",
        **more,
    }
    return {f"HEADRACE__{name}": value for name, value in keys.items()}


def send(project: Project, topic: str, values: list[bytes]) -> None:
    producer = Producer({**project.client, "linger.ms": 5})
    for number, value in enumerate(values):
        producer.produce(topic, value, key=b"k%d" % (number % 3), partition=0)
    assert producer.flush(30) == 0


def answers(project: Project, registrar: Registrar, form: str) -> list[Any]:
    """Read the predictions with Confluent's deserializer of the format."""
    text = str(registrar.client.get_latest_version(f"{project.predictions}-value").schema.schema_str)
    validator = jsonschema_rs.validator_for(json.loads(text)) if form == "json-schema" else None

    def read_json(value: bytes, _: Any) -> Any:
        found = json.loads(value[5:])
        validator.validate(found)
        return found

    read: Any = {
        "avro": lambda: AvroDeserializer(registrar.client),
        "protobuf": lambda: ProtobufDeserializer(message_class(text), {}),
        "json-schema": lambda: read_json,
    }[form]()
    context = SerializationContext(project.predictions, MessageField.VALUE)
    found = [read(message.value(), context) for message in project.read(project.predictions)[0]]
    if form == "protobuf":
        return [(one.id, one.prediction, dict(one.proba), one.source.offset) for one in found]
    return [(one["id"], one["prediction"], one["proba"], one["source"]["offset"]) for one in found]


@pytest.mark.parametrize("scope", ["key", "global"])
def test_all_formats_with_references_give_the_same_predictions_to_confluents_deserializers(
    stack: Stack, registry: Server, registrar: Registrar, tmp_path: Path, scope: str
) -> None:
    found = {}
    for form in FORMATS:
        keys = settings(registry, form, MODEL__SCOPE=scope)
        p = Project(stack, tmp_path / form, partitions=1, settings=keys, model=MODEL)
        send(p, p.features, Writer(registrar, form).events(p.features, [event(n) for n in range(COUNT)]))
        p.run_to_end()
        found[form] = answers(p, registrar, form)
        assert p.status()["counts"]["learned"] == COUNT
    assert [offset for *_, offset in found["avro"]] == list(range(COUNT))
    assert len({tuple(proba.items()) for _, _, proba, _ in found["avro"]}) > COUNT // 4, "the model learned"
    assert found["avro"] == found["protobuf"] == found["json-schema"]


@pytest.mark.parametrize("topics", [("avro", "avro"), ("protobuf", "protobuf"), ("json", "avro"), ("protobuf", "json")])
def test_labels_that_come_later_may_have_the_records_format_or_json_or_a_format_beside_json(
    stack: Stack, registry: Server, registrar: Registrar, tmp_path: Path, topics: tuple[str, str]
) -> None:
    records, labels = topics
    events = [event(n) for n in range(COUNT)]
    keys = settings(registry, records, PREDICTIONS__FORMAT="json", LABELS__FORMAT=labels)
    p = Project(stack, tmp_path / "project", partitions=1, settings=keys, model=MODEL)
    topic = p.settings["HEADRACE__TOPICS__LABELS"] = f"{p.name}.labels"
    Topics(p.client).create(topic, 1)
    # A field that is not there is null in Avro, and not set in Protobuf.
    bare = [one | {"label": None} for one in events]
    send(p, p.features, Writer(registrar, records).events(p.features, bare))
    # A label that is not of its schema, and one whose schema nobody knows, are dead letters.
    bad = (
        {b"[]": "not_object"} if labels == "json" else {b"{}": "not_framed", framed(4_000_000, b"\0"): "unknown_schema"}
    )
    send(p, topic, [*Writer(registrar, labels).labels(topic, events), *bad])
    p.run_to_end()
    counts = p.status()["counts"]
    assert (counts["predictions"], counts["learned"]) == (COUNT, COUNT), counts
    codes = [dict(letter.headers())["dlq.code"].decode() for letter in p.read(p.dead_letters)[0]]
    assert codes == list(bad.values())
    assert [json.loads(one.value())["id"] for one in p.read(p.predictions)[0]] == [one["id"] for one in events]


def test_a_file_is_checked_as_it_would_be_sent(
    stack: Stack, registry: Server, registrar: Registrar, tmp_path: Path
) -> None:
    for form in FORMATS:
        mine = Project(stack, tmp_path / form, partitions=1, settings=settings(registry, form))
        Writer(registrar, form).events(mine.features, [])
        file = mine.directory / "events.jsonl"
        file.write_text("".join(json.dumps(event(n)) + "\n" for n in range(5)) + '{"id": "x", "amount": "much"}\n')
        done = nursery().call(["check", str(file), "--json", "-c", str(mine.file)], env=mine.env)
        assert done.returncode == 1, done.stderr
        report = json.loads(done.stdout)
        assert (report["records"], report["good"], report["refused"]) == (6, 5, {"not_decodable": 1}), form
        assert report["fields"]["amount"] == {"type": "number", "seen": 5, "missing": 0}


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    stack: Stack, registry: Server, tmp_path: Path
) -> None:
    mine = Project(stack, tmp_path / "project", partitions=1, settings=settings(registry, "avro"))
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/fastavro.py").write_text('raise ImportError("it is not installed")\n')
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "run", "--until-end", "-c", str(mine.file)],
        env={**mine.env, "PYTHONPATH": os.pathsep.join([str(tmp_path / "gone"), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 69, done.stderr
    assert "pip install 'headrace[avro]'" in done.stderr
    assert "Traceback" not in done.stderr
