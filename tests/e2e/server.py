"""A running `headrace serve` for the tests, and clients that ask it."""

import contextlib
import http.client
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from harness import Project, nursery, wait_until
from nursery import Forked

from headrace.pipeline.embedded.port import free_ports


@dataclass
class Answer:
    """A response: its status, its headers and its body, parsed if it is JSON."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """A running `headrace serve`."""

    process: Forked
    port: int
    log_file: Any

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-6_000:]

    def connect(self, timeout_s: float = 10.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def predict(self, body: Any, query: str = "") -> Answer:
        return self.ask("POST", f"/predict{query}", body)

    def processes(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, check=False)
        return [int(word) for word in found.stdout.split()]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError):
            return self.ask("GET", "/readyz").status == 200
        return False

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError):
            return self.ask("GET", "/livez").status == 200
        return False

    def wait_until_ready(self) -> None:
        wait_until(self.is_ready, what=f"the server to be ready: {self.log()}", timeout_s=60)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    kind = response.headers.get("content-type", "")
    parsed = json.loads(content) if kind == "application/json" and content else content
    return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, parsed)


@contextlib.contextmanager
def serving(
    project: Project, *words: str, workers: int = 1, ready: bool | None = True, port: int = 0
) -> Iterator[Server]:
    """Start a server and wait until it is ready, or only until it is up (False), or for nothing (None)."""
    port = port or free_ports(1)[0]
    log_file = project.directory / f"serve-{len(list(project.directory.glob('serve-*.log')))}.log"
    with log_file.open("wb") as log:
        process = nursery().start(
            ["serve", "--workers", str(workers), "--port", str(port), *words, "-c", str(project.file)],
            env=project.env,
            stdout=log,
            stderr=log,
        )
        server = Server(process, port, log_file)
        try:
            if ready:
                server.wait_until_ready()
            elif ready is not None:
                wait_until(server.is_up, what="the server to answer", timeout_s=60)
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@dataclass
class Load:
    """Clients that ask again and again, each on a connection that it keeps, or on a new one for each request."""

    server: Server
    bodies: Sequence[bytes]
    clients: int = 4
    keeps: bool = True
    pause_s: float = 0.005
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(n,), daemon=True) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _go(self, number: int) -> None:
        with contextlib.closing(self.server.connect()) as first:
            self._ask(number, first)

    def _ask(self, number: int, first: http.client.HTTPConnection) -> None:
        connection: http.client.HTTPConnection | None = first
        place = number
        while not self._stop.is_set():
            place += self.clients
            # The tests share the machine: they need many requests, and not all that it can do.
            self._stop.wait(self.pause_s)
            try:
                connection = connection or self.server.connect()
                answer = ask(connection, "POST", "/predict", self.bodies[place % len(self.bodies)])
                self.answers.append(answer)
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body}")
                if answer.headers.get("connection") == "close" or not self.keeps:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection = None
        if connection is not None:
            connection.close()
