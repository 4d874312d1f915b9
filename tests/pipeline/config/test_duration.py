import pytest

from headrace.pipeline.config.duration import duration_s, interval_of, records_of
from headrace.pipeline.config.sections import MixConfig


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("1s", 1.0), ("1.5 m", 90.0), ("24h", 86_400.0), (3, 3)],
)
def test_durations_are_read_in_seconds(written: object, seconds: float) -> None:
    assert duration_s(written) == seconds


@pytest.mark.parametrize("written", ["", "1", "s", "1 week", "-1s", "1s1"])
def test_a_value_that_is_not_a_duration_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(ValueError, match="24h"):
        duration_s(written)


def test_an_interval_is_a_time_or_a_number_of_records() -> None:
    assert (interval_of("1s"), interval_of(2), interval_of("400 records"), interval_of("1 record")) == (
        1.0,
        2,
        "400 records",
        "1 record",
    )
    assert (records_of("400 records"), records_of("1s"), records_of(3)) == (400, None, None)
    assert (MixConfig(interval="400 records").records, MixConfig(interval="400 records").seconds) == (400, 1.0)
    assert (MixConfig(interval="2s").records, MixConfig(interval="2s").seconds) == (None, 2.0)


@pytest.mark.parametrize("written", ["0 records", "-1 records", "many records", 0, -1, True, float("inf"), None])
def test_a_value_that_is_not_an_interval_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"records|24h"):
        interval_of(written)
