"""Saves River's parts in Rust; it checks their state before native code gets it.

The state is bincode: little-endian numbers of fixed size, and lists after their length. Native code does not check it:
with an index beyond the end of a list it panics later, with an error that is not an Exception. So each check here
follows River's source (rust_src of River 0.26).
"""

import math
import struct
from collections.abc import Callable
from typing import Any

from river._river_rust import drift, stats

from headrace.state.models.codec.graph import CodecError

_WINDOW_MAX = 1 << 24
_BUCKETS_MAX = 1 << 16
_SEQ_MAX = 1 << 62


class _Reader:
    """Reads the numbers of a state one after the other."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def read(self, form: str) -> tuple[Any, ...]:
        """Return the next numbers; `form` is a format of `struct`."""
        form = f"<{form}"
        end = self._at + struct.calcsize(form)
        if end > len(self._raw):
            raise CodecError("a native state is cut off")
        found = struct.unpack_from(form, self._raw, self._at)
        self._at = end
        return found

    def numbers(self, count_max: int) -> tuple[float, ...]:
        """Return a list of doubles."""
        (count,) = self.read("Q")
        require(count <= count_max)
        return self.read(f"{count}d")

    def flag(self) -> bool:
        """Return a boolean; it must be 0 or 1."""
        (value,) = self.read("B")
        require(value <= 1)
        return bool(value)

    def end(self) -> None:
        """Check that no bytes are left."""
        require(self._at == len(self._raw))


def require(holds: bool) -> None:  # noqa: FBT001 a condition
    """Raise CodecError when a condition on a native state does not hold."""
    if not holds:
        raise CodecError("River never makes such a native state")


def is_native(kind: type) -> bool:
    """Tell whether a type is one of River's Rust types that this module saves."""
    return kind in _KINDS.values()


def is_name(name: str) -> bool:
    """Tell whether a native type has this name."""
    return name in _KINDS


def name_of(kind: type) -> str:
    """Return the name under which a native type is saved."""
    return next(name for name, native in _KINDS.items() if native is kind)


def dump(native: Any) -> bytes:
    """Return a native object's state."""
    return bytes(native.__getstate__())


def load(name: str, raw: bytes) -> Any:
    """Make a native object with a state. Raises CodecError.

    Its constructor's arguments do not matter: the state replaces them.
    """
    reader = _Reader(raw)
    made = _CHECKS[name](reader)
    reader.end()
    made.__setstate__(raw)
    return made


def _ewmean(reader: _Reader) -> Any:
    reader.read("3d")
    reader.flag()
    reader.read("d")
    return stats.RsEWMean(0.5)


def _ewvar(reader: _Reader) -> Any:
    for _ in range(2):
        reader.read("3d")
        reader.flag()
    reader.read("2d")
    return stats.RsEWVar(0.5)


def _p_square(reader: _Reader) -> None:
    (q,) = reader.read("d")
    require(0.0 <= q <= 1.0)
    numbers = reader.read("20d")
    require(all(map(math.isfinite, numbers[:15])))
    # River compares the heights of the markers, and panics at a NaN.
    require(not any(map(math.isnan, numbers[15:])))
    (known,) = reader.read("B")
    require(known <= 5)  # noqa: PLR2004 the markers of P²
    require(not reader.flag() or known == 5)  # noqa: PLR2004


def _quantile(reader: _Reader) -> Any:
    _p_square(reader)
    return stats.RsQuantile(0.5)


def _iqr(reader: _Reader) -> Any:
    _p_square(reader)
    _p_square(reader)
    q_inf, q_sup = reader.read("2d")
    require(q_inf < q_sup)
    return stats.RsIQR(0.25, 0.75)


def _kurtosis(reader: _Reader) -> Any:
    reader.flag()
    reader.read("7d")
    reader.flag()
    return stats.RsKurtosis(bias=False)


def _skew(reader: _Reader) -> Any:
    reader.read("7d")
    reader.flag()
    reader.flag()
    return stats.RsSkew(bias=False)


def _peak_to_peak(reader: _Reader) -> Any:
    reader.read("2d")
    return stats.RsPeakToPeak()


