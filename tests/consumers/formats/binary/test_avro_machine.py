"""The machine against the decoder: what it reads has the decoder's values, and it refuses to be sure of the rest."""

import io
import json
import math
import random
from typing import Any

import fastavro
import pytest
from scans import batch, check

from headrace.consumers.fastjson.scan import Scanner
from headrace.consumers.formats.binary.scan import BinaryScanner
from headrace.consumers.formats.format_decoder import FormatDecoder
from headrace.consumers.formats.framing import prefix
from headrace.consumers.formats.schema_cache import SchemaCache
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import Event
from headrace.consumers.refusal import Refusal
from headrace.consumers.schema import Feature, Schema

CARD = {
    "type": "record",
    "name": "Card",
    "fields": [{"name": "kind", "type": "string"}, {"name": "year", "type": "int"}],
}
PAYMENT = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "number", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "when", "type": "long"},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "share", "type": "float"},
        {"name": "hour", "type": "int"},
        {"name": "wide", "type": "long"},
        {"name": "gone", "type": ["string", "null", "boolean"]},
        {"name": "country", "type": {"type": "enum", "name": "Country", "symbols": ["NO", "SE"]}},
        {"name": "city", "type": "string"},
        {"name": "known", "type": "boolean"},
        {"name": "time", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "card", "type": CARD},
        {"name": "before", "type": ["null", "Card"]},
        {"name": "blob", "type": "bytes"},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 3}},
        {"name": "list", "type": {"type": "array", "items": "int"}},
        {"name": "fraud", "type": ["null", "boolean", "long", "string"]},
    ],
}
FLAT = {"features": "", "label": "fraud", "exclude": ("blob", "hash", "list", "before*", "card*")}
MAPPINGS = [
    RecordMapping(**FLAT, ts="at"),
    RecordMapping(**FLAT, ts="at", nulls="skip"),
    RecordMapping(**FLAT, id="number", ts="when", ts_unit="s"),
    RecordMapping(**FLAT, id="number", ts="when", ts_unit="ns"),
    RecordMapping(**FLAT, id="", ts=""),
    RecordMapping(features="", label="fraud", ts="at", flatten=True, exclude=("blob", "hash", "list", "before*")),
    RecordMapping(features="", label="fraud", ts="at", flatten=True, exclude=("blob", "hash", "list")),
    RecordMapping(features="card", label="fraud", ts="at", id="card.kind"),
    RecordMapping(features="before", label="fraud", ts="at"),
    RecordMapping(features="before", label="fraud", ts="at", empty="skip"),
    RecordMapping(features="", include=("amount", "c*"), exclude=("card",), label="", ts="at"),
    RecordMapping(features="nowhere"),
    RecordMapping(features="city"),
    RecordMapping(**FLAT, id="card.year", ts="when", ts_unit="us"),
    RecordMapping(**FLAT, ts="city", ts_unit="iso"),
    RecordMapping(**FLAT, id="$key", ts="$timestamp"),
]
SCHEMAS = [
    None,
    Schema({"amount": Feature(nullable=True), "hour": Feature("integer", minimum=2)}),
    Schema({"city": Feature("string", values=("Oslo", "ø"))}),
]


def value(draw: random.Random) -> dict[str, Any]:
    card = {"kind": draw.choice(["visa", "ø", ""]), "year": draw.randint(-3, 3000)}
    return {
        "id": draw.choice(["t-1", "ø", 'quo"te', "back\\slash", "", "\n", "long" * 20]),
        "number": draw.choice([0, -7, 10**15, 2**60, draw.getrandbits(40)]),
        "at": draw.choice([0, -5, 1_700_000_000_123_456, 1_700_000_000_000_000, 2**62, 5_000_000_000_000_999]),
        "when": draw.choice([0, -1, 1_700_000_000, 1_700_000_000_123_456_789, 2**60]),
        "amount": draw.choice([None, 0.0, -0.0, 12.5, math.inf, math.nan, 1e308, 5e-324]),
        "share": draw.choice([0.5, -1.25, 3.0, math.nan]),
        "hour": draw.randint(-5, 24),
        "wide": draw.choice([1, -1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1]),
        "gone": draw.choice(["there", None, True, ""]),
        "country": draw.choice(["NO", "SE"]),
        "city": draw.choice(["Oslo", "Tromsø", "日本", "", "x" * 300]),
        "known": draw.random() < 0.5,
        "time": draw.choice([0, 1_500, 86_399_999_999]),
        "card": card,
        "before": draw.choice([None, card]),
        "blob": draw.randbytes(3),
        "hash": b"abc",
        "list": draw.choice([[], [], [1, 2]]),
        "fraud": draw.choice([None, True, False, 1, 7, "yes"]),
    }


