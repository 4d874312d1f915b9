"""The numba decorators of all functions of the machine, with options that keep Python's own arithmetic.

Only code that runs compiled models imports this module, and numba with it.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])
_COMPILED = Path(__file__).parents[1]
# The operations of all families, and the modules whose constants are compiled into them.
_SOURCES = (
    *sorted(Path(__file__).parent.rglob("*.py")),
    _COMPILED / "program.py",
    _COMPILED.parent / "models/columns.py",
)

# Like numpy, leave out the test for a division by zero. Where River would raise, the code tests.
_PLAIN: dict[str, bool | str] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
# No function allocates memory, and Python calls only entries. The code for both is left out, which saves most of the
# compile time.
_PART: dict[str, bool | str] = {**_PLAIN, "no_cpython_wrapper": True}

INLINED: dict[str, bool | str] = {**_PART, "forceinline": True}
UNIT: dict[str, bool | str] = {"error_model": "numpy", "_nrt": False}


def native(function: _Function) -> _Function:
    """Compile a function that only other compiled functions call. It is cached as a part of its entry."""
    return _compile(function, _PART)


def inlined(function: _Function) -> _Function:
    """Compile as `native` does, and inline into the caller: for the functions that each record passes through.

    The memory is passed by value, as more than a hundred words. To pass it at each call would take as long as the work.
    """
    return _compile(function, INLINED)


def entry(function: _Function) -> _Function:
    """Compile a function that Python calls, and keep the result in numba's cache on the disk."""
    try:
        return _compile(function, {**_PLAIN, "cache": True})
    except RuntimeError:
        # The cache has no folder, as in a read-only container: each start compiles.
        return _compile(function, _PLAIN)


def _compile(function: _Function, options: dict[str, bool | str]) -> _Function:
    # Only numba's compiler knows some of the options; its types do not.
    return cast("_Function", cast("Any", numba.njit)(**options)(function))


def print_of_sources() -> int:
    """Return a number that changes with any source file of the machine.

    numba compiles an entry anew if the entry's own file has changed, but not if a file that it calls has changed. This
    number is a part of each entry, so numba compares it too.
    """
    digest = hashlib.sha256()
    for file in _SOURCES:
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:4], "little")
