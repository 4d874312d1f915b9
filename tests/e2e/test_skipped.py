"""Skipped records are counted once, whatever learns beside them: a shared model, late labels, or a replay."""

import json
from collections.abc import Callable
from typing import Any

from harness import Project, nursery, wait_until
from labelled import Sent, labelled, labels_of, send
from test_shapes import configured

Make = Callable[..., Project]

SKIPS = """
[records]
features = "after"
id = "after.id"
label = "after.y"
empty = "skip"
[batch]
records_max = 100
"""
LATE = SKIPS.replace('label = "after.y"', 'label = ""')
FIX = '''
def gone(value):
    """Make a delete of a record."""
    return b'{"after": null}'
'''


def change(number: int, *, labelled: bool = True) -> bytes | None:
    """Return a change of a row; of four one is a delete, and every hundredth has a null."""
    if number % 4 == 3:
        return b'{"after": null}' if number % 8 == 3 else None
    row: dict[str, Any] = {"id": number, "x": None if number % 100 == 50 else number % 13 / 4}
    return json.dumps({"after": row | ({"y": number % 3 == 0} if labelled else {})}).encode()


def counts(p: Project) -> dict[str, int]:
    found: dict[str, int] = p.status()["counts"]
    assert found["records"] == found["predictions"] + found["dead_letters"] + found["skipped"]
    return found


def test_in_the_global_scope_two_workers_count_a_skipped_record_once_through_a_kill(project: Make) -> None:
    p = configured(project(partitions=2, settings={"HEADRACE__MODEL__SCOPE": "global"}), SKIPS)
    p.settings["HEADRACE__MIX__INTERVAL"] = "100ms"
    for partition in range(2):
        p.produce([change(number) for number in range(3_000)], partition=partition)
    with p.running(workers=2) as run:
        wait_until(lambda: max(offset for offset, _ in p.committed().values()) > 500, what="some to be committed")
        run.kill_worker()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    assert counts(p) == {
        "records": 6_000,
        "predictions": 4_440,
        "dead_letters": 60,
        "skipped": 1_500,
        "learned": 4_440,
    }


def test_with_late_labels_a_skipped_record_waits_for_none_and_is_counted_once_through_a_kill(project: Make) -> None:
    p = configured(labelled(project, partitions=1), LATE)
    count = 1_200
    send(p, [Sent(False, 0, change(number, labelled=False) or b"") for number in range(count)])
    with p.running() as run:
        wait_until(lambda: p.committed()[0][0] > count // 3, what="a third to be committed")
        run.kill_worker()
        p.wait_for_all()
        # The labels of skipped records come, too.
        truths = [json.dumps({"id": number, "label": number % 3 == 0}).encode() for number in range(count)]
        send(p, [Sent(True, 0, truth) for truth in truths])
        wait_until(lambda: counts(p)["learned"] == 888, what="the labels to be learned")
        assert run.stop() == 0, run.log()
    assert counts(p) == {"records": count, "predictions": 888, "dead_letters": 12, "skipped": 300, "learned": 888}
    assert labels_of(p)
    found = p.status()["labels"]
    assert (found["joined"], found["waiting"]) == (888, 0)


def test_a_replay_whose_records_are_deletes_now_is_skipped_and_sent_once(project: Make) -> None:
    p = configured(project(partitions=1), SKIPS)
    (p.directory / "fix.py").write_text(FIX, encoding="utf-8")
    p.produce([change(number) for number in range(400)], partition=0)
    p.run_to_end()
    assert counts(p) == {"records": 400, "predictions": 296, "dead_letters": 4, "skipped": 100, "learned": 296}
    words = ["dlq", "replay", "--edit", "fix:gone", "--execute", "-c", str(p.file)]
    for _ in range(2):
        done = nursery().call(words, env=p.env, cwd=p.directory)
        assert done.returncode == 0, done.stderr
        p.run_to_end()
        assert counts(p) == {"records": 404, "predictions": 296, "dead_letters": 4, "skipped": 104, "learned": 296}
