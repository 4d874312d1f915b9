"""The HTTP sink against a real server of this test's own."""

import base64
import http.server
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.pipeline import assembly
from headrace.pipeline.config import config as configuration
from headrace.producers.webhook import Webhook, WebhookAway, retry_after_s

Reply = tuple[int, dict[str, str], bytes]
TIMEOUT_S = 0.5


class Server:
    """Answers each POST as `answer` says of its lines, and remembers the lines of those that it took."""

    def __init__(self) -> None:
        self.answer: Callable[[list[bytes]], Reply] = lambda _lines: (200, {}, b"")
        self.taken: list[bytes] = []
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.connections: set[tuple[str, int]] = set()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.connections.add(self.client_address)
                server.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                lines = body.split(b"\n")[:-1]
                status, headers, words = server.answer(lines)
                if status == 0:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if 200 <= status < 300:
                    server.taken.extend(lines)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(words)))
                self.end_headers()
                self.wfile.write(words)

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/predictions"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def webhook(url: str) -> Webhook:
    return Webhook(url, headers={"authorization": "Bearer secret"}, timeout_s=TIMEOUT_S)


def lines(count: int) -> list[bytes]:
    return [b'{"id": "%d"}' % index for index in range(count)]


def refusing(bad: Sequence[bytes], status: int = 422) -> Callable[[list[bytes]], Reply]:
    return lambda posted: (status, {}, b"bad line") if set(posted) & set(bad) else (200, {}, b"")


def test_a_batch_is_posted_as_json_lines_in_one_request(server: Server) -> None:
    assert webhook(server.url).send(lines(3)) == {}
    [(headers, body)] = server.posts
    assert body == b'{"id": "0"}\n{"id": "1"}\n{"id": "2"}\n'
    assert headers["content-type"] == "application/x-ndjson"
    assert headers["authorization"] == "Bearer secret"


def test_batches_share_a_connection(server: Server) -> None:
    sink = webhook(server.url)
    for _ in range(5):
        sink.send(lines(2))
    assert len(server.connections) == 1


def test_nothing_to_send_asks_nobody() -> None:
    assert webhook("http://127.0.0.1:9/").send([]) == {}


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_takes_the_batch(server: Server, status: int) -> None:
    server.answer = lambda _lines: (status, {}, b"")
    assert webhook(server.url).send(lines(2)) == {}
    assert server.taken == lines(2)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("bad", [[0], [7], [3], [0, 7], [2, 3, 4], list(range(8))])
def test_the_lines_to_blame_are_found_and_the_others_are_taken_once(
    server: Server, status: int, bad: list[int]
) -> None:
    batch = lines(8)
    server.answer = refusing([batch[index] for index in bad], status)
    refused = webhook(server.url).send(batch)
    assert sorted(refused) == bad
    assert all(words == f"the HTTP sink answered {status}: bad line" for words in refused.values())
    assert server.taken == [line for index, line in enumerate(batch) if index not in bad], "each once, in order"


def test_few_bad_lines_cost_few_requests(server: Server) -> None:
    batch = lines(1_024)
    server.answer = refusing([batch[700]])
    assert list(webhook(server.url).send(batch)) == [700]
    assert len(server.posts) <= 2 * 10 + 1


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504])
def test_any_other_answer_means_to_wait(server: Server, status: int) -> None:
    server.answer = lambda _lines: (status, {"location": server.url}, b"not now")
    with pytest.raises(WebhookAway, match=f"answered {status}: not now") as caught:
        webhook(server.url).send(lines(4))
    assert caught.value.after_s is None
    assert len(server.posts) == 1, "no redirect is followed, nothing is tried again in here"
    assert server.taken == []


def test_the_server_may_say_when_to_come_back(server: Server) -> None:
    server.answer = lambda _lines: (503, {"retry-after": "7"}, b"")
    with pytest.raises(WebhookAway) as caught:
        webhook(server.url).send(lines(1))
    assert caught.value.after_s == 7.0


def test_a_refusal_quotes_no_more_than_the_start_of_what_the_server_said(server: Server) -> None:
    server.answer = lambda _lines: (422, {}, b"\xff" + b"x" * 5_000)
    [words] = webhook(server.url).send(lines(1)).values()
    assert len(words) < 300


def test_an_outage_in_the_middle_of_a_search_is_an_outage(server: Server) -> None:
    batch = lines(4)
    replies = iter([(422, {}, b"no"), (200, {}, b""), (503, {}, b"gone")])
    server.answer = lambda _lines: next(replies)
    with pytest.raises(WebhookAway, match="503"):
        webhook(server.url).send(batch)


def test_a_connection_that_breaks_is_an_outage_and_the_next_one_works(server: Server) -> None:
    sink = webhook(server.url)
    server.answer = lambda _lines: (0, {}, b"")
    with pytest.raises(WebhookAway, match="does not answer"):
        sink.send(lines(1))
    server.answer = lambda _lines: (200, {}, b"")
    assert sink.send(lines(1)) == {}


