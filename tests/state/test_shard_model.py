import math
from typing import Any

import msgspec
import numpy as np
import pytest
from river import dummy, linear_model, stats

from headrace.state.models.learner import RiverLearner, build
from headrace.state.quality import Quality
from headrace.state.shard_model import MODEL, ShardModel, table_name


def linear() -> RiverLearner:
    return build(linear_model.LinearRegression)


def shard_model(learner: RiverLearner | None = None) -> ShardModel:
    return ShardModel(MODEL, learner or build(linear_model.LogisticRegression))


def test_accuracy_counts_right_answers_in_all_and_lately() -> None:
    s = shard_model()
    for index in range(1_500):
        s.score(prediction=index < 1_000, label=True, version=1)
    summary = s.quality_now().summary()
    assert summary == {"scored": 1_500, "accuracy": pytest.approx(1_000 / 1_500), "accuracy_recent": 0.5}


def test_a_classifier_that_has_seen_no_class_yet_is_not_scored_for_its_none() -> None:
    s = shard_model()
    s.score(prediction=None, label="first", version=1)
    assert s.quality_now().summary() == {"scored": 0}


def test_errors_of_a_regression_are_summed_in_all_and_lately() -> None:
    s = shard_model(linear())
    for error in (1.0, -3.0):
        s.score(prediction=10.0 + error, label=10, version=1)
    assert s.quality_now().summary() == {
        "scored": 2,
        "mae": 2.0,
        "rmse": pytest.approx(math.sqrt(5)),
        "mae_recent": 2.0,
    }


@pytest.mark.parametrize("prediction", [None, math.nan, math.inf, -math.inf, "a word", 10**400])
def test_what_is_no_number_scores_nothing(prediction: Any) -> None:
    s = shard_model(linear())
    s.score(prediction, 1.0, version=1)
    assert s.quality_now().summary() == {"scored": 0}


@pytest.mark.parametrize(
    ("prediction", "label"), [(0, 10**300), (-(10**300), 10**300), (1e308, -1e308), (10**307, 1e-300), (0.0, 10**308)]
)
def test_huge_numbers_are_scored_or_left_out_but_never_raise(prediction: float, label: float) -> None:
    """A model that answers with labels it has seen, such as a maximum, answers with integers of any size."""
    s = shard_model(build(lambda: dummy.StatisticRegressor(stats.Max())))
    s.score(prediction, label, version=1)
    s.score(1.0, 2.0, version=1)
    assert s.quality_now().summary()["scored"] in {1, 2}
    encoded = msgspec.msgpack.encode(s.quality_now())
    assert msgspec.msgpack.decode(encoded, type=Quality) == s.quality_now()


def test_many_scores_at_once_are_the_same_as_one_by_one() -> None:
    one_by_one, at_once = shard_model(linear()), shard_model(linear())
    errors = np.random.default_rng(1).normal(size=3_000) ** 2
    for error in errors.tolist():
        one_by_one.score(error, 0.0, version=2)
    for part in np.split(errors, [7, 500, 2_999]):
        at_once.score_all(part, 2)
    assert one_by_one.quality_now() == at_once.quality_now()


def test_only_the_newest_versions_are_scored() -> None:
    one = shard_model()
    for version in [*range(20), 3]:
        one.score(True, True, version)
    assert [*one.quality.versions] == list(range(12, 20))
    assert one.quality.scored == 21


def test_the_tables_of_models_have_names_of_their_own() -> None:
    names = [table_name(model, "keys") for model in (MODEL, "trees", "forest")]
    assert names == ["keys", "keys/trees", "keys/forest"]
