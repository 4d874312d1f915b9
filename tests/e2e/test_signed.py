"""A store that is signed: exactly once as without, and what is not signed is never believed."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
from harness import Project, nursery, values, wait_until

from headrace.state.seal import Seal
from headrace.state.snapshot import decode, encode
from headrace.state.store.store import Store

KEY = "a key of sixteen bytes or more"
SIGNED = {"HEADRACE__REDIS__SIGN_KEY": KEY}


@contextmanager
def _store(p: Project) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(p.stack.addresses.redis, socket_timeout=5) as client:
        yield client


def test_a_signed_store_survives_a_kill_and_is_refused_once_it_is_not_signed_any_more(
    project: Callable[..., Project],
) -> None:
    p = project(settings={**SIGNED, "HEADRACE__SNAPSHOT__INTERVAL": "100ms"})
    for partition in p.sent:
        p.produce(values(3_000, bad_every=50, seed=partition), partition=partition)
    with p.running() as run:
        wait_until(lambda: _saved(p, 1), what="a signed snapshot of each partition")
        run.kill_worker()
        p.wait_for_all()
        wait_until(lambda: _saved(p, 3_000), what="a signed snapshot of all that was learned")
        assert run.stop() == 0
    p.check()
    told = nursery().call(["model", "show", "--json", "-c", str(p.file)], env=p.env)
    assert json.loads(told.stdout)["offset"] == len(p.sent[0]), told.stderr
    told = nursery().call(["model", "show", "-c", str(p.file)], env={**p.env, "HEADRACE__REDIS__SIGN_KEY": ""})
    assert (told.returncode, "it is signed; set redis.sign_key" in told.stderr) == (1, True), told.stderr
    # As somebody would who may write to the store, and knows all but the key.
    with _store(p) as store:
        for partition in p.sent:
            name = f"{p.name}:{{{p.name}/{partition}}}:snapshots"
            for version, sealed in store.hgetall(name).items():
                opened = decode(sealed, Seal(p.name, KEY.encode()), partition=partition)
                store.hset(name, version, encode(opened, Seal(p.name)))
    for partition in p.sent:
        p.produce(values(200, seed=9 + partition), partition=partition)
    log = p.run_to_end()
    assert log.count("it is not signed, and redis.sign_key is set") >= len(p.sent)
    p.check()


def _saved(p: Project, offset: int) -> bool:
    store = Store(p.stack.addresses.redis, name=p.name, sign_key=KEY.encode())
    found = [store.load(partition, at_most=2**62).snapshot for partition in p.sent]
    return all(snapshot is not None and snapshot.offset >= offset for snapshot in found)
