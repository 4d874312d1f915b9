"""Mixing: several workers' copies of one River model made into one, by a merge of three.

A worker pulled the mix B (base), learned `n_mine` examples on top of it and has L (mine); meanwhile the others have
brought the mix from B to M (theirs) with `n_theirs` examples. What a part of a model remembers is one of these:

- a sum over examples (counts, sums of squares): M + (L - B), which is what one learner of all of them would have;
- mean and variance: the moments of L without B, merged into those of M (Chan, Golub, LeVeque 1979), exact too;
- the least or greatest that was seen: that of L and M;
- what forgets (an optimizer's running averages): (1 - share) * M + share * L, as neither side still holds B;
- what gradients have moved (weights): M + share * (L - B), with share = n_mine / (n_mine + n_theirs). Of k workers
  that come one after the other, round by round, each brings in 1/k of its way, so that a round adds the average of
  their ways (McDonald, Hall and Mann 2010: iterative parameter mixing). Adding whole ways instead would take every
  step k times, from where it no longer fits. In the first round, from a common start, the i-th to come brings in
  1/i: the first its whole way, as nobody else has come yet.

What one side has not met yet counts as what River would begin it with. Which memory is which is declared for each
class below, and only for that very class: a subclass may remember more, so it's refused, as is all that's not declared.

The order of keys is theirs, then what's new in the order of mine: no hash decides on it. Sets have no such order:
whoever takes on a mix lays them out anew, as at every load. This module imports River, which takes seconds.
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

from headrace.state.models.learner import ModelError

_Rule = Callable[[Any, Any, Any, float], Any]
"""From base, mine, theirs and the share to the new value. What belongs to theirs may be changed; the others not."""
_Into = Callable[[Any, Any, Any, float], None]
"""As a rule, for a part as a whole: theirs becomes the mix."""


def merge(base: Any, mine: Any, theirs: Any, *, n_mine: int, n_theirs: int) -> Any:
    """Return the mix of `mine` and `theirs`, which both grew out of `base`: a new model of the same shape.

    `n_mine` and `n_theirs` are the examples that each has learned since. The three stay as they are and share nothing
    with the mix. Who was alone gets a copy of its own model, equal to the bit. Raises ModelError for what `check`
    refuses, and for models that differ in their parts.
    """
    check(theirs)
    if n_theirs == 0:
        return copy.deepcopy(mine)
    # Mixed in place, because a pipeline's plan and a scaled target's functions point at the parts that they know.
    mix = copy.deepcopy(theirs)
    if n_mine:
        _merge(base, mine, mix, n_mine / (n_mine + n_theirs))
    return mix


def check(model: Any) -> None:
    """Raise ModelError when the model has a part that can't be mixed; the error names the part."""
    way = _WAYS.get(type(model))
    objection = "nothing is known of what it remembers" if way is None else way.objection(model)
    if way is None or objection:
        raise ModelError(
            f"{type(model).__name__} can't be mixed between workers: {objection}",
            hint='set model.scope = "partition" or "key": those take every model; "global" takes linear models '
            "and naive Bayes, with the scalers and encoders that can be mixed",
        )
    for part in way.parts(model):
        check(part)


def _merge(base: Any, mine: Any, mix: Any, share: float) -> None:
    if not type(base) is type(mine) is type(mix):
        raise _strangers(type(mine).__name__, type(mix).__name__)
    _WAYS[type(mix)].into(base, mine, mix, share)


def _strangers(mine: str, theirs: str) -> ModelError:
    return ModelError(
        f"a model with {mine} can't be mixed with one with {theirs}",
        hint="start every worker with the same model.py and the same versions",
    )


# Numbers. Where one side has stood still the other's number is the mix, without a rounding.


def _added(base: Any, mine: Any, theirs: Any, _share: float) -> Any:
    return mine if theirs == base else theirs + (mine - base)


