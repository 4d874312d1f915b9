import random
from typing import Any

import pytest

from headrace.state.labels.join_entry import Entry, plain
from headrace.state.labels.join_state import LabelCounts
from headrace.state.labels.label_join import LabelRules, Labels

WAIT_MS = 1_000


def labels(**rules: Any) -> Labels:
    return Labels(LabelRules(**{"wait_ms": WAIT_MS, **rules}))


def entry(offset: int, *, at_ms: int = 0, value: bytes = b"{}", answer: Any = True, version: int = 1) -> Entry:
    return Entry.of(at_ms=at_ms, logged_ms=at_ms, order=offset, value=value, key=b"k", answer=answer, version=version)


def ask(joined: Labels, id_: str, offset: int, *, at_ms: int = 0, value: bytes = b"{}") -> None:
    joined.advance(at_ms, at_ms, features=True)
    joined.add_waiting(id_, entry(offset, at_ms=at_ms, value=value))


def take(
    joined: Labels, id_: str, label: Any = "yes", *, at_ms: int | None = None, logged_ms: int = 0, order: int = 7
) -> str:
    """Take a label, and learn it when that is asked for."""
    joined.advance(at_ms, logged_ms, features=False)
    verdict, found = joined.match(id_, label, at_ms=at_ms, logged_ms=logged_ms, order=order)
    if verdict in {"learn", "correct"}:
        joined.note_learned(id_, found, label)
    return verdict


def fail(joined: Labels) -> dict[bytes, bytes | None]:
    """Begin a save that fails; return what it would have brought."""
    joined.begin_save()
    changes = joined.changes()
    joined.not_saved()
    return changes


def save(joined: Labels) -> dict[bytes, bytes | None]:
    joined.begin_save()
    changes = joined.changes()
    joined.saved()
    return changes


def again(joined: Labels, **rules: Any) -> Labels:
    """Return what a snapshot of the labels brings back."""
    rows = {key: row for key, row in fail(joined).items() if row is not None}
    assert len(rows) == len(joined), "these tests save everything at once"
    restored = labels(**rules)
    restored.resume(joined.memory())
    restored.restore(rows.items())
    return restored


def test_a_label_finds_its_features_as_they_were_answered() -> None:
    joined = labels()
    ask(joined, "a", 3, value=b'{"features": {"x": 1}}')
    verdict, found = joined.match("a", False, at_ms=None, logged_ms=5, order=0)
    assert (verdict, found.value, found.answer, found.version, found.order) == (
        "learn",
        b'{"features": {"x": 1}}',
        True,
        1,
        3,
    )
    assert joined.tally == LabelCounts(), "until it is learned nothing has happened"
    joined.note_learned("a", found, False)
    assert (joined.tally.joined, joined.asked, joined.is_answered("a")) == (1, 0, True)


def test_a_second_label_is_a_duplicate_and_a_different_one_a_correction() -> None:
    joined = labels()
    ask(joined, "a", 3)
    assert [take(joined, "a", label) for label in (True, True, False, True)] == [
        "learn",
        "duplicate",
        "corrected",
        "duplicate",
    ]
    assert (joined.tally.joined, joined.tally.duplicate, joined.tally.corrected) == (1, 2, 1)


def test_true_and_one_are_different_labels() -> None:
    joined = labels()
    ask(joined, "a", 3)
    assert [take(joined, "a", label) for label in (True, 1)] == ["learn", "corrected"]


def test_a_correction_is_learned_with_the_same_features_where_that_is_asked_for() -> None:
    joined = labels(corrections=True)
    ask(joined, "a", 3, value=b"features")
    assert [take(joined, "a", label) for label in (True, False, False)] == ["learn", "correct", "duplicate"]
    verdict, found = joined.match("a", True, at_ms=None, logged_ms=0, order=0)
    assert (verdict, found.value) == ("correct", b"features")
    assert (joined.tally.joined, joined.tally.corrected) == (1, 1)


def test_an_early_label_waits_for_its_features() -> None:
    joined = labels()
    assert take(joined, "a", "yes") == "early"
    assert (joined.early, joined.find_early("a"), joined.find_early("b")) == (1, "yes", None)
    joined.add_learned("a", entry(0), "yes", own=False)
    assert (joined.early, joined.tally.joined, joined.tally.early, joined.is_answered("a")) == (0, 1, 1, True)


