import collections
import json
import math
import random
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import pytest
from hostile import REFUSED, TAKEN, TASKS, VALUE_BYTES_MAX, Refused, Taken, refused
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.consumers.record import Decoder, Event, Record
from headrace.consumers.refusal import CODES, Refusal
from headrace.consumers.schema import Feature, Schema

DECODER = Decoder()
LABEL_FREE = [case for case in REFUSED if case.code != "bad_label"]


def record(value: bytes | None) -> Record:
    return Record(0, 7, 1_700_000_000_000, b"key", value, None)


def decode(value: bytes | None, decoder: Decoder = DECODER) -> Event | Refusal:
    return decoder.decode(record(value))


# What the decoder must say, told once more in the words of `json` and of the contract.


def is_good(value: bytes) -> bool:
    if not value or len(value) > VALUE_BYTES_MAX:
        return False
    try:
        pairs = json.loads(
            value.decode(), parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=_Pairs
        )
    except (ValueError, RecursionError):
        return False
    return isinstance(pairs, _Pairs) and not _has_half_surrogate(pairs) and _fits(pairs) and not _has_huge(pairs)


class _Pairs(list[tuple[str, Any]]):
    """An object with the names that stand twice."""


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 4_000 else 10**4_000


def _has_half_surrogate(node: Any) -> bool:
    if isinstance(node, _Pairs):
        return any(_has_half_surrogate(name) or _has_half_surrogate(child) for name, child in node)
    if isinstance(node, list):
        return any(map(_has_half_surrogate, node))
    return isinstance(node, str) and any(0xD800 <= ord(letter) < 0xE000 for letter in node)


def _fits(pairs: _Pairs) -> bool:
    checks: dict[str, Callable[[Any], bool]] = {
        "ts": lambda ts: type(ts) in {int, str} or (type(ts) is float and not math.isinf(ts)),
        "features": lambda features: isinstance(features, _Pairs) and all(_is_feature(v) for _, v in features),
        "label": lambda label: not _has_infinity(label),
    }
    if not isinstance(dict(pairs).get("id", ""), str | int | float):
        return False
    # A name that stands twice: each of its values must be one that the field can have. Of the id only the last counts.
    return any(name == "features" for name, _ in pairs) and all(checks.get(n, lambda _: True)(v) for n, v in pairs)


def _is_feature(value: Any) -> bool:
    # An integer that Python does not parse is refused the first time, too.
    return isinstance(value, bool | int | float | str) and not _has_infinity(value) and value != 10**4_000


def _has_infinity(node: Any) -> bool:
    if isinstance(node, list):
        return any(_has_infinity(part[1] if isinstance(node, _Pairs) else part) for part in node)
    return isinstance(node, float) and math.isinf(node)


def _time(found: float | str) -> Decimal:
    """Return a time as a number; a text that is none is no good time."""
    try:
        return Decimal(found)
    except InvalidOperation:
        return Decimal(-1)


def _has_huge(pairs: _Pairs) -> bool:
    """Tell whether an integer that counts is too large; the first of two equal names does not count."""
    fields = dict(pairs)
    if not 0 <= _time(fields.get("ts", 0)) < 2**63:
        return True
    stack = [fields.get("label"), *dict(fields["features"]).values()]
    while stack:
        node = stack.pop()
        if isinstance(node, _Pairs):
            stack.extend(dict(node).values())
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, int) and abs(node) >= 2**1024 - 2**970:
            return True
    return False


# Texts that are nearly records: JSON with what goes wrong in it, then bytes that are changed.

NAMES = ["id", "ts", "features", "label", "a", "b", "note", "", "é", "\\ud800", "\\u0061", "a\\u0000"]
LEAVES = [
    *("0", "1", "-0", "-1", "1.5", "1e5", "1e999", "-1e999", "1e-999", "1700000000000", "[]", "{}", str(2**63)),
    *("true", "false", "null", '""', '"x"', '"é"', '"\\ud83d\\ude00"', '"\\u0000"', str(2**64), str(-(2**70))),
    *("NaN", "Infinity", "-Infinity", "01", "1.", ".5", "-", "+1", "nul", '"unended', '"\x01"', '"\\q"', '"\\ud800"'),
    *('"17"', '"1.5e3"', '"-0.5"'),
    *("9" * 309, "-" + "9" * 309, "1" + "0" * 308, "2" + "0" * 308, "9" * 4_500, "0." + "3" * 400),
]
SOUND = 22
"""How many of LEAVES, from the first, most fields can hold."""


