"""The factory of models: what of the configuration decides whether a model fits, and what is refused at the start."""

from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline import assembly, model_factory
from headrace.pipeline.commands import config_command
from headrace.pipeline.config.config import Config, ConfigError, load
from headrace.state.models.task import ModelError
from headrace.state.store.store import Store

MODEL = """
import math
import re

from river import (
    active, anomaly, base, cluster, compose, feature_extraction, linear_model, multioutput, naive_bayes, preprocessing,
    time_series, tree,
)

class Never(base.Classifier):
    def learn_one(self, x, y):
        pass

    def predict_one(self, x):
        return False

def build():
    return {}

def order(value):
    return value
"""
LOGISTIC = "preprocessing.StandardScaler() | linear_model.LogisticRegression()"


def project(directory: Path, settings: str, *, built: str = LOGISTIC) -> Config:
    (directory / "model.py").write_text(MODEL.format(built), encoding="utf-8")
    (directory / "headrace.toml").write_text(settings, encoding="utf-8")
    return load(directory / "headrace.toml")


@pytest.mark.parametrize(
    ("built", "words"),
    [
        ("linear_model.LinearRegression()", "is a regression model"),
        ("tree.HoeffdingTreeClassifier()", "is a multiclass model"),
        ("Never()", "gives no probabilities"),
    ],
)
def test_a_threshold_is_refused_where_no_class_has_a_probability(tmp_path: Path, built: str, words: str) -> None:
    config = project(tmp_path, "[predictions]\nthreshold = 0.7\n", built=built)
    store: Any = Store("redis://127.0.0.1:1/0", name="fraud")
    with pytest.raises(ConfigError) as caught:
        model_factory.models(config, store)
    assert words in str(caught.value)
    assert "predictions.threshold = 0.7" in str(caught.value)
    assert "remove the key" in caught.value.hint


REFUSED_KEYS = [
    ("[model]\nhorizon = 3\n", LOGISTIC, "model.horizon = 3: model:build builds a model for binary"),
    ('[topics]\nlabels = "labels"\n', "anomaly.GaussianScorer()", "topics.labels = 'labels': GaussianScorer scores"),
    ('[quality]\nmeasures = ["RMSE"]\n', LOGISTIC, "quality.measures: RMSE can't be measured for model:build"),
    ('[quality]\nmeasures = ["LogLoss"]\n[topics]\nlabels = "labels"\n', LOGISTIC, "LogLoss can't be measured"),
    (
        '[predictions]\nformat = "avro"\n[registry]\nurl = "http://127.0.0.1:1"\n',
        "multioutput.RegressorChain(linear_model.LinearRegression())",
        "predictions.format = 'avro': it has no form for a value for each target",
    ),
]


@pytest.mark.parametrize(("settings", "built", "words"), REFUSED_KEYS)
def test_a_key_without_a_meaning_for_the_model_is_refused(
    tmp_path: Path, settings: str, built: str, words: str
) -> None:
    config = project(tmp_path, settings, built=built)
    with pytest.raises(ConfigError) as caught:
        config_command.build_model(config)
    assert words in str(caught.value)
    assert caught.value.hint


SAVED = [
    'feature_extraction.BagOfWords(on="text") | naive_bayes.MultinomialNB()',
    'feature_extraction.TFIDF(on="text") | linear_model.LogisticRegression()',
    'compose.Select(re.compile("a.*")) | linear_model.LogisticRegression()',
    "compose.TargetTransformRegressor(linear_model.LinearRegression(), func=math.log1p, inverse_func=math.expm1)",
    "linear_model.PAClassifier(mode=0)",
    "anomaly.QuantileFilter(anomaly.HalfSpaceTrees(), q=0.9)",
    "time_series.SNARIMAX(p=1, d=0, q=0)",
    "cluster.KMeans()",
]


@pytest.mark.parametrize("built", SAVED)
def test_a_model_of_each_kind_can_be_saved_and_loaded(tmp_path: Path, built: str) -> None:
    config_command.build_model(project(tmp_path, "", built=built))


@pytest.mark.parametrize("built", ["cluster.ODAC()", "active.EntropySampler(linear_model.LogisticRegression())"])
def test_what_river_can_not_run_is_refused_by_its_name_before_it_starts(tmp_path: Path, built: str) -> None:
    name = built.partition(".")[2].partition("(")[0]
    with pytest.raises(ModelError, match=name):
        config_command.build_model(project(tmp_path, "", built=built))


@pytest.mark.parametrize("compiled", ["true", "false"])
def test_the_mapping_and_the_transform_are_part_of_what_a_model_is(tmp_path: Path, compiled: str) -> None:
    def spec(records: str) -> str:
        config = project(tmp_path, f"[records]\n{records}\n[model]\ncompile = {compiled}\n")
        return model_factory.fastest(config, model_factory.builder(config)()).spec

    assert "[records]" not in spec("")
    named = [line.partition(" ")[0] for line in spec('ts_unit = "s"\nexclude = ["a"]').split("\n")[1:]]
    assert named == ["[records].ts_unit", "[records].exclude"]
    assert "\nmodel.order " in spec('transform = "model:order"')


@pytest.mark.parametrize(
    ("reference", "words"), [("model:missing", "missing"), ("nowhere:f", "nowhere"), ("model:LOGISTIC", "LOGISTIC")]
)
def test_a_transform_that_can_not_be_loaded_is_an_error_of_the_configuration(
    tmp_path: Path, reference: str, words: str
) -> None:
    config = project(tmp_path, f'[records]\ntransform = "{reference}"\n')
    with pytest.raises(ModelError, match=words) as caught:
        assembly.decoder(config)
    assert f"records.transform = '{reference}'" in str(caught.value)
    assert caught.value.hint
