"""Units: functions that are compiled each by itself, and that the machine calls by their address.

What a unit calls is compiled into it, and only there. Without units numba would optimize a family's code once more for
each function between it and the machine. A unit takes the address of a heap: an array of the addresses and lengths of
all arrays that it needs. A unit is compiled, or loaded from numba's cache, when its address is first asked for.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from headrace.state.compiled.ops.jit import UNIT

Heap = Callable[[int, int], Any]


class Unit:
    """A function of the address of a heap; it returns a whole number."""

    def __init__(self, function: Callable[[int], int]) -> None:
        self._function = function

    @cached_property
    def address(self) -> int:
        """The address of the compiled function."""
        compile_: Any = numba.cfunc
        try:
            self._compiled = compile_("int64(int64)", cache=True, **UNIT)(self._function)
        except RuntimeError:
            # The cache has no folder, as in a read-only container.
            self._compiled = compile_("int64(int64)", **UNIT)(self._function)
        return int(self._compiled.address)


@intrinsic  # type: ignore[untyped-decorator]
def call(_typing: Any, address: Any, heap: Any) -> Any:
    """Call the unit at an address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = arguments[1].type
        kind = cast("Any", cgutils).ir.FunctionType(word, [word])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

    return types.int64(address, heap), generate


def array_of(dtype: Any) -> Any:
    """Return a compiled function of an address and a length: the array of this dtype that lies there."""
    kind = types.Array(numba.from_dtype(dtype), 1, "C", aligned=False)

    @intrinsic  # type: ignore[untyped-decorator]
    def array(_typing: Any, address: Any, length: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            made = arrayobj.make_array(kind)(context, builder)
            width = context.get_constant(types.intp, dtype.itemsize)
            arrayobj.populate_array(
                made,
                data=builder.inttoptr(arguments[0], made.data.type),
                shape=[arguments[1]],
                strides=[width],
                itemsize=width,
                meminfo=None,
            )
            return made._getvalue()  # noqa: SLF001 numba's own way

        return kind(address, length), generate

    return array
