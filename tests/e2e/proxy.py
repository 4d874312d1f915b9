"""A TCP proxy between the worker and Kafka or the store, with faults that a test sets and removes while it runs.

`proxied_stack` starts a Kafka and a Valkey, each with a proxy in front. The worker, with `Proxied.settings` in its
environment, connects through the proxies; the clients of the test connect directly.

    with proxied_stack() as (stack, kafka, store):
        kafka.cut()                       # reset every connection, refuse new ones
        kafka.stall()                     # accept, and forward nothing; `stall("to_client")` one way only
        kafka.delay(0.5)                  # latency, each way
        kafka.reset_every(100_000)        # reset each connection after 100,000 bytes, in the middle of a frame
        kafka.heal()                      # remove all of the above; stalled bytes are forwarded
        fault = kafka.drop_reply("EndTxn", then=run.kill_worker)   # once
        fault = store.cut_after(20_000, "EVALSHA", containing=b":snapshots", then=run.kill_worker)   # once
        wait_until(fault.happened.is_set, what="the fault to happen")

A proxy reads a whole request or reply before it forwards it, so it knows which reply belongs to which request.
"""

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

from headrace.pipeline.embedded import Stack
from headrace.pipeline.embedded.port import free_ports

Way = Literal["to_server", "to_client"]
WAYS: tuple[Way, Way] = ("to_server", "to_client")

_CHUNK = 65_536
_AHEAD = 64
_CALL_S = 30.0

APIS = {
    **dict(enumerate(("Produce", "Fetch", "ListOffsets", "Metadata"))),
    **dict(enumerate(("OffsetCommit", "OffsetFetch", "FindCoordinator", "JoinGroup", "Heartbeat"), 8)),
    **dict(enumerate(("LeaveGroup", "SyncGroup", "DescribeGroups", "ListGroups"), 13)),
    **dict(enumerate(("ApiVersions", "CreateTopics", "DeleteTopics"), 18)),
    **dict(enumerate(("InitProducerId", "OffsetForLeaderEpoch", "AddPartitionsToTxn", "AddOffsetsToTxn"), 22)),
    **dict(zip((26, 28, 68), ("EndTxn", "TxnOffsetCommit", "ConsumerGroupHeartbeat"), strict=True)),
}
"""Kafka's requests by their key, as `drop_reply` and `cut_after` name them."""


@dataclass(eq=False)
class Fault:
    """A fault that happens once, to a request of this name that contains these bytes; `happened` is then set.

    `then` is called in its own thread while the proxy holds the request or its reply.
    """

    name: str
    containing: bytes
    spare: int
    then: Callable[[], Any] | None
    close: bool
    forward: int | None = None
    met: bool = False
    happened: threading.Event = field(default_factory=threading.Event)

    def takes(self, name: str, request: bytes) -> bool:
        """Return whether this is the request that the fault waits for."""
        if self.met or name != self.name or self.containing not in request or len(request) <= (self.forward or 0):
            return False
        self.spare -= 1
        self.met = self.spare < 0
        return self.met


class Wire(Protocol):
    """The protocol of a connection, as far as the proxy must understand it."""

    def end(self, data: bytearray) -> int | None:
        """Return the end of the first whole request or reply, or None if it is incomplete."""

    def request(self, frame: bytes) -> tuple[str, int]:
        """Return the name of a request, and the number of its reply."""

    def reply(self, frame: bytes) -> int:
        """Return the number of a reply."""


class KafkaWire:
    """A length of four bytes, then key, version and correlation id; a reply begins with the correlation id."""

    def end(self, data: bytearray) -> int | None:
        end = 4 + int.from_bytes(data[:4], "big")
        return end if 4 <= len(data) >= end else None

    def request(self, frame: bytes) -> tuple[str, int]:
        key, _, correlation = struct.unpack_from(">hhi", frame, 4)
        return APIS.get(key, str(key)), correlation

    def reply(self, frame: bytes) -> int:
        return int(struct.unpack_from(">i", frame, 4)[0])


class RedisWire:
    """RESP 2 and 3: a request is an array whose first part is its name, and replies come in the requests' order."""

    def __init__(self) -> None:
        self._requests = itertools.count()
        self._replies = itertools.count()

    def end(self, data: bytearray) -> int | None:
        return self._end(data, 0)

    def _end(self, data: bytearray, start: int) -> int | None:
        line = data.find(b"\r\n", start)
        if line < 0:
            return None
        kind, number, end = bytes(data[start : start + 1]), bytes(data[start + 1 : line]), line + 2
        if kind in {b"$", b"=", b"!"} and number != b"-1":
            end += int(number) + 2
            return end if len(data) >= end else None
        parts = int(number) * (2 if kind == b"%" else 1) if kind in {b"*", b"~", b">", b"%"} else 0
        for _ in range(parts):
            found = self._end(data, end)
            if found is None:
                return None
            end = found
        return end

    def request(self, frame: bytes) -> tuple[str, int]:
        return frame.split(b"\r\n", 3)[2].decode().upper(), next(self._requests)

    def reply(self, frame: bytes) -> int:
        # A push message of the server (`>`) is not a reply.
        return -1 if frame.startswith(b">") else next(self._replies)


