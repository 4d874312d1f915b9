"""The corpus: records that must be refused, each with why, and odd ones that must not be.

Plain data that every test may import. `REFUSED` and `TAKEN` hold for a decoder with its defaults; what hangs on
the label is listed by task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Task = Literal["binary", "multiclass", "regression"]
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")

VALUE_BYTES_MAX = 262_144
"""The default bound of a value, written out: the corpus must not ask the code under test."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is a 400, with the reason that its dead letter must give."""

    name: str
    value: bytes | None
    code: str
    field: str = ""
    stage: str = "decode"
    tasks: tuple[Task, ...] = TASKS


@dataclass(frozen=True, slots=True)
class Taken:
    """A record that is odd but good, with what the model must get; no `label` means that none is learned."""

    name: str
    value: bytes
    features: dict[str, Any]
    id: str | None = None
    label: Any = None
    tasks: tuple[Task, ...] = TASKS
    ts: int | None = None


def refused(task: Task) -> list[Refused]:
    """Return what a pipeline of this task must refuse."""
    return [case for case in REFUSED if task in case.tasks]


def taken(task: Task) -> list[Taken]:
    """Return what a pipeline of this task must not refuse."""
    return [case for case in TAKEN if task in case.tasks]


# Where a JSON value may stand in a record, and the field that a reason names for it.
_PLACES = {
    "id": (b'{"id": %s, "features": {"a": 1}}', "id"),
    "ts": (b'{"ts": %s, "features": {"a": 1}}', "ts"),
    "features": (b'{"features": %s}', "features"),
    "a feature": (b'{"features": {"a": %s}}', "features.a"),
    "a late feature": (b'{"id": "t-1", "features": {"b": 1, "c": "x", "a": %s}, "label": true}', "features.a"),
    "label": (b'{"features": {"a": 1}, "label": %s}', "label"),
    "an unknown field": (b'{"features": {"a": 1}, "note": %s}', "note"),
    "an unknown object": (b'{"features": {"a": 1}, "note": {"deep": %s}}', "note.deep"),
    "an unknown array": (b'{"features": {"a": 1}, "note": [0, %s]}', "note[1]"),
}


def _in(place: str, value: bytes) -> bytes:
    return _PLACES[place][0] % value


def _each(
    name: str,
    value: bytes,
    code: str,
    places: Sequence[str] = tuple(_PLACES),
    *,
    stage: str = "decode",
    named: bool = True,
) -> list[Refused]:
    """Put one value in many places; `named` tells whether the reason can name the field."""
    return [
        Refused(f"{name} in {place}", _in(place, value), code, _PLACES[place][1] if named else "", stage)
        for place in places
    ]


_EMPTY = [
    Refused("no value (a tombstone)", None, "no_value"),
    Refused("an empty value", b"", "no_value"),
    Refused("one space", b" ", "no_value"),
    Refused("nothing but white space", b" \t\r\n" * 50, "no_value"),
]

_NOT_UTF8 = [
    Refused("a lone byte 0xff", b"\xff", "not_utf8"),
    Refused("Latin-1 in an id", '{"id": "é", "features": {"a": 1}}'.encode("latin-1"), "not_utf8"),
    Refused("Latin-1 in a feature", _in("a feature", b'"\xe9"'), "not_utf8"),
    Refused("Latin-1 in a feature's name", b'{"features": {"\xe9": 1}}', "not_utf8"),
    Refused("Latin-1 in a label", _in("label", b'"\xe9"'), "not_utf8"),
    Refused("Latin-1 in an unknown field", _in("an unknown field", b'"\xe9"'), "not_utf8"),
    Refused("Latin-1 in an unknown field's name", b'{"features": {"a": 1}, "\xe9": 1}', "not_utf8"),
    Refused("an overlong slash", _in("a feature", b'"\xc0\xaf"'), "not_utf8"),
    Refused("an overlong NUL", _in("a feature", b'"\xc0\x80"'), "not_utf8"),
    Refused("an overlong slash of three bytes", _in("an unknown field", b'"\xe0\x80\xaf"'), "not_utf8"),
    Refused("a surrogate as UTF-8", _in("a feature", b'"\xed\xa0\x80"'), "not_utf8"),
    Refused("a surrogate pair as UTF-8 (CESU-8)", _in("id", b'"\xed\xa0\xbd\xed\xb8\x80"'), "not_utf8"),
    Refused("past the end of Unicode", _in("a feature", b'"\xf4\x90\x80\x80"'), "not_utf8"),
    Refused("a continuation byte alone", _in("id", b'"\x80"'), "not_utf8"),
    Refused("a character that is cut", _in("a feature", b'"\xe2\x82"'), "not_utf8"),
    Refused("a character that the end cuts", b'{"features": {"a": "\xf0\x9f', "not_utf8"),
    Refused("UTF-16 with its mark", '{"features": {"a": 1}}'.encode("utf-16"), "not_utf8"),
    Refused("UTF-32 with its mark", '{"features": {"a": 1}}'.encode("utf-32"), "not_utf8"),
    Refused("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV", "not_utf8"),
]

