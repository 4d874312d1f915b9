"""A cluster and a sentinel's service as the store: slots move, a primary dies with its last writes, nothing is lost."""

import contextlib
import itertools
import json
import re
import shlex
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import labelled
import pytest
from harness import Project, Run, nursery, steady, values, wait_until
from oracle import promise
from secured import PAGE, Authority
from servers import LentStack
from store_nodes import Cluster, Node, cluster, encrypted_cluster, encrypted_service, watched
from test_keys import KEYED, events, send
from test_keys import hold as hold_keys

from headrace.pipeline.embedded import Addresses, Stack
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway

pytestmark = pytest.mark.xdist_group("nodes")

SAVED_OFTEN = {"HEADRACE__SNAPSHOT__INTERVAL": "100ms", "HEADRACE__REDIS__TIMEOUT": "1s"}


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def _project(stack: Stack, folder: Path, url: str, **options: object) -> Project:
    lent = LentStack(Addresses(stack.addresses.kafka, url, "kafka"))
    return Project(lent, folder / "project", **options)  # type: ignore[arg-type]


def _version(p: Project) -> int:
    """Return the newest version of the model of partition 0; 0 while the store is away."""
    with contextlib.suppress(StoreAway):
        return Store(p.stack.addresses.redis, name=p.name).version(0)
    return 0


def _saves(p: Project, count: int = 3) -> None:
    """Wait until the model of partition 0 was saved some times more."""
    begin = wait_until(lambda: _version(p), what="the store to have a model", timeout_s=60)
    wait_until(lambda: _version(p) >= begin + count, what="the model to be saved", timeout_s=60)


def _move_slots(p: Project, nodes: Cluster, run: Run) -> None:
    """Move the slot of partition 0 to another primary, and stop in the middle until a save was refused."""
    head = f"{p.name}:{{{p.name}/0}}:head"
    owner = nodes.owner(head)
    to = next(node for node in nodes.primaries if node is not owner)
    before = run.log_file.read_text().count("away, trying again")
    refused = lambda: run.log_file.read_text().count("away, trying again") > before  # noqa: E731 a name for a condition
    nodes.move(head, to, between=lambda: wait_until(refused, what="a script to be refused"))
    assert nodes.owner(head) is to
    _saves(p)


def _lose(p: Project, primary: Node, replica: Node, took_over: Callable[[], bool]) -> None:
    """Kill a primary whose replica lacks its last saves; wait until the replica has taken over."""
    primary.cut_off(replica)
    _saves(p)
    primary.server.kill()
    replica.server.thaw()
    wait_until(took_over, what="the replica to take over", timeout_s=30)
    _saves(p)


