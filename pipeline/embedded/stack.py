"""A real Apache Kafka and a real Valkey that run as long as this process.

The demo, `headrace up` and the tests use `Stack`. It downloads Kafka once, starts both servers on free loopback ports,
and ends them at the end of its block, or when its process ends in any way.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from headrace.pipeline.embedded import kafka, registry, valkey
from headrace.pipeline.embedded.jars import KAFKA_VERSION, JarsUnreachableError, ReportProgress
from headrace.pipeline.embedded.lock import Lock
from headrace.pipeline.embedded.mock import LIMITS, Mock
from headrace.pipeline.embedded.node import Node
from headrace.pipeline.embedded.port import on_ports
from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.embedded.server import (
    LOOK_S,
    START_S,
    EmbeddedError,
    Server,
    StartFailedError,
)

__all__ = ["Addresses", "EmbeddedError", "Server", "Stack"]

KIND_VARIABLE = "HEADRACE_EMBEDDED_KAFKA"
LOCK_S = 20.0
GRACE_S = 10.0

Kind = Literal["kafka", "mock"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of the servers: ``kafka`` as ``host:port``, ``redis`` and ``registry`` as URLs.

    ``registry`` is empty if the stack has none.
    """

    kafka: str
    redis: str
    kind: Kind
    registry: str = ""


