import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.state.labels.read_order import Order, OrderError, ReadStep, decode

_MOVES = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), max_size=60)


def _walk(moves: list[ReadStep], start: ReadStep = (0, 0)) -> list[ReadStep]:
    places: list[ReadStep] = []
    for features, labels in moves:
        start = start[0] + features, start[1] + labels
        places.append(start)
    return places


@given(_MOVES, st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)))
def test_a_written_order_is_read_again(moves: list[ReadStep], start: ReadStep) -> None:
    order = Order(start)
    for place in _walk(moves, start):
        order.add(place)
    read = decode(order.encode())
    assert (read.base, read.since(start)) == (start, order.since(start))


def test_steps_of_one_log_that_follow_each_other_are_one() -> None:
    order = Order((0, 0))
    for place in [(5, 0), (9, 0), (9, 3), (9, 4), (12, 4), (13, 6), (14, 6)]:
        order.add(place)
    assert order.since((0, 0)) == [(9, 0), (9, 4), (12, 4), (13, 6), (14, 6)]


def test_a_place_at_which_a_snapshot_stands_stays_a_step() -> None:
    order = Order((0, 0))
    order.add((5, 0))
    order.saved((5, 0))
    order.add((9, 0))
    assert order.since((5, 0)) == [(9, 0)]
    assert order.since((0, 0)) == [(5, 0), (9, 0)]


def test_the_steps_from_the_three_newest_snapshots_are_kept_and_no_older_ones() -> None:
    order = Order((0, 0))
    for index in range(1, 6):
        order.add((index, index))
        order.saved((index, index))
    assert order.since((3, 3)) == [(4, 4), (5, 5)]
    assert order.since((2, 2)) is None


def test_a_place_off_the_way_has_no_steps() -> None:
    order = Order((0, 0))
    order.add((5, 3))
    assert order.since((4, 0)) is None


def test_an_order_is_due_and_then_full_before_it_outgrows_what_a_broker_keeps() -> None:
    order = Order((2**40, 2**40))
    due_at = 0
    for index in range(1, 2_000):
        if order.is_full:
            break
        order.add((2**40 + index * 200, 2**40 + index * 200))
        due_at = due_at or (index if order.is_due else 0)
    assert order.is_full
    assert 0 < due_at < index / 1.5
    order.add((2**62, 2**62))
    assert len(order.encode()) <= 2_400


def test_a_snapshot_makes_room_even_when_the_older_ones_would_need_what_is_forgotten() -> None:
    order = Order((0, 0))
    place = (0, 0)
    for _ in range(3):
        while not order.is_due:
            place = place[0] + 200, place[1] + 200
            order.add(place)
        order.saved(place)
        assert not order.is_due
        assert order.since(place) == []


@pytest.mark.parametrize(
    "text", ["!", "", "A", base64.b64encode(b"\x80").decode(), base64.b64encode(b"\x01" * 4).decode()]
)
def test_text_that_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(OrderError):
        decode(text)


def test_a_snapshot_in_the_middle_of_a_step_of_one_log_is_on_the_way() -> None:
    """A relearning takes such a step as it comes, and may be saved and killed anywhere in it."""
    order = Order((0, 0))
    for place in [(100, 0), (100, 50), (180, 60)]:
        order.add(place)
    assert order.since((40, 0)) == [(100, 0), (100, 50), (180, 60)]
    assert order.since((100, 20)) == [(100, 50), (180, 60)]
    assert order.since((140, 55)) is None, "a step of both logs is taken as a whole"
    for place in [(40, 0), (70, 0), (100, 20), (100, 50)]:
        order.saved(place)
        assert order.since(place), "what is still to come is never forgotten"
    assert order.since((100, 20)) == [(100, 50), (180, 60)]


def test_a_snapshot_off_the_way_makes_nothing_forgotten() -> None:
    order = Order((0, 0))
    order.add((10, 5))
    for _ in range(4):
        order.saved((7, 2))
    assert order.since((0, 0)) == [(10, 5)]


def test_the_turn_is_part_of_what_is_written() -> None:
    order = Order((5, 3), turn=4)
    order.add((9, 4))
    read = decode(order.encode())
    assert (read.turn, read.base, read.since((5, 3))) == (4, (5, 3), [(9, 4)])
