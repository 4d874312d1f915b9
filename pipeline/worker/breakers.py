"""Decides when the stream pauses and when a dependency may be called again.

Each dependency (Kafka, the store, the HTTP sink, the schema registry) has a breaker. The first failure trips it. It
then stays open for a time that grows with each failure in a row, and the next call decides. Records flow while no
breaker is tripped and no flood of bad records holds them. A missing output topic trips the breaker of the sink. The
breaker of the registry holds only the partitions that wait for it (`schema_wait`). `Gate` is pure: its time is an
argument. `Breakers` makes the loop's calls and tells the gate.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import structlog

from headrace.consumers.formats.registry import RegistryAway
from headrace.consumers.source import SourceAway
from headrace.pipeline.telemetry import Telemetry
from headrace.producers.sink import OutcomeUnknown, OutputMissing, SinkAway
from headrace.producers.webhook import WebhookAway
from headrace.state.store.store_errors import StoreAway, StoreLoginRefused

log = structlog.get_logger("headrace")

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
"""The longest wait between two calls, so that the stream goes on within seconds after an outage."""
HOLD_S = 1.0
"""A shorter outage is waited out: a pause drops the records that the client has fetched ahead."""


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
        """Tell whether a call may be made: at any time while the dependency works, else after the wait."""
        return now >= self.retry_at

    def fail(self, now: float, reason: str, *, after_s: float | None = None) -> None:
        """Note a failure. `after_s` is the wait that the other side asked for, in seconds."""
        if not self.failures:
            self.since = now
        self.failures += 1
        self.reason = reason
        # Jitter: many workers that lost the same store must not retry at the same time.
        ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(self.failures, 16))
        wait = ceiling * self._rng.uniform(0.5, 1.0) if after_s is None else after_s
        self.retry_at = now + wait

    def succeed(self) -> None:
        """Note that the dependency works."""
        self.failures = 0
        self.retry_at = 0.0
        self.reason = ""


class FloodGuard:
    """Recognize a stream of nearly only bad records: the producer is broken, not a record.

    Looks at the last `window` verdicts, and trips when at least `ratio` of them are refusals.
    """

    def __init__(self, *, window: int, ratio: float) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._window = window
        self._ratio = ratio

    def flooded(self, *, good: int, bad: int) -> bool:
        """Count a batch and tell whether it is part of a flood."""
        if not good and not bad:
            # A batch without records says nothing.
            return False
        if not bad and not any(self._recent):
            return False
        # The order within a batch does not matter, only the share of bad records.
        scale = min(1.0, self._window / (good + bad))
        self._recent.extend([False] * round(good * scale) + [True] * round(bad * scale))
        full = len(self._recent) == self._window
        return full and sum(self._recent) >= self._ratio * self._window


Dependency = Literal["kafka", "store", "sink", "registry"]


class Gate:
    """Whether records may flow, and if not, why and since when."""

    def __init__(self, *, rng: random.Random) -> None:
        self.breakers: dict[Dependency, Breaker] = {
            "kafka": Breaker(rng),
            "store": Breaker(rng),
            "sink": Breaker(rng),
            "registry": Breaker(rng),
        }
        self._stream = [breaker for name, breaker in self.breakers.items() if name != "registry"]
        self.flood = ""

    def hold_flood(self, reason: str) -> None:
        """Shut the gate until the process is started again, because of a flood of bad records."""
        self.flood = reason

    @property
    def open(self) -> bool:
        """Whether everything works that all records need."""
        return not self.flood and not any(breaker.tripped for breaker in self._stream)

    @property
    def reason(self) -> str:
        """Why the gate is shut; empty while it is open."""
        if self.flood:
            return self.flood
        return next((b.reason for b in self._stream if b.tripped), "")

    @property
    def cause(self) -> str:
        """What shuts the gate: `flood`, or the name of a dependency; empty while it is open."""
        if self.flood:
            return "flood"
        stream = ((name, breaker) for name, breaker in self.breakers.items() if name != "registry")
        return next((name for name, breaker in stream if breaker.tripped), "")

    def must_pause(self, now: float) -> bool:
        """Tell whether the partitions must pause: the gate has been shut for longer than a moment."""
        if self.flood:
            return True
        return any(b.tripped and now - b.since >= HOLD_S for b in self._stream)


class Breakers:
    """Make the loop's calls as the gate's breakers allow, and tell the gate how each call went.

    `clock` gives seconds and never jumps. `explain` returns the error that the operator is told in place of another.
    """

    def __init__(
        self,
        *,
        telemetry: Telemetry,
        clock: Callable[[], float],
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        self._explain = explain
        self.gate = Gate(rng=random.Random())  # noqa: S311 jitter is no secret
        self._telemetry = telemetry
        self._clock = clock

    def allow(self, dependency: Dependency) -> bool:
        """Tell whether a dependency may be called now."""
        return self.gate.breakers[dependency].may_try(self._clock())

    def succeed(self, dependency: Dependency) -> None:
        """Note that a dependency has answered."""
        self.gate.breakers[dependency].succeed()

    def attempt(self, dependency: Dependency, call: Callable[[], Any]) -> bool:
        """Make a call if the dependency's breaker allows it; tell whether it went well.

        A call that goes well shows that the dependency works. The error of one that does not tells which is away.
        """
        return self.allow(dependency) and self.run(dependency, call)

    def prepare(self, dependency: Dependency, call: Callable[[], Any]) -> bool:
        """Make a call if the breaker allows it; tell whether it went well, which shows nothing of the dependency."""
        return self.allow(dependency) and self.run(None, call)

    def run(self, dependency: Dependency | None, call: Callable[[], Any]) -> bool:
        """Make a call whatever the breakers say; tell whether it went well.

        A call that goes well shows that `dependency` works, if one is given.
        """
        try:
            call()
        except (StoreAway, StoreLoginRefused) as error:
            # The store has let this worker in before: its password may be just about to change.
            self._fail("store", error)
        except OutputMissing as error:
            # Not Kafka's breaker: its other calls go well.
            self._fail("sink", error)
        except (SourceAway, SinkAway, OutcomeUnknown) as error:
            self._fail("kafka", error)
        except WebhookAway as error:
            self._fail("sink", error, after_s=error.after_s)
        except RegistryAway as error:
            self._fail("registry", error)
        else:
            if dependency is not None:
                self.succeed(dependency)
            return True
        return False

    def _fail(self, dependency: Dependency, error: Exception, *, after_s: float | None = None) -> None:
        breaker, reason = self.gate.breakers[dependency], str(self._explain(error))
        breaker.fail(self._clock(), reason, after_s=after_s)
        self._telemetry.failures.labels(dependency).inc()
        say = log.warning if breaker.failures == 1 else log.debug
        say("away, trying again", dependency=dependency, reason=reason, failures=breaker.failures)
