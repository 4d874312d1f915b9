"""The group moves its partitions about: workers come, go, die and sleep, and nothing is lost or learned twice."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from fleet import DYNAMIC, SESSION_S, SHORT_SESSION, SHORT_TRANSACTION, START_S, Fleet, fleet, moves, said, tell
from harness import Project, Run, steady, values, wait_until
from oracle import Watch, promise
from trap import SOAK

from headrace.pipeline.process.failpoint import VARIABLE

Make = Callable[..., Project]

STEPS = 50 if SOAK else 6
WORKERS_MAX = 6
PROTOCOLS: dict[str, dict[str, Any]] = {
    "range": {"partition.assignment.strategy": "range", **SHORT_SESSION},
    "cooperative": {"partition.assignment.strategy": "cooperative-sticky", **SHORT_SESSION},
    "kip-848": {"group.protocol": "consumer"},
}


def _short_session(p: Project) -> None:
    """Give the group a short session of the new protocol, where it is the broker's to say."""
    wanted = {"consumer.session.timeout.ms": str(int(SESSION_S * 1000)), "consumer.heartbeat.interval.ms": "500"}
    entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in wanted.items()]
    group = ConfigResource(ResourceType.GROUP, p.name, incremental_configs=entries)
    admin = AdminClient(p.client)
    admin.incremental_alter_configs([group], request_timeout=10)[group].result()


def _step(runs: Fleet, client: dict[str, Any], rng: random.Random) -> tuple[str, Run | None]:
    """Do one thing that changes the group; return its name, and the run whose worker was put to sleep by it."""
    count = len(runs.runs)
    choices = ["crash", "stall"] + ["start"] * 3 * (count < WORKERS_MAX) + ["stop", "kill"] * (count > 1)
    action = rng.choice(choices)
    if action == "start":
        member = rng.choice([DYNAMIC, {}])
        runs.start({**client, **member})
        return f"start a {'dynamic' if member else 'static'} one", None
    run = rng.choice(runs.runs)
    if action == "stop":
        runs.stop(run)
    elif action == "kill":
        runs.kill(run)
    elif action == "crash":
        run.kill_worker()
    else:
        os.kill(run.worker(), signal.SIGSTOP)
        return action, run
    return action, None


def _sleep_out(p: Project, watch: Watch, run: Run, *, alone: bool) -> None:
    """Let a stopped worker sleep past its session, and until the others have taken its partitions; wake it."""
    slept_from, sleeper = time.monotonic(), run.worker()
    if not alone:
        moves(p, watch, what="a stall")
    wait_until(lambda: time.monotonic() - slept_from > 1.5 * SESSION_S, what="the session to end")
    os.kill(sleeper, signal.SIGCONT)


@pytest.mark.parametrize(("protocol", "seed"), [("range", 11), ("cooperative", 12), ("kip-848", 13)])
def test_workers_come_go_die_and_sleep_and_no_partition_is_stuck(project: Make, protocol: str, seed: int) -> None:
    p = project(partitions=6)
    client, rng = {**PROTOCOLS[protocol], **SHORT_TRANSACTION}, random.Random(seed)
    if protocol == "kip-848":
        _short_session(p)
    steps: list[str] = []
    with (
        promise(p) as watch,
        steady(p, values(5_000 * STEPS, bad_every=50), per_second=300) as producing,
        fleet(p) as runs,
    ):
        runs.start(client)
        runs.start({**client, **DYNAMIC})
        moves(p, watch, what="the first start", timeout_s=START_S)
        for _ in range(STEPS):
            began = time.monotonic()
            what, sleeper = _step(runs, client, rng)
            if sleeper is not None:
                _sleep_out(p, watch, sleeper, alone=len(runs.runs) == 1)
            moves(p, watch, what=f"{what} ({protocol}, seed {seed}, after {steps})")
            steps.append(f"{what} → {len(runs.runs)} ({time.monotonic() - began:.1f} s)")
        producing.stop()
        p.wait_for_all()
        runs.stop_all()
        takeovers = runs.said("partition taken over")
        counts = {words: runs.said(words) for words in ("batch dropped", "snapshot refused", "worker died")}
        tell(f"{protocol}, seed {seed}: {takeovers} takeovers, {counts}; {'; '.join(steps)}")
        assert takeovers > p.partitions + STEPS, "the group moved its partitions about"


def test_what_a_worker_was_handing_over_when_it_died_does_not_stay_nobodys(project: Make) -> None:
    p = project(partitions=4)
    armed = p.directory / "armed"
    failpoint = {"at": "revoking", "do": "kill", "armed": str(armed)}
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=300) as producing, fleet(p) as runs:
        giver = runs.start(SHORT_SESSION, **{VARIABLE: json.dumps(failpoint)})
        moves(p, watch, what="the first start", timeout_s=START_S)
        armed.touch()
        runs.start(SHORT_SESSION)
        wait_until(lambda: not armed.exists(), what="the first to be told to give partitions up", timeout_s=START_S)
        wait_until(lambda: said(giver, "worker died"), what="it to be started again")
        moves(p, watch, what="it died before it had given them up")
        producing.stop()
        p.wait_for_all()
        runs.stop_all()
        assert runs.said("are nobody's"), "what the dead one was to give away was nobody's until somebody saw it"
