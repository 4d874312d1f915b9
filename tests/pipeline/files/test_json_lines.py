"""JSON lines: each one as it stands, and the key that an option names."""

import io

from headrace.pipeline.files.json_lines import json_lines


def test_each_line_that_is_not_empty_is_a_record_byte_for_byte() -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n\n  broken \xff\r\n\r\nlast'
    assert [row.value for row in json_lines(io.BytesIO(content), key=None)] == [b'{"a": 1}', b"  broken \xff", b"last"]


def test_the_key_of_a_line_is_its_feature_or_else_its_field_as_text() -> None:
    given_keys = {
        b'{"features": {"k": "a"}, "k": "b"}': b"a",
        b'{"features": {}, "k": "b"}': b"b",
        b'{"k": 12}': b"12",
        b'{"k": 1.5}': b"1.5",
        b'{"k": true}': b"true",
        b'{"k": null}': None,
        b'{"k": {"x": 1}}': None,
        b"[1]": None,
        b"broken \xff": None,
        b"[" * 10_000: None,
    }
    found = list(json_lines(io.BytesIO(b"\n".join(given_keys)), key="k"))
    assert {row.value: row.key for row in found} == given_keys


def test_the_key_is_looked_for_where_the_features_are() -> None:
    line = b'{"payload": {"after": {"who": {"id": 7}, "a.b": "x"}}, "top": 1}'
    for key, wanted in (("who.id", b"7"), ("a.b", b"x"), ("top", b"1"), ("who", None), ("none", None)):
        [row] = json_lines(io.BytesIO(line), key=key, features="payload.after")
        assert row.key == wanted
