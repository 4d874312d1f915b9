"""Who mends it when partitions are nobody's, and when."""

from typing import Any

from headrace.pipeline.worker.liveness import UnownedPartitions


def notes(*assigned: list[int] | None) -> dict[int, dict[str, Any]]:
    """Make the notes of workers by what they were assigned; None is one that is no member of the group."""
    return {
        ordinal: {"assigned": partitions or [], "member": partitions is not None}
        for ordinal, partitions in enumerate(assigned)
    }


def look(
    vacancy: UnownedPartitions, told: dict[int, dict[str, Any]] | None, *, ordinal: int, from_s: int, to_s: int
) -> list[int]:
    """Look once a second; return what is found at the end, and nothing may be before."""
    for now_s in range(from_s, to_s):
        assert vacancy.mends(told, ordinal=ordinal, now_s=float(now_s)) == []
    return vacancy.mends(told, ordinal=ordinal, now_s=float(to_s))


def test_the_worker_with_the_fewest_partitions_restarts_for_a_partition_without_an_owner() -> None:
    for ordinal, mends in ((0, []), (1, [2, 3])):
        vacancy = UnownedPartitions(partitions=4, patience_s=10)
        assert look(vacancy, notes([0, 1], []), ordinal=ordinal, from_s=100, to_s=111) == mends
        assert look(vacancy, notes([0, 1], []), ordinal=ordinal, from_s=112, to_s=123) == mends, "it is given time"


def test_a_partition_that_somebody_had_meanwhile_is_waited_for_anew() -> None:
    vacancy = UnownedPartitions(partitions=2, patience_s=10)
    assert look(vacancy, notes([0], []), ordinal=1, from_s=0, to_s=6) == []
    assert look(vacancy, notes([0], [1]), ordinal=1, from_s=7, to_s=8) == []
    assert look(vacancy, notes([0], []), ordinal=1, from_s=9, to_s=20) == [1]


def test_time_in_which_nothing_is_known_does_not_count() -> None:
    vacancy = UnownedPartitions(partitions=2, patience_s=10)
    assert look(vacancy, notes([0], []), ordinal=1, from_s=0, to_s=8) == []
    assert vacancy.mends(None, ordinal=1, now_s=9.0) == []
    assert look(vacancy, notes([0], []), ordinal=1, from_s=10, to_s=18) == []
    # As long as the store is away, nobody looks.
    assert look(vacancy, notes([0], []), ordinal=1, from_s=60, to_s=71) == [1]


def test_a_worker_that_is_not_a_member_is_not_waited_for() -> None:
    vacancy = UnownedPartitions(partitions=2, patience_s=10)
    assert look(vacancy, notes([0], None), ordinal=0, from_s=0, to_s=11) == [1]
    assert look(vacancy, notes(None, None), ordinal=0, from_s=12, to_s=30) == []


def test_among_equal_workers_the_one_with_the_lowest_ordinal_restarts() -> None:
    for ordinal, mends in ((0, [2]), (1, [])):
        vacancy = UnownedPartitions(partitions=3, patience_s=1)
        assert look(vacancy, notes([0], [1]), ordinal=ordinal, from_s=0, to_s=2) == mends
    assert look(UnownedPartitions(partitions=3, patience_s=1), {}, ordinal=0, from_s=0, to_s=5) == []


def test_nothing_is_vacant_while_all_is_held() -> None:
    assert look(UnownedPartitions(partitions=2, patience_s=0), notes([0], [1]), ordinal=0, from_s=0, to_s=9) == []
