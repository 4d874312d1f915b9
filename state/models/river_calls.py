"""Calls a River model as its task wants it: each task has methods and arguments of its own.

Where River can't answer yet (a forecaster without a past, clusters before the first record) the answer is None, and the
record is learned all the same.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from headrace.state.models.model import Anomaly, Answer, Task, Unlabelled
from headrace.state.models.task import last_step, needs_value

USER, ITEM = "user", "item"
"""The features that name the pair of a recommendation; the others are its context."""

Features = dict[str, Any]


class FeatureMissing(ValueError):
    """Raised for a record without a feature that the model can't do without."""

    def __init__(self, feature: str, other: str) -> None:
        super().__init__(f"the feature `{feature}` is missing: a recommender needs `{feature}` and `{other}`")
        self.feature = feature


class Way(NamedTuple):
    """How the models of a factory are called, decided once, by the model that the factory has built."""

    task: Task
    classes: str = ""
    is_value: bool = False
    takes_time: bool = False
    is_ready: "Callable[[Any, Features], bool] | None" = None
    horizon: int = 1


class Calls(NamedTuple):
    """How to ask and teach one River model.

    `predict` takes the features and the record's own label, None for none. `learn` takes the features and the label.
    """

    predict: Callable[[Features, Any], Answer]
    learn: Callable[[Features, Any], None]


def way_of(model: Any, task: Task, *, horizon: int = 1) -> Way:
    """Return how models like this new one are called."""
    import inspect  # noqa: PLC0415 see task_of

    last = last_step(model)
    takes_time = task == "clustering" and last is model and "t" in inspect.signature(last.learn_one).parameters
    is_value = needs_value(model, task)
    return Way(task, _classes_by(last, task), is_value, takes_time, _readiness(last), horizon)


def calls_of(model: Any, way: Way) -> Calls:
    """Return how to call this model, which is built as the one of `way_of`."""
    task = way.task
    if task in {"binary", "multiclass"}:
        kinds: dict[str, Any] = {"likeliest": _Likeliest, "both": _Both}
        return Calls(kinds.get(way.classes, _Class)(model), model.learn_one)
    if task in {"regression", "multitarget"}:
        return Calls(_Class(model), model.learn_one)
    if task == "multilabel":
        return Calls(_Both(model), model.learn_one)
    if task == "anomaly":
        return Calls(_Scores(model, way), model.learn_one if way.is_value else _Unsupervised(model))
    if task == "clustering":
        return Calls(_Clusters(model, way), _Timed(model) if way.takes_time else _Unsupervised(model))
    if task == "forecasting":
        return Calls(_Forecasts(model, way), _Values(model))
    return Calls(_Pairs(model), _PairValues(model))


def _classes_by(last: Any, task: Task) -> str:
    """Return by which methods a classifier tells its class and its probabilities."""
    if task not in {"binary", "multiclass"}:
        return ""
    from river import base  # noqa: PLC0415 see task_of

    # River's own predict_one returns the likeliest class of predict_proba_one: then one call is enough.
    if type(last).predict_proba_one is base.Classifier.predict_proba_one:
        return "class"
    return "likeliest" if type(last).predict_one is base.Classifier.predict_one else "both"


def _readiness(last: Any) -> Callable[[Any, Features], bool] | None:
    """Return how to see whether a model can answer a record already; None where River always can."""
    from river import anomaly, cluster, time_series  # noqa: PLC0415 see task_of

    if isinstance(last, time_series.HoltWinters):
        return lambda one, _: one._initialized  # noqa: SLF001 it has no public name
    if isinstance(last, cluster.STREAMKMeans):
        return lambda one, _: bool(one.centers)
    if isinstance(last, anomaly.PredictiveAnomalyDetection):
        inner = _readiness(last_step(last.predictive_model))
        return partial(_can_judge, inner) if inner is not None else _can_judge_first
    if isinstance(last, anomaly.StandardAbsoluteDeviation):
        return lambda one, _: one.sub_stat.get() is not None
    return None


def _can_judge(inner: Callable[[Any, Features], bool], one: Any, features: Features) -> bool:
    return inner(last_step(one.predictive_model), features)


def _can_judge_first(one: Any, features: Features) -> bool:
    """Tell whether the inner model has a number for a record: with none at first, River divides by zero."""
    return one.iter > 0 or not math.isnan(one.predictive_model.predict_one(features))


