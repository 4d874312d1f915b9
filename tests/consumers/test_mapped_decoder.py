import json
from typing import Any

import msgspec
import pytest
from hostile import REFUSED, TAKEN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.consumers.mapped_decoder import MappedDecoder, MappedLabelDecoder
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import Decoder, Event, Label, LabelDecoder, LabelRecord, Record, Skipped
from headrace.consumers.refusal import CODES, Refusal
from headrace.consumers.schema import Feature, Schema

MS = 1_700_000_000_123
FLAT = RecordMapping(features="", ts="when", ts_unit="s", label="fraud")
DEBEZIUM = RecordMapping(
    features="payload.after", id="payload.after.id", ts="payload.ts_ms", label="payload.after.fraud", empty="skip"
)
BINARY = RecordMapping(features="", id="$headers.ce_id", ts="$headers.ce_time", ts_unit="iso", label="fraud")
STRUCTURED = RecordMapping(features="data", id="id", ts="time", ts_unit="iso", label="data.fraud")
DEEP = RecordMapping(features="", label="truth.fraud", flatten=True)
HEADERS = [("ce_id", b"old"), ("ce_time", b"2023-11-14T22:13:20.123Z"), ("ce_id", "é-1".encode())]


def record(value: bytes | None, *, key: bytes | None = b"k", headers: Any = None) -> Record:
    return Record(3, 7, MS, key, value, headers)


def decode(mapping: RecordMapping, value: bytes | None, schema: Schema | None = None, **message: Any) -> Any:
    return MappedDecoder(mapping, schema=schema).decode(record(value, **message))


@pytest.mark.parametrize(
    ("mapping", "value", "features", "id_", "ts", "label"),
    [
        (
            FLAT,
            b'{"id": "t-1", "when": 1700000000.123, "amount": 1.5, "fraud": true}',
            {"amount": 1.5},
            "t-1",
            MS,
            True,
        ),
        (FLAT, b'{"amount": 1}', {"amount": 1}, None, None, None),
        (
            DEBEZIUM,
            (
                b'{"schema": {"a": [1e999]}, "payload": {"before": null, "after": {"id": 17, "amount": 2, "fraud": 0}, '
                b'"op": "u", "ts_ms": 1700000000123}}'
            ),
            {"amount": 2},
            "17",
            MS,
            0,
        ),
        (BINARY, b'{"amount": 3, "fraud": false}', {"amount": 3}, "é-1", MS, False),
        (
            STRUCTURED,
            b'{"specversion": "1.0", "id": "e-1", "time": "2023-11-14T23:13:20.123+01:00", "data": {"x": "a"}}',
            {"x": "a"},
            "e-1",
            MS,
            None,
        ),
        (
            DEEP,
            b'{"card": {"country": "NO", "tags": ["a", {"b": 1}, []]}, "n": 2, "truth": {"fraud": 1, "by": "x"}}',
            {"card.country": "NO", "card.tags.0": "a", "card.tags.1.b": 1, "n": 2, "truth.by": "x"},
            None,
            None,
            1,
        ),
    ],
    ids=["flat", "flat without more", "Debezium", "CloudEvents binary", "CloudEvents structured", "flattened"],
)
def test_a_shape_is_read(
    *, mapping: RecordMapping, value: bytes, features: dict[str, Any], id_: Any, ts: Any, label: Any
) -> None:
    found = decode(mapping, value, headers=HEADERS)
    assert isinstance(found, Event), found
    assert list(found.features.items()) == list(features.items())
    none = msgspec.UNSET
    assert (found.id, found.ts, found.label) == tuple(none if wanted is None else wanted for wanted in (id_, ts, label))


