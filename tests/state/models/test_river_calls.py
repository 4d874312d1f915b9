"""How a model of each task is asked and taught: its answers are River's own."""

from typing import Any

import pytest
from river import anomaly, cluster, linear_model, multioutput, preprocessing, reco, time_series

from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Anomaly, Unlabelled
from headrace.state.models.river_calls import FeatureMissing

NOW = Unlabelled(5_000)


def _points(count: int = 40) -> list[dict[str, Any]]:
    return [{"a": (number * 7 % 11) / 11, "b": (number * 3 % 5) / 5} for number in range(count)]


def test_a_detector_has_a_score_and_no_verdict() -> None:
    learner, river = (anomaly.HalfSpaceTrees(n_trees=3, height=3, window_size=10, seed=1) for _ in range(2))
    one = RiverLearner(learner)
    for x in _points():
        assert one.predict(dict(x)) == (Anomaly(None, river.score_one(x)), None)
        one.learn(dict(x), NOW)
        river.learn_one(x)
    assert one.predict(_points()[3])[0].score > 0


def test_a_filter_has_a_verdict_also_as_the_last_step() -> None:
    def make() -> Any:
        detector = anomaly.HalfSpaceTrees(n_trees=3, height=3, window_size=10, seed=1)
        return preprocessing.MinMaxScaler() | anomaly.QuantileFilter(detector, q=0.8)

    one, river = RiverLearner(make()), make()
    verdicts = set()
    for x in _points():
        answer, _ = one.predict(dict(x))
        assert answer.score == river.score_one(x)
        verdicts.add(answer.verdict)
        one.learn(dict(x), NOW)
        river.learn_one(x)
    assert verdicts == {True, False}


def test_a_detector_of_values_scores_the_label_of_the_record() -> None:
    one, river = RiverLearner(anomaly.GaussianScorer(grace_period=3)), anomaly.GaussianScorer(grace_period=3)
    for number in range(9):
        assert one.predict({"a": 1.0}) == (Anomaly(None, None), None)
        answer, _ = one.predict({"a": 1.0}, label=float(number))
        assert answer.score == river.score_one({"a": 1.0}, float(number))
        one.learn({"a": 1.0}, float(number))
        river.learn_one({"a": 1.0}, float(number))


@pytest.mark.parametrize("alone", [True, False])
def test_a_forecaster_learns_the_value_with_its_features_bare_and_behind_steps(alone: bool) -> None:  # noqa: FBT001 two cases
    def make() -> Any:
        forecaster = time_series.SNARIMAX(p=2, d=1, q=1)
        return forecaster if alone else preprocessing.StandardScaler() | forecaster

    one, river = RiverLearner(make(), horizon=3), make()
    for number in range(12):
        x = {"day": float(number % 4)}
        assert one.predict(dict(x)) == (river.forecast(horizon=3, xs=[x, x, x]), None)
        one.learn(dict(x), number * 1.5)
        river.learn_one(y=number * 1.5, x=x)


def test_what_river_can_not_say_yet_is_none_and_is_learned() -> None:
    model = RiverLearner(time_series.HoltWinters(alpha=0.3, beta=0.1, gamma=0.2, seasonality=4))
    answers = []
    for number in range(6):
        answers.append(model.predict({})[0])
        model.learn({}, float(number))
    assert answers[:4] == [None] * 4
    assert isinstance(answers[4][0], float)
    clusters = RiverLearner(cluster.STREAMKMeans(chunk_size=3, n_clusters=2, seed=1))
    assert clusters.predict({"a": 1.0}) == (None, None)
    clusters.learn({"a": 1.0}, NOW)
    assert clusters.predict({"a": 1.0})[0] in {0, 1}
    values = RiverLearner(anomaly.PredictiveAnomalyDetection(time_series.HoltWinters(alpha=0.3)))
    assert values.predict({}, label=1.0) == (Anomaly(None, None), None)


def test_a_recommender_predicts_for_a_pair_and_names_what_is_missing() -> None:
    one, river = RiverLearner(reco.BiasedMF(seed=1)), reco.BiasedMF(seed=1)
    for number in range(20):
        user, item = f"u{number % 3}", number % 4
        assert one.predict({"user": user, "item": item, "hour": 3})[0] == river.predict_one(user, item, {"hour": 3})
        one.learn({"user": user, "item": item, "hour": 3}, float(number % 5))
        river.learn_one(user, item, float(number % 5), {"hour": 3})
    for features, missing in (({"user": "u"}, "item"), ({"item": 1}, "user"), ({}, "user")):
        with pytest.raises(FeatureMissing) as raised:
            one.predict(features)
        assert raised.value.feature == missing


def test_several_targets_have_a_value_each() -> None:
    chain = RiverLearner(multioutput.ClassifierChain(linear_model.LogisticRegression()))
    for number in range(20):
        chain.learn({"a": number / 20}, {"big": number > 10, "odd": number % 2 == 1})
    prediction, proba = chain.predict({"a": 1.0})
    assert prediction.keys() == proba.keys() == {"big", "odd"}
    assert proba["big"].keys() == {True, False}
    numbers = RiverLearner(multioutput.PerOutputRegressor(linear_model.LinearRegression()))
    numbers.learn({"a": 1.0}, {"x": 1, "y": 2.5})
    assert numbers.predict({"a": 1.0})[0].keys() == {"x", "y"}


def test_clusters_of_texts_get_the_time_of_the_record_in_seconds() -> None:
    one, river = RiverLearner(cluster.TextClust(tgap=2)), cluster.TextClust(tgap=2)
    for number in range(12):
        x = {"word": 1, f"other{number % 3}": 2}
        one.learn(dict(x), Unlabelled(1_000 * number))
        river.learn_one(x, t=float(number))
        assert one.predict(dict(x))[0] == river.predict_one(x)
