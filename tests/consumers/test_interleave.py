from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.consumers.interleave import Interleave, Log, LogOffsets, Slice
from headrace.consumers.record import LabelRecord, Record


def _record(log: Log, offset: int, timestamp_ms: int) -> Record:
    kind = LabelRecord if log else Record
    return kind(0, offset, timestamp_ms, None, b"{}", None)


def _log(log: Log, times: Sequence[int], start: int = 0) -> list[Record]:
    return [_record(log, start + index, at_ms) for index, at_ms in enumerate(times)]


def _interleave(
    place: LogOffsets = (0, 0), *, committed: LogOffsets | None = None, steps: Sequence[LogOffsets] | None = None
) -> Interleave:
    return Interleave(place, committed=committed or place, steps=steps)


def _take(
    interleave: Interleave, *, now_s: float = 0.0, ends: LogOffsets = (-1, -1), records_max: int = 1_000
) -> Slice | None:
    """Take with the ends of both logs known: -1 for a log of which nobody knows whether it goes on."""
    return interleave.next_slice(now_s, records_max=records_max, is_at_end=lambda log, offset: 0 <= ends[log] <= offset)


def _shown(taken: Slice | None) -> list[tuple[int, int]] | None:
    return None if taken is None else [(int(type(r) is LabelRecord), r.offset) for r in taken.records]


def test_records_of_both_logs_go_by_their_timestamps_labels_first() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1, 3, 5]), None)
    interleave.add(1, _log(1, [2, 3, 9]), None)
    taken = _take(interleave, ends=(3, 3))
    assert _shown(taken) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]
    assert taken is not None
    assert (taken.end, taken.silent, taken.recorded) == ((3, 3), False, False)


def test_one_record_from_a_fast_clock_holds_up_nothing_behind_it() -> None:
    for fast in (0, 1):
        interleave = _interleave()
        times = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]
        times[fast][1] = 10**9
        interleave.add(0, _log(0, times[0]), None)
        interleave.add(1, _log(1, times[1]), None)
        taken = _shown(_take(interleave))
        assert taken is not None
        assert len(taken) == 12, "the other's last tells that there is nothing older"
        at = [taken.index((log, offset)) for offset in range(2, 6) for log in (1, 0)]
        assert at == sorted(at), "those behind it come at their own time"


def test_a_log_waits_for_the_other_as_long_as_that_may_have_something_older() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1, 3, 5]), None)
    assert _take(interleave) is None
    interleave.add(1, _log(1, [2, 4]), None)
    assert _shown(_take(interleave)) == [(0, 0), (1, 0), (0, 1), (1, 1)], "what is newer than the labels' last waits"
    assert _take(interleave) is None
    assert _shown(_take(interleave, ends=(-1, 2))) == [(0, 2)], "the labels end there"


def test_a_log_waits_for_a_silent_one_half_a_second_and_no_longer() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1, 3]), None)
    looks = [_take(interleave, now_s=10.0 + 0.04 * look) for look in range(20)]
    assert looks.index(next(filter(None, looks))) == 13, "half a second later"
    assert _shown(looks[13]) == [(0, 0), (0, 1)]
    interleave.add(0, _log(0, [7], start=2), None)
    assert _take(interleave, now_s=10.7) is None, "the next wait is one of its own"


def test_time_that_passes_between_two_looks_is_no_silence_of_a_log() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1]), None)
    assert _take(interleave, now_s=10.0) is None
    assert _take(interleave, now_s=99.0) is None, "other partitions were learned meanwhile"
    interleave.add(1, _log(1, [0]), 1)
    assert _shown(_take(interleave, now_s=99.0, ends=(1, 1))) == [(1, 0), (0, 0)]


def test_the_end_of_a_log_is_passed_with_what_lies_behind_its_last_record() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1]), 4)
    interleave.add(1, [], 2)
    taken = _take(interleave)
    assert _shown(taken) == [(0, 0)]
    assert interleave.position == (4, 2)
    assert _take(interleave) is None


def test_a_slice_has_no_more_records_than_asked_for_and_the_rest_follows() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1, 2, 3, 4]), None)
    interleave.add(1, _log(1, [1, 2, 3, 4]), None)
    taken = [_shown(_take(interleave, ends=(4, 4), records_max=3)) for _ in range(3)]
    assert taken == [[(1, 0), (0, 0), (1, 1)], [(0, 1), (1, 2), (0, 2)], [(1, 3), (0, 3)]]


def test_records_that_are_read_again_are_not_taken_twice() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, [1, 2, 3]), None)
    interleave.add(0, _log(0, [2, 3, 4], start=1), None)
    assert _shown(_take(interleave, ends=(4, 0))) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    interleave.add(0, _log(0, [1, 2, 3, 4, 5]), None)
    assert _shown(_take(interleave, ends=(5, 0))) == [(0, 4)]


