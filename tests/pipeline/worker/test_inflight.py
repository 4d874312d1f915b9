"""The batches between learned and confirmed: one under way, one behind it, and none lost, doubled or overtaken."""

import math
import threading
import time
from typing import Any

import pytest
from loop_rig import Loop
from memory_kafka import Kafka

from headrace.consumers.source import SourceAway, SourceLost
from headrace.pipeline.worker import inflight as inflights
from headrace.producers.sink import BatchStale, SinkAway
from headrace.state.store.store import Store


@pytest.fixture
def loop(kafka: Kafka, store: Store) -> Loop:
    made = Loop(kafka, store)
    made.take()
    return made


def bring(loop: Loop, *, until: Any) -> None:
    """Move batches on, with the time that breakers want to pass, until all is as it should be."""
    for _ in range(200):
        loop.inflight.move()
        if until():
            return
        loop.inflight.wait(0.05)
        loop.let_pass(2.0)
    raise AssertionError("it never comes to that")


def test_a_confirmed_batch_moves_the_shards_committed_offset_and_its_mark(loop: Loop, kafka: Kafka) -> None:
    shard = loop.shards[0]
    loop.inflight.add(loop.learn(10))
    assert (shard.offset, shard.committed) == (10, 0)
    loop.inflight.move()
    loop.inflight.settle()
    assert (shard.committed, shard.mark) == (10, kafka.offsets[0].metadata)
    assert loop.inflight.state == "empty"


def test_the_next_batch_goes_when_the_one_before_is_confirmed(loop: Loop, kafka: Kafka) -> None:
    kafka.may_answer.clear()
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    loop.inflight.add(loop.learn(10))
    for _ in range(3):
        loop.inflight.move()
    assert (kafka.calls.count("send"), loop.shards[0].committed) == (1, 0)
    assert loop.inflight.learn_in_s(1.0) == math.inf, "there is no room for a third"
    kafka.may_answer.set()
    bring(loop, until=lambda: loop.inflight.state == "empty")
    assert kafka.predicted() == list(range(20))
    assert loop.shards[0].committed == 20