_NOT_JSON = [
    Refused("words", b"hello", "not_json"),
    Refused("XML", b"<features><a>1</a></features>", "not_json"),
    Refused("CSV", b"1,2.5,NO,true", "not_json"),
    Refused("a NUL byte", b"\x00", "not_json"),
    Refused("MessagePack", b"\x01\x02\x03", "not_json"),
    Refused("UTF-16 without its mark", '{"features": {"a": 1}}'.encode("utf-16-le"), "not_json"),
    Refused("a byte order mark", b'\xef\xbb\xbf{"features": {"a": 1}}', "not_json"),
    Refused("a no-break space before it", b'\xc2\xa0{"features": {"a": 1}}', "not_json"),
    Refused("a form feed before it", b'\x0c{"features": {"a": 1}}', "not_json"),
    Refused("a record that is cut in half", b'{"id": "t-1", "features": {"a": 1', "not_json"),
    Refused("a record without its last brace", b'{"features": {"a": 1}', "not_json"),
    Refused("an opening brace", b"{", "not_json"),
    Refused("a closing brace", b"}", "not_json"),
    Refused("a name without a value", b'{"features"', "not_json"),
    Refused("a name and a colon", b'{"features":', "not_json"),
    Refused("a value without a name", b'{{"a": 1}}', "not_json"),
    Refused("names without quotes", b"{features: {a: 1}}", "not_json"),
    Refused("single quotes", b"{'features': {'a': 1}}", "not_json"),
    Refused("Python's words", b'{"features": {"a": True}}', "not_json"),
    Refused("Python's None", b'{"features": {"a": None}}', "not_json"),
    Refused("a comma after the last feature", b'{"features": {"a": 1,}}', "not_json"),
    Refused("a comma after the last field", b'{"features": {"a": 1},}', "not_json"),
    Refused("two commas", b'{"features": {"a": 1,, "b": 2}}', "not_json"),
    Refused("no comma", b'{"features": {"a": 1 "b": 2}}', "not_json"),
    Refused("a number as a name", b'{"features": {1: 2}}', "not_json"),
    Refused("a comment", b'{"features": {"a": 1} /* fine */}', "not_json"),
    Refused("a comment after it", b'{"features": {"a": 1}} // fine', "not_json"),
    Refused("two objects", b'{"features": {"a": 1}}{"features": {"a": 2}}', "not_json"),
    Refused("two lines", b'{"features": {"a": 1}}\n{"features": {"a": 2}}', "not_json"),
    Refused("text after it", b'{"features": {"a": 1}} and more', "not_json"),
    Refused("a NUL byte after it", b'{"features": {"a": 1}}\x00', "not_json"),
    Refused("a NUL byte before it", b'\x00{"features": {"a": 1}}', "not_json"),
    Refused("a NUL byte in a name", b'{"features": {"a\x00": 1}}', "not_json"),
    Refused("a record separator before it (RFC 7464)", b'\x1e{"features": {"a": 1}}\n', "not_json"),
    Refused("a schema registry's header", b'\x00\x00\x00\x00\x07{"features": {"a": 1}}', "not_json"),
    Refused("half a surrogate pair in a feature's name", b'{"features": {"\\ud800": 1}}', "not_json"),
    *_each(
        "a NUL byte in a string", b'"\x00"', "not_json", ["id", "a feature", "label", "an unknown field"], named=False
    ),
    *_each(
        "a line break in a string", b'"a\nb"', "not_json", ["id", "a feature", "label", "an unknown field"], named=False
    ),
    *_each("an unknown escape", b'"\\q"', "not_json", ["id", "a feature", "an unknown field"], named=False),
    *_each("a short escape", b'"\\u12"', "not_json", ["id", "a feature", "an unknown field"], named=False),
    *_each(
        "a string that does not end", b'"abc', "not_json", ["id", "a late feature", "an unknown field"], named=False
    ),
    *_each("a leading zero", b"01", "not_json", ["ts", "a feature", "label", "an unknown field"], named=False),
    *_each("a plus sign", b"+1", "not_json", ["ts", "a feature", "label"], named=False),
    *_each("a point without digits", b"1.", "not_json", ["a feature", "an unknown field"], named=False),
    *_each("digits without a zero", b".5", "not_json", ["a feature", "label"], named=False),
    *_each("an exponent without digits", b"1e", "not_json", ["a feature", "an unknown array"], named=False),
    *_each("a hexadecimal number", b"0x10", "not_json", ["a feature"], named=False),
    *_each("a number with underscores", b"1_000", "not_json", ["a feature"], named=False),
    *_each("a minus sign alone", b"-", "not_json", ["a feature", "an unknown object"], named=False),
    *_each("nothing at all", b"", "not_json", ["id", "ts", "features", "a feature", "label"], named=False),
    *_each("half a surrogate pair", b'"\\ud83d"', "not_json", ["a feature", "label", "an unknown field"]),
    *_each("the other half of a surrogate pair", b'"\\ude00"', "not_json", ["a late feature", "an unknown array"]),
    *_each("surrogates the wrong way round", b'"\\ude00\\ud83d"', "not_json", ["a feature"]),
    *_each("NaN", b"NaN", "not_json"),
    *_each("Infinity", b"Infinity", "not_json"),
    *_each("-Infinity", b"-Infinity", "not_json"),
    Refused("NaN alone", b"NaN", "not_json"),
    Refused("NaN, then Infinity", b'{"features": {"a": NaN, "b": Infinity}}', "not_json", "features.a"),
]

