"""Who mends it when partitions are nobody's, and when."""

from pipeline.vacancy import Vacancy


def notes(*assigned: list[int]) -> dict[int, dict[str, list[int]]]:
    return {ordinal: {"assigned": partitions} for ordinal, partitions in enumerate(assigned)}


def test_what_is_vacant_for_too_long_is_mended_by_the_worker_that_has_the_least() -> None:
    for ordinal, mends in ((0, []), (1, [2, 3])):
        vacancy = Vacancy(partitions=4, patience_s=10)
        assert vacancy.mends(notes([0, 1], []), ordinal=ordinal, now_s=100.0) == []
        assert vacancy.mends(notes([0, 1], []), ordinal=ordinal, now_s=110.0) == []
        assert vacancy.mends(notes([0, 1], []), ordinal=ordinal, now_s=110.5) == mends
        assert vacancy.mends(notes([0, 1], []), ordinal=ordinal, now_s=111.0) == [], "it is given time"
        assert vacancy.mends(notes([0, 1], []), ordinal=ordinal, now_s=121.5) == mends


def test_a_partition_that_somebody_had_meanwhile_is_waited_for_anew() -> None:
    vacancy = Vacancy(partitions=2, patience_s=10)
    assert vacancy.mends(notes([0], []), ordinal=1, now_s=0.0) == []
    assert vacancy.mends(notes([0], [1]), ordinal=1, now_s=6.0) == []
    assert vacancy.mends(notes([0], []), ordinal=1, now_s=11.0) == []
    assert vacancy.mends(notes([0], []), ordinal=1, now_s=22.0) == [1]


def test_time_in_which_nothing_is_known_does_not_count() -> None:
    vacancy = Vacancy(partitions=2, patience_s=10)
    assert vacancy.mends(notes([0], []), ordinal=1, now_s=0.0) == []
    assert vacancy.mends(None, ordinal=1, now_s=9.0) == []
    assert vacancy.mends(notes([0], []), ordinal=1, now_s=11.0) == []
    assert vacancy.mends(notes([0], []), ordinal=1, now_s=21.5) == [1]


def test_among_equals_the_lowest_ordinal_mends_and_nobody_does_where_nobody_is() -> None:
    for ordinal, mends in ((0, [2]), (1, [])):
        vacancy = Vacancy(partitions=3, patience_s=1)
        assert vacancy.mends(notes([0], [1]), ordinal=ordinal, now_s=0.0) == []
        assert vacancy.mends(notes([0], [1]), ordinal=ordinal, now_s=2.0) == mends
    vacancy = Vacancy(partitions=3, patience_s=1)
    assert vacancy.mends({}, ordinal=0, now_s=0.0) == []
    assert vacancy.mends({}, ordinal=0, now_s=2.0) == []


def test_nothing_is_vacant_while_all_is_held() -> None:
    vacancy = Vacancy(partitions=2, patience_s=0)
    assert all(vacancy.mends(notes([0], [1]), ordinal=0, now_s=now_s) == [] for now_s in (0.0, 1.0, 100.0))
