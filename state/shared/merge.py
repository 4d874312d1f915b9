"""Mixes the copies of one River model that several workers have, by a three-way merge.

A worker loaded the mix B (base) and learned `n_mine` examples; it now has L (mine). Meanwhile other workers changed the
mix from B to M (theirs) with `n_theirs` examples. Each value of a model has one of these rules:

- sums over examples (counts, sums of squares): M + (L - B), the value that one learner of all examples would have;
- means and variances: the moments of L without B, merged into those of M (Chan, Golub, LeVeque 1979), also exact;
- minima and maxima: the minimum or maximum of L and M;
- running averages of an optimizer: (1 - share) * M + share * L, since both have already forgotten B;
- weights, which gradients move: M + share * (L - B), with share = n_mine / (n_mine + n_theirs). When k workers mix in
  turn, each adds 1/k of its change, so a round adds the average of their changes (McDonald, Hall and Mann 2010:
  iterative parameter mixing). The full changes would repeat every gradient step k times, from weights for which it was
  not computed. In the first round all begin at the same weights, and the i-th worker adds 1/i of its change: the first
  adds all, since no other has mixed yet.

A key that one side does not have counts with the value that River gives to new keys. The rules are declared below for
each class, but not for subclasses, which may have more values: a class that is not declared is refused.

The keys of `theirs` come first, then the new keys of `mine` in their order, so the order does not depend on hashes.
Sets have no such order; the worker that loads a mix orders them as every load does. This module imports River, which
takes seconds.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from river import (
    compose,
    feature_extraction,
    linear_model,
    multiclass,
    naive_bayes,
    optim,
    preprocessing,
    proba,
    stats,
)
from river.preprocessing import impute

from headrace.state.models.task import ModelError

_Rule = Callable[[Any, Any, Any, float], Any]
"""Returns the new value from base, mine, theirs and the share. It may change the objects of theirs."""
_MergePart = Callable[[Any, Any, Any, float], None]
"""Merges a whole part in place: theirs becomes the mix."""


def merge(base: Any, mine: Any, theirs: Any, *, n_mine: int, n_theirs: int) -> Any:
    """Return a new model, the mix of `mine` and `theirs`, which both have learned from `base` on.

    `n_mine` and `n_theirs` are the examples that each has learned since. The three models are not changed and share
    nothing with the mix. With `n_theirs` 0 the result is an exact copy of `mine`. Raises ModelError for a model that
    `check` refuses, and for models with different parts.
    """
    check(theirs)
    if n_theirs == 0:
        return copy.deepcopy(mine)
    # Merge in place: a pipeline and the functions of a scaled target refer to their parts.
    mix = copy.deepcopy(theirs)
    if n_mine:
        _merge(base, mine, mix, n_mine / (n_mine + n_theirs))
    return mix


def check(model: Any) -> None:
    """Raise ModelError when the model has a part that can't be mixed; the error names the part."""
    rules = _CLASSES.get(type(model))
    objection = "Headrace has no rules for this class" if rules is None else rules.objection(model)
    if rules is None or objection:
        raise ModelError(
            f"{type(model).__name__} can't be mixed between workers: {objection}",
            hint='set model.scope = "partition" or "key", which allow every model; "global" allows linear models '
            "and naive Bayes, with the scalers and encoders that can be mixed",
        )
    for part in rules.parts(model):
        check(part)


def _merge(base: Any, mine: Any, mix: Any, share: float) -> None:
    if not type(base) is type(mine) is type(mix):
        raise _mismatch(type(mine).__name__, type(mix).__name__)
    _CLASSES[type(mix)].merge(base, mine, mix, share)


def _mismatch(mine: str, theirs: str) -> ModelError:
    return ModelError(
        f"a model with {mine} can't be mixed with one with {theirs}",
        hint="start every worker with the same model.py and the same versions",
    )


# Numbers. If one side has not changed, the result is the other's number, without rounding.


def _added(base: Any, mine: Any, theirs: Any, _share: float) -> Any:
    return mine if theirs == base else theirs + (mine - base)


