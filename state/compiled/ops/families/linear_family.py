"""The family of linear models, softmax and naive Bayes: all that they learn is in the machine's own arrays."""

# ruff: noqa: ARG001  Compiled functions take their arguments by place.

from typing import Any

from headrace.state.compiled.ops.jit import inlined
from headrace.state.compiled.ops.linear import linear_answer, linear_learn
from headrace.state.compiled.ops.multiclass import several_answer, several_learn
from headrace.state.compiled.ops.passive_aggressive import passive_answer, passive_learn
from headrace.state.compiled.program import FINE, LINEAR, PASSIVE, SOFTMAX


@inlined
def look(op: Any, number: int, memory: Any, rows: Any, pairs: Any) -> int:
    """See `dispatch`."""
    return FINE


@inlined
def answer(op: Any, memory: Any, rows: Any, answers: Any, record: int) -> int:
    """Predict. A new estimator of this family needs a line here."""
    if op.code == LINEAR:
        return linear_answer(op, memory, rows, answers, record)
    if op.code == PASSIVE:
        return passive_answer(op, memory, rows, answers, record)
    if op.code >= SOFTMAX:
        return several_answer(op, memory, rows, answers, record)
    return FINE


@inlined
def teach(op: Any, memory: Any, rows: Any, label: float) -> int:
    """Learn. A new estimator of this family needs a line here."""
    if op.code == LINEAR:
        return linear_learn(op, memory, rows, label)
    if op.code == PASSIVE:
        return passive_learn(op, memory, rows, label)
    if op.code >= SOFTMAX:
        return several_learn(op, memory, rows, label)
    return FINE


@inlined
def has_room(memory: Any, width: int) -> bool:
    """See `dispatch`."""
    return True


@inlined
def fits(memory: Any, shapes: Any, shape: int) -> bool:
    """See `dispatch`."""
    return True


@inlined
def room(memory: Any) -> tuple[int, int]:
    """See `dispatch`."""
    return 0, 0


@inlined
def load(memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """See `dispatch`."""
    return shape, number


@inlined
def store(memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """See `dispatch`."""
    return shape, number


@inlined
def clear(memory: Any) -> None:
    """See `dispatch`."""
    return
