"""What every function of the machine is compiled with: numba, at its strictest to Python's own arithmetic.

Only what has been found to compile imports this module, and numba with it.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])
_COMPILED = Path(__file__).parents[1]
# The operations, and the modules whose constants are compiled into them.
_SOURCES = (
    *sorted(Path(__file__).parent.glob("*.py")),
    _COMPILED / "program.py",
    _COMPILED.parent / "models/columns.py",
)

# numpy's way with a division by zero: it leaves out the test for it. Where River would raise, the code tests.
_PLAIN: dict[str, bool | str] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
# Nothing here asks for memory, and only entries are called by Python: what those would need is left out, and with it
# most of the time that compiling takes.
_PART: dict[str, bool | str] = {**_PLAIN, "no_cpython_wrapper": True}


def native(function: _Function) -> _Function:
    """Compile a function that others of the machine call; it is kept as a part of the entry that calls it."""
    return _compile(function, _PART)


def inlined(function: _Function) -> _Function:
    """Compile as `native` does a function that each record passes through, as a piece of its caller.

    All of the memory is passed by value, a hundred and more words, which at each call would take as long as the work.
    """
    return _compile(function, {**_PART, "forceinline": True})


def entry(function: _Function) -> _Function:
    """Compile a function that Python calls, and keep what was compiled on the disk."""
    try:
        return _compile(function, {**_PLAIN, "cache": True})
    except RuntimeError:
        # There is no folder to keep it in, as in a read-only container: then each start compiles.
        return _compile(function, _PLAIN)


def _compile(function: _Function, options: dict[str, bool | str]) -> _Function:
    # Some of the options are known to numba's compiler only, not to its types.
    return cast("_Function", cast("Any", numba.njit)(**options)(function))


def print_of_sources() -> int:
    """Return a number that changes with any file of the machine.

    numba compiles an entry anew when its own file has changed, not when what it calls has; this number is made a
    part of each entry, and with it of what numba compares.
    """
    digest = hashlib.sha256()
    for file in _SOURCES:
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:4], "little")
