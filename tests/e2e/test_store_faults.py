"""The store killed, emptied, put back to an old day, unable to write or damaged under a stream that goes on.

Whatever it loses costs time only: that is learned again from the log, each record once, and the promise holds.
"""

import contextlib
import functools
import json
import os
import pickle
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from harness import Project, Run, Steady, steady, values, wait_until
from oracle import promise

from headrace.pipeline.embedded import Stack
from headrace.pipeline.embedded.port import free_ports
from headrace.state import snapshot
from headrace.state.seal import Seal
from headrace.state.snapshot import Snapshot
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreFenced

pytestmark = pytest.mark.xdist_group("store")

Make = Callable[..., Project]

TIMES = 5
RATE = 500
MANY = 60_000
RESUME_S = 10.0
_values = functools.cache(values)
BODY_AT = 42  # behind magic, format, whether it is signed, and checksum


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    """Servers of this module's own: others could not bear what is done to the store."""
    with Stack() as running:
        yield running


@pytest.fixture
def project(servers: Stack, tmp_path: Path) -> Make:
    """Make a project that saves often, and that serves its metrics: they tell how much was relearned."""

    def make(**options: Any) -> Project:
        (port,) = free_ports(1)
        settings = {"HEADRACE__METRICS__PORT": str(port), "HEADRACE__SNAPSHOT__INTERVAL": "0.3s"}
        return Project(servers, tmp_path / "project", settings=settings, **options)

    return make


@contextlib.contextmanager
def _store(p: Project) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(p.stack.addresses.redis, socket_timeout=5) as client:
        yield client


def _key(p: Project, partition: int, part: str) -> str:
    return f"{p.name}:{{{p.name}/{partition}}}:{part}"


def _generations(p: Project, partition: int) -> list[tuple[bytes, bytes]]:
    """Return the snapshots of a partition with their versions, the newest last."""
    with _store(p) as store:
        return sorted(store.hgetall(_key(p, partition, "snapshots")).items(), key=lambda item: int(item[0]))


def _decoded(p: Project, partition: int, sealed: bytes) -> Snapshot:
    return snapshot.decode(sealed, Seal(p.name), partition=partition)


def _heads(p: Project, field: str = "offset") -> dict[int, int]:
    """Return a field of each partition's newest snapshot, its X unless told, as far as the store knows of any."""
    with _store(p) as store:
        found = {n: store.hget(_key(p, n, "head"), field) for n in p.sent}
    return {n: int(value) for n, value in found.items() if value is not None}


def _wait_for_saves(p: Project, *, since: Mapping[int, int] | None = None) -> None:
    """Wait for a newer snapshot of each partition than those of `since`, or than there are now."""
    before = _heads(p) if since is None else since
    wait_until(lambda: all(_heads(p).get(n, 0) > before.get(n, 0) for n in p.sent), what="new snapshots", timeout_s=60)


def _goes_on(p: Project, *, records: int = 100, timeout_s: float = 60.0) -> None:
    """Wait until each partition has this many more records committed."""
    reached = {n: max(offset, 0) for n, (offset, _) in p.committed().items()}
    wait_until(
        lambda: all(offset >= reached[n] + records for n, (offset, _) in p.committed().items()),
        what="every partition to go on",
        timeout_s=timeout_s,
    )


def _told(run: Run, event: str) -> list[dict[str, Any]]:
    """Return what was logged under this event so far."""
    lines = run.log_file.read_text().splitlines(keepends=True)
    logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    return [entry for entry in logged if entry["event"] == event]


def _takeovers(p: Project, run: Run, *, kills: int = 0) -> list[dict[str, Any]]:
    """Return what was logged of the takeovers after the latest kill, which must be one of each partition."""
    count = len(p.sent) * (kills + 1)
    wait_until(lambda: len(_told(run, "partition taken over")) >= count, what="the takeovers", timeout_s=60)
    taken = _told(run, "partition taken over")
    assert len(taken) == count, "a worker that lives keeps what it has"
    return taken[-len(p.sent) :]


def _metric(p: Project, name: str) -> float:
    url = f"http://127.0.0.1:{p.settings['HEADRACE__METRICS__PORT']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found, f"{name} is measured"
    return float(found[1])


@contextlib.contextmanager
def _worker_down(run: Run) -> Iterator[None]:
    """Kill the worker; its parent is frozen meanwhile, or it would start another one at once."""
    worker = run.worker()
    run.process.send_signal(signal.SIGSTOP)
    try:
        os.kill(worker, signal.SIGKILL)
        yield
    finally:
        run.process.send_signal(signal.SIGCONT)


