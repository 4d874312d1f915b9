"""The zoo: River models of every kind and option that a compiler meets, alone and combined, and what each is fed.

`must` says that the model has to be compiled; the others may run as River runs them, and have to say why.
A name begins with the model proper, so that `-k "not Bayes"` leaves a family out.
"""

import itertools
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from river import anomaly, compose, linear_model, naive_bayes, optim, preprocessing, stats
from river.optim import initializers, losses, schedulers

Factory = Callable[[], Any]
Named = Iterator[tuple[str, "Animal"]]
_linear, _logistic, _softmax = (
    linear_model.LinearRegression,
    linear_model.LogisticRegression,
    linear_model.SoftmaxRegression,
)


@dataclass(frozen=True)
class Animal:
    """One kind of model: how to build a new one, and which of the floods it is fed with."""

    build: Factory
    food: str = "numbers"
    must: bool = True
    classes: str = "words"
    """Of which kind the classes are, where the model has more than two."""


def scaled(last: Any) -> Any:
    return preprocessing.StandardScaler() | last


def numeric() -> Any:
    return compose.SelectType(numbers.Number) | preprocessing.StandardScaler()


def words(**options: Any) -> Any:
    return compose.SelectType(str) | preprocessing.OneHotEncoder(**options)


def both() -> Any:
    return numeric() + words()


