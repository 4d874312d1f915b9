"""The task of each kind of River model, and the reason where it has none."""

from collections.abc import Callable
from typing import Any

import pytest
from river import (
    active,
    anomaly,
    cluster,
    compose,
    drift,
    feature_extraction,
    linear_model,
    multioutput,
    naive_bayes,
    preprocessing,
    reco,
    stats,
    time_series,
    tree,
)

from headrace.state.models.task import ModelError, learns_unlabelled, needs_value, remarks, task_of

_SCALER = preprocessing.StandardScaler
TASKS: dict[str, tuple[Callable[[], Any], str, bool]] = {
    "a detector": (anomaly.HalfSpaceTrees, "anomaly", True),
    "a detector behind steps": (lambda: _SCALER() | anomaly.OneClassSVM(), "anomaly", True),
    "a filter": (lambda: anomaly.QuantileFilter(_SCALER() | anomaly.OneClassSVM(), q=0.9), "anomaly", True),
    "a detector of values": (anomaly.GaussianScorer, "anomaly", False),
    "a filter of values": (lambda: anomaly.ThresholdFilter(anomaly.GaussianScorer(), threshold=0.9), "anomaly", False),
    "a clusterer": (lambda: _SCALER() | cluster.KMeans(seed=1), "clustering", True),
    "a forecaster": (lambda: time_series.SNARIMAX(p=1, d=0, q=0), "forecasting", False),
    "a forecaster behind steps": (lambda: _SCALER() | time_series.HoltWinters(alpha=0.3), "forecasting", False),
    "a recommender": (reco.Baseline, "recommendation", False),
    "several labels": (lambda: multioutput.ClassifierChain(linear_model.LogisticRegression()), "multilabel", False),
    "several numbers": (lambda: multioutput.RegressorChain(linear_model.LinearRegression()), "multitarget", False),
    "a tree of several numbers": (tree.ISOUPTreeRegressor, "multitarget", False),
    "a classifier behind a filter": (
        lambda: anomaly.QuantileFilter(anomaly.OneClassSVM(), q=0.9) | linear_model.LogisticRegression(),
        "binary",
        False,
    ),
    "words": (lambda: feature_extraction.BagOfWords(on="text") | naive_bayes.MultinomialNB(), "multiclass", False),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_last_step_decides_the_task(name: str) -> None:
    make, task, unlabelled = TASKS[name]
    model = make()
    assert task_of(model) == task
    assert learns_unlabelled(model, task_of(model)) == unlabelled
    assert needs_value(model, task_of(model)) == ("values" in name)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "ODAC": (cluster.ODAC, "ODAC makes clusters of features"),
    "a sampler": (lambda: active.EntropySampler(linear_model.LogisticRegression()), "EntropySampler answers with a"),
    "a drift detector": (drift.ADWIN, "the factory returned ADWIN, a drift detector"),
    "a binary drift detector": (drift.binary.DDM, "returned DDM, a drift detector"),
    "a transformer": (_SCALER, "returned StandardScaler, a transformer, which predicts nothing"),
    "steps alone": (
        lambda: _SCALER() | preprocessing.MinMaxScaler(),
        "the last step of the model is MinMaxScaler, a transformer",
    ),
    "nothing": (compose.Pipeline, "a pipeline without a step"),
    "no model": (lambda: 7, "the factory returned int, no River model"),
    "bare text": (lambda: feature_extraction.TFIDF() | naive_bayes.MultinomialNB(), "TFIDF without `on` reads a bare"),
    "a value behind steps": (lambda: _SCALER() | anomaly.GaussianScorer(), "GaussianScorer judges a record by its"),
    "labels before clusters": (
        lambda: feature_extraction.TargetAgg(by="a", how=stats.Mean()) | cluster.KMeans(seed=1),
        "TargetAgg learns from labels, and KMeans from each record",
    ),
    "no time behind steps": (
        lambda: feature_extraction.BagOfWords(on="text") | cluster.TextClust(),
        "TextClust behind other steps gets no time from River",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_river_can_not_run_on_a_stream_is_refused_by_its_name(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(ModelError) as refused:
        task_of(make())
    assert words in str(refused.value)
    assert refused.value.hint


def test_a_step_before_may_take_the_text_out_of_the_record() -> None:
    steps = compose.FuncTransformer(text_of) | feature_extraction.BagOfWords() | naive_bayes.MultinomialNB()
    assert task_of(steps) == "multiclass"


def text_of(x: dict[str, Any]) -> Any:
    return x["text"]


def test_clusters_of_texts_may_count_records_instead_of_time() -> None:
    model = feature_extraction.BagOfWords(on="text") | cluster.TextClust(real_time_fading=False)
    assert task_of(model) == "clustering"


def test_a_filter_that_never_teaches_its_detector_is_remarked() -> None:
    detector = anomaly.OneClassSVM()
    bare = anomaly.ThresholdFilter(detector, threshold=0.5, protect_anomaly_detector=False)
    assert "never teaches" in remarks(_SCALER() | bare)[0]
    assert not remarks(anomaly.ThresholdFilter(detector, threshold=0.5))
    assert not remarks(anomaly.QuantileFilter(detector, q=0.9, protect_anomaly_detector=False))
