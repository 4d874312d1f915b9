"""Seeds for parts of a model that have none: the same text gives the same model."""

from collections.abc import Callable
from typing import Any

import pytest
from river import (
    cluster,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    naive_bayes,
    optim,
    preprocessing,
    reco,
)

from headrace.state.models.learner import RiverLearner

_logistic = linear_model.LogisticRegression
UNSEEDED: dict[str, Callable[[], Any]] = {
    "forest": lambda: forest.ARFClassifier(n_models=2, grace_period=5),
    "Mondrian": lambda: forest.AMFClassifier(n_estimators=2),
    "bagging": lambda: ensemble.BaggingClassifier(naive_bayes.GaussianNB(), n_models=3),
    "hashed": lambda: preprocessing.FeatureHasher(n_features=4) | _logistic(),
    "weights": lambda: preprocessing.StandardScaler() | _logistic(initializer=optim.initializers.Normal()),
    "random features": lambda: feature_extraction.RBFSampler(n_components=4) | _logistic(),
    "factors": reco.BiasedMF,
    "clusters": lambda: cluster.KMeans(n_clusters=3),
    "clusters of chunks": lambda: cluster.STREAMKMeans(chunk_size=3, n_clusters=2),
}


def _answers(make: Callable[[], Any], seed: str) -> list[str]:
    model, answers = RiverLearner(make(), seed=seed), []
    for number in range(40):
        features = {"a": (number * 7 % 11) / 11, "b": (number * 3 % 5) / 5}
        if model.task == "recommendation":
            features = {"user": f"{number % 3}", "item": f"{number % 4}"}  # type: ignore[dict-item]
        label = float(number % 3) if model.task == "recommendation" else number % 2 == 0
        answers.append(repr(model.predict(dict(features))))
        model.learn(features, label)
    return answers


@pytest.mark.parametrize("name", UNSEEDED)
def test_a_model_without_a_seed_is_the_same_each_time_it_is_built(name: str) -> None:
    make = UNSEEDED[name]
    assert _answers(make, "fraud") == _answers(make, "fraud")


def test_another_text_gives_other_seeds() -> None:
    assert _answers(UNSEEDED["forest"], "fraud") != _answers(UNSEEDED["forest"], "orders")


def test_a_seed_that_the_user_gives_stays() -> None:
    def make() -> Any:
        return forest.ARFClassifier(n_models=2, grace_period=5, seed=7)

    assert _answers(make, "fraud") == _answers(make, "orders") == _answers(make, "")


def test_the_spec_shows_the_model_as_the_user_builds_it() -> None:
    one = RiverLearner(forest.ARFClassifier(n_models=2), seed="fraud")
    assert one.spec == RiverLearner(forest.ARFClassifier(n_models=2), seed="orders").spec
    assert "seed=None" in one.spec
