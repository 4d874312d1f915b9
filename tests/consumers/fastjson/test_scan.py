import json
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hostile import REFUSED, TAKEN
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scanned import DECODER, assert_sound, decode, exact, features_of, read

from headrace.consumers.fastjson.scan import Scan, Scanner, warm
from headrace.consumers.record import VALUE_BYTES_MAX, Decoder, Event
from headrace.consumers.schema import Feature, Schema

# What no byte of a fast record may be, and what is often mistaken in a JSON parser.
SPICE = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\n",
    b"\0",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"0",
    b"-",
]
SPICE += [
    b".",
    b"e",
    b"E+",
    b"null",
    b"true",
    b"1e999",
    b'"a":1,',
    b'"features":{},',
    b'"id":"x",',
    b"\xc3\xa5",
    b"\xed\xa0\x80",
]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm()


def moment(source: random.Random, number: int) -> Any:
    """Return a time in one of the forms that a time in milliseconds may have."""
    ms = 1_700_000_000_000 + number
    return source.choice([ms, ms, ms + 0.5, str(ms), f"{ms}.25"])


def good(source: random.Random, number: int) -> bytes:
    """Write an ordinary record."""
    features: dict[str, Any] = {}
    for k in range(source.randint(0, 12)):
        features[f"name {k}" if k % 5 else f"Ørsta-{k}"] = source.choice(
            [
                source.random(),
                source.uniform(-1e9, 1e9),
                source.randint(-(2**53), 2**53),
                source.randrange(100),
                round(source.random() * 100, 2),
                source.random() * 10.0 ** source.randint(-30, 30),
                source.random() < 0.5,
                source.choice(["NO", "SE", "Bodø", "", "a longer word than eight bytes", "日本", "🎉"]),
            ]
        )
    fields = [("features", features), ("id", f"t-{number}"), ("ts", moment(source, number))]
    fields += [
        ("label", source.choice([True, 1, 2.5, "fraud", 0])),
        ("note", source.choice([None, 1, "x", True, -1.5e9])),
    ]
    if source.random() < 0.3:
        source.shuffle(fields)
    fields = fields[: source.randint(1, 5)]
    if "features" not in dict(fields):
        fields.append(("features", features))
    separators = source.choice([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")])
    return json.dumps(dict(fields), ensure_ascii=False, separators=separators).encode()


def mutate(source: random.Random, value: bytes) -> bytes:
    for _ in range(source.randint(1, 3)):
        at = source.randint(0, len(value))
        match source.randrange(6):
            case 0 if at < len(value):
                value = value[:at] + bytes([value[at] ^ 1 << source.randrange(8)]) + value[at + 1 :]
            case 1:
                value = value[:at] + source.choice(SPICE) + value[at:]
            case 2:
                value = value[:at] + value[at + source.randint(1, 8) :]
            case 3:
                value = value[:at]
            case 4:
                other = source.randint(0, len(value))
                value = value[:at] + value[other : other + source.randint(1, 20)] + value[at:]
            case _:
                value = value[:at] + source.choice(SPICE) + value[at + 1 :]
    return value


def test_ordinary_records_are_fast_and_the_same_as_the_decoder_has_them() -> None:
    source = random.Random(1)
    scanner = Scanner()
    for _ in range(10):
        slow = assert_sound([good(source, number) for number in range(200)], scanner)
        assert not any(slow)


def test_mutated_records_are_the_same_or_slow() -> None:
    source = random.Random(2)
    scanner = Scanner()
    fast = 0
    for _ in range(20):
        slow = assert_sound([mutate(source, good(source, number)) for number in range(300)], scanner)
        fast += slow.count(False)
    assert fast > 500


TEXT = st.text(max_size=12)
SCALAR = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, st.none())
ANY = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=4
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "features": st.dictionaries(TEXT, SCALAR, max_size=6) | ANY,
        "id": TEXT | ANY,
        "ts": st.integers(-2, 2**64) | ANY,
        "label": ANY,
        "note": ANY,
    },
)


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.permutations(range(5)), st.sampled_from([None, 1])), max_size=4))
@settings(deadline=None)
def test_any_json_is_the_same_or_slow(records: list[tuple[dict[str, Any], bool, list[int], int | None]]) -> None:
    values: list[bytes | None] = []
    for fields, escaped, order, indent in records:
        items = list(fields.items())
        record = dict(items[k] for k in order if k < len(items))
        values.append(json.dumps(record, ensure_ascii=escaped, indent=indent).encode(errors="surrogatepass"))
    assert_sound(values, Scanner())


