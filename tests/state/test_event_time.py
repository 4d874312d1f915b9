"""Stream time: what one record can do to it, and what many can."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.state.event_time import EventClock, StrayTime, StrayTimes, Times

HOUR = 3_600_000
DAY = 24 * HOUR
NOW = 1_700_000_000_000


def test_a_record_a_day_ahead_moves_nothing_and_is_told() -> None:
    clock = EventClock(DAY)
    assert clock.tick(NOW, NOW)
    assert not clock.tick(NOW + DAY + HOUR, NOW + 5)
    assert clock.now_ms == NOW
    assert clock.tick(NOW + 10, NOW + 10)
    assert clock.now_ms == NOW + 10


def test_nor_does_one_whose_fast_clock_set_kafkas_timestamp_as_well() -> None:
    clock = EventClock(DAY)
    for step in range(100):
        ahead = 30 * DAY if step % 3 == 1 else 0
        assert clock.tick(NOW + step + ahead, NOW + step + ahead) == (not ahead)
        assert clock.now_ms <= NOW + step


def test_where_the_very_first_record_is_wrong_the_second_puts_it_right() -> None:
    clock = EventClock(DAY)
    clock.tick(NOW + 30 * DAY, NOW + 30 * DAY)
    clock.tick(NOW, NOW)
    assert clock.now_ms == NOW


@pytest.mark.parametrize("logged", [True, False])
def test_after_a_pause_time_has_caught_up_with_the_eighth_record(*, logged: bool) -> None:
    clock = EventClock(DAY)
    for step in range(40):
        clock.tick(NOW + step, NOW + step if logged else -1)
    for step in range(8):
        at_ms = NOW + 3 * DAY + step
        assert clock.tick(at_ms, at_ms if logged else -1) == (step == 7)
    assert clock.now_ms == NOW + 3 * DAY + 7


def test_old_events_in_a_log_of_today_pass_one_by_one() -> None:
    clock = EventClock(HOUR)
    for day in range(30):
        assert clock.tick(day * DAY, NOW)
        assert clock.now_ms == day * DAY


def test_a_record_is_believed_that_lies_ahead_by_a_quarter_of_the_wait_or_a_minute() -> None:
    for span_ms, lead_ms in ((DAY, 6 * HOUR), (1_000, 60_000)):
        clock = EventClock(span_ms)
        for _ in range(3):
            clock.tick(NOW, NOW)
        assert not clock.tick(NOW + lead_ms + 1, NOW)
        assert clock.tick(NOW + lead_ms, NOW)
        assert clock.now_ms == NOW + lead_ms


def test_a_fast_clock_does_not_creep() -> None:
    clock = EventClock(DAY)
    for step in range(1_000):
        clock.tick(NOW + step, NOW + step)
        clock.tick(NOW + step, NOW + step)
        clock.tick(clock.now_ms + 6 * HOUR, NOW + step)
        assert clock.now_ms <= NOW + step + 6 * HOUR


@pytest.mark.parametrize("at_ms", [2**63 - 1, NOW * 1_000, NOW + 11 * 365 * DAY])
def test_an_impossible_time_moves_nothing(at_ms: int) -> None:
    clock = EventClock(DAY)
    clock.tick(NOW, NOW)
    for _ in range(20):
        assert not clock.tick(at_ms, NOW)
    assert clock.now_ms == NOW


@pytest.mark.parametrize("logged_ms", [-1, 0])
def test_without_kafkas_timestamps_the_events_tell_among_themselves(logged_ms: int) -> None:
    clock = EventClock(DAY)
    for at_ms in (0, 5, 2**63 - 1, 7):
        clock.tick(at_ms, logged_ms)
    assert clock.now_ms == 7


def test_a_record_without_an_event_time_passes_no_time() -> None:
    clock = EventClock(DAY)
    assert clock.tick(None, NOW)
    assert clock.now_ms == -1
    clock.tick(5, NOW)
    clock.tick(None, NOW)
    assert clock.now_ms == 5


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(0, 2**32))
def test_a_clock_that_was_saved_anywhere_goes_on_as_if_it_had_not_been(saved: int, seed: int) -> None:
    rng = random.Random(seed)
    whole, resumed = EventClock(HOUR), EventClock(HOUR)
    for step in range(90):
        at_ms = NOW + step * 1_000 + rng.choice([0, -HOUR, DAY])
        logged_ms = rng.choice([-1, NOW + step * 1_000])
        if step == saved:
            times, resumed = resumed.times(), EventClock(HOUR)
            resumed.resume(times)
        assert whole.tick(at_ms, logged_ms) == resumed.tick(at_ms, logged_ms)
        assert whole.now_ms == resumed.now_ms
        fork = whole.fork()
        fork.tick(NOW + 99 * DAY, -1)
        assert (fork.times() == whole.times()) is False
    assert len(whole.times().events) == 15


def test_a_clock_of_no_times_is_new() -> None:
    clock = EventClock(HOUR)
    clock.resume(Times())
    assert (clock.now_ms, clock.accepts(2**62)) == (-1, True)


def test_strays_are_counted_and_the_first_is_named_once() -> None:
    strays = StrayTimes()
    assert strays.drain() == (0, None)
    strays.note(StrayTime(7, 1))
    strays.note(StrayTime(8, 2))
    assert strays.drain() == (2, StrayTime(7, 1))
    assert strays.drain() == (0, None)
