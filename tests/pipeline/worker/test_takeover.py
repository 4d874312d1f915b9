"""A partition until it may go on: from which snapshot, from which offset, and when nobody but the operator can say."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from confluent_kafka import Message
from loop_rig import Loop, records
from memory_kafka import Kafka
from river import linear_model

from headrace.consumers.source import Committed, SourceLost
from headrace.pipeline.recovery.consistency import NameTaken, StateError
from headrace.state import snapshot
from headrace.state.models.learner import RiverLearner
from headrace.state.shard import Shard
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreFenced


def lived(kafka: Kafka, store: Store, *, saved: Sequence[int] = (30,), committed: int = 30) -> Loop:
    """Let a worker live until an offset is committed, with snapshots at these offsets."""
    loop = Loop(kafka, store)
    shard = loop.take()
    for end in sorted({*saved, committed}):
        batch = loop.learn(end - shard.offset)
        if end > committed:
            break
        loop.inflight.add(batch)
        loop.inflight.move()
        loop.inflight.settle()
        if end in saved:
            assert loop.save(shard) == "saved"
    return loop


def relearn(loop: Loop, shard: Shard) -> Shard:
    while shard.is_relearning:
        assert loop.learn(5) is None
    return shard


def model(shard: Shard) -> Any:
    return shard.model.dump()


def remark(kafka: Kafka, **changes: Any) -> None:
    """Change what the committed offset's mark tells; None takes the mark away."""
    place = kafka.offsets[0]
    mark = json.loads(place.metadata)
    kafka.offsets[0] = Committed(place.offset, json.dumps({**mark, **changes}))


def test_a_new_group_begins_at_the_beginning_of_the_log(kafka: Kafka, store: Store) -> None:
    kafka.lows[0] = 4
    shard = Loop(kafka, store).take()
    assert (shard.start, shard.offset, shard.committed, shard.epoch) == (4, 4, 4, 1)
    assert not shard.is_relearning


def test_a_shard_goes_on_from_its_snapshot_to_the_bit(kafka: Kafka, store: Store) -> None:
    before = lived(kafka, store).shards[0]
    after = Loop(kafka, store).take()
    assert (after.offset, after.committed, after.version, after.epoch) == (30, 30, 1, 2)
    assert (model(after), after.counts, after.secret) == (model(before), before.counts, before.secret)
    assert after.mark == kafka.offsets[0].metadata


def test_records_between_the_snapshot_and_the_committed_offset_are_relearned_without_output(
    kafka: Kafka, store: Store
) -> None:
    before = lived(kafka, store, saved=[10], committed=30).shards[0]
    loop = Loop(kafka, store)
    shard = loop.take()
    assert (shard.offset, shard.snapshot_offset, shard.committed) == (10, 10, 30)
    relearn(loop, shard)
    assert (model(shard), shard.counts) == (model(before), before.counts)
    assert kafka.predicted() == list(range(30))
    assert loop.count("relearned_total") == 20


def test_a_snapshot_past_the_committed_offset_is_passed_over(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, saved=[10, 20, 30])
    kafka.offsets[0] = msgspec.structs.replace(kafka.offsets[0], offset=20, metadata="")
    loop = Loop(kafka, store)
    shard = loop.take()
    assert (shard.offset, shard.committed, shard.version) == (20, 20, 2)


def test_an_older_owner_can_save_no_more(kafka: Kafka, store: Store) -> None:
    old = lived(kafka, store, saved=[10], committed=20)
    Loop(kafka, store).take()
    assert old.save(old.shards[0]) == "refused"
    with pytest.raises(StoreFenced):
        store.save(snapshot.take(old.shards[0], topic="in", topic_id="", now_ms=1))


def test_an_old_owner_that_has_committed_nothing_is_refused_a_save(kafka: Kafka, store: Store) -> None:
    old = Loop(kafka, store)
    shard = old.take()
    old.learn(10)
    assert (shard.epoch, Loop(kafka, store).take().epoch) == (1, 2)
    assert old.save(shard) == "refused"


def test_a_store_that_forgot_its_epochs_is_told_by_the_mark(kafka: Kafka, store: Store) -> None:
    lived(kafka, store)
    remark(kafka, e=7)
    store.client.flushall()
    assert Loop(kafka, store).take().epoch == 8


