"""The power of 0.5 as Python computes it: scalers and optimizers need it for each feature."""

import math

from headrace.state.compiled.ops.jit import inlined


@inlined
def root(x: float, half: float) -> float:
    """Return x to the power of 0.5 as C's `pow` computes it, which is what Python's `**` calls.

    A square root is four times as fast, and differs in one result of a thousand: `pow` may round the other way if the
    exact result lies halfway between two numbers, within a fiftieth of their distance (glibc's bound is 0.52 units in
    the last place). Its remainder, computed exactly after Dekker (1971), shows how far off the square root is. The unit
    in the last place comes after Rump (2006). If the two may differ, in one case of twenty, `pow` decides.
    """
    if not 1e-280 < x < 1e300:  # noqa: PLR2004 beyond this the remainder is not exact
        return math.pow(x, half)
    s = math.sqrt(x)
    big = 134217729.0 * s
    high = big - (big - s)
    low = s - high
    square = s * s
    rest = (x - square) - (((high * high - square) + 2.0 * high * low) + low * low)
    unit = 4503599627370497.0 * s
    unit = abs(unit - 0.9999999999999999 * unit) * 2.220446049250313e-16
    if abs(rest) < 0.95 * s * unit:
        return s
    return math.pow(x, half)
