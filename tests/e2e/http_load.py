"""Clients that ask a server over HTTP as fast as they can, or at a rate, on a loop in a thread of its own."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import uvloop

_PATIENCE_S = 30.0


@dataclass
class Outcomes:
    """The outcomes of requests: how many of each status, the failures in words, and the times of those with 200."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.statuses.total()

    def percentile(self, share: float) -> float:
        """Return the time, in seconds, below which this share of the requests with 200 was answered."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class HttpLoad:
    """`kept` clients that keep their connections and `fresh` ones that open a new one for each request.

    With `per_second`, that many requests are begun each second, whatever becomes of them, as long as a client is free.
    """

    def __init__(
        self,
        port: int,
        bodies: Sequence[bytes],
        *,
        kept: int = 8,
        fresh: int = 0,
        per_second: float = 0.0,
        path: str = "/predict",
        pause_s: float = 0.0,
    ) -> None:
        method = "POST" if bodies else "GET"
        self._port = port
        self._requests = [
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            for body in bodies or [b""]
        ]
        self._kept, self._fresh = kept, fresh
        self._per_second, self._pause_s = per_second, pause_s
        self._next = 0
        self.outcomes = Outcomes()
        self.unsent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ends = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join(_PATIENCE_S * 2)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._ask_all())

    async def _ask_all(self) -> None:
        self._free: asyncio.Queue[None] = asyncio.Queue()
        clients = [self._client(keeps=True) for _ in range(self._kept)]
        clients += [self._client(keeps=False) for _ in range(self._fresh)]
        ticking = [self._tick()] if self._per_second else []
        await asyncio.gather(*ticking, *clients)

    async def _tick(self) -> None:
        """Allow requests at the rate; those for which no client is free are counted as unsent."""
        begun, allowed = time.monotonic(), 0
        while not self._ends:
            due = int((time.monotonic() - begun) * self._per_second)
            for _ in range(due - allowed):
                if self._free.qsize() < self._kept:
                    self._free.put_nowait(None)
                else:
                    self.unsent += 1
            allowed = due
            await asyncio.sleep(0.002)
        for _ in range(self._kept + self._fresh):
            self._free.put_nowait(None)

    async def _client(self, *, keeps: bool) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._ends:
            if self._per_second:
                await self._free.get()
            elif self._pause_s:
                await asyncio.sleep(self._pause_s)
            begun = time.perf_counter()
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", self._port)
                async with asyncio.timeout(_PATIENCE_S):
                    status, closes = await self._ask(*connection)
                self.outcomes.statuses[status] += 1
                if status == 200:
                    self.outcomes.seconds.append(time.perf_counter() - begun)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.outcomes.failures.append(repr(error))
                closes = True
            if connection is not None and (closes or not keeps):
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bool]:
        """Send the next request; return the status, and whether the connection ends."""
        self._next += 1
        writer.write(self._requests[self._next % len(self._requests)])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length:
            await reader.readexactly(int(length))
        return int(head[9:12]), b"connection: close" in head


def asked(port: int, bodies: Sequence[bytes], seconds: float, **options: Any) -> Outcomes:
    """Ask for some seconds, and return the outcomes."""
    with HttpLoad(port, bodies, **options) as load:
        time.sleep(seconds)
    return load.outcomes
