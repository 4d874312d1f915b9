"""Avro, Protobuf and JSON Schema with a real schema registry: evolution, references, outages, and predictions."""

import http.server
import io
import json
import os
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer
from google.protobuf import message_factory
from harness import Project, nursery, wait_until
from schemas import Registrar, avro, framed, gate, url_of

from headrace.consumers.formats.protobuf import ProtobufSchema
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.pipeline.embedded import Server

pytestmark = pytest.mark.xdist_group("registry")

COUNT = 400
OUTAGE_S = 300.0 if "HEADRACE_SOAK" in os.environ else 3.0
"""How long the registry answers that it can't serve."""


def payment(*more: dict[str, Any]) -> dict[str, Any]:
    fields = [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "hour", "type": "int"},
        {"name": "fraud", "type": ["null", "boolean"]},
    ]
    return {"type": "record", "name": "Payment", "fields": [*fields, *more]}


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"t-{number}",
        "at": 1_700_000_000_000_000 + number * 1_000,
        "amount": None if number % 11 == 0 else (number % 7) - 3.0,
        "hour": number % 5,
        "fraud": None if number % 13 == 0 else number % 3 == 0,
    }


def settings(registry: Server, **more: str) -> dict[str, str]:
    keys = {
        "REGISTRY__URL": url_of(registry),
        "REGISTRY__CLIENT": '{"timeout": 1}',
        "RECORDS__FORMAT": "avro",
        "RECORDS__FEATURES": "",
        "RECORDS__TS": "at",
        "RECORDS__LABEL": "fraud",
        "RECORDS__NULLS": "skip",
        **more,
    }
    return {f"HEADRACE__{name}": value for name, value in keys.items()}


def json_twin(number: int) -> bytes:
    one = row(number)
    features = {name: one[name] for name in ("amount", "hour") if one[name] is not None}
    label = {} if one["fraud"] is None else {"label": one["fraud"]}
    return json.dumps({"id": one["id"], "ts": one["at"] // 1_000, "features": features, **label}).encode()


def answers(project: Project, decode: Callable[[Any], Any]) -> list[Any]:
    """Return what the predictions say, without what differs between two pipelines."""
    found = [decode(message) for messages in project.read(project.predictions).values() for message in messages]
    return [(one["id"], one["prediction"], one.get("proba")) for one in found]


def test_avro_is_predicted_as_json_is_with_old_and_new_schemas_references_and_header_ids(
    project: Callable[..., Project], registry: Server, registrar: Registrar, tmp_path: Any
) -> None:
    twin = Project(project().stack, tmp_path / "twin", partitions=1)
    twin.produce([json_twin(number) for number in range(COUNT)], partition=0)
    twin.run_to_end()
    mine = Project(
        twin.stack,
        tmp_path / "avro",
        partitions=1,
        settings=settings(registry, PREDICTIONS__FORMAT="avro", RECORDS__EXCLUDE='["card*", "note"]'),
    )
    subject = f"{mine.features}-value"
    card = {"type": "record", "name": "Card", "fields": [{"name": "kind", "type": "string"}]}
    registrar.register("card", card)
    more = [
        {"name": "card", "type": ["null", "Card"], "default": None},
        {"name": "note", "type": "string", "default": ""},
    ]
    old, new = payment(), payment(*more)
    old_id = registrar.register(subject, old)
    new_id = registrar.register(subject, new, references=[("Card", "card", 1)])
    values: list[bytes | None] = []
    for number in range(COUNT):
        one = row(number)
        if number % 2:
            named: dict[str, Any] = {}
            fastavro.parse_schema(card, named_schemas=named)
            value = avro(new, {**one, "card": {"kind": "visa"}, "note": "x"}, named)
            values.append(framed(new_id, value))
        else:
            values.append(framed(old_id, avro(old, one)))
    bad = [b"{}", framed(4_000_000, b"x"), framed(old_id, b"\x02"), None]
    producer = Producer(mine.client)
    for number, value in enumerate(values):
        header = [("__value_schema_id", value[:5])] if number % 10 == 0 else None
        producer.produce(mine.features, value[5:] if header else value, partition=0, headers=header)
    for value in bad:
        producer.produce(mine.features, value, partition=0)
    assert producer.flush(30) == 0
    mine.run_to_end()
    schema = registrar.client.get_latest_version(f"{mine.predictions}-value")

    def decode(message: Any) -> Any:
        value = message.value()
        assert int.from_bytes(value[1:5], "big") == schema.schema_id
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), json.loads(schema.schema.schema_str), None)

    assert answers(mine, decode) == answers(twin, lambda message: json.loads(message.value()))
    letters = mine.read(mine.dead_letters)[0]
    codes = [dict(letter.headers())["dlq.code"].decode() for letter in letters]
    assert codes == ["not_framed", "unknown_schema", "not_decodable", "no_value"]
    assert dict(letters[2].headers())["dlq.field"] == b"id"
    assert [letter.value() for letter in letters] == bad
    shown = nursery().call(["tail", "-n", "1", "-c", str(mine.file)], env=mine.env)
    assert json.loads(shown.stdout)["id"] == f"t-{COUNT - 1}"
    (mine.directory / "more.jsonl").write_text(json.dumps(row(COUNT) | {"card": {"kind": "x"}, "note": ""}) + "\n")
    with mine.running():
        words = ["produce", str(mine.directory / "more.jsonl"), "--wait", "--json", "-c", str(mine.file)]
        sent = nursery().call(words, env=mine.env)
    assert json.loads(sent.stdout.splitlines()[0])["prediction"]["id"] == f"t-{COUNT}", sent.stderr
    doctor = nursery().call(["doctor", "-c", str(mine.file)], env=mine.env)
    assert "the schema registry answers" in doctor.stdout


