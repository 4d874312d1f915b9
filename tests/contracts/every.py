"""Every estimator of the installed River, as its own checks build it, with records that each of them can learn."""

import functools
import importlib
import inspect
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

from river import (
    anomaly,
    base,
    cluster,
    compose,
    datasets,
    drift,
    ensemble,
    facto,
    feature_extraction,
    feature_selection,
    forest,
    imblearn,
    linear_model,
    metrics,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    reco,
    stats,
    time_series,
    tree,
    utils,
)

TRAINED, CONTINUED = 150, 80
# What River's own checks do not build, and options that put something else into a model.
_WEIGHTS = {True: 0.5, False: 0.5}
MORE: dict[str, Any] = {
    "FuncTransformer": lambda: compose.FuncTransformer(_doubled) | linear_model.LogisticRegression(),
    "Grouper": lambda: compose.Grouper(preprocessing.StandardScaler(), by="shop"),
    "Prefixer": lambda: compose.Prefixer("p_"),
    "Suffixer": lambda: compose.Suffixer("_s"),
    "Renamer": lambda: compose.Renamer({"a": "b"}),
    "Select by a pattern": lambda: compose.Select(_pattern()) | linear_model.LogisticRegression(),
    "SelectType": lambda: compose.SelectType(int, float) | linear_model.LogisticRegression(),
    "TargetTransformRegressor": lambda: compose.TargetTransformRegressor(
        preprocessing.StandardScaler() | linear_model.LinearRegression(), func=math.log1p, inverse_func=math.expm1
    ),
    "TargetStandardScaler": lambda: preprocessing.TargetStandardScaler(linear_model.LinearRegression()),
    "TargetMinMaxScaler": lambda: preprocessing.TargetMinMaxScaler(linear_model.LinearRegression()),
    "Agg": lambda: feature_extraction.Agg(on="ip_in_url", by="is_popular", how=stats.Mean()),
    "TargetAgg": lambda: feature_extraction.TargetAgg(by="is_popular", how=stats.Mean()),
    "PoissonInclusion": lambda: feature_selection.PoissonInclusion(p=0.5, seed=1),
    "SuccessiveHalvingClassifier": lambda: model_selection.SuccessiveHalvingClassifier(
        [naive_bayes.GaussianNB(), tree.HoeffdingTreeClassifier()], metric=metrics.Accuracy(), budget=100
    ),
    "RandomUnderSampler": lambda: imblearn.RandomUnderSampler(linear_model.LogisticRegression(), _WEIGHTS, seed=1),
    "RandomOverSampler": lambda: imblearn.RandomOverSampler(linear_model.LogisticRegression(), _WEIGHTS, seed=1),
    "RandomSampler": lambda: imblearn.RandomSampler(linear_model.LogisticRegression(), _WEIGHTS, 0.7, seed=1),
    "PAClassifier, mode 0": lambda: linear_model.PAClassifier(mode=0),
    "PARegressor, mode 2": lambda: linear_model.PARegressor(mode=2),
    "BagOfWords on a field": lambda: feature_extraction.BagOfWords(on="text", lowercase=True),
    "BagOfWords before Bayes": lambda: feature_extraction.BagOfWords(on="text") | naive_bayes.MultinomialNB(),
    "TFIDF on a field": lambda: feature_extraction.TFIDF(on="text") | linear_model.LogisticRegression(),
    "BagOfWords, n-grams": lambda: feature_extraction.BagOfWords(ngram_range=(1, 2), stop_words={"the"}),
    "StandardScaler of a window": lambda: (
        preprocessing.StandardScaler(window_size=20) | linear_model.LogisticRegression()
    ),
    "MinMaxScaler of a window": lambda: preprocessing.MinMaxScaler(window_size=20),
    "RobustScaler": preprocessing.RobustScaler,
    "LazySearch by a distance": lambda: neighbors.KNNClassifier(
        engine=neighbors.LazySearch(50, dist_func=functools.partial(utils.math.minkowski_distance, p=3))
    ),
    "SWINN": lambda: neighbors.KNNClassifier(engine=neighbors.SWINN(graph_k=8, warm_up=40, seed=1)),
    "drift by Page-Hinkley": lambda: drift.DriftRetrainingClassifier(
        naive_bayes.GaussianNB(), drift_detector=_warned(drift.binary.DDM())
    ),
    "tree with E-BST": lambda: tree.HoeffdingTreeRegressor(splitter=tree.splitter.EBSTSplitter()),
    "tree with quantizing": lambda: tree.HoeffdingTreeRegressor(splitter=tree.splitter.QOSplitter()),
    "tree with histograms": lambda: tree.HoeffdingTreeClassifier(splitter=tree.splitter.HistogramSplitter()),
    "tree of exhaustive splits": lambda: tree.HoeffdingTreeClassifier(splitter=tree.splitter.ExhaustiveSplitter()),
    "nominal tree": lambda: (
        compose.TransformerUnion(compose.FuncTransformer(_named), compose.SelectType(float))
        | tree.HoeffdingTreeRegressor(grace_period=20)
    ),
    "softmax with Adam": lambda: linear_model.SoftmaxRegression(optimizer=optim.Adam()),
    "k-means with a seed": lambda: cluster.KMeans(seed=1),
    "CluStream with a seed": lambda: cluster.CluStream(seed=1, time_window=1, max_micro_clusters=10),
}
MORE |= {
    f"leveraging bagging: {method}": lambda method=method: _leveraging(method)
    for method in ("bag", "me", "half", "wt", "subag")
}
MORE |= {
    f"logistic by {type(make()).__name__}": lambda make=make: linear_model.LogisticRegression(optimizer=make())
    for make in (
        optim.AdaGrad,
        optim.Adam,
        optim.RMSProp,
        optim.FTRLProximal,
        optim.AMSGrad,
        optim.Newton,
        optim.AdaMax,
    )
}


