"""Saves the objects of a model that hold no others: numpy arrays, dates, random number generators, and others.

Each kind has a function that checks the numbers from the bytes before it makes an object of them: native code would use
a wrong shape, or a wrong index in a generator's state, without a check.
"""

import _random
import datetime as dt
import decimal
import fractions
import functools
import math
import random
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from headrace.state.models.codec import rust
from headrace.state.models.codec.graph import CodecError

_NUMBERS = re.compile(r"[<>|]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[US][0-9]{1,6})")
_DIMENSIONS_MAX = 32
_TWISTER = struct.Struct("<625I")
_DOUBLE = struct.Struct("<d")
_DIGITS_MAX = 10_000
_WORDS_MAX = 64
_DAY_US = 86_400_000_000


class BigInt(NamedTuple):
    """An integer that does not fit 64 bits."""

    value: int


class OddText(NamedTuple):
    """A string that UTF-8 can't encode: it has half of a surrogate pair."""

    value: str


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: str
    shape: list[int]
    by_columns: bool
    raw: bytes


class _Bits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A numpy bit generator: its state as numbers, each as little-endian bytes, and its seed sequence."""

    numbers: list[bytes]
    seed: list[list[bytes]] | None


class _Date(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    numbers: list[int]
    fold: int
    zone_us: int | None


@functools.cache
def kind_of(cls: type) -> str | None:
    """Return the kind of value of a type's instances; None when they are no values."""
    if issubclass(cls, np.generic):
        return "scalar"
    if rust.is_native(cls):
        return rust.name_of(cls)
    return next((name for name, kind in _KINDS.items() if kind.cls is cls), None)


def dump(kind: str, value: Any) -> bytes:
    """Return a value as bytes. Raises CodecError."""
    return _KINDS[kind].dump(value) if kind in _KINDS else rust.dump(value)


def load(kind: str, raw: bytes) -> Any:
    """Return the value that was saved as bytes. Raises CodecError."""
    try:
        if kind in _KINDS:
            return _KINDS[kind].load(raw)
        if rust.is_name(kind):
            return rust.load(kind, raw)
    except (ValueError, TypeError, OverflowError, KeyError, struct.error, decimal.DecimalException) as error:
        raise CodecError(f"they have an invalid {kind}: {error}") from None
    raise CodecError(f"they have a value of an unknown kind, {kind[:80]!r}")


def _require(holds: bool, invalid: str) -> None:  # noqa: FBT001 a condition, and the part that is invalid without it
    if not holds:
        raise CodecError(invalid)


