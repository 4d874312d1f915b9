"""The gate: decides when the stream pauses and when it may try again. Pure: the time is an argument.

Each thing that may be away has a breaker of its own. The first failure trips it, it opens for a time that
grows with each failure in a row, and the next try decides. The gate is shut while any breaker is tripped or
while a flood of bad records holds it.
"""

import random
from collections import deque
from typing import Literal

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
"""Never more than this between two tries, so that the stream goes on within seconds of a cure."""
HOLD_S = 1.0
"""A shorter outage is waited out: to pause drops what the client has fetched ahead."""


class Breaker:
    """One dependency's breaker. Times are seconds on a clock that never jumps."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.failures = 0
        self.since = 0.0
        self.retry_at = 0.0
        self.reason = ""

    @property
    def tripped(self) -> bool:
        """Whether the last call failed."""
        return self.failures > 0

    def may_try(self, now: float) -> bool:
        """Tell whether a call may be made: always while it works, else once its wait is over."""
        return now >= self.retry_at

    def fail(self, now: float, reason: str, *, after_s: float | None = None) -> None:
        """Note a failure. `after_s` is how long the other side asked to be left alone."""
        if not self.failures:
            self.since = now
        self.failures += 1
        self.reason = reason
        # Jitter: many workers that lost the same store must not come back to it in step.
        ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(self.failures, 16))
        wait = ceiling * self._rng.uniform(0.5, 1.0) if after_s is None else after_s
        self.retry_at = now + wait

    def succeed(self) -> None:
        """Note that it works."""
        self.failures = 0
        self.retry_at = 0.0
        self.reason = ""


class FloodGuard:
    """Tell a stream in which nearly everything is bad, which is a bad deploy and not a bad record.

    Looks at the last `window` verdicts, and trips when at least `ratio` of them are refusals.
    """

    def __init__(self, *, window: int, ratio: float) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._window = window
        self._ratio = ratio

    def flooded(self, *, good: int, bad: int) -> bool:
        """Count a batch and tell whether it is part of a flood."""
        if not good and not bad:
            # A batch of ends and control records only says nothing.
            return False
        if not bad and not any(self._recent):
            return False
        # Within a batch the order does not matter: what counts is its share.
        scale = min(1.0, self._window / (good + bad))
        self._recent.extend([False] * round(good * scale) + [True] * round(bad * scale))
        full = len(self._recent) == self._window
        return full and sum(self._recent) >= self._ratio * self._window


Dependency = Literal["kafka", "store", "sink"]


class Gate:
    """Whether records may flow, and if not, why and since when."""

    def __init__(self, *, rng: random.Random) -> None:
        self.breakers: dict[Dependency, Breaker] = {
            "kafka": Breaker(rng),
            "store": Breaker(rng),
            "sink": Breaker(rng),
        }
        self.flood = ""

    def hold_flood(self, reason: str) -> None:
        """Shut the gate until the process is started again, because of a flood of bad records."""
        self.flood = reason

    @property
    def open(self) -> bool:
        """Whether everything works."""
        return not self.flood and not any(breaker.tripped for breaker in self.breakers.values())

    @property
    def reason(self) -> str:
        """Why the gate is shut; empty while it is open."""
        if self.flood:
            return self.flood
        return next((b.reason for b in self.breakers.values() if b.tripped), "")

    def must_pause(self, now: float) -> bool:
        """Tell whether the partitions must pause: the gate has been shut for longer than a moment."""
        if self.flood:
            return True
        return any(b.tripped and now - b.since >= HOLD_S for b in self.breakers.values())
