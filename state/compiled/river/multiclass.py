"""River's multiclass models as the parts of a program: softmax regression, and the naive Bayes models."""

import collections
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from river import naive_bayes, optim
from scipy import special  # type: ignore[import-untyped]

from headrace.state.compiled.program import (
    BERNOULLI,
    COMPENSATES,
    COUNTING,
    GAUSSIAN,
    MULTINOMIAL,
    SOFTMAX,
    FeatureName,
    Memo,
    ProgramPart,
)
from headrace.state.compiled.river.schedules import rate_schedule
from headrace.state.compiled.river.transformers import NotCompiled, Where, name_of, number

_WAYS: dict[type, int] = {
    naive_bayes.MultinomialNB: MULTINOMIAL,
    naive_bayes.BernoulliNB: BERNOULLI,
}


def softmax(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile SoftmaxRegression."""
    optimizer = step.optimizer
    if type(optimizer) is not optim.SGD:
        raise NotCompiled(f"the optimizer {type(optimizer).__name__} of SoftmaxRegression is not compiled; SGD is")
    if optimizer.n_iterations:
        raise NotCompiled("its optimizer has taken steps already, where each class begins")
    if type(step.loss) is not optim.losses.CrossEntropy or step.loss.class_weight:
        raise NotCompiled("a loss other than CrossEntropy, or one with weights of classes, is not compiled")
    return [
        ProgramPart(
            code=SOFTMAX,
            path=where,
            sources=(source,),
            columns=1,
            limits=("flag",),
            cells=("tally", "any"),
            tallies=("tally", "tally"),
            options={
                "compensated": COMPENSATES,
                "l2": number(step.l2, "l2"),
                **rate_schedule(optimizer.lr, "lr", "rate"),
            },
            learns=True,
            take=_take_softmax,
            give=_give_softmax,
            holds=_holds_softmax,
        )
    ]


def _take_softmax(model: Any) -> Memo:
    cells = {label: _ranked(weights) for label, weights in model.weights.items()}
    # `optimizers` is a defaultdict: indexed with a class that it does not have, it would make one.
    steps = {label: optimizer.n_iterations for label, optimizer in model.optimizers.items()}
    names = {name: (1.0,) for column in cells.values() for name in column}
    tallies = [(len(column), steps.get(label, 0)) for label, column in cells.items()]
    return _memo(names, cells, (), tallies, width=2)


def _give_softmax(model: Any, memo: Memo) -> None:
    weights: Any = collections.defaultdict(model.weights.default_factory)
    optimizers: Any = collections.defaultdict(model.optimizers.default_factory)
    for place, label in enumerate(memo.classes):
        ranked = sorted((row[1 + 2 * place], name, row[2 + 2 * place]) for name, row in memo.rows.items())
        weights[label].update({name: weight for rank, name, weight in ranked if rank})
        optimizers[label].n_iterations = int(memo.scalars[2 * place + 1])
    model.weights, model.optimizers = weights, optimizers


def _holds_softmax(memo: Memo) -> bool:
    for place in range(len(memo.classes)):
        if not _is_ranking((row[1 + 2 * place] for row in memo.rows.values()), memo.scalars[2 * place]):
            return False
    return True


def gaussian(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile GaussianNB."""
    del step
    return [
        ProgramPart(
            code=GAUSSIAN,
            path=where,
            sources=(source,),
            columns=1,
            limits=("flag",),
            cells=("tally", "any", "any"),
            tallies=("count",),
            options={"compensated": COMPENSATES},
            learns=True,
            take=_take_gaussian,
            give=_give_gaussian,
            weigh=_weigh,
        )
    ]


def _take_gaussian(model: Any) -> Memo:
    counts = model.class_counts
    cells: dict[Any, dict[FeatureName, tuple[float, ...]]] = {label: {} for label in counts}
    for label, gaussians in model.gaussians.items():
        for name, gaussian_ in gaussians.items():
            variance = gaussian_._var  # noqa: SLF001 River has no public name for it
            if variance.ddof:
                raise NotCompiled("its variances are of samples")
            if variance.n:
                cells[label][name_of(name)] = variance.n, variance.mean.get(), variance._S  # noqa: SLF001
    names = {name: (1.0,) for column in cells.values() for name in column}
    return _memo(names, cells, (), [(count,) for count in counts.values()], width=3)


def _give_gaussian(model: Any, memo: Memo) -> None:
    model.class_counts = _counter(zip(memo.classes, memo.scalars, strict=True))
    gaussians: Any = collections.defaultdict(model.gaussians.default_factory)
    for place, label in enumerate(memo.classes):
        for name, row in memo.rows.items():
            times, mean, squares = row[1 + 3 * place : 4 + 3 * place]
            if times:
                variance = gaussians[label][name]._var  # noqa: SLF001 River has no public name for it
                variance.mean.n, variance.mean._mean, variance._S = times, mean, squares  # noqa: SLF001
    model.gaussians = gaussians


def counting(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile MultinomialNB and BernoulliNB."""
    way = _WAYS[type(step)]
    alpha, threshold = number(step.alpha, "alpha"), 0.0
    if way == BERNOULLI:
        threshold = number(step.true_threshold, "true_threshold")
        if alpha < 0.0:
            raise NotCompiled(f"alpha={alpha} is below zero")
    cell = "tally" if way == BERNOULLI else "any"
    return [
        ProgramPart(
            code=COUNTING,
            path=where,
            sources=(source,),
            columns=2,
            limits=("count",),
            cells=(cell,),
            tallies=("count", "any"),
            scalars=(0.0,),
            options={"compensated": COMPENSATES, "way": way, "smoothing": alpha, "threshold": threshold},
            learns=True,
            take=_take_counts,
            give=_give_counts,
            holds=lambda memo: _is_ranking((row[0] for row in memo.rows.values()), memo.scalars[0]),
            weigh=_weigh,
        )
    ]


def _take_counts(model: Any) -> Memo:
    classes, found = model.class_counts, model.feature_counts
    cells: dict[Any, dict[FeatureName, tuple[float, ...]]] = {label: {} for label in classes}
    names = {}
    for rank, (raw, counts) in enumerate(found.items(), start=1):
        name = name_of(raw)
        names[name] = (float(rank),)
        for label, count in counts.items():
            cells[label][name] = (_plain(count),)
    sums = getattr(model, "class_totals", {})
    tallies = [(count, _plain(sums.get(label, 0.0))) for label, count in classes.items()]
    return _memo(names, cells, (float(len(names)),), tallies, width=1)


def _give_counts(model: Any, memo: Memo) -> None:
    model.class_counts = _counter(zip(memo.classes, memo.scalars[1::2], strict=True))
    whole = not hasattr(model, "class_totals")
    model.feature_counts = collections.defaultdict(collections.Counter)
    ranked = sorted(memo.rows.items(), key=lambda item: item[1][0])
    for name, (_, *cells) in ranked:
        found = {label: count for label, count in zip(memo.classes, cells, strict=True) if count}
        model.feature_counts[name] = _counter(found.items()) if whole else collections.Counter(found)
    if not whole:
        sums = {label: total for label, total in zip(memo.classes, memo.scalars[2::2], strict=True) if total}
        model.class_totals = collections.Counter(sums)


def _plain(count: Any) -> float:
    """Return a count as a float, and -0.0 as 0.0, as in a sum. Raises NotCompiled if it is no number."""
    if not isinstance(count, int | float):
        raise NotCompiled(f"it has counted {count!r}")
    return float(count) + 0.0


def _weigh(scores: Any) -> Any:
    """Turn logarithms into probabilities with the functions that River calls: numpy's differ from C's in last bits."""
    with np.errstate(all="ignore"):
        rest = scores - special.logsumexp(scores, axis=1, keepdims=True)
    return np.array([math.exp(logarithm) for logarithm in rest.ravel().tolist()]).reshape(scores.shape)


def _memo(
    names: Mapping[FeatureName, tuple[float, ...]],
    cells: Mapping[Any, Mapping[FeatureName, tuple[float, ...]]],
    scalars: tuple[float, ...],
    tallies: Iterable[Iterable[float]],
    *,
    width: int,
) -> Memo:
    """Return the memo of a model: for each name its own columns, then the cells of each class."""
    none = (0.0,) * width
    rows = {
        name: (*own, *(float(cell) for column in cells.values() for cell in column.get(name, none)))
        for name, own in names.items()
    }
    numbers = (*scalars, *(float(tally) for column in tallies for tally in column))
    return Memo(rows, numbers, classes=tuple(cells))


def _ranked(weights: Mapping[Any, float]) -> dict[FeatureName, tuple[float, float]]:
    return {name_of(name): (float(rank), float(weight)) for rank, (name, weight) in enumerate(weights.items(), start=1)}


def _is_ranking(ranks: Iterable[float], count: float) -> bool:
    """Tell whether the ranks other than 0 are 1, 2 and so on up to this count."""
    found = sorted(filter(None, ranks))
    # A saved count may be any number: make no range as long as that.
    return len(found) == count and found == list(range(1, len(found) + 1))


def _counter(counts: Iterable[tuple[Any, float]]) -> collections.Counter[Any]:
    # From pairs, a Counter would count the pairs.
    return collections.Counter({label: int(count) for label, count in counts})
