"""Describes how a model is built, as text (its spec): models with equal specs learn the same from the same records.

The first line has every part with its parameters. Each further line has a definition of the user's own code that these
use, with its checksum (`user_code.py`), or a setting by which records are read, with the checksum of its value. River's
own `repr` is not enough: that of an ensemble is that of a list, and `[]` for a forest that has seen nothing.
"""

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import msgspec

from headrace.state.models import user_code

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_TOKEN = re.compile(r"[^\s(),\[\]{}]+")
_PARTS_DIGITS, _CODE_DIGITS = 8, 6
_CODE_AT = 1 + _PARTS_DIGITS
# In a brief, more definitions than this share one checksum.
_BRIEF_MAX = 40
_NAMED_MAX = 3
# The names of settings begin with it, which no name of a definition does.
_SETTING = "[records]."
_SHOWN_MAX = 80


class Reading(msgspec.Struct, frozen=True):
    """How the records are read that a model learns: `settings` other than the defaults, and functions of the user's."""

    settings: Mapping[str, Any] = {}
    functions: tuple[Callable[..., Any], ...] = ()


def describe(model: Any, reading: Reading | None = None) -> str:
    """Return the spec of a model: all its parts with their parameters, and the user's code that it uses.

    Other records teach it something else, so the settings and functions by which they are read are a part of it.
    """
    reading = reading or Reading()
    own = {name for function in reading.functions if (name := user_code.name_of(function)) is not None}
    parts = _describe(model, own)
    sums = user_code.checksums(frozenset(own))
    settings = {f"{_SETTING}{name}": _checksum(repr(value), _CODE_DIGITS) for name, value in reading.settings.items()}
    lines = (f"{name} {checksum}" for name, checksum in (sums | settings).items())
    return "\n".join([parts.replace("\n", " "), *lines])


def unread(spec: str) -> list[str]:
    """Return the definitions without a source file: a change of them is not noticed."""
    return [name for name, checksum in _code(spec).items() if checksum == user_code.UNREAD]


def difference(before: str, after: str) -> str:
    """Say how a spec differs from an earlier one."""
    old, new = _code(before), _code(after)
    changed = [name for name in new if old.get(name, new[name]) != new[name]]
    settings = [name for name in {**old, **new} if name.startswith(_SETTING) and old.get(name) != new.get(name)]
    if settings:
        return f"its records were read with another value of {_named(settings)}"
    if changed:
        return f"the code of {_named(changed)} has changed"
    parts = _parts_differ(before.partition("\n")[0], after.partition("\n")[0])
    if parts:
        return parts
    came, went = new.keys() - old.keys(), old.keys() - new.keys()
    return f"it {'now' if came else 'no longer'} uses {_named(sorted(came or went))}"


@functools.lru_cache(maxsize=256)
def brief(spec: str, scope: str) -> str:
    """Return a short form of a spec: the scope's first letter, and checksums of the parts and of each definition."""
    parts, *code = spec.split("\n")
    sums = [_checksum(line, _CODE_DIGITS) for line in code]
    if len(sums) > _BRIEF_MAX:
        sums = [_checksum(" ".join(code), _CODE_DIGITS)]
    return scope[0] + _checksum(parts, _PARTS_DIGITS) + "".join(sums)


def brief_difference(before: str, spec: str, scope: str) -> str:
    """Say how a spec differs from an earlier one whose brief is given; "" if it does not."""
    if before == brief(spec, scope):
        return ""
    if before[0] != scope[0]:
        return "model.scope has changed"
    code = spec.split("\n")[1:]
    old = {before[at : at + _CODE_DIGITS] for at in range(_CODE_AT, len(before), _CODE_DIGITS)}
    other = [line.partition(" ")[0] for line in code if _checksum(line, _CODE_DIGITS) not in old]
    settings = [name for name in other if name.startswith(_SETTING)]
    if settings and len(code) <= _BRIEF_MAX:
        return f"its records were read with another value of {_named(settings)}"
    if other and len(code) <= _BRIEF_MAX:
        return f"the code of {_named(other)} is new or has changed"
    if before[:_CODE_AT] != brief(spec, scope)[:_CODE_AT]:
        return "its parts or their parameters have changed"
    return "the code that it uses has changed"


def _checksum(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]


def _code(spec: str) -> dict[str, str]:
    return {name: checksum for name, _, checksum in (line.partition(" ") for line in spec.split("\n")[1:])}


def _named(names: list[str]) -> str:
    texts = [
        name.replace(user_code.COMPUTED, " (a value that is computed when its module is loaded)") for name in names
    ]
    shown = texts[:_NAMED_MAX] + ([f"{len(names) - _NAMED_MAX} more"] if len(names) > _NAMED_MAX else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _parts_differ(before: str, after: str) -> str:
    """Show the first difference between the parts of two models; "" if there is none."""
    pairs = zip_longest(_TOKEN.findall(before), _TOKEN.findall(after), fillvalue="nothing")
    for old, new in pairs:
        if old != new:
            return f"{old[:_SHOWN_MAX]} became {new[:_SHOWN_MAX]}"
    return "" if before == after else "its parts are nested differently"


def _describe(part: Any, own: set[user_code.DefinedName]) -> str:
    """Return a part of a model as text, and add the user's definitions in it to `own`."""

    def listed(params: Any) -> str:
        return ", ".join(f"{name}={_describe(value, own)}" for name, value in params)

    match part:
        case type() | types.FunctionType() | types.BuiltinFunctionType():
            return _noted(part, own)
        case types.MethodType():
            return f"{_describe(part.__self__, own)}.{part.__name__}"
        case functools.partial():
            words = ", ".join(_describe(item, own) for item in (part.func, *part.args))
            return f"partial({words}, {listed(part.keywords.items())})"
        case set() | frozenset():
            return f"{{{', '.join(sorted(_describe(item, own) for item in part))}}}"
    # Before lists and mappings, since River's ensembles are lists.
    kind = type(part)
    if kind.__module__.startswith("river.") or hasattr(part, "learn_one") or hasattr(part, "transform_one"):
        return f"{_noted(kind, own)}({listed(_params(part))})"
    match part:
        case Mapping():
            return f"{{{listed(part.items())}}}"
        case list() | tuple():
            return f"[{', '.join(_describe(item, own) for item in part)}]"
    if not user_code.is_own(kind.__module__):
        return _shown(part)
    name = _noted(kind, own)
    # Use the class's own `repr` if it has one; River's would also show learned values.
    has_own_repr = not getattr(kind.__repr__, "__module__", "river.").startswith("river.")
    return _shown(part) if has_own_repr else f"{name}({listed(_params(part))})"


def _params(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parameters of a part: River keeps each under its name, other classes with an underscore before it."""
    try:
        signature = inspect.signature(type(part).__init__)
    except (TypeError, ValueError):
        return
    for name in list(signature.parameters)[1:]:
        for kept in (name, f"_{name}"):
            if hasattr(part, kept):
                yield name, getattr(part, kept)
                break


def _noted(named: Any, own: set[user_code.DefinedName]) -> str:
    found = user_code.name_of(named)
    if found is not None:
        own.add(found)
    return f"{named.__module__}.{named.__qualname__}"


def _shown(part: Any) -> str:
    try:
        return _ADDRESS.sub("", repr(part))
    except Exception:  # noqa: BLE001 a part's own repr may raise anything
        return f"{type(part).__module__}.{type(part).__qualname__}"
