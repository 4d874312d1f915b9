"""River's schedules of learning rates as options of a program."""

from typing import Any

from river.optim import schedulers

from headrace.state.compiled.program import OPTIMAL, SCALED_INVERSELY, STEADY
from headrace.state.compiled.river.transformers import NotCompiled, number

_POWER_MAX = 16.0
"""The largest power: EXACT_MAX steps, raised to it, are still a finite float."""


def rate_schedule(schedule: Any, what: str, option: str) -> dict[str, float]:
    """Return a schedule's code and its two parameters as the options `option`, `option`_a and `option`_b."""
    kind, first, second = _schedule(schedule, what)
    return {option: kind, f"{option}_a": first, f"{option}_b": second}


def _schedule(schedule: Any, what: str) -> tuple[int, float, float]:
    if schedule is None:
        return STEADY, 0.0, 0.0
    if type(schedule) is schedulers.Constant:
        return STEADY, number(schedule.learning_rate, what), 0.0
    if type(schedule) is schedulers.InverseScaling:
        power = number(schedule.power, "power")
        if abs(power) > _POWER_MAX:
            raise NotCompiled(f"power={power} is too large")
        return SCALED_INVERSELY, number(schedule.learning_rate, what), power
    if type(schedule) is schedulers.Optimal:
        alpha, t0 = number(schedule.alpha, "alpha"), number(schedule.t0, "t0")
        if alpha <= 0.0 or t0 <= 0.0:
            raise NotCompiled(f"alpha={alpha} is not above zero")
        return OPTIMAL, alpha, t0
    raise NotCompiled(f"the schedule {type(schedule).__name__} of {what} is not compiled")
