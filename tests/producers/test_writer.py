"""What a feed refuses by itself."""

from headrace.producers.record_size import record_bytes
from headrace.producers.writer import Feed

LIMIT = 2_000


def test_a_record_that_is_larger_than_its_topic_takes_is_refused_before_it_is_sent() -> None:
    """No broker is asked: it would refuse whatever came in the same batch as well."""
    told: list[tuple[int, int]] = []
    feed = Feed({"bootstrap.servers": "127.0.0.1:1"}, topic="in", timeout_s=1, bytes_max=LIMIT)
    room = LIMIT - record_bytes(b"k", b"", None) - 2
    feed.send(b"x" * (room + 1), b"k", lambda *place: told.append(place))
    assert (feed.refused, told) == (1, [(-1, -1)])
    assert feed.fault == f"a record has {LIMIT + 1} bytes; the limit of in is {LIMIT} (max.message.bytes)"
    assert not feed.away
    feed.send(b"x" * room, b"k", lambda *_: None)
    assert feed.refused == 1, "this one is the broker's to judge"
    feed.finish()
    assert feed.away
