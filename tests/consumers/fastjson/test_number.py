import itertools
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.consumers.fastjson.jit import PADDING
from headrace.consumers.fastjson.number import FLOAT, INTEGER, SLOW, number

COUNT = 10_000


@numba.njit(error_model="numpy")
def _read(text: Any, begins: Any, ends: Any, kinds: Any, values: Any) -> None:
    for i in range(len(begins)):
        ends[i], kinds[i], values[i] = number(text, begins[i])


def lay_out(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [text.encode() for text in texts]
    sizes = np.array([len(part) for part in parts], np.int64)
    begins = np.cumsum(sizes + 1) - sizes - 1
    return np.frombuffer(b"\0".join([*parts, bytes(PADDING)]), np.uint8), begins, begins + sizes


def read(texts: list[str]) -> list[int | float | None]:
    """Return what each number is, None where one is for the decoder."""
    text, begins, stops = lay_out(texts)
    ends, kinds, values = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64), np.zeros(len(texts))
    _read(text, begins, ends, kinds, values)
    assert all(end in {SLOW, stop} for end, stop in zip(ends, stops, strict=True))
    assert set(kinds.tolist()) <= {INTEGER, FLOAT}
    return [
        None if end == SLOW else int(value) if kind == INTEGER else value
        for end, kind, value in zip(ends.tolist(), kinds.tolist(), values.tolist(), strict=True)
    ]


def assert_right(texts: list[str], *, slow_max: float = 0.0) -> None:
    """Compare with Python's own reading, to the last bit; of so many, a share may be left to the decoder."""
    slow = 0
    for text, found in zip(texts, read(texts), strict=True):
        if found is None:
            slow += 1
            continue
        wanted = json.loads(text)
        assert type(found) is type(wanted), text
        assert struct.pack("d", found) == struct.pack("d", wanted), text
    assert slow <= slow_max * len(texts), f"{slow} of {len(texts)} were slow"


def doubles(seed: int, *, exponents: tuple[int, int] = (1, 2046)) -> Iterator[float]:
    """Yield normal doubles with exponents of all sizes, so that each is as likely."""
    source = random.Random(seed)
    while True:
        bits = source.getrandbits(52) | source.randint(*exponents) << 52 | source.getrandbits(1) << 63
        yield struct.unpack("d", struct.pack("Q", bits))[0]


def some(values: Iterator[float]) -> list[float]:
    return list(itertools.islice(values, COUNT))


def test_the_shortest_form_of_any_normal_double_is_that_double() -> None:
    assert_right([repr(value) for value in some(doubles(1))])


def test_seventeen_digits_of_any_normal_double_are_that_double() -> None:
    assert_right([f"{value:.16e}" for value in some(doubles(2))])
    assert_right([f"{value:.17g}" for value in some(doubles(3, exponents=(960, 1090)))], slow_max=0.5)


def test_everyday_numbers_are_read() -> None:
    source = random.Random(4)
    for digits in (1, 2, 3, 6):
        assert_right([f"{source.uniform(-1e6, 1e6):.{digits}f}" for _ in range(COUNT // 4)])
    assert_right([repr(source.random()) for _ in range(COUNT)])
    assert_right([str(source.randint(-(2**53), -1)) for _ in range(COUNT)])
    assert_right([str(source.randrange(10 ** source.randint(1, 15))) for _ in range(COUNT)])


def test_nineteen_random_digits_are_rounded_rightly() -> None:
    source = random.Random(5)
    texts = []
    for _ in range(COUNT):
        digits = str(source.randrange(1, 10 ** source.randint(1, 19)))
        texts.append(f"{digits}e{source.randint(-300, 280)}")
        texts.append(f"{digits[0]}.{digits[1:] or '0'}E+{source.randint(0, 280)}")
        texts.append(f"0.{'0' * source.randint(0, 12)}{digits}")
    assert_right(texts)


def test_halfway_between_two_doubles_is_rounded_to_the_even_one() -> None:
    source = random.Random(6)
    texts = []
    for _ in range(COUNT):
        half = source.randrange(2**53, 2**54) | 1
        shift = source.randint(-3, 9)
        # Exact halves, and their neighbours in the last of nineteen digits.
        exact = half * 2**shift if shift >= 0 else half
        for near in (exact - 1, exact, exact + 1):
            if shift >= 0:
                texts.append(f"{near}.0" if near < 10**18 else f"{near}e0")
            else:
                texts.append(f"{near}e{shift}")
    for power in range(23):
        texts += [f"{(half | 1)}e{power}" for half in range(2**53 + 1, 2**53 + 400, 2)]
    assert_right([text for text in texts if sum(map(str.isdigit, text.partition("e")[0])) <= 19])
    # Those with powers of five in the fraction: half a unit of the last place, written out.
    texts = []
    for _ in range(COUNT):
        bits = source.randint(1, 4)
        odd = (source.randrange(2 ** (53 - bits), 2 ** (54 - bits)) << bits) | (2 ** (bits - 1))
        value = odd * 5**bits
        texts.append(f"{value}e-{bits}")
    assert_right([text for text in texts if len(text.partition("e")[0]) <= 19])


def test_the_ends_of_the_doubles_are_right_or_left_to_the_decoder() -> None:
    subnormal = [repr(value) for value in itertools.islice(doubles(7, exponents=(0, 3)), COUNT)]
    assert_right(subnormal, slow_max=0.5)
    edges = [
        "5e-324",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "1e-400",
        "0e999",
        "1.7976931348623157e308",
    ]
    assert_right(edges, slow_max=1.0)
    assert read(["1.7976931348623157e308", "2.2250738585072014e-308"]) == [
        1.7976931348623157e308,
        2.2250738585072014e-308,
    ]
    assert read(["1e309", "1.7976931348623159e308", "9" * 19 + "e300", "1e99999"]) == [None] * 4


def test_zeros_keep_their_sign_and_type() -> None:
    zeros = read(["0", "0.0", "-0.0", "0e5", "-0", "0.000000000000000000000000000"])
    assert [repr(zero) for zero in zeros] == ["0", "0.0", "-0.0", "0.0", "None", "0.0"]


def test_a_number_that_is_no_exact_double_is_left_to_the_decoder() -> None:
    assert read(["9007199254740992", "-9007199254740992"]) == [2**53, -(2**53)]
    assert read(["9007199254740993", "12345678901234567890", "0." + "1" * 20]) == [None] * 3


def test_text_that_is_not_a_number_is_left_to_the_decoder() -> None:
    wrong = ["", "-", "+1", "01", "-01", "00", "1.", ".5", "1.e5", "1e", "1e+", "1e-", "-.5", "00.5", "x", "1.E", "--1"]
    assert read(wrong) == [None] * len(wrong)


@given(st.from_regex(r"\A-?(0|[1-9][0-9]{0,21})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,5})?\Z"))
@example("0.00000000000000000000000000000001234567890123456789")
@example("9007199254740993.0")
@example("8.988465674311579e+307")
@settings(deadline=None)
def test_whatever_json_takes_is_read_as_json_reads_it_or_left_to_the_decoder(text: str) -> None:
    assert_right([text], slow_max=1.0)
