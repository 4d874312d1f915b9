"""The stream of payments: a thread that sends so many a second, and slips in what it is given."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from headrace.pipeline.demo.payment import Payments
from headrace.producers.writer import Feed

RecordOffset = tuple[int, int]
"""Partition and offset of a record in the features topic."""

_TICK_S = 0.005
_TIMEOUT_S = 60.0
_STOP_S = 70.0
_ABANDON_S = 2.0
_APART = 40
_NAMED_MAX = 5
_SLIPPED_KEY = b"card-7"


class Sent(NamedTuple):
    """When a payment was sent, on the monotonic clock, and its label."""

    at: float
    label: bool


class Stream:
    """Send payments to `topic` at `rate` a second until it is stopped."""

    def __init__(self, settings: Mapping[str, Any], *, topic: str, payments: Payments, rate: float) -> None:
        self._feed = Feed(settings, topic=topic, timeout_s=_TIMEOUT_S)
        self._payments = payments
        self._rate = rate
        self._asked_to_stop = threading.Event()
        self._abandoned = False
        self._lock = threading.Lock()
        self._places: set[RecordOffset] = set()
        self._slipping: deque[tuple[int, bytes]] = deque()
        self.slipped: dict[int, RecordOffset] = {}
        """Where the records stand that were slipped in, by their position in what was given."""
        self.unseen: dict[str, Sent] = {}
        """Payments by id whose prediction was not seen yet; whoever sees it takes it out."""
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def drift(self) -> None:
        """Let the payments drift."""
        self._payments.drift()

    def slow_down(self, rate: float) -> None:
        """Send this many a second from now on."""
        self._rate = rate

    def slip_in(self, values: Sequence[bytes]) -> None:
        """Send these too, among the payments, some way apart from one another."""
        self._slipping.extend(enumerate(values))

    def places(self) -> set[RecordOffset]:
        """Return the places of all records that Kafka has taken."""
        with self._lock:
            return set(self._places)

    def stop(self) -> str:
        """Stop, and return why a record was refused; nothing when Kafka has taken all."""
        self._asked_to_stop.set()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            return f"Kafka did not answer for {_STOP_S:.0f} s"
        return self._feed.fault

    def abandon(self) -> None:
        """Stop without waiting for what is on its way."""
        self._abandoned = True
        self._asked_to_stop.set()
        if self._thread.is_alive():
            self._thread.join(_ABANDON_S)

    def _run(self) -> None:
        supply = iter(self._payments)
        due, last, sent = 0.0, time.monotonic(), 0
        while not self._asked_to_stop.wait(_TICK_S):
            now = time.monotonic()
            due += (now - last) * self._rate
            last = now
            while due >= 1 and not self._asked_to_stop.is_set():
                payment = next(supply)
                self.unseen[payment.id] = Sent(time.monotonic(), payment.label)
                self._feed.send(payment.value, payment.key, self._taken)
                due -= 1
                sent += 1
                if self._slipping and sent % _APART == 0:
                    self._slip(*self._slipping.popleft())
            self._feed.poll()
        if not self._abandoned:
            self._feed.finish()

    def _slip(self, number: int, value: bytes) -> None:
        self._feed.send(value, _SLIPPED_KEY, partial(self._slipped_at, number))

    def _slipped_at(self, number: int, partition: int, offset: int) -> None:
        self.slipped[number] = (partition, offset)
        self._taken(partition, offset)

    def _taken(self, partition: int, offset: int) -> None:
        # A record that was refused has no place; the feed keeps the words of it.
        if offset >= 0:
            with self._lock:
                self._places.add((partition, offset))


def named(places: Iterable[RecordOffset]) -> str:
    """Name the first few of some places, as `partition@offset`."""
    return ", ".join(f"{partition}@{offset}" for partition, offset in sorted(places)[:_NAMED_MAX])