def _averaged(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    return theirs if mine == base else theirs + share * (mine - base)


def _between(_base: Any, mine: Any, theirs: Any, share: float) -> Any:
    return theirs + share * (mine - theirs)


def _least(_base: Any, mine: Any, theirs: Any, _share: float) -> Any:
    return min(theirs, mine)


def _greatest(_base: Any, mine: Any, theirs: Any, _share: float) -> Any:
    return max(theirs, mine)


class _Moments(NamedTuple):
    """Count, mean, and sum of the squared distances from the mean."""

    n: float = 0
    mean: float = 0.0
    squares: float = 0.0


def _moments(base: _Moments, mine: _Moments, theirs: _Moments) -> _Moments:
    """Merge what `mine` has over `base` into `theirs`.

    Everything is a distance from the mean of `mine`, and sums are not taken apart: so nothing cancels out when the
    means are far from zero, or the examples are few against those of the base.
    """
    n_new = mine.n - base.n
    if theirs == base or n_new == 0:
        return mine if theirs == base else theirs
    n = theirs.n + n_new
    moved = mine.mean - base.mean
    # From the mean of theirs to that of the new examples.
    apart = (mine.mean - theirs.mean) + moved * base.n / n_new
    new = mine.squares - base.squares - moved * moved * mine.n * base.n / n_new
    squares = theirs.squares + new + apart * apart * theirs.n * n_new / n
    return _Moments(n, theirs.mean + apart * n_new / n, max(squares, 0.0))


# Maps, and parts within parts.


def _each(rule: _Rule, start: Any = None) -> _Rule:
    """Mix a map key by key; `start` stands for what a side has not met. A map that is not there yet is empty."""

    def mixed(base: Any, mine: Any, theirs: Any, share: float) -> Any:
        if mine is None:
            return theirs
        if theirs is None:
            # Of the same kind, whether a Counter, a defaultdict or River's VectorDict.
            theirs = copy.deepcopy(mine)
            theirs.clear()
        known = {} if base is None else base
        for key, value in mine.items():
            theirs[key] = rule(known.get(key, start), value, theirs.get(key, start), share)
        return theirs

    return mixed


def _part(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    """Mix a statistic that one side may not have yet."""
    if theirs is None:
        return copy.deepcopy(mine)
    _merge(type(mine)() if base is None else base, mine, theirs, share)
    return theirs


def _whole(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    """Mix a part that every side has."""
    _merge(base, mine, theirs, share)
    return theirs


def _steps(base: Any, mine: Any, theirs: Any, share: float) -> Any:
    """Mix parts by their names, which are the same on every side."""
    if not list(base) == list(mine) == list(theirs):
        raise _strangers(", ".join(map(str, mine)), ", ".join(map(str, theirs)))
    for name, part in theirs.items():
        _merge(base[name], mine[name], part, share)
    return theirs


def _fields(**rules: _Rule) -> _Into:
    """Mix these attributes, of those that the part has."""

    def into(base: Any, mine: Any, mix: Any, share: float) -> None:
        for name, rule in rules.items():
            if hasattr(mix, name):
                setattr(mix, name, rule(getattr(base, name), getattr(mine, name), getattr(mix, name), share))

    return into


def _grown(name: str, start: Callable[[Any], Any]) -> _Into:
    """Mix a map of parts that come to be while the model learns, each of them as `start` makes it."""

    def into(base: Any, mine: Any, mix: Any, share: float) -> None:
        known, mixed = getattr(base, name), getattr(mix, name)
        for key, part in getattr(mine, name).items():
            if key not in mixed:
                mixed[key] = start(mix)
            _merge(known[key] if key in known else start(base), part, mixed[key], share)

    return into


# Parts that take more than a rule for each attribute.


def _as_it_is(_base: Any, _mine: Any, _mix: Any, _share: float) -> None:
    """Leave a part that remembers nothing."""


def _into_scaler(base: Any, mine: Any, mix: Any, _share: float) -> None:
    def of(scaler: Any, feature: Any) -> _Moments:
        n = scaler.counts.get(feature, 0)
        return _Moments(n, scaler.means.get(feature, 0.0), scaler.vars.get(feature, 0.0) * n)

    # Predicting alone leaves zeros for features that were never learned: only the counts tell which were.
    for feature in mine.counts:
        now = of(mix, feature)
        new = _moments(of(base, feature), of(mine, feature), now)
        if new == now:
            continue
        alone = now == of(base, feature)
        mix.counts[feature] = new.n
        mix.means[feature] = new.mean
        if mix.with_std:
            # To the bit: a variance that became a sum and was divided again need not be the same.
            mix.vars[feature] = mine.vars[feature] if alone else new.squares / new.n


def _into_var(base: Any, mine: Any, mix: Any, _share: float) -> None:
    def of(var: Any) -> _Moments:
        return _Moments(var.mean.n, var.mean.get(), var._S)  # noqa: SLF001 River has no public name for it

    new = _moments(of(base), of(mine), of(mix))
    mix.mean.n, mix.mean._mean, mix._S = new  # noqa: SLF001 see above


def _into_mean(base: Any, mine: Any, mix: Any, _share: float) -> None:
    new = _moments(*(_Moments(mean.n, mean.get()) for mean in (base, mine, mix)))
    mix.n, mix._mean = new.n, new.mean  # noqa: SLF001 see _into_var


def _into_glm(base: Any, mine: Any, mix: Any, share: float) -> None:
    _GLM(base, mine, mix, share)
    weights = _each(_averaged, start=mix.initializer.value)
    mix._weights = weights(base._weights, mine._weights, mix._weights, share)  # noqa: SLF001 `weights` is a copy


def _into_softmax(base: Any, mine: Any, mix: Any, share: float) -> None:
    _SOFTMAX_OPTIMIZERS(base, mine, mix, share)
    mix.weights = _each(_each(_averaged, start=0.0))(base.weights, mine.weights, mix.weights, share)


def _into_one_hot(_base: Any, mine: Any, mix: Any, _share: float) -> None:
    if mix.categories is not None:
        return
    for feature, values in mine.values.items():
        mix.values[feature].update(values)
    for name in mine._zero_dict:  # noqa: SLF001 the columns, in the order in which they came
        mix._zero_dict.setdefault(name, 0)  # noqa: SLF001 see above


_COUNTS = _each(_added, start=0)
_TABLE = _each(_COUNTS)
_WEIGHTS = _each(_averaged, start=0.0)
# A running average has forgotten the base: `mine - base` taken from what the others have forgotten, too, would take it
# below zero, and the root of that is no number.
_FADING = _each(_between, start=0.0)
_PEAKS = _each(_greatest, start=0.0)
# The cumulative penalty of L1 (Tsuruoka et al. 2009) is a debt of the weights: it goes with them, at their share.
_GLM = _fields(intercept=_averaged, optimizer=_whole, max_cum_l1=_averaged, cum_l1=_WEIGHTS)
_SOFTMAX_OPTIMIZERS = _grown("optimizers", lambda model: model.optimizers.default_factory())


# The declarations.


def _no_parts(_model: Any) -> Iterable[Any]:
    return ()


def _no_objection(_model: Any) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class _Way:
    """How one class is mixed, which parts it has, and what may stand against it."""

    into: _Into
    parts: Callable[[Any], Iterable[Any]] = _no_parts
    objection: Callable[[Any], str] = _no_objection


def _no_window(part: Any) -> str:
    return "the last records of several workers are no window" if part.window_size is not None else ""


def _seeded(part: Any) -> str:
    return "without a seed every worker hashes in a way of its own" if part.seed is None else ""


def _optimizer(**rules: _Rule) -> _Way:
    return _Way(_fields(n_iterations=_added, **rules))


def _corrected(**rules: _Rule) -> _Way:
    """Declare an optimizer that corrects young averages by the count of steps: it's the steps of these averages.

    Mixed like them, not summed: else it would call them full-grown long before they are.
    """
    return _Way(_fields(n_iterations=_between, **rules))


def _wrapper(**rules: _Rule) -> _Way:
    return _Way(_fields(**rules, regressor=_whole), parts=lambda model: (model.regressor,))


_STATELESS = _Way(_as_it_is)
_LINEAR = _Way(_into_glm, parts=lambda model: (model.optimizer, model.initializer))
_PASSIVE_AGGRESSIVE = _Way(_fields(weights=_WEIGHTS, intercept=_averaged))
_UNION = _Way(_fields(transformers=_steps), parts=lambda model: model.transformers.values())

_WAYS: Mapping[type, _Way] = {
    compose.Pipeline: _Way(_fields(steps=_steps), parts=lambda model: model.steps.values()),
    compose.TransformerUnion: _UNION,
    compose.TransformerProduct: _UNION,
    compose.Grouper: _Way(
        _grown("transformers", lambda model: model.transformers.default_factory()),
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
            # Not `Normal`: copies that begin at different random weights have no common start.
            optim.initializers.Constant,
            optim.initializers.Zeros,
            preprocessing.Binarizer,
            preprocessing.Normalizer,
        ),
        _STATELESS,
    ),
    feature_extraction.TFIDF: _Way(_fields(dfs=_COUNTS, n=_added)),
    preprocessing.FeatureHasher: _Way(_as_it_is, objection=_seeded),
    preprocessing.MaxAbsScaler: _Way(_fields(abs_max=_each(_part)), objection=_no_window),
    preprocessing.MinMaxScaler: _Way(_fields(min=_each(_part), max=_each(_part)), objection=_no_window),
    preprocessing.OneHotEncoder: _Way(_into_one_hot),
    preprocessing.PredClipper: _wrapper(),
    preprocessing.StandardScaler: _Way(_into_scaler, objection=_no_window),
    preprocessing.StatImputer: _Way(_fields(stats=_steps), parts=lambda model: model.stats.values()),
    preprocessing.TargetMinMaxScaler: _wrapper(min=_whole, max=_whole),
    preprocessing.TargetStandardScaler: _wrapper(var=_whole),
    linear_model.LinearRegression: _LINEAR,
    linear_model.LogisticRegression: _LINEAR,
    linear_model.PAClassifier: _PASSIVE_AGGRESSIVE,
    linear_model.PARegressor: _PASSIVE_AGGRESSIVE,
    linear_model.Perceptron: _LINEAR,
    linear_model.SoftmaxRegression: _Way(_into_softmax, parts=lambda model: (model.optimizer,)),
    multiclass.OneVsRestClassifier: _Way(
        _grown("classifiers", lambda model: model.classifier.clone()), parts=lambda model: (model.classifier,)
    ),
    naive_bayes.BernoulliNB: _Way(_fields(class_counts=_COUNTS, feature_counts=_TABLE)),
    naive_bayes.ComplementNB: _Way(
        _fields(class_counts=_COUNTS, feature_counts=_TABLE, feature_totals=_COUNTS, class_totals=_COUNTS)
    ),
    naive_bayes.GaussianNB: _Way(_fields(class_counts=_COUNTS, gaussians=_each(_each(_part)))),
    naive_bayes.MultinomialNB: _Way(_fields(class_counts=_COUNTS, feature_counts=_TABLE, class_totals=_COUNTS)),
    optim.AMSGrad: _corrected(m=_FADING, v=_FADING, v_hat=_PEAKS),
    optim.AdaBound: _corrected(m=_FADING, v=_FADING, final_lr=_between),
    optim.AdaDelta: _optimizer(g2=_FADING, s2=_FADING),
    # A sum, so that the rate falls with all the examples, as it does for one learner of all.
    optim.AdaGrad: _optimizer(g2=_COUNTS),
    optim.AdaMax: _corrected(m=_FADING, u=_PEAKS),
    optim.Adam: _corrected(m=_FADING, v=_FADING),
    # `n` is a sum as well, but a weight is `z` measured by it: summed alone it would shrink every weight.
    optim.FTRLProximal: _optimizer(z=_WEIGHTS, n=_WEIGHTS),
    optim.Momentum: _optimizer(s=_FADING),
    optim.Nadam: _corrected(m=_FADING, v=_FADING),
    optim.NesterovMomentum: _optimizer(s=_FADING),
    optim.RMSProp: _optimizer(g2=_FADING),
    optim.SGD: _optimizer(),
    proba.Gaussian: _Way(_fields(_var=_whole)),
    stats.AbsMax: _Way(_fields(abs_max=_greatest)),
    stats.Count: _Way(_fields(n=_added)),
    stats.Max: _Way(_fields(max=_greatest)),
    stats.Mean: _Way(_into_mean),
    stats.Min: _Way(_fields(min=_least)),
    stats.Sum: _Way(_fields(sum=_added)),
    stats.Var: _Way(_into_var),
}
