"""A stored compiled model, for people to read."""

from typing import Any

from headrace.state.compiled import compiled_codec, compiler
from headrace.state.compiled.layouts import is_flagged, memos
from headrace.state.compiled.program import COUNTING, GAUSSIAN, ITERATIONS, LABELLED, LINEAR, TALLIES, Memo, ProgramPart
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError


def describe(state: bytes, river: RiverLearner) -> dict[str, Any] | None:
    """Return how many records a model has learned, its classes, and by feature the numbers of each step, in its order.

    `river` is the model as the factory builds it. Return None if the bytes are not those of such a compiled model.
    """
    program = compiler.draft(river.model)
    if program is None:
        return None
    try:
        layout, numbers = compiled_codec.read(state, program.parts, spec=river.spec)
    except ModelError:
        return None
    learned = list(memos(layout, numbers.tolist(), program.parts))
    features: dict[str, dict[str, list[float]]] = {}
    for part, memo in zip(program.parts, learned, strict=True):
        step = part.path[-1] if part.path else type(river.model).__name__
        for name, row in memo.rows.items():
            features.setdefault(str(name), {})[step] = list(row[is_flagged(part) :])
    return {**_counts(program.parts[-1], learned[-1]), "features": features}


def _counts(last: ProgramPart, memo: Memo) -> dict[str, Any]:
    """Return the records that the final estimator has learned, if it counts them, and its classes, if it has any."""
    told: dict[str, Any] = {}
    if last.code == LINEAR:
        told["learned"] = int(memo.scalars[ITERATIONS])
    if last.code in {GAUSSIAN, COUNTING}:
        # The tallies of each class follow one another; the first one counts its labels.
        told["learned"] = int(sum(memo.scalars[len(last.scalars) + LABELLED - TALLIES :: len(last.tallies)]))
    if last.tallies:
        told["classes"] = list(memo.classes)
    return told