def test_a_registry_that_is_away_stops_only_unknown_schemas_also_after_a_kill_and_a_restart(
    project: Callable[..., Project], registry: Server, registrar: Registrar
) -> None:
    mine = project(partitions=2, settings=settings(registry))
    subject = f"{mine.features}-value"
    registrar.allow_any(subject)
    known, fresh = payment(), payment({"name": "new", "type": "double", "default": 0.0})
    known_id, fresh_id = registrar.register(subject, known), registrar.register(subject, fresh)
    old = [framed(known_id, avro(known, row(number))) for number in range(COUNT)]
    new = [framed(fresh_id, avro(fresh, {**row(number), "new": 1.0})) for number in range(COUNT)]
    for partition in (0, 1):
        mine.produce(old[:100], partition=partition)
    with mine.running() as run:
        mine.wait_for_all()
        registry.freeze()
        mine.produce(old[100:200], partition=0)
        mine.produce([*old[100:150], *new[:50]], partition=1)

        def is_waiting() -> bool:
            places = mine.committed()
            return places[0][0] >= 200 and places[1][0] == 150 and "registry" in str(mine.status()["reason"])

        wait_until(is_waiting, what="partition 1 to wait for the registry, and 0 to go on", timeout_s=60)
        run.kill_worker()
        mine.produce(old[200:300], partition=0)
        wait_until(lambda: mine.committed()[0][0] >= 300, what="known schemas to go on after a kill", timeout_s=60)
        assert run.stop() == 0
    with mine.running() as run:
        mine.produce(old[300:], partition=0)
        wait_until(lambda: mine.committed()[0][0] >= COUNT, what="a start without a registry to go on", timeout_s=60)
        assert mine.committed()[1][0] == 150
        registry.thaw()
        mine.wait_for_all()
        assert run.stop() == 0
    found = mine.read(mine.predictions)
    for partition, sent in mine.sent.items():
        offsets = [json.loads(message.value())["source"]["offset"] for message in found[partition]]
        assert offsets == list(range(len(sent))), "each record has exactly one prediction"
    assert sum(map(len, mine.read(mine.dead_letters).values())) == 0
    assert mine.status()["counts"]["records"] == sum(map(len, mine.sent.values()))


