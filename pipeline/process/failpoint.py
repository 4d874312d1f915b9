"""Named places at which a test ends or freezes the worker, to prove that it may die anywhere.

Off, as they are unless the environment names one, all of them together cost a few calls of an empty function a
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
    """What happens at a place: from its `hit`-th pass on, once for each time that the file `armed` is made.

    The worker waits `after_s` seconds there before it sends itself the signal, and as long after it was woken, so
    that the clients' own threads come to do and to hear what the worker itself does not know of yet.
    """

    at: FailpointName
    do: Literal["kill", "freeze"]
    armed: str
    hit: int = 1
    after_s: float = 0.0


def reach(name: str) -> None:
    """Pass a place, as workers do."""


def from_environment() -> Callable[[str], None]:
    """Return what the worker calls at each place: `reach`, unless VARIABLE holds a failpoint as JSON.

    Raises msgspec.ValidationError for one that is none.
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
