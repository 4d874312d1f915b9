"""River's parts in Rust: what their state may be, checked before it reaches native code.

Their state is bincode: numbers of fixed size, little-endian, and lists behind their length. Native code believes what
it reads and panics later, with what is no Exception, where a place is beyond a list's end. So each state is checked by
what River's source makes of it (rust_src of River 0.26).
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
    """Takes numbers off a state."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Return the numbers of a form, as struct names them."""
        form = f"<{form}"
        end = self._at + struct.calcsize(form)
        if end > len(self._raw):
            raise CodecError("a native state is cut")
        found = struct.unpack_from(form, self._raw, self._at)
        self._at = end
        return found

    def numbers(self, count_max: int) -> tuple[float, ...]:
        """Return a list of doubles."""
        (count,) = self.take("Q")
        require(count <= count_max)
        return self.take(f"{count}d")

    def flag(self) -> bool:
        """Return a boolean, which Rust takes for one only where it is 0 or 1."""
        (value,) = self.take("B")
        require(value <= 1)
        return bool(value)

    def end(self) -> None:
        """Make sure that nothing is left."""
        require(self._at == len(self._raw))


def require(holds: bool) -> None:  # noqa: FBT001 what is required, in a word
    """Raise CodecError where something does not hold of a native state."""
    if not holds:
        raise CodecError("a native state is none that River makes")


def is_native(kind: type) -> bool:
    """Tell whether a type is one of River's in Rust whose state is bytes."""
    return kind in _KINDS.values()


def is_name(name: str) -> bool:
    """Tell whether a native type is called so."""
    return name in _KINDS


def name_of(kind: type) -> str:
    """Return the name by which a native type is saved."""
    return next(name for name, native in _KINDS.items() if native is kind)


def dump(native: Any) -> bytes:
    """Return a native object's state."""
    return bytes(native.__getstate__())


def load(name: str, raw: bytes) -> Any:
    """Make a native object that has a state. Raises CodecError.

    What it is made with first does not matter: the state has it all.
    """
    reader = _Reader(raw)
    made = _CHECKS[name](reader)
    reader.end()
    made.__setstate__(raw)
    return made


def _ewmean(reader: _Reader) -> Any:
    reader.take("3d")
    reader.flag()
    reader.take("d")
    return stats.RsEWMean(0.5)


def _ewvar(reader: _Reader) -> Any:
    for _ in range(2):
        reader.take("3d")
        reader.flag()
    reader.take("2d")
    return stats.RsEWVar(0.5)


def _p_square(reader: _Reader) -> None:
    (q,) = reader.take("d")
    require(0.0 <= q <= 1.0)
    numbers = reader.take("20d")
    require(all(map(math.isfinite, numbers[:15])))
    # It turns what it has seen into places, by comparing: that panics where one is not a number.
    require(not any(map(math.isnan, numbers[15:])))
    (known,) = reader.take("B")
    require(known <= 5)  # noqa: PLR2004 the markers of P²
    require(not reader.flag() or known == 5)  # noqa: PLR2004


def _quantile(reader: _Reader) -> Any:
    _p_square(reader)
    return stats.RsQuantile(0.5)


def _iqr(reader: _Reader) -> Any:
    _p_square(reader)
    _p_square(reader)
    q_inf, q_sup = reader.take("2d")
    require(q_inf < q_sup)
    return stats.RsIQR(0.25, 0.75)


def _kurtosis(reader: _Reader) -> Any:
    reader.flag()
    reader.take("7d")
    reader.flag()
    return stats.RsKurtosis(bias=False)


def _skew(reader: _Reader) -> Any:
    reader.take("7d")
    reader.flag()
    reader.flag()
    return stats.RsSkew(bias=False)


def _peak_to_peak(reader: _Reader) -> Any:
    reader.take("2d")
    return stats.RsPeakToPeak()


def _sorted_window(reader: _Reader) -> int:
    in_order = reader.numbers(_WINDOW_MAX)
    as_came = reader.numbers(_WINDOW_MAX)
    (size,) = reader.take("Q")
    require(0 < size <= _WINDOW_MAX and len(in_order) == len(as_came) <= size)
    require(not any(map(math.isnan, in_order)) and list(in_order) == sorted(as_came))
    return int(size)


def _bounds(reader: _Reader, size: int) -> None:
    lower, higher, _ = reader.take("QQd")
    require(lower < size and higher < size)


def _rolling_quantile(reader: _Reader) -> Any:
    size = _sorted_window(reader)
    q, window_size = reader.take("dQ")
    require(0.0 <= q <= 1.0 and window_size == size)
    _bounds(reader, size)
    require(reader.take("dQ") == (q, size))
    return stats.RsRollingQuantile(0.5, 1)


def _rolling_iqr(reader: _Reader) -> Any:
    size = _sorted_window(reader)
    q_inf, q_sup, window_size = reader.take("ddQ")
    require(0.0 <= q_inf < q_sup <= 1.0 and window_size == size)
    _bounds(reader, size)
    _bounds(reader, size)
    require(reader.take("ddQ") == (q_inf, q_sup, size))
    return stats.RsRollingIQR(0.25, 0.75, 1)


def _rolling_auc(kind: type) -> Callable[[_Reader], Any]:
    def load_auc(reader: _Reader) -> Any:
        label, size, positives, seq = reader.take("iQQQ")
        require(0 < size <= _WINDOW_MAX and seq < _SEQ_MAX)
        (count,) = reader.take("Q")
        require(count <= size)
        window = [reader.take("dQ") for _ in range(count)]
        (count,) = reader.take("Q")
        require(count == len(window))
        ordered = [reader.take("dQ") for _ in range(count)]
        require(len({packed for _, packed in window}) == count)
        require(
            sorted(struct.pack("<dQ", *one) for one in window) == sorted(struct.pack("<dQ", *one) for one in ordered)
        )
        require(sum(packed >> 63 for _, packed in window) == positives)
        require(reader.take("iQ") == (label, size))
        return kind(1, 1)

    return load_auc


def _adwin(reader: _Reader) -> Any:
    delta, clock, buckets = reader.take("diQ")
    require(clock > 0 and 0 < buckets <= _BUCKETS_MAX)
    length, grace, *_ = reader.take("2d4d")
    counts = reader.take("4i")
    require(all(0 <= count < 1 << 30 for count in counts))
    (rows,) = reader.take("Q")
    # A row stands for two to the power of its place; no window is longer than 2 to the power of 62.
    require(0 < rows < 62)  # noqa: PLR2004
    for place in range(rows):
        size, used = reader.take("QQ")
        require(size == buckets and (used <= buckets) and (used or place == 0 or place < rows - 1))
        require(len(reader.numbers(_BUCKETS_MAX + 1)) == len(reader.numbers(_BUCKETS_MAX + 1)) == size + 1)
    again = reader.take("diQii")
    require(again[1:] == (clock, buckets, length, grace) and math.isclose(again[0], delta))
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
