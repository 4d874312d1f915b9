"""Decides the task of a River model, and says why a model has none. Its last step decides."""

from collections.abc import Iterator
from typing import Any

from headrace.state.models.model import Task
from headrace.state.state_refused import StateRefused

_UNLABELLED = frozenset({"anomaly", "clustering"})


class ModelError(StateRefused):
    """Raised when the factory does not return a model that can learn from a stream and be saved."""


def task_of(model: Any) -> Task:
    """Return the model's task. Raises ModelError when it has none, or can't run on a stream."""
    from river import base, compose, reco, time_series  # noqa: PLC0415 commands that build no model must not wait for River

    last = last_step(model)
    if isinstance(last, compose.Pipeline):
        raise ModelError("the factory returned a pipeline without a step", hint=_HINT)
    # Multi-target trees are also regressors.
    kinds: tuple[tuple[Any, Task], ...] = (
        (base.MultiTargetRegressor, "multitarget"),
        (base.MultiLabelClassifier, "multilabel"),
        (base.Regressor, "regression"),
        (base.Classifier, "multiclass"),
        ((base.AnomalyDetector, base.SupervisedAnomalyDetector, base.AnomalyFilter), "anomaly"),
        (base.Clusterer, "clustering"),
        (time_series.base.Forecaster, "forecasting"),
        (reco.base.Ranker, "recommendation"),
    )
    task = next((task for kind, task in kinds if isinstance(last, kind)), None)
    if task is None:
        raise _no_model(model, last)
    if task == "multiclass" and not last._multiclass:  # noqa: SLF001 River has no public name for it
        task = "binary"
    _check_steps(model, last, task)
    return task


def learns_unlabelled(model: Any, task: Task) -> bool:
    """Tell whether a model learns from each record, labelled or not: then a label only scores."""
    return task in _UNLABELLED and not needs_value(model, task)


def needs_value(model: Any, task: Task) -> bool:
    """Tell whether an anomaly detector judges the label of a record, which is a value, instead of its features."""
    return task == "anomaly" and bool(last_step(model)._supervised)  # noqa: SLF001 River has no public name for it


def last_step(model: Any) -> Any:
    """Return the last step of a pipeline, or the model itself."""
    from river import compose  # noqa: PLC0415 see task_of

    while isinstance(model, compose.Pipeline) and model.steps:
        model = list(model.steps.values())[-1]
    return model


def remarks(model: Any) -> list[str]:
    """Return what a user should know about a model before it runs."""
    from river import anomaly  # noqa: PLC0415 see task_of

    return [
        "ThresholdFilter with protect_anomaly_detector = False never teaches its detector (River 0.26): "
        "use QuantileFilter, or protect the detector"
        for step in _steps(model)
        # A pipeline says that it is an instance of the class of its last step.
        if issubclass(type(step), anomaly.ThresholdFilter) and not step.protect_anomaly_detector
    ]


def _no_model(model: Any, last: Any) -> ModelError:
    """Say why something is no model of any task, and what to do instead."""
    from river import base  # noqa: PLC0415 see task_of

    name = type(last).__name__
    told = {
        base.BaseTransformer: ("a transformer, which predicts nothing", f"put a model behind it: {name}() | model"),
        base.DriftDetector: _DRIFT,
        base.BinaryDriftDetector: _DRIFT,
    }
    why, hint = next((text for kind, text in told.items() if isinstance(last, kind)), ("no River model", _HINT))
    where = "the factory returned" if last is model else "the last step of the model is"
    return ModelError(f"{where} {name}, {why}", hint=hint)


_HINT = "return a model such as StandardScaler() | LogisticRegression()"
_DRIFT = (
    "a drift detector, which predicts nothing",
    "give it to a model that uses one, such as drift.DriftRetrainingClassifier",
)


def _check_steps(model: Any, last: Any, task: Task) -> None:
    """Raise ModelError for a step that River itself can't run on a stream of records."""
    from river import cluster, compose, feature_extraction, preprocessing  # noqa: PLC0415 see task_of
    from river.active.base import ActiveLearningClassifier  # noqa: PLC0415 see task_of

    for step in _first_steps(model):
        is_of_text = isinstance(step, feature_extraction.BagOfWords | preprocessing.GapEncoder)
        if is_of_text and getattr(step, "on", None) is None:
            raise ModelError(
                f"{type(step).__name__} without `on` reads a bare text, and a record is an object",
                hint=f'name the feature with the text ({type(step).__name__}(on="text")), or put a step before it that '
                "returns the text: compose.FuncTransformer(get_text)",
            )
    for step in _steps(model):
        if issubclass(type(step), ActiveLearningClassifier):
            raise ModelError(
                f"{type(step).__name__} answers with a question, whether to ask for a label, which is no prediction",
                hint="return its classifier alone: a record without a label teaches it nothing",
            )
    if isinstance(last, cluster.ODAC):
        raise ModelError(
            "ODAC makes clusters of features, not of records, and has no answer for a record",
            hint="return another clusterer, such as cluster.KMeans",
        )
    if type(model) is compose.Pipeline:
        _check_order(model, last, task)


def _check_order(model: Any, last: Any, task: Task) -> None:
    """Raise ModelError for a last step that does not get from a pipeline of River what it needs."""
    from river import base, cluster  # noqa: PLC0415 see task_of

    name = type(last).__name__
    if isinstance(last, cluster.TextClust) and last.real_time_fading:
        raise ModelError(
            "TextClust behind other steps gets no time from River's pipeline",
            hint="set real_time_fading=False: it then counts records instead",
        )
    if needs_value(model, task):
        raise ModelError(
            f"{name} judges a record by its label, which a pipeline of River does not pass to its score_one",
            hint=f"return {name} alone; steps before a model can be a part of its `predictive_model`",
        )
    if task not in _UNLABELLED:
        return
    for step in model.steps.values():
        if step is not last and isinstance(step, base.Estimator) and step._supervised:  # noqa: SLF001 see task_of
            raise ModelError(
                f"{type(step).__name__} learns from labels, and {name} from each record, labelled or not",
                hint=f"remove {type(step).__name__}",
            )


def _first_steps(model: Any) -> Iterator[Any]:
    """Yield the steps that get a record as it is."""
    from river import compose  # noqa: PLC0415 see task_of

    if type(model) is compose.Pipeline:
        yield from _first_steps(next(iter(model.steps.values())))
    elif type(model) is compose.TransformerUnion:
        for step in model.transformers.values():
            yield from _first_steps(step)
    else:
        yield model


def _steps(model: Any) -> Iterator[Any]:
    """Yield the model, and all estimators in its pipelines, unions and wrappers."""
    from river import base, compose  # noqa: PLC0415 see task_of

    yield model
    match model:
        case compose.Pipeline():
            inner = list(model.steps.values())
        case compose.TransformerUnion():
            inner = list(model.transformers.values())
        case base.Wrapper():
            inner = [model._wrapped_model]  # noqa: SLF001 see task_of
        case _:
            inner = []
    for step in inner:
        yield from _steps(step)
