"""numpy's own dot product of two arrays, by its address: in which order it sums is known to the library alone.

River's norm is numpy's, and numpy's is a square root of what BLAS returns. BLAS sums by the vector registers of the
processor that it finds itself on, so the one way to its last bit is to call it.
"""

import ctypes

import numpy as np

# What the libraries that numpy is built with call it: OpenBLAS in numpy's own wheels, any other, Apple's Accelerate.
_NAMES = (
    "scipy_cblas_ddot64_",
    "cblas_ddot64_",
    "scipy_cblas_ddot",
    "cblas_ddot$NEWLAPACK$ILP64",
    "cblas_ddot",
)


def address() -> int | None:
    """Return where `cblas_ddot` is that numpy calls, or None where it can't be found."""
    try:
        # What numpy's module was linked with is looked through as well.
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]  # noqa: SLF001
    except (AttributeError, OSError):
        return None
    for name in _NAMES:
        if hasattr(library, name):
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    return None