def _averaged(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    return theirs if mine == base else theirs + share * (mine - base)


def _between(_base: Any, mine: Any, theirs: Any, share: float) -> Any:
    return theirs + share * (mine - theirs)


def _minimum(_base: Any, mine: Any, theirs: Any, _share: float) -> Any:
    return min(theirs, mine)


def _maximum(_base: Any, mine: Any, theirs: Any, _share: float) -> Any:
    return max(theirs, mine)


class _Moments(NamedTuple):
    """Count, mean, and sum of the squared distances from the mean."""

    n: float = 0
    mean: float = 0.0
    squares: float = 0.0


def _moments(base: _Moments, mine: _Moments, theirs: _Moments) -> _Moments:
    """Merge the examples of `mine` that are not in `base` into `theirs`.

    It uses distances from the mean of `mine`, and no differences of large sums: so no digits cancel out when the means
    are far from zero, or the new examples are few.
    """
    n_new = mine.n - base.n
    if theirs == base or n_new == 0:
        return mine if theirs == base else theirs
    n = theirs.n + n_new
    moved = mine.mean - base.mean
    # The mean of the new examples, minus that of theirs.
    apart = (mine.mean - theirs.mean) + moved * base.n / n_new
    new = mine.squares - base.squares - moved * moved * mine.n * base.n / n_new
    squares = theirs.squares + new + apart * apart * theirs.n * n_new / n
    return _Moments(n, theirs.mean + apart * n_new / n, max(squares, 0.0))


# Mappings, and parts within parts.


def _by_key(rule: _Rule, start: Any = None) -> _Rule:
    """Mix a mapping key by key; `start` is the value of a missing key. A mapping that is None counts as empty."""

    def mixed(base: Any, mine: Any, theirs: Any, share: float) -> Any:
        if mine is None:
            return theirs
        if theirs is None:
            # Keep its type: Counter, defaultdict or River's VectorDict.
            theirs = copy.deepcopy(mine)
            theirs.clear()
        known = {} if base is None else base
        for key, value in mine.items():
            theirs[key] = rule(known.get(key, start), value, theirs.get(key, start), share)
        return theirs

    return mixed


def _optional_part(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    """Mix a statistic that a side may not have yet."""
    if theirs is None:
        return copy.deepcopy(mine)
    _merge(type(mine)() if base is None else base, mine, theirs, share)
    return theirs


def _part(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    """Mix a part that every side has."""
    _merge(base, mine, theirs, share)
    return theirs


def _named_parts(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    """Mix parts by their names, which are the same on every side."""
    if not list(base) == list(mine) == list(theirs):
        raise _mismatch(", ".join(map(str, mine)), ", ".join(map(str, theirs)))
    for name, part in theirs.items():
        _merge(base[name], mine[name], part, share)
    return theirs


def _attributes(**rules: _Rule) -> _MergePart:
    """Mix these attributes of a part, if it has them."""

    def merge_part(base: Any, mine: Any, mix: Any, share: float) -> None:
        for name, rule in rules.items():
            if hasattr(mix, name):
                setattr(mix, name, rule(getattr(base, name), getattr(mine, name), getattr(mix, name), share))

    return merge_part


def _new_parts(name: str, start: Callable[[Any], Any]) -> _MergePart:
    """Mix a mapping to parts that a model adds while it learns; `start` makes a new part."""

    def merge_part(base: Any, mine: Any, mix: Any, share: float) -> None:
        known, mixed = getattr(base, name), getattr(mix, name)
        for key, part in getattr(mine, name).items():
            if key not in mixed:
                mixed[key] = start(mix)
            _merge(known[key] if key in known else start(base), part, mixed[key], share)

    return merge_part


# Parts that need more than a rule for each attribute.


def _unchanged(_base: Any, _mine: Any, _mix: Any, _share: float) -> None:
    """Do nothing: the part has no values that learning changes."""


def _merge_scaler(base: Any, mine: Any, mix: Any, _share: float) -> None:
    def of(scaler: Any, feature: Any) -> _Moments:
        n = scaler.counts.get(feature, 0)
        return _Moments(n, scaler.means.get(feature, 0.0), scaler.vars.get(feature, 0.0) * n)

    # A prediction adds zeros for features that were never learned; only `counts` has the learned ones.
    for feature in mine.counts:
        now = of(mix, feature)
        new = _moments(of(base, feature), of(mine, feature), now)
        if new == now:
            continue
        alone = now == of(base, feature)
        mix.counts[feature] = new.n
        mix.means[feature] = new.mean
        if mix.with_std:
            # Keep the exact variance: multiplied and divided again it may differ in the last bits.
            mix.vars[feature] = mine.vars[feature] if alone else new.squares / new.n


def _merge_var(base: Any, mine: Any, mix: Any, _share: float) -> None:
    def of(var: Any) -> _Moments:
        return _Moments(var.mean.n, var.mean.get(), var._S)  # noqa: SLF001 River has no public name for it

    new = _moments(of(base), of(mine), of(mix))
    mix.mean.n, mix.mean._mean, mix._S = new  # noqa: SLF001 see above


def _merge_mean(base: Any, mine: Any, mix: Any, _share: float) -> None:
    new = _moments(*(_Moments(mean.n, mean.get()) for mean in (base, mine, mix)))
    mix.n, mix._mean = new.n, new.mean  # noqa: SLF001 see _merge_var


def _merge_glm(base: Any, mine: Any, mix: Any, share: float) -> None:
    _GLM(base, mine, mix, share)
    weights = _by_key(_averaged, start=mix.initializer.value)
    mix._weights = weights(base._weights, mine._weights, mix._weights, share)  # noqa: SLF001 `weights` is a copy


def _merge_softmax(base: Any, mine: Any, mix: Any, share: float) -> None:
    _SOFTMAX_OPTIMIZERS(base, mine, mix, share)
    mix.weights = _by_key(_by_key(_averaged, start=0.0))(base.weights, mine.weights, mix.weights, share)


def _merge_one_hot(_base: Any, mine: Any, mix: Any, _share: float) -> None:
    if mix.categories is not None:
        return
    for feature, values in mine.values.items():
        mix.values[feature].update(values)
    for name in mine._zero_dict:  # noqa: SLF001 the columns in their order
        mix._zero_dict.setdefault(name, 0)  # noqa: SLF001 see above


_COUNTS = _by_key(_added, start=0)
_TABLE = _by_key(_COUNTS)
_WEIGHTS = _by_key(_averaged, start=0.0)
# Running averages have forgotten the base: theirs + (mine - base) could be below zero, and its square root is NaN.
_FADING = _by_key(_between, start=0.0)
_PEAKS = _by_key(_maximum, start=0.0)
# The cumulative penalty of L1 (Tsuruoka et al. 2009) belongs to the weights, so it is mixed by the same share.
_GLM = _attributes(intercept=_averaged, optimizer=_part, max_cum_l1=_averaged, cum_l1=_WEIGHTS)
_SOFTMAX_OPTIMIZERS = _new_parts("optimizers", lambda model: model.optimizers.default_factory())


# The rules of each class.


def _no_parts(_model: Any) -> Iterable[Any]:
    return ()


def _no_objection(_model: Any) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class _Rules:
    """How to merge one class, the parts that it has, and the reason why an instance can't be mixed, if any."""

    merge: _MergePart
    parts: Callable[[Any], Iterable[Any]] = _no_parts
    objection: Callable[[Any], str] = _no_objection


def _no_window(part: Any) -> str:
    return "several workers have no common window of last records" if part.window_size is not None else ""


def _seeded(part: Any) -> str:
    return "without a seed every worker hashes differently" if part.seed is None else ""


def _optimizer(**rules: _Rule) -> _Rules:
    return _Rules(_attributes(n_iterations=_added, **rules))


def _corrected(**rules: _Rule) -> _Rules:
    """Declare an optimizer that corrects the bias of its averages by their number of steps.

    That number is mixed like the averages, not summed: a sum would end the correction too early.
    """
    return _Rules(_attributes(n_iterations=_between, **rules))


def _wrapper(**rules: _Rule) -> _Rules:
    return _Rules(_attributes(**rules, regressor=_part), parts=lambda model: (model.regressor,))


_STATELESS = _Rules(_unchanged)
_LINEAR = _Rules(_merge_glm, parts=lambda model: (model.optimizer, model.initializer))
_PASSIVE_AGGRESSIVE = _Rules(_attributes(weights=_WEIGHTS, intercept=_averaged))
_UNION = _Rules(_attributes(transformers=_named_parts), parts=lambda model: model.transformers.values())

_CLASSES: Mapping[type, _Rules] = {
    compose.Pipeline: _Rules(_attributes(steps=_named_parts), parts=lambda model: model.steps.values()),
    compose.TransformerUnion: _UNION,
    compose.TransformerProduct: _UNION,
    compose.Grouper: _Rules(
        _new_parts("transformers", lambda model: model.transformers.default_factory()),
        parts=lambda model: (model.transformer,),
    ),
    **dict.fromkeys(
        (
            compose.Discard,
            compose.FuncTransformer,
            compose.Prefixer,
            compose.Renamer,
            compose.Select,
            compose.SelectType,
            compose.Suffixer,
            feature_extraction.BagOfWords,
            feature_extraction.PolynomialExtender,
            impute.Constant,
            # Not `Normal`: workers would begin at different random weights.
            optim.initializers.Constant,
            optim.initializers.Zeros,
            preprocessing.Binarizer,
            preprocessing.Normalizer,
        ),
        _STATELESS,
    ),
    feature_extraction.TFIDF: _Rules(_attributes(dfs=_COUNTS, n=_added)),
    preprocessing.FeatureHasher: _Rules(_unchanged, objection=_seeded),
    preprocessing.MaxAbsScaler: _Rules(_attributes(abs_max=_by_key(_optional_part)), objection=_no_window),
    preprocessing.MinMaxScaler: _Rules(
        _attributes(min=_by_key(_optional_part), max=_by_key(_optional_part)), objection=_no_window
    ),
    preprocessing.OneHotEncoder: _Rules(_merge_one_hot),
    preprocessing.PredClipper: _wrapper(),
    preprocessing.StandardScaler: _Rules(_merge_scaler, objection=_no_window),
    preprocessing.StatImputer: _Rules(_attributes(stats=_named_parts), parts=lambda model: model.stats.values()),
    preprocessing.TargetMinMaxScaler: _wrapper(min=_part, max=_part),
    preprocessing.TargetStandardScaler: _wrapper(var=_part),
    linear_model.LinearRegression: _LINEAR,
    linear_model.LogisticRegression: _LINEAR,
    linear_model.PAClassifier: _PASSIVE_AGGRESSIVE,
    linear_model.PARegressor: _PASSIVE_AGGRESSIVE,
    linear_model.Perceptron: _LINEAR,
    linear_model.SoftmaxRegression: _Rules(_merge_softmax, parts=lambda model: (model.optimizer,)),
    multiclass.OneVsRestClassifier: _Rules(
        _new_parts("classifiers", lambda model: model.classifier.clone()), parts=lambda model: (model.classifier,)
    ),
    naive_bayes.BernoulliNB: _Rules(_attributes(class_counts=_COUNTS, feature_counts=_TABLE)),
    naive_bayes.ComplementNB: _Rules(
        _attributes(class_counts=_COUNTS, feature_counts=_TABLE, feature_totals=_COUNTS, class_totals=_COUNTS)
    ),
    naive_bayes.GaussianNB: _Rules(_attributes(class_counts=_COUNTS, gaussians=_by_key(_by_key(_optional_part)))),
    naive_bayes.MultinomialNB: _Rules(_attributes(class_counts=_COUNTS, feature_counts=_TABLE, class_totals=_COUNTS)),
    optim.AMSGrad: _corrected(m=_FADING, v=_FADING, v_hat=_PEAKS),
    optim.AdaBound: _corrected(m=_FADING, v=_FADING, final_lr=_between),
    optim.AdaDelta: _optimizer(g2=_FADING, s2=_FADING),
    # A sum, so that the learning rate falls with the examples of all workers, as for a single learner.
    optim.AdaGrad: _optimizer(g2=_COUNTS),
    optim.AdaMax: _corrected(m=_FADING, u=_PEAKS),
    optim.Adam: _corrected(m=_FADING, v=_FADING),
    # `n` is a sum as well, but a weight is `z` divided by its root: `n` summed alone would shrink every weight.
    optim.FTRLProximal: _optimizer(z=_WEIGHTS, n=_WEIGHTS),
    optim.Momentum: _optimizer(s=_FADING),
    optim.Nadam: _corrected(m=_FADING, v=_FADING),
    optim.NesterovMomentum: _optimizer(s=_FADING),
    optim.RMSProp: _optimizer(g2=_FADING),
    optim.SGD: _optimizer(),
    proba.Gaussian: _Rules(_attributes(_var=_part)),
    stats.AbsMax: _Rules(_attributes(abs_max=_maximum)),
    stats.Count: _Rules(_attributes(n=_added)),
    stats.Max: _Rules(_attributes(max=_maximum)),
    stats.Mean: _Rules(_merge_mean),
    stats.Min: _Rules(_attributes(min=_minimum)),
    stats.Sum: _Rules(_attributes(sum=_added)),
    stats.Var: _Rules(_merge_var),
}
