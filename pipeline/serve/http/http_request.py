"""One request as it came, and its response as it goes out: what the routes get, and how they answer."""

import http
from collections.abc import Callable, Mapping

from headrace.pipeline.serve.http.problem import Problem

JSON = b"application/json"

_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class RequestHead:
    """The head of a request. `headers` has those that the server reads, by their names in small letters.

    `target` is the path and the query as they came, and `is_old` says that a client of HTTP/1.0 wants to go on.
    """

    __slots__ = ("headers", "is_old", "method", "path", "query", "target")

    def __init__(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes], *, is_old: bool = False) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self.is_old = is_old


class HttpRequest:
    """A request, whole.

    `reply` and `refuse` answer it, once, now or later; the connection sends answers in the order of the requests.
    `received_s` is the time of its last byte, and `ends` says that the connection closes behind it.
    """

    __slots__ = (
        "_send", "body", "code", "ends", "head", "headers", "method", "path", "query", "received_s", "response",
        "route", "status",
    )  # fmt: skip

    def __init__(
        self, head: RequestHead, body: bytes, *, ends: bool, received_s: float, send: Callable[["HttpRequest"], None]
    ) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.body = body
        self.ends = ends
        self.received_s = received_s
        self.response: bytes | None = None
        self.status = 0
        self.code = ""
        self.route = "other"
        self._send = send

    def reply(self, status: int, body: bytes, *, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """Answer with a body; `headers` are further lines of the head, each with its line end."""
        self.status = status
        if self.ends:
            headers += b"connection: close\r\n"
        elif self.head.is_old:
            headers += b"connection: keep-alive\r\n"
        shown = b"" if self.method == b"HEAD" else body
        if status == http.HTTPStatus.OK and content_type is JSON and not headers:
            self.response = _OK % (len(body), shown)
        else:
            self.response = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
                status, _REASONS[status], content_type, len(body), headers, shown
            )  # fmt: skip
        self._send(self)

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""
        self.code = problem.code
        self.reply(problem.status, problem.body(), headers=problem.headers)