def test_a_second_early_label_is_a_duplicate_or_a_correction_of_the_first() -> None:
    joined = labels()
    assert [take(joined, "a", label) for label in (1, 1, 2)] == ["early", "duplicate", "corrected"]
    assert joined.find_early("a") == 1
    joined = labels(corrections=True)
    assert [take(joined, "a", label) for label in (1, 2)] == ["early", "corrected"]
    assert joined.find_early("a") == 2, "the newest is what the features are to be learned with"


def test_a_wait_ends_just_after_its_time_and_what_ended_is_told_once() -> None:
    joined = labels()
    ask(joined, "a", 0, at_ms=0)
    ask(joined, "b", 1, at_ms=WAIT_MS)
    assert joined.drain_expired() == [], "the last moment belongs to the wait"
    ask(joined, "c", 2, at_ms=WAIT_MS + 1)
    assert [found.order for found in joined.drain_expired()] == [0]
    assert joined.drain_expired() == []
    assert (joined.tally.expired, joined.asked) == (1, 2)


def test_label_after_its_wait_is_counted_as_an_orphan() -> None:
    joined = labels()
    ask(joined, "a", 0, at_ms=0)
    assert take(joined, "a", at_ms=WAIT_MS + 1) == "orphaned"
    assert (joined.tally.expired, joined.tally.orphaned) == (1, 1)


def test_a_default_label_makes_a_later_one_a_duplicate_or_a_correction() -> None:
    joined = labels(default=False)
    ask(joined, "a", 0, at_ms=0)
    ask(joined, "b", 1, at_ms=0)
    ask(joined, "c", 2, at_ms=WAIT_MS + 1)
    assert len(joined.drain_expired()) == 2
    assert [take(joined, "a", False), take(joined, "b", True)] == ["duplicate", "corrected"]


def test_an_early_label_whose_features_never_come_is_an_orphan_at_the_end_of_its_wait() -> None:
    joined = labels()
    assert take(joined, "ghost", logged_ms=0) == "early"
    ask(joined, "a", 0, at_ms=WAIT_MS + 1)
    assert (joined.tally.orphaned, joined.early, joined.find_early("ghost")) == (1, 0, None)
    assert joined.drain_expired() == [], "nothing was predicted that could be learned"


def test_old_events_are_not_outlived_by_labels_without_a_time_of_their_own() -> None:
    joined = labels()
    ask(joined, "old", 0, at_ms=1_000)
    assert take(joined, "old", logged_ms=10**12) == "learn", "the label's log time says nothing about 1970"
    assert take(joined, "other", logged_ms=10**12) == "early"
    ask(joined, "next", 1, at_ms=1_500)
    assert joined.tally.orphaned == 0, "it came at the stream's time"


def test_without_event_times_the_logs_own_times_pass() -> None:
    joined = labels()
    joined.advance(None, 10, features=True)
    joined.add_waiting("a", entry(0, at_ms=10))
    assert take(joined, "a", logged_ms=10 + WAIT_MS + 1) == "orphaned"


def test_time_never_goes_back() -> None:
    joined = labels()
    ask(joined, "a", 0, at_ms=5_000)
    ask(joined, "late", 1, at_ms=10)
    assert joined.drain_expired() == []
    joined.advance(4_999, 0, features=True)
    assert [found.order for found in joined.drain_expired()] == [1], (
        "what was over when it came ends with the next record"
    )
    assert joined.asked == 1


def test_of_two_features_with_one_id_the_newer_waits() -> None:
    joined = labels()
    ask(joined, "a", 0, value=b"old")
    ask(joined, "a", 1, value=b"new")
    _, found = joined.match("a", True, at_ms=None, logged_ms=0, order=0)
    assert (found.value, joined.asked, joined.tally.repeated) == (b"new", 1, 1)
    joined.note_learned("a", found, True)
    ask(joined, "a", 2)
    assert (joined.asked, joined.tally.repeated) == (0, 2), "a label that was learned is waited for no more"


def test_features_with_a_label_of_their_own_are_remembered() -> None:
    joined = labels()
    take(joined, "a", True)
    joined.add_learned("a", entry(0), True, own=True)
    take(joined, "b", True)
    joined.add_learned("b", entry(1), False, own=True)
    assert (joined.tally.duplicate, joined.tally.corrected, joined.tally.joined) == (1, 1, 0)
    assert take(joined, "b", False) == "duplicate"


