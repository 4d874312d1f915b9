"""The factory of models: what of the configuration decides whether a model fits, and what is refused at the start."""

from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline import assembly, model_factory
from headrace.pipeline.config.config import Config, ConfigError, load
from headrace.state.models.learner import ModelError
from headrace.state.store.store import Store

MODEL = """
from river import base, linear_model, preprocessing, tree

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
