"""Backtests beside River's own progressive validation: the metrics are equal, to the bit."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import datasets, evaluate, linear_model, metrics, preprocessing

from headrace.consumers.record import Record
from headrace.pipeline import assembly
from headrace.pipeline.backtest.backtest import BacktestRun, NothingScored, Options, backtest
from headrace.pipeline.backtest.chart import ChartRefused
from headrace.pipeline.backtest.examples import Delay, DelayRefused
from headrace.pipeline.backtest.past_records import Range, place_of
from headrace.pipeline.config.config import Config, ConfigError, load
from headrace.pipeline.files.subject import SubjectMissing

MODEL = """
from river import anomaly, linear_model, preprocessing, tree

class Falls(linear_model.LogisticRegression):
    def learn_one(self, x, y, w=1.0):
        if "falls" in x:
            raise ValueError("it fell")
        return super().learn_one(x, y, w)

def falls():
    return preprocessing.StandardScaler() | Falls()

def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()

def softmax():
    return preprocessing.StandardScaler() | linear_model.SoftmaxRegression()

def linear():
    return preprocessing.StandardScaler() | linear_model.LinearRegression()

def tree_():
    return tree.HoeffdingTreeClassifier(grace_period=50)

def detector():
    return anomaly.GaussianScorer()
"""
MEASURES = {
    "logistic": ["Accuracy", "F1", "LogLoss", "ROCAUC"],
    "softmax": ["Accuracy", "CrossEntropy", "MacroF1"],
    "linear": ["MAE", "R2", "RMSE"],
}
SETS = [
    ("Phishing", "logistic"),
    ("Bananas", "logistic"),
    ("Shuttle", "logistic"),
    ("ImageSegments", "softmax"),
    ("TrumpApproval", "linear"),
    ("ChickWeights", "linear"),
    ("SP500Stocks", "linear"),
]
MINUTE_MS = 60_000
RECORDS = 800


def project(directory: Path, settings: str = "", *, factory: str = "logistic") -> Config:
    (directory / "model.py").write_text(MODEL, encoding="utf-8")
    text = f'[model]\nfactory = "model:{factory}"\n{settings}'
    (directory / "headrace.toml").write_text(text, encoding="utf-8")
    return load(directory / "headrace.toml")


def lines_of(rows: list[tuple[dict[str, Any], Any]]) -> list[bytes]:
    return [
        msgspec.json.encode({"ts": number * MINUTE_MS, "features": x, "label": y}) for number, (x, y) in enumerate(rows)
    ]


def run(config: Config, lines: list[bytes], *factories: str, delay: Delay | None = None) -> list[dict[str, Any]]:
    options = Options(delay=delay or Delay())
    found = BacktestRun(
        config,
        dict.fromkeys(factories or (config.model.factory,)),
        options,
        decoder=assembly.json_decoder(config),
        is_logged=False,
    )
    return found.with_delay({0: iter([Record(0, number, 0, None, line, None) for number, line in enumerate(lines)])})


def by_river(factory: str, rows: list[tuple[dict[str, Any], Any]], **delays: Any) -> dict[str, float]:
    last = {"logistic": linear_model.LogisticRegression, "softmax": linear_model.SoftmaxRegression}
    found = {}
    for name in MEASURES[factory]:
        model = preprocessing.StandardScaler() | last.get(factory, linear_model.LinearRegression)()
        clock = itertools.count(0, MINUTE_MS)
        moment = partial(lambda clock, _: next(clock), clock) if delays.get("timed") else None
        metric = evaluate.progressive_val_score(
            rows, model, getattr(metrics, name)(), moment=moment, delay=delays.get("delay")
        )
        found[name] = metric.get()
    return found


@pytest.mark.parametrize("delay", [Delay(), Delay(records=100), Delay(ms=30 * MINUTE_MS)], ids=str)
@pytest.mark.parametrize(("name", "factory"), SETS)
def test_the_metrics_are_those_of_river(tmp_path: Path, name: str, factory: str, delay: Delay) -> None:
    rows = [(dict(x), y) for x, y in itertools.islice(getattr(datasets, name)(), RECORDS)]
    config = project(tmp_path, f"[quality]\nmeasures = {json.dumps(MEASURES[factory])}", factory=factory)
    [found] = run(config, lines_of(rows), delay=delay)
    told = {"delay": delay.records or delay.ms, "timed": delay.ms is not None}
    wanted = by_river(factory, rows, **told)
    spelled = {"ROCAUC": "roc_auc", "LogLoss": "log_loss", "CrossEntropy": "cross_entropy", "MacroF1": "macro_f1"}
    assert {key: found[spelled.get(key, key.lower())] for key in wanted} == wanted
    assert (found["records"], found["refused"]) == (len(rows), {})
    # A multiclass model has no answer before its first label.
    waits = 0 if factory != "softmax" else 1 if delay.is_none else delay.records or 30
    assert found["scored"] == len(rows) - waits


def test_a_model_by_river_and_a_compiled_one_stand_side_by_side(tmp_path: Path) -> None:
    rows = [(dict(x), y) for x, y in itertools.islice(datasets.Bananas(), RECORDS)]
    results = run(project(tmp_path), lines_of(rows), "model:logistic", "model:tree_", delay=Delay(records=10))
    assert [result["factory"] for result in results] == ["model:logistic", "model:tree_"]
    alone = [
        run(project(tmp_path), lines_of(rows), one, delay=Delay(records=10))[0]
        for one in ("model:logistic", "model:tree_")
    ]
    assert results == alone
    assert results[0]["accuracy"] != results[1]["accuracy"]


@pytest.mark.parametrize("factory", ["logistic", "falls"])
@pytest.mark.parametrize("delay", [Delay(), Delay(records=3)], ids=str)
def test_a_record_that_is_refused_counts_and_teaches_nothing(tmp_path: Path, factory: str, delay: Delay) -> None:
    rows = [(dict(x), y) for x, y in itertools.islice(datasets.Bananas(), 50)]
    lines = lines_of(rows)
    bad = lines.copy()
    bad.insert(20, b'{"features": {"1": 0.5}, "label": "maybe", "ts": 1}')
    bad.insert(30, b'{"features": 1}')
    bad.insert(40, b'{"features": {"1": 0.5, "2": 1.0, "falls": true}, "label": true, "ts": 1}')
    config = project(tmp_path, factory=factory)
    [found] = run(config, bad, delay=delay)
    falls = {"learn_failed": 1} if factory == "falls" else {}
    assert found["refused"] == {"bad_label": 1, **falls, "wrong_type": 1}
    if factory == "falls":
        # Delays count the records that the decoder could read.
        [wanted] = run(config, lines)
        assert delay.records is not None or found["accuracy"] == wanted["accuracy"]
    assert found["scored"] == len(bad) - sum(found["refused"].values())


def test_each_partition_has_a_model_of_its_own_and_a_shared_one_sees_all(tmp_path: Path) -> None:
    rows = lines_of([(dict(x), y) for x, y in itertools.islice(datasets.Phishing(), 400)])

    def logs() -> dict[int, Iterator[Record]]:
        return {
            number: iter(
                [Record(number, at, 2 * at + number, b"k", line, None) for at, line in enumerate(rows[number::2])]
            )
            for number in (0, 1)
        }

    found = {}
    for scope in ("partition", "global", "key"):
        config = project(tmp_path, f'scope = "{scope}"\n')
        decoder = assembly.json_decoder(config)
        found[scope] = BacktestRun(
            config, {config.model.factory: None}, Options(), decoder=decoder, is_logged=True
        ).with_delay(logs())[0]
    halves = [run(project(tmp_path), rows[number::2])[0] for number in (0, 1)]
    [whole] = run(project(tmp_path), rows)
    assert found["partition"]["accuracy"] == sum(half["accuracy"] * 200 for half in halves) / 400
    assert found["global"] == whole
    # One key in two partitions has a model in each.
    assert found["key"] == found["partition"]


def test_a_range_of_times_cuts_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(dict(x), y) for x, y in itertools.islice(datasets.Phishing(), 200)]
    config = project(tmp_path)
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"\n".join(lines_of(rows)))
    cut = Range(place_of(str(50 * MINUTE_MS), "--from"), place_of("1970-01-01T02:00:00Z", "--to"))
    assert backtest(config, subject=str(file), options=Options(range=cut), json=True) == 0
    [found] = json.loads(capsys.readouterr().out)["results"]
    [wanted] = run(config, lines_of(rows)[50:120])
    assert found == wanted


@pytest.mark.parametrize("factory", ["logistic", "falls"])
def test_a_threshold_decides_with_and_without_a_delay(tmp_path: Path, factory: str) -> None:
    lines = lines_of([(dict(x), y) for x, y in itertools.islice(datasets.Phishing(), 300)])
    [plain] = run(project(tmp_path, factory=factory), lines)
    config = project(tmp_path, "[predictions]\nthreshold = 0.9\n", factory=factory)
    [at_once], [delayed] = run(config, lines), run(config, lines, delay=Delay(records=0))
    assert at_once == delayed
    assert at_once["accuracy"] != plain["accuracy"]


def test_a_delay_in_time_needs_a_time(tmp_path: Path) -> None:
    with pytest.raises(DelayRefused) as caught:
        run(project(tmp_path), [b'{"features": {"a": 1}, "label": true}'], delay=Delay(ms=5))
    assert "record 1 has no time" in str(caught.value)


def test_a_detector_that_judges_its_own_label_takes_no_delay(tmp_path: Path) -> None:
    with pytest.raises(DelayRefused) as caught:
        run(project(tmp_path, factory="detector"), [], delay=Delay(records=5))
    assert "model:detector" in str(caught.value)


def test_a_backtest_without_labels_says_so(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'{"features": {"a": 1}}\n')
    with pytest.raises(NothingScored) as caught:
        backtest(project(tmp_path), subject=str(file), options=Options())
    assert "no record of" in str(caught.value)
    file.write_bytes(b'{"features": {"a": 1}, "label": "x"}\n')
    with pytest.raises(NothingScored) as caught:
        backtest(project(tmp_path), subject=str(file), options=Options())
    assert "bad_label: 1" in str(caught.value)


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubjectMissing, match="there is no file"):
        backtest(project(tmp_path), subject=str(tmp_path / "none.jsonl"), options=Options())
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"")
    with pytest.raises(SubjectMissing, match="has no records"):
        backtest(project(tmp_path), subject=str(file), options=Options())
    with pytest.raises(ConfigError, match="model:tree_ is given twice"):
        backtest(project(tmp_path), subject=str(file), options=Options(factories=("model:tree_", "model:tree_")))


def test_a_chart_has_a_line_for_each_model(tmp_path: Path) -> None:
    file, plot = tmp_path / "records.jsonl", tmp_path / "chart.svg"
    file.write_bytes(b"\n".join(lines_of([(dict(x), y) for x, y in itertools.islice(datasets.Bananas(), 500)])))
    options = Options(factories=("model:logistic", "model:tree_"))
    assert backtest(project(tmp_path), subject=str(file), options=options, plot=plot) == 0
    text = plot.read_text(encoding="utf-8")
    # A point for each ten scored predictions, and the last one is the result.
    assert max(line.count(" L ") + line.count("\nL ") for line in text.split("<path")) >= 45
    assert text.count("<!-- model:logistic -->") == text.count("<!-- model:tree_ -->") == 1
    assert "<!-- accuracy -->" in text
    with pytest.raises(ChartRefused, match="a PNG or an SVG"):
        backtest(project(tmp_path), subject=str(file), options=options, plot=tmp_path / "chart.gif")
