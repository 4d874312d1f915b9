"""Gives seeds to the parts of a new model that have none, so that learning it again gives the same model.

A part without a seed gets one from a text and from its place in the model: the same text gives the same model, in each
process. A part of River is initialised again with it, since some draw their first numbers then.
"""

import functools
import hashlib
import inspect
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_SEED_BITS = 32


def give(model: Any, text: str) -> None:
    """Seed all parts of a new model whose `seed` is None."""
    for place, part in _parts(model):
        if not _is_unseeded(part):
            continue
        seed = int.from_bytes(hashlib.sha256(f"{text}/{place}".encode()).digest()[: _SEED_BITS // 8], "little")
        params = _params(part)
        if params is not None:
            part.__init__(**{**params, "seed": seed})
            continue
        for source in vars(part).values():
            if isinstance(source, random.Random | np.random.RandomState):
                source.seed(seed)
        part.seed = seed


def _params(part: Any) -> dict[str, Any] | None:
    """Return the arguments that make a part of River again, as it keeps them; None if it can't be told."""
    if not type(part).__module__.startswith("river."):
        return None
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(part).__init__).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.VAR_POSITIONAL or not hasattr(part, name):
            return None
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= getattr(part, name)
        else:
            found[name] = getattr(part, name)
    return found if "seed" in found or "kwargs" in vars(part) else None


def _is_unseeded(part: Any) -> bool:
    has_none = "seed" in vars(part) and vars(part)["seed"] is None
    return has_none or (type(part).__name__ == "STREAMKMeans" and "seed" not in part.kwargs)


def _parts(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield all objects that a model is made of, each once, with its place; always in the same order."""
    seen: set[int] = set()
    stack = [("", model)]
    while stack:
        place, part = stack.pop()
        if id(part) in seen or isinstance(part, type | types.FunctionType | types.ModuleType | str | int | float):
            continue
        seen.add(id(part))
        held = _held(part)
        if hasattr(part, "__dict__"):
            yield place, part
        stack.extend((f"{place}/{name}", inner) for name, inner in reversed(held))


def _held(part: Any) -> list[tuple[str, Any]]:
    """Return what a part holds, by name or number."""
    found: list[tuple[str, Any]] = []
    if isinstance(part, functools.partial):
        return [("function", part.func), *_numbered(part.args), *((str(n), v) for n, v in part.keywords.items())]
    if isinstance(part, types.MethodType):
        return [("self", part.__self__)]
    if isinstance(part, Mapping):
        found += [(str(name), value) for name, value in part.items()]
    elif isinstance(part, list | tuple):
        found += _numbered(part)
    if hasattr(part, "__dict__"):
        found += vars(part).items()
    return found


def _numbered(values: Any) -> list[tuple[str, Any]]:
    """Return values with their numbers as text."""
    return [(str(number), value) for number, value in enumerate(values)]
