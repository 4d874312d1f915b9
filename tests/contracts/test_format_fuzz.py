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
# Of each format a second schema: it reads the payloads of the first one, mostly as other values.
OTHER_AVRO = json.loads(
    json.dumps(AVRO).replace('"NEW", "PAID"', '"OPEN", "SHUT", "LOST"').replace('"known"', '"seen"')
)
OTHER_PROTO = PROTO.replace("sint32 year", "int64 year").replace("bool known", "bool seen").replace("PAID", "SHUT")
OTHER_JSON: dict[str, Any] = {"type": "object", "properties": {"card": {"maxProperties": 6}}}


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


def edge(draw: random.Random) -> dict[str, Any]:
    """Return a value in which one field is at the edge of its type, or is a long text."""
    found = value(draw)
    match draw.randrange(6):
        case 0:
            found["card"]["year"] = draw.choice([-(2**31), 2**31 - 1, 63, 64, -64, -65, 8191, 8192])
        case 1:
            found["card"]["amount"] = draw.choice([-0.0, 5e-324, -1.7976931348623157e308, 2.0**53 + 2, 0.1])
        case 2:
            found["card"]["share"] = draw.choice([-0.0, 2.0**-149, 3.4028234663852886e38, 16_777_217.0])
        case 3:
            found["card"]["kind"] = "".join(
                draw.choices('aø"\\\n\u20ac\U0001f600\0', k=draw.choice([1, 7, 63, 64, 200]))
            )
        case 4:
            found["at"] = draw.choice([-1, 1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1])
        case _:
            found["tags"] = ["t" * draw.randrange(130)] * draw.randrange(70)
    return found


class Schema(NamedTuple):
    """A schema: its text, and the card that others read from a payload, with the indexes of the message."""

    text: str
    card: Callable[[bytes, tuple[int, ...]], Any]


class Format(NamedTuple):
    """A way to write records by the first of two schemas."""

    kind: SchemaKind
    schemas: tuple[Schema, Schema]
    write: Callable[[dict[str, Any]], bytes]
    indexes: bytes = b""


def _avro() -> Format:
    def schema(text: Any) -> Schema:
        parsed = fastavro.parse_schema(text)

        def card(payload: bytes, _: tuple[int, ...]) -> Any:
            found: Any = fastavro.schemaless_reader(io.BytesIO(payload), parsed, None)
            return {name: one for name, one in found["card"].items() if one is not None}

        return Schema(json.dumps(text), card)

    parsed = fastavro.parse_schema(AVRO)

    def write(one: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, parsed, one)
        return file.getvalue()

    return Format("AVRO", (schema(AVRO), schema(OTHER_AVRO)), write)


def _protobuf() -> Format:
    def message(text: str) -> Any:
        return message_factory.GetMessageClass(ProtobufReader(WriterSchema("PROTOBUF", text)).schema.message((0,)))

    def schema(text: str) -> Schema:
        kind = message(text)

        def card(payload: bytes, indexes: tuple[int, ...]) -> Any:
            assert indexes == (0,), "only the first message has features"
            found = kind.FromString(payload).card
            values = {field.name: (field, getattr(found, field.name)) for field in found.DESCRIPTOR.fields}
            is_there = {name: not field.has_presence or found.HasField(name) for name, (field, _) in values.items()}
            return {name: _plain(field, one) for name, (field, one) in values.items() if is_there[name]}

        return Schema(text, card)

    kind = message(PROTO)
    return Format(
        "PROTOBUF",
        (schema(PROTO), schema(OTHER_PROTO)),
        lambda one: bytes(kind(**one).SerializeToString()),
        indexes=b"\0",
    )


def _plain(field: Any, value: Any) -> Any:
    """Return a value of Protobuf; an enum is its name, or the number of one that has none."""
    if field.enum_type is None:
        return value
    names = field.enum_type.values_by_number
    return names[value].name if value in names else str(value)


def _json() -> Format:
    def card(payload: bytes, _: tuple[int, ...]) -> Any:
        found: Any = json.loads(payload)["card"]
        return {name: one for name, one in found.items() if one is not None}

    schemas = Schema(json.dumps(JSON), card), Schema(json.dumps(OTHER_JSON), card)
    return Format("JSON", schemas, lambda one: json.dumps(one, ensure_ascii=False).encode())


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


def nudged(draw: random.Random, payload: bytes) -> bytes:
    """Change a payload so little that it can often be read: one byte, a length, a varint, or the order of two parts."""
    found = bytearray(payload)
    at = draw.randrange(len(found))
    match draw.randrange(6):
        case 0:
            found[at] ^= 1 << draw.randrange(7)
        case 1:
            # A digit, a letter, a small length, or a small number.
            found[at] = draw.randrange(128)
        case 2:
            found[at] = (found[at] + draw.choice([1, 2, -1, -2])) % 256
        case 3 if found[at] < 128:
            # The same varint, one byte longer than it need be.
            found[at : at + 1] = bytes([found[at] | 128, 0])
        case 4:
            middle, end = sorted(draw.randint(at, min(len(found), at + 24)) for _ in range(2))
            found[at:end] = found[middle:end] + found[at:middle]
        case _:
            found += found[at : at + draw.randint(1, 12)]
    return bytes(found)


class Case(NamedTuple):
    """A record: its value, and the frame if that is in a header."""

    value: bytes
    header: bytes | None


def case(draw: random.Random, of: Format) -> Case:
    """Return a record of which about a half can be read."""
    payload, frame = of.write(value(draw)), b"\0\0\0\0" + bytes([draw.choice([7, 7, 8])]) + of.indexes
    match draw.randrange(10):
        case 0:
            payload = mutated(draw, payload)
        case 1:
            frame = mutated(draw, frame)
        case 2 | 3:
            payload = of.write(edge(draw))
        case _:
            payload = nudged(draw, payload)
    is_header = draw.random() < 0.2
    return Case(payload, frame) if is_header else Case(frame + payload, None)


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_mutated_record_is_refused_by_a_known_code_or_read_right(name: str) -> None:
    of = FORMATS[name]()
    cache, schemas = SchemaCache(of.kind), dict(zip(("7", "8"), of.schemas, strict=True))
    for number, schema in schemas.items():
        cache.known[number] = cache.parse(number, WriterSchema(of.kind, schema.text))
    decoder = FormatDecoder(cache, MAPPING)
    scanner: Any = (
        FramedJsonScanner(decoder, Scanner(mapping=decoder.scans))
        if of.kind == "JSON"
        else BinaryScanner(decoder, Scanner())
    )
    draw, good, refused, sure = random.Random(f"{name} 5"), 0, 0, 0
    for _ in range(0, TRIES, BATCH):
        cases = [case(draw, of) for _ in range(BATCH)]
        headers = [None if one.header is None else [("traceparent", b"1"), (HEADER, one.header)] for one in cases]
        records = batch([one.value for one in cases], headers)
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
            assert repr(found.features) == repr(schemas[part.schema].card(part.payload, part.indexes)), record
            good += 1
    print(f"{name}: {good + refused:,} records, {refused:,} refused, {good:,} right; {sure:,} by the scanner")  # noqa: T201 shown with -s
    assert min(good, refused) > TRIES // 4
    assert sure > TRIES // 8


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
