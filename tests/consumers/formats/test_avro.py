"""Avro against fastavro: the same values; and bytes of anybody's, which are refused or right."""

import io
import json
import random
import struct
import uuid
from decimal import Decimal
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.consumers.formats.avro import AvroReader
from headrace.consumers.formats.writer_schema import NotDecodable, SchemaUnusable, WriterSchema

FLAT = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "count", "type": ["null", "long"]},
        {"name": "country", "type": {"type": "enum", "name": "Country", "symbols": ["NO", "SE"]}},
        {"name": "card", "type": {"type": "record", "name": "Card", "fields": [{"name": "kind", "type": "string"}]}},
        {"name": "history", "type": {"type": "array", "items": "float"}},
        {"name": "tags", "type": {"type": "map", "values": ["null", "boolean", "int"]}},
        {"name": "blob", "type": "bytes"},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 4}},
    ],
}
VALUE = {
    "id": "t-1",
    "amount": 12.5,
    "count": None,
    "country": "SE",
    "card": {"kind": "visa"},
    "history": [1.0, -2.5],
    "tags": {"a": True, "b": None, "c": -3},
    "blob": b"\x00\xff",
    "hash": b"abcd",
}


def reader(schema: Any, *references: tuple[str, Any]) -> AvroReader:
    texts = tuple((name, json.dumps(one)) for name, one in references)
    return AvroReader(WriterSchema("AVRO", json.dumps(schema), texts))


def written(schema: Any, value: Any) -> bytes:
    file = io.BytesIO()
    fastavro.schemaless_writer(file, fastavro.parse_schema(schema, named_schemas={}), value)
    return file.getvalue()


def record_of(kind: Any) -> Any:
    return {"type": "record", "name": "One", "fields": [{"name": "x", "type": kind}]}


def test_a_value_of_every_type_is_read_as_fastavro_reads_it() -> None:
    assert reader(FLAT).read(written(FLAT, VALUE)) == VALUE


VALUES = st.fixed_dictionaries(
    {
        "id": st.text(),
        "amount": st.floats(allow_nan=False),
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "country": st.sampled_from(["NO", "SE"]),
        "card": st.fixed_dictionaries({"kind": st.text()}),
        "history": st.lists(st.floats(width=32, allow_nan=False)),
        "tags": st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1)),
        "blob": st.binary(),
        "hash": st.binary(min_size=4, max_size=4),
    }
)


@given(VALUES)
def test_any_value_comes_back(value: Any) -> None:
    assert reader(FLAT).read(written(FLAT, value)) == value


@pytest.mark.parametrize(
    ("kind", "raw", "found"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("-12.34"), -12.34),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 0}, Decimal(12345), 12345),
        (
            {"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 1},
            Decimal("0.1"),
            0.1,
        ),
    ],
)
def test_a_decimal_is_a_number(kind: Any, raw: Decimal, found: float) -> None:
    assert reader(record_of(kind)).read(written(record_of(kind), {"x": raw})) == {"x": found}


@pytest.mark.parametrize(
    ("logical", "base", "number", "found"),
    [
        ("date", "int", 20_000, 20_000),
        ("time-millis", "int", 86_399_999, 86_399_999),
        ("time-micros", "long", 1_500, 1.5),
        ("timestamp-millis", "long", 1_700_000_000_123, 1_700_000_000_123),
        ("timestamp-micros", "long", 1_700_000_000_123_456, 1_700_000_000_123.456),
        ("timestamp-micros", "long", 1_700_000_000_123_000, 1_700_000_000_123),
        ("timestamp-nanos", "long", 1_700_000_000_123_456_789, 1_700_000_000_123.456789),
        ("local-timestamp-micros", "long", -1_500, -1.5),
        ("not-of-this-world", "long", 7, 7),
    ],
)
def test_a_time_is_milliseconds_with_their_fraction_and_a_date_is_days(
    logical: str, base: str, number: int, found: float
) -> None:
    payload = written(record_of(base), {"x": number})
    read = reader(record_of({"type": base, "logicalType": logical})).read(payload)
    assert read == {"x": found}
    assert type(read["x"]) is type(found)


def test_a_uuid_of_sixteen_bytes_is_text_like_one_that_is_a_string() -> None:
    found = uuid.UUID(int=7)
    fixed = {"type": "fixed", "name": "U", "size": 16}
    kind = {**fixed, "logicalType": "uuid"}
    assert reader(record_of(kind)).read(written(record_of(fixed), {"x": found.bytes})) == {"x": str(found)}
    text = {"type": "string", "logicalType": "uuid"}
    assert reader(record_of(text)).read(written(record_of("string"), {"x": "u"})) == {"x": "u"}