def _relearns(p: Project, run: Run, start: Mapping[int, int], *, kills: int) -> dict[int, int]:
    """Hold that the worker after the latest kill relearns each partition from `start` on, each record once.

    Returns the epoch of each partition.
    """
    taken = _takeovers(p, run, kills=kills)
    assert {entry["partition"]: entry["snapshot"] for entry in taken} == start
    gap = sum(entry["committed"] - start[entry["partition"]] for entry in taken)
    wait_until(lambda: _metric(p, "headrace_relearned_total") >= gap, what="the relearning", timeout_s=60)
    _goes_on(p, records=1)
    assert _metric(p, "headrace_relearned_total") == gap
    return {entry["partition"]: entry["epoch"] for entry in taken}


@contextlib.contextmanager
def _live(p: Project) -> Iterator[Run]:
    """Hold the promise over a pipeline that records come to all the while; the block harms its store."""
    with promise(p), steady(p, _values(MANY, bad_every=50), per_second=RATE) as producing, p.running() as run:
        _wait_for_saves(p)
        yield run
        _finish(p, run, producing)


def _finish(p: Project, run: Run, producing: Steady) -> None:
    producing.stop()
    p.wait_for_all(timeout_s=60)
    assert run.stop() == 0, run.log()
    assert "Traceback" not in run.log_file.read_text()


def test_a_store_that_is_killed_again_and_again_keeps_what_it_had(project: Make, servers: Stack) -> None:
    p = project()
    with _live(p) as run:
        for _ in range(TIMES):
            before = _heads(p)
            servers.store.kill()
            servers.store.start()
            after = _heads(p)
            assert all(after[n] >= before[n] for n in p.sent), "what was acknowledged is there"
            _goes_on(p, timeout_s=RESUME_S)
            _wait_for_saves(p, since=after)
        _takeovers(p, run)


def test_an_emptied_store_is_filled_again_by_the_worker_or_from_the_log(project: Make) -> None:
    p = project()
    with _live(p) as run:
        for _ in range(2):
            before = _heads(p)
            with _store(p) as store:
                store.flushall()
            _wait_for_saves(p, since=before)
            assert _heads(p, "epoch") == dict.fromkeys(p.sent, 1)
        _takeovers(p, run)
        for kills in range(1, TIMES - 1):
            _wait_for_saves(p)
            _goes_on(p)
            with _worker_down(run), _store(p) as store:
                store.flushall()
            epochs = _relearns(p, run, dict.fromkeys(p.sent, 0), kills=kills)
            assert epochs == dict.fromkeys(p.sent, kills + 1), "Kafka has kept the epochs"
            assert _metric(p, "headrace_state_losses_total") == p.partitions, "it is no silent start"


def test_yesterdays_copy_is_put_back_again_and_again(project: Make, servers: Stack, tmp_path: Path) -> None:
    p = project()
    data, copy = servers.store.home / "appendonlydir", tmp_path / "copy"
    epochs = [dict.fromkeys(p.sent, 1)]
    with _live(p) as run:
        servers.store.stop()
        shutil.copytree(data, copy)
        servers.store.start()
        for kills in range(1, TIMES + 1):
            _wait_for_saves(p)
            _goes_on(p, records=300)
            with _worker_down(run):
                servers.store.stop()
                shutil.rmtree(data)
                shutil.copytree(copy, data)
                servers.store.start()
                old = _heads(p)
            epochs.append(_relearns(p, run, old, kills=kills))
            assert all(epochs[-1][n] > epochs[-2][n] for n in p.sent), f"an epoch was used again: {epochs}"
            assert _metric(p, "headrace_state_losses_total") == p.partitions, "it is no silent start"


def test_a_failover_that_forgets_the_last_seconds_is_made_good_by_the_next_save(project: Make) -> None:
    p = project()
    with _live(p) as run:
        copy = _copy(p)
        _goes_on(p, records=150)
        before = _heads(p)
        _put_back(p, copy)
        _wait_for_saves(p, since=before)
        _takeovers(p, run)
        with _worker_down(run):
            zombies = [_decoded(p, n, _generations(p, n)[-1][1]) for n in p.sent]
        _relearns(p, run, {zombie.partition: zombie.offset for zombie in zombies}, kills=1)
        _wait_for_saves(p)
        before = _heads(p)
        # Now it forgets a change of owner, too: the earlier one may save until the owner does, and then no more.
        _put_back(p, copy)
        for zombie in zombies:
            wait_until(lambda zombie=zombie: _is_refused(p, zombie), what="the earlier owner to be refused")
        _wait_for_saves(p, since=before)
        # More than a beat of the worker's, which finds another's note in its place.
        _goes_on(p, records=RATE)
        _takeovers(p, run, kills=1)