def near_record(rng: random.Random) -> bytes:
    fields = [f'"features": {{{", ".join(_pair(rng, 0) for _ in range(rng.randrange(4)))}}}']
    for name, usual in (("id", '"t-1"'), ("ts", "17"), ("label", "true")):
        if rng.random() < 0.5:
            fields.append(f'"{name}": {usual if rng.random() < 0.7 else _value(rng, 2)}')
    if rng.random() < 0.4:
        fields.append(_pair(rng, 2))
    rng.shuffle(fields)
    text = bytearray(("{" + ", ".join(fields) + "}").encode())
    if rng.random() < 0.2:
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(text)


def _pair(rng: random.Random, depth: int) -> str:
    return f'"{rng.choice(NAMES if rng.random() < 0.3 else "abc")}": {_value(rng, depth)}'


def _value(rng: random.Random, depth: int) -> str:
    if depth and rng.random() < 0.3:
        return f"{{{', '.join(_pair(rng, depth - 1) for _ in range(rng.randrange(3)))}}}"
    if depth and rng.random() < 0.3:
        return f"[{', '.join(_value(rng, depth - 1) for _ in range(rng.randrange(3)))}]"
    return rng.choice(LEAVES if rng.random() < 0.15 else LEAVES[:SOUND])


@pytest.mark.parametrize("case", LABEL_FREE, ids=lambda case: case.name)
def test_a_hostile_record_is_refused_with_its_reason(case: Refused) -> None:
    answer = decode(case.value)
    assert isinstance(answer, Refusal), "it must not be taken"
    assert (answer.code, answer.stage, answer.field) == (case.code, case.stage, case.field)
    assert answer.code in CODES
    assert answer.message


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: f"{case.name} {case.tasks}")
def test_an_odd_record_is_taken(case: Taken) -> None:
    answer = decode(case.value)
    assert isinstance(answer, Event), "it must not be refused"
    assert repr(answer.features) == repr(case.features), "to the bit, minus zero and types with it"
    assert case.id == (None if answer.id is msgspec.UNSET else answer.id)
    assert case.ts == (None if answer.ts is msgspec.UNSET else answer.ts)


@pytest.mark.parametrize("place", range(60))
def test_an_integer_too_large_is_found_wherever_it_stands(place: int) -> None:
    answer = decode(b'{"features": {"a": 1}, "label": ["%s", %s]}' % (b"x" * place, b"9" * 309))
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.field) == ("out_of_range", "label[1]")


def test_json_that_breaks_off_says_after_how_much() -> None:
    whole = '{"id": "é", "features": {"a": 15, "b": "c"}, "label": true}'
    for size in range(1, len(whole)):
        answer = decode(whole[:size].encode())
        assert isinstance(answer, Refusal)
        assert answer.message == f"the value is not JSON: it breaks off after {size} characters"


def test_the_corpus_is_large_and_names_its_cases() -> None:
    assert len({case.name for case in REFUSED}) == len(REFUSED) >= 180
    assert all(len(refused(task)) >= 150 for task in TASKS)
    decoded_here = {case.code for case in REFUSED}
    assert set(CODES) - decoded_here == {
        "not_framed",
        "unknown_schema",
        "not_decodable",
        "unknown_feature",
        "no_key",
        "learn_failed",
        "sink_refused",
        "transform_failed",
    }, "what only others can say"


def test_the_oracle_agrees_with_the_corpus() -> None:
    assert [case.name for case in LABEL_FREE if case.value and is_good(case.value)] == []
    assert [case.name for case in TAKEN if not is_good(case.value)] == []


@given(st.binary(max_size=400))
@example(b"")
@example(b'{"features": {}}')
def test_any_bytes_get_the_verdict_of_the_oracle(value: bytes) -> None:
    assert isinstance(decode(value), Event) == is_good(value)


def test_near_records_get_the_verdict_of_the_oracle() -> None:
    rng = random.Random(11)
    verdicts = collections.Counter[str]()
    for _ in range(6_000):
        value = near_record(rng)
        answer = decode(value)
        assert isinstance(answer, Event) == is_good(value), (value, answer)
        verdicts["good" if isinstance(answer, Event) else answer.code] += 1
        assert isinstance(answer, Event) or (answer.code in CODES and answer.message)
    assert verdicts["good"] > 500, "the near records are near enough"
    assert all(verdicts[code] > 20 for code in ("not_json", "wrong_type", "not_finite", "out_of_range", "not_utf8"))


