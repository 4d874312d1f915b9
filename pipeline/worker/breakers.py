"""Trying what may find a dependency away: the breakers of the gate round every call of the loop."""

import random
from collections.abc import Callable
from typing import Any

import structlog

from headrace.consumers.source import SourceAway
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.gate import Dependency, Gate
from headrace.producers.sink import OutcomeUnknown, SinkAway
from headrace.producers.webhook import WebhookAway
from headrace.state.store.store_errors import StoreAway

log = structlog.get_logger("headrace")


class Breakers:
    """Make calls as the breakers allow, and keep the gate's account of what is away.

    `clock` gives seconds and never jumps.
    """

    def __init__(self, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self.gate = Gate(rng=random.Random())  # noqa: S311 jitter is no secret
        self._telemetry = telemetry
        self._clock = clock

    def allowed(self, dependency: Dependency) -> bool:
        """Tell whether a dependency may be called now."""
        return self.gate.breakers[dependency].may_try(self._clock())

    def works(self, dependency: Dependency) -> None:
        """Note that a dependency has answered."""
        self.gate.breakers[dependency].succeed()

    def attempt(self, dependency: Dependency, call: Callable[[], Any]) -> bool:
        """Call something that may find a dependency away; tell whether it went well.

        `dependency` is the one whose breaker must allow the call and that is known to work afterwards; what
        is raised tells which one does not.
        """
        return self.allowed(dependency) and self.hear(dependency, call)

    def begin(self, dependency: Dependency, call: Callable[[], Any]) -> bool:
        """Call, as the breaker allows, what fails where a dependency is away, and proves nothing where it does not."""
        return self.allowed(dependency) and self.hear(None, call)

    def hear(self, dependency: Dependency | None, call: Callable[[], Any]) -> bool:
        """Hear how a call went that was allowed before; `dependency` is what it proves to work, if anything."""
        try:
            call()
        except StoreAway as error:
            self._fail("store", error)
        except (SourceAway, SinkAway, OutcomeUnknown) as error:
            self._fail("kafka", error)
        except WebhookAway as error:
            self._fail("sink", error, after_s=error.after_s)
        else:
            if dependency is not None:
                self.works(dependency)
            return True
        return False

    def _fail(self, dependency: Dependency, error: Exception, *, after_s: float | None = None) -> None:
        breaker = self.gate.breakers[dependency]
        breaker.fail(self._clock(), str(error), after_s=after_s)
        self._telemetry.failures.labels(dependency).inc()
        say = log.warning if breaker.failures == 1 else log.debug
        say("away, trying again", dependency=dependency, reason=str(error), failures=breaker.failures)