def _is_refused(p: Project, zombie: Snapshot) -> bool:
    """Save as an owner would that was replaced while it slept, and tell whether that was refused."""
    try:
        Store(p.stack.addresses.redis, name=p.name).save(zombie)
    except StoreFenced:
        return True
    return False


def _copy(p: Project) -> dict[bytes, tuple[int, bytes]]:
    with _store(p) as store:
        return {key: (store.pttl(key), store.dump(key)) for key in store.scan_iter(match=f"{p.name}:*", count=1_000)}


def _put_back(p: Project, copy: Mapping[bytes, tuple[int, bytes]]) -> None:
    with _store(p) as store, store.pipeline(transaction=True) as step:
        step.delete(*store.scan_iter(match=f"{p.name}:*", count=1_000))
        for key, (ttl_ms, dump) in copy.items():
            step.restore(key, max(0, ttl_ms), dump)
        step.execute()


@contextlib.contextmanager
def _configured(p: Project, **settings: str) -> Iterator[None]:
    with _store(p) as store:
        before = {name: store.config_get(name)[name] for name in settings}
        for name, value in settings.items():
            store.config_set(name, value)
        yield
        for name, value in before.items():
            store.config_set(name, value)


@contextlib.contextmanager
def _replica(p: Project, *, stale: str) -> Iterator[None]:
    """Make it a replica of a server that is not there, as one is that a failover has left behind."""
    with _configured(p, **{"replica-serve-stale-data": stale}), _store(p) as store:
        store.replicaof("127.0.0.1", free_ports(1)[0])
        yield
        store.replicaof("NO", "ONE")


@contextlib.contextmanager
def _disk_fails(p: Project) -> Iterator[None]:
    """Have it save to its disk from time to time, and the save fail: a folder stands where the file would go."""
    blocker = p.stack.store.home / "dump.rdb"
    with _configured(p, save="3600 1"), _store(p) as store:
        blocker.mkdir()
        _save_to_disk(store, "err")
        yield
        blocker.rmdir()
        _save_to_disk(store, "ok")


def _save_to_disk(store: "redis.Redis", result: str) -> None:
    store.bgsave()
    wait_until(lambda: store.info()["rdb_bgsave_in_progress"] == 0, what="the save to disk to end")
    assert store.info()["rdb_last_bgsave_status"] == result


@contextlib.contextmanager
def _busy(p: Project) -> Iterator[None]:
    with _configured(p, **{"busy-reply-threshold": "100"}), _store(p) as store, _store(p) as other:
        connection = other.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", 0)
        yield
        store.script_kill()
        connection.disconnect()
        # The script hears of it at its next step only, and until then nothing else is answered.
        wait_until(lambda: _answers(store), what="the script to end")


def _answers(store: "redis.Redis") -> bool:
    try:
        return bool(store.ping())
    except redis.exceptions.ResponseError:
        return False


@contextlib.contextmanager
def _loading(p: Project) -> Iterator[None]:
    """Start it with a log of writes that takes it long to read, and in the end with its own again."""
    server = p.stack.store
    with _store(p) as store:
        # While it loads, it answers after each 1,024 commands: with longer ones a slow machine would answer too late.
        store.sadd("slow", *range(400))
    server.kill()
    (log,) = (server.home / "appendonlydir").glob("*.incr.aof")
    size = log.stat().st_size
    with log.open("ab") as file:
        file.write(b"*3\r\n$11\r\nSUNIONSTORE\r\n$6\r\nslower\r\n$4\r\nslow\r\n" * 800_000)
    server.launch()
    yield
    server.kill()
    os.truncate(log, size)
    server.start()


OUTAGES: Mapping[str, Callable[[Project], AbstractContextManager[None]]] = {
    "used memory > 'maxmemory'": functools.partial(_configured, maxmemory="1mb"),
    "read only replica": functools.partial(_replica, stale="yes"),
    "MASTER is down": functools.partial(_replica, stale="no"),
    "MISCONF": _disk_fails,
    "busy running a script": _busy,
    "loading the dataset": _loading,
}