def test_above_the_bound_the_entry_that_would_have_ended_first_goes() -> None:
    joined = labels(waiting_max=3)
    for offset, at_ms in enumerate((30, 10, 20, 40)):
        ask(joined, f"id-{offset}", offset, at_ms=at_ms)
    assert [found.order for found in joined.drain_expired()] == [1]
    assert (joined.asked, joined.tally.evicted, joined.tally.expired) == (3, 1, 0)
    assert take(joined, "id-1") == "orphaned"


def test_above_the_bound_of_bytes_remembered_ids_go_first() -> None:
    joined = labels(bytes_max=100_000)
    for index in range(20):
        ask(joined, f"done-{index}", index)
        take(joined, f"done-{index}")
    for index in range(20):
        ask(joined, f"big-{index}", 100 + index, value=b"x" * 9_000)
        assert joined.bytes <= 100_000
    assert joined.asked == 10
    assert joined.tally.evicted == 10
    assert not joined.is_answered("done-19")


def test_the_number_of_remembered_ids_is_bounded() -> None:
    joined = labels(remembered_max=2)
    for index in range(4):
        ask(joined, f"id-{index}", index)
        take(joined, f"id-{index}")
    assert [take(joined, f"id-{index}") for index in (1, 3)] == ["early", "duplicate"]


def test_a_finished_id_is_forgotten_after_twice_the_wait() -> None:
    joined = labels()
    ask(joined, "a", 0, at_ms=0)
    take(joined, "a")
    ask(joined, "b", 1, at_ms=2 * WAIT_MS)
    assert joined.is_answered("a")
    ask(joined, "c", 2, at_ms=2 * WAIT_MS + 1)
    assert not joined.is_answered("a")


@pytest.mark.parametrize("label", [10**30, -(10**30), 2**64 - 1, -(2**63), 0.1, "ja", True, 0])
def test_labels_and_answers_of_any_kind_and_size_come_back(label: Any) -> None:
    joined = labels()
    take(joined, "early", label)
    joined.add_waiting("a", entry(0, answer=plain(label)))
    restored = again(joined)
    assert restored.find_early("early") == label
    _, found = restored.match("a", True, at_ms=None, logged_ms=0, order=0)
    assert found.answer == joined.match("a", True, at_ms=None, logged_ms=0, order=0)[1].answer


def test_only_what_changed_is_saved() -> None:
    joined = labels()
    ask(joined, "a", 0)
    ask(joined, "b", 1)
    assert sorted(save(joined)) == [b"a", b"b"]
    assert save(joined) == {}
    ask(joined, "c", 2, at_ms=WAIT_MS * 3)
    assert sorted(save(joined)) == [b"a", b"b", b"c"], "two are gone, and one has come"
    ask(joined, "d", 3, at_ms=WAIT_MS * 4 + 1)
    changes = save(joined)
    assert changes[b"c"] is not None
    assert changes[b"d"] is not None


def test_an_entry_that_came_and_went_between_two_saves_leaves_no_row() -> None:
    joined = labels(remembered_max=0)
    ask(joined, "a", 0)
    take(joined, "a")
    assert save(joined) == {}


def test_a_failed_saves_rows_are_taken_back() -> None:
    joined = labels(remembered_max=0)
    ask(joined, "a", 0)
    fail(joined)
    take(joined, "a")
    assert save(joined) == {b"a": None}


@pytest.mark.parametrize("goes_well", [True, False])
def test_an_id_whose_row_is_being_deleted_when_it_comes_again(*, goes_well: bool) -> None:
    joined = labels(remembered_max=0)
    ask(joined, "a", 0)
    save(joined)
    take(joined, "a")
    joined.begin_save()
    assert joined.changes() == {b"a": None}
    ask(joined, "a", 1)
    if goes_well:
        joined.saved()
    else:
        joined.not_saved()
    take(joined, "a")
    assert save(joined) == ({} if goes_well else {b"a": None}), "where it may be there still, it is taken back"


def test_many_rows_are_heavy() -> None:
    joined = labels()
    for index in range(501):
        assert not joined.is_heavy
        ask(joined, f"id {index}", index)
    assert joined.is_heavy
    save(joined)
    assert not joined.is_heavy


def test_what_a_snapshot_holds_does_not_change_when_the_stream_goes_on() -> None:
    joined = labels()
    take(joined, "a", at_ms=5)
    memory = joined.memory()
    take(joined, "b", at_ms=9)
    assert (memory.times.events, memory.tally.early) == ([5], 1)
    assert (joined.memory().times.events, joined.tally.early) == ([5, 9], 2)


