"""Decides which classes and functions the bytes of a saved model may name.

A `Trust` learns them from the model that the factory has just built: bytes may name that model's functions, classes and
patterns, in the places where the model has them. They may also name the classes of River and of the user's imported
modules, and a short list of functions. Instances are made by `object.__new__` or that of a container; nothing is
imported.
"""

import collections
import functools
import operator
import re
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from headrace.state.models.codec.graph import CodecError

# These parts of River read files or the network, evaluate strings, or need other libraries.
_UNTRUSTED_PARTS = frozenset({"checks", "compat", "datasets", "evaluate", "stream", "_river_rust"})
_PLAIN: dict[str, type] = {
    f"{kind.__module__}:{kind.__qualname__}": kind
    for kind in (
        *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple),
        *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    )
}
_DATA = frozenset({"statistics:NormalDist", "collections:UserDict", "collections:UserList"})
FACTORY, ARGUMENT, VECTOR, ITEM = "factory", "argument", "vector", "item"
"""The places of classes and functions: in a defaultdict's factory, a partial, a VectorDict, or another container."""

_HIDDEN = "hidden"
_NAME_MAX = 1_000
# Functions that River's objects get only when they learn, so that a new model does not have them yet.
_MADE_LATER = ("random:Random.gauss", "river.naive_bayes.gaussian:GaussianNB._make_gaussian")
_UPDATES = ("_update_estimator_multivariate", "_update_estimator_univariate")
_UPDATED = ("ebst_splitter:EBSTNode", "nominal_splitter_reg:NominalSplitterReg", "qo_splitter:Slot")
_PLACES = frozenset(
    {
        *((name, place) for name in _MADE_LATER for place in (ARGUMENT, FACTORY)),
        *(
            (f"river.tree.splitter.{cls}.{name}", f"river.tree.splitter.{cls}._update_estimator")
            for cls in _UPDATED
            for name in _UPDATES
        ),
    }
)
_LISTED = frozenset(name for name, _ in _PLACES)
_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    np.ufunc,
)
_DESCRIBED = (re.Pattern, operator.itemgetter, operator.attrgetter)
_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})
_PLACED = (*_FUNCTIONS, types.MethodType, functools.partial, operator.itemgetter, operator.attrgetter)


@functools.cache
def is_named(kind: type) -> bool:
    """Tell whether values of a type are saved by name."""
    return issubclass(kind, (type, *_FUNCTIONS, *_DESCRIBED))


@functools.cache
def is_placed(kind: type) -> bool:
    """Tell whether values of a type are allowed only in known places: classes, and other things that can be called."""
    return issubclass(kind, (type, *_PLACED))


def name_of(named: Any) -> str:
    """Return the name by which a class or a function is saved. Raises CodecError for one that has none."""
    if isinstance(named, re.Pattern):
        return f"re:{int(named.flags)}:{named.pattern!r}"
    if isinstance(named, _DESCRIBED):
        return f"operator:{named!r}"
    owner = getattr(named, "__objclass__", None)
    module = owner.__module__ if owner is not None else getattr(named, "__module__", None)
    qualname = getattr(named, "__qualname__", None) or getattr(named, "__name__", "")
    if isinstance(named, np.ufunc):
        module = "numpy"
    if not module or not qualname:
        raise CodecError(f"{named!r} has no name")
    if "<" in qualname:
        raise CodecError(
            f"{module} has a {qualname.rpartition('.')[2]}, which has no name at the top level of its module",
            hint="define every function that the model uses at the top level of model.py, with a name (no lambda)",
        )
    return f"{module}:{qualname}"


