"""What the compiled part of decoding is made with: numba, and the few instructions of the processor that it lacks.

Only what scans whole batches imports this module, and numba with it.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import ir  # type: ignore[import-untyped]  # it has no types
from numba import types
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])

PADDING = 8
"""So many bytes must follow the last one of an array that `load` reads."""

# Nothing here allocates, so numba needs no counts of references; those would take as long as the work.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
_ASIDE: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True}


def piece(function: _Function) -> _Function:
    """Compile a function as a piece of each that calls it, since all of the memory is passed by value, many words."""
    made: _Function = numba.njit(**_ASIDE, forceinline=True)(function)
    return made


def aside(function: _Function) -> _Function:
    """Compile a function that others call where a call does not matter; it is kept as a part of the entry."""
    made: _Function = numba.njit(**_ASIDE)(function)
    return made


def entry(function: _Function) -> _Function:
    """Compile a function that Python calls, and keep the result for other processes where there is a place."""
    try:
        made: _Function = numba.njit(**_OPTIONS, cache=True)(function)
    except RuntimeError:
        # No folder takes it, as in a read-only container: then each start compiles.
        made = numba.njit(**_OPTIONS)(function)
    return made


def _fingerprint() -> int:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:4], "little")


SOURCES = _fingerprint()
"""A number that changes with any compiled source of this folder.

numba compiles an entry anew when its own file has changed, not when what it calls has. But it compares the defaults of
what a caller leaves out, so each entry has this one.
"""


def _load(_: Any, text: Any, at: Any) -> Any:
    """Return the eight bytes of an array from `at` on as a uint64, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    del at
    return types.uint64(text, types.int64), generate


def _byte(_: Any, text: Any, at: Any) -> Any:
    """Return the byte of an array at `at` as an int64. Unlike `text[at]` it does not ask whether `at` is negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.zext(builder.load(builder.gep(data, [arguments[1]])), ir.IntType(64))

    del at
    return types.int64(text, types.int64), generate


def _product(_: Any, a: Any, b: Any) -> Any:
    """Return the upper and the lower 64 of the 128 bits of a product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, narrow = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), narrow)
        return context.make_tuple(builder, signature.return_type, (upper, builder.trunc(product, narrow)))

    del a, b
    pair: Any = types.UniTuple
    return pair(types.uint64, 2)(types.uint64, types.uint64), generate


def _leading(_: Any, bits: Any) -> Any:
    """Return how many bits of a uint64 that is not zero are zero before its first one."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    del bits
    return types.int64(types.uint64), generate


def _trailing(_: Any, bits: Any) -> Any:
    """Return how many bits of a uint64 that is not zero are zero after its last one."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    del bits
    return types.int64(types.uint64), generate


def _double(_: Any, bits: Any) -> Any:
    """Return the double that has these bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    del bits
    return types.float64(types.uint64), generate


load: Any = intrinsic(_load)
byte: Any = intrinsic(_byte)
product: Any = intrinsic(_product)
leading: Any = intrinsic(_leading)
trailing: Any = intrinsic(_trailing)
double: Any = intrinsic(_double)
