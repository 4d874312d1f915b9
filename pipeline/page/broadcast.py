"""Sends server-sent events to all viewers: each is encoded once, and a slow viewer gets the newest instead of all.

A browser that comes back names the last event that it saw. It gets those that it missed, or is told to begin anew.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

VIEWERS_MAX = 64
KEPT = 30
HEARTBEAT_S = 5.0
_HEARTBEAT = b": \n\n"
_RETRY = b"retry: 1000\n\n"


class TooManyViewers(Exception):
    """Raised when no more viewers are taken."""

    status = 503
    hint = "close some pages, or wait until their browsers have"


class Broadcast:
    """The stream of events. All methods are called on the event loop; `close` ends all streams."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._latest: dict[str, bytes] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False
        self.viewers = 0

    def send(self, kind: str, data: bytes, *, number: int = 0) -> None:
        """Send an event. One with a number is kept for those who miss it; of the others only the newest counts."""
        if number:
            self._events.append((number, b"id: %d\nevent: %s\ndata: %s\n\n" % (number, kind.encode(), data)))
        else:
            self._latest[kind] = b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
        self._wake()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def events(self, *, after: int | None) -> AsyncGenerator[bytes]:
        """Yield the events for one viewer, who has seen the one with the number `after`. Raises TooManyViewers."""
        if self.viewers >= VIEWERS_MAX:
            raise TooManyViewers(f"{VIEWERS_MAX} viewers are there already")
        self.viewers += 1
        try:
            yield _RETRY
            sent, told = await self._begin(after), dict.fromkeys(self._latest, b"")
            if sent is None:
                yield b"event: reset\ndata: {}\n\n"
                sent = self._events[-2][0] if len(self._events) > 1 else 0
            while not self._closed:
                fresh = [event for number, event in self._events if number > sent]
                sent = self._events[-1][0] if self._events else sent
                fresh += [event for kind, event in self._latest.items() if told.get(kind) is not event]
                told = dict(self._latest)
                if fresh:
                    yield b"".join(fresh)
                elif not await self._changed():
                    yield _HEARTBEAT
        finally:
            self.viewers -= 1

    async def _begin(self, after: int | None) -> int | None:
        """Return the number from which to go on; None if the viewer must begin anew."""
        if not self._events or after is None:
            return self._events[-1][0] - 1 if self._events else 0
        first, last = self._events[0][0], self._events[-1][0]
        return after if first - 1 <= after <= last else None

    async def _changed(self) -> bool:
        """Wait for a new event, or for the end; return whether one came in time."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait_for(future, HEARTBEAT_S)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True