_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_WHOLE = st.integers(-int(1.797e308), int(1.797e308))
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=60)
@given(
    features=st.dictionaries(_TEXT, _FINITE | _WHOLE | st.booleans() | _TEXT, max_size=8),
    id_=st.none() | _TEXT,
    ts=st.none() | st.integers(0, 2**63 - 1),
    label=st.just(msgspec.UNSET) | st.none() | _FINITE | _WHOLE | st.booleans() | _TEXT,
    ascii_=st.booleans(),
    indent=st.none() | st.integers(0, 2),
)
def test_a_valid_event_comes_back_to_the_bit(
    features: dict[str, Any], id_: str | None, ts: int | None, label: Any, *, ascii_: bool, indent: int | None
) -> None:
    fields = {"id": id_, "ts": ts}
    whole = {"features": features, **{name: value for name, value in fields.items() if value is not None}}
    if label is not msgspec.UNSET:
        whole["label"] = label
    answer = decode(json.dumps(whole, ensure_ascii=ascii_, indent=indent).encode())
    assert isinstance(answer, Event), answer
    assert list(answer.features) == list(features), "in the order of the record"
    assert [_bits(value) for value in answer.features.values()] == [_bits(value) for value in features.values()]
    assert (answer.id, answer.ts) == (
        id_ if id_ is not None else msgspec.UNSET,
        ts if ts is not None else msgspec.UNSET,
    )
    assert _bits(answer.label) == _bits(label)


def _bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else (type(value), value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_every_depth_of_nesting_gets_an_answer(opening: bytes) -> None:
    """Around the interpreter's own limit the answer may be either, but there is one, and it is no error."""
    closing = {b"[": b"]", b'{"a":': b"1}"}[opening][-1:]
    for depth in range(900, 1_100):
        inner = opening * depth + (b"" if opening == b"[" else b"1") + closing * depth
        for place in (b'{"features": {}, "label": %s}', b'{"features": {}, "note": %s}', b'{"features": {"a": %s}}'):
            assert isinstance(decode(place % inner), Event | Refusal)


def test_the_limit_of_a_value_is_the_configured_one() -> None:
    small = Decoder(value_bytes_max=16)
    assert isinstance(decode(b'{"features": {}}', small), Event)
    answer = decode(b'{"features": {} }', small)
    assert isinstance(answer, Refusal)
    assert answer.code == "too_large"
    assert "17 bytes" in answer.message
    assert "16" in answer.message


def test_a_broken_schema_names_the_feature_in_the_validate_stage() -> None:
    decoder = Decoder(schema=Schema({"amount": Feature(minimum=0)}))
    assert isinstance(decode(b'{"features": {"amount": 1, "more": "x"}}', decoder), Event)
    answer = decode(b'{"features": {"amount": -1}}', decoder)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.stage, answer.field) == ("out_of_range", "validate", "features.amount")


def test_null_passes_where_the_schema_says_nullable_and_nowhere_else() -> None:
    decoder = Decoder(schema=Schema({"a": Feature(nullable=True), "b": Feature(required=False)}))
    answer = decode(b'{"id": "x", "features": {"a": null}, "label": 1}', decoder)
    assert isinstance(answer, Event)
    assert (answer.id, answer.features, answer.label) == ("x", {"a": None}, 1)
    for value in (b'{"features": {"a": 1, "b": null}}', b'{"features": {"a": 1, "other": null}}'):
        answer = decode(value, decoder)
        assert isinstance(answer, Refusal)
        assert answer.code == "wrong_type"
    answer = decode(b'{"features": {"a": 1, "other": [1]}}', decoder)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.stage, answer.field) == ("wrong_type", "decode", "features.other")


def test_a_schema_does_not_let_the_corpus_through() -> None:
    """The nullable decoder is another one: it takes nulls, and must take nothing else."""
    decoder = Decoder(schema=Schema({"zz": Feature(nullable=True, required=False)}))
    let_through = [case.name for case in LABEL_FREE if not isinstance(decode(case.value, decoder), Refusal)]
    assert let_through == ["a feature that is wrong the first time"], "a null, then a number: the last one counts"
