"""The loop: what it does with each batch and in which order, and what it does when something is away or taken."""

import time
from typing import Any

import pytest
from loop_rig import Loop, MemoryWebhook, records
from memory_kafka import Kafka

from headrace.consumers.source import SourceAway
from headrace.pipeline.worker.runner import FloodError
from headrace.producers.sink import BatchStale, OutcomeUnknown, SinkAway
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway


def test_each_record_is_predicted_and_learned_once_and_the_end_is_saved(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30})
    loop.run()
    loop.assert_handled(30)
    assert loop.saved() == 30
    assert loop.source.closed
    assert loop.dog.ends, "what the clients take to close is bounded"
    assert loop.count("records_total", outcome="predicted") == loop.count("learned_total") == 30


def test_a_batch_is_polled_then_learned_then_committed_and_only_then_saved(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30}, batch_records=30, snapshot_records=30)
    loop.run()
    steps = [step for step in loop.passed if step != "polled" or loop.passed.index("learned") > 0]
    order = [step for step in steps if step in {"assigning", "learned", "committed", "saving", "saved"}]
    assert order == ["assigning", "learned", "committed", "saving", "saved"]
    assert loop.passed.index("polled") < loop.passed.index("learned")


def test_a_snapshot_is_taken_at_a_confirmed_offset_and_never_of_a_batch_in_flight(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30}, snapshot_records=1)
    loop.learns_slowly()
    kafka.meanwhile["send"] = lambda: time.sleep(0.02)
    seen: list[tuple[int, int]] = []
    for nth in range(1, 4):
        loop.at("saving", lambda: seen.append((loop.shards[0].offset, kafka.offsets[0].offset)), nth=nth)
    loop.run()
    assert seen == [(10, 10), (20, 20), (30, 30)]
    loop.assert_handled(30)


def test_a_batch_that_kafka_did_not_take_is_sent_again_unchanged_and_learned_once(kafka: Kafka, store: Store) -> None:
    kafka.fail("send", SinkAway("gone"), None, SinkAway("gone"))
    loop = Loop(kafka, store, ends={0: 30})
    loop.run()
    loop.assert_handled(30)
    assert loop.count("failures_total", dependency="kafka") == 2
    assert loop.passed.count("learned") == loop.batches


def test_a_batch_whose_end_is_unknown_is_not_sent_again_if_it_had_been_committed(kafka: Kafka, store: Store) -> None:
    kafka.fail("sent", OutcomeUnknown("no answer"))
    loop = Loop(kafka, store, ends={0: 30})
    loop.run()
    loop.assert_handled(30)
    assert loop.count("unknown_outcomes_total") == 1


def test_a_batch_whose_end_is_unknown_is_sent_again_if_it_had_not_been_committed(kafka: Kafka, store: Store) -> None:
    kafka.fail("send", None, OutcomeUnknown("no answer"))
    loop = Loop(kafka, store, ends={0: 30})
    loop.run()
    loop.assert_handled(30)
    assert loop.count("unknown_outcomes_total") == 1


def test_a_batch_that_is_anothers_by_now_is_dropped_and_its_partition_is_relearned(kafka: Kafka, store: Store) -> None:
    kafka.fail("send", None, BatchStale("the group has moved on"))
    loop = Loop(kafka, store, ends={0: 30})
    loop.run()
    loop.assert_handled(30)
    assert (loop.count("stale_batches_total"), loop.count("takeovers_total")) == (1, 2)
    assert loop.count("relearned_total") == 10, "what was committed and not saved"
    dropped = kafka.calls.index("close")
    assert "poll" in kafka.calls[dropped : kafka.calls.index("open", dropped)], "a poll tells first whose it is"


def test_a_partition_that_comes_back_is_taken_over_from_its_committed_offset(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30})

    def move() -> None:
        loop.source.changes.extend([((), (0,)), ((0,), ())])

    loop.at("committed", move)
    loop.run()
    loop.assert_handled(30)
    assert loop.passed.count("revoking") == 1
    assert loop.count("takeovers_total") == 2


def test_a_rebalance_waits_for_the_batch_that_is_under_way(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30})
    loop.learns_slowly()
    seen: list[int] = []
    kafka.may_answer.clear()
    loop.at("learned", lambda: loop.source.changes.extend([((), (0,)), ((0,), ())]))
    loop.at("revoking", loop.answer_soon)
    loop.at("committed", lambda: seen.append(len(loop.shards)))
    loop.run()
    assert seen == [1], "it is confirmed before the partition is let go"
    loop.assert_handled(30)
    assert loop.count("stale_batches_total") == 0


def test_a_partition_that_is_assigned_again_without_being_taken_is_taken_over_anew(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30})
    known: list[bool] = []
    loop.at("committed", lambda: loop.source.changes.append(((0,), ())))
    loop.at("assigning", lambda: kafka.meanwhile.update(committed=lambda: known.append(0 in loop.shards)), nth=2)
    loop.run()
    loop.assert_handled(30)
    assert not known[0], "what it had learned before is forgotten before it is taken over"
    assert (loop.count("takeovers_total"), loop.count("relearned_total")) == (2, 10)


