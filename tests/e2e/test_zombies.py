"""Workers that are frozen until another has their partitions, and then wake: nothing that they do counts any more."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from confluent_kafka.admin import AdminClient
from fleet import DYNAMIC, SHORT_SESSION, SHORT_TRANSACTION, START_S, fleet, moves, notes, said, shares
from harness import Project, Run, steady, values, wait_until
from oracle import promise
from receiver import Receiver

from headrace.pipeline.process.failpoint import VARIABLE

Make = Callable[..., Project]

# Where each is frozen, for how long it lingers there when it wakes, and what it must say then. A second after it
# woke, a client has heard that it is no member any more, and its worker has not.
ZOMBIES = {
    # First, for where the store takes it after all there is nothing that the one which has committed must say.
    "saving": (0.0, "snapshot refused"),
    "polled": (0.0, "batch dropped"),
    "learned": (1.0, "batch dropped"),
    "begun": (0.0, "batch dropped"),
    "produced": (0.2, "batch dropped"),
    "offsets": (0.0, "batch dropped"),
    # Whether another batch was learned by then, or it was about to save.
    "committed": (0.0, "taken over again"),
}


def _asleep(run: Run) -> bool:
    workers = run.workers()
    return bool(workers) and Path(f"/proc/{workers[0]}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_what_a_worker_has_in_hand_when_it_wakes_as_a_zombie_is_refused(project: Make) -> None:
    p = project(partitions=len(ZOMBIES) + 1)
    client = {**SHORT_SESSION, **SHORT_TRANSACTION}
    with promise(p) as watch, steady(p, values(60_000, bad_every=50), per_second=200) as producing, fleet(p) as runs:
        zombies = {}
        for number, (place, (after_s, _)) in enumerate(ZOMBIES.items()):
            failpoint = {"at": place, "do": "freeze", "armed": str(p.directory / place), "after_s": after_s}
            member = DYNAMIC if number % 2 else {}
            zombies[place] = runs.start({**client, **member}, **{VARIABLE: json.dumps(failpoint)})
        runs.start(client)
        wait_until(
            lambda: sorted(map(len, shares(p).values())) == [1] * p.partitions,
            what="a partition for each",
            timeout_s=2 * START_S,
        )
        for place in ZOMBIES:
            (p.directory / place).touch()
        for place, zombie in zombies.items():
            wait_until(lambda zombie=zombie: _asleep(zombie), what=f"the worker to sleep when it has {place}")
        moves(p, watch, what="all workers but one fell asleep", timeout_s=START_S)
        for zombie in zombies.values():
            os.kill(zombie.worker(), signal.SIGCONT)
        for place, zombie in zombies.items():
            _, words = ZOMBIES[place]
            wait_until(lambda zombie=zombie, words=words: said(zombie, words), what=f"{words} after {place}")
        moves(p, watch, what="the zombies woke", timeout_s=START_S)
        producing.stop()
        p.wait_for_all()
        runs.stop_all()


def test_a_batch_that_waits_for_its_sink_while_its_partition_moves_is_its_new_owners(project: Make) -> None:
    p = project(partitions=1)
    client = {**SHORT_SESSION, **DYNAMIC}
    with Receiver.serving() as receiver, promise(p), fleet(p) as runs:
        first = runs.start(client, HEADRACE__SINK__HTTP__URL=receiver.url)
        p.produce(values(100), partition=0)
        p.wait_for_all()
        receiver.status = 503
        p.produce(values(100, bad_every=50, seed=1), partition=0)
        wait_until(lambda: said(first, '"paused"'), what="the first to pause with a batch in hand")
        second = runs.start(client)
        wait_until(lambda: _members(p) == 2, what="the second to join", timeout_s=START_S)
        sleeper = first.worker()
        os.kill(sleeper, signal.SIGSTOP)
        # The second predicts what the first has in hand.
        p.wait_for_all()
        os.kill(sleeper, signal.SIGCONT)
        wait_until(lambda: said(first, "partitions revoked"), what="the first to hear of it")
        wait_until(lambda: _members(p) == 2, what="the first to join again", timeout_s=START_S)
        receiver.status = 200
        # That is when it has nothing in hand any more.
        wait_until(
            lambda: notes(p).get(sleeper, {}).get("state") == "running",
            what="the first to be done with what it had in hand",
        )
        runs.stop(second)
        p.produce(values(100, bad_every=50, seed=2), partition=0)
        # What it had in hand would go out before anything that is new.
        p.wait_for_all()
        runs.stop_all()


def _members(p: Project) -> int:
    admin = AdminClient(p.client)
    return len(admin.describe_consumer_groups([p.name], request_timeout=20)[p.name].result().members)
