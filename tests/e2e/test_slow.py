"""What takes longer than a consumer may be silent, one partition after the other: the loop comes to poll meanwhile."""

import json
from collections.abc import Callable

from harness import LOGISTIC, Project, values
from oracle import promise
from receiver import Receiver

Make = Callable[..., Project]

PARTITIONS = 12
# Less than all partitions take, and more than the loop allows itself between two polls.
HASTY = {"session.timeout.ms": 6_000, "max.poll.interval.ms": 8_500}
EACH_S = 1.0
SETTINGS = {"HEADRACE__KAFKA__LIBRDKAFKA": json.dumps(HASTY)}


def _run(p: Project) -> None:
    """Hold that a run handles what is there, and that the group never takes its partitions for lost."""
    for partition in range(PARTITIONS):
        p.produce(values(20, bad_every=10, seed=partition), partition=partition)
    with promise(p), p.running() as run:
        p.wait_for_all(timeout_s=60)
        assert run.stop() == 0, run.log()
    log = run.log_file.read_text()
    assert log.count('"partition taken over"') == PARTITIONS, run.log()
    assert log.count('"partitions assigned"') == 1, run.log()


def test_models_that_take_long_to_build_are_taken_over_between_polls(project: Make) -> None:
    slow = LOGISTIC.replace("def build():\n", f"def build():\n    time.sleep({EACH_S})\n")
    _run(project(partitions=PARTITIONS, settings=dict(SETTINGS), model=f"import time\n{slow}"))


def test_an_http_sink_that_is_slow_and_takes_all_is_waited_for_between_polls(project: Make) -> None:
    with Receiver.serving() as receiver:
        receiver.delay_s = EACH_S
        _run(project(partitions=PARTITIONS, settings={**SETTINGS, "HEADRACE__SINK__HTTP__URL": receiver.url}))