def test_nobody_listens_is_an_outage() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(WebhookAway, match="does not answer") as caught:
            webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/").send(lines(1))
    assert caught.value.status == 503


def test_no_such_host_is_an_outage() -> None:
    with pytest.raises(WebhookAway):
        webhook("http://no-such-host.invalid/").send(lines(1))


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_the_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(WebhookAway):
            webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/").send(lines(1))
        assert TIMEOUT_S * 0.9 < time.monotonic() - started < TIMEOUT_S * 4


@pytest.mark.parametrize("head", [b"200 OK\r\n\r\n", b"400 Bad\r\n\r\n", b"200 OK\r\ncontent-length: 999999\r\n\r\n"])
def test_an_answer_that_never_ends_is_read_no_longer_than_the_timeout(head: bytes) -> None:
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 " + head)
            while not ended.wait(TIMEOUT_S / 10):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=[listener])
        thread.start()
        started = time.monotonic()
        refusal = webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/").post(lines(1))
        assert time.monotonic() - started < 4 * TIMEOUT_S
        assert (refusal is None) == head.startswith(b"200")
        ended.set()
        thread.join()


def test_an_answer_that_is_not_http_is_an_outage() -> None:
    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen()
        answering = threading.Thread(target=_answer_rudely, args=[rude])
        answering.start()
        with pytest.raises(WebhookAway):
            webhook(f"http://127.0.0.1:{rude.getsockname()[1]}/").send(lines(1))
        answering.join()


def _answer_rudely(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"220 smtp.example.org ESMTP\r\n\r\n")


NOW_S = 1_700_000_000.0
DATE = format_datetime(datetime.fromtimestamp(NOW_S + 90, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        (" 30 ", 30.0),
        ("-5", 0.0),
        ("301", 300.0),
        ("9" * 400, 300.0),
        ("1e999", 300.0),
        ("nan", None),
        (DATE, 90.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
        ("Mon, 01 Jan 2024 99999999999999:00:00 GMT", None),
        ("Mon, 99 Jan 2024 00:00:00 GMT", None),
        ("soon", None),
        ("", None),
        ("\x00", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_bounds(value: str | None, expected: float | None) -> None:
    assert retry_after_s(value, now_s=NOW_S) == expected


_DATES = st.tuples(
    st.sampled_from(["Mon, ", "", "x "]),
    st.integers(-1, 10**20).map(str),
    st.sampled_from([" Jan ", " Feb ", " ", " xx "]),
    st.integers(-1, 10**20).map(str),
    st.sampled_from([" 07:28:00", " 99:99:99", "", f" {'9' * 20}:0:0"]),
    st.sampled_from([" GMT", " -0000", " +9999", " +99999999999", "", " EST"]),
).map("".join)


@settings(max_examples=300)
@given(st.text(max_size=40) | _DATES | st.floats().map(str), st.floats(0, 4e9))
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999", 0.0)
def test_retry_after_never_raises_and_keeps_its_bounds(value: str, now_s: float) -> None:
    wait = retry_after_s(value, now_s=now_s)
    assert wait is None or (0.0 <= wait <= 300.0 and not math.isnan(wait))


TOKEN = "t0ken-of-forty-characters-that-nobody-knows"
BASIC = base64.b64encode(b"user:pa55/word").decode()


@pytest.mark.parametrize(
    ("status", "quote"),
    [
        (422, json.dumps),
        (400, lambda headers: f"you sent {headers['authorization']}"),
        (422, lambda headers: f"the token {headers['authorization'].split()[1][:16]}… is unknown"),
        (422, lambda _headers: f"{'x' * 180} {TOKEN}"),
        (503, json.dumps),
    ],
)
def test_a_server_that_quotes_the_request_does_not_get_its_secrets_told(
    server: Server, tmp_path: Path, status: int, quote: Callable[[dict[str, str]], str]
) -> None:
    server.answer = lambda _lines: (status, {}, quote(server.posts[-1][0]).encode())
    (tmp_path / "headrace.toml").write_text(
        f'[sink.http]\nurl = "{server.url}"\n[sink.http.headers]\n'
        f'authorization = "Bearer {TOKEN}"\nx-api-key = "{TOKEN[::-1]}"\n'
    )
    sink = assembly.webhook(configuration.load(tmp_path / "headrace.toml"))
    assert sink is not None
    try:
        words = sink.post(lines(1)) or ""
    except WebhookAway as error:
        words = str(error)
    assert f"answered {status}: " in words
    told = words.partition(": ")[2]
    assert not any(TOKEN[at : at + 12] in told for at in range(len(TOKEN) - 11))
    assert TOKEN[::-1] not in told
    assert len(words) < 300


@pytest.mark.parametrize("header", [None, "Bearer own"])
def test_a_user_and_password_in_the_url_are_sent_as_curl_sends_them(server: Server, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    url = server.url.replace("http://", "http://user:pa55%2Fword@")
    assert Webhook(url, headers=headers, timeout_s=TIMEOUT_S).post(lines(1)) is None
    assert server.posts[-1][0]["authorization"] == (header or f"Basic {BASIC}")