_TOO_DEEP = [
    Refused("100,000 opening brackets", b"[" * 100_000, "not_json"),
    Refused("50,000 objects in one another", b'{"a":' * 50_000, "not_json"),
    *_each("100,000 opening brackets", b"[" * 100_000, "not_json", named=False),
    *_each("50,000 arrays in one another", b"[" * 50_000 + b"]" * 50_000, "not_json", named=False),
    *_each(
        "40,000 objects in one another",
        b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
        "not_json",
        ["features", "a feature", "label", "an unknown field"],
        named=False,
    ),
]

_NOT_AN_OBJECT = [
    Refused("an array", b'[{"features": {"a": 1}}]', "not_object"),
    Refused("an empty array", b"[]", "not_object"),
    Refused("null", b"null", "not_object"),
    Refused("true", b"true", "not_object"),
    Refused("a number", b"42", "not_object"),
    Refused("a negative zero", b"-0.0", "not_object"),
    Refused("a number past the doubles", b"1e999", "not_object"),
    Refused("a string", b'"features"', "not_object"),
    Refused("an object in a string", b'"{\\"features\\": {}}"', "not_object"),
]

_MISSING = [
    Refused("an empty object", b"{}", "missing_field", "features"),
    Refused("features in capitals", b'{"Features": {"a": 1}}', "missing_field", "features"),
    Refused("features on the top level", b'{"id": "t-1", "a": 1, "label": true}', "missing_field", "features"),
    Refused("only a label", b'{"id": "t-1", "label": true}', "missing_field", "features"),
    Refused("features under a payload", b'{"payload": {"features": {"a": 1}}}', "missing_field", "features"),
]

