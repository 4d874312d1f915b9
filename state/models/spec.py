"""What a model is built of, written down: two models of the same spec learn the same from the same records.

The first line has every part with its parameters; each further line is a definition of the user's own code that these
rest on, with its checksum (`definition`). River's own `repr` will not do: an ensemble's is that of a list, `[]` for a
forest that has seen nothing.
"""

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from headrace.state.models import user_code

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_UNSEEDED = re.compile(r"\bseed=None\b")
_TOKEN = re.compile(r"[^\s(),\[\]{}]+")
_PARTS_DIGITS, _CODE_DIGITS = 8, 6
_CODE_AT = 1 + _PARTS_DIGITS
# More definitions than these have one checksum together in a brief.
_BRIEF_MAX = 40
_NAMED_MAX = 3
_SHOWN_MAX = 80


def describe(model: Any) -> str:
    """Write down a model with every parameter, what those are built of, and the user's code that it rests on."""
    own: set[user_code.DefinedName] = set()
    parts = _describe(model, own)
    sums = user_code.checksums(frozenset(own))
    return "\n".join([parts.replace("\n", " "), *(f"{name} {checksum}" for name, checksum in sums.items())])


def is_unseeded(spec: str) -> bool:
    """Tell whether some part draws random numbers without a seed, so that no relearning can repeat it."""
    return _UNSEEDED.search(spec) is not None


def unread(spec: str) -> list[str]:
    """Return the definitions that have no source, so that nobody would notice when they change."""
    return [name for name, checksum in _code(spec).items() if checksum == user_code.UNREAD]


def difference(before: str, after: str) -> str:
    """Say in which way a spec differs from what it was before."""
    old, new = _code(before), _code(after)
    changed = [name for name in new if old.get(name, new[name]) != new[name]]
    if changed:
        return f"the code of {_named(changed)} has changed"
    parts = _parts_differ(before.partition("\n")[0], after.partition("\n")[0])
    if parts:
        return parts
    came, went = new.keys() - old.keys(), old.keys() - new.keys()
    return f"it rests on {_named(sorted(came or went))} {'now' if came else 'no longer'}"


@functools.lru_cache(maxsize=256)
def brief(spec: str, scope: str) -> str:
    """Return a spec for a mark: the scope's first letter, a checksum of the parts, and one of each definition."""
    parts, *code = spec.split("\n")
    sums = [_checksum(line, _CODE_DIGITS) for line in code]
    if len(sums) > _BRIEF_MAX:
        sums = [_checksum(" ".join(code), _CODE_DIGITS)]
    return scope[0] + _checksum(parts, _PARTS_DIGITS) + "".join(sums)


def brief_difference(told: str, spec: str, scope: str) -> str:
    """Say in which way a spec differs from the one of which only its brief is known; nothing where it does not."""
    if told == brief(spec, scope):
        return ""
    if told[0] != scope[0]:
        return "model.scope has changed"
    code = spec.split("\n")[1:]
    old = {told[at : at + _CODE_DIGITS] for at in range(_CODE_AT, len(told), _CODE_DIGITS)}
    other = [line.partition(" ")[0] for line in code if _checksum(line, _CODE_DIGITS) not in old]
    if other and len(code) <= _BRIEF_MAX:
        return f"the code of {_named(other)} is new or has changed"
    if told[:_CODE_AT] != brief(spec, scope)[:_CODE_AT]:
        return "its parts or their parameters have changed"
    return "the code that it rests on has changed"


def _checksum(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]


def _code(spec: str) -> dict[str, str]:
    return {name: checksum for name, _, checksum in (line.partition(" ") for line in spec.split("\n")[1:])}


def _named(names: list[str]) -> str:
    told = [name.replace(user_code.COMPUTED, " (a value that is computed when its module is loaded)") for name in names]
    shown = told[:_NAMED_MAX] + ([f"{len(names) - _NAMED_MAX} more"] if len(names) > _NAMED_MAX else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _parts_differ(before: str, after: str) -> str:
    """Show the first place at which two models' parts differ; nothing where they don't."""
    pairs = zip_longest(_TOKEN.findall(before), _TOKEN.findall(after), fillvalue="nothing")
    for old, new in pairs:
        if old != new:
            return f"{old[:_SHOWN_MAX]} became {new[:_SHOWN_MAX]}"
    return "" if before == after else "its parts are nested in another way"


def _describe(part: Any, own: set[user_code.DefinedName]) -> str:
    """Write down a part of a model, and note the definitions of the user's own that are in it."""

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
    # First what River made: its ensembles are lists, too.
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
    # One that shows itself knows best how; River's way to shows what it has learned as well.
    shows_itself = not getattr(kind.__repr__, "__module__", "river.").startswith("river.")
    return _shown(part) if shows_itself else f"{name}({listed(_params(part))})"


def _params(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a part was built with: River keeps each parameter under its name, others with a line before it."""
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
