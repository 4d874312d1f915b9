"""Traps of the tests: a failpoint in the worker that stops it, each time that a test arms it."""

import os
from pathlib import Path
from typing import Literal

import msgspec
from harness import Project, wait_until

from headrace.pipeline.process.failpoint import VARIABLE, Failpoint, FailpointName


class Trap:
    """A failpoint in the workers that `p` starts from now on. It triggers once for each `arm`."""

    def __init__(
        self,
        p: Project,
        at: FailpointName,
        *,
        do: Literal["kill", "freeze"] = "kill",
        hit: int = 1,
        after_s: float = 0.0,
    ) -> None:
        self._at = at
        self._armed: Path = p.directory / f"armed-{at}"
        failpoint = Failpoint(at=at, do=do, armed=str(self._armed), hit=hit, after_s=after_s)
        p.settings[VARIABLE] = msgspec.json.encode(failpoint).decode()

    def arm(self) -> None:
        """Trigger it at the next pass."""
        self._armed.touch()

    def wait(self, *, timeout_s: float = 40.0) -> None:
        """Wait until it has triggered."""
        wait_until(lambda: not self._armed.exists(), what=f"a worker to come to {self._at}", timeout_s=timeout_s)

    def spring(self, *, timeout_s: float = 40.0) -> None:
        """Arm it and wait until it has triggered."""
        self.arm()
        self.wait(timeout_s=timeout_s)


SOAK = bool(os.environ.get("HEADRACE_SOAK"))
"""Whether the long forms of the fault tests are requested."""
