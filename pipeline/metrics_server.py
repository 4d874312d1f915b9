"""The metrics port: `GET /metrics` for Prometheus, with bounds on the size and time of requests and on connections.

A request must arrive within seconds; it is answered, and its connection is closed. When the maximum of connections is
open, a new one closes the oldest: silent clients can't keep Prometheus out.
"""

import contextlib
import socket
import threading
import time

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = structlog.get_logger("headrace")

CONNECTIONS_MAX = 8
REQUEST_BYTES_MAX = 8_192
REQUEST_S = 5.0
_BACKLOG = 16
_CHUNK_BYTES = 4_096
_PAUSE_S = 0.1
_END = b"\r\n\r\n"
_PATHS = frozenset({b"/", b"/metrics"})


class MetricsServer:
    """Serve the metrics of a registry from its own threads, until `close`. Raises OSError if the port is in use."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int, *, request_s: float = REQUEST_S) -> None:
        self._registry = registry
        self._request_s = request_s
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self._open: dict[int, socket.socket] = {}
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                # The process has no file descriptor left at the moment.
                time.sleep(_PAUSE_S)
                continue
            while not self._slots.acquire(blocking=False):
                self._end_oldest()
                if self._slots.acquire(timeout=_PAUSE_S):
                    break
            number += 1
            with self._lock:
                self._open[number] = connection
            try:
                threading.Thread(target=self._serve, args=(number, connection), name="metrics", daemon=True).start()
            except RuntimeError:
                # The process can't start another thread at the moment.
                self._end(number, connection)

    def _end_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._open.values()), None)
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)

    def _serve(self, number: int, connection: socket.socket) -> None:
        try:
            until = time.monotonic() + self._request_s
            answer = self._answer(_request(connection, until))
            # One deadline for the whole answer.
            connection.settimeout(max(0.001, until - time.monotonic()))
            connection.sendall(answer)
        except OSError:
            # The client is slow or gone; it may ask again.
            pass
        except Exception as error:  # noqa: BLE001 no error of an encoder may end in a traceback
            log.warning("metrics were not served", reason=f"{type(error).__name__}: {error}")
        finally:
            self._end(number, connection)

    def _end(self, number: int, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(number, None)
        connection.close()
        self._slots.release()

    def _answer(self, request: bytes) -> bytes:
        head, *lines = request.split(b"\r\n")
        words = head.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 method, path, version
            return _response("400 Bad Request", b"")
        method, path = words[0], words[1].partition(b"?")[0]
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", b"", "Allow: GET, HEAD\r\n")
        if path not in _PATHS:
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        accept = next((line[7:] for line in lines if line[:7].lower() == b"accept:"), b"")
        encode, content_type = choose_encoder(accept.decode("latin-1").strip())
        body = encode(self._registry)
        return _response("200 OK", body, f"Content-Type: {content_type}\r\n", with_body=method == b"GET")


def _request(connection: socket.socket, until: float) -> bytes:
    """Read the head of a request. Raises OSError if it is too long, or does not arrive in time."""
    request = b""
    while _END not in request:
        left = until - time.monotonic()
        if left <= 0 or len(request) > REQUEST_BYTES_MAX:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(_CHUNK_BYTES)
        if not part:
            raise ConnectionResetError
        request += part
    return request.partition(_END)[0]


def _response(status: str, body: bytes, headers: str = "", *, with_body: bool = True) -> bytes:
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("latin-1") + (body if with_body else b"")