_WRONG_TYPE = [
    *_each("null", b"null", "wrong_type", ["id", "ts", "features", "a feature", "a late feature"]),
    *_each("an array", b"[1, 2]", "wrong_type", ["id", "ts", "features", "a feature", "a late feature"]),
    *_each("an object", b'{"b": 1}', "wrong_type", ["id", "ts", "a feature", "a late feature"]),
    *_each("an empty array", b"[]", "wrong_type", ["a feature"]),
    *_each("an empty object", b"{}", "wrong_type", ["a feature"]),
    *_each("true", b"true", "wrong_type", ["ts", "features"]),
    *_each("a number", b"17", "wrong_type", ["features"]),
    *_each("a fraction", b"17.5", "wrong_type", ["features"]),
    *_each("a string", b'"17"', "wrong_type", ["features"]),
    *_each("a number past the doubles", b"1e999", "wrong_type", ["features"]),
    *_each("an integer past the doubles", b"9" * 400, "wrong_type", ["features"]),
    *_each("an integer of 5,000 digits", b"9" * 5_000, "wrong_type", ["features"]),
    *_each("an array of deep arrays", b"[" * 200 + b"]" * 200, "wrong_type", ["id", "ts", "features", "a feature"]),
    Refused("a null that a good one hides", b'{"features": {"b": 1, "a": null, "c": 2}}', "wrong_type", "features.a"),
    Refused("a nested feature named like a field", b'{"features": {"id": {"a": 1}}}', "wrong_type", "features.id"),
    Refused("features as an array of pairs", b'{"features": [["a", 1]]}', "wrong_type", "features"),
    Refused("features in a string", b'{"features": "{\\"a\\": 1}"}', "wrong_type", "features"),
    Refused("an id that is null and a feature too", b'{"id": null, "features": {"a": null}}', "wrong_type", "id"),
    Refused("an id that is wrong the second time", b'{"id": "t-1", "id": null, "features": {}}', "wrong_type", "id"),
    Refused("an id that is a number, and a null", b'{"id": 1, "features": {"a": null}}', "wrong_type", "features.a"),
    Refused("a feature that is wrong the first time", b'{"features": {"a": null, "a": 1}}', "wrong_type"),
    Refused(
        "a feature that is wrong the second time", b'{"features": {"a": 1, "a": null}}', "wrong_type", "features.a"
    ),
    Refused(
        "features that are wrong the second time", b'{"features": {"a": 1}, "features": 5}', "wrong_type", "features"
    ),
]

_LARGEST = int(1.7976931348623157e308)
_NOT_A_DOUBLE = [
    *_each("1e999", b"1e999", "not_finite", ["ts", "a feature", "a late feature", "label"]),
    *_each("-1e999", b"-1e999", "not_finite", ["ts", "a feature", "a late feature", "label"]),
    *_each("1E+400", b"1E+400", "not_finite", ["a feature", "label"]),
    *_each("just past the doubles", b"1.8e308", "not_finite", ["a feature", "label"]),
    *_each("309 digits and a fraction", b"9" * 309 + b".5", "not_finite", ["a feature", "label"]),
    *_each("309 digits", b"9" * 309, "out_of_range", ["ts", "a feature", "a late feature", "label"]),
    *_each("309 digits below zero", b"-" + b"9" * 309, "out_of_range", ["ts", "a feature", "label"]),
    *_each("5,000 digits", b"9" * 5_000, "out_of_range", ["ts", "a feature", "label"]),
    *_each("5,000 digits below zero", b"-" + b"9" * 5_000, "out_of_range", ["ts", "a feature", "label"]),
    *_each("twice the largest double", str(2 * _LARGEST).encode(), "out_of_range", ["a feature", "label"]),
    Refused("309 digits deep in a label", _in("label", b'{"a": [0, %s]}' % (b"9" * 309)), "out_of_range", "label.a[1]"),
    Refused("1e999 deep in a label", _in("label", b'{"a": [0, 1e999]}'), "not_finite", "label.a[1]"),
]

