"""River's transformers as the parts of a program, and how their learned numbers are read and written.

Each function takes River's object, its path in the model, and the number of the row that it reads. It returns the parts
that do the same. For a step or an option that it does not know, it raises NotCompiled with a reason for people to read.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

from river import compose, preprocessing, stats
from river._river_rust.feature_hashing import feature_hash
from river.preprocessing import impute

from headrace.state.compiled.program import (
    AVERAGE,
    BEHIND,
    BOOLEAN,
    CENTER,
    CONSTANT,
    DISCARD,
    EXACT_MAX,
    FLOAT,
    HASH,
    IMPUTE,
    INTEGER,
    MAXABS,
    MAXIMUM,
    MINIMUM,
    MINMAX,
    NULL,
    ONEHOT,
    RENAME,
    SELECT,
    STANDARD,
    STRING,
    TYPES,
    FeatureName,
    Memo,
    ProgramPart,
)

Where = tuple[str, ...]


class NotCompiled(Exception):
    """Raised when a step of a model, or an option of it, is not compiled."""


def number(value: Any, what: str) -> float:
    """Return an option as a number. Raises NotCompiled if it is no plain finite number."""
    if type(value) in {bool, int, float} and abs(value) < float("inf") and value == float(value):
        return float(value)
    raise NotCompiled(f"{what}={value!r} is no plain number")


def name_of(name: Any) -> FeatureName:
    """Return a feature's name. Raises NotCompiled if it is neither a string nor the number of a bucket."""
    if type(name) in {str, int}:
        return name  # type: ignore[no-any-return]
    raise NotCompiled(f"the feature name {name!r} is no string")


