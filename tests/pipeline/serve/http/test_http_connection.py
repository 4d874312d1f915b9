"""Connections on a real socket: order, limits, and whatever a hostile client sends."""

import asyncio
import collections
import contextlib
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import h11
import pytest
import uvloop

from headrace.pipeline.config.serve_section import ServeConfig
from headrace.pipeline.serve.counters import Counters, SharedCounters
from headrace.pipeline.serve.http.http_connection import HEAD_BYTES_MAX
from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.http.site import ServeSite

HEAD = b"POST /echo HTTP/1.1\r\nhost: a\r\n"
FUZZED = 100_000 if "HEADRACE_SOAK" in os.environ else 2_000


class Echo:
    """A site that answers with the body, in a thread of its own; a body `later` is answered after the next one."""

    def __init__(self, **limits: Any) -> None:
        self.memory = SharedCounters(1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.loop = uvloop.new_event_loop()
        self.waiting: list[HttpRequest] = []
        self._started = threading.Event()
        self._limits = ServeConfig(**limits)
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _go(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.site = ServeSite(
            self._limits,
            loop=self.loop,
            counters=Counters(self.memory, 0),
            connections_max=50,
            handle=self._handle,
            admit=lambda *_: None,
            context=lambda: None,
        )
        self.site.listen(self.listener)
        self.loop.call_soon(self._started.set)
        self.loop.run_forever()
        self.listener.close()
        for connection in list(self.site._connections):
            connection.close()
        self.loop.run_until_complete(self.site.wait_until_empty(2))
        self.loop.close()

    def _handle(self, request: HttpRequest) -> None:
        if request.body == b"never":
            return
        if request.body == b"later":
            self.waiting.append(request)
            return
        request.reply(200, request.body, content_type=b"text/plain")
        while self.waiting:
            self.waiting.pop().reply(200, b"late", content_type=b"text/plain")

    def connect(self) -> socket.socket:
        made = socket.create_connection(self.address, timeout=10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def say(self, *parts: bytes, pause_s: float = 0.0, ends: bool = False) -> bytes:
        """Send parts, and return all that comes until the server closes, or is silent for a while."""
        with self.connect() as client:
            for part in parts:
                try:
                    client.sendall(part)
                except OSError:
                    break
                time.sleep(pause_s)
            if ends:
                client.shutdown(socket.SHUT_WR)
            return heard(client)


def heard(client: socket.socket, silence_s: float = 0.5) -> bytes:
    client.settimeout(silence_s)
    whole = b""
    try:
        while part := client.recv(65_536):
            whole += part
    except OSError:
        pass
    return whole


def heard_to_the_end(client: socket.socket) -> bytes:
    """Return all that comes until the server closes. Raises TimeoutError if it does not."""
    client.settimeout(5)
    whole = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65_536):
            whole += part
    return whole


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", answer)]


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return HEAD + lines + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    with Echo(body_max=10_000, request_timeout="1s") as running:
        yield running


def test_a_connection_is_kept_and_answers_come_in_the_order_of_the_requests(echo: Echo) -> None:
    answer = echo.say(post(b"later") + post(b"two") + post(b"three"))
    assert statuses(answer) == [200, 200, 200]
    assert [answer.index(word) for word in (b"late", b"two", b"three")] == sorted(
        answer.index(word) for word in (b"late", b"two", b"three")
    )


def test_a_request_may_come_byte_by_byte(echo: Echo) -> None:
    whole = post(b"hello")
    answer = echo.say(*(whole[at : at + 1] for at in range(len(whole))))
    assert statuses(answer) == [200]
    assert answer.endswith(b"hello")


def test_a_chunked_body_is_put_together(echo: Echo) -> None:
    answer = echo.say(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert statuses(answer) == [200]
    assert answer.endswith(b"abcde")


def test_a_head_that_is_known_means_what_it_meant_wherever_it_is_cut(echo: Echo) -> None:
    whole = post(b"\r\n\r\nbody")
    with echo.connect() as client:
        for at in (0, *range(1, len(whole), 7), 3, len(whole) - 8, 0):
            # The first time the head is parsed, later it may be known.
            for _ in range(2):
                client.sendall(whole[:at])
                if at:
                    time.sleep(0.003)
                client.sendall(whole[at:])
                assert answered(client).endswith(b"\r\n\r\n\r\n\r\nbody"), at
        client.sendall(post(b"later") + whole + whole[:9])
        time.sleep(0.01)
        client.sendall(whole[9:])
        assert statuses(heard(client)) == [200] * 3


def test_a_known_head_does_not_hide_another_length_or_another_client(echo: Echo) -> None:
    same = b"POST /echo HTTP/1.1\r\nhost: a\r\n"
    chunked = same + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    wrong = same + b"host: b\r\ncontent-length: 2\r\n\r\nhi"
    expects = same + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\nhi"
    closes = post(b"hi", b"connection: close")
    for _ in range(2):
        assert statuses(echo.say(post(b"hi") + chunked)) == [200, 200]
        assert statuses(echo.say(chunked)) == [200]
        assert statuses(echo.say(wrong)) == [400]
        assert b"100 Continue" in echo.say(expects)
        assert b"connection: close" in echo.say(closes)


def answered(client: socket.socket) -> bytes:
    """Return one answer."""
    client.settimeout(10)
    whole = b""
    while (end := whole.find(b"\r\n\r\n")) < 0:
        whole += client.recv(65_536)
    length = int(re.search(rb"content-length: (\d+)", whole)[1])  # type: ignore[index]  # each answer has one
    while len(whole) < end + 4 + length:
        whole += client.recv(65_536)
    return whole


def test_a_client_that_asks_to_close_is_answered_and_closed(echo: Echo) -> None:
    with echo.connect() as client:
        client.sendall(post(b"bye", b"connection: close"))
        answer = heard(client, silence_s=5)
    assert b"connection: close" in answer
    assert answer.endswith(b"bye")


def test_a_client_that_sends_no_more_still_gets_its_answer(echo: Echo) -> None:
    answer = echo.say(post(b"later") + post(b"last"), ends=True)
    assert answer.endswith(b"last")
    assert statuses(answer) == [200, 200]


def test_a_client_of_http_1_0_is_kept_if_it_asks_for_that(echo: Echo) -> None:
    old = b"POST /echo HTTP/1.0\r\n%bcontent-length: 2\r\n\r\nhi"
    assert b"connection: close" in echo.say(old % b"")
    assert b"connection: keep-alive" in echo.say(old % b"connection: keep-alive\r\n")


def test_a_client_that_waits_for_100_is_told_to_go_on(echo: Echo) -> None:
    with echo.connect() as client:
        client.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        assert heard(client).endswith(b"ok")


def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(echo: Echo) -> None:
    upgrade = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABk")
    answer = echo.say(post(b"java", *upgrade) + post(b"next"))
    assert statuses(answer) == [200, 200]
    assert b"java" in answer
    # The body comes later, and in chunks.
    head = HEAD + b"".join(line + b"\r\n" for line in upgrade) + b"transfer-encoding: chunked\r\n\r\n"
    assert echo.say(head, b"4\r\njava\r\n0\r\n\r\n", pause_s=0.05).endswith(b"java")


def test_what_is_too_long_is_refused_with_its_code(echo: Echo) -> None:
    assert statuses(echo.say(HEAD + b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n")) == [431]
    assert statuses(echo.say(HEAD + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n")) == [431]
    assert statuses(echo.say(b"GET /" + b"y" * 2 * HEAD_BYTES_MAX + b" HTTP/1.1\r\nhost: a\r\n\r\n")) == [431]
    endless = (HEAD + b"x: ", *[b"y" * 1_000] * 100)
    assert statuses(echo.say(*endless)) == [431]
    assert statuses(echo.say(post(b"y" * 10_001))) == [413]
    chunks = HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1000\r\n" + b"y" * 4_096 + b"\r\n"
    assert statuses(echo.say(chunks, *[b"1000\r\n" + b"y" * 4_096 + b"\r\n"] * 5)) == [413]


def test_a_client_that_still_sends_gets_the_refusal_before_the_end(echo: Echo) -> None:
    with echo.connect() as client:
        client.sendall(HEAD + b"content-length: 900000\r\n\r\n")
        for _ in range(50):
            client.sendall(b"y" * 10_000)
        answer = heard(client, silence_s=3)
    assert statuses(answer) == [413]


def test_a_slow_request_is_ended_and_a_slow_reader_too(echo: Echo) -> None:
    begun = time.monotonic()
    with echo.connect() as client:
        client.sendall(HEAD)
        assert statuses(heard(client, silence_s=5)) == [408]
        assert 0.5 < time.monotonic() - begun < 4.5
    with echo.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(0.2)
        big = post(b"y" * 9_000)
        # The time is up, or the server has ended the connection.
        with contextlib.suppress(OSError):
            client.sendall(big * 100_000)
            pytest.fail("the server took all of it")
    assert statuses(echo.say(post(b"others"))) == [200]


SMUGGLED = {
    "two lengths": HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc",
    "length and chunks": HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "unknown coding": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"transfer-encoding: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding after chunked": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"content-length: -1\r\n\r\n",
    "signed length": HEAD + b"content-length: +1\r\n\r\na",
    "hex length": HEAD + b"content-length: 0x1\r\n\r\na",
    "huge length": HEAD + b"content-length: 99999999999999999999999\r\n\r\na",
    "space before colon": b"POST /echo HTTP/1.1\r\nhost : a\r\ncontent-length: 1\r\n\r\na",
    "folded header": HEAD + b"x: a\r\n b\r\ncontent-length: 1\r\n\r\na",
    "bare line feeds": b"POST /echo HTTP/1.1\nhost: a\ncontent-length: 1\n\na",
    "bad chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "chunk with more": HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "chunk size with space": HEAD + b"transfer-encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "nul in a header": HEAD + b"x: a\0b\r\n\r\n",
    "unknown method": b"BREW /pot HTTP/1.1\r\nhost: a\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no words": b"\r\n\r\nhello\r\n\r\n",
    "zipped": HEAD + b"content-encoding: gzip\r\ncontent-length: 1\r\n\r\na",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_that_two_servers_might_read_differently_is_refused(echo: Echo, name: str) -> None:
    answer = echo.say(SMUGGLED[name])
    assert statuses(answer)[:1] in ([400], [413]), answer
    assert 200 not in statuses(answer)


def test_a_tunnel_is_refused(echo: Echo) -> None:
    assert statuses(echo.say(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n")) == [405]


def broken(chance: random.Random) -> bytes:
    """Make a request, or two, with some bytes changed, left out, or there twice."""
    whole = bytearray(chance.choice(WHOLE) + (chance.choice(WHOLE) if chance.random() < 0.3 else b""))
    for _ in range(chance.randrange(6)):
        at = chance.randrange(len(whole))
        kind = chance.random()
        if kind < 0.4:
            whole[at] = chance.choice((chance.randrange(256), *b"\r\n :,0"))
        elif kind < 0.6:
            del whole[at : at + chance.randrange(1, 12)]
        elif kind < 0.8:
            whole[at:at] = whole[at : at + chance.randrange(1, 40)]
        else:
            whole[at:at] = chance.choice(PARTS)
        whole = whole or bytearray(b"\r")
    return bytes(whole[: chance.randrange(len(whole))] if chance.random() < 0.15 else whole)


FIRST_LINE = re.compile(rb"\A([A-Z]+) +(\S+) +(HTTP/)")
WHOLE = [
    post(b'{"features": {"a": 1}}', b"content-type: application/json"),
    post(b""),
    HEAD + b"transfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n3\r\nyou\r\n0\r\ntrailer: x\r\n\r\n",
    HEAD + b"expect: 100-continue\r\nconnection: keep-alive\r\ncontent-length: 4\r\n\r\nGET ",
    b"GET /livez?key=a%20b HTTP/1.1\r\nhost: a\r\naccept: */*\r\n\r\n",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
]
PARTS = [
    b"content-length: 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"host: b\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n",
    b"\0",
    b"\n",
    b"x" * 200,
]


def whole_requests(data: bytes) -> int:
    """Return how many requests another parser finds in what a client sends before it goes.

    That one takes no empty lines before a request, and no second space within its first line; servers may.
    """
    count = 0
    while data := FIRST_LINE.sub(rb"\1 \2 \3", data.lstrip(b"\r\n")):
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        try:
            while type(event := connection.next_event()) is not h11.EndOfMessage:
                if event in (h11.NEED_DATA, h11.PAUSED, h11.ConnectionClosed()):
                    return count
        except h11.RemoteProtocolError:
            return count
        count += 1
        if connection.their_state is h11.MUST_CLOSE:
            return count
        data = connection.trailing_data[0]
    return count


def test_broken_requests_crash_and_hang_nothing_and_hide_no_request(echo: Echo) -> None:
    """A request that only this server sees is one that a proxy before it did not check."""
    chance = random.Random(7)
    answered = collections.Counter[int]()
    for number in range(FUZZED):
        data = broken(chance)
        with echo.connect() as client:
            # The server may close before it has read all.
            with contextlib.suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            found = statuses(heard_to_the_end(client))
            answered.update(found)
        assert set(found) <= {100, 200, 400, 405, 413, 431}, (data, found)
        # The other parser keeps no connection of HTTP/1.0.
        assert b"HTTP/1.0" in data or found.count(200) <= whole_requests(data), (number, data, found)
    assert min(answered[200], answered[400]) > FUZZED // 10, answered
    assert statuses(echo.say(post(b"still here"))) == [200]


def test_with_too_many_connections_the_idle_ones_make_room(echo: Echo) -> None:
    idle = [echo.connect() for _ in range(60)]
    try:
        assert statuses(echo.say(post(b"me too"))) == [200]
    finally:
        for client in idle:
            client.close()


def test_a_site_that_drains_answers_what_is_open_and_then_closes() -> None:
    with Echo(keep_alive="75s") as draining, draining.connect() as client, draining.connect() as idle:
        client.sendall(post(b"one"))
        assert statuses(heard(client)) == [200]
        idle.sendall(post(b"one"))
        assert statuses(heard(idle)) == [200]
        draining.loop.call_soon_threadsafe(draining.site.drain)
        time.sleep(0.3)
        client.sendall(post(b"two"))
        answer = heard(client, silence_s=5)
        assert b"connection: close" in answer
        assert answer.endswith(b"two")


def test_idle_connections_are_closed_in_the_end() -> None:
    with Echo(keep_alive="300ms") as echo, echo.connect() as client:
        client.sendall(post(b"one"))
        assert statuses(heard(client, silence_s=0.1)) == [200]
        client.settimeout(5)
        assert client.recv(10) == b""


def test_a_problem_says_what_to_do_next() -> None:
    busy = Problem("busy", "1000 requests wait")
    assert (busy.status, busy.headers) == (503, b"retry-after: 1\r\n")
    assert b'"hint":"try again' in busy.body()
