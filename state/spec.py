"""What a model is built of, written down: two models of the same spec learn the same from the same records.

River's own `repr` will not do: an ensemble's is that of a list, `[]` for a forest that has seen nothing.
"""

import functools
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_UNSEEDED = re.compile(r"\bseed=None\b")


def describe(part: Any) -> str:
    """Write down a part of a model with every parameter, and what those are built of."""
    match part:
        case type() | types.FunctionType() | types.BuiltinFunctionType():
            return _name(part)
        case functools.partial():
            return f"partial({', '.join(map(describe, [part.func, *part.args]))}, {_listed(part.keywords.items())})"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(describe, part)))}}}"
    # First what River made: its ensembles are lists, too.
    if type(part).__module__.startswith("river.") or hasattr(part, "learn_one") or hasattr(part, "transform_one"):
        return f"{_name(type(part))}({_listed(_params(part))})"
    match part:
        case Mapping():
            return f"{{{_listed(part.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(describe, part))}]"
    return _shown(part)


def is_unseeded(spec: str) -> bool:
    """Tell whether some part draws random numbers without a seed, so that no relearning can repeat it."""
    return _UNSEEDED.search(spec) is not None


def _params(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a part was built with: River keeps each parameter under its name."""
    try:
        signature = inspect.signature(type(part).__init__)
    except (TypeError, ValueError):
        return
    for name in list(signature.parameters)[1:]:
        if hasattr(part, name):
            yield name, getattr(part, name)


def _listed(params: Any) -> str:
    return ", ".join(f"{name}={describe(value)}" for name, value in params)


def _name(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


def _shown(part: Any) -> str:
    try:
        return _ADDRESS.sub("", repr(part))
    except Exception:  # noqa: BLE001 a part's own repr may raise anything
        return _name(type(part))