class _Reset(Exception):
    """Raised to end a connection by a reset."""


class _Connection:
    """The connection of a client, and the proxy's connection to the server for it."""

    def __init__(self, proxy: "Proxy", ends: dict[Way, tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self._proxy = proxy
        self._ends = ends
        self._wire = proxy.wire()
        self._doomed: dict[int, Fault] = {}
        self._carried = 0

    async def run(self) -> None:
        """Forward both ways until one side ends; then end the other side in the same way."""
        ways = [asyncio.create_task(self._carry(way)) for way in WAYS]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            faults = [fault for way in done if (fault := way.exception()) is not None]
            self._proxy.errors += [fault for fault in faults if not isinstance(fault, _Reset | OSError)]
            if faults:
                self.reset()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for unmet in self._doomed.values():
                # Another fault has ended the connection first: this one waits for the next such request.
                unmet.met = False
            for _, writer in self._ends.values():
                writer.close()

    def reset(self) -> None:
        """Reset both sides at once."""
        for _, writer in self._ends.values():
            _reset(writer)

    async def _carry(self, way: Way) -> None:
        frames: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(_AHEAD)
        reading = asyncio.create_task(self._read(way, frames))
        clock = asyncio.get_running_loop().time
        try:
            while (frame := await frames.get()) is not None:
                if (wait_s := frame[0] - clock()) > 0:
                    await asyncio.sleep(wait_s)
                await self._proxy.flows[way].wait()
                await (self._request if way == "to_server" else self._reply)(frame[1])
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, way: Way, frames: "asyncio.Queue[tuple[float, bytes] | None]") -> None:
        reader, data = self._ends[way][0], bytearray()
        clock = asyncio.get_running_loop().time
        try:
            while chunk := await reader.read(_CHUNK):
                data += chunk
                while (end := self._wire.end(data)) is not None:
                    await frames.put((clock() + self._proxy.latency(), bytes(data[:end])))
                    del data[:end]
        finally:
            await frames.put(None)

    async def _request(self, frame: bytes) -> None:
        name, number = self._wire.request(frame)
        self._proxy.requests[name] += 1
        fault = self._proxy.find(name, frame)
        if fault is not None and fault.forward is not None:
            await self._write("to_server", frame[: fault.forward])
            await self._proxy.happen(fault)
            raise _Reset
        if fault is not None:
            self._doomed[number] = fault
        await self._write("to_server", frame)

    async def _reply(self, frame: bytes) -> None:
        fault = self._doomed.pop(self._wire.reply(frame), None)
        if fault is None:
            await self._write("to_client", frame)
            return
        await self._proxy.happen(fault)
        if fault.close:
            raise _Reset

    async def _write(self, way: Way, data: bytes) -> None:
        writer, most = self._ends[way][1], self._proxy.bytes_max
        for start in range(0, len(data), _CHUNK):
            await self._proxy.flows[way].wait()
            piece = data[start : start + _CHUNK]
            room = most - self._carried if most else len(piece)
            self._carried += len(piece)
            writer.write(piece[:room])
            await writer.drain()
            if room < len(piece):
                raise _Reset


class Proxy:
    """Forward connections to `port` to `target_port`, both on loopback, inside a `with` block.

    `wire` is the protocol. With `tls` the clients must connect with TLS. Each method can be called from any thread and
    takes effect before it returns. `requests` counts the forwarded requests by name, `ended` counts the connections
    that have ended.
    """

    def __init__(
        self,
        target_port: int,
        *,
        port: int | None = None,
        wire: Callable[[], Wire] = KafkaWire,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.port = port or free_ports(1)[0]
        self.wire = wire
        self.requests: Counter[str] = Counter()
        self.ended = 0
        self.bytes_max = 0
        self.errors: list[BaseException] = []
        self._target_port = target_port
        self._delay = (0.0, 0.0)
        self._faults: list[Fault] = []
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[Any], _Connection | None] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.flows: dict[Way, asyncio.Event] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._cut())
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self.errors:
            raise self.errors[0]

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._do(self._cut())

    def stall(self, *ways: Way) -> None:
        """Accept connections and forward nothing, both ways unless `way` names one."""
        self._do(self._flow({way: way not in (ways or WAYS) for way in WAYS}))

    def delay(self, latency_s: float, *, jitter_s: float = 0.0) -> None:
        """Delay everything, each way, by this time and a random part of the jitter."""
        self._delay = (latency_s, jitter_s)

    def reset_every(self, bytes_max: int) -> None:
        """Reset each connection once it has carried this number of bytes, both ways together."""
        self.bytes_max = bytes_max

    def reset(self) -> None:
        """Reset every connection once; accept new ones."""
        self._do(self._reset())

    def heal(self) -> None:
        """Remove the effects of `cut`, `stall`, `delay` and `reset_every`, and faults that have not happened."""
        self._delay, self.bytes_max = (0.0, 0.0), 0
        self._faults.clear()
        self._do(self._flow(dict.fromkeys(WAYS, True)))
        self._do(self._listen())

    def drop_reply(
        self,
        name: str,
        *,
        containing: bytes = b"",
        spare: int = 0,
        then: Callable[[], Any] | None = None,
        close: bool = False,
    ) -> Fault:
        """Drop one reply: the server has executed the request, but the client gets no answer.

        With `close`, reset the connection as well. `spare` is the number of such requests to forward before.
        """
        self._faults.append(Fault(name, containing, spare, then, close))
        return self._faults[-1]

    def cut_after(
        self,
        forward: int,
        name: str,
        *,
        containing: bytes = b"",
        spare: int = 0,
        then: Callable[[], Any] | None = None,
    ) -> Fault:
        """Forward only this number of bytes of one longer request; reset the connection after `then`."""
        self._faults.append(Fault(name, containing, spare, then, close=True, forward=forward))
        return self._faults[-1]

    def find(self, name: str, request: bytes) -> Fault | None:
        """Return the fault for this request, if there is one."""
        return next((fault for fault in list(self._faults) if fault.takes(name, request)), None)

    async def happen(self, fault: Fault) -> None:
        """Call `then` of a fault, and remove the fault."""
        with contextlib.suppress(ValueError):
            self._faults.remove(fault)
        try:
            if fault.then is not None:
                await asyncio.to_thread(fault.then)
        finally:
            fault.happened.set()

    def latency(self) -> float:
        """Return the delay for bytes that arrive now, in seconds."""
        return self._delay[0] + self._delay[1] * random.random()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    async def _open(self) -> None:
        self.flows = {way: asyncio.Event() for way in WAYS}
        await self._flow(dict.fromkeys(WAYS, True))
        await self._listen()

    async def _flow(self, flows: dict[Way, bool]) -> None:
        for way, flowing in flows.items():
            (self.flows[way].set if flowing else self.flows[way].clear)()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, reuse_address=True, ssl=self._tls
            )

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self) -> None:
        tasks = list(self._connections)
        for task, connection in self._connections.items():
            if connection is not None:
                connection.reset()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
            # The reader is at the start of a way, the writer at its end.
            connection = _Connection(self, {"to_server": (reader, there[1]), "to_client": (there[0], writer)})
            self._connections[task] = connection
            await connection.run()
        except (OSError, asyncio.CancelledError):
            # A cut has cancelled it, or the server is away; nobody handles the error of this task.
            _reset(writer)
        finally:
            self._connections.pop(task)
            self.ended += 1


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        # A close without lingering sends a reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxied(NamedTuple):
    """A stack with proxies in front of its Kafka and its store."""

    stack: Stack
    kafka: Proxy
    store: Proxy

    @property
    def settings(self) -> dict[str, str]:
        """The environment that makes the worker of a project connect through the proxies (`Project.settings`)."""
        return {
            "HEADRACE__KAFKA__BOOTSTRAP_SERVERS": self.kafka.address,
            "HEADRACE__REDIS__URL": f"redis://{self.store.address}/0",
        }


@contextlib.contextmanager
def proxied_stack() -> Iterator[Proxied]:
    """Run a stack of one broker with proxies in front; ``stack.addresses`` bypasses them."""
    with contextlib.ExitStack() as exits:
        directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="headrace-proxied-")))
        direct, controller, inner = free_ports(3)
        kafka = exits.enter_context(Proxy(inner))
        # The settings of listeners override those of the stack, so its ports must be known before.
        (directory / "kafka.ports").write_text(f"{direct} {controller}")
        settings = {
            "listeners": f"PLAINTEXT://127.0.0.1:{direct},CONTROLLER://127.0.0.1:{controller},"
            f"PROXIED://127.0.0.1:{inner}",
            # A broker advertises to each client the listener that the client has used.
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://{kafka.address}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
        }
        stack = exits.enter_context(Stack(data_dir=directory, kafka_settings=settings))
        assert stack.addresses.kind == "kafka", "these tests prove nothing on a mock"
        # Its data is not read again, so it needs no clean end.
        exits.callback(stack.store.kill)
        exits.callback(stack.kafka.kill)
        store = exits.enter_context(Proxy(stack.store.port, wire=RedisWire))
        yield Proxied(stack, kafka, store)
