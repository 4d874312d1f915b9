"""Writes the text of model.py for what the sample shows."""

import math
from typing import Literal

import msgspec

PlannedTask = Literal["binary", "multiclass", "regression", "anomaly"]

_LINE_MAX = 100
_HEADS = {
    "binary": "linear_model.LogisticRegression(optimizer=optim.SGD({rate}))",
    "multiclass": "linear_model.SoftmaxRegression(optimizer=optim.SGD({rate}))",
    "regression": "linear_model.LinearRegression(optimizer=optim.SGD({rate}), intercept_lr=0.1)",
    "anomaly": "anomaly.HalfSpaceTrees(seed=1)",
}
# The step for one feature. With more features a prediction is a longer sum, so each step must be smaller.
_RATES = {"binary": 1.0, "multiclass": 1.0, "regression": 0.2}
_RATE_MIN, _RATE_MAX = 1e-4, 0.3
_UNLABELLED = """

    No label was found, so this is an anomaly detector: it learns each record, and its predictions have a score between
    0 and 1. It looks at the features of the first record that it learned. For a verdict, too, return
    anomaly.ThresholdFilter(model, threshold=0.95). With labels, return a classifier or a regressor instead."""


class ModelPlan(msgspec.Struct, frozen=True):
    """The parts of the model: the task, and the features by the way in which they are encoded."""

    task: PlannedTask
    has_numbers: bool = True
    one_hot: list[str] = []
    hashed: list[str] = []
    codes: list[str] = []
    buckets: int = 256
    features: int = 0


def model_source(plan: ModelPlan, *, topic: str) -> str:
    """Return the text of model.py. The model takes features that are missing in some records."""
    parts, lines = _parts(plan)
    body = "\n".join(f"    {line}" for line in lines)
    head = _HEADS[plan.task]
    if plan.task in _RATES:
        head = head.format(rate=_rate(plan))
    whole = f"({' + '.join(parts)}) | {head}" if len(parts) > 1 else " | ".join([*parts, head])
    known = ("anomaly", "compose", "linear_model", "optim", "preprocessing")
    modules = [name for name in known if f"{name}." in body + head]
    note = _UNLABELLED if plan.task == "anomaly" else ""
    return (
        f'"""The model for the topic {topic}. `headrace run` calls build() once for each partition."""\n\n'
        f"from river import {', '.join(modules)}\n\n\n"
        "def build():\n"
        '    """Return any River model.\n\n'
        "    It must build the same model each time, so give a seed to every part that draws random numbers. Define\n"
        f"    functions with a name at the top level of this file: a lambda can't be saved.{note}\n"
        '    """\n'
        f"{body}{chr(10) if body else ''}"
        f"    return {whole}\n"
    )


def _parts(plan: ModelPlan) -> tuple[list[str], list[str]]:
    """Return the names of the parts that are joined, and the lines that define them."""
    parts: list[str] = []
    lines: list[str] = []

    def define(name: str, *steps: str) -> None:
        parts.append(name)
        line = f"{name} = {' | '.join(steps)}"
        lines.extend([line] if len(line) <= _LINE_MAX else [f"{name} = (", *_stacked(steps), ")"])

    if plan.has_numbers or not (plan.one_hot or plan.hashed or plan.codes):
        but = [_discard(plan.codes)] if plan.codes else []
        # Half-space trees split between 0 and 1.
        scaler = "MinMaxScaler" if plan.task == "anomaly" else "StandardScaler"
        define("numbers", *but, "compose.SelectType((int, float))", f"preprocessing.{scaler}()")
    if plan.one_hot:
        but = [_discard(plan.hashed)] if plan.hashed else []
        define("words", *but, "compose.SelectType(str)", "preprocessing.OneHotEncoder()")
    if plan.hashed:
        but = [_discard(plan.one_hot)] if plan.one_hot else []
        hasher = f"preprocessing.FeatureHasher(n_features={plan.buckets}, seed=1)"
        # The trees sort the names of all features, and those of buckets are numbers.
        named = ['compose.Prefixer("bucket ")'] if plan.task == "anomaly" else []
        define("many", *but, "compose.SelectType(str)", hasher, *named)
    if plan.codes:
        define("codes", f"compose.Select({_names(plan.codes)})", "preprocessing.OneHotEncoder()")
    return parts, lines


def _stacked(steps: tuple[str, ...]) -> list[str]:
    return [f"    {'| ' if number else ''}{step}" for number, step in enumerate(steps)]


def _discard(names: list[str]) -> str:
    return f"compose.Discard({_names(names)})"


def _names(names: list[str]) -> str:
    text = ", ".join(map(_quoted, names))
    if len(text) <= _LINE_MAX - 30:
        return text
    return "\n" + "".join(f"            {_quoted(name)},\n" for name in names) + "        "


def _quoted(name: str) -> str:
    """Return a name as Python code with double quotes, whatever characters it has."""
    return msgspec.json.encode(name).decode() if name.isprintable() else repr(name)


def _rate(plan: ModelPlan) -> float:
    """Return the learning rate, rounded to one digit."""
    rate = min(max(_RATES[plan.task] / max(plan.features, 1), _RATE_MIN), _RATE_MAX)
    return round(rate, -math.floor(math.log10(rate)))
