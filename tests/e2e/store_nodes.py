"""Real Valkey servers that work together: a cluster of three primaries, and a primary that a sentinel watches."""

import contextlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from tls_front import TlsFront

from headrace.pipeline.embedded import Server
from headrace.pipeline.embedded.port import free_ports
from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.embedded.valkey import _binary

_SLOTS = 16_384
_READY_S = 30.0


class Node:
    """A Valkey server with a client; `home` has its files."""

    def __init__(self, home: Path, reaper: Reaper, *, port: int, bus: int, words: list[str]) -> None:
        self.port = port
        self.bus = bus
        self.server = Server(
            name=f"valkey-{port}",
            port=port,
            argv=[str(_binary()), *words, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)],
            home=home,
            reaper=reaper,
            ready=lambda _: _answers(port),
        )
        self.server.start()
        self.client = redis.Redis(port=port, socket_timeout=10)

    def cut_off(self, replica: "Node") -> None:
        """Send a replica nothing any more, not even what is on its way: it is frozen."""
        replica.server.freeze()
        self.ask("CLIENT", "KILL", "TYPE", "REPLICA")

    def ask(self, *words: str | int) -> Any:
        return self.client.execute_command(*words)


@dataclass
class Cluster:
    """Three primaries, and a replica of each."""

    primaries: list[Node]
    replicas: list[Node]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.primaries)}"

    def slot(self, key: str) -> int:
        return int(_any(self.nodes).ask("CLUSTER", "KEYSLOT", key))

    def owner(self, key: str) -> Node:
        """Return the primary that has a key now."""
        slot = self.slot(key)
        for begin, end, (_, port, *_), *_ in _any(self.nodes).ask("CLUSTER", "SLOTS"):
            if begin <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has the slot of {key}")

    @property
    def nodes(self) -> list[Node]:
        return [*self.primaries, *self.replicas]

    def replica_of(self, primary: Node) -> Node:
        return self.replicas[self.primaries.index(primary)]

    def move(self, key: str, to: Node, *, between: Callable[[], None] = lambda: None) -> None:
        """Move the slot of a key to another primary, key by key; `between` is called when half of them are moved."""
        slot, source = self.slot(key), self.owner(key)
        ids = {node.port: node.ask("CLUSTER", "MYID").decode() for node in (source, to)}
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to.port])
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1_000)
        for number, name in enumerate(keys):
            if number == len(keys) // 2:
                between()
            source.ask("MIGRATE", "127.0.0.1", to.port, name, 0, 5_000)
        # Keys that were made since are few, and none of them is changed while it moves.
        while left := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for name in left:
                source.ask("MIGRATE", "127.0.0.1", to.port, name, 0, 5_000)
        for node in (to, source, *(other for other in self.primaries if other not in (to, source))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to.port])

    def flush(self) -> None:
        for node in self.primaries:
            with contextlib.suppress(redis.RedisError):
                node.client.flushall()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster in which every slot has a primary and a replica."""
    with _nodes() as start:
        words = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--appendonly", "no", "--save", ""]
        # A replica whose data is old may become the primary: so writes are lost.
        words += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
        made = Cluster([start(words) for _ in range(3)], [start(words) for _ in range(3)])
        first, *others = made.nodes
        for number, node in enumerate(made.primaries):
            begin, end = number * _SLOTS // 3, (number + 1) * _SLOTS // 3 - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", begin, end)
        for node in others:
            node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)
        _until(lambda: all(len(_known(node)) == len(made.nodes) for node in made.nodes), "the nodes to meet")
        for primary, replica in zip(made.primaries, made.replicas, strict=True):
            replica.ask("CLUSTER", "REPLICATE", primary.ask("CLUSTER", "MYID").decode())
        _until(lambda: all(_is_whole(node) for node in made.nodes), "the cluster to be whole")
        yield made


@contextlib.contextmanager
def encrypted_cluster(context: ssl.SSLContext) -> Iterator[tuple[str, list[TlsFront]]]:
    """Run a cluster whose nodes tell their clients the ports with TLS; yield its address and these ports."""
    with cluster() as nodes, contextlib.ExitStack() as exits:
        fronts = [exits.enter_context(TlsFront(node.port, context)) for node in nodes.nodes]
        for node, front in zip(nodes.nodes, fronts, strict=True):
            node.ask("CONFIG", "SET", "cluster-announce-port", front.port)
        ports = {front.port for front in fronts}
        _until(lambda: all(_told(node) <= ports for node in nodes.nodes), "the nodes to tell the ports with TLS")
        yield f"rediss+cluster://{','.join(f'127.0.0.1:{front.port}' for front in fronts[:3])}", fronts


def _told(node: Node) -> set[int]:
    return {port for _, _, *places in node.ask("CLUSTER", "SLOTS") for _, port, *_ in places}


@contextlib.contextmanager
def encrypted_service(context: ssl.SSLContext) -> Iterator[tuple[str, list[TlsFront]]]:
    """Run a primary and a sentinel with TLS; yield their address, and the ports of the sentinel and of the primary."""
    with _nodes() as start:
        primary = start(["--appendonly", "no", "--save", ""])
        with TlsFront(primary.port, context) as front:
            sentinel = start([], config=f"sentinel monitor fraud 127.0.0.1 {front.port} 1\n")
            with TlsFront(sentinel.port, context) as door:
                yield f"rediss+sentinel://127.0.0.1:{door.port}/fraud/0", [door, front]


@dataclass
class Watched:
    """A primary, its replica, and the sentinel that watches both."""

    primary: Node
    replica: Node
    sentinel: Node

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/fraud/0"

    def primary_port(self) -> int:
        return int(self.sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "fraud")[1])


@contextlib.contextmanager
def watched() -> Iterator[Watched]:
    """Run a primary and a replica, with one sentinel that fails over within two seconds."""
    with _nodes() as start:
        words = ["--appendonly", "no", "--save", "", "--repl-diskless-sync-delay", "0"]
        primary = start(words)
        replica = start([*words, "--replicaof", f"127.0.0.1 {primary.port}"])
        _until(lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica to follow")
        sentinel = start(
            [],
            config=f"sentinel monitor fraud 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds fraud 1000\nsentinel failover-timeout fraud 5000\n",
        )
        _until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "fraud"), "the sentinel to see the replica")
        yield Watched(primary, replica, sentinel)


@contextlib.contextmanager
def _nodes() -> "Iterator[Callable[..., Node]]":
    with tempfile.TemporaryDirectory(prefix="headrace-nodes-") as folder:
        reaper = Reaper(grace_s=0.0)
        started: list[Node] = []

        def start(words: list[str], *, config: str = "") -> Node:
            port, bus = free_ports(2)
            home = Path(folder) / str(port)
            home.mkdir()
            if config:
                (home / "sentinel.conf").write_text(config)
                words = [str(home / "sentinel.conf"), "--sentinel", *words]
            elif "--cluster-enabled" in words:
                words = [*words, "--cluster-port", str(bus)]
            started.append(Node(home, reaper, port=port, bus=bus, words=words))
            return started[-1]

        try:
            yield start
        finally:
            for node in started:
                node.client.close()
                node.server.kill()
            reaper.close()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _any(nodes: list[Node]) -> Node:
    return next(node for node in nodes if node.server.running)


def _known(node: Node) -> list[str]:
    return [line for line in node.ask("CLUSTER", "NODES").decode().splitlines() if "handshake" not in line]


def _is_whole(node: Node) -> bool:
    follows = node.client.info("replication").get("master_link_status", "up") == "up"
    return follows and b"cluster_state:ok" in node.ask("CLUSTER", "INFO")


def _until(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + _READY_S
    while not condition():
        assert time.monotonic() < until, f"waited {_READY_S:.0f} s for {what}"
        time.sleep(0.05)