def test_the_declared_types_are_those_of_the_fields_by_path() -> None:
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "n", "type": ["null", "int"]},
            {"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "d", "type": {"type": "int", "logicalType": "date"}},
            {"name": "m", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
            {
                "name": "c",
                "type": ["null", {"type": "record", "name": "C", "fields": [{"name": "s", "type": "string"}]}],
            },
            {"name": "u", "type": ["string", "long"]},
            {"name": "a", "type": {"type": "array", "items": "int"}},
        ],
    }
    assert reader(schema).declared() == {
        "n": "integer", "t": "milliseconds", "d": "days", "m": "number", "c.s": "string",
    }  # fmt: skip


def test_a_schema_uses_the_types_of_those_that_it_refers_to() -> None:
    card = {"type": "record", "name": "Card", "namespace": "shop", "fields": [{"name": "kind", "type": "string"}]}
    wallet = {
        "type": "record",
        "name": "Wallet",
        "namespace": "shop",
        "fields": [{"name": "card", "type": "shop.Card"}],
    }
    top = record_of("shop.Wallet")
    found = reader(top, ("card.avsc", card), ("wallet.avsc", wallet)).read(b"\x08visa")
    assert found == {"x": {"card": {"kind": "visa"}}}


def test_a_value_without_its_end_names_the_field_at_which_it_breaks_off() -> None:
    whole = written(FLAT, VALUE)
    fields = set()
    for size in range(len(whole)):
        with pytest.raises(NotDecodable) as caught:
            reader(FLAT).read(whole[:size])
        fields.add(caught.value.field)
    assert fields == {"id", "amount", "count", "country", "card.kind", "history", "tags", "blob", "hash"}


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        ("boolean", b"\x02", "boolean"),
        ("int", b"\xfe\xff\xff\xff\xff\x01", "32 bits"),
        ("long", b"\xff" * 11, "ten bytes"),
        ("long", b"\xff" * 9 + b"\x7f", "64 bits"),
        ("string", b"\x02\xff", "UTF-8"),
        ("string", b"\x01", "announced"),
        ("bytes", b"\xfe\xff\xff\xff\x0f", "announced"),
        (["null", "int"], b"\x04", "branch 2"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x02", "symbol 1"),
        ({"type": "array", "items": "int"}, b"\xfe\xff\xff\xff\xff\xff\xff\x01", "items"),
        ("int", b"\x02\x02", "follow"),
    ],
)
def test_bytes_of_another_schema_are_refused_with_the_reason(kind: Any, payload: bytes, words: str) -> None:
    with pytest.raises(NotDecodable, match=words):
        reader(record_of(kind)).read(payload)


def test_a_value_that_nests_without_end_is_refused_and_exhausts_no_stack() -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    assert reader(node).read(b"\x02\x02\0") == {"next": {"next": {"next": None}}}
    with pytest.raises(NotDecodable, match="deep"):
        reader(node).read(b"\x02" * 100_000)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "not Avro"),
        (json.dumps({"type": "record"}), "not Avro"),
        (json.dumps(record_of("Missing")), "not Avro"),
        (json.dumps(record_of({"type": "array", "items": "null"})), "without bytes"),
        (json.dumps(record_of({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": -1})), "not Avro"),
    ],
)
def test_a_schema_that_is_not_safe_to_read_is_refused_with_the_reason(schema: str, words: str) -> None:
    with pytest.raises(SchemaUnusable, match=words):
        AvroReader(WriterSchema("AVRO", schema))


def test_a_decimal_too_large_for_a_double_stays_an_integer_for_the_mapping_to_refuse() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 999, "scale": 1}
    payload = b"\x84\x04" + b"\x7f" * 258
    assert reader(record_of(kind)).read(payload)["x"] == int.from_bytes(b"\x7f" * 258, "big")


def test_mutated_payloads_are_refused_or_give_a_value() -> None:
    draw = random.Random(1)
    whole, one = written(FLAT, VALUE), reader(FLAT)
    for _ in range(20_000):
        payload = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(payload))
            match draw.randrange(3):
                case 0:
                    payload[at] = draw.randrange(256)
                case 1:
                    del payload[at]
                case _:
                    payload[at:at] = struct.pack("<I", draw.getrandbits(32))[: draw.randint(1, 4)]
        try:
            found = one.read(bytes(payload))
        except NotDecodable:
            continue
        assert set(found) == set(VALUE)