def _sorted_window(reader: _Reader) -> int:
    in_order = reader.numbers(_WINDOW_MAX)
    as_came = reader.numbers(_WINDOW_MAX)
    (size,) = reader.read("Q")
    require(0 < size <= _WINDOW_MAX and len(in_order) == len(as_came) <= size)
    require(not any(map(math.isnan, in_order)) and list(in_order) == sorted(as_came))
    return int(size)


def _bounds(reader: _Reader, size: int) -> None:
    lower, higher, _ = reader.read("QQd")
    require(lower < size and higher < size)


def _rolling_quantile(reader: _Reader) -> Any:
    size = _sorted_window(reader)
    q, window_size = reader.read("dQ")
    require(0.0 <= q <= 1.0 and window_size == size)
    _bounds(reader, size)
    require(reader.read("dQ") == (q, size))
    return stats.RsRollingQuantile(0.5, 1)


def _rolling_iqr(reader: _Reader) -> Any:
    size = _sorted_window(reader)
    q_inf, q_sup, window_size = reader.read("ddQ")
    require(0.0 <= q_inf < q_sup <= 1.0 and window_size == size)
    _bounds(reader, size)
    _bounds(reader, size)
    require(reader.read("ddQ") == (q_inf, q_sup, size))
    return stats.RsRollingIQR(0.25, 0.75, 1)


def _rolling_auc(kind: type) -> Callable[[_Reader], Any]:
    def load_auc(reader: _Reader) -> Any:
        label, size, positives, seq = reader.read("iQQQ")
        require(0 < size <= _WINDOW_MAX and seq < _SEQ_MAX)
        (count,) = reader.read("Q")
        require(count <= size)
        window = [reader.read("dQ") for _ in range(count)]
        (count,) = reader.read("Q")
        require(count == len(window))
        ordered = [reader.read("dQ") for _ in range(count)]
        require(len({packed for _, packed in window}) == count)
        require(
            sorted(struct.pack("<dQ", *one) for one in window) == sorted(struct.pack("<dQ", *one) for one in ordered)
        )
        require(sum(packed >> 63 for _, packed in window) == positives)
        require(reader.read("iQ") == (label, size))
        return kind(1, 1)

    return load_auc


def _adwin(reader: _Reader) -> Any:
    delta, clock, buckets = reader.read("diQ")
    require(clock > 0 and 0 < buckets <= _BUCKETS_MAX)
    length, grace, *_ = reader.read("2d4d")
    counts = reader.read("4i")
    require(all(0 <= count < 1 << 30 for count in counts))
    (rows,) = reader.read("Q")
    # A bucket of row n stands for 2**n values, and no window is longer than 2**62.
    require(0 < rows < 62)  # noqa: PLR2004
    for place in range(rows):
        size, used = reader.read("QQ")
        require(size == buckets and (used <= buckets) and (used or place == 0 or place < rows - 1))
        require(len(reader.numbers(_BUCKETS_MAX + 1)) == len(reader.numbers(_BUCKETS_MAX + 1)) == size + 1)
    delta_copy, *copies = reader.read("diQii")
    require(copies == [clock, buckets, length, grace] and math.isclose(delta_copy, delta))
    return drift.AdaptiveWindowing()


_CHECKS: dict[str, Callable[[_Reader], Any]] = {
    "AdaptiveWindowing": _adwin,
    "RsEWMean": _ewmean,
    "RsEWVar": _ewvar,
    "RsIQR": _iqr,
    "RsKurtosis": _kurtosis,
    "RsPeakToPeak": _peak_to_peak,
    "RsQuantile": _quantile,
    "RsRollingIQR": _rolling_iqr,
    "RsRollingPRAUC": _rolling_auc(stats.RsRollingPRAUC),
    "RsRollingQuantile": _rolling_quantile,
    "RsRollingROCAUC": _rolling_auc(stats.RsRollingROCAUC),
    "RsSkew": _skew,
}
_KINDS: dict[str, type] = {name: getattr(drift, name, None) or getattr(stats, name) for name in _CHECKS}