def _with(stored: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    """Return the rows of a table after changes."""
    return {key: row for key, row in {**stored, **changes}.items() if row is not None}


def _act(joined: Labels, rng: random.Random, step: int) -> Any:
    """Do something at random, and return what can be seen of it."""
    id_ = f"id-{rng.randrange(60)}"
    at_ms = step * 3 - rng.randrange(40)
    if rng.random() < 0.5:
        joined.advance(at_ms, at_ms, features=True)
        if joined.is_answered(id_):
            return "answered", [found.order for found in joined.drain_expired()]
        early = joined.find_early(id_)
        if early is None:
            joined.add_waiting(id_, entry(step, at_ms=max(0, at_ms), value=bytes(rng.randrange(300))))
        else:
            joined.add_learned(id_, entry(step, at_ms=max(0, at_ms)), early, own=False)
        return early, [found.order for found in joined.drain_expired()]
    own_ms = at_ms if rng.random() < 0.5 else None
    verdict = take(joined, id_, rng.randrange(2), at_ms=own_ms, logged_ms=at_ms, order=step)
    return verdict, [found.order for found in joined.drain_expired()]


@pytest.mark.parametrize("seed", range(12))
def test_labels_that_were_saved_anywhere_go_on_as_if_they_had_not_been(seed: int) -> None:
    """All bounds are tight, so that each step may evict, expire and forget. Saves go on beside, and may fail."""
    rules = {
        "wait_ms": 150,
        "waiting_max": 25,
        "bytes_max": 22_000,
        "remembered_max": 15,
        "corrections": seed % 2 == 0,
        "default": (None, 1)[seed % 3 == 0],
    }
    whole, pieces, stored = labels(**rules), labels(**rules), dict[bytes, bytes]()
    changes, told = dict[bytes, bytes | None](), 0
    for step in range(3_000):
        seen = [_act(joined, random.Random(seed * 10_000 + step), step) for joined in (whole, pieces)]
        assert seen[0] == seen[1], step
        if step % 41 == 0:
            pieces.begin_save()
            changes, told = pieces.changes(), len(pieces)
        elif step % 41 == 13:
            rng = random.Random(step)
            goes_well = rng.random() < 0.6
            some = rng.sample(list(changes.items()), rng.randint(0, len(changes)))
            stored = _with(stored, changes if goes_well else dict(some))
            if goes_well:
                assert len(stored) == told, "the table has a row for each entry"
                pieces.saved()
            else:
                pieces.not_saved()
        elif step % 41 == 29 and step % 3:
            stored = _with(stored, save(pieces))
            assert len(stored) == len(pieces)
            rows = list(stored.items())
            random.Random(step).shuffle(rows)
            memory = pieces.memory()
            pieces = labels(**rules)
            pieces.resume(memory)
            pieces.restore(rows)
    assert whole.tally == pieces.tally
    assert (whole.asked, whole.early, whole.bytes) == (pieces.asked, pieces.early, pieces.bytes)
    tally = whole.tally
    told = tally.joined + tally.duplicate + tally.corrected + tally.orphaned + whole.early
    assert tally.records == 0, "the engine counts them"
    assert min(tally.joined, tally.early, tally.duplicate, tally.orphaned, tally.evicted, tally.expired) > 0
    assert told > 1_000


def test_a_label_before_any_features_does_not_move_the_time() -> None:
    joined = labels()
    assert take(joined, "first", logged_ms=10**12) == "early"
    ask(joined, "a", 0, at_ms=1_000)
    ask(joined, "b", 1, at_ms=1_000 + WAIT_MS + 1)
    assert joined.tally.expired == 1, "old events are waited for in their own time"


def test_features_without_a_time_among_dated_ones_come_at_the_streams() -> None:
    joined = labels()
    ask(joined, "a", 0, at_ms=1_000)
    joined.advance(None, 10**12, features=True)
    assert joined.tally.expired == 0
    assert joined.event_ms(None, 10**12) == 1_000


def test_a_time_far_past_the_logs_does_not_end_every_wait() -> None:
    joined = labels(wait_ms=7 * 86_400_000)
    joined.advance(10**12, 10**12, features=True)
    joined.add_waiting("a", entry(0, at_ms=10**12))
    joined.advance(10**15, 10**12 + 1, features=True)
    assert (joined.tally.expired, joined.event_ms(10**15, 10**12)) == (0, 10**12)
    for step in range(8):
        joined.advance(10**12 + 8 * 86_400_000, 10**12 + 2 + step, features=True)
        assert joined.tally.expired == (step == 7), "a time that the log has not come to yet is one once most have it"
    assert joined.tally.ahead == 8


def test_a_record_ends_a_thousand_waits_and_the_next_ones_the_others() -> None:
    joined = labels()
    for index in range(2_500):
        ask(joined, f"id-{index}", index)
    joined.advance(WAIT_MS + 1, 0, features=True)
    assert len(joined.drain_expired()) == joined.tally.expired == 1_000
    joined.advance(WAIT_MS + 1, 0, features=True)
    assert take(joined, "id-2499", at_ms=None, logged_ms=0) == "orphaned", "its wait is over all the same"
    joined.advance(WAIT_MS + 1, 0, features=True)
    assert joined.tally.expired == 2_500


def test_long_labels_and_answers_count_as_memory() -> None:
    joined = labels(bytes_max=100_000)
    for index in range(20):
        take(joined, f"id-{index}", "x" * 20_000, order=index)
    assert joined.early < 5
    assert joined.bytes <= 100_000


def test_one_and_one_point_zero_are_one_label() -> None:
    joined = labels()
    ask(joined, "a", 0)
    assert [take(joined, "a", label) for label in (1, 1.0)] == ["learn", "duplicate"]


@pytest.mark.parametrize("clock_sets_both", [True, False])
@pytest.mark.parametrize("dated", [True, False])
def test_one_fast_clock_costs_nobody_a_label(*, clock_sets_both: bool, dated: bool) -> None:
    day = 86_400_000
    joined, now, ahead = labels(wait_ms=day), 10**12, 10**12 + day + day // 24
    logged = ahead if clock_sets_both or not dated else now
    joined.advance(now if dated else None, now, features=True)
    joined.add_waiting("a", entry(0, at_ms=joined.event_ms(now if dated else None, now)))
    assert not joined.advance(ahead if dated else None, logged, features=True)
    own_ms = joined.event_ms(ahead if dated else None, logged)
    assert own_ms == now, "it waits from the stream's time on"
    joined.add_waiting("b", entry(1, at_ms=own_ms))
    assert take(joined, "a", logged_ms=now + 5) == "learn"
    assert not joined.advance(ahead, ahead, features=False), "nor does a label's own clock count"
    assert take(joined, "b", logged_ms=now + 6) == "learn"
    assert (joined.tally.expired, joined.tally.ahead) == (0, 2)


def _random_record(chance: random.Random, joined: Labels, at: int) -> None:
    """Let features or a label of one of a few ids come, so that all that can happen to an entry happens."""
    id_, at_ms = f"r-{chance.randrange(40)}", at + chance.randrange(-200, 200)
    if chance.random() < 0.5:
        joined.advance(at_ms, at, features=True)
        made = entry(at, at_ms=joined.event_ms(at_ms, at), value=b"x" * chance.randrange(50))
        if chance.random() < 0.8:
            joined.add_waiting(id_, made)
        else:
            joined.add_learned(id_, made, chance.choice(["yes", "no"]), own=chance.random() < 0.5)
    else:
        take(joined, id_, chance.choice(["yes", "no"]), at_ms=at_ms, logged_ms=at, order=at)
    joined.drain_expired()


def _all_of(joined: Labels) -> Any:
    return fail(joined), joined.memory(), joined.asked, joined.early, joined.bytes, len(joined)


@pytest.mark.parametrize("seed", range(20))
def test_a_rollback_leaves_what_there_was_before(seed: int) -> None:
    chance = random.Random(seed)
    rules = {"waiting_max": 15, "remembered_max": 12, "bytes_max": 100_000, "corrections": seed % 2 == 0}
    tried, other = labels(**rules), labels(**rules)
    at = 0
    for _ in range(30):
        # A failed save marks rows as written, a successful one forgets the changes.
        step = chance.choice([fail, save, len])
        assert step(tried) == step(other)
        tried.begin()
        for _ in range(chance.randrange(60)):
            _random_record(chance, tried, at + chance.randrange(600))
        tried.rollback()
        assert _all_of(tried) == _all_of(other)
        tried.begin()
        for _ in range(chance.randrange(40)):
            at += chance.randrange(60)
            state = chance.getstate()
            _random_record(chance, tried, at)
            chance.setstate(state)
            _random_record(chance, other, at)
        tried.commit()
        assert _all_of(tried) == _all_of(other)
