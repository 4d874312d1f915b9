from typing import Any

import pytest

from headrace.consumers.record import Label, LabelDecoder, LabelRecord
from headrace.consumers.refusal import Refusal


def decode(value: bytes | None, *, value_bytes_max: int = 1_000) -> Any:
    return LabelDecoder(value_bytes_max=value_bytes_max).decode(LabelRecord(3, 7, 1, b"k", value, None))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (b'{"id": "t-1", "label": true}', Label("t-1", True)),
        (b'{"label": -1.5, "id": "", "ts": 0}', Label("", -1.5, 0)),
        ('{"id": "Ørsted", "label": "ja", "more": [1]}'.encode(), Label("Ørsted", "ja")),
        (b'{"id": "t-1", "label": null}', Label("t-1", None)),
        (b'{"id": 7, "label": true}', Label("7", True)),
        (b'{"label": 1, "ts": 5, "id": 12345678901234567890123}', Label("12345678901234567890123", 1, 5)),
        (b'{"id": false, "label": "a"}', Label("false", "a")),
        (b'{"id": "a", "label": 1, "ts": 5.75}', Label("a", 1, 5)),
        (b'{"id": 7, "label": 1, "ts": "1700000000000.75"}', Label("7", 1, 1_700_000_000_000)),
        (b'{"id": ' + b"9" * 400 + b', "label": true}', Label("9" * 400, True)),
    ],
)
def test_a_label_is_read(value: bytes, label: Label) -> None:
    assert decode(value) == label


def test_an_id_that_is_a_number_is_its_text_to_the_last_digit() -> None:
    assert decode(b'{"id": 1.50, "label": "a"}') == Label("1.50", "a")


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (None, "no_value", ""),
        (b"  ", "no_value", ""),
        (b"\xff", "not_utf8", ""),
        (b"{", "not_json", ""),
        (b'{"id": "a", "label": NaN}', "not_json", "label"),
        (b'["a", true]', "not_object", ""),
        (b'{"label": true}', "missing_field", "id"),
        (b'{"id": "a"}', "missing_field", "label"),
        (b'{"id": [7], "label": true}', "wrong_type", "id"),
        (b'{"id": 7, "label": 1e999}', "not_finite", "label"),
        (b'{"id": 7, "label": true, "ts": -1}', "out_of_range", "ts"),
        (b'{"id": null, "label": true}', "wrong_type", "id"),
        (b'{"id": "a", "label": true, "ts": "now"}', "bad_time", "ts"),
        (b'{"id": "a", "label": true, "ts": -1}', "out_of_range", "ts"),
        (b'{"id": "a", "label": 1e999}', "not_finite", "label"),
        (b'{"id": "a", "label": ' + b"9" * 400 + b"}", "out_of_range", "label"),
        (b'{"id": "' + b"a" * 1_000 + b'", "label": true}', "too_large", ""),
    ],
)
def test_an_invalid_label_is_refused_with_its_reason(value: bytes | None, code: str, field: str) -> None:
    refusal = decode(value)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field) == (code, field), refusal
    assert refusal.message
