"""River's linear and logistic regression as the parts of a program: losses, optimizers, schedules, learned numbers."""

import collections
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from river import anomaly, linear_model, naive_bayes, optim, utils
from river.optim import initializers, losses

from headrace.state.compiled.program import (
    ABSOLUTE,
    ADADELTA,
    ADAGRAD,
    ADAM,
    ADAMAX,
    AMSGRAD,
    CAUCHY,
    EXACT_MAX,
    FOCAL,
    FTRL,
    HINGE,
    HUBER,
    INSENSITIVE,
    ITERATIONS,
    LINEAR,
    LOG,
    MOMENTUM,
    NADAM,
    NESTEROV,
    OWN,
    POISSON,
    QUANTILE,
    RMSPROP,
    SGD,
    SQUARED,
    Memo,
    ProgramPart,
)
from headrace.state.compiled.river.half_space import half_space
from headrace.state.compiled.river.multiclass import counting, gaussian, softmax
from headrace.state.compiled.river.passive_aggressive import passive
from headrace.state.compiled.river.schedules import rate_schedule
from headrace.state.compiled.river.transformers import NotCompiled, Where, name_of, number


class _Kind(NamedTuple):
    """An optimizer: its code, the attributes of its options and its state; `raises` if a step can overflow."""

    code: int
    options: tuple[str, ...]
    state: tuple[str, ...]
    vectors: bool = False
    raises: bool = False


_OPTIMIZERS: dict[type, _Kind] = {
    optim.SGD: _Kind(SGD, (), ()),
    optim.Momentum: _Kind(MOMENTUM, ("rho",), ("s",)),
    optim.NesterovMomentum: _Kind(NESTEROV, ("rho",), ("s",)),
    optim.AdaGrad: _Kind(ADAGRAD, ("eps",), ("g2",), raises=True),
    optim.AdaDelta: _Kind(ADADELTA, ("rho", "eps"), ("g2", "s2"), raises=True),
    optim.RMSProp: _Kind(RMSPROP, ("rho", "eps"), ("g2",), vectors=True),
    optim.Adam: _Kind(ADAM, ("beta_1", "eps", "beta_2"), ("m", "v"), vectors=True),
    optim.AdaMax: _Kind(ADAMAX, ("beta_1", "eps", "beta_2"), ("m", "u")),
    optim.AMSGrad: _Kind(AMSGRAD, ("beta_1", "eps", "beta_2", "correct_bias"), ("m", "v", "v_hat"), raises=True),
    optim.Nadam: _Kind(NADAM, ("beta_1", "eps", "beta_2"), ("m", "v"), raises=True),
    optim.FTRLProximal: _Kind(FTRL, ("alpha", "beta", "l1", "l2"), ("z", "n"), raises=True),
}
_BINARY: dict[type, tuple[int, tuple[str, ...]]] = {
    losses.Log: (LOG, ("weight_pos", "weight_neg")),
    losses.Hinge: (HINGE, ("threshold",)),
    losses.BinaryFocalLoss: (FOCAL, ("gamma", "beta")),
}
_NUMBER: dict[type, tuple[int, tuple[str, ...]]] = {
    losses.Squared: (SQUARED, ()),
    losses.Absolute: (ABSOLUTE, ()),
    losses.Quantile: (QUANTILE, ("alpha",)),
    losses.Huber: (HUBER, ("epsilon",)),
    losses.EpsilonInsensitiveHinge: (INSENSITIVE, ("eps",)),
    losses.Poisson: (POISSON, ()),
    losses.Cauchy: (CAUCHY, ("C",)),
}