def payloads(count: int, seed: int) -> list[bytes]:
    draw, schema, found = random.Random(seed), fastavro.parse_schema(PAYMENT), []
    for _ in range(count):
        file = io.BytesIO()
        fastavro.schemaless_writer(file, schema, value(draw))
        found.append(file.getvalue())
    return found


def made(mapping: RecordMapping, schema: Schema | None = None) -> tuple[FormatDecoder, BinaryScanner]:
    cache = SchemaCache("AVRO")
    cache.known["7"] = cache.parse("7", WriterSchema("AVRO", json.dumps(PAYMENT)))
    decoder = FormatDecoder(cache, mapping, schema=schema, value_bytes_max=10_000)
    return decoder, BinaryScanner(decoder, Scanner(schema=schema))


@pytest.mark.parametrize("schema", SCHEMAS, ids=["any", "numbers", "words"])
@pytest.mark.parametrize("mapping", MAPPINGS, ids=range(len(MAPPINGS)))
def test_a_record_that_is_not_slow_has_the_values_of_the_decoder(mapping: RecordMapping, schema: Schema | None) -> None:
    decoder, scanner = made(mapping, schema)
    for seed in range(2):
        check(decoder, scanner, batch([prefix(7) + payload for payload in payloads(200, seed)]))


def test_a_null_that_the_writers_schema_allows_is_none_in_both_lanes() -> None:
    plain = {"id": "ø", "number": 5, "at": 10**15, "when": 10**9, "share": 0.5, "wide": 3, "gone": "x", "list": []}
    file = io.BytesIO()
    one = {**value(random.Random(1)), **plain, "fraud": True, "before": None, "amount": None}
    fastavro.schemaless_writer(file, fastavro.parse_schema(PAYMENT), one)
    records = batch([prefix(7) + file.getvalue()])
    # The decoder reads a null that is kept.
    for mapping, wanted, sure in ((MAPPINGS[0], {"amount": None}, 0), (MAPPINGS[1], {}, 1)):
        decoder, scanner = made(mapping)
        event = decoder.decode(records.record(0))
        assert isinstance(event, Event)
        assert {name: found for name, found in event.features.items() if name == "amount"} == wanted
        assert check(decoder, scanner, records) == sure
    decoder, scanner = made(MAPPINGS[0], Schema({"amount": Feature()}))
    assert isinstance(decoder.decode(records.record(0)), Refusal), "the user's own schema allows no null"
    assert check(decoder, scanner, records) == 0


def test_plain_records_are_fast() -> None:
    for mapping in (MAPPINGS[1], MAPPINGS[2], MAPPINGS[5]):
        _, scanner = made(mapping)
        draw, schema, values = random.Random(3), fastavro.parse_schema(PAYMENT), []
        for _ in range(200):
            one = value(draw) | {"id": "ø", "number": 5, "at": 10**15, "when": 10**9, "amount": 1.5, "share": 0.5}
            file = io.BytesIO()
            one |= {"wide": 3, "gone": "x", "list": [], "fraud": True, "before": None}
            fastavro.schemaless_writer(file, schema, one)
            values.append(prefix(7) + file.getvalue())
        assert not scanner.scan(batch(values)).slow.any()


def test_mutated_records_are_slow_or_have_the_values_of_the_decoder() -> None:
    draw = random.Random(11)
    decoder, scanner = made(MAPPINGS[1])
    values: list[bytes | None] = []
    for payload in payloads(400, 5) * 50:
        found = bytearray(prefix(7) + payload)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(found))
            match draw.randrange(3):
                case 0:
                    found[at] = draw.randrange(256)
                case 1:
                    del found[at:]
                    found += b"\0"
                case _:
                    found[at:at] = draw.randbytes(draw.randint(1, 10))
        values.append(bytes(found))
    for start in range(0, len(values), 1_000):
        check(decoder, scanner, batch(values[start : start + 1_000]))


def test_records_without_a_frame_or_a_known_schema_are_slow() -> None:
    _, scanner = made(MAPPINGS[1])
    good = prefix(7) + payloads(1, 1)[0]
    values = [None, b"", b"{}", good[:4], prefix(8) + good[5:], good + b"\0", good + bytes(20_000)]
    assert scanner.scan(batch(values)).slow.all()


def test_a_new_vocabulary_links_the_programs_again() -> None:
    decoder, _ = made(MAPPINGS[1])
    scanner = BinaryScanner(decoder, Scanner(names_max=1, words_max=1))
    records = batch([prefix(7) + payload for payload in payloads(50, 9)])
    for _ in range(3):
        check(decoder, scanner, records)
    assert scanner.scan(records).vocabulary.generation > 0
