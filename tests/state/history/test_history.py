"""A history: new entries go out once, and a relearning repeats what is there, or stops."""

import pytest

from headrace.state.history.history import SavedHistory, ShardHistory
from headrace.state.history.journal import JournalEntry, JournalError


def lived() -> tuple[ShardHistory, list[JournalEntry]]:
    """Return a history with three entries, and these."""
    history = ShardHistory()
    history.add("refused", (5, -1), command="a", control=0)
    history.add("takeover", (8, -1), steps=1, reason="the factory is another")
    history.add("refused", (8, -1), command="b", control=1)
    return history, history.drain()


def test_what_is_added_goes_out_once_and_is_numbered() -> None:
    history, entries = lived()
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert [entry.generation for entry in entries] == [1, 2, 2]
    assert history.drain() == []
    assert (history.seq, history.control, history.generation) == (3, 2, 2)


def test_a_relearning_repeats_the_entries_and_sends_none_again() -> None:
    first, entries = lived()
    again = ShardHistory()
    again.follow(entries, newest=3)
    while again.next is not None:
        again.repeat()
    assert again.saved() == first.saved()
    assert again.drain() == []
    assert again.outcome("a") == entries[0]


def test_a_snapshot_leaves_only_the_entries_behind_it_to_repeat() -> None:
    _, entries = lived()
    history = ShardHistory()
    history.resume(SavedHistory(seq=2, control=1, generation=2))
    history.follow(entries, newest=3)
    assert history.repeat() == entries[2]
    assert history.next is None


def test_what_is_decided_again_must_be_what_the_journal_has() -> None:
    _, entries = lived()
    history = ShardHistory()
    history.follow(entries, newest=3)
    assert history.add("refused", (5, -1), command="a", control=0) == entries[0]
    assert history.drain() == []
    with pytest.raises(JournalError, match="another decision"):
        history.add("takeover", (9, -1), steps=1, reason="the factory is another")


@pytest.mark.parametrize(("kept", "newest"), [([1, 2], 3), ([2, 3], 3), ([], 1)])
def test_a_journal_that_lacks_entries_is_not_followed(kept: list[int], newest: int) -> None:
    entries = [entry for entry in lived()[1] if entry.seq in kept]
    with pytest.raises(JournalError):
        ShardHistory().follow(entries, newest=newest)


def test_a_history_that_was_left_behind_is_not_repeated() -> None:
    _, entries = lived()
    second = ShardHistory()
    second.begin_anew(entries)
    assert second.is_announced
    second.tell_announced((20, -1))
    [begun] = second.drain()
    assert (begun.seq, begun.what, begun.begins, begun.generation) == (4, "takeover", (20, -1), 3)
    again = ShardHistory()
    again.follow([*entries, begun], newest=4)
    assert again.repeat() == begun
    assert again.next is None
    assert again.outcome("a") == entries[0], "a command that was done before is not done again"
