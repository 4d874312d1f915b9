"""What is made of the answers of a second."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.pipeline.page.frame import FrameMaker, Sighting
from headrace.pipeline.status.report import Note, Observations, summarise

NOTE = {"token": "t", "host": "here", "pid": 7, "ordinal": 0, "state": "running", "partitions": [0]}


def place(committed: int, high: int, *, records: int | None = None, dead_letters: int = 0) -> PartitionOffsets:
    count = committed if records is None else records
    counts = {"r": count, "p": count - dead_letters, "d": dead_letters, "n": count // 2}
    return PartitionOffsets(committed, json.dumps({"e": 1, "x": 0, "s": 0, **counts}), 0, high)


def seen(
    at_ms: int, places: Mapping[int, PartitionOffsets] | None, *, workers: tuple[Note, ...] = (NOTE,), **options: Any
) -> Sighting:
    faults = options.pop("faults", ())
    reasons = options.pop("stop_reasons", ())
    report = summarise("p", Observations(places, {}, workers, faults, stop_reasons=reasons))
    at = options.pop("places_at_ms", at_ms)
    whole = {"versions": {}, "faults": faults, "has_stop_reason": bool(reasons), **options}
    return Sighting(at_ms=at_ms, report=report, places=places, places_at_ms=at, **whole)


def test_rates_are_those_of_the_last_seconds() -> None:
    maker = FrameMaker()
    assert maker.make(seen(1_000, {0: place(100, 100)})).rates["records"] == 0.0
    assert maker.make(seen(2_000, {0: place(150, 200)})).rates["records"] == 50.0
    frame = maker.make(seen(4_000, {0: place(400, 400)}))
    assert frame.rates["records"] == 100.0
    assert frame.partitions[0].rate == 100.0
    assert maker.make(seen(9_000, {0: place(400, 400)})).rates["records"] == 0.0


def test_a_history_that_begins_anew_has_no_negative_rate() -> None:
    maker = FrameMaker()
    maker.make(seen(1_000, {0: place(100, 100)}))
    assert maker.make(seen(2_000, {0: place(3, 3)})).rates["records"] == 0.0


def test_what_kafka_said_last_is_kept_while_it_is_silent() -> None:
    maker = FrameMaker()
    maker.make(seen(1_000, {0: place(100, 120, dead_letters=3)}))
    frame = maker.make(seen(2_000, None, places_at_ms=1_000, faults=["Kafka does not answer"]))
    assert (frame.counts and frame.counts.records, frame.lag, frame.counted) == (100, 20, 1_000)
    assert (frame.banner.state, frame.banner.cause) == ("paused", "kafka")
    assert frame.banner.reason == "Kafka does not answer"
    assert frame.banner.faults == []


def test_the_oldest_partition_tells_how_far_the_stream_is_behind() -> None:
    maker = FrameMaker()
    maker.make(seen(1_000, {0: place(10, 10), 1: place(10, 10)}))
    maker.make(seen(2_000, {0: place(10, 20), 1: place(10, 10)}))
    frame = maker.make(seen(8_000, {0: place(10, 20), 1: place(10, 30)}))
    assert (frame.lag_s, frame.lag_is_least) == (6.0, False)
    assert [row.lag_s for row in frame.partitions] == [6.0, 0.0]


@pytest.mark.parametrize(("silence_s", "state"), [(0.5, "running"), (2.0, "paused"), (4.5, "paused"), (6.0, "running")])
def test_a_silent_store_is_a_pause_until_the_workers_must_have_noticed(silence_s: float, state: str) -> None:
    """Their calls hang, so for some seconds their notes are those of before."""
    frame = FrameMaker().make(
        seen(1_000, {0: place(1, 1)}, store_silence_s=silence_s, store_patience_s=3.0, store_fault="no answer")
    )
    assert frame.banner.state == state
    if state == "paused":
        assert (frame.banner.status, frame.banner.cause, frame.banner.reason) == (503, "store", "no answer")


def test_a_pause_is_as_old_as_the_worker_says_and_has_its_cause() -> None:
    note = {**NOTE, "state": "paused", "reason": "flood of bad records", "cause": "flood", "since_ms": 400}
    banner = FrameMaker().make(seen(9_000, {0: place(1, 9)}, workers=(note,))).banner
    assert (banner.state, banner.since, banner.cause, banner.reason) == ("paused", 400, "flood", "flood of bad records")
    assert "dlq.flood_guard" in banner.words


@pytest.mark.parametrize(
    ("places", "options", "words"),
    [
        ({0: place(0, 0)}, {}, "no record was read yet"),
        ({0: place(5, 9)}, {}, "new records wait"),
        ({0: place(5, 9)}, {"stop_reasons": ["the log has lost records"]}, "Put it right"),
        (None, {"is_nothing": True, "faults": ["Kafka does not answer"]}, "Neither Kafka nor the store"),
    ],
)
def test_a_stream_that_does_not_run_says_what_to_do(places: Any, options: dict[str, Any], words: str) -> None:
    banner = FrameMaker().make(seen(1_000, places, workers=(), **options)).banner
    assert banner.status == 0
    assert words in banner.words
    assert banner.command


def test_an_event_is_told_once() -> None:
    maker = FrameMaker()
    maker.make(seen(1_000, {0: place(1, 1)}))
    paused = {**NOTE, "state": "paused", "reason": "away"}
    assert [event.kind for event in maker.make(seen(2_000, {0: place(1, 1)}, workers=(paused,))).events] == ["paused"]
    assert maker.make(seen(3_000, {0: place(1, 1)}, workers=(paused,))).events == []
