"""What receipts and committed offsets tell of a dead letter."""

from headrace.consumers.reader import Span
from headrace.consumers.source import Committed
from headrace.pipeline.dlq.receipts import Receipt, States, Target, floors

SPANS = {0: Span(10, 50), 1: Span(0, 5), 2: Span(0, 0)}


def test_a_replay_starts_at_the_offset_that_was_committed_for_the_same_topic() -> None:
    assert floors({0: Committed(30, "id"), 1: Committed(5, "id")}, SPANS, "id") == {0: 30, 1: 5, 2: 0}


def test_an_offset_of_a_topic_that_was_made_again_does_not_count() -> None:
    assert floors({0: Committed(30, "former"), 1: Committed(5, "")}, SPANS, "id") == {0: 10, 1: 0, 2: 0}


def test_an_offset_outside_of_the_log_is_brought_into_it() -> None:
    assert floors({0: Committed(3, "id"), 1: Committed(9, "id")}, SPANS, "id") == {0: 10, 1: 5, 2: 0}


def test_a_dead_letter_is_parked_or_replayed_or_waits() -> None:
    def receipt(action: str) -> Receipt:
        return Receipt(0, Target("t", None), action, 1, "c", 0, "id")

    states = States(iter([(0, 3, receipt("parked")), (0, 7, receipt("sent")), (1, 0, receipt("sent"))]), {0: 5})
    found = {place: states.of(*place) for place in [(0, 3), (0, 4), (0, 5), (0, 7), (1, 0), (1, 3), (2, 0)]}
    assert found == {
        (0, 3): "parked",
        (0, 4): "replayed",
        (0, 5): "waiting",
        (0, 7): "replayed",
        (1, 0): "replayed",
        (1, 3): "waiting",
        (2, 0): "waiting",
    }
