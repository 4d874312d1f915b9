"""One connection of a client: bytes in, requests out, and their answers in the order of the requests.

There is no task and no timer for a request: the parser (llhttp, as Node.js has it) calls this object, and the site's
sweep ends what takes too long. Whatever a client sends, a bound stops it: on the head, on the body, on the requests
that are open, on what is written and not read.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import httptools

from headrace.pipeline.serve.http.http_request import HttpRequest, RequestHead
from headrace.pipeline.serve.http.known_heads import KnownHeads
from headrace.pipeline.serve.http.problem import Problem

HEAD_BYTES_MAX = 16_384
HEADERS_MAX = 100
OPEN_MAX = 64
"""Requests of one connection that wait for their answers; then the connection is not read for a while."""
_LINGER_S = 2.0
# The headers that the server reads. Of others only the size counts.
_READ = frozenset(
    (b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding", b"expect", b"connection",
     b"inference-header-content-length", b"content-encoding")
)  # fmt: skip
# With one of these, a head says of its own request only how it is to be read.
_PER_REQUEST = frozenset((b"transfer-encoding", b"expect"))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_LONG = Problem(
    "headers_too_large", f"the head of the request has more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers"
)
_CODING = Problem("bad_request", "the header Transfer-Encoding may be there once, and must be `chunked`")
_ENCODED = Problem("bad_request", "the body has a content-encoding; this server reads none", hint="send it as it is")


class Site(Protocol):
    """What a connection needs of its server."""

    body_max: int
    request_timeout_s: float
    keep_alive_s: float
    is_draining: bool
    heads: KnownHeads

    def now(self) -> float:
        """Return a time in seconds that never jumps."""

    def opened(self, connection: "HttpConnection") -> None:
        """Note a connection."""

    def closed(self, connection: "HttpConnection") -> None:
        """Forget a connection."""

    def admit(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Problem | None:
        """Return why a request is refused before its body is read; None for one that is not."""

    def handle(self, request: HttpRequest) -> None:
        """Answer a request, now or later."""

    def answered(self, request: HttpRequest) -> None:
        """Note that a request has its answer."""


class HttpConnection(asyncio.Protocol):
    """A connection to a `site`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._transport: Any = None
        self._open: deque[HttpRequest] = deque()
        self._parser = httptools.HttpRequestParser(self)
        # The end of what is read: an error, the client's last request, or the end of the connection.
        self._ended = False
        self._lingers = False
        # What came with the start of the request that is being parsed.
        self._first: bytes = b""
        # A request that asks for another protocol, and whose head is told again to a second parser.
        self._upgrades = self._is_repeated = False
        self._blocked_s = 0.0
        self._begun_s = 0.0
        self._idle_s = site.now()
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = self._head_bytes = self._parts_bytes = self._header_count = self._hosts = 0
        self._in_head = True
        self._problem: Problem | None = None

    # The transport calls these.

    def connection_made(self, transport: Any) -> None:
        """Note the transport."""
        self._transport = transport
        self._site.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the client is gone, whatever the reason
        """Forget the connection; answers that come later are dropped."""
        self._ended = True
        self._open.clear()
        self._site.closed(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._ended:
            return
        if not self._begun_s and not self._is_repeated:
            # Between two requests, where no bytes of a further one are in the parser.
            if (known := self._site.heads.find(data)) is not None:
                self._take(*known)
                return
            self._first = data
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._give_up(Problem("bad_request", f"the request is not valid HTTP: {error}"))
        if self._in_head and self._begun_s and self._head_bytes > HEAD_BYTES_MAX and not self._ended:
            self._give_up(_TOO_LONG)

    def eof_received(self) -> bool:
        """Answer what came, and then close."""
        self._ended = True
        if self._open:
            self._open[-1].ends = True
        return bool(self._open)

    def pause_writing(self) -> None:
        """Note that the client does not read: it is not read either, and not waited for without end."""
        self._blocked_s = self._site.now()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self._blocked_s = 0.0
        self._resume()

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._is_repeated:
            self._begun_s = self._site.now()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        if not self._is_repeated:
            self._target += url
            self._measure(len(url))

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Take a header."""
        if self._is_repeated or not self._in_head:
            return
        self._header_count += 1
        self._measure(len(name) + len(value or b""))
        known = name.lower()
        if known in _READ:
            self._hosts += known == b"host"
            if known == b"transfer-encoding" and (
                known in self._headers or (value or b"").strip().lower() != b"chunked"
            ):
                # The parser believes the last of several, and a proxy perhaps another one.
                self._problem = self._problem or _CODING
            self._headers[known] = value or b""

    def _measure(self, more: int) -> None:
        # What came in one piece was counted as a whole: the parts of a long head show that it is the head that is long.
        self._parts_bytes += more
        if self._parts_bytes > HEAD_BYTES_MAX or self._header_count > HEADERS_MAX:
            self._problem = self._problem or _TOO_LONG

    def on_headers_complete(self) -> None:
        """Decide whether the body is wanted."""
        if self._is_repeated:
            self._is_repeated = False
            return
        self._in_head = False
        self._upgrades = self._parser.should_upgrade()
        headers, version = self._headers, self._parser.get_http_version()
        if self._problem is None and (self._hosts > 1 or (version == "1.1" and not self._hosts)):
            self._problem = Problem("bad_request", "a request of HTTP/1.1 has the header Host, once")
        if self._problem is None and version not in {"1.1", "1.0"}:
            self._problem = Problem("bad_request", f"the request is of HTTP/{version}; this server speaks HTTP/1.1")
        if self._problem is None and headers.get(b"content-encoding", b"identity").lower() != b"identity":
            self._problem = _ENCODED
        if self._problem is None:
            self._problem = self._site.admit(self._parser.get_method(), self._target, headers)
        if int(headers.get(b"content-length", b"0")) > self._site.body_max:
            self._give_up(self._too_large())
        elif self._problem is None and headers.get(b"expect", b"").lower() == b"100-continue" and not self._open:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._problem is None and not self._ended:
            self._body_bytes += len(body)
            self._body.append(body)
            if self._body_bytes > self._site.body_max:
                self._give_up(self._too_large())

    def on_message_complete(self) -> None:
        """Hand the request over, unless it is refused."""
        if self._ended or self._upgrades:
            return
        parser, problem, first = self._parser, self._problem, self._first
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        # What follows a head that is wrong might be a request that somebody has hidden there.
        is_wrong = problem is not None and problem.code == "bad_request"
        headers, goes_on = self._headers, parser.should_keep_alive()
        is_old = b"connection" in headers and parser.get_http_version() == "1.0"
        head = RequestHead(parser.get_method(), self._target, headers, is_old=is_old)
        self._first = b""
        if problem is None and goes_on and first and not headers.keys() & _PER_REQUEST:
            self._site.heads.note(head, first, len(body))
        self._begin()
        self._begun_s = 0.0
        self._hand_over(head, body, problem, ends=is_wrong or not goes_on)

    def _take(self, head: RequestHead, body: bytes) -> None:
        """Hand over a request whose head was parsed before."""
        self._hand_over(head, body, self._site.admit(head.method, head.target, head.headers), ends=False)

    def _hand_over(self, head: RequestHead, body: bytes, problem: Problem | None, *, ends: bool) -> None:
        site = self._site
        ends = ends or site.is_draining
        request = HttpRequest(head, body, ends=ends, received_s=site.now(), send=self._send)
        self._open.append(request)
        if ends:
            self._ended = True
        if problem is not None:
            request.refuse(problem)
        else:
            site.handle(request)
        if len(self._open) >= OPEN_MAX and not self._ended:
            self._transport.pause_reading()

    # The site calls these.

    def sweep(self, now_s: float) -> None:
        """End what takes too long: a request that does not come, an answer that is not read, an idle connection."""
        site = self._site
        if (self._blocked_s and now_s - self._blocked_s > site.request_timeout_s) or (
            self._lingers and now_s - self._idle_s > _LINGER_S
        ):
            self._transport.abort()
        elif self._begun_s and not self._ended and now_s - self._begun_s > site.request_timeout_s:
            self._give_up(Problem("timeout", f"the request did not come within {site.request_timeout_s:g} s"))
        elif self.is_idle and now_s - self._idle_s > site.keep_alive_s:
            self._transport.close()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._open and not self._begun_s and not self._lingers

    @property
    def since_s(self) -> float:
        """When the request that is coming in has begun, or else when the connection became idle."""
        return self._begun_s or self._idle_s

    def close(self) -> None:
        """Close the connection; what is written already still goes out."""
        self._ended = True
        self._transport.close()

    # Answers.

    def _send(self, request: HttpRequest) -> None:
        """Send an answer, and those behind it that waited for it."""
        self._site.answered(request)
        waiting = self._open
        if not waiting or waiting[0].response is None:
            return
        first = waiting.popleft()
        response = first.response or b""
        while waiting and not first.ends and waiting[0].response is not None:
            first = waiting.popleft()
            response += first.response or b""
        self._transport.write(response)
        if first.ends:
            self._end()
            return
        self._idle_s = self._site.now()
        self._resume()

    def _resume(self) -> None:
        if len(self._open) < OPEN_MAX and not self._blocked_s and not self._ended:
            self._transport.resume_reading()

    def _give_up(self, problem: Problem) -> None:
        """Answer what came in full, then the problem, and read no more."""
        if self._ended:
            return
        target, self._ended = self._target, True
        head = RequestHead(b"", target, {})
        request = HttpRequest(head, b"", ends=True, received_s=self._site.now(), send=self._send)
        self._begun_s = 0.0
        self._lingers = True
        self._open.append(request)
        request.refuse(problem)

    def _too_large(self) -> Problem:
        return Problem("too_large", f"the body has more than {self._site.body_max} bytes (serve.body_max)")

    def _end(self) -> None:
        """Close. A client that still sends would lose the answer if bytes were left unread: so these are read."""
        self._idle_s = self._site.now()
        if self._lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def _go_on(self, rest: bytes) -> None:
        """Parse on after a request that asks for another protocol, which this server does not speak.

        The parser takes what follows for that protocol. A second one is told the head again, without the question.
        """
        if self._ended:
            return
        headers, method = self._headers, self._parser.get_method()
        if method == b"CONNECT":
            self._give_up(Problem("not_allowed", "this server is no proxy", allow="GET, POST"))
            return
        self._parser = httptools.HttpRequestParser(self)
        self._upgrades, self._is_repeated, self._first = False, True, b""
        framing = [b"%b: %b\r\n" % (n, headers[n]) for n in (b"content-length", b"transfer-encoding") if n in headers]
        self._parser.feed_data(b"%b / HTTP/1.1\r\nhost: -\r\n%b\r\n" % (method, b"".join(framing)))
        if rest:
            self.data_received(rest)
