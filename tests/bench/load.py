"""Sends requests to a server over HTTP, from a process of its own, and prints rates and latencies as JSON.

    python load.py PORT PATH BODY_FILE CONNECTIONS SECONDS [RATE]

Without a rate each connection asks again when it has its answer (a closed loop). With a rate, requests are due at even
times, and a latency counts from the time at which its request was due (an open loop): waiting is not left out.
"""

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import uvloop

_GRACE_S = 3.0


class Load:
    """The requests of a run, and the latencies of their answers, in seconds."""

    def __init__(self, path: str, body: bytes, *, seconds: float, rate: float) -> None:
        kind, length = "content-type: application/json", f"content-length: {len(body)}"
        lines = (f"POST {path} HTTP/1.1", "host: bench", kind, length)
        head = "\r\n".join((*lines, "", ""))
        self.request = head.encode() + body
        self.rate = rate
        self.begun_s = time.perf_counter()
        self.ends_s = self.begun_s + seconds
        self.latencies: list[float] = []
        self.bad = 0
        self.due: deque[float] = deque()
        self.free: deque[Connection] = deque()

    def answered(self, connection: "Connection", began_s: float, *, good: bool) -> None:
        """Note an answer, and let its connection ask again."""
        now_s = time.perf_counter()
        self.latencies.append(now_s - began_s)
        self.bad += not good
        if self.rate:
            self.free.append(connection)
            self.feed()
        elif now_s < self.ends_s:
            connection.ask(now_s)

    def feed(self) -> None:
        """Send the requests that are due, on free connections."""
        while self.due and self.free:
            self.free.popleft().ask(self.due.popleft())

    async def pace(self) -> None:
        """Make requests due at an even rate."""
        made = 0
        while (now_s := time.perf_counter()) < self.ends_s:
            while made < (now_s - self.begun_s) * self.rate:
                self.due.append(self.begun_s + made / self.rate)
                made += 1
            self.feed()
            # uvloop counts in whole milliseconds: less would be no wait, and take a whole core from the server.
            await asyncio.sleep(0.001)


class Connection(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: Any = None
        self._began_s = 0.0
        self._parts = b""
        self._size = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._load.rate:
            self._load.free.append(self)
        else:
            self.ask(time.perf_counter())

    def ask(self, began_s: float) -> None:
        """Send a request; its latency counts from this time."""
        self._began_s = began_s
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._parts += data
        if not self._size:
            end = self._parts.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._parts[:end].lower()
            length = head[head.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0]
            self._size = end + 4 + int(length)
        if len(self._parts) >= self._size:
            good = self._parts[9:12] == b"200"
            self._parts, self._size = b"", 0
            self._load.answered(self, self._began_s, good=good)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 each reason counts the same
        self._load.bad += time.perf_counter() < self._load.ends_s


async def run(port: int, path: str, body: bytes, *, connections: int, seconds: float, rate: float) -> dict[str, float]:
    """Ask for this time, and return the figures."""
    loop = asyncio.get_running_loop()
    load = Load(path, body, seconds=seconds, rate=rate)
    made = [await loop.create_connection(lambda: Connection(load), "127.0.0.1", port) for _ in range(connections)]
    if rate:
        await load.pace()
        until = time.perf_counter() + _GRACE_S
        while len(load.free) < connections and time.perf_counter() < until:  # noqa: ASYNC110 two conditions
            await asyncio.sleep(0.01)
    else:
        await asyncio.sleep(seconds + 0.2)
    for transport, _ in made:
        transport.close()
    held = sorted(load.latencies)
    return {
        "requests_s": len(held) / seconds,
        "p50_ms": 1_000 * held[len(held) // 2],
        "p99_ms": 1_000 * held[int(0.99 * len(held))],
        "failed": load.bad,
    }


if __name__ == "__main__":
    port, path, file, connections, seconds, *rate = sys.argv[1:]
    body = Path(file).read_bytes()
    pace = float(rate[0]) if rate else 0.0
    asked = run(int(port), path, body, connections=int(connections), seconds=float(seconds), rate=pace)
    sys.stdout.write(json.dumps(uvloop.run(asked)) + "\n")