_WRONG_TIME = [
    *_each("an empty string", b'""', "bad_time", ["ts"]),
    *_each("a date", b'"2023-11-14T22:13:20Z"', "bad_time", ["ts"]),
    *_each("a number and a unit", b'"1700000000000 ms"', "bad_time", ["ts"]),
    Refused("a time below zero", _in("ts", b"-1"), "out_of_range", "ts", "validate"),
    Refused("a time far below zero", _in("ts", b"-99999999999999999999"), "out_of_range", "ts", "validate"),
    Refused("a time just below zero", _in("ts", b"-0.5"), "out_of_range", "ts", "validate"),
    Refused("a time below zero in a text", _in("ts", b'"-1"'), "out_of_range", "ts", "validate"),
    Refused("a time of 1e300", _in("ts", b"1e300"), "out_of_range", "ts", "validate"),
    Refused("a time of 2**63 in a text", _in("ts", b'"9223372036854775808"'), "out_of_range", "ts", "validate"),
    Refused("a time of 2**63", _in("ts", b"9223372036854775808"), "out_of_range", "ts", "validate"),
    Refused("a time of 2**64", _in("ts", b"18446744073709551616"), "out_of_range", "ts", "validate"),
    Refused("a time of 300 digits", _in("ts", b"9" * 300), "out_of_range", "ts", "validate"),
]


def _of_size(size: int) -> bytes:
    frame = b'{"features": {"a": "%s"}}'
    return frame % (b"x" * (size - len(frame) + 2))


_TOO_LARGE = [
    Refused("one byte over the limit", _of_size(VALUE_BYTES_MAX + 1), "too_large"),
    Refused("twice the limit", _of_size(2 * VALUE_BYTES_MAX), "too_large"),
    Refused("white space over the limit", b" " * (VALUE_BYTES_MAX + 1), "too_large"),
    Refused("garbage over the limit", b"\xff" * (VALUE_BYTES_MAX + 1), "too_large"),
    Refused(
        "a good record with white space over the limit", b'{"features": {}}'.ljust(VALUE_BYTES_MAX + 1), "too_large"
    ),
    Refused("100,000 objects in one another", b'{"a":' * 100_000, "too_large"),
    Refused("a number of 300,000 digits", _in("a feature", b"9" * 300_000), "too_large"),
]


def _label(name: str, value: bytes, *tasks: Task) -> Refused:
    return Refused(f"{name} as a label", _in("label", value), "bad_label", "label", "validate", tasks or TASKS)


_BAD_LABEL = [
    _label("null", b"null"),
    _label("an array", b"[true]"),
    _label("an object", b'{"label": true}'),
    _label("an empty object", b"{}"),
    _label("arrays 300 deep", b"[" * 300 + b"]" * 300),
    _label("the word true", b'"true"', "binary", "regression"),
    _label("an empty string", b'""', "binary", "regression"),
    _label("a word", b'"fraud"', "binary", "regression"),
    _label("a digit in a string", b'"1"', "binary", "regression"),
    _label("two", b"2", "binary"),
    _label("minus one", b"-1", "binary"),
    _label("a number near one", b"1.0000001", "binary"),
    _label("a half", b"0.5", "binary", "multiclass"),
    _label("an integer of 30 digits", b"1" + b"0" * 29, "binary"),
    _label("a half below zero", b"-0.5", "binary", "multiclass"),
    _label("the smallest double", b"5e-324", "binary", "multiclass"),
    _label("true", b"true", "regression"),
    _label("false", b"false", "regression"),
]

REFUSED: tuple[Refused, ...] = (
    *_EMPTY,
    *_NOT_UTF8,
    *_NOT_JSON,
    *_TOO_DEEP,
    *_NOT_AN_OBJECT,
    *_MISSING,
    *_WRONG_TYPE,
    *_NOT_A_DOUBLE,
    *_WRONG_TIME,
    *_TOO_LARGE,
    *_BAD_LABEL,
)

_UNKNOWN = ["an unknown field", "an unknown object", "an unknown array"]
_ODD_FIELDS = {
    "a number past the doubles": b"1e999",
    "400 digits": b"9" * 400,
    "5,000 digits": b"9" * 5_000,
    "null": b"null",
    "arrays 100 deep": b"[" * 100 + b"]" * 100,
}