# By name: how to build one from a learning rate, None for the default; and whether it must be compiled.
OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "SGD": (optim.SGD, True),
    "Momentum": (optim.Momentum, True),
    "NesterovMomentum": (optim.NesterovMomentum, False),
    "AdaGrad": (optim.AdaGrad, True),
    "AdaDelta": (lambda _: optim.AdaDelta(), False),
    "RMSProp": (optim.RMSProp, True),
    "Adam": (optim.Adam, True),
    "AdaMax": (optim.AdaMax, False),
    "AMSGrad": (optim.AMSGrad, False),
    "AMSGrad without correction": (lambda lr: optim.AMSGrad(lr, correct_bias=False), False),
    "Nadam": (optim.Nadam, False),
    "AdaBound": (optim.AdaBound, False),
    "FTRLProximal": (lambda _: optim.FTRLProximal(), True),
    "FTRLProximal with penalties": (lambda _: optim.FTRLProximal(alpha=0.1, beta=0.5, l1=0.05, l2=0.2), True),
    "Averager": (lambda lr: optim.Averager(optim.SGD(lr), start=20), False),
}
OPTIONS: dict[str, tuple[Callable[[], Any], bool]] = {
    "RMSProp, rho and eps": (lambda: optim.RMSProp(0.05, rho=0.5, eps=1e-3), True),
    "Adam, betas": (lambda: optim.Adam(0.02, beta_1=0.5, beta_2=0.9, eps=1e-5), True),
    "AdaGrad, eps": (lambda: optim.AdaGrad(0.3, eps=1.0), True),
    "Momentum, rho": (lambda: optim.Momentum(0.02, rho=0.5), True),
    "AdaDelta, rho": (lambda: optim.AdaDelta(rho=0.5, eps=1e-6), False),
}
SCHEDULES: dict[str, Callable[[], Any]] = {
    "constant": lambda: schedulers.Constant(0.02),
    "inverse scaling": lambda: schedulers.InverseScaling(0.1, power=0.3),
    "optimal": lambda: schedulers.Optimal(losses.Hinge(), alpha=0.01),
}
RATED = ("SGD", "Momentum", "AdaGrad", "RMSProp", "Adam")
BINARY_LOSSES: dict[str, Factory] = {
    "log with weights": lambda: losses.Log(weight_pos=3.0, weight_neg=0.5),
    "hinge": losses.Hinge,
    "hinge, threshold": lambda: losses.Hinge(threshold=0.3),
    "focal": losses.BinaryFocalLoss,
    "focal, gamma": lambda: losses.BinaryFocalLoss(gamma=1.5, beta=0.3),
}
NUMBER_LOSSES: dict[str, Factory] = {
    "squared": losses.Squared,
    "absolute": losses.Absolute,
    "quantile": lambda: losses.Quantile(0.3),
    "Huber": lambda: losses.Huber(0.5),
    "insensitive": losses.EpsilonInsensitiveHinge,
    "Cauchy": lambda: losses.Cauchy(2.0),
    "Poisson": losses.Poisson,
}
# What turns a record's features into others, with what they need to be fed.
STEPS: dict[str, tuple[Factory, str, bool]] = {
    "standard": (preprocessing.StandardScaler, "numbers", True),
    "centred": (lambda: preprocessing.StandardScaler(with_std=False), "numbers", True),
    "standard of a window": (lambda: preprocessing.StandardScaler(window_size=20), "numbers", False),
    "between extremes": (preprocessing.MinMaxScaler, "numbers", True),
    "by the largest": (preprocessing.MaxAbsScaler, "numbers", True),
    "normalized": (preprocessing.Normalizer, "numbers", False),
    "normalized by the sum": (lambda: preprocessing.Normalizer(order=1), "numbers", False),
    "robust": (preprocessing.RobustScaler, "numbers", False),
    "adaptive": (preprocessing.AdaptiveStandardScaler, "numbers", False),
    "binarized": (lambda: preprocessing.Binarizer(threshold=0.5, dtype=int), "numbers", False),
    "three scalers": (
        lambda: preprocessing.MinMaxScaler() | preprocessing.MaxAbsScaler() | preprocessing.StandardScaler(),
        "numbers",
        True,
    ),
    "selected": (lambda: compose.Select("a", "c") | preprocessing.StandardScaler(), "numbers", True),
    "selected as they are": (lambda: compose.Select("b", "a", "flag"), "numbers", True),
    "discarded": (lambda: compose.Discard("c", "nobody") | preprocessing.StandardScaler(), "numbers", True),
    "floats": (lambda: compose.SelectType(float) | preprocessing.StandardScaler(), "numbers", True),
    "ints": (lambda: compose.SelectType(int) | preprocessing.StandardScaler(), "numbers", True),
    "floats and booleans": (lambda: compose.SelectType(float, bool) | preprocessing.MinMaxScaler(), "numbers", True),
    "numbers": (numeric, "words", True),
    "renamed": (lambda: compose.Prefixer("in ") | compose.Suffixer("!") | numeric(), "words", False),
    "words": (words, "words", True),
    "words without zeros": (lambda: words(drop_zeros=True), "words", True),
    "words but the first": (lambda: words(drop_first=True), "words", False),
    "given words": (lambda: words(categories={"shop": {"oslo", "rome"}, "city": {"x"}}), "words", False),
    "categories": (preprocessing.OneHotEncoder, "categories", True),
    "renamed categories": (lambda: compose.Prefixer("in ") | preprocessing.OneHotEncoder(), "categories", False),
    "scaled categories": (lambda: preprocessing.OneHotEncoder() | preprocessing.StandardScaler(), "categories", True),
    "scaled, then a category each": (
        lambda: compose.Select("b") | preprocessing.StandardScaler() | preprocessing.OneHotEncoder(drop_zeros=True),
        "numbers",
        False,
    ),
    "gaps of means, then a category each": (
        lambda: (
            preprocessing.StatImputer(("b", stats.Mean()))
            | compose.Select("b")
            | preprocessing.OneHotEncoder(drop_zeros=True)
        ),
        "gaps",
        False,
    ),
    "hashed": (lambda: preprocessing.FeatureHasher(n_features=64, seed=7), "hashable", True),
    "hashed into few": (lambda: preprocessing.FeatureHasher(n_features=3, seed=1), "hashable", True),
    "hashed without signs": (
        lambda: preprocessing.FeatureHasher(n_features=8, seed=2, alternate_sign=False),
        "hashable",
        True,
    ),
    "hashed words": (lambda: compose.SelectType(str) | preprocessing.FeatureHasher(100, seed=5), "words", True),
    "hashed, then scaled": (
        lambda: preprocessing.FeatureHasher(n_features=16, seed=3) | preprocessing.StandardScaler(),
        "hashable",
        True,
    ),
    "numbers and words": (both, "words", True),
    "floats and words": (
        lambda: (compose.SelectType(float) | preprocessing.StandardScaler()) + words(),
        "words",
        True,
    ),
    "numbers, words and hashes": (
        lambda: both() + (compose.SelectType(str) | preprocessing.FeatureHasher(16, seed=1)),
        "words",
        True,
    ),
    "two scalers side by side": (
        lambda: preprocessing.StandardScaler() + preprocessing.MinMaxScaler(),
        "numbers",
        True,
    ),
    "two scalers under other names": (
        lambda: (
            (preprocessing.StandardScaler() | compose.Prefixer("z "))
            + (preprocessing.MinMaxScaler() | compose.Prefixer("m "))
        ),
        "numbers",
        False,
    ),
    "some scaled, some not": (
        lambda: (compose.Select("a", "b") | preprocessing.StandardScaler()) + compose.Select("flag"),
        "numbers",
        True,
    ),
    "scaled together": (lambda: both() | preprocessing.StandardScaler(), "words", True),
    "gaps of means": (
        lambda: preprocessing.StatImputer(("a", stats.Mean()), ("b", stats.Mean())) | numeric(),
        "gaps",
        True,
    ),
    "gaps of constants": (
        lambda: preprocessing.StatImputer(("a", 0.5), ("b", 0), ("shop", "nowhere")) | both(),
        "gaps",
        True,
    ),
    "gaps of extremes": (
        lambda: preprocessing.StatImputer(("a", stats.Min()), ("b", stats.Max())) | numeric(),
        "gaps",
        False,
    ),
    "gaps of the commonest": (lambda: preprocessing.StatImputer(("shop", stats.Mode())) | words(), "gaps", False),
    "gaps filled, then selected": (
        lambda: (
            preprocessing.StatImputer(("a", stats.Mean()), ("b", 7.0))
            | compose.Select("a", "b")
            | preprocessing.StandardScaler()
        ),
        "gaps",
        True,
    ),
    "gaps of the one before": (lambda: preprocessing.PreviousImputer() | numeric(), "gaps", False),
}