def _pattern() -> Any:
    import re  # noqa: PLC0415 one pattern

    return re.compile("(is|has)_.*")


def _leveraging(method: str) -> Any:
    from river import ensemble  # noqa: PLC0415 one model

    return ensemble.LeveragingBaggingClassifier(
        linear_model.LogisticRegression(), n_models=2, bagging_method=method, seed=1
    )


def _warned(detector: Any) -> Any:
    return detector


def _doubled(x: dict[str, Any]) -> dict[str, Any]:
    return {name: 2 * value for name, value in x.items()}


def _named(x: dict[str, Any]) -> dict[str, str]:
    return {"a": f"n{len(x)}", "b": f"s{int(sum(float(v) for v in x.values())) % 3}"}


def makers() -> Iterator[tuple[str, Any]]:
    """Yield each estimator's name, and what makes it."""
    api = importlib.import_module("river.api")
    seen: set[type] = set()
    for part, module in inspect.getmembers(api, inspect.ismodule):
        for name, found in inspect.getmembers(module, inspect.isclass):
            if not issubclass(found, base.Estimator) or inspect.isabstract(found) or found in seen:
                continue
            seen.add(found)
            try:
                count = len(list(found._unit_test_params()))
            except TypeError:
                continue
            for index in range(count):
                yield f"{part}.{name}[{index}]", functools.partial(_made, found, index)
    yield from MORE.items()


def _made(kind: Any, index: int) -> Any:
    return kind(**list(kind._unit_test_params())[index])


def build(name: str, make: Any) -> Any:
    """Make an estimator; None where River can't without parameters that it does not give, or on this Python."""
    try:
        return make()
    except (TypeError, RuntimeError):
        if name in MORE:
            raise
        return None


