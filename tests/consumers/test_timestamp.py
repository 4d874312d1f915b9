from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.consumers.timestamp import UNITS, read_time

MS = 1_700_000_000_123


@pytest.mark.parametrize(
    ("found", "unit", "ms"),
    [
        (MS, "ms", MS),
        (1_700_000_000, "s", 1_700_000_000_000),
        (1_700_000_000.123, "s", MS),
        (MS + 0.9, "ms", MS),
        (MS * 1_000 + 999, "us", MS),
        (MS * 1_000_000 + 999_999, "ns", MS),
        (0, "s", 0),
        (-0.0, "s", 0),
        ("1700000000.1239999", "s", MS),
        (" 1700000000123 ", "ms", MS),
        ("1.700000000123e12", "ms", MS),
        ("0." + "9" * 200, "s", 999),
        (-1, "us", -1),
        ("1e400", "s", 2**63),
        ("9" * 200_000, "ns", 2**63),
    ],
)
def test_a_number_is_read_in_its_unit_and_cut_to_milliseconds(found: Any, unit: Any, ms: int) -> None:
    assert read_time(found, unit) == ms


def test_a_whole_number_of_any_size_is_too_large_and_no_error() -> None:
    assert read_time(10**5_000, "ms") == 2**63
    assert read_time(-(10**5_000), "ms") == -1


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2023-11-14T22:13:20.123Z", MS),
        ("2023-11-14t22:13:20.123z", MS),
        ("2023-11-14 22:13:20.123999999Z", MS),
        ("2023-11-14T23:13:20.123+01:00", MS),
        ("2023-11-14T18:43:20.123-03:30", MS),
        ("2023-11-14T22:13:20.1Z", MS - 23),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("1969-12-31T23:59:59Z", -1_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
    ],
)
def test_rfc_3339_is_read_with_its_zone_and_any_fraction(text: str, ms: int) -> None:
    assert read_time(text, "iso") == ms


@pytest.mark.parametrize(
    ("found", "unit"),
    [
        ("", "ms"),
        ("soon", "ms"),
        ("0x10", "s"),
        ("1_000", "s"),
        ("NaN", "s"),
        ("Infinity", "s"),
        ("١٢", "s"),
        ("1e99999", "s"),
        ("2023-11-14T22:13:20Z", "ms"),
        (float("nan"), "s"),
        (float("inf"), "s"),
        (1_700_000_000, "iso"),
        ("1700000000", "iso"),
        ("2023-11-14T22:13:20", "iso"),
        ("2023-11-14", "iso"),
        ("2023-02-29T00:00:00Z", "iso"),
        ("2023-11-14T24:00:00Z", "iso"),
        ("2023-11-14T22:13:20+25:00", "iso"),
        ("2023-11-14T22:13:20.Z", "iso"),
        ("0000-01-01T00:00:00Z", "iso"),
        (" 2023-11-14T22:13:20Z", "iso"),
    ],
)
def test_a_value_that_is_no_time_in_the_unit_has_no_time(found: Any, unit: Any) -> None:
    assert read_time(found, unit) is None


@given(st.integers() | st.floats() | st.text(), st.sampled_from(sorted(UNITS)))
def test_any_number_or_text_gives_a_whole_number_or_nothing(found: Any, unit: Any) -> None:
    assert type(read_time(found, unit)) in {int, type(None)}
