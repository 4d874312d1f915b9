"""The HTTP server beside the stream: its answers are the stream's own, and nothing that dies fails a request."""

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import oracle
import pytest
from harness import Project, steady, values, wait_until
from proxy import Proxy, RedisWire
from server import Load, Server, serving
from trap import SOAK

pytestmark = pytest.mark.kafka

RECORDS = 60_000 if SOAK else 4_000
SAMPLE = 10_000 if SOAK else 300


def questions(stream: Sequence[bytes]) -> list[bytes]:
    """Make a request of each record's features, with a number for its id."""
    return [
        json.dumps({"id": f"q-{n}", "features": json.loads(value)["features"], "partition": n % 2}).encode()
        for n, value in enumerate(stream)
    ]


def place_of(answer: dict[str, Any]) -> tuple[int, int]:
    return answer["model"]["partition"], answer["model"]["offset"]


def check_bits(project: Project, asked: Sequence[bytes], answers: Sequence[dict[str, Any]], *, sample: int) -> None:
    """Compare a sample of answers with plain River that has learned the records below the offsets that they name."""
    chosen = random.Random(1).sample(list(answers), min(sample, len(answers)))
    model, learned, of = oracle.logistic(), 0, 0
    for answer in sorted(chosen, key=place_of):
        partition, offset = place_of(answer)
        if partition != of:
            model, learned, of = oracle.logistic(), 0, partition
        for value in project.sent[partition][learned:offset]:
            record = json.loads(value or b"")
            model.learn_one(record["features"], record["label"])
        learned = offset
        features = json.loads(asked[int(answer["id"].removeprefix("q-"))])["features"]
        proba = model.predict_proba_one(features)
        assert answer["proba"] == {"false": proba[False], "true": proba[True]}
        assert answer["prediction"] == model.predict_one(features)


def warmed(project: Project, stream: Sequence[bytes]) -> None:
    """Let the pipeline learn some records of each partition."""
    for partition in range(project.partitions):
        project.produce(stream[partition :: project.partitions][:50], partition=partition)
    project.wait_for_all()


def knows_both(server: Server) -> bool:
    return len(server.ask("GET", "/models").body["models"]) == 2


def test_answers_are_those_of_the_stream_and_fresh_while_it_learns(project: Callable[..., Project]) -> None:
    here = project(partitions=2)
    first, stream = values(100), values(RECORDS, seed=2)
    asked = questions(stream)
    with here.running():
        warmed(here, first)
        with serving(here, workers=2) as server:
            wait_until(lambda: knows_both(server), what="both models")
            with steady(here, stream, per_second=500) as producing, Load(server, asked, clients=2) as load:
                producing.join(600)
                here.wait_for_all()
    assert load.failures == []
    answers = [answer.body for answer in load.answers]
    assert len({place_of(answer) for answer in answers}) > 8
    assert len(answers) >= SAMPLE
    check_bits(here, asked, answers, sample=SAMPLE)
    # Saved as often as the server needs, and noticed: on a busy machine, too, most answers are fresh.
    fresh = sum(not answer["model"]["stale"] for answer in answers)
    assert fresh > 0.8 * len(answers), f"{fresh} of {len(answers)} answers are fresh"


def test_processes_come_and_go_under_load_and_no_request_fails(project: Callable[..., Project]) -> None:
    here = project(partitions=2)
    here.settings["HEADRACE__SERVE__DRAIN"] = "5s"
    first = values(100)
    asked = questions(first)
    with here.running():
        warmed(here, first)
    with serving(here, workers=2) as server:
        with Load(server, asked, clients=3) as kept, Load(server, asked, clients=1, keeps=False) as fresh:
            for _ in range(3):
                before = set(server.processes())
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda before=before: not before & set(server.processes()), what="other processes")
            assert len(server.processes()) == 2
        assert kept.failures + fresh.failures == []
        assert len(kept.answers) > 100

        victim = server.processes()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(server.processes()) - {victim}) == 2, what="the process to be replaced")
        server.wait_until_ready()
        text = server.ask("GET", "/metrics").body.decode()
        assert "headrace_serve_worker_restarts_total 1.0" in text
        count = next(line for line in text.splitlines() if 'route="predict",status="200"' in line)
        # The counts of processes that have ended are in the sum.
        assert float(count.split()[-1]) == len(kept.answers) + len(fresh.answers)

        connections = [server.connect() for _ in range(4)]
        for connection in connections:
            connection.request("GET", "/livez")
            connection.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: _refuses(server), what="no new connections")
        for connection in connections:
            connection.request("POST", "/predict", asked[0])
            response = connection.getresponse()
            assert (response.status, response.headers["connection"]) == (200, "close")
            response.read()
            connection.close()
        assert server.process.wait(20) == 0, server.log()


def _refuses(server: Server) -> bool:
    with contextlib.closing(server.connect(timeout_s=1)) as connection:
        try:
            connection.connect()
        except OSError:
            return True
    return False


def test_a_store_that_goes_away_makes_answers_stale_and_none_fails(project: Callable[..., Project]) -> None:
    here = project(partitions=2)
    first = values(100)
    asked = questions(first)
    at = urlsplit(here.stack.addresses.redis)
    assert at.port is not None
    with here.running(), Proxy(at.port, wire=RedisWire) as store:
        warmed(here, first)
        # Only the server's way to the store is disturbed.
        here.settings["HEADRACE__REDIS__URL"] = f"redis://{store.address}/0"
        with serving(here, workers=1) as server:
            wait_until(lambda: knows_both(server), what="both models")
            with Load(server, asked, clients=2) as load:
                wait_until(lambda: load.answers, what="the first answers")
                for harm in (store.cut, store.stall):
                    harm()
                    wait_until(lambda: load.answers[-1].body["model"]["stale"], what="answers to be stale")
                    assert server.ask("GET", "/readyz").status == 200
                    store.heal()
                    wait_until(lambda: not load.answers[-1].body["model"]["stale"], what="answers to be fresh")
        assert load.failures == []
        check_bits(here, asked, [answer.body for answer in load.answers], sample=50)


def test_what_is_wrong_with_the_start_is_said_in_one_line(project: Callable[..., Project]) -> None:
    here = project()
    here.settings["HEADRACE__SERVE__TOKENS_FILE"] = "nowhere.txt"
    with serving(here, ready=None) as server:
        assert server.process.wait(60) == 78
        assert "serve.tokens_file can't be read" in server.log()
        assert "Traceback" not in server.log()
