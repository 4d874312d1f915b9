"""Protobuf messages read with descriptors that were compiled from the registry's text, without a generated class."""

import base64
import random
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, message_factory

from headrace.consumers.formats import protobuf
from headrace.consumers.formats.protobuf import ProtobufReader, ProtobufSchema
from headrace.consumers.formats.writer_schema import NotDecodable, SchemaUnusable, WriterSchema

TEXT = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/type/date.proto";
import "confluent/type/decimal.proto";
import "card.proto";
message Other { int32 x = 1; message Inner { string y = 1; } }
message Payment {
  string id = 1;
  double amount = 2;
  optional int64 count = 3;
  Country country = 4;
  Card card = 5;
  repeated float history = 6;
  map<string, bool> tags = 7;
  bytes blob = 8;
  google.protobuf.Timestamp at = 9;
  google.protobuf.DoubleValue share = 10;
  confluent.type.Decimal price = 11;
  google.protobuf.Struct more = 12;
  oneof either { string text = 13; sint32 number = 14; }
  map<int32, string> names = 15;
  google.type.Date day = 16;
  bool camelCase = 17;
}
enum Country { UNKNOWN = 0; NO = 1; }
"""
CARD = 'syntax = "proto3"; package shop; message Card { string kind = 1; uint32 year = 2; }'
SCHEMA = WriterSchema("PROTOBUF", TEXT, (("card.proto", CARD),))
PAYMENT = (1,)


@pytest.fixture(scope="module")
def reader() -> ProtobufReader:
    return ProtobufReader(SCHEMA)


def message(reader: ProtobufReader) -> Any:
    return message_factory.GetMessageClass(reader.schema.message(PAYMENT))()


def test_fields_without_presence_are_zero_and_those_with_it_are_absent(reader: ProtobufReader) -> None:
    assert reader.read(b"", PAYMENT) == {
        "id": "", "amount": 0.0, "country": "UNKNOWN", "history": [], "tags": {}, "blob": b"", "names": {},
        "camelCase": False,
    }  # fmt: skip


def test_every_type_is_read_by_the_names_of_the_proto_file(reader: ProtobufReader) -> None:
    one = message(reader)
    one.id, one.amount, one.count, one.country, one.blob, one.camelCase = "t-1", 12.5, -3, 1, b"\xff", True
    one.card.kind, one.card.year = "visa", 2030
    one.history.extend([1.0, 2.5])
    one.tags["a"] = True
    one.names[7] = "seven"
    one.at.seconds, one.at.nanos = 1_700_000_000, 123_456_000
    one.share.value = 0.25
    one.price.value, one.price.scale = (-1234).to_bytes(2, "big", signed=True), 2
    one.more.update({"deep": [1, None, {"x": True}]})
    one.number = -5
    one.day.year = 2026
    assert reader.read(one.SerializeToString(), PAYMENT) == {
        "id": "t-1", "amount": 12.5, "count": -3, "country": "NO", "card": {"kind": "visa", "year": 2030},
        "history": [1.0, 2.5], "tags": {"a": True}, "blob": b"\xff", "at": 1_700_000_000_123.456, "share": 0.25,
        "price": -12.34, "more": {"deep": [1.0, None, {"x": True}]}, "number": -5, "names": {"7": "seven"},
        "day": {"year": 2026, "month": 0, "day": 0}, "camelCase": True,
    }  # fmt: skip


def test_an_enum_of_a_newer_schema_is_its_number(reader: ProtobufReader) -> None:
    one = message(reader)
    one.country = 7
    assert reader.read(one.SerializeToString(), PAYMENT)["country"] == "7"


def test_indexes_choose_a_message_and_one_inside_it(reader: ProtobufReader) -> None:
    assert reader.read(b"\x08\x05", (0,)) == {"x": 5}
    assert reader.read(b"\x0a\x01z", (0, 0)) == {"y": "z"}
    with pytest.raises(NotDecodable, match="no message"):
        reader.read(b"", (9,))


def test_the_declared_types_are_those_of_the_fields_by_path(reader: ProtobufReader) -> None:
    assert reader.declared(PAYMENT) == {
        "id": "string", "amount": "number", "count": "integer", "country": "string", "card.kind": "string",
        "card.year": "integer", "blob": "bytes", "at": "milliseconds", "share": "number", "price": "number",
        "text": "string", "number": "integer", "day.year": "integer", "day.month": "integer", "day.day": "integer",
        "camelCase": "boolean",
    }  # fmt: skip


def test_a_serialized_descriptor_gives_the_same_as_the_text(reader: ProtobufReader) -> None:
    files = {name: descriptor_pb2.FileDescriptorProto() for name in ("card.proto", "value.proto")}
    for name, file in files.items():
        reader.schema.message(PAYMENT).file.pool.FindFileByName(name).CopyToProto(file)
    texts = {name: base64.b64encode(file.SerializeToString()).decode() for name, file in files.items()}
    other = ProtobufReader(WriterSchema("PROTOBUF", texts["value.proto"], (("card.proto", texts["card.proto"]),)))
    one = message(reader)
    one.id, one.at.seconds = "t-1", 5
    assert other.read(one.SerializeToString(), PAYMENT) == reader.read(one.SerializeToString(), PAYMENT)


@pytest.mark.parametrize(
    ("text", "references", "words"),
    [
        ("syntax = ;", (), "not Protobuf"),
        ('syntax = "proto3"; message M { Missing x = 1; }', (), "Missing"),
        ('syntax = "proto3"; import "gone.proto"; message M {}', (), "gone.proto"),
        ('syntax = "proto3"; message M {}', (("../evil.proto", ""),), "no name of a file"),
        ('syntax = "proto3"; message M {}', (("/etc/evil.proto", ""),), "no name of a file"),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_refused_with_the_reason(
    text: str, references: tuple[tuple[str, str], ...], words: str
) -> None:
    with pytest.raises(SchemaUnusable, match=words):
        ProtobufSchema(WriterSchema("PROTOBUF", text, references))


def test_a_compiler_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "COMPILE_S", 0.001)
    with pytest.raises(SchemaUnusable, match="to compile"):
        ProtobufSchema(SCHEMA)


def test_mutated_messages_are_refused_or_give_a_value(reader: ProtobufReader) -> None:
    draw = random.Random(1)
    one = message(reader)
    one.id, one.amount, one.card.kind, one.at.seconds = "t-1", 12.5, "visa", 5
    one.more.update({"deep": [1, {"x": True}]})
    whole = one.SerializeToString()
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
                    payload[at:at] = draw.randbytes(draw.randint(1, 3))
        try:
            assert "id" in reader.read(bytes(payload), PAYMENT)
        except NotDecodable:
            continue


def test_strings_that_are_not_utf8_are_refused_also_in_proto2() -> None:
    schema = ProtobufReader(WriterSchema("PROTOBUF", 'syntax = "proto2"; message M { optional string s = 1; }'))
    with pytest.raises(NotDecodable):
        schema.read(b"\x0a\x01\xff", (0,))