def test_a_registry_that_answers_503_and_429_stops_only_unknown_schemas_also_across_a_restart(
    project: Callable[..., Project], registry: Server, registrar: Registrar
) -> None:
    with gate(registry) as away:
        mine = project(partitions=2, settings=settings(registry, REGISTRY__URL=away.url))
        subject = f"{mine.features}-value"
        registrar.allow_any(subject)
        known, fresh = payment(), payment({"name": "new", "type": "double", "default": 0.0})
        known_id, fresh_id = registrar.register(subject, known), registrar.register(subject, fresh)
        old = [framed(known_id, avro(known, row(number))) for number in range(COUNT)]
        new = [framed(fresh_id, avro(fresh, {**row(number), "new": 1.0})) for number in range(50)]
        for partition in (0, 1):
            mine.produce(old[:50], partition=partition)

        def is_waiting() -> bool:
            status = mine.status()
            return mine.committed()[1][0] == 50 and str(status["reason"]).startswith("registry")

        with mine.running() as run:
            mine.wait_for_all()
            away.status = 503
            mine.produce(new, partition=1)
            wait_until(is_waiting, what="partition 1 to wait for the registry", timeout_s=60)
            began, sent = time.monotonic(), 50
            while time.monotonic() < began + OUTAGE_S or sent < 100:
                mine.produce(old[sent % COUNT : sent % COUNT + 25], partition=0)
                sent = len(mine.sent[0])
                wait_until(lambda end=sent: mine.committed()[0][0] >= end, what="known schemas to go on", timeout_s=60)
                away.status = 429 if time.monotonic() > began + OUTAGE_S / 2 else 503
            assert mine.committed()[1][0] == 50
            assert run.stop() == 0
        away.status = 429
        with mine.running() as run:
            mine.produce(old[:50], partition=0)
            sent = len(mine.sent[0])
            wait_until(lambda: mine.committed()[0][0] >= sent, what="known schemas after a restart", timeout_s=60)
            wait_until(is_waiting, what="partition 1 to wait after the restart", timeout_s=60)
            assert away.refused > 2, "the registry was asked again and again"
            away.status = 0
            mine.wait_for_all()
            assert run.stop() == 0
    found = mine.read(mine.predictions)
    for partition, values in mine.sent.items():
        offsets = [json.loads(message.value())["source"]["offset"] for message in found[partition]]
        assert offsets == list(range(len(values))), "each record has exactly one prediction"
    assert sum(map(len, mine.read(mine.dead_letters).values())) == 0


PROTO = """
syntax = "proto3";
message Other { int32 x = 1; }
message Payment { string id = 1; double amount = 2; int32 hour = 3; optional bool fraud = 4; bytes blob = 5; }
"""


def test_protobuf_and_json_schema_come_in_and_go_out(
    project: Callable[..., Project], registry: Server, registrar: Registrar, tmp_path: Any
) -> None:
    stack = project().stack
    more = {"RECORDS__TS": "", "RECORDS__EXCLUDE": '["blob"]'}
    proto = Project(
        stack,
        tmp_path / "proto",
        partitions=1,
        settings=settings(registry, RECORDS__FORMAT="protobuf", PREDICTIONS__FORMAT="protobuf", **more),
    )
    kind = message_factory.GetMessageClass(ProtobufSchema(WriterSchema("PROTOBUF", PROTO)).message((1,)))
    schema_id = registrar.register(f"{proto.features}-value", PROTO, "PROTOBUF")
    fields = [{"id": f"t-{n}", "amount": n % 7 - 3.0, "hour": n % 5, "fraud": n % 3 == 0} for n in range(COUNT)]
    proto.produce([framed(schema_id, b"\x02\x02" + kind(**one).SerializeToString()) for one in fields], partition=0)
    proto.run_to_end()
    shape = {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["id"]}
    checked = Project(
        stack,
        tmp_path / "json",
        partitions=1,
        settings=settings(registry, RECORDS__FORMAT="json-schema", PREDICTIONS__FORMAT="json-schema", **more),
    )
    schema_id = registrar.register(f"{checked.features}-value", shape, "JSON")
    checked.produce([framed(schema_id, json.dumps(one).encode()) for one in fields], partition=0)
    checked.produce([framed(schema_id, b'{"id": "x", "hour": "noon"}')], partition=0)
    checked.run_to_end()
    [letter] = checked.read(checked.dead_letters)[0]
    assert dict(letter.headers())["dlq.code"] == b"not_decodable"
    assert dict(letter.headers())["dlq.field"] == b"hour"
    text = registrar.client.get_latest_version(f"{proto.predictions}-value").schema.schema_str
    prediction = message_factory.GetMessageClass(ProtobufSchema(WriterSchema("PROTOBUF", text)).message((0,)))

    def decode(message: Any) -> Any:
        found = prediction.FromString(message.value()[6:])
        return {"id": found.id, "prediction": found.prediction, "proba": dict(found.proba)}

    mine = answers(proto, decode)
    assert len(mine) == COUNT
    assert mine == answers(checked, lambda message: json.loads(message.value()[5:]))