def _by_optimizer() -> Named:
    for name, (make, must) in OPTIMIZERS.items():
        yield f"logistic: {name}", Animal(lambda make=make: scaled(_logistic(make(0.05))), must=must)
        yield f"linear: {name}", Animal(lambda make=make: scaled(_linear(make(0.003))), must=must)
        yield f"logistic: {name}, l2", Animal(lambda make=make: scaled(_logistic(make(0.05), l2=0.01)), must=must)
        if name in {"SGD", "AdaGrad", "Adam", "FTRLProximal"}:
            of_words = Animal(lambda make=make: both() | _logistic(make(0.05), l2=0.01), "words", must=must)
            yield f"logistic: {name}, l2, of words", of_words
        if not name.startswith(("FTRL", "Averager")):
            with_l1 = Animal(lambda make=make: scaled(_logistic(make(0.05), l1=0.002)), must=must)
            yield f"logistic: {name}, l1", with_l1
    for name, (make_it, must) in OPTIONS.items():
        yield f"logistic: {name}", Animal(lambda make=make_it: scaled(_logistic(make())), must=must)


def _by_schedule() -> Named:
    for (rate, schedule), name in itertools.product(SCHEDULES.items(), RATED):
        make = OPTIMIZERS[name][0]
        yield (
            f"logistic: {name}, {rate} rate",
            Animal(lambda make=make, schedule=schedule: scaled(_logistic(make(schedule())))),
        )
    for rate, schedule in SCHEDULES.items():
        yield (
            f"linear: {rate} intercept rate",
            Animal(lambda schedule=schedule: scaled(_linear(optim.SGD(0.003), intercept_lr=schedule()))),
        )
        yield (
            f"logistic: {rate} rate, l1",
            Animal(lambda schedule=schedule: scaled(_logistic(optim.SGD(schedule()), l1=0.001))),
        )


def _by_loss() -> Named:
    for name, loss in BINARY_LOSSES.items():
        yield f"logistic: {name} loss", Animal(lambda loss=loss: scaled(_logistic(loss=loss())), must=False)
    for name, loss in NUMBER_LOSSES.items():
        yield (
            f"linear: {name} loss",
            Animal(lambda loss=loss: scaled(_linear(optim.SGD(0.003), loss=loss())), must=name == "squared"),
        )


