import json

import pytest

from headrace.consumers.formats.json_schema import JsonSchemaReader
from headrace.consumers.formats.writer_schema import NotDecodable, SchemaUnusable, WriterSchema

CARD = {"type": "object", "properties": {"kind": {"type": "string", "maxLength": 8}}, "required": ["kind"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "amount": {"type": ["number", "string"]},
        "count": {"type": ["null", "integer"]},
        "card": {"$ref": "card.json"},
        "inner": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
    },
    "required": ["id"],
}


def reader(schema: object = SCHEMA) -> JsonSchemaReader:
    return JsonSchemaReader(WriterSchema("JSON", json.dumps(schema), (("card.json", json.dumps(CARD)),)))


def test_a_valid_value_is_read() -> None:
    value = {"id": "t-1", "amount": "12.50", "card": {"kind": "visa"}, "big": 10**40}
    assert reader().read(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"id": 1}, "id"),
        ({"id": "a", "card": {"kind": 3}}, "card.kind"),
        ({"id": "a", "card": {}}, "card.kind"),
        ({}, "id"),
        ([], ""),
    ],
)
def test_a_value_of_another_shape_is_refused_and_the_field_is_named(value: object, field: str) -> None:
    with pytest.raises(NotDecodable) as caught:
        reader().read(json.dumps(value).encode())
    assert caught.value.field == field


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 100_000, b'{"id": NaN}'])
def test_a_value_that_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(NotDecodable, match="not JSON"):
        reader().read(payload)


def test_the_declared_types_are_those_of_the_fields_by_path() -> None:
    assert reader().declared() == {"id": "string", "amount": "number", "count": "integer", "inner.ok": "boolean"}


@pytest.mark.parametrize(
    "text", ["{", '{"type": "nothing"}', '{"pattern": "("}', '{"$ref": "http://127.0.0.1:1/gone.json"}']
)
def test_a_schema_that_cannot_be_used_is_refused_and_no_server_is_asked(text: str) -> None:
    with pytest.raises(SchemaUnusable, match="not JSON Schema"):
        JsonSchemaReader(WriterSchema("JSON", text))
