import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.pipeline.worker.breakers import (
    BACKOFF_MAX_S,
    BACKOFF_MIN_S,
    HOLD_S,
    Breaker,
    Dependency,
    FloodGuard,
    Gate,
)

# The registry alone does not shut the gate.
DEPENDENCIES = [name for name in get_args(Dependency) if name != "registry"]


def breaker() -> Breaker:
    return Breaker(random.Random(1))


def test_a_breaker_that_works_lets_every_call_through() -> None:
    b = breaker()
    assert not b.tripped
    assert b.may_try(0.0)
    assert b.reason == ""


def test_the_first_failure_trips_it_and_one_success_cures_it() -> None:
    b = breaker()
    b.fail(100.0, "the store does not answer")
    assert b.tripped
    assert (b.since, b.reason) == (100.0, "the store does not answer")
    assert not b.may_try(100.0)
    assert b.may_try(b.retry_at)
    b.succeed()
    assert not b.tripped
    assert b.may_try(0.0)
    assert b.reason == ""


def test_the_wait_grows_with_each_failure_in_a_row_and_is_bounded() -> None:
    for seed in range(50):
        b = Breaker(random.Random(seed))
        now = 0.0
        for count in range(1, 200):
            b.fail(now, "away")
            wait = b.retry_at - now
            ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2**count)
            assert ceiling / 2 <= wait <= ceiling
            assert b.since == 0.0, "it has been away since the first of them"
            now = b.retry_at


def test_workers_do_not_come_back_in_step() -> None:
    waits = set()
    for seed in range(20):
        b = Breaker(random.Random(seed))
        b.fail(0.0, "away")
        waits.add(b.retry_at)
    assert len(waits) > 15


def test_the_other_side_may_say_how_long_to_wait() -> None:
    b = breaker()
    b.fail(10.0, "429", after_s=120.0)
    assert not b.may_try(129.9)
    assert b.may_try(130.0)
    b.fail(130.0, "503", after_s=0.0)
    assert b.may_try(130.0)


def test_a_moment_of_trouble_does_not_pause_and_a_longer_one_does() -> None:
    gate = Gate(rng=random.Random(1))
    assert gate.open
    assert not gate.must_pause(0.0)
    gate.breakers["store"].fail(5.0, "the store does not answer")
    assert not gate.open
    assert gate.reason == "the store does not answer"
    assert not gate.must_pause(5.0 + HOLD_S - 0.001)
    assert gate.must_pause(5.0 + HOLD_S)
    gate.breakers["store"].succeed()
    assert gate.open
    assert gate.reason == ""
    assert not gate.must_pause(100.0)


def test_a_flood_shuts_the_gate_until_the_process_starts_again() -> None:
    gate = Gate(rng=random.Random(1))
    gate.hold_flood("flood of bad records")
    assert not gate.open
    assert gate.must_pause(1.0), "at once"
    gate.breakers["kafka"].fail(2.0, "Kafka does not answer")
    gate.breakers["kafka"].succeed()
    assert gate.reason == "flood of bad records"
    assert not gate.open


def test_a_registry_that_is_away_does_not_shut_the_gate() -> None:
    gate = Gate(rng=random.Random(1))
    gate.breakers["registry"].fail(0.0, "the registry does not answer")
    assert gate.open
    assert gate.reason == ""
    assert not gate.must_pause(100.0)