class TestAnEmptyStore:
    """Kafka's mark tells of a model that the store does not have."""

    @pytest.fixture(autouse=True)
    def _lost(self, kafka: Kafka, store: Store) -> None:
        lived(kafka, store, saved=[10], committed=20)
        self.secret = json.loads(kafka.offsets[0].metadata)["k"]
        store.client.flushall()

    def test_all_is_relearned_from_the_start_of_the_history(self, kafka: Kafka, store: Store) -> None:
        loop = Loop(kafka, store)
        shard = loop.take()
        assert (shard.offset, shard.committed, shard.secret) == (0, 20, self.secret)
        relearn(loop, shard)
        assert shard.counts.learned == 20
        assert loop.count("state_losses_total") == 1

    def test_it_stops_where_that_is_asked_for(self, kafka: Kafka, store: Store) -> None:
        with pytest.raises(StateError, match="no model of the 20 records before"):
            Loop(kafka, store, on_loss="stop").take()

    def test_a_new_history_begins_at_the_committed_offset_where_that_is_asked_for(
        self, kafka: Kafka, store: Store
    ) -> None:
        shard = Loop(kafka, store, on_loss="fresh").take()
        assert (shard.start, shard.offset, shard.committed, shard.counts.records) == (20, 20, 20, 0)

    def test_a_log_that_no_longer_reaches_back_stops_it(self, kafka: Kafka, store: Store) -> None:
        kafka.lows[0] = 5
        with pytest.raises(StateError, match="begins at 5, no longer reaches back to 0"):
            Loop(kafka, store).take()


def test_a_store_that_lost_its_newest_snapshot_is_counted_and_relearned(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, saved=[10, 20], committed=30)
    store.client.hdel("fraud:{fraud/0}:snapshots", "2")
    loop = Loop(kafka, store)
    shard = relearn(loop, loop.take())
    assert (shard.version, shard.counts.learned, loop.count("state_losses_total")) == (1, 30, 1)
    with pytest.raises(StateError, match="lost its snapshots from 10 to 20"):
        Loop(kafka, store, on_loss="stop").take()


def test_a_log_that_begins_past_the_snapshot_stops_it(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, saved=[10], committed=20)
    kafka.lows[0] = 12
    with pytest.raises(StateError, match="2 records are gone"):
        Loop(kafka, store).take()


def test_behind_records_that_were_never_read_and_are_gone_the_model_goes_on_if_the_operator_says_so(
    kafka: Kafka, store: Store
) -> None:
    before = lived(kafka, store, committed=20, saved=[20]).shards[0]
    kafka.lows[0] = 25
    with pytest.raises(StateError, match="5 records are gone"):
        Loop(kafka, store).take()
    loop = Loop(kafka, store, on_loss="fresh")
    shard = loop.take()
    assert (shard.start, shard.offset, shard.committed, shard.version) == (0, 25, 20, 1)
    assert (model(shard), shard.counts) == (model(before), before.counts)
    # Nothing is saved past the committed offset.
    loop.parts.saver.hurry(shard)
    assert not loop.parts.saver.due(shard)
    loop.inflight.add(loop.learn(5))
    loop.inflight.move()
    loop.inflight.settle()
    assert kafka.predicted() == [*range(20), *range(25, 30)]
    assert json.loads(kafka.offsets[0].metadata)["n"] == 25
    assert loop.parts.saver.due(shard)
    assert loop.save(shard) == "saved"
    after = Loop(kafka, store).take()
    assert (after.start, after.offset, model(after), after.counts.learned) == (0, 30, model(shard), 25)


def test_a_model_that_has_not_learned_all_that_was_committed_is_left_behind_with_the_records_that_are_gone(
    kafka: Kafka, store: Store
) -> None:
    lived(kafka, store, committed=20, saved=[10])
    kafka.lows[0] = 25
    shard = Loop(kafka, store, on_loss="fresh").take()
    assert (shard.start, shard.offset, shard.counts.learned) == (25, 25, 0)


@pytest.mark.parametrize("changes", [{"r": 19}, {"n": 21}])
def test_a_relearning_that_comes_to_other_counts_stops_it(kafka: Kafka, store: Store, changes: dict[str, int]) -> None:
    lived(kafka, store, saved=[10], committed=20)
    remark(kafka, **changes)
    loop = Loop(kafka, store)
    shard = loop.take()
    with pytest.raises(StateError, match="relearning gave 20 records and 20 learned"):
        relearn(loop, shard)


def test_the_counts_of_records_that_the_http_sink_refused_come_from_the_mark(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, saved=[10], committed=20)
    remark(kafka, p=18, d=2)
    loop = Loop(kafka, store)
    shard = relearn(loop, loop.take())
    assert (shard.counts.predictions, shard.counts.dead_letters) == (18, 2)


