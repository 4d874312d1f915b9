"""Challengers on a real Kafka: promoted at one place, whatever dies meanwhile, and recomputed from the logs."""

import json
from collections.abc import Callable
from pathlib import Path

from harness import Project, nursery, values, wait_until
from test_control import call, journals
from trap import Trap

from headrace.pipeline.process.failpoint import FailpointName
from headrace.state.store.store import Store

Make = Callable[..., Project]

MODELS = """
from river import linear_model, optim, preprocessing

def build():
    return linear_model.LogisticRegression(optimizer=optim.SGD(1e-12))

def better():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""
SETTINGS = {
    "HEADRACE__PROMOTION__MODE": "auto",
    "HEADRACE__PROMOTION__PAIRS_MIN": "300",
    "HEADRACE__PROMOTION__SPAN_MIN": "0s",
    "HEADRACE__SNAPSHOT__RECORDS_MAX": "400",
}
PLACES: tuple[FailpointName, ...] = ("learned", "between", "committed")


def project_of(project: Make, *, configured: bool) -> Project:
    p = project(model=MODELS, partitions=1, settings=dict(SETTINGS))
    if configured:
        with Path(p.file).open("a") as file:
            file.write('[challengers.better]\nfactory = "model:better"\n')
    return p


def outcome(p: Project) -> tuple[list[object], list[tuple[object, int]]]:
    """Return the journal, and what each prediction says of the answer and of the model's generation."""
    told = [json.loads(one.value()) for one in p.read(p.predictions)[0]]
    assert [one["source"]["offset"] for one in told] == list(range(len(p.sent[0])))
    return [*journals(p)[0]], [(one["prediction"], one["model"]["generation"]) for one in told]


def test_a_challenger_is_promoted_at_the_same_place_under_kills_and_after_the_store_was_emptied(
    project: Make, tmp_path: Path
) -> None:
    records = values(2_000)
    calm = project_of(project, configured=True)
    calm.settings["HEADRACE__BATCH__RECORDS_MAX"] = "1000"
    calm.produce(records, partition=0)
    calm.run_to_end()
    journal, answers = outcome(calm)
    assert [entry.what for entry in journal] == ["challenge", "promote"]
    assert [generation for _, generation in answers] == sorted(generation for _, generation in answers)
    assert {generation for _, generation in answers} == {1, 2}
    assert journal[1].place[0] % 256 == 0

    p = Project(calm.stack, tmp_path / "disturbed", model=MODELS, partitions=1, settings=dict(SETTINGS))
    p.file.write_text(p.file.read_text() + '[challengers.better]\nfactory = "model:better"\n')
    p.settings["HEADRACE__BATCH__RECORDS_MAX"] = "37"
    for at in PLACES:
        trap = Trap(p, at, hit=2)
        with p.running():
            wait_until(lambda: True, what="the worker")
            trap.arm()
            p.produce(records[len(p.sent[0]) : len(p.sent[0]) + 400], partition=0)
            trap.wait()
            p.wait_for_all()
    Store(p.stack.addresses.redis, name=p.name).client.flushall()
    p.produce(records[len(p.sent[0]) :], partition=0)
    p.run_to_end()
    assert outcome(p) == (journal, answers)
    assert call(p, "model", "why", f"0:{journal[1].place[0]}")["name"] == "better"
    assert call(p, "model", "why", f"0:{journal[1].place[0] - 1}")["name"] == "model"
    [former] = call(p, "model", "challengers")
    assert former["name"] == "model"
    assert former["partitions"][0]["pairs"] > 0


def test_challenge_promote_and_drop_by_hand(project: Make) -> None:
    p = project_of(project, configured=False)
    p.settings["HEADRACE__PROMOTION__MODE"] = "ask"
    p.produce(values(200), partition=0)
    with p.running() as run:
        p.wait_for_all()

        def ask(*words: str) -> tuple[int, str]:
            done = nursery().call(["model", *words, "-c", str(p.file)], env=p.env)
            return done.returncode, done.stdout + done.stderr

        code, told = ask("challenge", "b", "--factory", "model:better")
        assert (code, "--execute" in told) == (0, True)
        asked = ("challenge", "b", "--factory", "model:better", "--execute", "--wait", "--id", "first")
        assert ask(*asked)[0] == 0
        assert ask(*asked)[0] == 0, "the same id is the same command"
        assert ask(*asked[:-2])[0] == 0, "the same challenge goes on"
        code, told = ask("challenge", "b", "--execute", "--wait")
        assert (code, "another model" in told) == (1, True)
        p.produce(values(200, seed=4), partition=0)
        p.wait_for_all()
        code, told = ask("promote", "b", "--execute", "--wait=done", "--reason", "we know it")
        assert code == 0, told
        p.produce(values(100, seed=5), partition=0)
        p.wait_for_all()
        assert ask("drop", "model", "--execute", "--wait")[0] == 0
        assert ask("promote", "nobody", "--execute", "--wait")[0] == 1
        assert run.stop() == 0, run.log()
    generations = [generation for _, generation in outcome(p)[1]]
    assert generations == [1] * 400 + [2] * 100
    told = call(p, "model", "history")
    assert [one["what"] for one in told] == ["challenge", "refused", "refused", "promote", "drop", "refused"]
    assert told[3]["generation"] == 2
    assert told[3]["offset"] == 400
    p.produce(values(50, seed=6), partition=0)
    p.run_to_end()
    assert outcome(p)[1][-1][1] == 2
