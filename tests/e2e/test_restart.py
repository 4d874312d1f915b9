"""Stops, crashes and second starts: what comes out is what an undisturbed run gives, to the bit."""

import os
import random
import time
from collections.abc import Callable

from harness import Project, steady, values, wait_until
from oracle import promise

Make = Callable[..., Project]


def test_a_first_run_predicts_and_dead_letters_every_record_once(project: Make) -> None:
    p = project()
    for partition in range(2):
        p.produce(values(3_000, bad_every=40, seed=partition), partition=partition)
    p.run_to_end()
    p.check()


def test_sigterm_ends_within_five_seconds_and_the_next_start_goes_on_to_the_bit(project: Make) -> None:
    p = project()
    with p.running() as run:
        # However long a start takes here, the stream goes on when it ends.
        wait_until(run.workers, what="a worker")
        with steady(p, values(20_000, bad_every=50), per_second=2_000) as producing:
            wait_until(lambda: p.committed()[0][0] > 500, what="some records to be committed")
            started = time.monotonic()
            assert run.stop() == 0, run.log()
            assert time.monotonic() - started < 5
            assert "Traceback" not in run.log()
            with p.running() as again:
                producing.join(60)
                p.wait_for_all()
                assert again.stop() == 0
    p.check()


def test_killed_workers_are_started_again_and_nothing_is_lost_or_learned_twice(project: Make) -> None:
    p = project()
    rng = random.Random(7)
    with promise(p), p.running() as run:
        wait_until(run.workers, what="a worker")
        with steady(p, values(48_000, bad_every=50), per_second=2_000) as producing:
            for _ in range(4):
                reached = sum(offset for offset, _ in p.committed().values())
                further = reached + rng.randrange(100, 900)
                wait_until(
                    lambda further=further: sum(o for o, _ in p.committed().values()) > further,
                    what="the stream to go on",
                )
                run.kill_worker()
            producing.join(60)
            p.wait_for_all(timeout_s=90)
            assert run.stop() == 0, run.log()
    p.check()


def test_workers_end_with_a_parent_that_was_killed_and_the_next_run_takes_over(project: Make) -> None:
    p = project(partitions=4)
    with p.running(workers=2) as run:
        wait_until(lambda: len(run.workers()) == 2, what="two workers")
        with steady(p, values(24_000, bad_every=50), per_second=2_000) as producing:
            wait_until(lambda: sum(o for o, _ in p.committed().values()) > 500, what="some records to be committed")
            workers = run.workers()
            run.process.kill()
            run.process.wait()
            wait_until(lambda: not any(_alive(pid) for pid in workers), what="the workers to end", timeout_s=10)
            with p.running(workers=2) as again:
                producing.join(60)
                p.wait_for_all()
                assert again.stop() == 0, again.log()
    p.check()


def test_a_second_run_beside_the_first_shares_the_partitions(project: Make) -> None:
    p = project(partitions=4)
    with steady(p, values(16_000, bad_every=50), per_second=2_000) as producing, p.running() as first:
        wait_until(lambda: sum(o for o, _ in p.committed().values()) > 500, what="some records to be committed")
        with p.running() as second:
            wait_until(
                lambda: len([w for w in p.status()["workers"] if w["partitions"]]) == 2,
                what="both workers to have partitions",
            )
            producing.join(60)
            p.wait_for_all()
            assert second.stop() == 0, second.log()
        assert first.stop() == 0, first.log()
    p.check()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