def test_a_partition_is_taken_over_when_nothing_is_under_way_any_more(store: Store) -> None:
    # The open transaction would make the committed offsets wait for it.
    kafka = Kafka(partitions=2)
    kafka.append(0, records(30))
    kafka.append(1, records(10))
    loop = Loop(kafka, store, assigned=(0, 1), ends={0: 30, 1: 10})
    # The first takeover takes so long that the second has to wait for a poll, which brings records.
    kafka.meanwhile["open"] = lambda: loop.let_pass(6.0 if not loop.shards else 0.0)
    kafka.may_answer.clear()
    loop.at("learned", loop.answer_soon)
    loop.learns_slowly()
    states: list[tuple[str, int]] = []
    kafka.meanwhile["committed"] = lambda: states.append((loop.inflight.state, loop.passed.count("learned")))
    loop.run()
    loop.assert_handled(30, 0)
    loop.assert_handled(10, 1)
    assert next(found for found in states if found[1]) == ("empty", 1), "before a second batch is learned"


def test_a_partition_that_comes_during_a_pause_is_taken_over_and_paused(store: Store) -> None:
    kafka = Kafka(partitions=2)
    kafka.append(0, records(30))
    kafka.append(1, records(10))
    webhook = MemoryWebhook()
    webhook.away = 6
    loop = Loop(kafka, store, ends={0: 30, 1: 10}, webhook=webhook)
    webhook.meanwhile = lambda: loop.let_pass(0.5)
    loop.at("paused", lambda: loop.source.changes.append(((1,), ())))
    paused: list[bool] = []
    for nth in range(2, 50):
        loop.at(
            "paused", lambda: paused.append((1, False) in loop.source.paused) if 1 in loop.shards else None, nth=nth
        )
    loop.run()
    loop.assert_handled(30, 0)
    loop.assert_handled(10, 1)
    assert paused
    assert all(paused)


def test_a_batch_that_waits_for_its_sink_goes_when_its_partition_goes(kafka: Kafka, store: Store) -> None:
    kafka.fail("send", *[SinkAway("gone")] * 2)
    loop = Loop(kafka, store, ends={0: 30})
    kafka.meanwhile["send"] = lambda: loop.let_pass(1.5)
    loop.at("learned", lambda: loop.source.changes.extend([((), (0,)), ((0,), ())]))
    loop.run()
    loop.assert_handled(30)
    assert loop.count("stale_batches_total") == 1


def test_the_stream_pauses_while_kafka_is_away_polls_on_and_goes_on_from_the_same_record(
    kafka: Kafka, store: Store
) -> None:
    kafka.fail("send", *[SinkAway("gone")] * 4)
    loop = Loop(kafka, store, ends={0: 30})
    kafka.meanwhile["send"] = lambda: loop.let_pass(0.5)
    polls: list[int] = []

    def look() -> None:
        polls.append(kafka.calls.count("poll"))
        assert loop.source.paused == {(0, False)}

    for nth in range(1, 50):
        loop.at("paused", look, nth=nth)
    loop.run()
    loop.assert_handled(30)
    assert len(polls) > 1
    assert polls == sorted(set(polls)), "each pause has its poll"
    assert loop.source.paused == set()
    assert any(note["state"] == "paused" and "gone" in note["reason"] for note in loop.ordinal.notes)


def test_records_that_come_during_a_pause_are_put_back(kafka: Kafka, store: Store) -> None:
    webhook = MemoryWebhook()
    webhook.away = 4
    loop = Loop(kafka, store, ends={0: 30}, webhook=webhook)
    webhook.meanwhile = lambda: loop.let_pass(0.5)
    # Records that were on their way when the client was told to pause.
    loop.at("paused", loop.source.paused.clear)
    seen: list[tuple[int, set[tuple[int, bool]]]] = []
    loop.at("paused", lambda: seen.append((loop.source.next[0, False], set(loop.source.paused))), nth=2)
    loop.run()
    loop.assert_handled(30)
    assert seen == [(10, {(0, False)})]


def test_the_stream_goes_on_from_where_the_shard_stands_wherever_the_client_believes_to_be(
    kafka: Kafka, store: Store
) -> None:
    kafka.fail("send", *[SinkAway("gone")] * 4)
    loop = Loop(kafka, store, ends={0: 30})
    kafka.meanwhile["send"] = lambda: loop.let_pass(0.5)
    loop.at("paused", lambda: loop.source.next.update({(0, False): 25}))
    loop.run()
    loop.assert_handled(30)


@pytest.mark.parametrize("call", ["committed", "watermarks", "read_log_from", "open"])
def test_a_takeover_that_kafka_does_not_answer_is_tried_again(kafka: Kafka, store: Store, call: str) -> None:
    loop = Loop(kafka, store, ends={0: 30})
    error = SinkAway("gone") if call == "open" else SourceAway("gone")
    loop.at("assigning", lambda: kafka.fail(call, error))
    loop.run()
    loop.assert_handled(30)
    assert loop.count("failures_total", dependency="kafka") == 1


