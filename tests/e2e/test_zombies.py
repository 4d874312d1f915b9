"""A worker that is frozen until another has its partitions, and then wakes: nothing that it does counts any more."""

import os
import signal
from collections.abc import Callable

import pytest
from harness import Project, Run, steady, values, wait_until
from oracle import promise
from trap import Trap

from pipeline.failpoint import VARIABLE, Name

Make = Callable[..., Project]

LIBRDKAFKA = """
[kafka.librdkafka]
"transaction.timeout.ms" = 6000
"""


def _wake(worker: int) -> None:
    os.kill(worker, signal.SIGCONT)


def _has_moved_on(run: Run) -> bool:
    """Tell whether a woken worker has noticed: it was told so, or its client was, or it has ended."""
    log = run.log()
    return any(said in log for said in ("partitions revoked", "batch dropped", "worker died"))


@pytest.mark.parametrize(
    ("at", "after_s"),
    # A second after it woke, its client has heard that it is no member any more, and the worker has not.
    [("polled", 0.0), ("learned", 1.0), ("begun", 0.0), ("produced", 0.2), ("offsets", 0.0), ("committed", 0.0)],
)
def test_a_zombie_is_refused(project: Make, at: Name, after_s: float) -> None:
    p = project(partitions=2)
    with p.file.open("a") as file:
        file.write(LIBRDKAFKA)
    trap = Trap(p, at, do="freeze", after_s=after_s)
    with promise(p), steady(p, values(100_000, bad_every=50), per_second=500) as producing, p.running() as zombie:
        wait_until(lambda: p.committed()[0][0] > 300, what="some records to be committed")
        frozen = zombie.worker()
        trap.spring()
        del p.settings[VARIABLE]
        with p.running() as heir:
            wait_until(
                lambda: heir.log().count("partition taken over") >= 2, what="the heir to take over", timeout_s=60
            )
            reached = [offset for offset, _ in p.committed().values()]
            wait_until(
                lambda: all(o > r + 100 for (o, _), r in zip(p.committed().values(), reached, strict=True)),
                what="the heir to go on",
            )
            _wake(frozen)
            wait_until(lambda: _has_moved_on(zombie), what="the zombie to notice")
            if at == "committed":
                wait_until(lambda: "snapshot refused" in zombie.log(), what="the zombie's snapshot to be refused")
            elif at != "polled":
                assert "batch dropped" in zombie.log() or "worker died" in zombie.log(), zombie.log()
            wait_until(lambda: p.status()["lag"] < 500, what="the two to go on together", timeout_s=60)
            producing.stop()
            p.wait_for_all()
            assert zombie.stop() == 0, zombie.log()
            assert heir.stop() == 0, heir.log()