@given(st.lists(st.none() | st.binary(max_size=40), max_size=4), st.binary(max_size=12))
@example([b"", None, b"{", b'{"features":{}}\0'], b'"')
@settings(deadline=None)
def test_any_bytes_are_the_same_or_slow(values: list[bytes | None], inside: bytes) -> None:
    whole = [
        b'{"features":{"a":%s}}',
        b'{"features":{"a":"%s"}}',
        b'{"features":{"%s":1}}',
        b'{"id":"%s","features":{}}',
    ]
    assert_sound([*values, *(part % inside for part in whole)], Scanner())


def test_the_corpus_of_hostile_records_is_refused_or_read_as_it_should_be() -> None:
    scanner = Scanner()
    # `bad_label` is the judgement of a model.
    refused = [case for case in REFUSED if case.stage == "decode"]
    values = [case.value for case in refused]
    assert all(
        slow or isinstance(decode(value), Event)
        for value, slow in zip(values, assert_sound(values, scanner), strict=True)
    )
    assert_sound([case.value for case in TAKEN], scanner)


@pytest.mark.parametrize(
    "value",
    [
        b'{"features":{"a\\u0062":1}}',
        b'{"features":{"a":"\\n"}}',
        b'{"features":{"a":1,"a":1}}',
        b'{"features":{"a":1},"features":{"b":1}}',
        b'{"id":"a","id":"b","features":{}}',
        b'{"features":{"a":9007199254740993}}',
        b'{"features":{"a":1e999}}',
        b'{"features":{"a":-0}}',
        b'{"features":{"a":null}}',
        b'{"features":{"a":[]}}',
        b'{"features":{},"label":null}',
        b'{"features":{},"label":[1]}',
        b'{"features":{},"ts":-1}',
        b'{"features":{},"ts":9223372036854775807}',
        b'{"features":{},"ts":9223372036854775808}',
        b'{"features":{},"id":null}',
        b'{"features":{},"id":[1]}',
        b'{"features":{},"id":1e999}',
        b'\xef\xbb\xbf{"features":{}}',
        b'{"features":{}} x',
        b'{"features":{}}\0',
        b'{"features":{},}',
        b'{"features":{"a":1,}}',
        b'{"features":{"a":01}}',
        b'{"features":{"a":tru}}',
        b'{"features":{"a":truex}}',
        b'{"features":{"a":"\x01"}}',
        b'{"features":{"a":"\xc0\xaf"}}',
        b'{"features":{"a":"\xed\xa0\x80"}}',
        b'{"features":{"a":"\xf4\x90\x80\x80"}}',
        b'{"features":{"a":"\xe0\x9f\xbf"}}',
        b'{"features":{"a":"\xf0\x8f\xbf\xbf"}}',
        b'{"features":{"a":"\xc3"}}',
        b'{"id":"a"}',
        b"[]",
        b"{}",
        b" ",
        b"",
        None,
    ],
)
def test_text_that_the_scanner_is_not_sure_of_is_slow(value: bytes | None) -> None:
    assert assert_sound([value], Scanner()) == [True]


@pytest.mark.parametrize(
    "value",
    [
        b'{"features":{}}',
        b' {\t"features" :\r\n{ } } \n',
        b'{"features":{"":1}}',
        b'{"label":"x","features":{"a":"x","b":true,"c":false,"d":1E+2,"e":-0.0},"ts":253402300799999,"id":""}',
        '{"features":{"høyde":"Ås","日本":"🎉","\x7f":"\U0010ffff"},"id":"Bodø"}'.encode(),
        b'{"note":null,"other":"x","other":true,"i":1,"idx":2,"labels":-3.5,"featuresX":0,"features":{"a":1}}',
        b'{"features":{},"note":{},"more":[{"a":[],"b":[1,"x",null]},12345678901234567890,"\\n\\u00e5"]}',
        b'{"features":{},"ts":1.0}',
        b'{"features":{},"id":1}',
        b'{"id":12345678901234567890123,"features":{"a":1}}',
        b'{"id": -1.50 ,"features":{}}',
        b'{"id":true,"features":{}}',
        b'{"features":{"a":5e-300,"b":1.7976931348623157e308,"c":0.30000000000000004,"d":12345678901234567.8}}',
    ],
)
def test_unusual_but_valid_text_is_fast(value: bytes) -> None:
    assert assert_sound([value, value], Scanner()) == [False, False]


