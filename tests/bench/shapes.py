"""The shapes of records: the same features, ids, times and labels, written as different producers write them.

Each shape has the configuration with which Headrace reads it; all give the same predictions.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import fastavro
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from google.protobuf import message_factory
from stream import FEATURES, Row, events, key_of

from headrace.consumers.formats.framing import prefix
from headrace.consumers.formats.protobuf import ProtobufSchema
from headrace.consumers.formats.writer_schema import SchemaKind, WriterSchema

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to write an event: `value` returns what `encode` encodes, and `headers` what stands beside it.

    With a `schema` the values are written with a registry.
    """

    title: str
    value: Callable[[Event], Any]
    settings: dict[str, Any] = field(default_factory=dict)
    headers: Callable[[Event], list[tuple[str, bytes]]] | None = None
    schema: WriterSchema | None = None
    encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()

    def rows(self, count: int) -> Iterator[Row]:
        """Yield records with their keys."""
        for index, event in enumerate(events(count)):
            row: Row = {"key": key_of(index), "value": self.encode(self.value(event))}
            yield row if self.headers is None else {**row, "headers": self.headers(event)}

    def registered(self, url: str, name: str) -> "Shape":
        """Register the schema, if the shape has one, for the topic `name`; return the shape that writes with its id."""
        if self.schema is None:
            return self
        client = SchemaRegistryClient({"url": url})
        with client:
            number = client.register_schema(f"{name}-value", Schema(self.schema.text, self.schema.kind))
        frame, encode = prefix(number, has_indexes=self.schema.kind == "PROTOBUF"), self.encode
        settings = {**self.settings, "registry.url": url}
        return dataclasses.replace(self, settings=settings, encode=lambda value: frame + encode(value))


def _flat(event: Event) -> Any:
    return {"event_id": event["id"], "created": event["ts"], **event["features"], "clicked": event["label"]}


def _nested(event: Event) -> Any:
    return {"meta": {"id": event["id"], "at": event["ts"]}, "data": {"x": event["features"]}, "y": event["label"]}


def _in_groups(event: Event) -> Any:
    numbers = list(event["features"].items())
    inner = {"first": dict(numbers[:5]), "rest": {"values": [number for _, number in numbers[5:]]}}
    return {**event, "features": inner}


def _debezium(event: Event) -> Any:
    row = {"id": event["id"], **event["features"], "clicked": event["label"]}
    source = {"version": "2.7.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": event["ts"]}
    source |= {"snapshot": "false", "db": "shop", "sequence": '["24023128","24023232"]', "schema": "public"}
    source |= {"table": "events", "txId": 571, "lsn": 24023232, "xmin": None}
    return {"before": None, "after": row, "source": source, "op": "c", "ts_ms": event["ts"], "transaction": None}


def _cloud_headers(event: Event) -> list[tuple[str, bytes]]:
    time = datetime.fromtimestamp(event["ts"] / 1_000, UTC).isoformat(timespec="milliseconds")
    named = {"specversion": "1.0", "type": "shop.event", "source": "/shop", "id": event["id"], "time": time}
    return [*((f"ce_{name}", text.encode()) for name, text in named.items()), ("content-type", b"application/json")]


_NUMBERS = [f"feature_{i}" for i in range(FEATURES)]
_AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "ts", "type": "long"},
        {
            "name": "features",
            "type": {
                "type": "record",
                "name": "Features",
                "fields": [{"name": name, "type": "double"} for name in _NUMBERS],
            },
        },
        {"name": "label", "type": "boolean"},
    ],
}
_PROTO = f"""
syntax = "proto3";
message Event {{ string id = 1; int64 ts = 2; Features features = 3; bool label = 4; }}
message Features {{ {" ".join(f"double {name} = {i};" for i, name in enumerate(_NUMBERS, 1))} }}
"""
_JSON = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "ts": {"type": "integer"},
        "features": {"type": "object", "properties": {name: {"type": "number"} for name in _NUMBERS}},
        "label": {"type": "boolean"},
    },
    "required": ["id", "features"],
}


def _avro_encode() -> Callable[[Any], bytes]:
    schema = fastavro.parse_schema(_AVRO)

    def encode(value: Any) -> bytes:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, schema, value)
        return file.getvalue()

    return encode


def _protobuf_encode() -> Callable[[Any], bytes]:
    kind = message_factory.GetMessageClass(ProtobufSchema(WriterSchema("PROTOBUF", _PROTO)).message((0,)))
    return lambda value: bytes(kind(**value).SerializeToString())


def _framed(title: str, kind: SchemaKind, form: str, text: str, **more: Any) -> Shape:
    return Shape(title, lambda event: event, {"records.format": form}, schema=WriterSchema(kind, text), **more)


SHAPES = {
    "json": Shape("JSON as in the README", lambda event: event),
    "flat": Shape(
        "flat JSON",
        _flat,
        {"records.features": "", "records.id": "event_id", "records.ts": "created", "records.label": "clicked"},
    ),
    "nested": Shape(
        "nested JSON",
        _nested,
        {"records.features": "data.x", "records.id": "meta.id", "records.ts": "meta.at", "records.label": "y"},
    ),
    "flatten": Shape("features in objects, flattened", _in_groups, {"records.flatten": True}),
    "debezium": Shape(
        "Debezium, changes of a table",
        _debezium,
        {
            "records.features": "after",
            "records.id": "after.id",
            "records.ts": "ts_ms",
            "records.label": "after.clicked",
            "records.empty": "skip",
        },
    ),
    "cloudevents": Shape(
        "CloudEvents, binary mode",
        lambda event: {**event["features"], "clicked": event["label"]},
        {
            "records.features": "",
            "records.id": "$headers.ce_id",
            "records.ts": "$headers.ce_time",
            "records.ts_unit": "iso",
            "records.label": "clicked",
        },
        _cloud_headers,
    ),
    "transform": Shape("flat JSON, read by a transform", _flat, {"records.transform": "model:record"}),
    "avro": _framed("Avro", "AVRO", "avro", json.dumps(_AVRO), encode=_avro_encode()),
    "protobuf": _framed("Protobuf", "PROTOBUF", "protobuf", _PROTO, encode=_protobuf_encode()),
    "json-schema": _framed("JSON Schema", "JSON", "json-schema", json.dumps(_JSON)),
}
"""The shapes by name; the first is the one to compare with."""