def _by_option() -> Named:
    yield "logistic: alone", Animal(_logistic)
    yield "linear: alone", Animal(lambda: _linear(optim.SGD(1e-4), intercept_lr=0.001))
    yield "linear: on words", Animal(lambda: both() | _linear(optim.SGD(0.003)), "words")
    yield "logistic: clipped", Animal(lambda: scaled(_logistic(clip_gradient=0.1)))
    yield "linear: clipped", Animal(lambda: scaled(_linear(optim.SGD(0.05), clip_gradient=1.0)))
    yield "linear: clipped, l2", Animal(lambda: _linear(optim.AdaGrad(0.05), clip_gradient=1.0, l2=0.1))
    yield "logistic: clipped, l1", Animal(lambda: scaled(_logistic(clip_gradient=0.3, l1=0.01)))
    yield "logistic: intercept begins at 2", Animal(lambda: scaled(_logistic(intercept_init=2.0)))
    yield "logistic: no intercept", Animal(lambda: scaled(_logistic(intercept_lr=0.0)))
    yield "linear: intercept begins at -1", Animal(lambda: scaled(_linear(optim.SGD(0.003), intercept_init=-1)))
    for name, zero, must in (
        ("zeros", initializers.Zeros, True),
        ("constant", lambda: initializers.Constant(0.3), True),
        ("normal", lambda: initializers.Normal(seed=4), False),
    ):
        yield (
            f"logistic: {name} at first",
            Animal(lambda zero=zero: scaled(_logistic(initializer=zero(), l2=0.01)), must=must),
        )
        yield (
            f"linear: {name} at first",
            Animal(lambda zero=zero: both() | _linear(optim.Adam(0.01), initializer=zero()), "words", must=must),
        )
    for name, l2 in (("", 0.0), (", l2", 0.05)):
        yield f"perceptron: alone{name}", Animal(lambda l2=l2: linear_model.Perceptron(l2=l2))
        yield f"perceptron: scaled{name}", Animal(lambda l2=l2: scaled(linear_model.Perceptron(l2=l2)))
        of_words = Animal(lambda l2=l2: both() | linear_model.Perceptron(l2=l2, clip_gradient=0.5), "words")
        yield f"perceptron: of words, clipped{name}", of_words


def _by_step() -> Named:
    for name, (steps, food, must) in STEPS.items():
        yield f"logistic: {name}", Animal(lambda steps=steps: steps() | _logistic(), food, must=must)
    for name in ("between extremes", "by the largest", "numbers and words", "hashed", "gaps of means"):
        steps, food, must = STEPS[name]
        adam = Animal(lambda steps=steps: steps() | _linear(optim.Adam(0.01), l2=0.001), food, must=must)
        yield f"linear: {name}, Adam", adam


def _aggressive() -> Named:
    for mode, c, intercept in [*itertools.product((0, 1, 2), (0.01, 1.0), (True,)), (0, 1.0, False), (1, 0.5, False)]:
        options: dict[str, Any] = {"C": c, "mode": mode, "learn_intercept": intercept}
        name = f"mode {mode}, C={c}{'' if intercept else ', no intercept'}"
        binary = Animal(lambda options=options: scaled(linear_model.PAClassifier(**options)))
        yield f"aggressive classifier: {name}", binary
        eps = 0.01 if c < 1.0 else 0.5
        number = Animal(lambda options=options, eps=eps: scaled(linear_model.PARegressor(eps=eps, **options)))
        yield f"aggressive regressor: {name}", number
    yield "aggressive classifier: alone", Animal(linear_model.PAClassifier)
    yield "aggressive regressor: alone", Animal(linear_model.PARegressor)
    yield "aggressive classifier: of words", Animal(lambda: both() | linear_model.PAClassifier(C=0.1), "words")
    yield "aggressive regressor: of words", Animal(lambda: both() | linear_model.PARegressor(C=0.1), "words")


def _softmaxes() -> Named:
    for name, (make, _) in OPTIMIZERS.items():
        yield f"softmax: {name}", Animal(lambda make=make: scaled(_softmax(make(0.05))), must=name == "SGD")
    for rate, schedule in SCHEDULES.items():
        yield f"softmax: {rate} rate", Animal(lambda schedule=schedule: scaled(_softmax(optim.SGD(schedule()))))
    yield "softmax: alone", Animal(_softmax)
    yield "softmax: l2", Animal(lambda: scaled(_softmax(l2=0.05)))
    words = Animal(lambda: both() | _softmax(optim.Adam(0.02), l2=0.01), "words", must=False)
    yield "softmax: Adam, l2, of words", words
    weights = {"low": 3.0, "high": 0.2}
    weighted = Animal(lambda: scaled(_softmax(loss=losses.CrossEntropy(class_weight=weights))), must=False)
    yield "softmax: weights of classes", weighted
    for classes in ("numbers", "booleans", "mixed"):
        yield f"softmax: classes are {classes}", Animal(lambda: scaled(_softmax(optim.SGD(0.1))), classes=classes)


