"""Mutated Avro, Protobuf and JSON Schema records with their frames: each is refused by a known code, or read right.

Right is what fastavro, Protobuf and the JSON of the standard library make of the same bytes, and for the frame what
Confluent's own deserializers do. The scanners must agree with the decoders on each record that they are sure of.
"""

import io
import json
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import fastavro
import pytest
from confluent_kafka.schema_registry.common.serde import SchemaId
from google.protobuf import message_factory
from scans import batch, check

from headrace.consumers.fastjson.scan import Scanner
from headrace.consumers.formats.binary.scan import BinaryScanner
from headrace.consumers.formats.format_decoder import FormatDecoder
from headrace.consumers.formats.framed_json_scan import FramedJsonScanner
from headrace.consumers.formats.framing import HEADER, Frame, unframe
from headrace.consumers.formats.protobuf import ProtobufReader
from headrace.consumers.formats.schema_cache import SchemaCache
from headrace.consumers.formats.writer_schema import SchemaKind, WriterSchema
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import Event, Record
from headrace.consumers.refusal import Refusal

SOAK = "HEADRACE_SOAK" in os.environ
TRIES = 200_000 if SOAK else 4_000
BATCH = 500
CODES = {
    "no_value", "not_framed", "unknown_schema", "not_decodable", "not_object", "not_json", "missing_field",
    "wrong_type", "not_finite", "out_of_range", "bad_time", "too_large",
}  # fmt: skip
"""The codes with which a decoder of a format may refuse a record."""
MAPPING = RecordMapping(features="card", label="fraud", ts="at", empty="refuse", nulls="skip")

AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": "long"},
        {
            "name": "card",
            "type": {
                "type": "record",
                "name": "Card",
                "fields": [
                    {"name": "kind", "type": "string"},
                    {"name": "amount", "type": ["null", "double"]},
                    {"name": "year", "type": "int"},
                    {"name": "share", "type": "float"},
                    {"name": "known", "type": "boolean"},
                    {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
                ],
            },
        },
        {"name": "fraud", "type": ["null", "boolean"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
PROTO = """
syntax = "proto3";
message Payment {
  enum State { NEW = 0; PAID = 1; }
  message Card {
    string kind = 1; optional double amount = 2; sint32 year = 3; float share = 4; bool known = 5; State state = 6;
  }
  string id = 1; int64 at = 2; Card card = 3; optional bool fraud = 4; repeated string tags = 5;
}
message Other { string id = 1; }
"""
JSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "at": {"type": "integer"},
        "card": {"type": "object", "properties": {"kind": {"type": "string"}, "year": {"type": "integer"}}},
        "fraud": {"type": ["boolean", "null"]},
    },
    "required": ["id", "card"],
}


def value(draw: random.Random) -> dict[str, Any]:
    card = {
        "kind": draw.choice(["visa", "ø", ""]), "amount": draw.choice([None, 0.0, 12.5, 1e308]),
        "year": draw.randint(-3, 3000), "share": draw.choice([0.0, 0.5, -1.25]), "known": draw.random() < 0.5,
        "state": draw.choice(["NEW", "PAID"]),
    }  # fmt: skip
    return {
        "id": draw.choice(["t-1", "ø", ""]), "at": draw.choice([0, 1_700_000_000_000]), "card": card,
        "fraud": draw.choice([None, True, False]), "tags": draw.choice([[], [], ["a", "b"]]),
    }  # fmt: skip


class Format(NamedTuple):
    """A way to write records: the text of a schema, how a value is written, and the card of a payload by others."""

    kind: SchemaKind
    text: str
    write: Callable[[dict[str, Any]], bytes]
    truth: Callable[[bytes, tuple[int, ...]], Any]
    indexes: bytes = b""


def _avro() -> Format:
    parsed = fastavro.parse_schema(AVRO)

    def write(one: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, parsed, one)
        return file.getvalue()

    def truth(payload: bytes, _: tuple[int, ...]) -> Any:
        card: Any = fastavro.schemaless_reader(io.BytesIO(payload), parsed, None)["card"]  # type: ignore[index]
        return {name: found for name, found in card.items() if found is not None}

    return Format("AVRO", json.dumps(AVRO), write, truth)


def _protobuf() -> Format:
    schema = WriterSchema("PROTOBUF", PROTO)
    reader = ProtobufReader(schema)
    kind = message_factory.GetMessageClass(reader.schema.message((0,)))

    def write(one: dict[str, Any]) -> bytes:
        return bytes(kind(**{**one, "card": {**one["card"], "state": one["card"]["state"]}}).SerializeToString())

    def truth(payload: bytes, indexes: tuple[int, ...]) -> Any:
        assert indexes == (0,), "only the first message has features"
        card = kind.FromString(payload).card
        amount = {"amount": card.amount} if card.HasField("amount") else {}
        names = {0: "NEW", 1: "PAID"}
        state = names.get(card.state, str(card.state))
        rest = {"year": card.year, "share": card.share, "known": card.known, "state": state}
        return {"kind": card.kind, **amount, **rest}

    return Format("PROTOBUF", PROTO, write, truth, b"\0")


def _json() -> Format:
    def truth(payload: bytes, _: tuple[int, ...]) -> Any:
        card: Any = json.loads(payload)["card"]
        return {name: found for name, found in card.items() if found is not None}

    return Format("JSON", json.dumps(JSON), lambda one: json.dumps(one).encode(), truth)


FORMATS = {"avro": _avro, "protobuf": _protobuf, "json-schema": _json}


def mutated(draw: random.Random, whole: bytes) -> bytes:
    found = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(found)) if found else 0
        match draw.randrange(5):
            case 0 if found:
                found[at] = draw.randrange(256)
            case 1 if found:
                found[at] ^= 1 << draw.randrange(8)
            case 2:
                del found[at : at + draw.randint(1, 4)]
            case 3:
                del found[at:]
            case _:
                found[at:at] = draw.randbytes(draw.randint(1, 10))
    return bytes(found)


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_mutated_record_is_refused_by_a_known_code_or_read_right(name: str) -> None:
    of = FORMATS[name]()
    cache = SchemaCache(of.kind)
    cache.known["7"] = cache.parse("7", WriterSchema(of.kind, of.text))
    decoder = FormatDecoder(cache, MAPPING)
    scanner: Any = (
        FramedJsonScanner(decoder, Scanner(mapping=decoder.scans))
        if of.kind == "JSON"
        else BinaryScanner(decoder, Scanner())
    )
    draw, good, refused, sure = random.Random(f"{name} 5"), 0, 0, 0
    frame = b"\0\0\0\0\x07" + of.indexes
    for _ in range(0, TRIES, BATCH):
        values: list[bytes | None] = []
        headers: list[Any] = []
        for _ in range(BATCH):
            payload, is_header = of.write(value(draw)), draw.random() < 0.2
            framed = frame if is_header else frame + payload
            # The frame is a small part of a record, and is mutated as often as all the rest.
            if draw.random() < 0.5:
                framed = mutated(draw, framed[: len(frame)]) + framed[len(frame) :]
            elif not is_header:
                framed = mutated(draw, framed)
            values.append(
                mutated(draw, payload) if is_header and draw.random() < 0.5 else payload if is_header else framed
            )
            headers.append([("traceparent", b"1"), (HEADER, framed)] if is_header else None)
        records = batch(values, headers)
        sure += check(decoder, scanner, records)
        for record in records.records():
            found = decoder.decode(record)
            if isinstance(found, Refusal):
                assert found.code in CODES, (found, record)
                refused += 1
                continue
            assert isinstance(found, Event)
            part = unframe(record.value or b"", record.headers, has_indexes=of.kind == "PROTOBUF")
            assert isinstance(part, Frame)
            assert repr(found.features) == repr(of.truth(part.payload, part.indexes)), record
            good += 1
    print(f"{name}: {good + refused:,} records, {refused:,} refused, {good:,} right; {sure:,} by the scanner")  # noqa: T201 shown with -s
    assert min(good, refused, sure) > TRIES // 50