@pytest.mark.parametrize(
    ("text", "id_"),
    [
        ("17", "17"),
        ("-0", "-0"),
        ("1.10", "1.10"),
        ("1E5", "1E5"),
        ("9007199254740993", "9007199254740993"),
        ("9" * 5_000, "9" * 5_000),
        ("1e999", "1e999"),
        ("true", "true"),
        ("false", "false"),
        ('"1.10"', "1.10"),
        ('""', ""),
    ],
)
def test_an_id_that_is_no_text_is_its_json_to_the_last_digit(text: str, id_: str) -> None:
    found = decode(FLAT, b'{"more": {"deep": 1}, "id": 0, "x": "\\u00e9", "id": %s}' % text.encode())
    assert isinstance(found, Refusal), "the nested field is not a feature"
    found = decode(msgspec.structs.replace(FLAT, exclude=("more",)), b'{"more": {"deep": 1}, "id": %s}' % text.encode())
    assert isinstance(found, Event)
    assert found.id == id_


def test_whole_numbers_of_any_size_keep_their_value_as_features_and_labels() -> None:
    found = decode(FLAT, b'{"a": 9007199254740993, "b": -%s, "fraud": 18446744073709551617}' % (b"9" * 300))
    assert isinstance(found, Event)
    assert found.features == {"a": 2**53 + 1, "b": -int("9" * 300)}
    assert found.label == 2**64 + 1


@pytest.mark.parametrize(
    ("mapping", "value", "code", "field"),
    [
        (FLAT, b'{"card": {"a": 1}}', "wrong_type", "card"),
        (FLAT, b'{"a": null}', "wrong_type", "a"),
        (FLAT, b'{"a": 1e999}', "not_finite", "a"),
        (FLAT, b'{"a": %s}' % (b"9" * 400), "out_of_range", "a"),
        (FLAT, b'{"a": "\\ud800"}', "not_json", "a"),
        (FLAT, b'{"\\ud800": 1}', "not_json", ""),
        (FLAT, b'{"id": "\\ud800"}', "not_json", "id"),
        (FLAT, b'{"id": null}', "wrong_type", "id"),
        (FLAT, b'{"id": [1]}', "wrong_type", "id"),
        (FLAT, b'{"when": null}', "wrong_type", "when"),
        (FLAT, b'{"when": true}', "wrong_type", "when"),
        (FLAT, b'{"when": "soon"}', "bad_time", "when"),
        (FLAT, b'{"when": -1}', "out_of_range", "when"),
        (FLAT, b'{"when": %s}' % (b"9" * 5_000), "out_of_range", "when"),
        (FLAT, b'{"fraud": 1e999}', "not_finite", "fraud"),
        (FLAT, b'{"fraud": [%s]}' % (b"9" * 400), "out_of_range", "fraud[0]"),
        (FLAT, b"[1]", "not_object", ""),
        (FLAT, b"null", "not_object", ""),
        (FLAT, b'{"a": NaN}', "not_json", "a"),
        (FLAT, b'{"a": 1', "not_json", ""),
        (FLAT, b"\xff", "not_utf8", ""),
        (FLAT, b'{"a": "%s"}' % (b"x" * 262_144), "too_large", ""),
        (FLAT, None, "no_value", ""),
        (FLAT, b"  ", "no_value", ""),
        (STRUCTURED, b'{"id": "e-1"}', "missing_field", "data"),
        (STRUCTURED, b'{"data": null}', "wrong_type", "data"),
        (STRUCTURED, b'{"data": [1]}', "wrong_type", "data"),
        (STRUCTURED, b'{"data": {}, "time": 1700000000}', "bad_time", "time"),
        (STRUCTURED, b'{"data": {"card": []}}', "wrong_type", "card"),
        (DEBEZIUM, b'{"payload": {"after": "gone"}}', "wrong_type", "payload.after"),
        (DEEP, b'{"a.b": 1, "a": {"b": 2}}', "wrong_type", "a.b"),
        (DEEP, b'{"%s": [%s]}' % (b"n" * 100_000, b",".join([b"1"] * 50)), "too_large", ""),
        (
            msgspec.structs.replace(DEEP, features="features"),
            b'{"features": {"a": {"b": null}}}',
            "wrong_type",
            "features.a.b",
        ),
    ],
)
def test_a_bad_record_is_refused_with_the_path_of_its_field(
    mapping: RecordMapping, value: bytes | None, code: str, field: str
) -> None:
    found = decode(mapping, value)
    assert isinstance(found, Refusal), found
    assert (found.code, found.field) == (code, field), found.message
    assert found.code in CODES
    assert field in found.message


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" \n",
        b"null",
        b"{}",
        b'{"payload": null}',
        b'{"payload": {"after": null, "op": "d"}}',
        b'{"payload": 1}',
    ],
)
def test_a_delete_is_skipped_where_empty_says_so(value: bytes | None) -> None:
    assert isinstance(decode(DEBEZIUM, value), Skipped)
    assert isinstance(decode(msgspec.structs.replace(DEBEZIUM, empty="refuse"), value), Refusal)