def _packed(whole: int) -> bytes:
    return whole.to_bytes(whole.bit_length() // 8 + 1, "little", signed=True)


def _unpacked(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _reader(shape: Any, load_value: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    decode = msgspec.msgpack.Decoder(shape).decode
    return lambda raw: load_value(decode(raw))


def _writer(get_state: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    encode = msgspec.msgpack.Encoder().encode
    return lambda value: encode(get_state(value))


def _array_state(array: Any) -> _Array:
    if not _NUMBERS.fullmatch(array.dtype.str):
        raise CodecError(f"an array of {array.dtype}")
    by_columns = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    raw = array.tobytes("F" if by_columns else "C")
    return _Array(array.dtype.str, list(array.shape), by_columns, raw)


def _array(state: _Array) -> Any:
    _require(_NUMBERS.fullmatch(state.kind) is not None, f"they hold an array of {state.kind[:80]!r}")
    dtype = np.dtype(state.kind)
    _require(
        len(state.shape) <= _DIMENSIONS_MAX and all(0 <= size < 1 << 40 for size in state.shape), "an array's shape"
    )
    size = math.prod(state.shape)
    _require(size * dtype.itemsize == len(state.raw) and (size <= len(state.raw) or not size), "an array's size")
    flat = np.frombuffer(state.raw, dtype) if state.raw else np.empty(0, dtype)
    return flat.reshape(state.shape, order="F" if state.by_columns else "C").copy(order="K")


def _scalar(state: _Array) -> Any:
    _require(not state.shape, "a number's shape")
    return _array(state)[()]


def _twister_state(source: random.Random) -> bytes:
    _, state, gauss = random.Random.getstate(source)
    return _TWISTER.pack(*state) + (b"" if gauss is None else _DOUBLE.pack(gauss))


def _twister(raw: bytes) -> random.Random:
    new: Any = _random.Random.__new__
    made: random.Random = new(random.Random, 0)
    # `setstate` checks the index in the state.
    _random.Random.setstate(made, _TWISTER.unpack_from(raw))
    left = raw[_TWISTER.size :]
    vars(made)["gauss_next"] = _DOUBLE.unpack(left)[0] if left else None
    return made


def _numbers(state: Any) -> list[int]:
    if isinstance(state, dict):
        return [number for key, value in state.items() if key != "bit_generator" for number in _numbers(value)]
    if isinstance(state, np.ndarray):
        return [int(number) for number in state.tolist()]
    return [int(state)]


def _seed_state(source: Any) -> list[list[bytes]] | None:
    seed = source.seed_seq
    if type(seed) is not np.random.SeedSequence:
        return None
    entropy = seed.entropy if isinstance(seed.entropy, int) else list(seed.entropy or ())
    words = [entropy] if isinstance(entropy, int) else entropy
    parts = ([int(isinstance(entropy, int))], words, seed.spawn_key, [seed.pool_size, seed.n_children_spawned])
    return [[_packed(int(number)) for number in part] for part in parts]


def _seed(state: list[list[bytes]] | None) -> Any:
    if state is None:
        return 0
    _require(len(state) == 4 and all(len(part) <= _WORDS_MAX for part in state), "a seed")  # noqa: PLR2004 its parts
    _require(all(len(number) <= _WORDS_MAX for part in state for number in part), "a seed")
    (is_one,), words, key, (pool, children) = ([_unpacked(number) for number in part] for part in state)
    _require(all(0 <= number < 1 << 32 for number in (*key, children)) and 4 <= pool <= _WORDS_MAX, "a seed")  # noqa: PLR2004
    _require(all(number >= 0 for number in words) and (len(words) == 1 or not is_one), "a seed")
    return np.random.SeedSequence(
        words[0] if is_one else words, spawn_key=key, pool_size=pool, n_children_spawned=children
    )


def _bits_state(source: Any) -> _Bits:
    return _Bits([_packed(number) for number in _numbers(source.state)], _seed_state(source))


def _bits(name: str, form: str) -> Callable[[_Bits], Any]:
    """Make a reader for one kind of bit generator; `form` has the widths of its numbers in bits, and their counts."""
    bits = [(int(width), int(count)) for width, count in re.findall(r"(\d+)x(\d+)", form)]
    limits = [1 << width for width, count in bits for _ in range(count)]

    def load_bits(state: _Bits) -> Any:
        numbers = [_unpacked(number) for number in state.numbers]
        _require(len(numbers) == len(limits), "a source of random numbers has another size")
        _require(all(0 <= number < limit for number, limit in zip(numbers, limits, strict=True)), "its state")
        made = getattr(np.random, name)(_seed(state.seed))
        if state.seed is None and name == "MT19937":
            made._legacy_seeding(0)  # noqa: SLF001 the only way to a generator without a seed
        made.state = _filled(made.state, iter(numbers))
        return made

    return load_bits


def _filled(state: dict[str, Any], numbers: Any) -> dict[str, Any]:
    """Return a state of the same shape with other numbers; check that each index in it is within its bounds."""
    filled: dict[str, Any] = {}
    for key, value in state.items():
        match value:
            case dict():
                filled[key] = _filled(value, numbers)
            case np.ndarray():
                filled[key] = np.array([next(numbers) for _ in range(value.size)], value.dtype)
            case str():
                filled[key] = value
            case _:
                filled[key] = next(numbers)
                _require(key not in _PLACES_MAX or filled[key] <= _PLACES_MAX[key], "a place in its state")
    return filled


# The largest index in the state of MT19937, and in the buffer of Philox.
_PLACES_MAX = {"pos": 624, "buffer_pos": 4, "has_uint32": 1}


def _zone_us(value: Any) -> int | None:
    if value.tzinfo is None:
        return None
    if type(value.tzinfo) is not dt.timezone or value.tzinfo != dt.timezone(value.utcoffset()):
        raise CodecError(f"a time in {value.tzinfo}")
    return int(value.utcoffset() / dt.timedelta(microseconds=1))


def _zone(zone_us: int | None) -> dt.timezone | None:
    if zone_us is None:
        return None
    _require(abs(zone_us) < _DAY_US, "a time's zone")
    return dt.timezone(dt.timedelta(microseconds=zone_us)) if zone_us else dt.UTC


def _datetime_state(value: dt.datetime) -> _Date:
    numbers = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
    return _Date(numbers, value.fold, _zone_us(value))


def _datetime(state: _Date) -> dt.datetime:
    return dt.datetime(*state.numbers, tzinfo=_zone(state.zone_us), fold=state.fold)  # type: ignore[misc,arg-type]


def _time_state(value: dt.time) -> _Date:
    zone_us = None if value.tzinfo is None else _zone_us(dt.datetime.combine(dt.date.min, value))
    return _Date([value.hour, value.minute, value.second, value.microsecond], value.fold, zone_us)


def _time(state: _Date) -> dt.time:
    return dt.time(*state.numbers, tzinfo=_zone(state.zone_us), fold=state.fold)  # type: ignore[misc,arg-type]


def _decimal(text: str) -> decimal.Decimal:
    _require(len(text) <= _DIGITS_MAX, "a number's length")
    return decimal.Decimal(text)


def _fraction(numbers: list[bytes]) -> fractions.Fraction:
    numerator, denominator = map(_unpacked, numbers)
    _require(denominator > 0 and all(len(number) <= _DIGITS_MAX for number in numbers), "a fraction")
    return fractions.Fraction(numerator, denominator)


class _Kind(NamedTuple):
    cls: type
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]


_KINDS: dict[str, _Kind] = {
    "array": _Kind(np.ndarray, _writer(_array_state), _reader(_Array, _array)),
    "scalar": _Kind(np.generic, _writer(lambda value: _array_state(np.asarray(value))), _reader(_Array, _scalar)),
    "int": _Kind(BigInt, lambda big: _packed(big.value), _unpacked),
    "text": _Kind(
        OddText,
        lambda odd: odd.value.encode("utf-8", "surrogatepass"),
        lambda raw: raw.decode("utf-8", "surrogatepass"),
    ),
    "bytes": _Kind(bytes, bytes, bytes),
    "bytearray": _Kind(bytearray, bytes, bytearray),
    "complex": _Kind(
        complex,
        lambda value: struct.pack("<2d", value.real, value.imag),
        lambda raw: complex(*struct.unpack("<2d", raw)),
    ),
    "Random": _Kind(random.Random, _twister_state, _twister),
    "MT19937": _Kind(np.random.MT19937, _writer(_bits_state), _reader(_Bits, _bits("MT19937", "32x624 32x1"))),
    "PCG64": _Kind(np.random.PCG64, _writer(_bits_state), _reader(_Bits, _bits("PCG64", "128x2 1x1 32x1"))),
    "PCG64DXSM": _Kind(np.random.PCG64DXSM, _writer(_bits_state), _reader(_Bits, _bits("PCG64DXSM", "128x2 1x1 32x1"))),
    "SFC64": _Kind(np.random.SFC64, _writer(_bits_state), _reader(_Bits, _bits("SFC64", "64x4 1x1 32x1"))),
    "Philox": _Kind(
        np.random.Philox, _writer(_bits_state), _reader(_Bits, _bits("Philox", "64x4 64x2 64x4 32x1 1x1 32x1"))
    ),
    "date": _Kind(
        dt.date,
        _writer(lambda value: [value.year, value.month, value.day]),
        _reader(tuple[int, int, int], lambda numbers: dt.date(*numbers)),
    ),
    "datetime": _Kind(dt.datetime, _writer(_datetime_state), _reader(_Date, _datetime)),
    "time": _Kind(dt.time, _writer(_time_state), _reader(_Date, _time)),
    "timedelta": _Kind(
        dt.timedelta,
        _writer(lambda value: [value.days, value.seconds, value.microseconds]),
        _reader(tuple[int, int, int], lambda numbers: dt.timedelta(*numbers)),
    ),
    "timezone": _Kind(
        dt.timezone,
        _writer(lambda value: _zone_us(dt.datetime(1, 1, 2, tzinfo=value))),
        _reader(int, _zone),
    ),
    "Decimal": _Kind(decimal.Decimal, _writer(str), _reader(str, _decimal)),
    "Fraction": _Kind(
        fractions.Fraction,
        _writer(lambda value: [_packed(value.numerator), _packed(value.denominator)]),
        _reader(list[bytes], _fraction),
    ),
    "range": _Kind(
        range,
        _writer(lambda value: [value.start, value.stop, value.step]),
        _reader(tuple[int, int, int], lambda numbers: range(*numbers)),
    ),
}
