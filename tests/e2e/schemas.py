"""A real schema registry for the tests, and producers that register their schemas there and frame their values."""

import io
import json
from collections.abc import Iterator, Sequence
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
