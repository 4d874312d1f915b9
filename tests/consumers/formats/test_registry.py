"""The client of the registry against a server that answers as the test says."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.consumers.formats.registry import Registry, RegistryAway, RegistryRefused, SchemaRefused
from headrace.consumers.formats.writer_schema import WriterSchema


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers each path with what `server.answers` has for it."""

    def do_GET(self) -> None:
        status, body = self.server.answers.get(self.path.partition("?")[0], (404, {"error_code": 40403}))  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as made:
        made.answers = {}  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def registry(server: Any) -> Iterator[Registry]:
    made = Registry(f"http://127.0.0.1:{server.server_port}", {}, kind="AVRO")
    with made._client:
        yield made


def test_a_schema_comes_with_its_references_each_after_those_that_it_needs(server: Any, registry: Registry) -> None:
    def reference(name: str) -> dict[str, Any]:
        return {"name": name, "subject": f"{name}-subject", "version": 2}

    server.answers = {
        "/schemas/ids/7": (200, {"schema": "top", "references": [reference("a"), reference("b")]}),
        "/subjects/a-subject/versions/2": (200, {"schema": "A", "references": [reference("b")]}),
        "/subjects/b-subject/versions/2": (200, {"schema": "B"}),
    }
    assert registry.find("7") == WriterSchema("AVRO", "top", (("b", "B"), ("a", "A")))
    assert WriterSchema.unpack(registry.find("7").pack()) == registry.find("7")  # type: ignore[union-attr]


def test_an_id_that_is_not_there_is_none_and_not_an_outage(registry: Registry) -> None:
    assert registry.find("99") is None
    assert registry.find("89791762-2336-4186-9674-299b90a802e2") is None
    assert registry.latest("gone-value") is None


@pytest.mark.parametrize("body", [{}, {"error_code": 404, "message": "no"}, {"detail": "no such schema"}])
def test_each_404_with_json_says_that_an_id_is_not_there(server: Any, registry: Registry, body: Any) -> None:
    server.answers = {"/schemas/ids/7": (404, body), "/subjects/x-value/versions/latest": (404, body)}
    assert registry.find("7") is None
    # Of a subject only the registry's own code says so: a proxy's 404 hints at a wrong address.
    with pytest.raises(RegistryAway):
        registry.latest("x-value")


def test_a_404_without_json_is_an_outage(server: Any, registry: Registry) -> None:
    server.answers = {"/schemas/ids/7": (404, [])}
    with pytest.raises(RegistryAway):
        registry.find("7")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_answer_that_may_pass_is_an_outage(server: Any, registry: Registry, status: int) -> None:
    server.answers = {"/schemas/ids/7": (status, {"error_code": status, "message": "not now"})}
    with pytest.raises(RegistryAway, match="not now"):
        registry.find("7")


@pytest.mark.parametrize("status", [401, 403])
def test_a_client_that_is_not_accepted_is_told_which_table_to_correct(
    server: Any, registry: Registry, status: int
) -> None:
    server.answers = {"/schemas/ids/7": (status, {"error_code": status, "message": "who are you?"})}
    with pytest.raises(RegistryRefused, match=r"registry\.client"):
        registry.find("7")


def test_a_registry_that_is_not_there_is_an_outage() -> None:
    made = Registry("http://127.0.0.1:1", {"timeout": 1}, kind="AVRO")
    with made._client, pytest.raises(RegistryAway, match="does not answer"):
        made.find("7")


def test_a_property_that_the_client_does_not_know_is_refused() -> None:
    with pytest.raises(RegistryRefused, match=r"no\.such\.thing"):
        Registry("http://127.0.0.1:1", {"no.such.thing": 1}, kind="AVRO")


def test_a_schema_that_must_not_be_registered_and_is_not_there_is_refused(server: Any, registry: Registry) -> None:
    with pytest.raises(SchemaRefused, match="p-value"):
        registry.enter("p-value", WriterSchema("AVRO", "{}"), register=False)
    server.answers = {"/subjects/p-value/versions": (409, {"error_code": 409, "message": "incompatible"})}
    with pytest.raises(SchemaRefused, match="incompatible"):
        registry.enter("p-value", WriterSchema("AVRO", "{}"), register=True)
    server.answers = {"/subjects/p-value/versions": (200, {"id": 5})}
    assert registry.enter("p-value", WriterSchema("AVRO", "{}"), register=True) == 5


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x93\x01\x02\x03", b'{"kind": 1}'])
def test_bytes_of_the_store_that_are_no_schema_are_not_used(packed: bytes) -> None:
    assert WriterSchema.unpack(packed) is None
