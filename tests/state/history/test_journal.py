"""The entries of a journal: they keep their content and their order, and none is missing."""

import pytest

from headrace.state.history import journal
from headrace.state.history.journal import Evidence, JournalEntry, JournalError, in_order


def entry(seq: int) -> JournalEntry:
    return JournalEntry(seq, "refused", (10 * seq, -1), 1, command=f"c-{seq}", control=seq)


def test_an_entry_is_read_as_it_was_written_to_the_last_bit() -> None:
    made = JournalEntry(3, "promote", (512, -1), 2, name="trees", evidence=Evidence(0.1 + 0.2, 1_690, 1 / 0.03))
    assert journal.decode(journal.encode(made)) == made


@pytest.mark.parametrize("value", [None, b"", b"{}", b'{"seq": 0, "what": "drop", "place": [1, 1], "generation": 1}'])
def test_bytes_that_are_no_entry_are_refused(value: bytes | None) -> None:
    with pytest.raises(JournalError):
        journal.decode(value)


def test_an_entry_that_was_written_twice_counts_once() -> None:
    assert in_order([entry(2), entry(1), entry(2), entry(3)]) == [entry(1), entry(2), entry(3)]


def test_a_missing_entry_is_noticed() -> None:
    with pytest.raises(JournalError, match="entry 3 after entry 1"):
        in_order([entry(1), entry(3)])