def test_a_value_is_fast_up_to_its_bound_and_slow_beyond() -> None:
    value = b'{"features":{"a":"%s"}}' % (b"x" * 1_000)
    assert assert_sound([value, value + b" "], Scanner(value_bytes_max=len(value))) == [False, True]
    assert Decoder().value_bytes_max == VALUE_BYTES_MAX


def test_an_empty_batch_has_nothing() -> None:
    scanner = Scanner()
    scan = read(scanner, [])
    assert scan.starts.tolist() == [0]
    assert scanner.fill(scan, {}) is scan
    assert [str(array.dtype) for array in scan[:-1]] == [
        *("uint8", "bool", "bool", "int64", "int32", "int8", "float64"),
        *("int64", "int64", "int64", "int8", "float64"),
    ]


def test_new_names_words_and_long_strings_find_room_within_a_batch() -> None:
    scanner = Scanner()
    many = {f"name {k}": f"word {k}" for k in range(5_000)}
    long = {"a": "x" * 200_000, "y" * 50_000: "z", "z": 1}
    values = [json.dumps({"features": features}).encode() for features in ({"a": 1}, many, long, many, {"z": "word 7"})]
    assert not any(assert_sound(values, scanner))
    assert len(scanner.vocabulary.names) == 5_003
    assert scanner.vocabulary.generation == 0
    assert not any(assert_sound(values, scanner))
    assert len(scanner.vocabulary.names) == 5_003


def test_lists_of_a_vocabulary_grow_at_their_ends() -> None:
    scanner = Scanner()
    read(scanner, [b'{"features":{"a":"x"}}'])
    names, words = list(scanner.vocabulary.names), list(scanner.vocabulary.words)
    assert (names, words) == (["a"], ["x"])
    scan = read(scanner, [b'{"features":{"b":"y","a":"x"},"label":"z"}'])
    assert (scanner.vocabulary.names, scanner.vocabulary.words) == (["a", "b"], ["x", "y", "z"])
    assert (scan.names.tolist(), scan.values.tolist(), scan.label_values.tolist()) == ([1, 0], [1.0, 0.0], [2.0])


@pytest.mark.parametrize("bound", ["names_max", "words_max", "arena_bytes_max"])
def test_a_vocabulary_begins_anew_between_batches_when_it_has_passed_a_bound(bound: str) -> None:
    scanner = Scanner(**{bound: 20})
    first = [b'{"features":{"name %d":"word %d"}}' % (k, k) for k in range(30)]
    assert not any(assert_sound(first, scanner))
    old = scanner.vocabulary
    assert (old.generation, len(old.names)) == (0, 30)
    assert not any(assert_sound(first[20:], scanner))
    assert (scanner.vocabulary.generation, scanner.vocabulary.words[0]) == (1, "word 20")
    # Who still holds columns of the one before can read them.
    assert (old.generation, old.names[29]) == (0, "name 29")


def test_a_name_that_a_record_had_does_not_stand_twice_in_the_next_one() -> None:
    scanner = Scanner()
    value = b'{"features":{"a":1,"b":2}}'
    for count in (1, 3, 2, 400):
        assert not any(assert_sound([value] * count, scanner))


def fill(values: Sequence[bytes | None], scanner: Scanner, decoder: Decoder = DECODER) -> Scan:
    scan = read(scanner, values)
    events = {i: decode(values[i], decoder) for i in np.flatnonzero(scan.slow).tolist()}
    return scanner.fill(scan, {i: event.features for i, event in events.items() if isinstance(event, Event)})


def test_slow_records_are_filled_in_between_the_others() -> None:
    source = random.Random(3)
    scanner = Scanner()
    for share in (0.0, 0.1, 0.9, 1.0):
        values = [good(source, number) for number in range(200)]
        for i in range(200):
            if source.random() < share:
                # A name that is written with an escape.
                values[i] = values[i].replace(b'"features"', b'"f\\u0065atures"')
        values[7] = b"not JSON"
        filled = fill(values, scanner)
        for i, value in enumerate(values):
            event = decode(value)
            wanted = list(event.features.items()) if isinstance(event, Event) else []
            assert exact(features_of(scanner, filled, i)) == exact(wanted)
        assert filled.starts[-1] == len(filled.names) == len(filled.kinds) == len(filled.values)


