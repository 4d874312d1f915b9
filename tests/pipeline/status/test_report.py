"""What `status` makes of what it hears, whoever is silent."""

import json
from typing import Any

import pytest

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.pipeline.status import report
from headrace.pipeline.status.report import Observations, alive, combine, summarise


def mark(records: int, *, learned: int, dead_letters: int = 0) -> str:
    counts = {"r": records, "p": records - dead_letters, "d": dead_letters, "n": learned}
    return json.dumps({"e": 1, "x": 0, "s": 0, **counts})


def note(state: str, **options: Any) -> dict[str, Any]:
    whole = {"token": "t0", "host": "here", "pid": 7, "ordinal": 0, "started_ms": 1, "reason": "", "partitions": [0]}
    return {**whole, "state": state, "relearning": {}, "quality": {}, **options}


PLACES = {
    0: PartitionOffsets(10, mark(10, learned=8, dead_letters=1), 0, 12),
    1: PartitionOffsets(5, mark(5, learned=5), 0, 5),
}
SNAPSHOTS = {0: {"offset": 9, "quality": {"scored": 10, "accuracy": 0.5, "accuracy_recent": 0.5}}}


def test_counts_and_lag_are_the_sums_of_what_the_marks_tell() -> None:
    told = summarise("p", Observations(PLACES, SNAPSHOTS, []))
    assert told.counts == report.Totals(records=15, predictions=14, dead_letters=1, learned=13)
    assert told.lag == 2
    assert told.partitions[0] == report.Partition(partition=0, committed=10, snapshot=9, lag=2, learned=8)
    assert told.partitions[1] == report.Partition(partition=1, committed=5, snapshot=None, lag=0, learned=5)


@pytest.mark.parametrize(
    ("place", "lag"),
    [
        (PartitionOffsets(None, "", 0, 7), 7),
        (PartitionOffsets(None, "", 3, 7), 4),
        (PartitionOffsets(2, "", 3, 7), 4),
        (PartitionOffsets(7, "", 0, 7), 0),
        (PartitionOffsets(9, "", 0, 7), None),
        (PartitionOffsets(7, "", 0, 7, PartitionOffsets(2, "", 0, 5)), 3),
        (PartitionOffsets(7, "", 0, 7, PartitionOffsets(9, "", 0, 5)), None),
    ],
)
def test_lag_counts_from_the_committed_offset_or_from_where_the_log_begins(
    place: PartitionOffsets, lag: int | None
) -> None:
    assert place.lag == lag


def test_the_lag_of_a_group_that_stands_past_the_end_of_a_log_is_not_known() -> None:
    told = summarise(
        "p",
        Observations(
            {0: PartitionOffsets(99, "", 0, 10), 1: PartitionOffsets(5, "", 0, 10)}, {}, [], ["partition 0: …"]
        ),
    )
    assert (told.lag, told.partitions[0].lag, told.partitions[1].lag) == (None, None, 5)
    assert (told.state, told.reason) == ("stopped", "partition 0: …")


def test_a_group_that_has_committed_nothing_has_the_whole_log_before_it() -> None:
    told = summarise("p", Observations({0: PartitionOffsets(None, "", 0, 7)}, {}, []))
    assert (told.state, told.lag) == ("stopped", 7)
    assert told.partitions[0] == report.Partition(partition=0, committed=None, snapshot=None, lag=7, learned=0)
    assert told.counts == report.Totals(0, 0, 0, 0)


def test_an_offset_that_another_tool_has_set_counts_nothing() -> None:
    told = summarise("p", Observations({0: PartitionOffsets(4, "set by hand", 0, 7)}, {}, []))
    assert told.counts == report.Totals(0, 0, 0, 0)
    assert told.lag == 3


@pytest.mark.parametrize(
    ("notes", "state", "reason"),
    [
        ([], "stopped", None),
        ([note("running")], "running", None),
        ([note("connecting")], "running", None),
        ([note("connecting", reason="store away")], "paused", "store away"),
        ([note("running"), note("relearning")], "relearning", None),
        ([note("relearning"), note("paused", reason="a flood")], "paused", "a flood"),
        (
            [note("paused", reason="one"), note("paused", reason="two"), note("paused", reason="one")],
            "paused",
            "one; two",
        ),
    ],
)
def test_the_state_is_that_of_the_worker_that_is_worst_off(
    notes: list[dict[str, Any]], state: str, reason: str | None
) -> None:
    told = summarise("p", Observations(PLACES, SNAPSHOTS, notes))
    assert (told.state, told.reason) == (state, reason)