class Stack:
    """Run Kafka and Valkey inside a ``with`` block.

    With ``data_dir`` the data stays for the next start, which uses the same ports if they are free. Without it the data
    is in a temporary directory that is removed at the end, unless ``keep``. ``brokers`` is the number of Kafka nodes.
    ``kafka_settings`` override the server settings of the stack. ``with_registry`` adds a schema registry.
    ``progress`` receives a line of text before each step
    that takes a second or more.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        keep: bool = False,
        brokers: int = 1,
        kafka_settings: Mapping[str, str] | None = None,
        with_registry: bool = False,
        progress: ReportProgress = lambda _: None,
    ) -> None:
        self.data_dir = Path()
        self.brokers: list[Server] = []
        self._given = data_dir
        self._keep = keep
        self._count = brokers
        self._kafka_settings = dict(kafka_settings or {})
        self._has_registry = with_registry
        self._progress = progress
        self._exit = contextlib.ExitStack()
        self._store: Server | None = None
        self._registry: Server | None = None
        self._mock: Mock | None = None
        self._reaper: Reaper | None = None

    def __enter__(self) -> Self:
        """Start both servers; on an error end both and raise EmbeddedError."""
        with contextlib.ExitStack() as undo:
            self._own_directory(undo)
            try:
                self._start()
            except StartFailedError:
                self._keep_logs()
                raise
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()
        self.brokers, self._store, self._registry, self._mock, self._reaper = [], None, None, None, None

    @property
    def addresses(self) -> Addresses:
        """The addresses to connect to."""
        url = "" if self._registry is None else f"http://{self._registry.address}{registry.PATH}"
        if self._mock is not None:
            return Addresses(self._mock.address, self._redis_url, "mock", url)
        return Addresses(",".join(broker.address for broker in self.brokers), self._redis_url, "kafka", url)

    @property
    def kafka(self) -> Server:
        """The first broker; raise EmbeddedError if Kafka is only librdkafka's mock."""
        if not self.brokers:
            raise EmbeddedError(
                "there is no Kafka process to act on", hint=f"start the stack, with {KIND_VARIABLE}=kafka"
            )
        return self.brokers[0]

    @property
    def store(self) -> Server:
        """The Valkey."""
        if self._store is None:
            raise EmbeddedError("there is no Valkey process to act on", hint="start the stack")
        return self._store

    @property
    def registry(self) -> Server:
        """The schema registry."""
        if self._registry is None:
            raise EmbeddedError("there is no schema registry", hint="start the stack with with_registry=True")
        return self._registry

    @property
    def _redis_url(self) -> str:
        return f"redis://{self.store.address}/0"

    def _own_directory(self, undo: contextlib.ExitStack) -> None:
        """Take a directory for this stack alone, and start a reaper for its servers."""
        if self._given is not None:
            self.data_dir = self._given.resolve()
            # The reaper also holds the lock: after a SIGKILL of this process the next one waits until the old
            # servers have ended.
            lock = undo.enter_context(self._lock())
            self._reaper = Reaper(hold=lock.fd, grace_s=GRACE_S)
        else:
            self.data_dir = Path(tempfile.mkdtemp(prefix="headrace-")).resolve()
            undo.callback(self._remove)
            # The directory is removed, so its servers need no clean end.
            self._reaper = Reaper(remove=None if self._keep else self.data_dir, grace_s=GRACE_S if self._keep else 0.0)
        undo.callback(self._reaper.close)
        undo.callback(self._stop)

    def _remove(self) -> None:
        if not self._keep:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def _keep_logs(self) -> None:
        """Keep the directory: the error tells the operator to look into it."""
        assert self._reaper is not None
        self._keep = True
        self._reaper.keep()

    def _lock(self) -> Lock:
        try:
            return Lock(
                self.data_dir / "lock",
                timeout_s=LOCK_S,
                waiting=lambda: self._progress(f"waiting for another process that uses {self.data_dir}"),
            )
        except TimeoutError as error:
            raise EmbeddedError(
                f"another process uses {self.data_dir}", hint="end it, or choose another directory"
            ) from error
        except OSError as error:
            raise EmbeddedError(
                f"{self.data_dir} cannot be used: {error}", hint="choose a directory that you can write"
            ) from error

    def _start(self) -> None:
        self._progress("starting Valkey")
        on_ports(self._start_store, count=1, remembered=self.data_dir / "valkey.ports")
        if self._has_registry:
            on_ports(self._launch_registry, count=1, remembered=self.data_dir / "registry.ports")
        forced = forced_kind(os.environ.get(KIND_VARIABLE, ""))
        if forced != "mock":
            try:
                on_ports(self._start_brokers, count=2 * self._count, remembered=self.data_dir / "kafka.ports")
            except JarsUnreachableError:
                if forced == "kafka":
                    raise
                self._start_mock("Apache Kafka could not be fetched")
        else:
            self._start_mock(f"{KIND_VARIABLE} says so")
        if self._registry is not None:
            self._registry.wait_ready()

    def _start_store(self, ports: list[int]) -> None:
        assert self._reaper is not None
        home = self.data_dir / "valkey"
        self._store = valkey.store(home=home, port=ports[0], reaper=self._reaper)
        self._store.start()

    def _launch_registry(self, ports: list[int]) -> None:
        """Start the registry; it gets ready while Kafka starts."""
        assert self._reaper is not None
        home = self.data_dir / "registry"
        self._registry = registry.server(home=home, port=ports[0], reaper=self._reaper, progress=self._progress)
        self._progress(f"starting Apicurio Registry {registry.REGISTRY_VERSION}")
        self._registry.launch()

    def _start_brokers(self, ports: list[int]) -> None:
        assert self._reaper is not None
        nodes = [
            Node(id=n, port=port, controller_port=controller_port, home=self.data_dir / f"kafka-{n}")
            for n, port, controller_port in zip(range(1, self._count + 1), ports[::2], ports[1::2], strict=True)
        ]
        refuse_other_count(self.data_dir, self._count)
        self.brokers = kafka.cluster(nodes, reaper=self._reaper, progress=self._progress, extra=self._kafka_settings)
        self._progress(f"starting Apache Kafka {KAFKA_VERSION}")
        try:
            for broker in self.brokers:
                broker.launch()
            for broker in self.brokers:
                broker.wait_ready()
            self._meet()
        except EmbeddedError:
            for broker in self.brokers:
                broker.kill()
            raise

    def _meet(self) -> None:
        """Wait until each broker knows all others: a topic with three replicas needs three brokers."""
        ids = set(range(1, self._count + 1))
        deadline = time.monotonic() + START_S
        for broker in self.brokers:
            while not kafka.sees(broker.port, cluster_id=None, ids=ids):
                if time.monotonic() > deadline:
                    raise EmbeddedError("the brokers did not find one another", hint=f"see {broker.home}")
                time.sleep(LOOK_S)

    def _start_mock(self, why: str) -> None:
        self._progress(LIMITS.format(why=why))
        self._mock = Mock()

    def _stop(self) -> None:
        servers = [*self.brokers, *(server for server in (self._store, self._registry) if server is not None)]
        temporary = self._given is None and not self._keep
        for server in servers:
            if temporary:
                server.kill()
        with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
            # All at the same time: a broker that stops first would move its leadership to the others.
            list(pool.map(lambda server: server.stop(), servers))


def forced_kind(text: str) -> Kind | None:
    """Parse the value of the environment variable: ``kafka``, ``mock`` or empty; raise EmbeddedError."""
    match text.strip().lower():
        case "":
            return None
        case "kafka":
            return "kafka"
        case "mock":
            return "mock"
    raise EmbeddedError(f"{KIND_VARIABLE} is {text!r}", hint=f"set {KIND_VARIABLE} to kafka or mock, or unset it")


def refuse_other_count(data_dir: Path, count: int) -> None:
    """Raise EmbeddedError if the directory has the data of another number of brokers."""
    found = len(list(data_dir.glob("kafka-*")))
    if found not in (0, count):
        raise EmbeddedError(
            f"{data_dir} is the data of {found} brokers, not of {count}",
            hint=f"start it with brokers={found}, or choose another directory",
        )