class _Class:
    """A model that answers with one value: a class, a number, or a value for each target."""

    def __init__(self, model: Any) -> None:
        self._predict_one = model.predict_one

    def __call__(self, features: Features, _label: Any) -> Answer:
        return self._predict_one(features), None


class _Likeliest:
    """A classifier whose class is the likeliest one."""

    def __init__(self, model: Any) -> None:
        self._predict_proba_one = model.predict_proba_one

    def __call__(self, features: Features, _label: Any) -> Answer:
        proba = self._predict_proba_one(features)
        return (max(proba, key=proba.get) if proba else None), proba


class _Both:
    """A classifier that finds its class in another way than its probabilities."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._has_proba = True

    def __call__(self, features: Features, _label: Any) -> Answer:
        prediction = self._model.predict_one(features)
        if self._has_proba:
            try:
                return prediction, self._model.predict_proba_one(features)
            except NotImplementedError:
                # Only the wrapped model of a wrapper shows that there are no probabilities.
                self._has_proba = False
        return prediction, None


class _Scores:
    """An anomaly detector; a filter has a verdict, too. Without the value that it judges there is no score."""

    def __init__(self, model: Any, way: Way) -> None:
        self._model, self._last, self._way = model, last_step(model), way
        self._classify = getattr(self._last, "classify", None)

    def __call__(self, features: Features, label: Any) -> Answer:
        is_ready = self._way.is_ready
        if (self._way.is_value and label is None) or (is_ready is not None and not is_ready(self._last, features)):
            return Anomaly(None, None), None
        score = self._model.score_one(features, label) if self._way.is_value else self._model.score_one(features)
        verdict = None if self._classify is None else bool(self._classify(score))
        return Anomaly(verdict, float(score)), None


class _Clusters:
    """A clusterer, which answers with the number of the cluster."""

    def __init__(self, model: Any, way: Way) -> None:
        self._model, self._last, self._is_ready = model, last_step(model), way.is_ready

    def __call__(self, features: Features, _label: Any) -> Answer:
        if self._is_ready is not None and not self._is_ready(self._last, features):
            return None, None
        return self._model.predict_one(features), None


class _Forecasts:
    """A forecaster, which repeats the features of this record for the whole horizon."""

    def __init__(self, model: Any, way: Way) -> None:
        self._model, self._last, self._way = model, last_step(model), way

    def __call__(self, features: Features, _label: Any) -> Answer:
        is_ready, horizon = self._way.is_ready, self._way.horizon
        if is_ready is not None and not is_ready(self._last, features):
            return None, None
        return list(self._model.forecast(horizon=horizon, xs=[features] * horizon)), None


class _Pairs:
    """A recommender, which answers for a user and an item."""

    def __init__(self, model: Any) -> None:
        self._predict_one = model.predict_one

    def __call__(self, features: Features, _label: Any) -> Answer:
        user, item, context = _pair_of(features)
        return self._predict_one(user=user, item=item, x=context), None


class _Unsupervised:
    """Teaches a model that learns from the features alone."""

    def __init__(self, model: Any) -> None:
        self._learn_one = model.learn_one

    def __call__(self, features: Features, _label: Any) -> None:
        self._learn_one(features)


class _Timed:
    """Teaches a clusterer the time of a record, in seconds."""

    def __init__(self, model: Any) -> None:
        self._learn_one = model.learn_one

    def __call__(self, features: Features, label: Any) -> None:
        assert isinstance(label, Unlabelled)
        self._learn_one(features, t=label.at_ms / 1_000)


class _Values:
    """Teaches a forecaster: alone it takes the value first, and a pipeline takes the features first."""

    def __init__(self, model: Any) -> None:
        self._learn_one = model.learn_one

    def __call__(self, features: Features, label: Any) -> None:
        self._learn_one(y=label, x=features)


class _PairValues:
    """Teaches a recommender what a user thinks of an item."""

    def __init__(self, model: Any) -> None:
        self._learn_one = model.learn_one

    def __call__(self, features: Features, label: Any) -> None:
        user, item, context = _pair_of(features)
        self._learn_one(user=user, item=item, y=label, x=context)


def _pair_of(features: Features) -> tuple[Any, Any, Features]:
    """Return the user, the item and the other features of a record. Raises FeatureMissing."""
    for name, other in ((USER, ITEM), (ITEM, USER)):
        if features.get(name) is None:
            raise FeatureMissing(name, other)
    context = {name: value for name, value in features.items() if name not in {USER, ITEM}}
    return features[USER], features[ITEM], context
