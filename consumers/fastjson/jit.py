"""The numba decorators for the compiled decoder, and the processor instructions that numba lacks.

Only code that scans whole batches imports this module, and numba with it.
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
"""The bytes that must follow the last one of an array that `load` reads."""

# Nothing here allocates, so numba need not count references, which would double the time.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
_INTERNAL: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True}


def inlined(function: _Function) -> _Function:
    """Compile a function into each caller: a call would pass many words, since structs of arrays go by value."""
    made: _Function = numba.njit(**_INTERNAL, forceinline=True)(function)
    return made


def subroutine(function: _Function) -> _Function:
    """Compile a function that compiled code calls; it is cached as a part of the entry."""
    made: _Function = numba.njit(**_INTERNAL)(function)
    return made


def entry(function: _Function) -> _Function:
    """Compile a function that Python calls, and cache the result for other processes if a folder can be written."""
    try:
        made: _Function = numba.njit(**_OPTIONS, cache=True)(function)
    except RuntimeError:
        # Without such a folder, as in a read-only container, each start compiles.
        made = numba.njit(**_OPTIONS)(function)
    return made


def fingerprint(*patterns: str) -> int:
    """Return a number that changes with each of these files, which are below the folder `consumers`."""
    digest, consumers = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(file for pattern in patterns for file in consumers.glob(pattern)):
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:4], "little")


SOURCES = fingerprint("fastjson/*.py")
"""A number that changes with every source file of this folder.

numba's cache notices a change of an entry's own file, but not of the functions that it calls. It also compares default
arguments, so each entry has this number as one.
"""


def _load(_: Any, text: Any, at: Any) -> Any:
    """Return eight bytes of an array from `at` on as a uint64, little-endian."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    del at
    return types.uint64(text, types.int64), generate


def _byte(_: Any, text: Any, at: Any) -> Any:
    """Return the byte of an array at `at` as an int64. Unlike `text[at]` it has no check for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.zext(builder.load(builder.gep(data, [arguments[1]])), ir.IntType(64))

    del at
    return types.int64(text, types.int64), generate


def _product(_: Any, a: Any, b: Any) -> Any:
    """Return the upper and the lower 64 bits of the product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, narrow = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), narrow)
        return context.make_tuple(builder, signature.return_type, (upper, builder.trunc(product, narrow)))

    del a, b
    pair: Any = types.UniTuple
    return pair(types.uint64, 2)(types.uint64, types.uint64), generate


def _leading(_: Any, bits: Any) -> Any:
    """Count the leading zero bits of a uint64 that is not zero."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    del bits
    return types.int64(types.uint64), generate


def _trailing(_: Any, bits: Any) -> Any:
    """Count the trailing zero bits of a uint64 that is not zero."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    del bits
    return types.int64(types.uint64), generate


def _double(_: Any, bits: Any) -> Any:
    """Return the double with these bits."""

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
