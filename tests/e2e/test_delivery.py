"""Other ways in and out: at-least-once, transactional producers upstream, a model that raises, the mock broker."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from harness import Project, steady, values, wait_until
from oracle import difference, hold_models, logistic, offline, promise
from trap import Trap

from headrace.consumers.topics import Topics
from headrace.pipeline.embedded import Stack

Make = Callable[..., Project]

KILLS = 5
SAMPLES = 100
FRAGILE = """
from river import linear_model

class Fragile(linear_model.LogisticRegression):
    def learn_one(self, x, y):
        super().learn_one(x, y)
        if x["a"] > 3.5:
            raise ValueError("too much")

def build():
    return Fragile()
"""


def test_at_least_once_gives_the_same_without_transactions(project: Make) -> None:
    p = project(settings={"HEADRACE__DELIVERY__GUARANTEE": "at-least-once"})
    for partition in range(2):
        p.produce(values(2_000, bad_every=40, seed=partition), partition=partition)
    p.run_to_end()
    p.produce(values(500, seed=5), partition=0)
    p.run_to_end()
    p.check()


def test_at_least_once_saves_nothing_that_is_not_committed(project: Make) -> None:
    """Offsets are committed beside the stream, which never rests here, and a snapshot waits for them."""
    p = project(settings={"HEADRACE__DELIVERY__GUARANTEE": "at-least-once", "HEADRACE__SNAPSHOT__INTERVAL": "0.01s"})
    with promise(p) as watch, p.running() as run, steady(p, values(60_000, bad_every=50), per_second=500) as producing:
        wait_until(lambda: watch.samples > SAMPLES, what="X and Y to be looked at often")
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()


def test_at_least_once_loses_nothing_and_doubles_only_what_a_crash_cut_off(project: Make) -> None:
    settings = {"HEADRACE__DELIVERY__GUARANTEE": "at-least-once", "HEADRACE__SNAPSHOT__INTERVAL": "0.2s"}
    p = project(settings=settings)
    # Long enough for the client to have sent what it was given; its offsets are not committed then.
    trap = Trap(p, "between", after_s=0.2)
    with steady(p, values(60_000, bad_every=4), per_second=300) as producing, p.running() as run:
        for _ in range(KILLS):
            reached = p.committed()[0][0]
            wait_until(lambda reached=reached: p.committed()[0][0] > reached + 50, what="some records to be committed")
            trap.spring()
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    predictions, letters = p.read(p.predictions), p.read(p.dead_letters)
    twice = 0
    for partition, sent in p.sent.items():
        truth = offline(sent, logistic())
        wanted = {offset: (label, proba) for offset, label, proba in truth.good}
        answers = [json.loads(message.value()) for message in predictions[partition]]
        # What is there twice is the same twice: the model never learned it a second time.
        assert all((a["prediction"], a["proba"]) == wanted[a["source"]["offset"]] for a in answers)
        refused = [int(dict(message.headers())["__dlq.errors.offset"]) for message in letters[partition]]
        for found, all_ in (
            ([a["source"]["offset"] for a in answers], list(wanted)),
            (refused, [offset for offset, _ in truth.bad]),
        ):
            assert list(dict.fromkeys(found)) == all_, difference(found, all_)
            back = [before - now for before, now in itertools.pairwise(found) if now <= before]
            assert len(back) <= KILLS, "only a crash goes back"
            twice += len(found) - len(all_)
    assert twice, "a crash between the outputs and the offsets was seen"
    hold_models(p)


def test_aborted_records_and_control_records_upstream_are_passed_over(project: Make) -> None:
    p = project(partitions=1, settings={"HEADRACE__SNAPSHOT__INTERVAL": "1h"})
    producer = Producer({**p.client, "transactional.id": f"{p.name}-upstream"})
    producer.init_transactions(20)
    committed: list[bytes] = []

    def send(count: int, seed: int) -> None:
        for index, value in enumerate(values(count, seed=seed)):
            producer.begin_transaction()
            producer.produce(p.features, value, partition=0)
            producer.flush(10)
            if index % 3 == 2:
                producer.abort_transaction(10)
            else:
                producer.commit_transaction(10)
                committed.append(value)

    with p.running() as run:
        send(60, seed=0)
        wait_until(lambda: p.committed()[0][0] >= 119, what="the offset to pass the control records at the end")
        run.kill_worker()
        send(30, seed=1)
        wait_until(lambda: p.committed()[0][0] >= 179, what="the offset to pass them again")
        assert run.stop() == 0, run.log()
        assert '"learned": 40' in run.log(), "the records between the gaps were relearned"
    # A transaction that is open holds the end of the log, and a run to the end does not wait for it.
    producer.begin_transaction()
    producer.produce(p.features, values(1, seed=2)[0], partition=0)
    producer.flush(10)
    p.run_to_end()
    assert len(p.read(p.predictions)[0]) == len(committed)
    producer.commit_transaction(10)
    committed += values(1, seed=2)
    p.run_to_end()
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    truth = [(label, proba) for _, label, proba in offline(committed, logistic()).good]
    assert [(answer["prediction"], answer["proba"]) for answer in answers] == truth
    assert p.committed()[0][1].records == len(committed)


def test_a_record_on_which_the_model_raises_is_refused_and_not_learned(project: Make) -> None:
    p = project(partitions=1, model=FRAGILE)
    p.produce(values(2_000), partition=0)
    p.run_to_end()
    letters = p.read(p.dead_letters)[0]
    raising = [o for o, v in enumerate(p.sent[0]) if json.loads(v)["features"]["a"] > 3.5]
    assert [int(dict(m.headers())["__dlq.errors.offset"]) for m in letters] == raising
    assert {dict(m.headers())["dlq.code"] for m in letters} == {b"learn_failed"}
    model = logistic()["LogisticRegression"]
    for message in p.read(p.predictions)[0]:
        answer = json.loads(message.value())
        event = json.loads(p.sent[0][answer["source"]["offset"]])
        assert answer["proba"]["true"] == model.predict_proba_one(event["features"])[True]
        model.learn_one(event["features"], event["label"])


def test_the_largest_record_that_a_topic_takes_becomes_a_dead_letter_with_its_headers(project: Make) -> None:
    p = project(partitions=1)
    producer = Producer({**p.client, "message.max.bytes": 2_000_000})
    huge = b'{"features": {"a": "' + b"x" * 1_048_000 + b'"}}'
    for value in (values(1)[0], huge, values(2)[1]):
        producer.produce(p.features, value, partition=0)
    assert producer.flush(20) == 0
    p.run_to_end()
    (letter,) = p.read(p.dead_letters)[0]
    assert letter.value() == huge
    assert dict(letter.headers())["dlq.code"] == b"too_large"
    assert len(p.read(p.predictions)[0]) == 2


def test_missing_topics_are_made_with_as_many_partitions_as_the_features(project: Make) -> None:
    p = project(partitions=3)
    p.run_to_end()
    found = Topics(p.client).partitions()
    assert (found[p.predictions], found[p.dead_letters]) == (3, 3)


def test_on_the_mock_broker_it_runs_at_least_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_EMBEDDED_KAFKA", "mock")
    with Stack() as stack:
        # Four is how many partitions the mock gives every topic.
        p = Project(stack, tmp_path / "project", partitions=4)
        for partition in range(4):
            p.produce(values(1_000, bad_every=40, seed=partition), partition=partition)
        with p.running() as run:
            p.wait_for_all()
            assert run.stop() == 0, run.log()
            assert "at-least-once" in run.log()
        p.check()
