"""Failpoints: named places at which a test kills or freezes the worker, to prove that it may die anywhere.

They are off unless the environment names one. Then all of them together cost a few calls of an empty function for each
batch.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

VARIABLE = "HEADRACE_FAILPOINT"

FailpointName = Literal[
    "polled",
    "learned",
    "begun",
    "between",
    "produced",
    "offsets",
    "committed",
    "forked",
    "writing",
    "saving",
    "saved",
    "relearning",
    "assigning",
    "revoking",
    "draining",
    "paused",
]
_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


class Failpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The action at a place: from its `hit`-th pass on, once for each time that the file `armed` is created.

    The worker waits `after_s` seconds before it sends itself the signal, and again after it was woken. So the threads
    of the clients can go on, and learn things that the worker does not know yet.
    """

    at: FailpointName
    do: Literal["kill", "freeze"]
    armed: str
    hit: int = 1
    after_s: float = 0.0


def reach(name: str) -> None:
    """Pass a place, as workers do."""


def from_environment() -> Callable[[str], None]:
    """Return the function that the worker calls at each place: `reach`, unless VARIABLE holds a failpoint as JSON.

    Raises msgspec.ValidationError if the JSON is not a failpoint.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return reach
    failpoint = msgspec.json.decode(text, type=Failpoint)
    passes = 0

    def stop(name: str) -> None:
        nonlocal passes
        if name != failpoint.at:
            return
        passes += 1
        if passes < failpoint.hit:
            return
        try:
            Path(failpoint.armed).unlink()
        except FileNotFoundError:
            return
        time.sleep(failpoint.after_s)
        os.kill(os.getpid(), _SIGNALS[failpoint.do])
        time.sleep(failpoint.after_s)

    return stop
