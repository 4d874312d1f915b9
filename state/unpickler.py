"""What a snapshot may be made of: the classes of River, of numpy and of the user's own modules, and no code.

Whoever can write to Redis must not be able to run anything here, and pickle would call whatever it is told to.
So each name outside of River and the user's modules is listed; within them a class is taken only where it was
defined, never through a module that has imported it, and of River's functions those alone that compute. For a bound
method, where pickle would call `getattr`, only a plain method of such a class is given. numpy's arrays are made from
numbers only: it believes what a pickled type says of itself, and takes numbers for pointers.
"""

import inspect
import io
import pickle
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

_TRUSTED: Mapping[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "_codecs": "encode",
        "builtins": "bool bytearray bytes complex dict float frozenset int iter list object range set slice str tuple",
        "collections": "Counter OrderedDict defaultdict deque",
        "copy": "copy deepcopy",
        "copyreg": "_reconstructor",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "functools": "partial",
        "math": "exp log sqrt",
        "numbers": "Complex Integral Number Rational Real",
        "numpy": "bool float32 float64 floating int32 int64 integer number",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64 PCG64DXSM",
        "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
        "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
        "random": "Random",
        "statistics": "NormalDist",
    }.items()
}
# These parts of River read files and the network, or evaluate strings; no model is made of them.
_UNTRUSTED_PARTS = frozenset({"checks", "datasets", "evaluate", "stream"})
# Of its functions only these modules': `river.base`, for one, has a `getattr` of its own.
_COMPUTING = frozenset({"river.feature_extraction.vectorize", "river.utils.math", "river.utils.norm"})
_NUMBERS = re.compile(r"[biufcUS]\d+")


class Unpickler(pickle.Unpickler):
    """Load one pickle; raise pickle.UnpicklingError where it names what is not trusted.

    `trusted` names the user's packages and modules.
    """

    def __init__(self, state: bytes, *, trusted: frozenset[str]) -> None:
        super().__init__(io.BytesIO(state))
        self._trusted = trusted

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return what a pickle names, or something harmless in its place."""
        if (module_name, global_name) == ("builtins", "getattr"):
            return self._method
        if (module_name, global_name) in _INSTEAD:
            return _INSTEAD[module_name, global_name]
        if global_name in _TRUSTED.get(module_name, ()):
            return super().find_class(module_name, global_name)
        if self._is_trusted(module_name):
            found = super().find_class(module_name, global_name)
            if _is_at_home(found, module_name, global_name) and self._may_be_called(found, module_name):
                return found
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not trusted")

    def _is_trusted(self, module_name: str) -> bool:
        package, _, rest = module_name.partition(".")
        if package == "river":
            return _UNTRUSTED_PARTS.isdisjoint(rest.split("."))
        # The factory has imported what its model is made of; a snapshot must not have anything else imported.
        return package in self._trusted and module_name in sys.modules

    def _may_be_called(self, found: Any, module_name: str) -> bool:
        if isinstance(found, type) or module_name.partition(".")[0] in self._trusted:
            return True
        return module_name in _COMPUTING or module_name.startswith("river._river_rust.") or "." in found.__qualname__

    def _method(self, owner: Any, name: str) -> Any:
        """Stand in for `getattr`, which pickle calls for bound methods."""
        function = inspect.getattr_static(type(owner), name, None)
        if not isinstance(function, types.FunctionType) or name.startswith("__"):
            raise pickle.UnpicklingError(f"it asks for {name!r} of a {type(owner).__name__}, which is not trusted")
        if not self._is_trusted(function.__module__):
            raise pickle.UnpicklingError(f"it asks for {function.__module__}.{name}, which is not trusted")
        return types.MethodType(function, owner)


def _is_at_home(found: Any, module_name: str, global_name: str) -> bool:
    if (getattr(found, "__module__", ""), getattr(found, "__qualname__", "")) != (module_name, global_name):
        return False
    if isinstance(found, type) or "." not in global_name:
        return True
    # A method taken from its class could be called on anything; a static one was made for that.
    owner: Any = sys.modules[module_name]
    *classes, name = global_name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return isinstance(inspect.getattr_static(owner, name), staticmethod)


class _Kind:
    """Stands for `numpy.dtype`: numbers and texts of a size, in an order of bytes, and nothing else."""

    def __init__(self, name: str, *_flags: Any) -> None:
        if not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"it has an array of {name!r}, which is not trusted")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in {"<", ">"}:
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array that was no piece of memory in one; it comes with its shape, its kind and its bytes."""

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, by_columns, raw = state
        super().__setstate__((version, shape, kind.dtype, by_columns, raw))


def _empty_array(_kind: type, _shape: Any, _type: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), "b")


def _array(raw: Any, kind: _Kind, shape: Any, order: str, axes: Any = None) -> Any:
    array = np.frombuffer(raw, kind.dtype)
    if axes is not None:
        return array.reshape(shape, order="C").transpose(axes)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: _Kind, raw: bytes) -> Any:
    return np.frombuffer(raw, kind.dtype, 1)[0]


_INSTEAD = {
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _array,
    (__name__, "_Array"): _Array,
}
