"""Searches: their trials are the same however often they were killed, and a bad space says what is wrong."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import datasets

from headrace.pipeline.backtest.backtest import NothingScored, Options
from headrace.pipeline.backtest.examples import Delay
from headrace.pipeline.backtest.tune import OptunaMissing, TuneRefused, tune
from headrace.pipeline.config.config import Config, load
from headrace.state.models.task import ModelError

MODEL = """
from river import linear_model, optim, preprocessing

def build():
    return linear_model.LogisticRegression()

def space(trial):
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    scaled = trial.suggest_categorical("scaled", [True, False])
    model = linear_model.LogisticRegression(optim.SGD(rate), l2=trial.suggest_float("l2", 0.0, 0.1))
    return preprocessing.StandardScaler() | model if scaled else model

def grid(trial):
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    if optimizer == "adam":
        return linear_model.LogisticRegression(optim.Adam(trial.suggest_categorical("rate", [0.1, 0.01])))
    return linear_model.LogisticRegression()

def wrong(trial):
    raise ValueError("no such thing")
"""
TRIALS = 14


def project(directory: Path) -> tuple[Config, Path]:
    (directory / "model.py").write_text(MODEL, encoding="utf-8")
    (directory / "headrace.toml").write_text("", encoding="utf-8")
    file = directory / "records.jsonl"
    rows = itertools.islice(datasets.Phishing(), 300)
    file.write_bytes(b"\n".join(msgspec.json.encode({"features": x, "label": y}) for x, y in rows))
    return load(directory / "headrace.toml"), file


def search(config: Config, file: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> list[dict[str, Any]]:
    options = {"space": "model:space", "options": Options(), "json": True, "trials": TRIALS, **options}
    assert tune(config, subject=str(file), **options) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["trials"]
    return found


def test_a_search_that_was_killed_anywhere_comes_to_the_same_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = project(tmp_path)
    wanted = search(config, file, capsys, seed=7)
    assert [trial["number"] for trial in wanted] == list(range(TRIALS))
    assert {trial["state"] for trial in wanted} == {"complete"}
    log = tmp_path / "records.jsonl.model.space.trials.jsonl"
    whole = log.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == 10]
    # Behind the search, in the middle of a trial, and right behind one; the first ten trials are random.
    for cut in (ends[0] + 1, ends[3] + 9, ends[8] + 1, ends[11] - 1, ends[12] + 1):
        log.write_bytes(whole[:cut])
        assert search(config, file, capsys, seed=7, resume=True) == wanted
        assert log.read_bytes() == whole


def test_a_killed_process_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, file = project(tmp_path)
    log = tmp_path / "records.jsonl.model.space.trials.jsonl"
    words = ["tune", "model:space", str(file), "--trials", str(TRIALS), "-c", str(tmp_path / "headrace.toml")]
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.pipeline.commands.cli", *words], stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < until, "the search finished no two trials within 120 s"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    done = log.read_bytes().count(b"\n") - 1
    assert done < TRIALS
    resumed = search(config, file, capsys, resume=True)
    log.unlink()
    assert search(config, file, capsys) == resumed


def test_a_grid_tries_all_choices_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, file = project(tmp_path)
    found = search(config, file, capsys, space="model:grid", sampler="grid", trials=None)
    assert [trial["params"] for trial in found] == [
        {"optimizer": "sgd"},
        {"optimizer": "adam", "rate": 0.1},
        {"optimizer": "adam", "rate": 0.01},
    ]
    assert len({trial["value"] for trial in found}) == 3


def test_the_value_is_that_of_a_backtest_and_the_best_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = project(tmp_path)
    assert tune(config, space="model:grid", subject=str(file), options=Options(), sampler="grid") == 0
    lines = capsys.readouterr().out.splitlines()
    log = tmp_path / "records.jsonl.model.grid.trials.jsonl"
    values = [json.loads(line)["value"] for line in log.read_text().splitlines()[1:]]
    [best] = [line for line in lines if line.endswith("the best")]
    assert f"accuracy {max(values):.4f}" in best


def test_what_is_wrong_with_a_search_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, file = project(tmp_path)
    with pytest.raises(TuneRefused, match="the space calls suggest_float"):
        search(config, file, capsys, sampler="grid")
    with pytest.raises(ModelError, match="the space raised ValueError: no such thing"):
        search(config, file, capsys, space="model:wrong", sampler="grid")
    search(config, file, capsys, space="model:grid", sampler="grid", trials=1)
    with pytest.raises(TuneRefused, match="has the trials of an earlier search"):
        search(config, file, capsys, space="model:grid", sampler="grid")
    delayed = Options(delay=Delay(records=3))
    with pytest.raises(TuneRefused, match="a search with other options"):
        search(config, file, capsys, space="model:grid", sampler="grid", resume=True, options=delayed)
    with pytest.raises(TuneRefused, match="standard input"):
        search(config, Path("-"), capsys)
    file.write_bytes(b'{"features": {"a": 1}}')
    (tmp_path / "records.jsonl.model.grid.trials.jsonl").unlink()
    with pytest.raises(NothingScored):
        search(config, file, capsys, space="model:grid", sampler="grid")


def test_without_optuna_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = project(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(OptunaMissing) as caught:
        search(config, file, capsys)
    assert caught.value.status == 503
    assert 'pip install "headrace[tune]"' in caught.value.hint
