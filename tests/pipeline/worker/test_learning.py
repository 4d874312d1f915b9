"""A batch until it is learned: what lies below the committed offset is silent, what lies above is for output."""

import json
from typing import Any

import pytest
from loop_rig import Loop, record, records
from memory_kafka import Kafka

from headrace.consumers.source import Committed
from headrace.state.shard import Shard
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreFenced
from headrace.state.store.tables import TableDamaged


def confirmed(loop: Loop, batch: Any) -> None:
    loop.inflight.add(batch)
    loop.inflight.move()
    loop.inflight.settle()


def heir(kafka: Kafka, store: Store, *, committed: int = 15) -> tuple[Loop, Shard]:
    """Return a worker that stands at 0 and has to relearn until `committed`."""
    before = Loop(kafka, store)
    before.take()
    confirmed(before, before.learn(committed))
    loop = Loop(kafka, store)
    return loop, loop.take()


def test_a_batch_tells_where_each_partition_stands_behind_it(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)
    shard = loop.take()
    batch = loop.learn(10)
    assert batch.ends == {0: (10, -1)}
    assert (shard.offset, shard.committed, shard.counts.learned) == (10, 0, 10)
    assert batch.membership == kafka.generation


def test_a_batch_across_the_committed_offset_is_silent_below_it_and_for_output_above(
    kafka: Kafka, store: Store
) -> None:
    loop, shard = heir(kafka, store, committed=15)
    assert loop.learn(10) is None
    assert (shard.offset, loop.learning.relearned) == (10, 10)
    batch = loop.learn(10)
    assert (shard.offset, loop.learning.relearned) == (20, 15)
    confirmed(loop, batch)
    assert kafka.predicted() == list(range(20)), "those below the committed offset are not sent again"
    assert shard.counts.learned == 20


def test_records_that_come_again_are_not_learned_again(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)
    shard = loop.take()
    loop.learn(10)
    loop.source.next[0, False] = 5
    batch = loop.learn(10)
    assert (shard.offset, shard.counts.learned, batch.ends) == (15, 15, {0: (15, -1)})


def test_records_of_a_partition_that_is_anothers_are_left_alone(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)
    loop.take()
    loop.shards.clear()
    assert loop.learn(10) is None


@pytest.mark.parametrize("end", [15, 18])
def test_relearning_passes_over_a_gap_before_the_committed_offset(kafka: Kafka, store: Store, end: int) -> None:
    # Control records and aborted ones: the log's end tells that there is nothing more.
    loop, shard = heir(kafka, store, committed=12)
    shard.relearn_to(15, -1)
    loop.takeover._relearning[0].mark = None
    del kafka.logs[0][12:]
    loop.source.poll = lambda **_: _batch(loop, end)  # type: ignore[method-assign]
    assert shard.is_relearning
    batch = loop.learn(100)
    assert not shard.is_relearning
    assert shard.offset == end
    assert (batch is None) == (end == 15)
    assert shard.counts.learned == 12


def _batch(loop: Loop, end: int) -> Any:
    found = type(loop.source).poll(loop.source, records_max=100, wait_s=0.0)
    found[False, 0].end = end
    return found


def test_an_end_without_records_is_committed_too(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)
    loop.take()
    confirmed(loop, loop.learn(30))
    assert loop.learn(10) is None, "the end is where it stands"


def test_partitions_take_turns_in_batches_of_one_partition_each(store: Store) -> None:
    kafka = Kafka(partitions=3)
    loop = Loop(kafka, store, assigned=(0, 1, 2))
    for partition in kafka.logs:
        kafka.append(partition, records(5))
        loop.take(partition)
    firsts = []
    run = loop.engine.run

    def note(shard: Shard, *args: Any, **options: Any) -> Any:
        firsts.append(shard.partition)
        return run(shard, *args, **options)

    loop.engine.run = note  # type: ignore[method-assign]
    for _ in range(4):
        loop.learn(100)
        for partition in kafka.logs:
            kafka.append(partition, [record(7)])
    assert len({firsts[0], firsts[3], firsts[6]}) == 3