def test_what_patterns_leave_out_is_not_validated() -> None:
    mapping = msgspec.structs.replace(FLAT, exclude=("x*",), include=("a", "x1"))
    value = b'{"x1": 1e999, "x2": "\\ud800", "x3": null, "x4": {"a": [%s]}, "a": 1, "b": [null]}' % (b"9" * 5_000)
    found = decode(mapping, value)
    assert isinstance(found, Event)
    assert found.features == {"a": 1}
    for broken in (b'{"x": NaN}', b'{"x": tru}', b'{"x": "\xff"}'):
        assert isinstance(decode(mapping, broken), Refusal), "it must be JSON all the same"
    flat = msgspec.structs.replace(DEEP, exclude=("card", "*.secret"))
    found = decode(flat, b'{"card": {"a": null}, "b": {"secret": 1e999, "open": 2}}')
    assert isinstance(found, Event)
    assert found.features == {"b.open": 2}, "a pattern that is the path of an object leaves out all of it"


def test_a_null_counts_as_not_there_where_nulls_says_so() -> None:
    mapping = msgspec.structs.replace(FLAT, nulls="skip")
    found = decode(mapping, b'{"id": null, "when": null, "fraud": null, "a": null, "b": 1}')
    assert found == Event({"b": 1})
    schema = Schema({"a": Feature(nullable=True), "b": Feature(required=False)})
    assert decode(mapping, b'{"a": null, "b": null}', schema) == Event({"a": None})
    found = decode(mapping, b'{"a": null}', Schema({"a": Feature()}))
    assert isinstance(found, Refusal)
    assert (found.code, found.field, found.stage) == ("missing_field", "a", "validate")


def test_text_is_a_number_for_features_that_the_schema_declares_as_numeric() -> None:
    mapping = msgspec.structs.replace(FLAT, numbers="parse")
    schema = Schema({"a": Feature(required=False), "n": Feature(type="integer", required=False)})
    value = b'{"a": " 12.50 ", "n": "-007", "s": "12.50"}'
    assert decode(mapping, value, schema) == Event({"a": 12.5, "n": -7, "s": "12.50"})
    for text, number in {"1e3": 1_000.0, "+5": 5, ".5": 0.5, "5.": 5.0, str(2**60 + 1): 2**60 + 1}.items():
        assert decode(mapping, b'{"a": "%s"}' % text.encode(), schema) == Event({"a": number})
    for text, code in {"": "wrong_type", "12,50": "wrong_type", "NaN": "wrong_type", "1e400": "not_finite"}.items():
        found = decode(mapping, b'{"a": "%s"}' % text.encode(), schema)
        assert isinstance(found, Refusal)
        assert (found.code, found.field) == (code, "a")
    strict = decode(FLAT, value, schema)
    assert isinstance(strict, Refusal)
    assert strict.code == "wrong_type"


