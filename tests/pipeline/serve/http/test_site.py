"""How the processes of a server share new connections."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import uvloop

from headrace.pipeline.config.serve_section import ServeConfig
from headrace.pipeline.serve.counters import Counters, SharedCounters
from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.site import ServeSite

ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Served:
    """The site of one process, in a thread; each request is answered with the number of its process."""

    def __init__(self, listener: socket.socket, memory: SharedCounters, slot: int) -> None:
        self.counters = Counters(memory, slot)
        self.counters.enter("ready")
        self.loop = uvloop.new_event_loop()
        self.seen: list[int] = []
        self._listener, self._slot = listener, slot
        self._started = threading.Event()
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
            ServeConfig(),
            loop=self.loop,
            counters=self.counters,
            connections_max=500,
            handle=self._handle,
            admit=lambda *_: None,
            context=lambda: None,
        )
        self.site.listen(self._listener)
        self.loop.call_soon(self._started.set)
        self.loop.run_forever()
        self._listener.close()
        self.site.close()
        self.loop.run_until_complete(self.site.wait_until_empty(2))
        self.loop.close()

    def _handle(self, request: HttpRequest) -> None:
        self.seen.append(len(self.site._connections) + len(self.site._accepting))
        request.reply(200, b"%d" % self._slot)

    def held(self) -> Callable[[], Any]:
        """Keep the loop busy until the returned function is called."""
        begun, ends = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert ends.wait(20)

        self.loop.call_soon_threadsafe(wait)
        assert begun.wait(10)
        return ends.set


def connected(listener: socket.socket, count: int, rest: ExitStack) -> list[socket.socket]:
    address = listener.getsockname()
    return [rest.enter_context(socket.create_connection(address, timeout=10)) for _ in range(count)]


def answers(clients: list[socket.socket]) -> list[bytes]:
    for client in clients:
        client.sendall(ASK)
    return [client.recv(4_096)[-1:] for client in clients]


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=500)


def test_processes_share_new_connections() -> None:
    memory = SharedCounters(2)
    with listening() as listener, ExitStack() as rest:
        both = [rest.enter_context(Served(listener.dup(), memory, slot)) for slot in range(2)]
        del both
        found = answers(connected(listener, 60, rest))
    assert 20 <= found.count(b"0") <= 40, found


def test_a_process_takes_what_a_busy_one_leaves() -> None:
    memory = SharedCounters(2)
    with listening() as listener, ExitStack() as rest:
        _, busy = (rest.enter_context(Served(listener.dup(), memory, slot)) for slot in range(2))
        go_on = busy.held()
        rest.callback(go_on)
        assert answers(connected(listener, 60, rest)) == [b"0"] * 60


def test_connections_that_wait_together_are_accepted_together() -> None:
    with listening() as listener, ExitStack() as rest:
        served = rest.enter_context(Served(listener.dup(), SharedCounters(1), 0))
        go_on = served.held()
        rest.callback(go_on)
        clients = connected(listener, 60, rest)
        for client in clients:
            client.sendall(ASK)
        go_on()
        assert [client.recv(4_096)[-1:] for client in clients] == [b"0"] * 60
        assert served.seen[0] >= 60


def test_a_connection_that_is_gone_is_counted_no_more() -> None:
    memory = SharedCounters(2)
    with listening() as listener, ExitStack() as rest:
        served = rest.enter_context(Served(listener.dup(), memory, 0))
        with ExitStack() as short:
            answers(connected(listener, 5, short))
            assert list(memory.connections_of_ready()) == [5]
            assert served.counters.lead == 0
        until = time.monotonic() + 10
        while list(memory.connections_of_ready()) != [0]:
            assert time.monotonic() < until
            time.sleep(0.01)
