"""What happened between two moments."""

from typing import Any

from headrace.pipeline.page.timeline import Moment, events


def worker(ordinal: int, *, pid: int = 7, partitions: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"ordinal": ordinal, "host": "here", "pid": pid, "partitions": list(partitions)}


def told(before: Moment, now: Moment) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in events(before, now, at_ms=5)]


def test_a_pause_says_why() -> None:
    running, paused = Moment("running", None, [], {}), Moment("paused", "the store is away", [], {})
    assert told(running, paused) == [("paused", "the stream pauses: the store is away")]
    assert told(paused, running) == [("running", "the stream runs")]
    assert told(running, running) == []


def test_workers_come_go_and_are_restarted() -> None:
    before = Moment("running", None, [worker(0), worker(1)], {})
    now = Moment("running", None, [worker(0, pid=8), worker(2)], {})
    assert told(before, now) == [
        ("joined", "worker 2 is there (here, process 7)"),
        ("left", "worker 1 is gone (here)"),
        ("restarted", "worker 0 was restarted (process 8)"),
    ]


def test_a_takeover_is_an_epoch_that_has_grown() -> None:
    workers = [worker(0, partitions=(0, 1))]
    before, now = Moment("running", None, workers, {0: 1, 1: 4}), Moment("running", None, workers, {0: 2, 1: 4, 2: 9})
    assert told(before, now) == [("takeover", "partition 0 was taken over by worker 0")]


def test_another_model_that_answers_is_marked_in_the_charts() -> None:
    before = Moment("running", None, [], {}, {0: "model", 1: "model"})
    [event] = events(before, Moment("running", None, [], {}, {0: "trees", 1: "model"}), at_ms=5)
    assert (event.kind, event.text, event.mark) == ("model", "another model answers in partition 0", True)