def _bayes() -> Named:
    yield "Bayes, Gaussian: alone", Animal(naive_bayes.GaussianNB)
    yield "Bayes, Gaussian: scaled", Animal(lambda: scaled(naive_bayes.GaussianNB()))
    yield "Bayes, Gaussian: numbers and words", Animal(lambda: both() | naive_bayes.GaussianNB(), "words")
    for name, kind, must in (
        ("multinomial", naive_bayes.MultinomialNB, True),
        ("Bernoulli", naive_bayes.BernoulliNB, True),
        ("complement", naive_bayes.ComplementNB, False),
    ):
        for alpha in (1.0, 0.1, 5):
            counted = Animal(lambda kind=kind, alpha=alpha: kind(alpha=alpha), "counts", must=must)
            yield f"Bayes, {name}: alpha={alpha}", counted
        worded = Animal(lambda kind=kind: words() | kind(), "words", must=must)
        yield f"Bayes, {name}: of words", worded
        hashed = Animal(
            lambda kind=kind: preprocessing.FeatureHasher(32, seed=4, alternate_sign=False) | kind(),
            "counts",
            must=must,
        )
        yield f"Bayes, {name}: hashed", hashed
        for classes in ("numbers", "booleans", "mixed"):
            yield f"Bayes, {name}: classes are {classes}", Animal(kind, "counts", must=must, classes=classes)
    for classes in ("numbers", "booleans", "mixed"):
        yield f"Bayes, Gaussian: classes are {classes}", Animal(naive_bayes.GaussianNB, classes=classes)
    high = Animal(lambda: naive_bayes.BernoulliNB(alpha=0.5, true_threshold=2.0), "counts")
    yield "Bayes, Bernoulli: true above 2", high
    yield "Bayes, Bernoulli: of numbers", Animal(lambda: naive_bayes.BernoulliNB(true_threshold=0.3))
    yield "Bayes, multinomial: counts below zero", Animal(naive_bayes.MultinomialNB, "debts")


def _half_spaces() -> Named:
    def trees(**options: Any) -> Any:
        return anomaly.HalfSpaceTrees(**{"n_trees": 8, "height": 5, "window_size": 20, "seed": 7, **options})

    def grown(build: Factory, food: str = "numbers", *, must: bool = True) -> Animal:
        return Animal(build, food, must=must, classes="booleans")

    def between() -> Any:
        return preprocessing.MinMaxScaler()

    limits = {"a": (-3, 3), "b": (-3, 3), "c": (-8, 10.0), "late": (0, 4)}
    yield "half-space trees: alone", grown(trees)
    yield "half-space trees: limits", grown(lambda: trees(limits=limits, seed=-3))
    yield "half-space trees: between extremes", grown(lambda: between() | trees())
    yield "half-space trees: numbers and words", grown(lambda: both() | trees(), "words")
    yield "half-space trees: hashed", grown(lambda: preprocessing.FeatureHasher(16, seed=3) | trees(), "hashable")
    yield "half-space trees: gaps of means", grown(lambda: STEPS["gaps of means"][0]() | trees(), "gaps")
    yield (
        "half-space trees: filtered, with their steps",
        grown(lambda: anomaly.ThresholdFilter(between() | trees(), threshold=0.7)),
    )
    yield "half-space trees: filtered", grown(lambda: between() | anomaly.ThresholdFilter(trees(), threshold=0.7))
    yield (
        "half-space trees: filtered by a quantile",
        grown(lambda: between() | anomaly.QuantileFilter(trees(), q=0.9), must=False),
    )
    yield (
        "half-space trees: hashed beside numbers",
        grown(lambda: (words() | preprocessing.FeatureHasher(8, seed=1)) + numeric() | trees(), "words", must=False),
    )


ZOO: dict[str, Animal] = dict(
    itertools.chain(
        _by_optimizer(),
        _by_schedule(),
        _by_loss(),
        _by_option(),
        _by_step(),
        _aggressive(),
        _softmaxes(),
        _bayes(),
        _half_spaces(),
    )
)
