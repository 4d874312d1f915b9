"""Calls the functions of a model's family: numba chooses them by the type of the memory's `own`, when it compiles.

So the machine is compiled for each family by itself, when the first model of it runs, and holds no other family's code.
A new family needs a NamedTuple of arrays in `FAMILIES`, with its functions. The functions are, with `memory` and `rows`
as everywhere in the machine:

- `look(op, number, memory, rows, pairs)`: prepare row `op.source`; UNMET if it needs a name from Python.
- `answer(op, memory, rows, answers, record)`: predict. Return a fault, or FAMILY_WANTED.
- `teach(op, memory, rows, label)`: learn; with a fault, or FAMILY_WANTED, nothing may have changed.
- `has_room(memory, width)`: whether the next record, of rows of this width, fits into the family's arrays.
- `fits(memory, shapes, shape)`: whether the family's part of a stored model, which begins at `shape`, does.
- `room(memory)`: the largest lengths of the family's part of a stored model, in `shapes` and in `numbers`.
- `load`, `store(memory, shapes, shape, numbers, number)`: read or write that part; return the positions behind it.
- `clear(memory)`: forget it.

FAMILY_WANTED stops the machine. Python then calls `help` of the family's arrays, and the record begins again.
"""

# ruff: noqa: ARG001, PLW0108  Compiled functions take their arguments by place.

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from numba import extending

from headrace.state.compiled.ops.families import linear_family, tree_family
from headrace.state.compiled.ops.jit import INLINED
from headrace.state.compiled.ops.tree.memory import TreeCalls
from headrace.state.compiled.program import NoArrays

FAMILIES: dict[type, Any] = {NoArrays: linear_family, TreeCalls: tree_family}


class _Hook(NamedTuple):
    name: str

    def of(self, memory: Any) -> Any:
        """Return the function of the family of a memory, given by numba's type of it."""
        own = memory.types[memory.fields.index("own")]
        return getattr(FAMILIES[own.instance_class], self.name)


def _dispatched(stub: Callable[..., Any]) -> Any:
    """Register the choice for a function that only names its arguments. Those are passed on by place."""
    return cast("Any", extending).overload(stub, jit_options=INLINED, strict=False)


def look(op: Any, number: int, memory: Any, rows: Any, pairs: Any) -> int:
    """See the module."""
    raise NotImplementedError


def answer(op: Any, memory: Any, rows: Any, answers: Any, record: int) -> int:
    """See the module."""
    raise NotImplementedError


def teach(op: Any, memory: Any, rows: Any, label: float) -> int:
    """See the module."""
    raise NotImplementedError


def has_own_room(memory: Any, width: int) -> bool:
    """See the module."""
    raise NotImplementedError


def fits_own(memory: Any, shapes: Any, shape: int) -> bool:
    """See the module."""
    raise NotImplementedError


def room_of_own(memory: Any) -> tuple[int, int]:
    """See the module."""
    raise NotImplementedError


def load_own(memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """See the module."""
    raise NotImplementedError


def store_own(memory: Any, shapes: Any, shape: int, numbers: Any, number: int) -> tuple[int, int]:
    """See the module."""
    raise NotImplementedError


def clear_own(memory: Any) -> None:
    """See the module."""
    raise NotImplementedError


@_dispatched(look)
def _look(op: Any, number: Any, memory: Any, rows: Any, pairs: Any) -> Any:
    chosen = _Hook("look").of(memory)
    return lambda op, number, memory, rows, pairs: chosen(op, number, memory, rows, pairs)


@_dispatched(answer)
def _answer(op: Any, memory: Any, rows: Any, answers: Any, record: Any) -> Any:
    chosen = _Hook("answer").of(memory)
    return lambda op, memory, rows, answers, record: chosen(op, memory, rows, answers, record)


@_dispatched(teach)
def _teach(op: Any, memory: Any, rows: Any, label: Any) -> Any:
    chosen = _Hook("teach").of(memory)
    return lambda op, memory, rows, label: chosen(op, memory, rows, label)


@_dispatched(has_own_room)
def _has_own_room(memory: Any, width: Any) -> Any:
    chosen = _Hook("has_room").of(memory)
    return lambda memory, width: chosen(memory, width)


@_dispatched(fits_own)
def _fits_own(memory: Any, shapes: Any, shape: Any) -> Any:
    chosen = _Hook("fits").of(memory)
    return lambda memory, shapes, shape: chosen(memory, shapes, shape)


@_dispatched(room_of_own)
def _room_of_own(memory: Any) -> Any:
    chosen = _Hook("room").of(memory)
    return lambda memory: chosen(memory)


@_dispatched(load_own)
def _load_own(memory: Any, shapes: Any, shape: Any, numbers: Any, number: Any) -> Any:
    chosen = _Hook("load").of(memory)
    return lambda memory, shapes, shape, numbers, number: chosen(memory, shapes, shape, numbers, number)


@_dispatched(store_own)
def _store_own(memory: Any, shapes: Any, shape: Any, numbers: Any, number: Any) -> Any:
    chosen = _Hook("store").of(memory)
    return lambda memory, shapes, shape, numbers, number: chosen(memory, shapes, shape, numbers, number)


@_dispatched(clear_own)
def _clear_own(memory: Any) -> Any:
    chosen = _Hook("clear").of(memory)
    return lambda memory: chosen(memory)