class GateMachine(RuleBasedStateMachine):
    """A gate with its breakers, beside the plainest model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(rng=random.Random(7))
        self.now = 0.0
        self.since: dict[str, float] = {}

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(DEPENDENCIES))
    def a_call_is_made(self, name: Dependency) -> None:
        if not self.gate.breakers[name].may_try(self.now):
            return
        self.gate.breakers[name].succeed()
        self.since.pop(name, None)

    @rule(name=st.sampled_from(DEPENDENCIES), after_s=st.none() | st.floats(0, 300))
    def a_call_fails(self, name: Dependency, after_s: float | None) -> None:
        self.gate.breakers[name].fail(self.now, f"{name} is away", after_s=after_s)
        self.since.setdefault(name, self.now)
        wait = self.gate.breakers[name].retry_at - self.now
        assert wait <= (BACKOFF_MAX_S if after_s is None else after_s) + 1e-9

    @invariant()
    def the_gate_is_open_exactly_while_all_work(self) -> None:
        assert self.gate.open == (not self.since)
        assert self.gate.reason in {f"{name} is away" for name in self.since} or not self.since
        assert bool(self.gate.reason) == bool(self.since)

    @invariant()
    def it_pauses_exactly_when_something_has_been_away_for_a_moment(self) -> None:
        assert self.gate.must_pause(self.now) == any(self.now - since >= HOLD_S for since in self.since.values())

    @invariant()
    def what_is_away_is_tried_again_within_a_bounded_time(self) -> None:
        for b in self.gate.breakers.values():
            assert b.may_try(b.retry_at)
            assert b.tripped or b.may_try(self.now)


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=25, stateful_step_count=30)


def guard(*, window: int = 100, ratio: float = 0.9) -> FloodGuard:
    return FloodGuard(window=window, ratio=ratio)


def test_nearly_everything_bad_is_a_flood() -> None:
    assert guard().flooded(good=10, bad=90)
    assert not guard().flooded(good=11, bad=89)
    assert guard().flooded(good=0, bad=5_000)


def test_bad_records_among_many_good_ones_are_no_flood() -> None:
    g = guard()
    assert not any(g.flooded(good=50, bad=50) for _ in range(100))
    assert not g.flooded(good=0, bad=10), "a burst is not a flood"


def test_too_few_records_say_nothing() -> None:
    g = guard()
    assert not any(g.flooded(good=0, bad=1) for _ in range(99))
    assert g.flooded(good=0, bad=1), "until the window is full"


def test_a_batch_of_nothing_says_nothing() -> None:
    """Control records and the ends of partitions make batches without records."""
    g = guard()
    assert not g.flooded(good=0, bad=0)
    assert not g.flooded(good=1, bad=1)
    assert not g.flooded(good=0, bad=0)
    assert guard(window=10).flooded(good=0, bad=10)


def test_a_flood_ends_when_good_records_come() -> None:
    g = guard()
    assert g.flooded(good=0, bad=100)
    assert not g.flooded(good=50, bad=0)


def test_few_bad_records_in_a_large_batch_do_not_fill_the_window() -> None:
    g = guard(window=500)
    assert not g.flooded(good=9_999, bad=1)
    assert not g.flooded(good=0, bad=440)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700)), max_size=30),
    st.integers(10, 600),
    st.floats(0.05, 1.0),
)
def test_the_guard_agrees_with_a_count_of_the_last_records(
    batches: list[tuple[int, int]], window: int, ratio: float
) -> None:
    """The reference is of batches that follow one another: the last `window` verdicts, shares within a batch."""
    g = guard(window=window, ratio=ratio)
    verdicts: list[float] = []
    for good, bad in batches:
        tripped = g.flooded(good=good, bad=bad)
        share = bad / (good + bad) if good + bad else 0.0
        verdicts += [share] * (good + bad)
        recent = verdicts[-window:]
        if len(recent) == window and share in {0.0, 1.0} and good + bad >= window:
            assert tripped == (share >= ratio), "a whole window of one kind decides alone"
        if good + bad >= 2 * window and abs(share - ratio) > 1 / window:
            assert tripped == (share > ratio)
        if tripped:
            assert len(verdicts) >= window, "never before the window was full"


@pytest.mark.parametrize("seed", range(5))
def test_single_records_are_counted_exactly(seed: int) -> None:
    rng = random.Random(seed)
    g = guard(window=20, ratio=0.75)
    verdicts = [rng.random() < 0.7 for _ in range(400)]
    for index, bad in enumerate(verdicts):
        last = verdicts[max(0, index - 19) : index + 1]
        # Good records that come before the first bad one are not kept: they only delay the alarm.
        first_bad = verdicts.index(True)
        full = index - first_bad >= 19
        expected = full and sum(last) >= 15
        assert g.flooded(good=int(not bad), bad=int(bad)) == expected