def test_filling_takes_any_value_and_any_order() -> None:
    scanner = Scanner()
    scan = read(scanner, [b"", b'{"features":{"x":1}}', b"", b""])
    rows: dict[int, dict[str, Any]] = {
        3: {"new \n name": 'a "word"', "x": None},
        0: {"x": 2**60 + 1, "y": -0.0, "z": True, "w": "NO", "v": 1e300},
    }
    filled = scanner.fill(scan, rows)
    assert exact(features_of(scanner, filled, 0)) == exact(
        [("x", 2**60 + 1), ("y", -0.0), ("z", True), ("w", "NO"), ("v", 1e300)]
    )
    assert features_of(scanner, filled, 1) == [("x", 1)]
    assert features_of(scanner, filled, 2) == []
    assert features_of(scanner, filled, 3) == [("new \n name", 'a "word"'), ("x", None)]
    assert [array.dtype for array in filled[:-1]] == [array.dtype for array in scan[:-1]]
    # What was filled in is no guess for the next batch: a quote ends a string there.
    assert not any(assert_sound([b'{"features":{"new":"a ","x":"a "}}'], scanner))


def test_filling_in_an_integer_beyond_all_doubles_is_an_overflow() -> None:
    scanner = Scanner()
    with pytest.raises(OverflowError):
        scanner.fill(read(scanner, [b""]), {0: {"a": 10**400}})


SCHEMA = Schema(
    {
        "amount": Feature(minimum=0.0, maximum=100.0),
        "count": Feature(type="integer", required=False, maximum=10),
        "country": Feature(type="string", values=("NO", "SE", "Å")),
        "paid": Feature(type="boolean", required=False, nullable=True),
        "free": Feature(type="string", required=False),
        "odd": Feature(type="number", required=False, values=("1",)),
    },
    extra=False,
)
KEPT: list[dict[str, Any]] = [
    {"amount": 0, "country": "NO"},
    {"amount": 100.0, "country": "Å", "paid": True, "count": 10},
    {"country": "SE", "paid": None, "amount": 0.5, "free": "anything"},
]
BROKEN: list[dict[str, Any]] = [
    {"amount": 1},
    {},
    {"amount": 1, "country": "DK"},
    {"amount": 1, "country": "DK never seen"},
    {"amount": 100.00001, "country": "NO"},
    {"amount": -1, "country": "NO"},
    {"amount": True, "country": "NO"},
    {"amount": "1", "country": "NO"},
    {"amount": None, "country": "NO"},
    {"amount": 1, "country": "NO", "count": 1.0},
    {"amount": 1, "country": "NO", "count": 11},
    {"amount": 1, "country": "NO", "paid": 1},
    {"amount": 1, "country": "NO", "free": 1},
    {"amount": 1, "country": "NO", "odd": 1},
    {"amount": 1, "country": "NO", "extra": 1},
    {"amount": 1, "country": "NO", "extra": None},
]


def test_records_that_match_the_schema_are_fast_and_others_are_slow() -> None:
    scanner, decoder = Scanner(schema=SCHEMA, names_max=8), Decoder(schema=SCHEMA)
    for _ in range(3):
        for cases, wanted in ((KEPT, False), (BROKEN, True)):
            values = [json.dumps({"features": features}, ensure_ascii=False).encode() for features in cases]
            assert assert_sound(values, scanner, decoder) == [wanted] * len(cases)
            assert [isinstance(decode(value, decoder), Event) for value in values] == [not wanted] * len(cases)
        # So many other names that the vocabulary begins anew.
        read(scanner, [b'{"features":{"%d":1}}' % k for k in range(20)])
    assert scanner.vocabulary.generation > 0


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*"ABCD"]), st.sampled_from([0, 1, -1.5, True, "x", "y", None])), max_size=5
    )
)
@settings(deadline=None)
def test_any_features_keep_a_schema_as_the_decoder_says(rows: list[dict[str, Any]]) -> None:
    schema = Schema(
        {
            "A": Feature(minimum=-1, required=False, nullable=True),
            "B": Feature(type="string", values=("x",), required=False),
            "C": Feature(type="integer", required=False, maximum=math.nan),
        }
    )
    decoder = Decoder(schema=schema)
    values = [json.dumps({"features": features}).encode() for features in rows]
    slow = assert_sound(values, Scanner(schema=schema), decoder)
    for features, value, was_slow in zip(rows, values, slow, strict=True):
        if isinstance(decode(value, decoder), Event) and "C" not in features:
            assert not was_slow


def test_a_bound_that_no_double_is_leaves_its_feature_to_the_decoder() -> None:
    schema = Schema({"a": Feature(minimum=2**60 + 1), "b": Feature(maximum=10**400, required=False)})
    value = b'{"features":{"a":1.152921504606846976e18}}'
    assert assert_sound([value], Scanner(schema=schema), Decoder(schema=schema)) == [True]
