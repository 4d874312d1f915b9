"""The breaker of the reads of keys' models."""

from headrace.pipeline.serve.models.breaker import AT_ONCE_MAX, CallBreaker


def test_a_quarter_of_failures_opens_it_and_one_success_closes_it() -> None:
    breaker = CallBreaker()
    for number in range(8):
        assert breaker.begin(0.0)
        breaker.end(0.0, failed=number in {3, 7})
    assert not breaker.begin(0.5)
    # One try a second; the others wait for its outcome.
    assert breaker.begin(1.5)
    assert not breaker.begin(1.6)
    breaker.end(1.7, failed=True)
    assert not breaker.begin(2.0)
    assert breaker.begin(3.0)
    breaker.end(3.1, failed=False)
    assert breaker.begin(3.2)


def test_few_failures_and_old_ones_keep_it_closed() -> None:
    breaker = CallBreaker()
    for number in range(7):
        assert breaker.begin(float(number))
        breaker.end(float(number), failed=True)
    for number in range(20, 60):
        assert breaker.begin(float(number))
        breaker.end(float(number), failed=number % 10 == 0)
    assert not breaker.is_open


def test_only_so_many_calls_are_under_way() -> None:
    breaker = CallBreaker()
    assert all(breaker.begin(0.0) for _ in range(AT_ONCE_MAX))
    assert not breaker.begin(0.0)
    breaker.end(0.0, failed=False)
    assert breaker.begin(0.0)
