"""What pauses the stream by itself: an HTTP sink, a flood of bad records, an outage that was there first."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Project, steady, values, wait_until
from oracle import logistic, offline, open_transactions, promise
from receiver import Receiver

from headrace.pipeline.embedded import Stack

Make = Callable[..., Project]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver.serving() as server:
        yield server


def test_an_http_sink_gets_every_prediction_and_its_refusals_become_dead_letters(
    project: Make, receiver: Receiver
) -> None:
    receiver.refuse = {"r-100", "r-777"}
    p = project(partitions=1, settings={"HEADRACE__SINK__HTTP__URL": receiver.url})
    p.produce(values(1_500), partition=0)
    p.run_to_end()
    letters = p.read(p.dead_letters)[0]
    headers = [dict(letter.headers()) for letter in letters]
    assert [int(h["__dlq.errors.offset"]) for h in headers] == [100, 777]
    assert {(h["dlq.code"], h["dlq.stage"], h["dlq.learned"]) for h in headers} == {(b"sink_refused", b"sink", b"true")}
    predictions = [json.loads(m.value()) for m in p.read(p.predictions)[0]]
    assert [x["source"]["offset"] for x in predictions] == [o for o in range(1_500) if o not in {100, 777}]
    assert {x["id"] for x in receiver.taken} == {f"r-{i}" for i in range(1_500)} - receiver.refuse
    good = offline(p.sent[0], logistic()).good
    assert [x["proba"] for x in predictions] == [proba for o, _, proba in good if o not in {100, 777}]
    offset, found = p.committed()[0]
    assert (offset, found.predictions, found.dead_letters, found.learned) == (1_500, 1_498, 2, 1_500)


def _resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_a_sink_that_is_away_for_long_costs_time_and_nothing_else(project: Make, receiver: Receiver) -> None:
    """Ten minutes, made short: four times as long as a consumer may be silent, and a transaction open."""
    short = {"session.timeout.ms": 6_000, "max.poll.interval.ms": 6_000, "transaction.timeout.ms": 5_000}
    p = project(settings={"HEADRACE__SINK__HTTP__URL": receiver.url, "HEADRACE__KAFKA__LIBRDKAFKA": json.dumps(short)})
    with promise(p), steady(p, values(60_000, bad_every=50), per_second=500) as producing, p.running() as run:
        wait_until(lambda: p.committed()[0][0] > 500, what="some records to be committed")
        receiver.status = 503
        wait_until(lambda: '"paused"' in run.log(), what="the stream to pause")
        began, assigned = time.monotonic(), run.log().count("partitions assigned")
        worker = run.worker()
        before_mb = _resident_mb(worker)
        wait_until(lambda: time.monotonic() - began > 24, what="the outage to last")
        assert open_transactions(p) == []
        assert _resident_mb(worker) - before_mb < 50
        reached = p.committed()[0][0]
        receiver.status = 200
        wait_until(lambda: p.committed()[0][0] > reached, what="the stream to go on", timeout_s=10)
        assert run.worker() == worker, "it is the same process"
        assert run.log().count("partitions assigned") == assigned, "and has kept its place in the group"
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()


def test_an_http_sink_that_is_busy_pauses_the_stream_until_it_is_not(project: Make, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 429, {"retry-after": "1"}
    p = project(settings={"HEADRACE__SINK__HTTP__URL": receiver.url})
    for partition in range(2):
        p.produce(values(500, seed=partition), partition=partition)
    with p.running() as run:
        wait_until(lambda: p.status()["state"] == "paused", what="the stream to pause")
        assert "429" in p.status()["reason"]
        posts = receiver.posts
        wait_until(lambda: receiver.posts >= posts + 2, what="two tries more")
        assert p.committed()[0][0] <= 0, "nothing is committed that the sink has not taken"
        receiver.status = 200
        p.wait_for_all(timeout_s=10)
        assert run.stop() == 0, run.log()
    p.check()
    assert len(receiver.taken) == 1_000


def test_a_flood_of_bad_records_pauses_instead_of_filling_the_dead_letters(project: Make) -> None:
    p = project(partitions=1)
    p.produce(values(1_000), partition=0)
    p.run_to_end()
    p.produce([b'{"features": {"a": "deployed on a friday"'] * 3_000, partition=0)
    with p.running() as run:
        wait_until(lambda: p.status()["state"] == "paused", what="the flood to be held")
        assert "flood" in p.status()["reason"]
        assert len(p.read(p.dead_letters)[0]) < 500
        assert run.stop() == 0, run.log()
    report = p.status()
    assert report["state"] == "stopped"
    assert f"for example {p.features}[0]@1000: the value is not JSON" in report["reason"], "it is known after the stop"
    with p.running(until_end=True) as run:
        assert run.process.wait(60) == 1, "a flood is not waited for"
        assert "dlq.flood_guard" in run.log()
    p.settings["HEADRACE__DLQ__FLOOD_GUARD"] = "false"
    p.run_to_end()
    assert p.status()["reason"] is None, "a start forgets it"
    assert len(p.read(p.dead_letters)[0]) == 3_000
    assert len(p.read(p.predictions)[0]) == 1_000


@pytest.mark.parametrize("away", ["store", "kafka"])
def test_it_starts_paused_when_the_outage_was_there_first(tmp_path: Path, away: str) -> None:
    with Stack(data_dir=tmp_path / "stack") as stack:
        p = Project(stack, tmp_path / "project")
        p.produce(values(500), partition=0)
        server = getattr(stack, away)
        server.kill()
        with p.running() as run:
            wait_until(lambda: p.status()["state"] == "paused", what="the start to be paused")
            assert run.process.poll() is None
            server.start()
            p.wait_for_all(timeout_s=30)
            assert run.stop() == 0, run.log()
        p.check()


@pytest.mark.parametrize(
    ("variable", "value", "code", "words"),
    [
        ("HEADRACE__KAFKA__BOOTSTRAP_SERVERS", "no-such-host.invalid:9092", 69, "no such host"),
        ("HEADRACE__REDIS__URL", "redis://no-such-host.invalid:6379/0", 69, "no such host"),
        ("HEADRACE__KAFKA__BOOTSTRAP_SERVERS", "localhost", 78, "not like host:9092"),
        ("HEADRACE__REDIS__URL", "http://localhost", 78, "redis.url"),
        ("HEADRACE__MODEL__FACTORY", "model:nothing", 78, "can't be loaded"),
    ],
)
def test_what_is_plainly_wrong_ends_the_start(project: Make, variable: str, value: str, code: int, words: str) -> None:
    p = project(settings={variable: value})
    with p.running() as run:
        assert run.process.wait(30) == code, run.log()
        assert words in run.log()
        assert "Traceback" not in run.log()