def test_a_step_is_taken_again_when_both_its_parts_have_come_whatever_has_come_beside_them() -> None:
    interleave = _interleave(committed=(4, 2), steps=[(2, 1), (4, 2)])
    interleave.add(0, _log(0, [5, 5, 5, 5, 5]), None)
    assert _take(interleave) is None
    interleave.add(1, _log(1, [5, 5]), None)
    first, second = _take(interleave), _take(interleave)
    assert _shown(first) == [(1, 0), (0, 0), (0, 1)]
    assert _shown(second) == [(1, 1), (0, 2), (0, 3)]
    assert first is not None
    assert (first.silent, first.recorded) == (True, True)
    assert _shown(_take(interleave, ends=(5, 2))) == [(0, 4)], "and then what is new"


def test_a_step_of_one_log_is_taken_again_as_it_comes() -> None:
    interleave = _interleave(committed=(1_000, 0), steps=[(1_000, 0)])
    interleave.add(0, _log(0, range(10)), None)
    taken = _take(interleave)
    assert taken is not None
    assert (len(taken.records), taken.end) == (10, (10, 0))
    interleave.add(0, [], 1_000)
    taken = _take(interleave)
    assert taken is not None
    assert (taken.records, taken.end) == ([], (1_000, 0)), "nothing but control records lay there"
    assert not interleave.is_relearning


def test_without_recorded_steps_the_committed_part_is_read_by_time_and_ends_at_its_offsets() -> None:
    interleave = _interleave(committed=(2, 1), steps=None)
    interleave.add(0, _log(0, [1, 3, 5]), None)
    interleave.add(1, _log(1, [2, 4]), None)
    taken = _take(interleave)
    assert _shown(taken) == [(0, 0), (1, 0), (0, 1)]
    assert taken is not None
    assert (taken.silent, taken.recorded, taken.end) == (True, False, (2, 1))
    assert _shown(_take(interleave, ends=(3, 2))) == [(1, 1), (0, 2)]


_TIMES = st.lists(st.integers(0, 40), max_size=40)


def _run(
    interleave: Interleave, logs: Sequence[Sequence[Record]], cuts: Sequence[int], records_max: int = 7
) -> list[Slice]:
    """Feed both logs in pieces of the sizes given, in turn, and take what can be taken meanwhile."""
    taken: list[Slice] = []
    left = [list(log) for log in logs]
    ends = len(logs[0]), len(logs[1])
    now_s = 0.0
    for turn in range(1_000):
        log: Log = 0 if turn % 2 else 1
        size = cuts[(turn // 2 + log) % len(cuts)]
        interleave.add(log, left[log][:size], None if left[log][size:] else ends[log])
        del left[log][:size]
        while (piece := _take(interleave, now_s=now_s, records_max=records_max)) is not None:
            taken.append(piece)
        now_s += 0.1
        if not any(left) and not any(interleave.buffered):
            break
    return taken


@settings(max_examples=200)
@given(
    _TIMES,
    _TIMES,
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.lists(st.integers(1, 9), min_size=1),
    st.data(),
)
def test_however_it_comes_the_steps_give_the_same_order_again(
    features: list[int], labels: list[int], cuts: list[int], others: list[int], data: Any
) -> None:
    """The promise of the relearning: the steps and the two logs are enough, whatever the pieces in which they come."""
    logs = _log(0, features), _log(1, labels)
    first = _run(_interleave(), logs, [*cuts, 5])
    order = [record for piece in first for record in piece.records]
    assert sorted(map(repr, order)) == sorted(map(repr, (*logs[0], *logs[1]))), "each once"
    ends = [piece.end for piece in first]
    known = data.draw(st.integers(0, len(ends)))
    if not ends or not known:
        return
    again = _run(_interleave(committed=ends[known - 1], steps=ends[:known]), logs, others)
    silent = [record for piece in again if piece.silent for record in piece.records]
    assert silent == [record for piece in first[:known] for record in piece.records]
    assert all(piece.recorded for piece in again if piece.silent)


def test_a_log_that_the_next_step_lacks_is_never_held_back() -> None:
    interleave = _interleave(committed=(50_000, 10), steps=[(50_000, 10)])
    interleave.add(0, _log(0, range(30_000)), None)
    assert not interleave.has_enough(0)
    interleave.add(1, _log(1, range(30_000)), None)
    assert interleave.has_enough(1), "of this one the step has all"
    assert not interleave.needs_more(1)
    interleave.add(0, _log(0, range(30_000, 50_000), start=30_000), None)
    assert _take(interleave) is not None
    assert interleave.needs_more(0)


def test_a_log_that_was_held_back_is_read_on_before_it_is_used_up() -> None:
    interleave = _interleave()
    interleave.add(0, _log(0, range(20_001)), None)
    assert interleave.has_enough(0)
    assert not interleave.needs_more(0)
    _take(interleave, ends=(-1, 0), records_max=10_001)
    assert interleave.needs_more(0)