def test_a_batch_that_can_not_be_sent_now_waits_for_its_breaker_and_is_sent_once(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", SinkAway("gone"), SinkAway("gone"))
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    loop.inflight.settle()
    loop.inflight.move()
    assert kafka.calls.count("send") == 1, "not before the breaker allows it"
    assert loop.inflight.state == "waiting"
    bring(loop, until=lambda: loop.inflight.state == "empty")
    assert (kafka.predicted(), kafka.calls.count("send")) == (list(range(10)), 3)


def test_a_batch_that_failed_is_sent_before_the_one_behind_it(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", SinkAway("gone"))
    kafka.may_answer.clear()
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    loop.inflight.add(loop.learn(10))
    kafka.may_answer.set()
    bring(loop, until=lambda: loop.inflight.state == "empty")
    assert kafka.predicted() == list(range(20))


def test_a_batch_that_is_held_is_never_sent(loop: Loop, kafka: Kafka) -> None:
    batch = loop.learn(10)
    loop.inflight.add(batch)
    loop.inflight.hold(batch)
    loop.inflight.move()
    loop.inflight.settle()
    assert kafka.calls.count("send") == 0
    assert loop.inflight.state == "held"


def test_only_hearing_hands_nothing_over(loop: Loop, kafka: Kafka) -> None:
    loop.inflight.add(loop.learn(10))
    loop.inflight.move(hand_over=False)
    assert kafka.calls.count("send") == 0
    loop.inflight.move()
    loop.inflight.settle()
    assert kafka.predicted() == list(range(10))


def test_a_stale_batch_takes_the_one_behind_it_along(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", BatchStale("the group has moved on"))
    kafka.may_answer.clear()
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    loop.inflight.add(loop.learn(10))
    kafka.may_answer.set()
    loop.parts.assignment.settle()
    assert loop.inflight.state == "empty"
    assert (kafka.predicted(), loop.shards) == ([], {}), "the models that learned them are dropped with them"
    assert loop.count("stale_batches_total") == 1


def test_a_stale_batch_is_reported_by_each_call_that_moves_batches(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", *[BatchStale("the group has moved on")] * 2)
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    with pytest.raises(BatchStale):
        loop.inflight.settle()
    assert loop.inflight.partitions() == {0}, "whoever is told drops it"
    loop.inflight.clear()
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    loop.inflight.wait(5.0)
    with pytest.raises(BatchStale):
        loop.inflight.move()


def test_it_tells_which_partitions_are_not_confirmed(loop: Loop) -> None:
    assert not loop.inflight.touches([0])
    loop.inflight.add(loop.learn(10))
    assert loop.inflight.touches([0, 1])
    assert not loop.inflight.touches([1])
    assert loop.inflight.partitions() == {0}
    loop.inflight.move()
    loop.inflight.settle()
    assert loop.inflight.partitions() == set()


def test_the_next_batch_is_learned_so_that_it_is_done_when_the_first_is_confirmed(loop: Loop, kafka: Kafka) -> None:
    # Handing over takes some time, as was seen.
    kafka.meanwhile["send"] = lambda: loop.let_pass(1.0)
    for _ in range(2):
        loop.inflight.add(loop.learn(5))
        loop.inflight.move()
        loop.inflight.settle()
    kafka.meanwhile.clear()
    kafka.may_answer.clear()
    loop.inflight.add(loop.learn(5))
    loop.inflight.move()
    early, late = loop.inflight.learn_in_s(0.1), loop.inflight.learn_in_s(0.3)
    assert early - late == pytest.approx(0.2, abs=0.01)
    loop.let_pass(1.0)
    assert loop.inflight.learn_in_s(0.1) == 0.0
    assert loop.inflight.learn_in_s(0.001) == math.inf, "what is quick is learned afterwards, with all that has come"
    kafka.may_answer.set()


def test_a_call_that_never_ends_ends_the_worker(loop: Loop, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflights, "_SETTLE_S", 0.01)
    kafka.may_answer.clear()
    loop.inflight.add(loop.learn(10))
    loop.inflight.move()
    with pytest.raises(SourceLost):
        loop.inflight.settle()
    kafka.may_answer.set()


class TestWithoutTransactions:
    """Offsets are committed after what was sent, beside the loop."""

    @pytest.fixture
    def loop(self, kafka: Kafka, store: Store) -> Loop:
        made = Loop(kafka, store, commits=False, batch_records=1)
        made.take()
        return made

    def test_more_is_sent_while_offsets_are_committed_and_they_come_in_order(self, loop: Loop, kafka: Kafka) -> None:
        kafka.fail("commit", SourceAway("gone"), SourceAway("gone"))
        for _ in range(3):
            loop.inflight.add(loop.learn(5))
            bring(loop, until=lambda: loop.inflight.learn_in_s(0.0) == 0.0)
        bring(loop, until=lambda: loop.inflight.state == "empty")
        assert kafka.predicted() == list(range(15))
        assert kafka.offsets[0].offset == loop.shards[0].committed == 15

    def test_to_settle_waits_for_the_offsets_too(self, loop: Loop, kafka: Kafka) -> None:
        kafka.meanwhile["commit"] = lambda: time.sleep(0.05)
        loop.inflight.add(loop.learn(5))
        loop.inflight.move()
        loop.inflight.settle()
        assert loop.inflight.state == "empty"
        assert kafka.offsets[0].offset == loop.shards[0].committed == 5

    def test_offsets_that_failed_are_committed_before_those_of_what_was_sent_since(
        self, loop: Loop, kafka: Kafka
    ) -> None:
        may_fail = threading.Event()
        kafka.meanwhile["commit"] = lambda: may_fail.wait(20)
        kafka.fail("commit", SourceAway("gone"))
        for _ in range(2):
            loop.inflight.add(loop.learn(5))
            loop.inflight.move()
            loop.inflight.wait(5.0)
            loop.inflight.move()
        may_fail.set()
        bring(loop, until=lambda: loop.inflight.state == "empty")
        assert kafka.predicted() == list(range(10))
        assert kafka.offsets[0].offset == loop.shards[0].committed == 10

    def test_while_offsets_can_not_be_committed_nothing_more_is_sent(self, loop: Loop, kafka: Kafka) -> None:
        kafka.fail("commit", *[SourceAway("gone")] * 99)
        loop.inflight.add(loop.learn(5))
        bring(loop, until=lambda: loop.count("failures_total", dependency="kafka") > 0)
        assert loop.inflight.learn_in_s(0.0) == math.inf
        assert (kafka.predicted(), loop.shards[0].committed) == (list(range(5)), 0)
        assert loop.inflight.state != "empty"
        kafka.faults.clear()
        bring(loop, until=lambda: loop.inflight.state == "empty")
        assert loop.inflight.learn_in_s(0.0) == 0.0
