"""The scanner and the decoder read the same from any JSON, by any mapping."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scanned import assert_sound, batch_of, decode, read

from headrace.consumers.fastjson.scan import Scanner, warm
from headrace.consumers.mapped_decoder import MappedDecoder
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.schema import Feature, Schema


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm()


def soundly(values: Any, *, schema: Schema | None = None, **mapping: Any) -> list[bool]:
    """Compare the scanner with the decoder; return which records were slow."""
    made = RecordMapping(**mapping)
    scanner, decoder = Scanner(mapping=made, schema=schema), MappedDecoder(made, schema=schema)
    assert assert_sound(values, scanner, decoder) == assert_sound(values, scanner, decoder)
    return assert_sound(values, scanner, decoder)


FLAT = {"features": "", "id": "event_id", "ts": "at", "label": "fraud"}
NESTED = {"features": "data.x", "id": "meta.id", "ts": "meta.at", "label": "y"}
DEBEZIUM = {"features": "payload.after", "id": "payload.after.id", "ts": "payload.ts_ms", "label": "payload.after.y"}

FAST: list[tuple[dict[str, Any], bytes]] = [
    (FLAT, b'{"event_id":"t-1","at":1700000000000,"amount":12.5,"country":"NO","fraud":true}'),
    (FLAT, b'{"amount":12.5, "fraud":"x" ,"at": 5,"event_id":"a"}'),
    (FLAT, b"{}"),
    (NESTED, b'{"meta":{"id":"t-1","at":17,"more":{"a":[1]}},"data":{"x":{"a":1,"b":"c"},"z":[]},"y":1,"z":null}'),
    (NESTED, b'{"y":1,"data":{"z":{"x":{"q":1}},"x":{}},"meta":{}}'),
    (NESTED, b'{"meta":[1],"data":{"x":{"a":1}},"y":false}'),
    (DEBEZIUM, b'{"schema":{"type":"struct"},"payload":{"before":null,"after":{"id":7,"a":1.5,"y":true},"ts_ms":17}}'),
    ({**DEBEZIUM, "empty": "skip"}, b'{"payload":{"before":{"id":7},"after":null,"ts_ms":17}}'),
    ({**DEBEZIUM, "empty": "skip"}, b'{"payload":null}'),
    ({**DEBEZIUM, "empty": "skip"}, b""),
    ({"flatten": True}, b'{"features":{"card":{"country":"NO","limits":[1,2.5,{"a":null}]},"amount":1},"id":"x"}'),
    ({"flatten": True, "nulls": "skip"}, b'{"features":{"a":{"b":{"c":null,"d":1}},"e":[],"f":{},"g":[[],[[2]]]}}'),
    ({"exclude": ("note", "raw*")}, b'{"features":{"a":1,"note":{"x":[1]},"raw1":null,"raw2":"\\u00e5\\n"}}'),
    ({"include": ("a", "c*")}, b'{"features":{"a":1,"b":null,"c":2,"cd":3,"dc":{}}}'),
    ({"include": ("card.*",), "flatten": True}, b'{"features":{"card":{"a":1},"cord":{"a":{}},"x":null}}'),
    ({"exclude": ("card",), "flatten": True}, b'{"features":{"card":{"a":[1,null]},"x":1}}'),
    ({**FLAT, "id": "meta.id", "exclude": ("meta",)}, b'{"meta":{"id":"t-1","x":null},"a":1}'),
    ({**FLAT, "id": "m.id", "ts": "m.t.at", "flatten": True}, b'{"m":{"id":"t-1","x":1,"t":{"at":5,"y":2}},"a":1}'),
    ({"nulls": "skip"}, b'{"id":null,"ts":null,"label":null,"features":{"a":null,"b":1}}'),
    ({"id": "n"}, b'{"n":123456789012345678901234567890,"features":{}}'),
    ({"id": "n"}, b'{"n":1.10,"features":{}}'),
    ({"id": "n"}, b'{"n":true,"features":{}}'),
    ({"id": ""}, b'{"id":{"x":1},"features":{}}'),
    ({"ts_unit": "s"}, b'{"ts":1700000000,"features":{}}'),
    ({"ts_unit": "s"}, b'{"ts":1700000000.1234567,"features":{}}'),
    ({"ts_unit": "s"}, b'{"ts":"1700000000.999","features":{}}'),
    ({"ts_unit": "us"}, b'{"ts":1700000000123456,"features":{}}'),
    ({"ts_unit": "ns"}, b'{"ts":1700000000123456789,"features":{}}'),
    ({"ts_unit": "ms", "id": ""}, b'{"ts":1700000000123.75,"features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"2026-11-30T15:44:00Z","features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"2024-02-29t23:59:59.123456789+05:30","features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"2000-01-01 00:00:00.5-00:00","features":{}}'),
]


@pytest.mark.parametrize(("mapping", "value"), FAST)
def test_a_record_of_a_common_shape_is_fast(mapping: dict[str, Any], value: bytes) -> None:
    schema = Schema({"card.limits.2.a": Feature(nullable=True, required=False)}) if b"limits" in value else None
    assert soundly([value, value], schema=schema, **mapping) == [False, False]


SLOW: list[tuple[dict[str, Any], bytes]] = [
    (FLAT, b'{"amount":{"a":1}}'),
    (FLAT, b'{"event_id":"a","event_id":"b"}'),
    (NESTED, b'{"meta":{"id":"a"},"meta":{},"data":{"x":{}}}'),
    (NESTED, b'{"data":{"x":{}},"data":{"x":{"a":1}}}'),
    (NESTED, b'{"data":{"x":null}}'),
    (NESTED, b'{"data":{"x":{}},"z":{"a":1]}'),
    (NESTED, b'{"data":{"x":{}},"z":[1,]}'),
    (NESTED, b'{"data":{"x":{}},"z":"\\ud800"}'),
    (NESTED, b'{"data":{"x":{}},"z":01}'),
    (NESTED, b'{"data":{"x":{}}'),
    ({**DEBEZIUM, "empty": "skip"}, b'{"payload":{"after":null,"after":null}}'),
    ({**DEBEZIUM, "empty": "skip"}, b'[{"payload":null}]'),
    ({**DEBEZIUM, "empty": "skip"}, b"null"),
    ({"flatten": True}, b'{"features":{"a.b":1,"a":{"b":2}}}'),
    ({"flatten": True}, b'{"features":{"a":{"b":1},"a":{"c":2}}}'),
    ({"flatten": True, "include": ("*.*",)}, b'{"features":{"a":{"b":1},"a":{"c":2}}}'),
    ({"flatten": True, "include": ("*.*",)}, b'{"features":{"a":{"b":1},"a":2}}'),
    ({"flatten": True}, b'{"features":{"a":[1}}'),
    ({**FLAT, "id": "m.id", "flatten": True}, b'{"m.id":"x"}'),
    ({"id": "n"}, b'{"n":null,"features":{}}'),
    ({"id": "n"}, b'{"n":[1],"features":{}}'),
    ({"ts_unit": "s"}, b'{"ts":1700000000.00000001,"features":{}}'),
    ({"ts_unit": "s"}, b'{"ts":17e8,"features":{}}'),
    ({"ts_unit": "ns"}, b'{"ts":0.123456789012345678,"features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"2026-11-30T15:44:00","features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"2026-11-30T15:44:60Z","features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"2026-02-29T15:44:00Z","features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":"1969-12-31T15:44:00Z","features":{}}'),
    ({"ts_unit": "iso"}, b'{"ts":1700000000,"features":{}}'),
    ({"label": "$headers.y"}, b'{"features":{}}'),
    ({"id": "a", "ts": "a.b"}, b'{"features":{}}'),
    ({"id": "a", "ts": "a"}, b'{"features":{}}'),
]


@pytest.mark.parametrize(("mapping", "value"), SLOW)
def test_a_doubtful_record_is_slow(mapping: dict[str, Any], value: bytes) -> None:
    assert soundly([value], **mapping) == [True]


def test_text_is_a_number_only_where_the_schema_declares_one() -> None:
    schema = Schema({"a": Feature(required=False), "n": Feature(type="integer", required=False)})
    values = [b'{"features":{"a":"12.50","n":"7","b":"12.50"}}', b'{"features":{"a":"12"}}', b'{"features":{"a":1}}']
    assert soundly(values, schema=schema, numbers="parse") == [False] * 3
    values = [b'{"features":{"a":"x"}}', b'{"features":{"a":"true"}}', b'{"features":{"n":"1.5"}}']
    values += [b'{"features":{"a":" 1"}}', b'{"features":{"a":"1_0"}}', b'{"features":{"a":"1"x}}']
    assert soundly(values, schema=schema, numbers="parse") == [True] * 6


def test_ids_and_times_may_be_beside_the_value() -> None:
    values = [b'{"features":{"a":1}}'] * 6
    headers = [
        [("ce_id", b"one"), ("ce_time", b"2026-11-30T15:44:00.25Z")],
        None,
        [("ce_id", "Bodø".encode()), ("ce_id", b"the last counts"), ("ce_time", None)],
        [("ce_id", b'a "quote"'), ("ce_time", b"2026-11-30T15:44:00Z")],
        [("ce_id", b""), ("ce_time", b"")],
        [("ce_id", b"\xff"), ("ce_time", b"2026-11-30T15:44:00Z")],
    ]
    batch = batch_of(
        values, headers=headers, keys=[b"k", None, b"\xff", b"", b"\\", b"x"], timestamps=[5, -1, 0, 1, 2, 3]
    )
    slow = soundly(batch, id="$headers.ce_id", ts="$headers.ce_time", ts_unit="iso")
    assert slow == [False, False, False, True, True, True]
    assert soundly(batch, id="$key", ts="$timestamp") == [False, False, True, False, True, False]
    assert soundly(batch, id="$timestamp", ts="$key", ts_unit="s") == [True, False, True, True, True, True]


def test_a_new_name_is_judged_once_and_a_vocabulary_that_begins_anew_is_judged_again() -> None:
    mapping = RecordMapping(exclude=("x*",), id="features.id")
    scanner, decoder = Scanner(mapping=mapping, names_max=20), MappedDecoder(mapping)
    for turn in range(5):
        values = [
            json.dumps({"features": {f"a{k + turn}": k, f"x{k + turn}": None, "id": k}}).encode() for k in range(30)
        ]
        assert not any(assert_sound(values, scanner, decoder))
    assert scanner.vocabulary.generation > 0


def test_flattened_names_find_room_and_long_arrays_are_fast() -> None:
    wide = {"features": {"deep": {f"name {k}": [k, {"x": "y"}] for k in range(3_000)}, "list": list(range(1_000))}}
    values = [json.dumps(wide).encode(), b'{"features":{"list":[[1],2]}}', json.dumps(wide).encode()]
    assert soundly(values, flatten=True) == [False] * 3
    long = {"features": {"x" * 3_000: {"y" * 2_000: 1}}}
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    values = [json.dumps(long).encode(), json.dumps({"features": {"a": deep}}).encode()]
    assert soundly(values, flatten=True) == [True, True]
    many = b'{"features":{"%s":[%s]}}' % (b"x" * 100, b",".join([b"1"] * 50_000))
    assert soundly([many], flatten=True) == [True]


def test_kept_features_are_read_in_the_default_form() -> None:
    mapping = RecordMapping(features="", id="id", exclude=("x",), flatten=True)
    scanner, decoder = Scanner(mapping=mapping), MappedDecoder(mapping)
    value = b'{"id":"a","card":{"country":"NO"},"x":1}'
    assert assert_sound([value], scanner, decoder) == [False]
    event = decode(value, decoder)
    kept = scanner.scan_kept([decoder.keep(batch_of([value]).record(0), event.features)])
    again = read(scanner, [value])
    assert not kept.slow.any()
    assert kept.vocabulary is again.vocabulary
    assert (kept.names.tolist(), kept.values.tolist()) == (again.names.tolist(), again.values.tolist())


def test_without_a_mapping_all_records_are_slow() -> None:
    assert read(Scanner(mapping=None), [b'{"features":{}}', None]).slow.tolist() == [True, True]


PATHS = st.lists(st.sampled_from(["a", "b", "id", "ts"]), min_size=1, max_size=3).map(".".join)
OUTSIDE = st.sampled_from(["$key", "$timestamp", "$headers.h"])
PATTERNS = st.lists(st.sampled_from(["a", "b*", "*.b", "?", "a.0", "*", "id", "[!a]*"]), max_size=2).map(tuple)
MAPPINGS = st.builds(
    RecordMapping,
    features=st.just("") | st.sampled_from(["features", "a", "a.b"]) | PATHS,
    id=st.just("") | PATHS | OUTSIDE,
    ts=st.just("") | PATHS | OUTSIDE,
    label=st.just("") | PATHS | st.just("$headers.h"),
    ts_unit=st.sampled_from(["s", "ms", "us", "ns", "iso"]),
    include=st.just(()) | PATTERNS,
    exclude=st.just(()) | PATTERNS,
    flatten=st.booleans(),
    nulls=st.sampled_from(["refuse", "skip"]),
    empty=st.sampled_from(["refuse", "skip"]),
    numbers=st.sampled_from(["strict", "parse"]),
)
TEXTS = ["x", "", "12", "1.5", "-3e2", "007", "2026-11-30T15:44:00.123Z", "2026-11-30 15:44:00+01:00", "1700000000.25"]
TEXTS += ["NaN", "Bodø", 'a "b"', "\n", "true", " 5"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 100),
    st.sampled_from([2**53 + 1, 10**20, -(2**70), 1_700_000_000_000, 0.1, 1_700_000_000.123_456_7, -0.0, 1e300]),
    st.floats(allow_nan=False),
    st.sampled_from(TEXTS),
)
KEYS = st.sampled_from(["a", "b", "id", "ts", "features", "a.b", "0", "b.0", "x"])
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
WHOLE = st.dictionaries(KEYS, TREES, max_size=5)
BESIDE = st.none() | st.sampled_from([text.encode() for text in TEXTS] + [b"\xff", b"1700000000", b"5"])
SCHEMA = Schema(
    {
        "a": Feature(required=False, nullable=True),
        "a.b": Feature(type="integer", required=False),
        "b": Feature(type="string", required=False),
    }
)


@given(
    MAPPINGS,
    st.lists(st.tuples(WHOLE, st.integers(0, 3), BESIDE, BESIDE, st.sampled_from([-1, 0, 1, 17])), max_size=6),
    st.none() | st.just(SCHEMA),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=400)
def test_any_json_by_any_mapping_is_the_same_or_slow(
    mapping: RecordMapping, rows: list[tuple[Any, int, Any, Any, int]], schema: Schema | None, seed: int
) -> None:
    source = random.Random(seed)
    values: list[bytes | None] = []
    for whole, form, _, _, _ in rows:
        value = json.dumps(whole, ensure_ascii=form == 1, indent=1 if form == 2 else None).encode()
        if form == 3:
            value = source.choice([None, b"", b"null", value.replace(b'"b"', b'"a"'), value[: source.randint(0, 40)]])
        values.append(value)
    batch = batch_of(
        values,
        keys=[row[2] for row in rows],
        headers=[[("h", b"first"), ("h", row[3])] if row[1] else None for row in rows],
        timestamps=[row[4] for row in rows],
    )
    scanner, decoder = Scanner(mapping=mapping, schema=schema), MappedDecoder(mapping, schema=schema)
    for _ in range(2):
        assert_sound(batch, scanner, decoder)