class Refusing(http.server.BaseHTTPRequestHandler):
    """A registry that accepts nobody."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"error_code": 401, "message": "who are you?"}')

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_registry_that_refuses_the_client_ends_the_run_and_names_the_key(project: Callable[..., Project]) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        keys = {
            "HEADRACE__REGISTRY__URL": f"http://reader:password@127.0.0.1:{server.server_port}",
            "HEADRACE__RECORDS__FORMAT": "avro",
            "HEADRACE__PREDICTIONS__FORMAT": "avro",
        }
        mine = project(partitions=1, settings=keys)
        with mine.running() as run:
            assert run.process.wait(60) == 78
            assert "registry.client" in run.log()
            assert "password" not in run.log()
        server.shutdown()


def test_a_project_for_an_avro_topic_runs_at_once(
    project: Callable[..., Project], registry: Server, registrar: Registrar, tmp_path: Path
) -> None:
    made = project()
    schema = payment(
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["new", "paid"]}},
        {"name": "raw", "type": "bytes"},
        {"name": "limit", "type": ["null", "double"]},
    )
    schema_id = registrar.register(f"{made.features}-value", schema)
    rows = [{**row(number), "state": ("new", "paid")[number % 2], "raw": b"x", "limit": 1.5} for number in range(COUNT)]
    made.produce([framed(schema_id, avro(schema, one)) for one in rows], partition=0)
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}
    addresses = made.stack.addresses
    words = ["init", str(tmp_path / "p"), "--from", made.features, "--label", "fraud", "--ts", "at"]
    words += ["--bootstrap-servers", addresses.kafka, "--redis-url", addresses.redis]
    refused = nursery().call(words, env=env)
    assert refused.returncode == 1
    assert f"the records name the schema {schema_id} of a schema registry" in refused.stderr
    told = nursery().call([*words, "--registry", url_of(registry)], env=env)
    assert told.returncode == 0, told.stderr
    assert "none refused" in told.stdout
    assert "raw: bytes values are not a feature" in told.stdout
    file = str(tmp_path / "p/headrace.toml")
    written = tomllib.loads(Path(file).read_text())
    assert written["schema"]["features"]["limit"] == {"type": "number", "required": False}
    assert written["records"]["nulls"] == "skip"
    # The schema lets it be null, though no record of the sample was.
    rows.append({**rows[0], "id": "last", "limit": None})
    made.produce([framed(schema_id, avro(schema, rows[-1]))], partition=0)
    for step in (["check", made.features, "-c", file], ["run", "--until-end", "-c", file]):
        done = nursery().call(step, env=env)
        assert done.returncode == 0, (done.stdout, done.stderr)
    shown = nursery().call(["tail", "predictions", "-n", "1", "-c", file], env=env)
    assert json.loads(shown.stdout)["id"] == "last", shown.stderr
    status = nursery().call(["status", "--json", "-c", file], env=env)
    counts = json.loads(status.stdout)["counts"]
    assert (counts["predictions"], counts["dead_letters"]) == (COUNT + 1, 0)
    assert counts["learned"] == sum(one["fraud"] is not None for one in rows)