def test_the_reason_of_a_stopped_stream_is_shown_after_the_stop_and_not_while_it_runs() -> None:
    reasons = ["flood of bad records (wrong_type in amount)"]
    told = summarise("p", Observations(PLACES, {}, [], stop_reasons=reasons))
    assert (told.state, told.reason) == ("stopped", reasons[0])
    told = summarise("p", Observations(PLACES, {}, [{"state": "running"}], stop_reasons=reasons))
    assert (told.state, told.reason) == ("running", None)


def test_without_kafka_the_rest_still_stands_and_what_only_it_knows_is_none() -> None:
    told = summarise("p", Observations(None, SNAPSHOTS, [note("paused", reason="Kafka is away")], ["no answer"]))
    assert (told.state, told.reason) == ("paused", "Kafka is away")
    assert (told.lag, told.counts) == (None, None)
    assert told.partitions == [report.Partition(0, None, 9, None, None)]
    assert told.quality == {"scored": 10, "accuracy": 0.5, "accuracy_recent": 0.5}


def test_without_kafka_nothing_runs_even_when_a_worker_has_not_noticed_yet() -> None:
    told = summarise("p", Observations(None, SNAPSHOTS, [note("running")], ["Kafka does not answer"]))
    assert (told.state, told.reason) == ("paused", "Kafka does not answer")


def test_without_the_store_the_rest_still_stands() -> None:
    told = summarise("p", Observations(PLACES, None, [note("paused", reason="the store is away")], ["no answer"]))
    assert (told.state, told.reason, told.lag) == ("paused", "the store is away", 2)
    assert told.counts is not None
    assert told.quality is None
    assert told.partitions[0].snapshot is None


def test_without_the_store_members_of_the_group_on_other_machines_are_paused() -> None:
    assert summarise("p", Observations(PLACES, None, [], ["the store is away"], unseen_members=2)).state == "paused"
    assert summarise("p", Observations(PLACES, None, [], ["the store is away"])).state == "stopped"


@pytest.mark.parametrize(
    ("seen", "nothing"),
    [
        (Observations(None, None, []), True),
        (Observations({}, None, []), False),
        (Observations(None, {}, []), False),
        (Observations(None, None, [note("paused")]), False),
    ],
)
def test_nothing_is_known_only_when_all_three_are_silent(seen: Observations, *, nothing: bool) -> None:
    assert seen.nothing is nothing


def test_the_quality_of_a_worker_wins_over_that_of_an_older_snapshot() -> None:
    running = note("running", quality={"0": {"scored": 30, "accuracy": 0.9, "accuracy_recent": 0.8}})
    told = summarise(
        "p",
        Observations(PLACES, {**SNAPSHOTS, 1: {"offset": 5, "quality": {"scored": 10, "accuracy": 0.5}}}, [running]),
    )
    assert told.quality == pytest.approx({"scored": 40, "accuracy": 0.8, "accuracy_recent": 0.8})


def test_errors_are_combined_by_what_was_scored_and_squares_through_their_roots() -> None:
    combined = combine(
        [
            {"scored": 1, "mae": 3.0, "rmse": 3.0, "mae_recent": 3.0},
            {"scored": 3, "mae": 1.0, "rmse": 1.0, "mae_recent": 2.0},
            {"scored": 0},
        ]
    )
    assert combined == pytest.approx({"scored": 4, "mae": 1.5, "rmse": 3.0**0.5, "mae_recent": 2.25})


def test_nothing_scored_is_no_accuracy() -> None:
    assert combine([]) == {"scored": 0}
    assert combine([{"scored": 0}]) == {"scored": 0}


def test_a_worker_is_listed_once_with_the_note_of_its_own_machine() -> None:
    stored = {0: note("running"), 1: note("running", token="t1", ordinal=1, host="there")}
    local = {0: note("paused", reason="the store is away")}
    merged = alive(stored, local, host="here", running={7: True})
    assert [(n["ordinal"], n["state"]) for n in merged] == [(0, "paused"), (1, "running")]


def test_a_worker_of_this_machine_whose_process_is_gone_is_not_alive() -> None:
    stored = {0: note("running"), 1: note("running", token="t1", ordinal=1, pid=8)}
    assert [n["pid"] for n in alive(stored, {}, host="here", running={7: False, 8: True})] == [8]
    assert [n["pid"] for n in alive(stored, {}, host="elsewhere", running={7: False, 8: False})] == [7, 8]


def test_a_worker_that_still_connects_is_shown_with_no_partitions() -> None:
    connecting = {"token": "t", "host": "here", "pid": 7, "ordinal": 0, "started_ms": 1, "state": "connecting"}
    (told,) = summarise("p", Observations(PLACES, {}, [connecting])).workers
    assert (told["partitions"], told["relearning"], told["state"]) == ([], {}, "connecting")
    assert "token" not in told
