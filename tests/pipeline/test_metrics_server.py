"""The metrics port: what it answers, and what no client can do to it."""

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from headrace.pipeline.metrics_server import CONNECTIONS_MAX, MetricsServer

REQUEST_S = 1.0


@pytest.fixture
def served() -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Counter("headrace_records", "Records that were handled.", registry=registry).inc(7)
    made = MetricsServer(registry, "127.0.0.1", 0, request_s=REQUEST_S)
    yield made
    made.close()


def connect(served: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=10)


def ask(served: MetricsServer, request: bytes) -> bytes:
    with connect(served) as connection:
        connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                answer += part
        return answer


def scrape(served: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def drown(connection: socket.socket) -> None:
    for _ in range(1_000):
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + b"a" * 10_000)
        time.sleep(0.001)


def threads() -> int:
    return sum(thread.name == "metrics" for thread in threading.enumerate())


def test_the_metrics_are_answered_in_the_form_that_is_asked_for(served: MetricsServer) -> None:
    assert "headrace_records_total 7.0" in scrape(served)
    open_metrics = ask(served, b"GET /metrics HTTP/1.1\r\nHost: a\r\naccept: application/openmetrics-text\r\n\r\n")
    assert b"Content-Type: application/openmetrics-text" in open_metrics
    assert open_metrics.endswith(b"# EOF\n")
    assert b"HTTP/1.1 200 OK" in ask(served, b"GET /?name=x HTTP/1.0\r\n\r\n")
    head = ask(served, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert b"200 OK" in head
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\n", b"405"),
        (b"GET /debug HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", b"404"),
        (b"hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/9\r\n\r\n", b"400"),
    ],
)
def test_nothing_else_is_answered(served: MetricsServer, request_: bytes, status: bytes) -> None:
    assert ask(served, request_).startswith(b"HTTP/1.1 " + status)
    assert "headrace_records_total" in scrape(served)


def test_a_request_without_an_end_is_not_read_on(served: MetricsServer) -> None:
    with connect(served) as connection, pytest.raises(OSError, match=r"Broken pipe|reset"):
        drown(connection)


def test_a_client_that_drips_is_hung_up_on_in_time(served: MetricsServer) -> None:
    began = time.monotonic()
    with connect(served) as connection, contextlib.suppress(OSError):
        while time.monotonic() - began < 20 * REQUEST_S:
            connection.sendall(b"G")
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    break
    assert time.monotonic() - began < 10 * REQUEST_S


def test_clients_that_say_nothing_keep_nobody_out_and_are_bounded(served: MetricsServer) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(10 * CONNECTIONS_MAX):
            held.enter_context(connect(served))
        for _ in range(3):
            assert "headrace_records_total 7.0" in scrape(served)
        assert threads() <= CONNECTIONS_MAX + 1
    until = time.monotonic() + 30
    while threads() > 1:
        assert time.monotonic() < until, "threads end with their connections"
        time.sleep(0.02)


def test_a_client_that_does_not_read_its_answer_is_hung_up_on() -> None:
    registry = CollectorRegistry()
    counter = Counter("many", "More than a socket holds.", ["label"], registry=registry)
    for number in range(20_000):
        counter.labels("x" * 1_000 + str(number)).inc()
    served = MetricsServer(registry, "127.0.0.1", 0, request_s=REQUEST_S)
    with contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(connect(served)).sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        until = time.monotonic() + 30
        while threads() > 1:
            assert time.monotonic() < until, "no thread waits for a reader"
            time.sleep(0.05)
    served.close()


def test_a_port_that_is_taken_is_an_error(served: MetricsServer) -> None:
    with pytest.raises(OSError, match="in use"):
        MetricsServer(CollectorRegistry(), "127.0.0.1", served.port)