def linear(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile LinearRegression, LogisticRegression, and the Perceptron, which is a LogisticRegression."""
    binary = type(step) is not linear_model.LinearRegression
    kind = _OPTIMIZERS.get(type(step.optimizer))
    if kind is None:
        raise NotCompiled(f"the optimizer {type(step.optimizer).__name__} is not compiled")
    if type(step.initializer) not in {initializers.Zeros, initializers.Constant}:
        raise NotCompiled(f"the initializer {type(step.initializer).__name__} is not compiled; Zeros and Constant are")
    l1, l2, clip = number(step.l1, "l1"), number(step.l2, "l2"), number(step.clip_gradient, "clip_gradient")
    if clip < 0.0:
        raise NotCompiled(f"clip_gradient={clip} is below zero")
    options = {**_options(step, kind, binary=binary), "l1": l1, "l2": l2, "clip": clip}
    if l1 != 0.0 and kind.code == FTRL:
        raise NotCompiled("l1 does not go with FTRLProximal, which has an l1 of its own")
    columns = OWN + len(kind.state) + (l1 != 0.0)
    return [
        ProgramPart(
            code=LINEAR,
            path=where,
            sources=(source,),
            columns=columns,
            limits=("flag", *("any",) * (columns - 1)),
            scalars=(number(step.intercept_init, "intercept_init"), 0.0, *(0.0,) * (l1 != 0.0)),
            options=options,
            learns=True,
            late=kind.raises or options["loss"] in {POISSON, CAUCHY},
            allows=_counted,
            take=_taker(kind, penalized=l1 != 0.0),
            give=_giver(kind, penalized=l1 != 0.0),
        )
    ]


def _options(step: Any, kind: _Kind, *, binary: bool) -> dict[str, float]:
    return {
        "half": 0.5,
        "two": 2.0,
        "inverse": -1.0,
        "binary": binary,
        **_loss(step.loss, _BINARY if binary else _NUMBER),
        "optimizer": kind.code,
        **_own(step.optimizer, kind),
        **rate_schedule(None if kind.code == FTRL else step.optimizer.lr, "lr", "rate"),
        **rate_schedule(step.intercept_lr, "intercept_lr", "intercept_rate"),
        "initial": number(step.initializer.value, "initializer"),
    }


def _counted(scalars: tuple[float, ...]) -> bool:
    steps = scalars[ITERATIONS]
    return 0.0 <= steps <= EXACT_MAX and steps.is_integer()


def _loss(loss: Any, known: dict[type, tuple[int, tuple[str, ...]]]) -> dict[str, float]:
    if type(loss) not in known:
        raise NotCompiled(f"the loss {type(loss).__name__} is not compiled")
    code, names = known[type(loss)]
    values = [number(getattr(loss, name), name) for name in names]
    if code == CAUCHY and values[0] == 0.0:
        raise NotCompiled("C=0 divides by zero")
    first, second, *_ = *values, 0.0, 0.0
    return {"loss": code, "loss_a": first, "loss_b": second}


def _own(optimizer: Any, kind: _Kind) -> dict[str, float]:
    """Return an optimizer's options. Raises NotCompiled for those with which River could divide by zero."""
    values = [number(getattr(optimizer, name), name) for name in kind.options]
    for name, value in zip(kind.options, values, strict=True):
        if name in {"eps", "alpha", "beta"} and value <= 0.0:
            raise NotCompiled(f"{name}={value} is not above zero")
        if name in {"rho", "beta_1", "beta_2"} and not 0.0 <= value < 1.0:
            raise NotCompiled(f"{name}={value} is not between 0 and 1")
        if name in {"l1", "l2"} and value < 0.0:
            raise NotCompiled(f"{name}={value} is below zero")
    # The optimizer's l1 and l2 are not those of the model.
    names = (f"own_{name}" if name in {"l1", "l2"} else name for name in kind.options)
    return dict(zip(names, values, strict=True))


def _taker(kind: _Kind, *, penalized: bool) -> Callable[[Any], Memo]:
    def take(model: Any) -> Memo:
        weights, optimizer = model.weights, model.optimizer
        columns = [_dict(getattr(optimizer, name), name) for name in kind.state]
        if penalized:
            columns.append(model.cum_l1.to_dict())
        for column in columns:
            if not column.keys() <= weights.keys():
                raise NotCompiled("its optimizer knows features that its weights do not")
        rows = {
            name_of(name): (1.0, float(weight), *(float(column.get(name, 0.0)) for column in columns))
            for name, weight in weights.items()
        }
        penalty = (float(model.max_cum_l1),) if penalized else ()
        return Memo(rows, (float(model.intercept), float(optimizer.n_iterations), *penalty))

    return take


def _giver(kind: _Kind, *, penalized: bool) -> Callable[[Any, Memo], None]:
    def give(model: Any, memo: Memo) -> None:
        intercept, steps, *rest = memo.scalars
        model.intercept = intercept
        # River has no public name for the weights.
        model._weights = utils.VectorDict(_column(memo, 1))  # noqa: SLF001
        model.optimizer.n_iterations = int(steps)
        for at, name in enumerate(kind.state):
            column: Any = collections.defaultdict(float, _column(memo, OWN + at))
            if kind.vectors:
                column = utils.VectorDict(dict(column)) if steps else None
            setattr(model.optimizer, name, column)
        if penalized:
            (model.max_cum_l1,) = rest
            model.cum_l1 = utils.VectorDict(_column(memo, OWN + len(kind.state)), initializers.Zeros())

    return give


def _dict(state: Any, name: str) -> dict[Any, Any]:
    if state is None:
        return {}
    if isinstance(state, utils.VectorDict):
        return dict(state.to_dict())
    if isinstance(state, dict):
        return state
    raise NotCompiled(f"its optimizer's {name} was learned in mini-batches")


def _column(memo: Memo, column: int) -> dict[Any, float]:
    return {name: row[column] for name, row in memo.rows.items()}


HEADS: dict[type, Callable[[Any, Where, int], Iterable[ProgramPart]]] = {
    linear_model.LinearRegression: linear,
    linear_model.LogisticRegression: linear,
    linear_model.Perceptron: linear,
    linear_model.PAClassifier: passive,
    linear_model.PARegressor: passive,
    linear_model.SoftmaxRegression: softmax,
    naive_bayes.GaussianNB: gaussian,
    naive_bayes.MultinomialNB: counting,
    naive_bayes.BernoulliNB: counting,
    anomaly.HalfSpaceTrees: half_space,
}
"""The final estimators that are compiled. A new one needs a line here, and one in `machine.answer` and `.teach`."""