def records(model: Any, count: int) -> list[Any]:
    """Return records that a model can learn, as far as it can learn any."""
    if isinstance(model, compose.Pipeline) and not len(model):
        return []
    first = model[0] if isinstance(model, compose.Pipeline) else None
    if isinstance(first, feature_extraction.BagOfWords):
        return [(_text(first, index), index % 3 == 0) for index in range(count)]
    match model:
        case time_series.base.Forecaster():
            return [({"time": float(i), "period": float(i % 4)}, 10.0 + i % 4 + i * 0.5) for i in range(count)]
        case reco.base.Ranker():
            source = random.Random(3)
            return [(source.choice("abcde"), source.choice("uvwxyz"), source.random() * 5) for _ in range(count)]
        case base.MultiTargetRegressor():
            return [(x, {"a": y, "b": 2 * y + x["ordinal_date"] % 7}) for x, y in _regression(count)]
        case base.MultiLabelClassifier():
            return [(x, {"a": y, "b": not y, "c": x["is_popular"] > 0.5}) for x, y in _phishing(count)]
        case base.Regressor():
            return list(_regression(count))
        case base.Classifier():
            return list(datasets.ImageSegments().take(count) if model._multiclass else _phishing(count))
    if isinstance(model, feature_extraction.BagOfWords):
        return [(_text(model, index), True) for index in range(count)]
    return list(_phishing(count))


def _text(model: Any, index: int) -> Any:
    text = " ".join(random.Random(index).choices(["the", "a", "dog", "cat", "eats", "big", "small"], k=6))
    return {"text": text} if getattr(model, "on", None) == "text" else text


def _regression(count: int) -> Iterable[Any]:
    return datasets.TrumpApproval().take(count)


def _phishing(count: int) -> Iterable[Any]:
    return datasets.Phishing().take(count)


def teach(model: Any, rows: list[Any]) -> str:
    """Ask a model about each record, teach it, and return all of its answers, as far as it gives any."""
    answers: list[Any] = []
    for row in rows:
        try:
            answers.append(_step(model, row))
        except Exception as error:  # noqa: BLE001 some can't learn the records of their kind; twins fail alike
            answers.append(type(error).__name__)
    return repr(answers)


def _step(model: Any, row: Any) -> Any:
    if isinstance(model, reco.base.Ranker):
        answer = model.predict_one(row[0], row[1])
        model.learn_one(*row)
        return answer
    x, y = row
    if isinstance(model, time_series.base.Forecaster):
        model.learn_one(y=y, x=x)
        return model.forecast(2, xs=[x, x])
    answers = []
    for name in ("predict_one", "predict_proba_one", "score_one", "transform_one"):
        try:
            answers.append(getattr(model, name)(x))
        except Exception as error:  # noqa: BLE001 not every estimator has every answer
            answers.append(type(error).__name__)
    model.learn_one(x, y) if model._supervised else model.learn_one(x)
    return answers


# Small models that have, between them, every kind of object that is saved.
MAKERS_FUZZED: dict[str, Any] = {
    "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=10),
    "forest": lambda: forest.ARFClassifier(n_models=2, seed=1, grace_period=10, max_features=2),
    "half-space trees": lambda: anomaly.HalfSpaceTrees(n_trees=2, height=3, seed=1),
    "Mondrian": lambda: forest.AMFClassifier(n_estimators=2, seed=1),
    "neighbors": MORE["LazySearch by a distance"],
    "aggressive": MORE["PAClassifier, mode 0"],
    "regression": MORE["TargetTransformRegressor"],
    "windows": MORE["StandardScaler of a window"],
    "text": lambda: feature_extraction.TFIDF(),  # noqa: PLW0108 as the others
    "factors": lambda: facto.FMRegressor(seed=1),
    "codes": lambda: multiclass.OutputCodeClassifier(linear_model.LogisticRegression(), code_size=3, seed=1),
    "clusters": lambda: cluster.KMeans(seed=1),
    "quantiles": preprocessing.RobustScaler,
    "bagging": lambda: ensemble.ADWINBaggingClassifier(naive_bayes.GaussianNB(), n_models=2, seed=1),
}
