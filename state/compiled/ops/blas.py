"""The address of numpy's own dot product of two arrays: only that library knows the order in which it sums.

River's norm is numpy's, a square root of the result of BLAS. BLAS sums in an order that depends on the vector registers
of the processor. Only a call to BLAS gives the same last bit.
"""

import ctypes

import numpy as np

# Its names in the libraries that numpy is built with: OpenBLAS in numpy's own wheels, any other, Apple's Accelerate.
_NAMES = (
    "scipy_cblas_ddot64_",
    "cblas_ddot64_",
    "scipy_cblas_ddot",
    "cblas_ddot$NEWLAPACK$ILP64",
    "cblas_ddot",
)


def address() -> int | None:
    """Return the address of the `cblas_ddot` that numpy calls, or None if it can't be found."""
    try:
        # This also searches the libraries that numpy's module is linked with.
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]  # noqa: SLF001
    except (AttributeError, OSError):
        return None
    for name in _NAMES:
        if hasattr(library, name):
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    return None
