"""What all connections of one process share: the limits, the routes, and the sweep that ends what is slow."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog

from headrace.pipeline.config.serve_section import ServeConfig
from headrace.pipeline.serve.counters import Counters
from headrace.pipeline.serve.http.http_connection import HttpConnection
from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.known_heads import KnownHeads
from headrace.pipeline.serve.http.problem import Problem

log = structlog.get_logger("headrace")

SWEEP_S = 0.25
_ACCEPT_PAUSE_S = 0.1
# A process that has more connections than another one leaves it new ones for this time, and then takes some itself.
_YIELD_S = 0.001
_LEAD_MAX = 1
_ACCEPTS_A_TURN = 64
_ACCEPTS_AFTER_YIELD = 16
_HANDSHAKE_S = 10.0


class ServeSite:
    """The site of one process. `handle` answers a request; `admit` refuses one before its body is read.

    `context` returns the TLS context for a new connection, None without TLS.
    """

    def __init__(
        self,
        limits: ServeConfig,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        connections_max: int,
        handle: Callable[[HttpRequest], None],
        admit: Callable[[bytes, bytes, Mapping[bytes, bytes]], Problem | None],
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        self.body_max = limits.body_max
        self.request_timeout_s = limits.request_timeout
        self.keep_alive_s = limits.keep_alive
        self.is_draining = False
        self.heads = KnownHeads()
        self.handle = handle
        self.admit = admit
        self.now = loop.time
        self._loop = loop
        self._counters = counters
        self._connections_max = connections_max
        self._context = context
        self._connections: set[HttpConnection] = set()
        self._accepting: set[asyncio.Task[Any]] = set()
        self._listener: socket.socket | None = None
        self._emptied = asyncio.Event()
        loop.call_later(SWEEP_S, self._sweep)

    def opened(self, connection: HttpConnection) -> None:
        """Note a connection."""
        self._connections.add(connection)

    def closed(self, connection: HttpConnection) -> None:
        """Forget a connection."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._counters.connections(-1)
        if self.is_draining and self.is_empty:
            self._emptied.set()

    def answered(self, request: HttpRequest) -> None:
        """Count an answer."""
        self._counters.request(request.route, request.status, self.now() - request.received_s)
        if request.code:
            self._counters.rejected(request.code)

    @property
    def is_empty(self) -> bool:
        """Whether no connection is open."""
        return not self._connections and not self._accepting

    async def wait_until_empty(self, seconds: float) -> None:
        """Wait until no connection is open, for at most this time."""
        self._emptied.clear()
        if not self.is_empty:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)

    def listen(self, listener: socket.socket) -> None:
        """Accept connections. Other processes accept from the same socket."""
        self._listener = listener
        listener.settimeout(0.0)
        self._listen_on()

    def drain(self) -> None:
        """Answer what comes on the connections that are there, and close each behind its next answer."""
        self.is_draining = True
        if self._listener is not None:
            # Clients that are connected already, and wait to be accepted, have been promised an answer.
            while self._accept():
                pass
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._connections):
            connection.close()

    def _accept_some(self) -> None:
        """Accept connections that wait, as long as no other process has fewer."""
        for _ in range(_ACCEPTS_A_TURN):
            if self._counters.lead > _LEAD_MAX:
                # The others have been told of the connection as well. One that is idle takes it meanwhile.
                self._pause(_YIELD_S, self._accept_anyway)
                return
            if not self._accept():
                return

    def _accept_anyway(self) -> None:
        """Accept connections that no other process took: all are busy."""
        if self._listener is None:
            return
        self._listen_on()
        for _ in range(_ACCEPTS_AFTER_YIELD):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one connection; return whether there was one."""
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            # The process, or the machine, has no descriptor left at the moment.
            log.warning("a connection can't be accepted", reason=str(error))
            self._pause(_ACCEPT_PAUSE_S, self._listen_on)
            return False
        if len(self._connections) >= self._connections_max:
            self._make_room()
        client.settimeout(0.0)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._counters.connections(1)
        task = self._loop.create_task(self._connect(client))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return True

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Accept nothing for a time."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(seconds, then)

    def _listen_on(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept_some)

    async def _connect(self, client: socket.socket) -> None:
        context = self._context()
        handshake_s = None if context is None else _HANDSHAKE_S
        try:
            await self._loop.connect_accepted_socket(
                partial(HttpConnection, self), client, ssl=context, ssl_handshake_timeout=handshake_s
            )
        except (OSError, ssl.SSLError):
            # A client that sends no TLS, or goes away, is no news.
            self._counters.connections(-1)

    def _make_room(self) -> None:
        """Close the connection that is idle for the longest time, or else the slowest."""
        oldest = min(self._connections, key=lambda connection: (not connection.is_idle, connection.since_s))
        oldest.close()

    def _sweep(self) -> None:
        now_s = self.now()
        for connection in list(self._connections):
            connection.sweep(now_s)
        self._loop.call_later(SWEEP_S, self._sweep)
