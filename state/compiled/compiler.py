"""Compiles a River model to a program of the machine, or says why a step cannot be compiled, so that River runs it."""

import copy
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.state.compiled.program import BEHIND, MERGE, Program, ProgramPart
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError

if TYPE_CHECKING:
    from headrace.state.compiled.compiled_learner import CompiledLearner

_FAMILIES = {
    "tree": "this tree is not compiled; HoeffdingTreeClassifier is",
    "forest": "forests are not compiled",
    "ensemble": "ensembles are not compiled",
    "neighbors": "neighbours are not compiled",
    "drift": "drift detectors are not compiled",
    "anomaly": "anomaly detectors are not compiled",
    "feature_extraction": "extracting features is not compiled",
}


class CompiledStep(msgspec.Struct, frozen=True):
    """One step of a model: whether it is compiled, and if not, the reason."""

    step: str
    compiled: bool
    reason: str


def explain(model: Any) -> list[CompiledStep]:
    """Tell for each step of a River model, in order, whether the machine can run it."""
    return _Draft(model).verdicts


def draft(model: Any) -> Program | None:
    """Return the program of a River model, or None if one of its steps is not compiled."""
    drawn = _Draft(model)
    if not all(verdict.compiled for verdict in drawn.verdicts):
        return None
    return Program(parts=tuple(drawn.parts))


def compile_model(model: Any, *, spec: str = "") -> "CompiledLearner | None":
    """Return a learner that continues this River model, or None if the model can't be compiled.

    `spec` describes how the model is built, if not as it looks now. It is None if a step is not compiled (see
    `explain`), if the learned state can't be taken over, or if numba can't be imported.
    """
    # `RiverLearner` fixes the order of sets. Both learners must sum in that order.
    river = RiverLearner(copy.deepcopy(model))
    river.spec = spec or river.spec
    program = draft(river.model)
    if program is None:
        return None
    try:
        compiled = importlib.import_module("headrace.state.compiled.compiled_learner")
    except ImportError:
        return None
    try:
        return compiled.from_river(river, program)  # type: ignore[no-any-return]
    except ModelError:
        return None


class _Draft:
    """A walk through the steps of a model. It collects a verdict on each step, and the parts of the compiled ones."""

    def __init__(self, model: Any) -> None:
        # River's import takes seconds.
        self._compose = importlib.import_module("river.compose")
        self._transformer = importlib.import_module("headrace.state.compiled.river.transformers")
        self._regression = importlib.import_module("headrace.state.compiled.river.linear_models")
        trees = importlib.import_module("headrace.state.compiled.river.trees")
        self._heads = {**self._regression.HEADS, **trees.HEADS}
        self.verdicts: list[CompiledStep] = []
        self.parts: list[ProgramPart] = []
        # Rows whose values differ before and after a record is learned.
        self._moving: set[int] = set()
        self._model(model, (), 0)

    def _model(self, model: Any, where: tuple[str, ...], source: int) -> None:
        """Walk a pipeline that ends in the final estimator, or the estimator alone."""
        if type(model) is self._compose.Pipeline and model.steps:
            *steps, (last, proper) = model.steps.items()
            for name, step in steps:
                source = self._step(step, (*where, name), source)
            self._model(proper, (*where, last), source)
            return
        self._judge(model, where, source, self._heads)

    def _step(self, step: Any, where: tuple[str, ...], source: int) -> int:
        """Walk a transformer, and return the row that it writes."""
        if type(step) is self._compose.Pipeline and step.steps:
            for name, inner in step.steps.items():
                # River mistakes such a pipeline for a union, and fails.
                if len(where) == 1 and type(inner) is self._compose.TransformerUnion and inner is _last(step):
                    self._refuse(step, "a pipeline that ends in a union, as a step of a pipeline, is not compiled")
                source = self._step(inner, (*where, name), source)
            return source
        if type(step) is self._compose.TransformerUnion and step.transformers:
            sources = self._branches(step, where, source)
            self.parts.append(ProgramPart(code=MERGE, path=where, sources=sources))
            if self._moving.intersection(sources):
                self._moving.add(len(self.parts))
            return len(self.parts)
        return self._judge(step, where, source, self._transformer.TRANSFORMERS)

    def _branches(self, union: Any, where: tuple[str, ...], source: int) -> tuple[int, ...]:
        """Walk the branches of a union from last to first, as River runs them; return their rows in its order."""
        said, rows = self.verdicts, []
        told: list[list[CompiledStep]] = []
        for name, inner in reversed(union.transformers.items()):
            self.verdicts = []
            rows.append(self._step(inner, (*where, name), source))
            told.append(self.verdicts)
        self.verdicts = said + [verdict for verdicts in reversed(told) for verdict in verdicts]
        return tuple(reversed(rows))

    def _judge(self, step: Any, where: tuple[str, ...], source: int, known: Any) -> int:
        """Make the parts of one step, or note why it is not compiled; return the row that it writes."""
        build = known.get(type(step))
        if build is None:
            self._refuse(step, _reason(step))
            return len(self.parts)
        if getattr(step, "nominal_attributes", None) and source in self._moving:
            self._refuse(step, "nominal features that a step before it learns to change are not compiled")
            return len(self.parts)
        if build is self._transformer.onehot and source in self._moving:
            self._refuse(step, "categories of values that a step before it learns to change are not compiled")
            return len(self.parts)
        try:
            parts = build(step, where, source)
        except self._transformer.NotCompiled as refusal:
            self._refuse(step, str(refusal))
            return len(self.parts)
        for part in parts:
            # One step may become several parts. Each reads the row of the part before.
            behind = part.sources == (BEHIND,)
            self.parts.append(replace(part, sources=(len(self.parts),)) if behind else part)
            if part.learns or source in self._moving:
                self._moving.add(len(self.parts))
        self.verdicts.append(CompiledStep(type(step).__name__, True, ""))  # noqa: FBT003 the struct's own order
        return len(self.parts)

    def _refuse(self, step: Any, reason: str) -> None:
        self.verdicts.append(CompiledStep(type(step).__name__, False, reason))  # noqa: FBT003


def _last(pipeline: Any) -> Any:
    return list(pipeline.steps.values())[-1]


def _reason(step: Any) -> str:
    """Say why a step of an unknown type is not compiled."""
    kind = type(step)
    if not kind.__module__.startswith("river."):
        return f"{kind.__name__} is a class of your own, which only Python can run"
    if kind.__name__ == "FuncTransformer":
        return "a function of your own, which only Python can run"
    family = kind.__module__.split(".")[1]
    return _FAMILIES.get(family, f"{kind.__name__} is not compiled")