def test_whatever_keeps_the_store_from_writing_pauses_the_stream_and_says_why(project: Make) -> None:
    p = project()
    with _live(p) as run:
        for words, outage in OUTAGES.items():
            with outage(p):
                wait_until(lambda words=words: _paused(p, words), what=f"a pause for {words!r}", timeout_s=60)
            cured = time.monotonic()
            _goes_on(p, records=1)
            assert time.monotonic() - cured < RESUME_S, f"the stream went on late after {words!r}"
            _wait_for_saves(p)
        wait_until(lambda: _metric(p, 'headrace_state{state="running"}') == 1, what="the state to be running again")
        _takeovers(p, run)


def _paused(p: Project, words: str) -> bool:
    told = p.status()
    return told["state"] == "paused" and words in str(told["reason"])


def test_what_somebody_has_to_mend_ends_the_run_with_one_line(project: Make) -> None:
    p = project()
    p.settings["HEADRACE__REDIS__URL"] = p.stack.addresses.redis.replace("//", f"//{p.name}:secret@")
    with _store(p) as store, promise(p), steady(p, _values(MANY, bad_every=50), per_second=RATE) as producing:
        rights = functools.partial(store.execute_command, "ACL", "SETUSER", p.name)
        rights("on", ">secret", "~*", "+@all")
        with p.running() as run:
            _wait_for_saves(p)
            rights("-evalsha")
            _ends(run, "has no permissions", code=78)
        rights("+evalsha", "<secret")
        with p.running() as run:
            _ends(run, "invalid username-password", code=78)
        rights(">secret")
        with _of_another_river(p), p.running() as run:
            _ends(run, "was written by river-0.0-objects-1")
        with p.running() as run:
            _goes_on(p)
            _finish(p, run, producing)


@contextlib.contextmanager
def _of_another_river(p: Project) -> Iterator[None]:
    version, good = _generations(p, 0)[-1]
    taken = _decoded(p, 0, good)
    saved = msgspec.structs.replace(taken.answering, codec="river-0.0-objects-1")
    other = msgspec.structs.replace(taken, models={taken.answers: saved})
    with _store(p) as store:
        store.hset(_key(p, 0, "snapshots"), version, snapshot.encode(other, Seal(p.name)))
        yield
        store.hset(_key(p, 0, "snapshots"), version, good)


def _ends(run: Run, words: str, *, code: int = 1) -> None:
    """Hold that the run ends by itself with an error of one line, and what to do about it."""
    assert run.process.wait(20) == code, run.log()
    error, hint = [line for line in run.log().splitlines() if not line.startswith("{")][-2:]
    assert error.startswith("headrace: "), error
    assert words in error
    assert hint.startswith("  → "), hint
    assert "Traceback" not in run.log()


class _Bomb:
    """Ends whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (99,)


def _of_another_model(sealed: bytes) -> bytes:
    # As it was sealed, but for the model in it: no checksum and no signature goes with that.
    name, fields = msgspec.msgpack.decode(sealed[BODY_AT:])
    return sealed[:BODY_AT] + msgspec.msgpack.encode([name, {**fields, "model": pickle.dumps(_Bomb())}])


def _flipped(sealed: bytes) -> bytes:
    return sealed[:-10] + bytes([sealed[-10] ^ 1]) + sealed[-9:]


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    _of_another_model,
    _flipped,
    lambda sealed: sealed[:-100],
    lambda sealed: sealed[:8] + bytes([sealed[8] + 1]) + sealed[9:],
    lambda _sealed: b"",
)


def test_what_is_damaged_or_gone_is_passed_over_and_never_loaded(project: Make) -> None:
    p = project(partitions=len(DAMAGES) + 3)
    *damaged, ruined, emptied, beheaded = p.sent
    with _live(p) as run:
        _wait_for_saves(p)
        with _worker_down(run), _store(p) as store:
            start = {ruined: 0, emptied: 0, beheaded: _heads(p)[beheaded]}
            for n in damaged:
                *_, (_, older), (version, newest) = _generations(p, n)
                store.hset(_key(p, n, "snapshots"), version, DAMAGES[n](newest))
                start[n] = _decoded(p, n, older).offset
            for version, sealed in _generations(p, ruined):
                store.hset(_key(p, ruined, "snapshots"), version, _flipped(sealed))
            store.delete(_key(p, emptied, "snapshots"), _key(p, beheaded, "head"))
        epochs = _relearns(p, run, start, kills=1)
        assert epochs == dict.fromkeys(p.sent, 2), "Kafka has kept the epoch that went with the head"
        assert {entry["partition"] for entry in _told(run, "snapshot passed over")} == {*damaged, ruined}
        _wait_for_saves(p)
        assert [entry["exit"] for entry in _told(run, "worker died, starting another")] == [-signal.SIGKILL]