def test_a_store_that_is_away_when_a_snapshot_is_due_stops_the_stream_until_it_is_back(
    kafka: Kafka, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(kafka, store, ends={0: 30}, snapshot_records=10)
    faults = [StoreAway("gone"), StoreAway("gone")]
    save = store.save_packed
    learned: list[int] = []

    def saves(*args: object, **options: object) -> int:
        learned.append(loop.shards[0].offset)
        if faults:
            raise faults.pop()
        return save(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "save_packed", saves)
    loop.run()
    loop.assert_handled(30)
    assert learned[:3] == [10, 10, 10], "nothing is learned meanwhile"
    assert loop.saved() == 30


def test_shards_that_have_learned_half_a_batch_when_the_store_goes_away_begin_again(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30})
    run, calls = loop.engine.run, []

    def learn_and_fail(*args: Any, **options: Any) -> Any:
        calls.append(1)
        outputs = run(*args, **options)
        if len(calls) == 2:
            raise StoreAway("gone")
        return outputs

    loop.engine.run = learn_and_fail  # type: ignore[method-assign]
    loop.run()
    loop.assert_handled(30)
    assert loop.count("takeovers_total") == 2


def test_a_partition_whose_snapshot_is_refused_is_taken_over_again(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30}, snapshot_records=10)
    loop.at("saving", lambda: store.claim(0, floor=0) and None, nth=2)
    loop.run()
    loop.assert_handled(30)
    assert (loop.count("snapshots_total", result="fenced"), loop.count("takeovers_total")) == (1, 2)
    assert loop.saved() == 30


def test_the_next_batch_is_learned_while_one_is_under_way_and_no_further_one(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, ends={0: 30})
    loop.learns_slowly()
    kafka.may_answer.clear()
    seen: list[int] = []

    def look() -> None:
        seen.append(kafka.calls.count("send"))
        loop.answer_soon()

    loop.at("learned", look, nth=2)
    loop.at("learned", lambda: seen.append(loop.batches), nth=3)
    loop.run()
    loop.assert_handled(30)
    assert seen == [1, 1], "the second was learned before the first was confirmed, the third after it"


def test_asked_to_stop_it_finishes_the_batch_saves_and_leaves(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)

    def ask() -> None:
        loop.stop.asked = True

    loop.at("learned", ask, nth=2)
    loop.run()
    assert kafka.predicted() == list(range(20))
    assert loop.saved() == kafka.offsets[0].offset == 20
    assert loop.source.closed


def test_asked_to_stop_while_kafka_is_away_it_leaves_the_batch_to_the_next_start(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)

    def ask() -> None:
        kafka.fail("send", *[SinkAway("gone")] * 99)
        loop.stop.asked = True

    loop.at("learned", ask, nth=2)
    loop.at("draining", lambda: kafka.meanwhile.update(send=lambda: loop.let_pass(1.5)))
    loop.run()
    kafka.meanwhile.clear()
    assert (kafka.offsets[0].offset, loop.saved()) == (10, None), "what is not committed is not saved"
    after = Loop(kafka, store, ends={0: 30})
    kafka.faults.clear()
    after.run()
    after.assert_handled(30)


def test_a_flood_of_bad_records_ends_a_run_that_is_to_end_by_itself(store: Store) -> None:
    kafka = Kafka()
    kafka.append(0, [b"nonsense"] * 30)
    loop = Loop(kafka, store, ends={0: 30}, flood_window=10)
    with pytest.raises(FloodError, match="not_json"):
        loop.run()
    assert loop.ordinal.reasons[0] == "", "a start removes the reason of the run before it"
    assert "in[0]@" in loop.ordinal.reasons[1], "the reason is kept beyond the end, with an example"
    assert kafka.letters[0] == []
    assert kafka.offsets == {}


def test_a_flood_holds_the_batch_unsent_and_the_stream_paused(store: Store) -> None:
    kafka = Kafka()
    kafka.append(0, [b"nonsense"] * 30)
    loop = Loop(kafka, store, flood_window=10)

    def ask() -> None:
        loop.stop.asked = True

    loop.at("paused", ask, nth=3)
    loop.run()
    assert kafka.letters[0] == []
    assert "flood" in loop.ordinal.notes[-1]["reason"] or loop.parts.breakers.gate.flood
    assert loop.saved() is None


def test_two_partitions_are_learned_apart_and_committed_together(store: Store) -> None:
    kafka = Kafka(partitions=2)
    kafka.append(0, records(15))
    kafka.append(1, records(25, start=100))
    loop = Loop(kafka, store, assigned=(0, 1), ends={0: 15, 1: 25})
    loop.run()
    loop.assert_handled(15, 0)
    loop.assert_handled(25, 1)


def test_without_transactions_offsets_are_committed_after_what_was_sent(kafka: Kafka, store: Store) -> None:
    kafka.fail("commit", SourceAway("gone"))
    loop = Loop(kafka, store, ends={0: 30}, commits=False, snapshot_records=10)
    loop.run()
    loop.assert_handled(30)
    assert kafka.calls.index("send") < kafka.calls.index("commit")
    assert loop.saved() == 30
