"""A real schema registry for the tests, and producers that register their schemas there and frame their values."""

import http.server
import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient

from headrace.pipeline.embedded import Server
from headrace.pipeline.embedded import registry as embedded
from headrace.pipeline.embedded.port import free_ports
from headrace.pipeline.embedded.reaper import Reaper

START_S = 180.0


def running_registry(home: Path) -> Iterator[Server]:
    """Run a registry of its own for a fixture."""
    [port] = free_ports(1)
    reaper = Reaper(grace_s=0.0)
    server = embedded.server(home=home, port=port, reaper=reaper, progress=print)
    try:
        server.start(timeout_s=START_S)
        yield server
    finally:
        server.kill()
        reaper.close()


def url_of(server: Server) -> str:
    return f"http://{server.address}{embedded.PATH}"


class Registrar:
    """Registers schemas, and encodes values with them as Confluent's serializers do."""

    def __init__(self, server: Server) -> None:
        self.client = SchemaRegistryClient({"url": url_of(server)})

    def register(
        self, subject: str, schema: Any, kind: str = "AVRO", references: Sequence[tuple[str, str, int]] = ()
    ) -> int:
        """Register a schema; a subject takes any, whatever it had before."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        named = [SchemaReference(*one) for one in references]
        return self.client.register_schema(subject, Schema(text, kind, named))

    def allow_any(self, subject: str) -> None:
        self.client.set_compatibility(subject, "NONE")


def framed(schema_id: int, payload: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + payload


def avro(schema: Any, value: Any, named: dict[str, Any] | None = None) -> bytes:
    file = io.BytesIO()
    fastavro.schemaless_writer(file, fastavro.parse_schema(schema, named_schemas={} if named is None else named), value)
    return file.getvalue()


class Gate(http.server.ThreadingHTTPServer):
    """An HTTP proxy before the registry. It passes requests on, or answers each with `status` while that is not 0."""

    daemon_threads = True

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = f"http://{server.address}"
        self.status = 0
        self.refused = 0
        """The number of requests that were answered with `status`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{embedded.PATH}"


class _Passing(http.server.BaseHTTPRequestHandler):
    server: Gate

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes | None) -> None:
        if self.server.status:
            self.server.refused += 1
            self._send(self.server.status, b'{"error_code": %d, "message": "not now"}' % self.server.status)
            return
        kind = self.headers.get("Content-Type", "application/json")
        asked = urllib.request.Request(self.server.behind + self.path, body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(asked, timeout=10) as found:
                self._send(found.status, found.read())
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def gate(server: Server) -> Iterator[Gate]:
    with Gate(server) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()