@pytest.mark.parametrize("scope", ["partition", "key"])
def test_on_a_cluster_slots_move_and_a_primary_dies_with_its_last_writes(
    stack: Stack, nodes: Cluster, tmp_path: Path, scope: str
) -> None:
    keyed = scope == "key"
    p = _project(stack, tmp_path, nodes.url, partitions=2, settings={**SAVED_OFTEN, **(KEYED if keyed else {})})

    def disturb(run: Run) -> None:
        _saves(p)
        _move_slots(p, nodes, run)
        head = f"{p.name}:{{{p.name}/0}}:head"
        primary = nodes.owner(head)
        _lose(p, primary, nodes.replica_of(primary), lambda: nodes.owner(head) is not primary)

    with p.running() as run:
        if keyed:
            stop = threading.Event()
            stream = itertools.takewhile(lambda _: not stop.is_set(), events(60_000, 300))
            sending = threading.Thread(target=send, args=[p, stream], kwargs={"pause": lambda _: stop.wait(0.001)})
            sending.start()
            disturb(run)
            stop.set()
            sending.join(60)
            p.wait_for_all()
            assert run.stop() == 0, run.log()
            hold_keys(p)
        else:
            with promise(p), steady(p, values(60_000, bad_every=50), per_second=500) as producing:
                disturb(run)
                producing.stop()
                p.wait_for_all()
                assert run.stop() == 0, run.log()
    for words in (["status"], ["doctor"], ["model", "ls"]):
        done = nursery().call([*words, "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.mark.parametrize("scope", ["partition", "key", "global"])
def test_late_labels_work_on_a_cluster_with_a_user_that_has_the_rights_of_the_page(
    stack: Stack, nodes: Cluster, tmp_path: Path, scope: str
) -> None:
    p = labelled.labelled(
        lambda **options: _project(stack, tmp_path, _limited(nodes, options["name"]), **options),
        partitions=1,
        settings={"HEADRACE__MODEL__SCOPE": scope},
    )
    learned = set()
    for seed in range(2):
        sent = labelled.plan(400, partitions=1, delay_max=50, seed=seed)
        for message in sent:
            message.key = b"one"
            message.value = message.value.replace(b'"r-', b'"%d-' % seed)
        labelled.send(p, sent)
        p.run_to_end()
        learned |= {json.loads(message.value)["id"] for message in sent if message.labels}
    found = p.status()
    assert found["counts"]["learned"] == found["labels"]["joined"] == len(learned) > 600
    for words in (["doctor"], ["model", "ls"]):
        done = nursery().call([*words, "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


def _limited(nodes: Cluster, name: str) -> str:
    """Make a user with the rights that docs/security.md lists for a pipeline of this name; return its address."""
    page = PAGE.read_text(encoding="utf-8")
    (rule,) = re.findall(r"valkey-cli ACL SETUSER (headrace on .*?)```", page, re.DOTALL)
    (more,) = re.findall(r"On a cluster the user also needs (.*)\.", page)
    rule = rule.replace("\\\n", " ").replace("PASSWORD", "secret-of-the-test").replace("~fraud:", f"~{name}:")
    user, *words = [*shlex.split(rule), *re.findall(r"`(.+?)`", more)]
    for node in nodes.nodes:
        node.ask("ACL", "SETUSER", user, "reset", *words)
    return nodes.url.replace("://", f"://{user}:secret-of-the-test@")


def test_a_shared_model_loses_nothing_when_the_primary_that_has_it_dies(
    stack: Stack, nodes: Cluster, tmp_path: Path
) -> None:
    settings = {**SAVED_OFTEN, "HEADRACE__MODEL__SCOPE": "global", "HEADRACE__MIX__INTERVAL": "100ms"}
    p = _project(stack, tmp_path, nodes.url, settings=settings)
    mix = f"{p.name}:{{{p.name}/global}}:mix"
    stream = values(60_000, bad_every=50)
    with steady(p, stream, per_second=500) as producing, p.running(workers=2) as run:
        _saves(p)
        primary = nodes.owner(mix)
        _lose(p, primary, nodes.replica_of(primary), lambda: nodes.owner(mix) is not primary)
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    sent = sum(map(len, p.sent.values()))
    bad = sum(b'"bad-' in value for sent in p.sent.values() for value in sent if value)
    assert p.status()["counts"] == {
        "records": sent,
        "predictions": sent - bad,
        "dead_letters": bad,
        "skipped": 0,
        "learned": sent - bad,
    }


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_a_cluster_and_a_sentinels_service_with_tls_need_the_authority_of_their_certificates(
    stack: Stack, tmp_path: Path, kind: str
) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("store"))
    with (encrypted_cluster if kind == "cluster" else encrypted_service)(context) as (url, fronts):
        p = _project(stack, tmp_path, url)
        done = nursery().call(["doctor", "-c", str(p.file)], env=p.env)
        assert done.returncode == 78, done.stdout
        assert "certificate verify failed" in done.stdout
        assert "ssl_ca_certs" in done.stdout
        assert f"redis.url is {url}" in done.stdout
        p.settings["HEADRACE__REDIS__CLIENT__SSL_CA_CERTS"] = str(authority.trusted)
        p.produce(values(200), partition=0)
        p.run_to_end()
        assert p.status()["counts"]["learned"] == 200
        done = nursery().call(["doctor", "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, done.stdout
        assert all(front.encrypted for front in fronts[: 3 if kind == "cluster" else 2])


def test_with_sentinels_a_primary_dies_with_its_last_writes(stack: Stack, tmp_path: Path) -> None:
    with watched() as service:
        p = _project(stack, tmp_path, service.url, settings=SAVED_OFTEN)
        stream = values(60_000, bad_every=50)
        with promise(p), steady(p, stream, per_second=500) as producing, p.running() as run:
            _saves(p)
            _lose(p, service.primary, service.replica, lambda: service.primary_port() == service.replica.port)
            producing.stop()
            p.wait_for_all()
            assert run.stop() == 0, run.log()


def test_what_does_not_fit_the_nodes_is_told_with_the_address_to_write(
    stack: Stack, nodes: Cluster, tmp_path: Path
) -> None:
    p = _project(stack, tmp_path, nodes.url)
    plain = stack.addresses.redis
    cases = {
        plain.replace("redis://", "redis+cluster://"): "redis:// instead of redis+cluster://",
        nodes.url.replace("redis+cluster://", "redis://").partition(",")[0]: "redis+cluster:// instead of redis://",
    }
    for url, hint in cases.items():
        p.settings["HEADRACE__REDIS__URL"] = url
        done = nursery().call(["doctor", "-c", str(p.file)], env=p.env)
        assert (done.returncode, hint in done.stdout) == (1, True), done.stdout
