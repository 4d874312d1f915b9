"""The stream of payments: a thread that sends payments at a rate, and mixes in other records."""

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
_MIX_IN_EVERY = 40
_NAMED_MAX = 5
_MIXED_IN_KEY = b"card-7"


class Sent(NamedTuple):
    """The time at which a payment was sent, on the monotonic clock, and its label."""

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
        self._sent: set[RecordOffset] = set()
        self._to_mix_in: deque[tuple[int, bytes]] = deque()
        self.mixed_in: dict[int, RecordOffset] = {}
        """The offsets of the records that were mixed in, by their position in the argument of `mix_in`."""
        self.unseen: dict[str, Sent] = {}
        """The payments, by id, whose prediction was not read yet; the meter removes them."""
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def drift(self) -> None:
        """Change the rule of the payments."""
        self._payments.drift()

    def slow_down(self, rate: float) -> None:
        """Send at this rate from now on."""
        self._rate = rate

    def mix_in(self, values: Sequence[bytes]) -> None:
        """Send these values as well, one after every 40 payments."""
        self._to_mix_in.extend(enumerate(values))

    def sent(self) -> set[RecordOffset]:
        """Return the offsets of all records that Kafka has taken."""
        with self._lock:
            return set(self._sent)

    def stop(self) -> str:
        """Stop, and return the reason why Kafka refused a record, or "" if it took all of them."""
        self._asked_to_stop.set()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            return f"Kafka did not answer for {_STOP_S:.0f} s"
        return self._feed.fault

    def abandon(self) -> None:
        """Stop without waiting for the records that Kafka has not confirmed."""
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
                if self._to_mix_in and sent % _MIX_IN_EVERY == 0:
                    self._mix_in(*self._to_mix_in.popleft())
            self._feed.poll()
        if not self._abandoned:
            self._feed.finish()

    def _mix_in(self, number: int, value: bytes) -> None:
        self._feed.send(value, _MIXED_IN_KEY, partial(self._mixed_in_at, number))

    def _mixed_in_at(self, number: int, partition: int, offset: int) -> None:
        self.mixed_in[number] = (partition, offset)
        self._taken(partition, offset)

    def _taken(self, partition: int, offset: int) -> None:
        # A refused record has no offset; the feed keeps the reason.
        if offset >= 0:
            with self._lock:
                self._sent.add((partition, offset))


def named(offsets: Iterable[RecordOffset]) -> str:
    """List the first few offsets as `partition@offset`."""
    return ", ".join(f"{partition}@{offset}" for partition, offset in sorted(offsets)[:_NAMED_MAX])
