"""Detectors and models by key, asked over HTTP and by `headrace ask`: one record, many, and without a server."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import oracle
import pytest
from harness import Project, nursery
from labelled import Sent, send
from river import anomaly, preprocessing
from server import Server, serving

from headrace.pipeline.embedded.port import free_ports

pytestmark = pytest.mark.kafka

RECORDS = 120
KEYS = ("c-0", "c-1", "c-2")
# More than are predicted one by one.
MANY = 30
DETECTOR = """
from labelled import Sent, send
from river import anomaly, preprocessing

def build():
    trees = anomaly.HalfSpaceTrees(n_trees=5, height=4, window_size=20, seed=7)
    return preprocessing.MinMaxScaler() | anomaly.QuantileFilter(trees, q=0.9)
"""


def detector() -> Any:
    trees = anomaly.HalfSpaceTrees(n_trees=5, height=4, window_size=20, seed=7)
    return preprocessing.MinMaxScaler() | anomaly.QuantileFilter(trees, q=0.9)


def features(n: int) -> dict[str, float]:
    return {"a": n % 7 - 3.5 * (n % 11 == 0), "b": n % 5 - 2.0, "c": (n * 13 % 17) / 3}


def asked_by_command(here: Project, body: Any, *words: str) -> list[dict[str, Any]]:
    file = here.directory / "ask.json"
    file.write_text(json.dumps(body))
    done = nursery().call(["ask", str(file), "--json", *words, "-c", str(here.file)], env=here.env)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def bare(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the age of the model, which changes."""
    return [{**one, "model": {k: v for k, v in one["model"].items() if k != "age_ms"}} for one in answers]


def many(server: Server, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = server.predict(list(items))
    assert answer.status == 200, answer.body
    return list(answer.body["predictions"])


def test_a_detector_answers_with_the_score_and_the_verdict_of_river(project: Callable[..., Project]) -> None:
    here = project(partitions=1, model=DETECTOR)
    here.produce([json.dumps({"features": features(n)}).encode() for n in range(RECORDS)], partition=0)
    here.run_to_end()
    model = detector()
    for n in range(RECORDS):
        model.learn_one(features(n))
    [port] = free_ports(1)
    here.settings["HEADRACE__SERVE__PORT"] = str(port)
    items = [{"id": f"q-{n}", "features": features(n)} for n in range(MANY)]
    with serving(here, port=port) as server:
        answers = many(server, items)
        assert bare(answers) == bare([server.predict(item).body for item in items])
        by_server = asked_by_command(here, items)
    by_store = asked_by_command(here, items)
    shown = nursery().call(["ask", str(here.directory / "ask.json"), "-c", str(here.file)], env=here.env).stdout
    assert f"q-1: false (score {answers[1]['score']:.4g}), by version" in shown
    for n, answer in enumerate(answers):
        score = model.score_one(features(n))
        assert (answer["id"], answer["score"]) == (f"q-{n}", score)
        assert answer["prediction"] is bool(model["QuantileFilter"].classify(score))
        assert (answer["model"]["partition"], answer["model"]["offset"]) == (0, RECORDS)
    assert {answer["prediction"] for answer in answers} == {False, True}
    assert bare(by_server) == bare(by_store) == bare(answers)


def test_each_key_is_answered_by_its_own_model_alone_and_among_many(project: Callable[..., Project]) -> None:
    here = project(partitions=1, settings={"HEADRACE__MODEL__SCOPE": "key"})
    models = {key: oracle.logistic() for key in KEYS}
    sent = []
    for n in range(RECORDS):
        key, truth = KEYS[n % 3], features(n)["a"] > n % 3 - 1
        whole = {"id": f"r-{n}", "features": features(n), "label": truth}
        sent.append(Sent(False, 0, json.dumps(whole).encode(), key=key.encode()))
        models[key].learn_one(features(n), truth)
    send(here, sent)
    here.run_to_end()
    [port] = free_ports(1)
    here.settings["HEADRACE__SERVE__PORT"] = str(port)
    items = [{"id": f"q-{n}", "key": (*KEYS, "nobody")[n % 4], "features": features(n)} for n in range(MANY)]
    with serving(here, port=port) as server:
        answers = many(server, items)
        assert bare(answers) == bare([server.predict(item).body for item in items])
        refused = server.predict({"features": features(1)})
        assert (refused.status, refused.body["field"]) == (400, "key")
        by_server = asked_by_command(here, items)
        [single] = asked_by_command(here, {"features": features(1)}, "--key", "c-1")
    by_store = asked_by_command(here, items)
    models["nobody"] = oracle.logistic()
    for item, answer in zip(items, answers, strict=True):
        proba = models[item["key"]].predict_proba_one(item["features"])
        assert answer["proba"] == {"false": proba[False], "true": proba[True]}
        assert (answer["model"]["version"] == 0) is (item["key"] == "nobody")
    assert single["proba"]["true"] == models["c-1"].predict_proba_one(features(1))[True]
    assert bare(by_server) == bare(by_store) == bare(answers)