class Trust:
    """Says what may be named, and in which places. `modules` are the user's; `pickles` allows pickle."""

    def __init__(self, modules: Iterable[str] = (), *, pickles: bool = False) -> None:
        self._modules = frozenset(modules)
        self.pickles = pickles
        self._named: dict[str, Any] = {}
        self._places: set[tuple[str, str]] = set(_PLACES)
        self._found: dict[str, Any] = {}
        self._attributes: set[tuple[type, str]] = set()
        self._arguments: set[tuple[str, int | str, str]] = set()
        self.learns = False

    def note(self, named: Any) -> str:
        """Return the name under which a class or function is saved. Raises CodecError for one that is not allowed."""
        name = name_of(named)
        if self.learns:
            if self._named.setdefault(name, named) is not named and not isinstance(named, _DESCRIBED):
                raise CodecError(f"two things are called {name}")
        elif self.find(name) is not named and not isinstance(named, _DESCRIBED):
            raise CodecError(f"{name} is not the one that the factory's model has")
        return name

    def find(self, name: str) -> Any:
        """Return the class or function with a name. Raises CodecError for one that is not trusted."""
        if name in self._named:
            return self._named[name]
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._look_up(name)
        return found

    def instance_class(self, name: str) -> type:
        """Return the class with a name, whose instances may be made. Raises CodecError when they may not."""
        found = self.find(name)
        if not isinstance(found, type) or issubclass(found, type):
            raise CodecError(f"{name} is not a class of objects")
        if hasattr(found, "__del__"):
            raise CodecError(f"{name} runs code when its objects are freed (__del__)")
        return found

    def check(self, value: Any, place: str) -> None:
        """Check that a class or function may be in a place. Raises CodecError."""
        key = _key(value)
        if self.learns:
            self._places.add((key, place))
        elif (key, place) not in self._places and not (place in {FACTORY, ARGUMENT} and _is_ours(value)):
            raise CodecError(f"{key} is not allowed in {place}")

    def check_arguments(self, function: Any, arguments: Sequence[Any], names: Sequence[str]) -> None:
        """Check the arguments of a partial, the last of them with names. Raises CodecError.

        Strings and numbers must be those of the factory's model: they may be a path, a size, or a table's name.
        """
        if not isinstance(function, (*_FUNCTIONS, types.MethodType)) or _key(function) in _LISTED:
            return
        key, first_named = _key(function), len(arguments) - len(names)
        for at, value in zip([*range(first_named), *names], arguments, strict=True):
            if type(value) not in _SCALARS:
                continue
            argument = (key, at, f"{type(value).__name__} {value!r}")
            if self.learns:
                self._arguments.add(argument)
            elif argument not in self._arguments:
                raise CodecError(f"{key} is called with another argument {at} than in the factory's model")

    def check_attribute(self, cls: type, name: str) -> None:
        """Check that instances may have an attribute. Raises CodecError for one that hides a part of the class."""
        if (cls, name) in self._attributes:
            return
        if (name.startswith("__") and name.endswith("__")) or len(name) > _NAME_MAX:
            raise CodecError(f"{cls.__qualname__} has an attribute {name[:80]!r}")
        hidden = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        if _is_part(hidden):
            place = (f"{cls.__module__}:{cls.__qualname__}.{name}", _HIDDEN)
            if self.learns:
                self._places.add(place)
            elif place not in self._places:
                raise CodecError(f"{cls.__qualname__} has an attribute {name!r} that hides a part of its class")
        self._attributes.add((cls, name))

    def _look_up(self, name: str) -> Any:
        module_name, _, qualname = name.partition(":")
        if name in _PLAIN:
            return _PLAIN[name]
        package = module_name.partition(".")[0]
        is_ours = package == "river" and _UNTRUSTED_PARTS.isdisjoint(module_name.split("."))
        is_listed = name in _LISTED
        if not (is_ours or is_listed or name in _DATA or self._is_users(module_name)):
            raise CodecError(f"they name {name[:200]}, which is not trusted")
        found = _defined(module_name, qualname)
        if isinstance(found, staticmethod):
            found = found.__func__
        is_class = isinstance(found, type)
        if not is_class and not is_listed:
            raise CodecError(f"they name {name[:200]}, which is not a class of the model")
        if is_class and (vars(found).get("__module__"), found.__qualname__) != (module_name, qualname):
            raise CodecError(f"they name {name[:200]}, which is defined elsewhere")
        return found

    def _is_users(self, module_name: str) -> bool:
        return module_name in self._modules or module_name.partition(".")[0] in self._modules


def check_places(trust: Trust, held: Sequence[Any], place: str, names: Sequence[str] = ()) -> None:
    """Check that classes and functions may be in a place, or each in the place of its name. Raises CodecError."""
    if names:
        for name, value in zip(names, held, strict=True):
            kind: Any = type(value)
            if is_placed(kind):
                trust.check(value, f"{place}.{name}")
        return
    for kind in set(map(type, held)):
        if is_placed(kind):
            for value in {id(value): value for value in held if type(value) is kind}.values():
                trust.check(value, place)


def _defined(module_name: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        if part.startswith("__") or not isinstance(found, type | types.ModuleType) or part not in vars(found):
            raise CodecError(f"they name {module_name[:100]}:{qualname[:100]}, which does not exist")
        found = vars(found)[part]
    return found


def _is_part(found: Any) -> bool:
    """Tell whether a member of a class is more than a default value or a slot."""
    if isinstance(found, types.MemberDescriptorType | functools.cached_property):
        return False
    return callable(found) or hasattr(type(found), "__get__")


def _is_ours(value: Any) -> bool:
    """Tell whether calling a value only makes an object of River or of a built-in type."""
    while isinstance(value, functools.partial):
        value = value.func
    # Of instances, only callable objects of River count; functions do not.
    cls = value if isinstance(value, type) else type(value)
    is_object = isinstance(value, type) or not isinstance(value, _PLACED)
    return is_object and (cls.__module__.startswith("river.") or cls in _PLAIN.values())


def _key(value: Any) -> str:
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, types.MethodType):
        value = value.__func__
    kind: Any = type(value)
    return name_of(value if is_named(kind) else kind)