@pytest.mark.parametrize("end", [30, 60])
def test_another_model_stops_it_at_the_end_of_the_log_too(kafka: Kafka, store: Store, end: int) -> None:
    lived(kafka, store, saved=(end,), committed=end)
    with pytest.raises(StateError, match=r"model\.py builds another model than the one in the store"):
        Loop(kafka, store, model=linear_model.Perceptron).take()
    store.client.flushall()
    with pytest.raises(StateError, match=r"model\.py builds another model .* than the one that learned the log"):
        Loop(kafka, store, model=linear_model.Perceptron).take()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_model_that_has_learned_nothing_may_become_another_and_the_counts_go_on(
    kafka: Kafka, store: Store, *, is_kept: bool
) -> None:
    kafka.logs[0] = [
        Message(topic="in", partition=0, offset=at, key=b"k", value=b'{"features": {"a": 1}}', timestamp=(1, 1_000))
        for at in range(60)
    ]
    lived(kafka, store, saved=(10,), committed=30)
    if not is_kept:
        store.client.flushall()
    loop = Loop(kafka, store, model=linear_model.Perceptron)
    shard = loop.take()
    assert (shard.offset, shard.committed) == (10 if is_kept else 0, 30)
    relearn(loop, shard)
    assert (shard.counts.records, shard.counts.predictions, shard.counts.learned) == (30, 30, 0)
    assert model(shard) == RiverLearner(linear_model.Perceptron()).dump()


def test_another_projects_models_are_not_claimed(kafka: Kafka, store: Store) -> None:
    lived(kafka, store)
    kafka.offsets.clear()
    other = Loop(kafka, store)
    other.takeover._topic = msgspec.structs.replace(other.takeover._topic, name="other")
    with pytest.raises(NameTaken):
        other.takeover.take(0)
    assert store.epoch(0) == 1


def test_an_offset_that_another_tool_has_set_forward_stops_it(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, committed=10, saved=[10])
    kafka.offsets[0] = Committed(20, "")
    with pytest.raises(StateError, match="another tool has set the group's offset"):
        Loop(kafka, store).take()


def test_a_group_without_offsets_and_a_model_in_the_store_stop_it(kafka: Kafka, store: Store) -> None:
    lived(kafka, store)
    kafka.offsets.clear()
    with pytest.raises(StateError, match="no committed offset"):
        Loop(kafka, store).take()


def test_a_damaged_snapshot_is_passed_over_for_an_older_one(kafka: Kafka, store: Store) -> None:
    lived(kafka, store, saved=[10, 20], committed=20)
    store.client.hset("fraud:{fraud/0}:snapshots", "2", b"HEADRACE and no more")
    loop = Loop(kafka, store)
    shard = relearn(loop, loop.take())
    assert (shard.version, shard.counts.learned) == (1, 20)


def test_a_distrusted_partition_is_learned_again_from_the_log(kafka: Kafka, store: Store) -> None:
    lived(kafka, store)
    loop = Loop(kafka, store)
    loop.takeover.distrust(0)
    shard = loop.take()
    assert (shard.offset, shard.committed) == (0, 30)
    relearn(loop, shard)
    assert shard.counts.learned == 30


def test_a_partition_that_is_new_to_the_topic_ends_the_worker(kafka: Kafka, store: Store) -> None:
    with pytest.raises(SourceLost, match="more partitions"):
        Loop(kafka, store).takeover.take(1)


class TestALabelsTopic:
    """A shard's history is a prefix of two logs."""

    def live(self, kafka: Kafka, store: Store) -> Loop:
        for step in range(3):
            kafka.append(0, _unlabelled(step), at_ms=10 + step)
            kafka.append(0, _labels(step), at_ms=10 + step, labels=True)
        loop = Loop(kafka, store, labels_wait="100s")
        shard = loop.take()
        while shard.place != (15, 15):
            loop.let_pass(1.0)
            batch = loop.learn(100)
            if batch is not None:
                loop.inflight.add(batch)
                loop.inflight.move()
                loop.inflight.settle()
        return loop

    def test_it_is_relearned_in_the_very_steps_in_which_it_was_learned(self, store: Store) -> None:
        kafka = Kafka()
        before = self.live(kafka, store).shards[0]
        assert before.counts.learned == 15
        loop = Loop(kafka, store, labels_wait="100s")
        shard, steps = loop.takeover.take(0)
        assert steps
        assert steps[-1] == before.place == (shard.committed, shard.labels_committed)
        loop.source.read_from(0, *shard.place)
        loop.shards[0] = shard
        loop.learning.begin(shard, steps)
        relearn(loop, shard)
        assert (model(shard), shard.counts, shard.place) == (model(before), before.counts, before.place)

    def test_without_a_labels_topic_what_waits_for_labels_is_not_forgotten(self, store: Store) -> None:
        kafka = Kafka()
        self.live(kafka, store)
        with pytest.raises(StateError, match=r"no topics\.labels any more"):
            Loop(kafka, store).take()


def _unlabelled(step: int) -> list[bytes]:
    values = [json.loads(value) for value in records(5, start=5 * step)]
    return [
        json.dumps({"id": f"r{5 * step + number}", "features": value["features"]}).encode()
        for number, value in enumerate(values)
    ]


def _labels(step: int) -> list[bytes]:
    return [json.dumps({"id": f"r{5 * step + number}", "label": number % 2 == 0}).encode() for number in range(5)]
