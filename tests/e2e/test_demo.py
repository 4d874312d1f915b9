"""The demo as its user sees it, and what it may never do: print that all is well when it is not."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from river import linear_model

from headrace.consumers.record import Record
from headrace.pipeline.demo.ledger import TopicContents, compare, same_as_river
from headrace.pipeline.demo.meter import Accuracy, SeenPrediction
from headrace.pipeline.demo.screen import WIDTH, spark
from headrace.producers.prediction import SourceRecord

STORY_S = 280.0
PLACES = [(0, 0), (0, 1), (1, 0), (1, 1)]


@contextlib.contextmanager
def demo(tmp_path: Path, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the real command in a session of its own, with everything that it writes below `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "demo"],
        env={**os.environ, "HEADRACE_DEMO_SECONDS": "3", "TMPDIR": str(tmp_path), **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the demo ended without {words!r}: {process.stderr and process.stderr.read()}")


def left_behind(tmp_path: Path) -> list[str]:
    """Return what runs with a path below `tmp_path` on its command line, and the files that are there."""
    found = subprocess.run(["pgrep", "-f", "-a", str(tmp_path)], capture_output=True, check=False, text=True)
    return found.stdout.splitlines() + [str(path) for path in tmp_path.rglob("*") if path.is_file()]


def wait_until_gone(tmp_path: Path) -> None:
    until = time.monotonic() + 10
    while left := left_behind(tmp_path):
        assert time.monotonic() < until, f"the demo left {left}"
        time.sleep(0.1)


def test_the_whole_story_holds(tmp_path: Path) -> None:
    # A configuration of the user's own must not reach the demo's pipelines.
    with demo(tmp_path, HEADRACE__TOPICS__FEATURES="mine", HEADRACE__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1") as process:
        told, faults = process.communicate(timeout=STORY_S)
    assert (process.returncode, faults) == (0, ""), told
    assert "89.28 %   River publishes 89.28 %" in told
    added = re.search(r"records in ([\d,]+) = predictions ([\d,]+) \+ dead letters ([\d,]+)", told)
    assert added is not None, told
    records, predictions, dead_letters = (int(number.replace(",", "")) for number in added.groups())
    assert records == predictions + dead_letters
    assert records > 1_250 + 3_000
    assert dead_letters == 9
    for words in (
        "9 bad records are 9 dead letters, byte for byte",
        "headrace status: paused: the store does not answer",
        "none is lost, none two",
        "relearned",
        "3 sent, 1 left by fix:amount; a second replay sends 0",
        "predictions are, to the last bit, those of River alone",
    ):
        assert words in told
    assert told.count("✓") == 9
    assert "✗" not in told
    assert "\x1b" not in told, "a file gets no colours"
    assert max(map(len, told.splitlines())) <= WIDTH
    wait_until_gone(tmp_path)


def test_the_mock_broker_shows_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    with demo(tmp_path, HEADRACE_EMBEDDED_KAFKA="mock") as process:
        told, faults = process.communicate(timeout=STORY_S)
    assert (process.returncode, faults) == (0, ""), told
    assert "not shown, as librdkafka's mock broker knows no transactions: exactly-once, a crash, a replay" in told
    assert "89.28 %   River publishes 89.28 %" in told
    assert "records in" in told
    assert "none two" not in told
    assert "there twice" not in told


def test_an_interrupt_ends_everything_within_seconds(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        read_until(process, "drift: ")
        assert len(left_behind(tmp_path)) > 4, "Kafka, Valkey, headrace run and its worker are there to be ended"
        interrupted = time.monotonic()
        # As a terminal does it: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        told, faults = process.communicate(timeout=30)
        assert time.monotonic() - interrupted < 10
    assert (process.returncode, faults) == (130, ""), told
    wait_until_gone(tmp_path)


def test_a_pipeline_that_dies_fails_the_demo_with_its_last_words(tmp_path: Path) -> None:
    with demo(tmp_path, HEADRACE_EMBEDDED_KAFKA="mock") as process:
        read_until(process, "drift: ")
        found = subprocess.run(["pgrep", "-o", "-f", f"headrace run -c {tmp_path}"], capture_output=True, check=True)
        os.kill(int(found.stdout), signal.SIGKILL)
        told, faults = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "✗ headrace run ended with exit code -9" in told
    assert "All of it held" not in told
    assert "partition taken over" in faults, "the worker's log"
    assert faults.splitlines()[-1].startswith("  → ")
    wait_until_gone(tmp_path)


def test_servers_that_cannot_start_are_a_69(tmp_path: Path) -> None:
    with demo(tmp_path, HEADRACE_EMBEDDED_KAFKA="rabbit") as process:
        told, faults = process.communicate(timeout=60)
    assert process.returncode == 69
    assert "✗ HEADRACE_EMBEDDED_KAFKA is 'rabbit'" in told
    assert faults.startswith("  → ")


def test_a_sum_holds_when_each_record_has_one_outcome() -> None:
    balance = compare(PLACES, [(0, 0), (1, 0), (1, 1)], [(0, 1)])
    assert (balance.records, balance.predictions, balance.dead_letters) == (4, 3, 1)
    assert balance.holds(exact=True)


@pytest.mark.parametrize(
    ("predicted", "refused", "fault"),
    [
        ([(0, 0), (1, 0)], [(0, 1)], "lost"),
        ([(0, 0), (0, 0), (1, 0), (1, 1)], [(0, 1)], "twice"),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 1)], "twice"),
        ([(0, 0), (0, 0), (1, 0)], [(0, 1)], "lost"),
        ([(0, 0), (1, 0), (1, 1), (1, 2)], [(0, 1)], "strange"),
    ],
    ids=["missing", "doubled", "predicted and refused", "one doubled for one missing", "of no record"],
)
def test_a_sum_that_lies_does_not_hold(
    predicted: list[tuple[int, int]], refused: list[tuple[int, int]], fault: str
) -> None:
    balance = compare(PLACES, predicted, refused)
    assert getattr(balance, fault)
    assert not balance.holds(exact=True)
    assert balance.holds(exact=False) == (fault == "twice"), "at-least-once may double, and never lose"
    assert "@" in str(balance), "it names the records"


def test_a_probability_that_differs_in_its_last_bit_is_found() -> None:
    model = linear_model.LogisticRegression()
    records, answers = {}, []
    for offset in range(20):
        features, label = {"x": math.sin(offset)}, offset % 3 == 0
        value = msgspec.json.encode({"features": features, "label": label})
        records[0, offset] = Record(0, offset, 0, None, value, None)
        proba = {str(label_).lower(): share for label_, share in model.predict_proba_one(features).items()}
        answers.append(SeenPrediction(f"r-{offset}", "a class", SourceRecord("features", 0, offset), proba))
        model.learn_one(features, label)
    assert same_as_river(TopicContents(records, answers, []), linear_model.LogisticRegression) == 20
    answers[7].proba["true"] = math.nextafter(answers[7].proba["true"], 1.0)
    assert same_as_river(TopicContents(records, answers, []), linear_model.LogisticRegression) == 19


def test_a_dip_is_seen_however_many_predictions_come_at_once() -> None:
    accuracy = Accuracy()
    for right in [False] * 500 + [True] * 500:
        accuracy.add(right=right)
    assert (accuracy.full, accuracy.share, accuracy.worst) == (True, 0.5, 0.5)
    for _ in range(500):
        accuracy.add(right=True)
    assert accuracy.watch() == 1.0
    # The whole drift and the way back, before anyone looks.
    for right in [False] * 250 + [True] * 1_000:
        accuracy.add(right=right)
    assert (accuracy.share, accuracy.worst) == (1.0, 0.75)


def test_bars_reach_from_a_half_to_the_whole() -> None:
    assert spark([0.0, 0.5, 0.75, 1.0, None]) == "▁▁▅█·"
