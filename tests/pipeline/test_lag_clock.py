"""How old the oldest record is that is still to be handled."""

from headrace.pipeline.lag_clock import LagAge, LagClock


def clock(*looks: tuple[int, int]) -> LagClock:
    made = LagClock()
    for at_ms, end in looks:
        made.look(at_ms, end)
    return made


def test_a_log_that_is_handled_to_its_end_is_not_behind() -> None:
    assert clock((0, 10), (1_000, 12)).age(12) == LagAge(0.0)
    assert clock().age(0) == LagAge(0.0)


def test_a_record_is_as_old_as_the_look_at_which_the_log_had_grown_past_it() -> None:
    looks = clock((0, 10), (1_000, 10), (2_000, 15), (3_000, 15), (7_000, 20))
    assert looks.age(10) == LagAge(5.0)
    assert looks.age(14) == LagAge(5.0)
    assert looks.age(15) == LagAge(0.0)
    assert looks.age(19) == LagAge(0.0)


def test_a_record_that_was_there_at_the_first_look_is_older_than_that() -> None:
    assert clock((0, 10), (4_000, 12)).age(3) == LagAge(4.0, is_least=True)


def test_a_log_that_has_begun_anew_is_looked_at_anew() -> None:
    assert clock((0, 1_000), (1_000, 5), (2_000, 6)).age(5) == LagAge(0.0)
    assert clock((0, 1_000), (1_000, 5), (2_000, 6)).age(4) == LagAge(1.0, is_least=True)
