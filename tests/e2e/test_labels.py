"""Labels that come later: each learned once, in an order that survives every crash."""

import random
from collections.abc import Callable

from harness import Project, wait_until
from labelled import hold, labelled, ordered, plan, send
from trap import SOAK

Make = Callable[..., Project]

KILLS = 10
RECORDS = 100_000 if SOAK else 40_000


def test_labels_late_missing_twice_and_early_are_learned_once_through_ten_kills(project: Make) -> None:
    p = labelled(project, partitions=4)
    messages = plan(RECORDS, partitions=4, delay_max=10_000)
    rng = random.Random(3)
    kills = sorted(rng.sample(range(len(messages) // 20, len(messages) * 9 // 10), KILLS))
    with ordered(p) as orders, p.running(workers=1) as run:

        def pause(index: int) -> None:
            if kills and index >= kills[0]:
                kills.pop(0)
                _moves_on(p)
                run.kill_worker()

        send(p, messages, pause=pause)
        assert not kills
        wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=120)
        assert run.stop() == 0, run.log()
    tally = hold(p, orders)
    labels = sum(message.labels for message in messages)
    assert tally.records == labels
    assert tally.joined + tally.duplicate == labels
    assert tally.early > RECORDS * 0.02


def _moves_on(p: Project) -> None:
    """Wait until something more is committed, so that a kill comes at work and not at a start."""
    before = {partition: offset for partition, (offset, _) in p.committed().items()}
    wait_until(lambda: any(o > before[q] for q, (o, _) in p.committed().items()), what="more to be committed")