def standard(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile StandardScaler."""
    _no_window(step)
    with_std = bool(step.with_std)

    def take(scaler: Any) -> Memo:
        counts = {name_of(name): float(count) for name, count in scaler.counts.items()}
        if not with_std:
            return Memo({name: (count, float(scaler.means[name])) for name, count in counts.items()})
        return Memo({n: (count, float(scaler.means[n]), float(scaler.vars[n])) for n, count in counts.items()})

    def give(scaler: Any, memo: Memo) -> None:
        # From pairs, a Counter would count the pairs.
        scaler.counts = collections.Counter({name: int(row[0]) for name, row in memo.rows.items()})
        scaler.means = _column(memo, 1)
        scaler.vars = _column(memo, 2) if with_std else collections.defaultdict(float)

    if not with_std:
        limits: tuple[str, ...] = "count", "any"
        return [_scaler(CENTER, where, source, columns=2, limits=limits, take=take, give=give)]
    limits = "count", "any", "above"
    # The fourth column is the third to the power of 0.5. Each prediction needs it; it is not saved.
    return [_scaler(STANDARD, where, source, columns=4, limits=limits, take=take, give=give, options={"half": 0.5})]


def minmax(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile MinMaxScaler."""
    _no_window(step)

    def take(scaler: Any) -> Memo:
        pairs = {name_of(name): (float(low.min), float(scaler.max[name].max)) for name, low in scaler.min.items()}
        # River also keeps features that it has seen only in predictions.
        return Memo({name: (1.0, *pair) for name, pair in pairs.items() if pair != (float("inf"), float("-inf"))})

    def give(scaler: Any, memo: Memo) -> None:
        scaler.min, scaler.max = collections.defaultdict(stats.Min), collections.defaultdict(stats.Max)
        for name, (_, low, high) in memo.rows.items():
            scaler.min[name].min, scaler.max[name].max = low, high

    return [_scaler(MINMAX, where, source, columns=3, limits=("flag", "any", "any"), take=take, give=give)]


def maxabs(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile MaxAbsScaler."""
    _no_window(step)

    def take(scaler: Any) -> Memo:
        mosts = {name_of(name): float(most.abs_max) for name, most in scaler.abs_max.items()}
        return Memo({name: (1.0, most) for name, most in mosts.items() if most != 0.0})

    def give(scaler: Any, memo: Memo) -> None:
        scaler.abs_max = collections.defaultdict(stats.AbsMax)
        for name, (_, most) in memo.rows.items():
            scaler.abs_max[name].abs_max = most

    return [_scaler(MAXABS, where, source, columns=2, limits=("flag", "above"), take=take, give=give)]


def select(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile Select."""
    # River iterates over a set, and sums in that order.
    return [ProgramPart(code=SELECT, path=where, sources=(source,), keys=tuple(map(name_of, step.keys)))]


def discard(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile Discard."""
    keys = tuple(map(name_of, step.keys))
    return [ProgramPart(code=DISCARD, path=where, sources=(source,), keys=keys, columns=1, flagged=True)]


def types(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile SelectType."""
    samples = {INTEGER: int, FLOAT: float, BOOLEAN: bool, STRING: str, NULL: type(None)}
    try:
        chosen = sum(issubclass(samples[kind], step.types) << kind for kind in samples)
    except TypeError as error:
        raise NotCompiled(f"types={step.types!r} are no types") from error
    return [ProgramPart(code=TYPES, path=where, sources=(source,), options={"kinds": chosen})]


def imputer(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile StatImputer: one operation a feature, each on the row of the operation before."""
    if not step.stats:
        raise NotCompiled("it imputes nothing")
    return [
        _imputer(name_of(name), stat, where, BEHIND if place else source)
        for place, (name, stat) in enumerate(step.stats.items())
    ]


def onehot(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile OneHotEncoder."""
    if step.categories is not None:
        raise NotCompiled("categories that are given are not compiled; without them it learns its own")
    if step.drop_first:
        raise NotCompiled("drop_first=True is not compiled")

    def name(feature: FeatureName, value: Any) -> tuple[FeatureName, float]:
        return f"{feature}_{value}", 1.0

    def take(encoder: Any) -> Memo:
        places = {out: place for place, out in enumerate(encoder._zero_dict)}  # noqa: SLF001 no public name
        learned = [(name_of(feature), value) for feature, values in encoder.values.items() for value in values]
        for feature, value in learned:
            if type(value) not in {str, int, float, bool, type(None)}:
                raise NotCompiled(f"the category {value!r} of {feature} is of no kind that JSON has")
        return Memo({}, (), tuple(sorted(learned, key=lambda pair: places[name(*pair)[0]])))

    def give(encoder: Any, memo: Memo) -> None:
        encoder.values = collections.defaultdict(set)
        encoder._zero_dict = {}  # noqa: SLF001
        for feature, value in memo.learned:
            encoder.values[feature].add(value)
            encoder._zero_dict[name(feature, value)[0]] = 0  # noqa: SLF001

    drop = bool(step.drop_zeros)
    return [
        ProgramPart(
            code=ONEHOT,
            path=where,
            sources=(source,),
            columns=1,
            options={"drop_zeros": drop},
            listed=True,
            learns=not drop,
            name=name,
            take=take,
            give=give,
        )
    ]


def hasher(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile FeatureHasher."""
    if step.seed is None:
        raise NotCompiled("without a seed its buckets are others at every start; give it a seed")
    if type(step.n_features) is not int or step.n_features < 1:
        raise NotCompiled(f"n_features={step.n_features!r} is no number of buckets")
    buckets, seed, signed = step.n_features, step._seed, bool(step.alternate_sign)  # noqa: SLF001 no public name

    def name(feature: FeatureName, value: Any) -> tuple[FeatureName, float]:
        hashed = feature_hash({feature: value if isinstance(value, str) else 1}, buckets, seed, signed)
        ((bucket, sign),) = hashed.items()
        return bucket, float(sign)

    return [ProgramPart(code=HASH, path=where, sources=(source,), name=name)]


def prefixer(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile Prefixer."""
    prefix = step.prefix
    return [
        ProgramPart(code=RENAME, path=where, sources=(source,), name=lambda feature, _: (f"{prefix}{feature}", 1.0))
    ]


def suffixer(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile Suffixer."""
    suffix = step.suffix
    return [
        ProgramPart(code=RENAME, path=where, sources=(source,), name=lambda feature, _: (f"{feature}{suffix}", 1.0))
    ]


TRANSFORMERS: Mapping[type, Callable[[Any, Where, int], list[ProgramPart]]] = {
    preprocessing.StandardScaler: standard,
    preprocessing.MinMaxScaler: minmax,
    preprocessing.MaxAbsScaler: maxabs,
    preprocessing.OneHotEncoder: onehot,
    preprocessing.FeatureHasher: hasher,
    preprocessing.StatImputer: imputer,
    compose.Select: select,
    compose.Discard: discard,
    compose.SelectType: types,
    compose.Prefixer: prefixer,
    compose.Suffixer: suffixer,
}


_KINDS: dict[type, int] = {int: INTEGER, float: FLOAT, bool: BOOLEAN, str: STRING}


def _imputer(name: FeatureName, stat: Any, where: Where, source: int) -> ProgramPart:
    sources = (source,)
    if type(stat) is impute.Constant:
        if type(stat.value) not in _KINDS:
            raise NotCompiled(f"{name} is filled with {stat.value!r}, which is neither a number nor a string")
        kind = _KINDS[type(stat.value)]
        word = stat.value if kind == STRING else None
        # `ModelArrays` gives a word its number.
        fill = 0.0 if word is not None else number(stat.value, str(name))
        options = {"statistic": CONSTANT, "fill": fill, "fill_kind": kind}
        return ProgramPart(code=IMPUTE, path=where, sources=sources, keys=(name,), options=options, word=word)
    statistics = {stats.Mean: AVERAGE, stats.Min: MINIMUM, stats.Max: MAXIMUM}
    if type(stat) not in statistics:
        raise NotCompiled(f"the statistic {type(stat).__name__} is not compiled; Mean, Min, Max and constants are")
    attribute = {stats.Mean: "_mean", stats.Min: "min", stats.Max: "max"}[type(stat)]
    empty = {stats.Mean: 0.0, stats.Min: float("inf"), stats.Max: float("-inf")}[type(stat)]

    def take(imputer: Any) -> Memo:
        stat = imputer.stats[name]
        value = getattr(stat, attribute)
        return Memo({}, (float(getattr(stat, "n", 0.0)), number_or_infinity(value), float(_KINDS[type(value)])))

    def give(imputer: Any, memo: Memo) -> None:
        count, value, kind = memo.scalars
        stat = imputer.stats[name]
        if hasattr(stat, "n"):
            stat.n = count
        setattr(stat, attribute, value if kind == FLOAT else int(value) if kind == INTEGER else bool(value))

    return ProgramPart(
        code=IMPUTE,
        path=where,
        sources=sources,
        keys=(name,),
        options={"statistic": statistics[type(stat)]},
        scalars=(0.0, empty, float(FLOAT)),
        learns=True,
        allows=lambda scalars: 0.0 <= scalars[0] <= EXACT_MAX and scalars[2] in {INTEGER, FLOAT, BOOLEAN},
        take=take,
        give=give,
    )


def number_or_infinity(value: Any) -> float:
    """Return the value of a statistic. Raises NotCompiled if it is no number."""
    if type(value) in {bool, int, float}:
        return float(value)
    raise NotCompiled(f"the statistic holds {value!r}, which is no number")


def _scaler(code: int, where: Where, source: int, **rest: Any) -> ProgramPart:
    return ProgramPart(code=code, path=where, sources=(source,), learns=True, **rest)


def _no_window(step: Any) -> None:
    if step.window_size is not None:
        raise NotCompiled("window_size is not compiled; without it all records count")


def _column(memo: Memo, column: int) -> Any:
    return collections.defaultdict(float, {name: row[column] for name, row in memo.rows.items()})
