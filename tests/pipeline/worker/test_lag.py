from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.pipeline.worker.lag import Lag, LagClock, LagWatch


def test_the_oldest_record_waits_since_the_log_was_seen_to_reach_beyond_the_committed_offset() -> None:
    clock = LagClock()
    clock.see(10, 100.0)
    clock.see(15, 103.0)
    clock.see(15, 104.0)
    clock.see(20, 106.0)
    assert clock.lag(10, 107.0) == Lag(10, 4.0)
    assert clock.lag(14, 108.0) == Lag(6, 5.0)
    assert clock.lag(15, 108.0) == Lag(5, 2.0)
    assert clock.lag(20, 109.0) == Lag(0, 0.0)
    clock.see(21, 200.0)
    assert clock.lag(20, 200.5) == Lag(1, 0.5)


def test_an_end_that_was_seen_late_or_again_does_not_shorten_the_lag() -> None:
    clock = LagClock()
    clock.see(10, 1.0)
    clock.see(9, 2.0)
    clock.see(10, 3.0)
    assert clock.lag(0, 5.0) == Lag(10, 4.0)


@pytest.mark.parametrize("ends", [2_000, 2_001, 100_000])
def test_a_lag_of_hours_takes_little_memory_and_is_never_told_shorter_than_it_is(ends: int) -> None:
    clock = LagClock()
    for second in range(ends):
        clock.see(10 * (second + 1), float(second))
    assert clock.lag(0, float(ends)) == Lag(10 * ends, float(ends))
    for committed in range(0, 10 * ends, 997):
        records, seconds = clock.lag(committed, float(ends))
        assert records == 10 * ends - committed
        assert seconds >= ends - committed // 10
    assert clock.lag(10 * ends, float(ends)) == Lag(0, 0.0)


def test_a_partition_has_the_lag_of_each_log_that_was_seen() -> None:
    now = 0.0
    shard = SimpleNamespace(committed=5, labels_committed=2)
    watch = LagWatch(cast("Any", {3: shard}), clock=lambda: now)
    assert watch.lags(3) == {}
    watch.see((False, 3), 9)
    now = 2.0
    assert watch.lags(3) == {"features": Lag(4, 2.0)}
    watch.see((True, 3), 2)
    assert watch.lags(3) == {"features": Lag(4, 2.0), "labels": Lag(0, 0.0)}
    watch.forget(3)
    assert watch.lags(3) == {}