def theirs(value: bytes, header: bytes | None, kind: str) -> tuple[str, bytes, tuple[int, ...]] | None:
    """Return what Confluent's deserializers read of a frame; None if they refuse it."""
    found, file = SchemaId(kind), io.BytesIO(value if header is None else header)
    try:
        rest = found.from_bytes(file).read()
    except Exception:  # noqa: BLE001 they raise errors of many types
        return None
    schema = str(found.guid or found.id)
    return schema, rest if header is None else value, tuple(found.message_indexes or ())


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF"])
def test_a_mutated_frame_is_refused_or_read_as_confluents_deserializers_do(kind: str) -> None:
    draw, same, refused = random.Random(f"{kind} frames"), 0, 0
    guid = b"\x01" + bytes(range(16))
    for _ in range(TRIES):
        indexes = draw.choice([b"\0", b"\x02\x02", b"\x04\0\x06", b"\x02\x80\x01"]) if kind == "PROTOBUF" else b""
        is_header = draw.random() < 0.5
        frame = (guid if is_header and draw.random() < 0.5 else b"\0" + draw.randbytes(4)) + indexes
        frame = mutated(draw, frame) if draw.random() < 0.8 else frame
        value, header = (b"value", frame) if is_header else (frame + b"value", None)
        record = Record(0, 0, 0, None, value, None if header is None else [(HEADER, header)])
        mine = unframe(value, record.headers, has_indexes=kind == "PROTOBUF")
        if isinstance(mine, Refusal):
            assert mine.code == "not_framed"
            refused += 1
            continue
        other = theirs(value, header, kind)
        assert other is not None, (value, header)
        assert (mine.schema, mine.payload) == other[:2], (value, header)
        assert mine.indexes == (other[2] or (0,) if kind == "PROTOBUF" else ()), (value, header)
        same += 1
    print(f"{kind}: {TRIES:,} frames, {refused:,} refused, {same:,} as Confluent reads them")  # noqa: T201 shown with -s
    assert min(same, refused) > TRIES // 50