TAKEN: tuple[Taken, ...] = (
    Taken("no features at all", b'{"features": {}}', {}),
    Taken("an empty id", b'{"id": "", "features": {"a": 1}}', {"a": 1}, id=""),
    Taken(
        "an id in Norwegian", '{"id": "blåbærsyltetøy", "features": {"a": 1}}'.encode(), {"a": 1}, id="blåbærsyltetøy"
    ),
    Taken("an id of one astral character", '{"id": "😀", "features": {"a": 1}}'.encode(), {"a": 1}, id="😀"),
    Taken("an id with escapes", b'{"id": "\\ud83d\\ude00\\u0000\\n", "features": {}}', {}, id="😀\x00\n"),
    Taken("an id of 10,000 characters", b'{"id": "%s", "features": {}}' % (b"i" * 10_000), {}, id="i" * 10_000),
    Taken("an escaped name of a field", b'{"featu\\u0072es": {"\\u0061": 1}}', {"a": 1}),
    Taken("a feature's name in Chinese", '{"features": {"金额": 12.5}}'.encode(), {"金额": 12.5}),
    Taken("an empty name", b'{"features": {"": 1}}', {"": 1}),
    Taken("a name of 50,000 characters", b'{"features": {"%s": 1}}' % (b"n" * 50_000), {"n" * 50_000: 1}),
    Taken(
        "features named like fields",
        b'{"features": {"id": 1, "ts": 2, "features": 3, "label": 4}}',
        {"id": 1, "ts": 2, "features": 3, "label": 4},
    ),
    Taken("features with dots and brackets", b'{"features": {"a.b": 1, "c[0]": 2}}', {"a.b": 1, "c[0]": 2}),
    Taken(
        "two thousand features",
        b'{"features": {%s}}' % b",".join(b'"f%d":1' % i for i in range(2_000)),
        {f"f{i}": 1 for i in range(2_000)},
    ),
    Taken(
        "every kind of feature",
        b'{"features": {"i": 1, "f": 2.5, "s": "NO", "b": true}}',
        {"i": 1, "f": 2.5, "s": "NO", "b": True},
    ),
    Taken("a minus zero", b'{"features": {"a": -0.0}}', {"a": -0.0}),
    Taken("a whole minus zero", b'{"features": {"a": -0}}', {"a": 0}),
    Taken("a number below the doubles", b'{"features": {"a": 1e-999}}', {"a": 0.0}),
    Taken("the smallest double", b'{"features": {"a": 5e-324}}', {"a": 5e-324}),
    Taken("the largest double", b'{"features": {"a": 1.7976931348623157e308}}', {"a": 1.7976931348623157e308}),
    Taken("a fraction of 400 digits", b'{"features": {"a": 0.%s}}' % (b"3" * 400), {"a": 1 / 3}),
    Taken("an integer of 64 bits", b'{"features": {"a": 18446744073709551615}}', {"a": 2**64 - 1}),
    Taken("an integer of 65 bits", b'{"features": {"a": 18446744073709551616}}', {"a": 2**64}),
    Taken("an exponent in capitals", b'{"features": {"a": 1E+2}}', {"a": 100.0}),
    Taken("a string of nothing", b'{"features": {"a": ""}}', {"a": ""}),
    Taken("a NUL that is escaped", b'{"features": {"a": "\\u0000"}}', {"a": "\x00"}),
    Taken("a delete character", b'{"features": {"a": "\x7f"}}', {"a": "\x7f"}),
    Taken("a string that looks like NaN", b'{"features": {"a": "NaN"}}', {"a": "NaN"}),
    Taken("a string of 400 digits", b'{"features": {"a": "%s"}}' % (b"9" * 400), {"a": "9" * 400}),
    Taken("an escaped slash", b'{"features": {"a": "\\/"}}', {"a": "/"}),
    Taken("a feature that stands twice", b'{"features": {"a": 1, "a": 2}}', {"a": 2}),
    Taken("features that stand twice", b'{"features": {"a": 1}, "features": {"b": 2}}', {"b": 2}),
    Taken("an id that stands twice", b'{"id": "x", "id": "y", "features": {}}', {}, id="y"),
    Taken("an id that is a number the first time", b'{"id": 1, "id": "y", "features": {}}', {}, id="y"),
    Taken("an id that is a number the second time", b'{"id": "x", "id": 1.0, "features": {}}', {}, id="1.0"),
    *(
        Taken(f"an id that is {text[:40].decode()}", _in("id", text), {"a": 1}, id=text.decode())
        for text in (
            *(b"true", b"false", b"17", b"0", b"-0", b"-0.0", b"17.50", b"1e5", b"9007199254740993"),
            *(b"12345678901234567890123", b"1e999", b"0.1000000000000000055511151231257827"),
            *(b"9" * 400, b"-" + b"9" * 5_000),
        )
    ),
    Taken("an id that is a number, in white space", b'{"id" :\t17\n, "features": {}}', {}, id="17"),
    Taken("white space all around", b' \t\r\n{ "features" : { "a" : 1 } } \n', {"a": 1}),
    Taken("the field at the end", b'{"z": 1, "features": {"a": 1}}', {"a": 1}),
    Taken("the first millisecond", b'{"ts": 0, "features": {}}', {}, ts=0),
    Taken("the last millisecond", b'{"ts": 9223372036854775807, "features": {}}', {}, ts=2**63 - 1),
    *(
        Taken(f"a time that is {text.decode()}", _in("ts", text), {"a": 1}, ts=ts)
        for text, ts in (
            (b"1700000000000.75", 1_700_000_000_000),
            (b"1700000000000.0", 1_700_000_000_000),
            (b"17e11", 1_700_000_000_000),
            (b"0.9999999999999999", 0),
            (b"-0.0", 0),
            (b'"1700000000000"', 1_700_000_000_000),
            (b'"1700000000000.75"', 1_700_000_000_000),
            (b'" 17e11\\n"', 1_700_000_000_000),
            (b'"9223372036854775807.9"', 2**63 - 1),
        )
    ),
    Taken("a time in a text, and an id that is a number", b'{"ts": "5", "id": 7, "features": {}}', {}, id="7", ts=5),
    Taken("a time that is a text the first time", b'{"ts": "x", "ts": 6.5, "features": {}}', {}, ts=6),
    Taken("a value as large as the limit", _of_size(VALUE_BYTES_MAX), {"a": _of_size(VALUE_BYTES_MAX)[20:-3].decode()}),
    *(
        Taken(f"{name} in {place}", _in(place, value), {"a": 1})
        for name, value in _ODD_FIELDS.items()
        for place in _UNKNOWN
    ),
    Taken("true as a label", _in("label", b"true"), {"a": 1}, label=True, tasks=("binary",)),
    Taken("false as a label", _in("label", b"false"), {"a": 1}, label=False, tasks=("binary",)),
    Taken("1 as a label", _in("label", b"1"), {"a": 1}, label=True, tasks=("binary",)),
    Taken("0 as a label", _in("label", b"0"), {"a": 1}, label=False, tasks=("binary",)),
    Taken("1.0 as a label", _in("label", b"1.0"), {"a": 1}, label=True, tasks=("binary",)),
    Taken("-0.0 as a label", _in("label", b"-0.0"), {"a": 1}, label=False, tasks=("binary",)),
    Taken("a word as a label", _in("label", b'"sky"'), {"a": 1}, label="sky", tasks=("multiclass",)),
    Taken("an empty word as a label", _in("label", b'""'), {"a": 1}, label="", tasks=("multiclass",)),
    Taken(
        "a word in Greek as a label",
        _in("label", '"ουρανός"'.encode()),
        {"a": 1},
        label="ουρανός",
        tasks=("multiclass",),
    ),
    Taken("0 as a label", _in("label", b"0"), {"a": 1}, label=0, tasks=("regression",)),
    Taken("a fraction as a label", _in("label", b"-2.5"), {"a": 1}, label=-2.5, tasks=("regression",)),
    Taken("a label below the doubles", _in("label", b"1e-999"), {"a": 1}, label=0.0, tasks=("regression",)),
)