def test_the_key_the_timestamp_and_headers_are_fields_of_a_record() -> None:
    mapping = RecordMapping(features="", id="$key", ts="$timestamp", label="$headers.truth")
    for text, label in {b"true": True, b"12.5": 12.5, b"007": "007", b"fraud": "fraud", b'"x"': '"x"'}.items():
        found = decode(mapping, b'{"id": 1}', key=b"c-7", headers=[("truth", text)])
        assert found == Event({"id": 1}, "c-7", MS, label)
    assert decode(mapping, b'{"id": 1}', key=None) == Event({"id": 1}, ts=MS)
    assert MappedDecoder(mapping).decode(Record(0, 0, -1, None, b"{}", None)) == Event({})
    assert decode(msgspec.structs.replace(mapping, id="$timestamp"), b"{}", key=None) == Event({}, str(MS), MS)
    early = Record(0, 0, 0, None, b"{}", None)
    assert MappedDecoder(RecordMapping(features="", id="$timestamp")).decode(early) == Event({}, "0")
    for message in ({"key": b"\xff"}, {"headers": [("truth", b"\xff")]}):
        found = decode(mapping, b"{}", **message)
        assert isinstance(found, Refusal)
        assert (found.code, found.field[0]) == ("not_utf8", "$")


def test_the_features_that_wait_for_a_label_are_kept_in_the_default_form() -> None:
    decoder = MappedDecoder(DEEP)
    kept = decoder.keep(record(b'{"a": {"b": 1}}'), {"a.b": 1, "é": "x", "n": None, "big": 2**70})
    assert json.loads(kept) == {"features": {"a.b": 1, "é": "x", "n": None, "big": 2**70}}
    assert decoder.features(kept) == {"a.b": 1, "é": "x", "n": None, "big": 2**70}


def test_the_default_mapping_reads_good_records_as_the_typed_decoder_does() -> None:
    typed, mapped = Decoder(), MappedDecoder(RecordMapping())
    for case in TAKEN:
        assert repr(mapped.decode(record(case.value))) == repr(typed.decode(record(case.value))), case.name
    looser = ("id", "ts")
    for refused in REFUSED:
        found = mapped.decode(record(refused.value))
        if (
            refused.code == "bad_label"
            or refused.field in looser
            or "unknown" in refused.name
            or "first" in refused.name
        ):
            continue
        assert isinstance(found, Refusal), refused.name
        assert (found.code, found.field) == (refused.code, refused.field), refused.name


@pytest.mark.parametrize(
    ("mapping", "value", "label"),
    [
        (
            RecordMapping(id="order.id", label="verdict"),
            b'{"order": {"id": 7}, "verdict": "ok", "ts": 5}',
            Label("7", "ok", 5),
        ),
        (RecordMapping(id="$key", label="payload.after.fraud"), b'{"payload": {"after": {"fraud": 1}}}', Label("k", 1)),
        (RecordMapping(id="$key", label="l", nulls="skip", ts="t"), b'{"l": 0, "t": null}', Label("k", 0)),
        (RecordMapping(id="$key", label="$headers.l", ts="$timestamp"), b"{}", Label("k", True, MS)),
        (RecordMapping(id="$key", label="l"), b'{"l": null}', Label("k", None)),
        (RecordMapping(id="$key", label="l", empty="skip"), b'{"l": null}', Skipped()),
        (RecordMapping(id="$key", label="l.m", empty="skip"), b'{"l": null}', Skipped()),
        (RecordMapping(id="$key", label="l", empty="skip"), None, Skipped()),
        (RecordMapping(id="$key", label="l", empty="skip"), b"null", Skipped()),
    ],
)
def test_a_label_is_read_by_its_paths(mapping: RecordMapping, value: bytes | None, label: Any) -> None:
    found = MappedLabelDecoder(mapping).decode(LabelRecord(3, 7, MS, b"k", value, [("l", b"true")]))
    assert found == label


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (None, "no_value", ""),
        (b"[]", "not_object", ""),
        (b'{"order": {"id": 1}}', "missing_field", "verdict"),
        (b'{"verdict": 1}', "missing_field", "order.id"),
        (b'{"order": {"id": {}}, "verdict": 1}', "wrong_type", "order.id"),
        (b'{"order": {"id": 1}, "verdict": 1, "ts": "soon"}', "bad_time", "ts"),
        (b'{"order": {"id": 1}, "verdict": 1e999}', "not_finite", "verdict"),
    ],
)
def test_a_bad_label_record_is_refused_with_its_path(value: bytes | None, code: str, field: str) -> None:
    mapping = RecordMapping(id="order.id", label="verdict")
    found = MappedLabelDecoder(mapping).decode(LabelRecord(3, 7, MS, b"k", value, None))
    assert isinstance(found, Refusal), found
    assert (found.code, found.field) == (code, field)