def test_a_batch_takes_about_half_a_second_to_learn(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, batch_records=1_000)
    loop.take()
    run = loop.engine.run
    took_s = 5.0

    def slow(*args: Any, **options: Any) -> Any:
        loop.let_pass(took_s)
        return run(*args, **options)

    loop.engine.run = slow  # type: ignore[method-assign]
    assert loop.learning.batch_records == 500
    loop.learn(10)
    assert loop.learning.batch_records == 1, "ten took five seconds"
    took_s = 0.0
    for most in (2, 4, 8):
        loop.learn(1)
        assert loop.learning.batch_records == most, "at most twice as many as before"


@pytest.mark.parametrize("error", [StoreFenced("another owner"), TableDamaged("a row can't be read")])
def test_a_store_that_is_anothers_or_damaged_in_the_middle_of_a_batch_is_away_for_the_shard(
    kafka: Kafka, store: Store, error: Exception
) -> None:
    loop = Loop(kafka, store)
    loop.take()

    def fail(*_args: Any, **_options: Any) -> Any:
        raise error

    loop.engine.run = fail  # type: ignore[method-assign]
    with pytest.raises(StoreAway, match="partition 0"):
        loop.learn(10)
    assert (loop.takeover._distrusted == {0}) == isinstance(error, TableDamaged)


def test_records_that_came_during_a_pause_are_read_again_from_the_first_of_them(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store)
    loop.take()
    batch = loop.source.poll(records_max=10, wait_s=0.0)
    loop.learning.put_back(batch)
    assert loop.source.next[0, False] == 0
    assert loop.source.paused == {(0, False)}


class TestALabelsTopic:
    """Two logs in one order."""

    @pytest.fixture
    def kafka(self) -> Kafka:
        made = Kafka()
        made.append(0, [_features(number) for number in range(5)], at_ms=10)
        made.append(0, [_label(number) for number in range(5)], at_ms=20, labels=True)
        return made

    def test_a_label_is_learned_with_its_features_and_both_places_go_on(self, kafka: Kafka, store: Store) -> None:
        loop = Loop(kafka, store, labels_wait="1s")
        shard = loop.take()
        while shard.place != (5, 5):
            loop.let_pass(1.0)
            if (batch := loop.learn(100)) is not None:
                confirmed(loop, batch)
        assert (shard.counts.records, shard.counts.learned) == (5, 5)
        assert kafka.offsets[0] == Committed(5, shard.mark, 5)

    def test_records_wait_for_the_other_log(self, kafka: Kafka, store: Store) -> None:
        loop = Loop(kafka, store, labels_wait="1s")
        shard = loop.take()
        loop.source.is_at_end = lambda *_args, **_options: False  # type: ignore[method-assign]
        loop.source.pause_log(0, labels=True)
        assert loop.learn(100) is None
        assert loop.learning.waits
        assert shard.place == (0, 0)
        loop.learning.end(0)
        assert not loop.learning.waits

    def test_an_order_that_is_not_known_any_more_is_marked_anew(self, kafka: Kafka, store: Store) -> None:
        loop = Loop(kafka, store, labels_wait="1s")
        shard, steps = loop.takeover.take(0)
        assert steps == []
        loop.source.read_from(0, *shard.place)
        loop.shards[0] = shard
        loop.learning.begin(shard, None)
        assert loop.learning.waits
        batch = loop.learn(0)
        assert batch.ends == {0: (0, 0)}, "a mark of the new order is committed before anything else"


def _features(number: int) -> bytes:
    value = json.loads(record(number))
    return json.dumps({"id": f"r{number}", "features": value["features"]}).encode()


def _label(number: int) -> bytes:
    return json.dumps({"id": f"r{number}", "label": number % 2 == 0}).encode()
