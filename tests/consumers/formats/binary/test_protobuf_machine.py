"""The machine of Protobuf against the decoder: what it reads has the decoder's values, and the rest is slow."""

import random
from typing import Any

import pytest
from google.protobuf import message_factory
from scans import batch, check

from headrace.consumers.fastjson.scan import Scanner
from headrace.consumers.formats.binary.scan import BinaryScanner
from headrace.consumers.formats.format_decoder import FormatDecoder
from headrace.consumers.formats.framing import HEADER
from headrace.consumers.formats.protobuf import ProtobufReader
from headrace.consumers.formats.schema_cache import SchemaCache
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.schema import Feature, Schema

PROTO = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message Other { int32 x = 1; }
message Payment {
  enum State { NEW = 0; PAID = 1; LOST = 5; }
  message Card { string kind = 1; int32 year = 2; optional double limit = 3; Card before = 4; }
  string id = 1;
  int64 number = 2;
  google.protobuf.Timestamp at = 3;
  int64 when = 4;
  optional double amount = 5;
  float share = 6;
  int32 hour = 7;
  sint32 small = 8;
  uint64 wide = 9;
  sint64 signed = 10;
  State state = 12;
  string city = 13;
  bool known = 14;
  fixed32 f32 = 15;
  sfixed32 s32 = 16;
  fixed64 f64 = 17;
  sfixed64 s64 = 18;
  uint32 u32 = 19;
  Card card = 20;
  google.protobuf.DoubleValue wrapped = 21;
  google.protobuf.Timestamp seen = 22;
  oneof chosen { string name = 23; int32 code = 24; }
  bytes blob = 25;
  repeated int32 list = 26;
  map<string, int32> more = 27;
  google.protobuf.Struct any = 28;
  optional bool fraud = 2000;
  int32 far = 5000;
}
"""
OTHERS = ("blob", "list", "more", "any")
FLAT: dict[str, Any] = {"features": "", "label": "fraud", "exclude": (*OTHERS, "card")}
DEEP: dict[str, Any] = {**FLAT, "exclude": OTHERS}
MAPPINGS = [
    RecordMapping(**FLAT, ts="at"),
    RecordMapping(**FLAT, id="number", ts="when", ts_unit="s"),
    RecordMapping(**FLAT, id="number", ts="when", ts_unit="ns"),
    RecordMapping(**FLAT, id="", ts="seen"),
    RecordMapping(**DEEP, ts="at", flatten=True),
    RecordMapping(**{**DEEP, "exclude": ("blob",)}, ts="at", flatten=True),
    RecordMapping(**DEEP, ts="at"),
    RecordMapping(features="card", label="fraud", ts="at", id="card.kind"),
    RecordMapping(features="card", label="fraud", ts="at", empty="skip", exclude=("before",)),
    RecordMapping(features="", include=("amount", "c*"), exclude=("card", "code"), label="state", ts="at"),
    RecordMapping(features="nowhere"),
    RecordMapping(features="city"),
    RecordMapping(**FLAT, id="card", ts="at"),
    RecordMapping(**FLAT, id="wrapped", ts="at"),
    RecordMapping(**FLAT, id="list", ts="at"),
    RecordMapping(**FLAT, ts="city", ts_unit="iso"),
    RecordMapping(**FLAT, id="$key", ts="at"),
    RecordMapping(**{**FLAT, "label": "wrapped"}, ts="u32", ts_unit="us"),
]
SCHEMAS = [
    None,
    Schema({"amount": Feature(required=False), "hour": Feature("integer", minimum=2)}),
    Schema({"city": Feature("string", values=("Oslo", "ø"))}),
]
FRAME, OTHER = b"\0\0\0\0\x07\x02\x02", b"\0\0\0\0\x07\0"


@pytest.fixture(scope="module")
def cache() -> SchemaCache:
    made = SchemaCache("PROTOBUF")
    made.known["7"] = made.parse("7", WriterSchema("PROTOBUF", PROTO))
    return made


def made(cache: SchemaCache, mapping: RecordMapping, schema: Schema | None = None) -> tuple[Any, Any]:
    decoder = FormatDecoder(cache, mapping, schema=schema, value_bytes_max=10_000)
    return decoder, BinaryScanner(decoder, Scanner(schema=schema))


def message(cache: SchemaCache, draw: random.Random) -> Any:
    reader = cache.known["7"]
    assert isinstance(reader, ProtobufReader)
    kind = message_factory.GetMessageClass(reader.schema.message((1,)))
    found = kind(
        id=draw.choice(["t-1", "ø", 'quo"te', "back\\slash", "", "\n", "long" * 20]),
        number=draw.choice([0, -7, 10**15, 2**60, draw.getrandbits(40)]),
        when=draw.choice([0, -1, 1_700_000_000, 1_700_000_000_123_456_789, 2**60]),
        share=draw.choice([0.0, 0.5, -1.25, 3.0, float("nan")]),
        hour=draw.randint(-5, 24),
        small=draw.choice([0, -1, 2**31 - 1, -(2**31)]),
        wide=draw.choice([0, 1, 2**53, 2**53 + 1, 2**64 - 1]),
        signed=draw.choice([0, -1, 2**53, -(2**53) - 1]),
        state=draw.choice([0, 1, 5, 3, -1]),
        city=draw.choice(["Oslo", "Tromsø", "日本", "", "x" * 300]),
        known=draw.random() < 0.5,
        f32=draw.choice([0, 2**32 - 1]),
        s32=draw.choice([0, -(2**31)]),
        f64=draw.choice([0, 7, 2**64 - 1]),
        s64=draw.choice([0, -7]),
        u32=draw.choice([0, 2**32 - 1]),
    )
    for name, value in (
        ("amount", draw.choice([0.0, -0.0, 12.5, float("inf"), 1e308])),
        ("fraud", draw.random() < 0.5),
    ):
        if draw.random() < 0.7:
            setattr(found, name, value)
    if draw.random() < 0.5:
        found.card.kind, found.card.year = draw.choice(["visa", "", "ø"]), draw.choice([0, 2030])
    if draw.random() < 0.1:
        found.card.before.year = 3
    if draw.random() < 0.8:
        found.at.seconds = draw.choice([0, 1_700_000_000, -5, 2**40])
        found.at.nanos = draw.choice([0, 5_000_000, 123_456_789, 999_999_999])
        found.seen.CopyFrom(found.at)
    if draw.random() < 0.5:
        found.wrapped.value = draw.choice([0.0, 2.5])
    draw.choice([_spoil_list, _spoil_map, _spoil_struct, _spoil_far, _name, _code, *[lambda _: None] * 6])(found)
    return found


def _spoil_list(found: Any) -> None:
    found.list.extend([1, 2])


def _spoil_map(found: Any) -> None:
    found.more["a"] = 1


def _spoil_struct(found: Any) -> None:
    found.any.update({"x": 1})


def _spoil_far(found: Any) -> None:
    found.far = 9


def _name(found: Any) -> None:
    found.name, found.blob = "ø", b"\xff"


def _code(found: Any) -> None:
    found.code = 0


@pytest.mark.parametrize("schema", SCHEMAS, ids=["any", "numbers", "words"])
@pytest.mark.parametrize("mapping", MAPPINGS, ids=range(len(MAPPINGS)))
def test_a_message_that_is_not_slow_has_the_values_of_the_decoder(
    cache: SchemaCache, mapping: RecordMapping, schema: Schema | None
) -> None:
    decoder, scanner = made(cache, mapping, schema)
    draw = random.Random(7)
    check(decoder, scanner, batch([FRAME + message(cache, draw).SerializeToString() for _ in range(400)]))


def plain(cache: SchemaCache) -> list[bytes]:
    draw, found = random.Random(3), []
    for _ in range(200):
        one = message(cache, draw)
        one.id, one.number, one.when, one.share, one.wide, one.signed = "ø", 5, 10**9, 0.5, 3, -4
        one.state, one.f64, one.at.seconds, one.at.nanos, one.amount = 5, 8, 1_700_000_000, 5_000_000, 2.5
        one.seen.CopyFrom(one.at)
        for name in ("list", "more", "any", "far"):
            one.ClearField(name)
        if one.card.HasField("before"):
            one.card.ClearField("before")
        found.append(one.SerializeToString())
    return found


def test_plain_messages_are_fast(cache: SchemaCache) -> None:
    for mapping in (MAPPINGS[0], MAPPINGS[1], MAPPINGS[4]):
        decoder, scanner = made(cache, mapping)
        assert check(decoder, scanner, batch([FRAME + payload for payload in plain(cache)])) == 200


def test_a_frame_may_be_in_a_header_and_messages_may_have_different_ones(cache: SchemaCache) -> None:
    decoder, scanner = made(cache, MAPPINGS[0])
    payloads = plain(cache)[:6]
    values = [FRAME + payloads[0], payloads[1], OTHER, FRAME[:6], b"\0\0", FRAME + payloads[5]]
    headers = [None, [("x", b"y"), (HEADER, FRAME)], None, None, None, [("x", None)]]
    # An empty message of the first type of the file has the zeros of its fields.
    scan = scanner.scan(batch(values, headers))
    assert scan.slow.tolist() == [False, False, False, True, True, False]
    check(decoder, scanner, batch(values, headers))


def test_mutated_messages_are_slow_or_have_the_values_of_the_decoder(cache: SchemaCache) -> None:
    draw = random.Random(11)
    decoder, scanner = made(cache, MAPPINGS[4])
    payloads = [FRAME + message(cache, draw).SerializeToString() for _ in range(400)]
    for _ in range(10):
        values: list[bytes] = []
        for payload in payloads * 3:
            found = bytearray(payload)
            for _ in range(draw.randint(1, 3)):
                at = draw.randrange(len(found))
                match draw.randrange(3):
                    case 0:
                        found[at] = draw.randrange(256)
                    case 1:
                        del found[at : at + draw.randint(1, 4)]
                    case _:
                        found[at:at] = draw.randbytes(draw.randint(1, 10))
            values.append(bytes(found))
        check(decoder, scanner, batch(values))


def test_proto2_has_required_fields_and_text_that_is_not_utf8() -> None:
    cache = SchemaCache("PROTOBUF")
    fields = "required int32 x = 1; optional string s = 2; optional int32 y = 3 [default = 5];"
    text = f'syntax = "proto2"; message M {{ {fields} }}'
    cache.known["7"] = cache.parse("7", WriterSchema("PROTOBUF", text))
    decoder, scanner = made(cache, RecordMapping(features="", id="", ts="", label=""))
    frame = b"\0\0\0\0\x07\0"
    values = [frame + b"\x08\x01", frame, frame + b"\x08\x01\x12\x01\xff", frame + b"\x08\x01\x12\x01a\x18\x02"]
    assert scanner.scan(batch(values)).slow.tolist() == [False, True, True, False]
    assert check(decoder, scanner, batch(values)) == 2


def test_a_new_vocabulary_links_the_tables_again(cache: SchemaCache) -> None:
    decoder, _ = made(cache, MAPPINGS[0])
    scanner = BinaryScanner(decoder, Scanner(names_max=1, words_max=1))
    records = batch([FRAME + payload for payload in plain(cache)])
    for _ in range(3):
        assert check(decoder, scanner, records) == 200
    assert scanner.scan(records).vocabulary.generation > 0


def test_a_full_interner_grows_while_messages_are_read() -> None:
    cache = SchemaCache("PROTOBUF")
    cache.known["7"] = cache.parse(
        "7", WriterSchema("PROTOBUF", 'syntax = "proto3"; message M { string s = 1; int32 x = 2; }')
    )
    decoder, scanner = made(cache, RecordMapping(features="", id="", ts="", label=""))
    values = [b"\0\0\0\0\x07\0\x0a\x06%06d\x10\x01" % number for number in range(9_000)]
    assert check(decoder, scanner, batch(values)) == 9_000
