"""What filters mean, and that a dead letter can be printed whatever it holds."""

import pytest

from headrace.consumers.record import Record
from headrace.pipeline.dlq.dead_letters import (
    DeadLetterError,
    DeadLetterRecord,
    Selection,
    envelope,
    position_of,
    printable,
    since_ms,
)

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1h", NOW_MS - HOUR_MS),
        ("250ms", NOW_MS - 250),
        ("2026-01-31", 1_769_817_600_000),
        ("2026-01-31T12:00", 1_769_860_800_000),
        ("2026-01-31T12:00:00+02:00", 1_769_853_600_000),
        ("2026-01-31 12:00:00Z", 1_769_860_800_000),
        (None, None),
    ],
)
def test_since_is_a_duration_or_a_date_in_utc(text: str | None, wanted: int | None) -> None:
    assert since_ms(text, now_ms=NOW_MS) == wanted


@pytest.mark.parametrize("text", ["", "yesterday", "-1h", "1", "2026-02-30"])
def test_text_that_is_not_a_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DeadLetterError) as raised:
        since_ms(text, now_ms=NOW_MS)
    assert "1h" in raised.value.hint


def test_a_selection_takes_dead_letters_by_code_and_time() -> None:
    assert Selection().takes("a", 0, at=(0, 7))
    assert not Selection(code="b").takes("a", 0, at=(0, 7))
    assert Selection(since_ms=5).takes("a", 5, at=(0, 7))
    assert not Selection(since_ms=5).takes("a", 4, at=(0, 7))
    assert Selection(places=frozenset({(0, 7)})).takes("a", 0, at=(0, 7))
    assert not Selection(places=frozenset({(1, 7)})).takes("a", 0, at=(0, 7))


def test_a_position_is_two_numbers() -> None:
    assert position_of("1:39") == (1, 39)
    for text in ("", "1", "1:", ":1", "1:-2", "a:b", "1:2:3"):
        with pytest.raises(DeadLetterError):
            position_of(text)


def test_control_characters_are_escaped() -> None:
    assert printable("nø\x1b[31m\r\x07\x9b\nnext") == r"nø\x1b[31m\r\x07\x9b" + "\nnext"


def test_an_envelope_holds_bytes_as_text_or_in_base64_and_headers_that_stand_twice() -> None:
    headers = [("a", b"1"), ("a", None), ("b", b"\xff"), ("dlq.status", b"400")]
    whole = envelope("dlq.features", Record(1, 39, NOW_MS, b"\xfe", None, headers))
    assert whole["key_base64"] == "/g=="
    assert "key" not in whole
    assert whole["value"] is None
    assert whole["headers"] == {"a": ["1", None], "b": "\\xff", "dlq.status": "400"}
    assert (whole["code"], whole["replay_count"]) == ("unknown", 0)
    assert whole["source"] == {"topic": "", "partition": -1, "offset": -1}


def test_a_dead_letter_without_a_status_is_a_400() -> None:
    for value, status in ((b"422", 422), (b"", 400), (None, 400), (b"x", 400)):
        assert DeadLetterRecord.of(Record(0, 0, 0, None, None, [("dlq.status", value)])).status == status
    assert DeadLetterRecord.of(Record(0, 0, 0, None, None, None)).status == 400