def test_the_default_label_mapping_reads_labels_as_the_typed_decoder_does() -> None:
    for value in (b'{"id": "a", "label": 1}', b'{"id": "a", "label": null, "ts": 9}', b'{"id": "a", "label": [1]}'):
        found = LabelRecord(3, 7, MS, b"k", value, None)
        assert MappedLabelDecoder(RecordMapping()).decode(found) == LabelDecoder().decode(found)


NAMES = st.sampled_from(["id", "ts", "label", "features", "a", "b", "payload", "a.b", "", "é", "$key"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["1.5", "2023"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
PATHS = st.sampled_from(["", "id", "ts", "a", "payload", "payload.a", "a.b", "$key", "$timestamp", "$headers.h"])
PATTERNS = st.lists(st.sampled_from(["a", "*", "a.*", "[ab]", "?", "payload*"]), max_size=2).map(tuple)
MAPPINGS = st.builds(
    RecordMapping,
    features=st.sampled_from(["", "features", "payload", "payload.a"]),
    id=PATHS,
    ts=PATHS,
    ts_unit=st.sampled_from(["s", "ms", "us", "ns", "iso"]),
    label=PATHS,
    include=PATTERNS,
    exclude=PATTERNS,
    flatten=st.booleans(),
    nulls=st.sampled_from(["refuse", "skip"]),
    empty=st.sampled_from(["refuse", "skip"]),
    numbers=st.sampled_from(["strict", "parse"]),
)
MESSAGES = st.fixed_dictionaries(
    {
        "key": st.none() | st.binary(max_size=3),
        "headers": st.none() | st.lists(st.tuples(st.just("h"), st.binary(max_size=3))),
    }
)


@settings(max_examples=1_000)
@given(MAPPINGS, JSON.map(json.dumps).map(str.encode) | st.binary(max_size=50), MESSAGES)
@example(RecordMapping(features="", flatten=True), b'{"a": ' * 400 + b"1" + b"}" * 400, {})
def test_any_value_and_any_mapping_give_an_event_a_skip_or_a_refusal(
    mapping: RecordMapping, value: bytes, message: dict[str, Any]
) -> None:
    schema = Schema({"a": Feature(required=False), "b": Feature(required=False, nullable=True)})
    for found in (decode(mapping, value, schema, **message), decode(mapping, value, **message)):
        assert isinstance(found, Event | Skipped | Refusal)
        if isinstance(found, Event):
            assert set(map(type, found.features.values())) <= {int, float, str, bool, type(None)}
            assert isinstance(found.id, str | msgspec.UnsetType)
            assert found.ts is msgspec.UNSET or 0 <= found.ts < 2**63
            decoder = MappedDecoder(mapping)
            assert decoder.features(decoder.keep(record(value), found.features)) == found.features
    label = MappedLabelDecoder(mapping).decode(LabelRecord(0, 0, 0, message.get("key"), value, message.get("headers")))
    assert isinstance(label, Label | Skipped | Refusal)
