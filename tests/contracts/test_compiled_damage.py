"""Bytes of any origin make a compiled learner raise ModelError and stay as it was, or become one that works."""

import functools
import math
import pickle
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from river import naive_bayes
from twin import SOAK, compilable, compiled, feed, food
from zoo import ZOO

from headrace.state.compiled.compiled_codec import head
from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model
from headrace.state.compiled.layouts import ModelLayout, PartLayout
from headrace.state.models.task import ModelError

TRIALS = 2_000 if SOAK else 20
PEAK_BYTES_MAX = 32_000_000
TAUGHT = 37
# One of each family; those that are not compiled yet are left out.
SAMPLES = [
    "logistic: alone",
    "logistic: Adam",
    "linear: AdaGrad",
    "logistic: FTRLProximal",
    "logistic: SGD, l1",
    "logistic: three scalers",
    "logistic: numbers and words",
    "logistic: categories",
    "logistic: hashed",
    "logistic: gaps of means",
    "perceptron: of words, clipped",
    "aggressive classifier: of words",
    "aggressive regressor: alone",
    "softmax: Adam",
    "softmax: FTRLProximal",
    "softmax: Adam, l2, of words",
    "Bayes, Gaussian: numbers and words",
    "Bayes, multinomial: alpha=1.0",
    "Bayes, Bernoulli: of words",
    "Bayes, Bernoulli: classes are mixed",
]


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name), id=name.replace(" ", "-")) for name in SAMPLES]
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@functools.cache
def good(name: str) -> bytes:
    machine = compiled(name)
    feed(machine, food(name)[:TAUGHT])
    return machine.dump()


class Target:
    """A learner that bytes are loaded into, which has learned something else before."""

    def __init__(self, name: str) -> None:
        self.name, self.refused, self.taken = name, 0, 0
        self._new()

    def hit(self, bad: bytes) -> None:
        """Load bytes, and see that they are refused without a trace, or make a learner that works."""
        if self._loads(bad):
            self._works()
            self.taken += 1
            self._new()
        else:
            assert self.machine.dump() == self.before
            assert self.machine.classes == self.classes
            self.refused += 1

    def _loads(self, bad: bytes) -> bool:
        tracemalloc.start()
        try:
            self.machine.load(bad)
        except ModelError:
            return False
        else:
            return True
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < PEAK_BYTES_MAX

    def _new(self) -> None:
        self.machine: CompiledLearner = compiled(self.name)
        feed(self.machine, food(self.name)[50:70])
        self.before, self.classes = self.machine.dump(), list(self.machine.classes)

    def _works(self) -> None:
        self.machine.load(self.machine.dump())
        feed(self.machine, food(self.name)[:40])
        self.machine.to_river()
        self.machine.load(self.machine.dump())


def test_cut_bytes_are_refused(name: str) -> None:
    if not compilable(name):
        return
    target, whole = Target(name), good(name)
    lengths = {0, 1, 7, 8, 9, 12, len(whole) - 1, *random.Random(1).choices(range(len(whole)), k=TRIALS)}
    for length in lengths:
        target.hit(whole[:length])
    assert target.taken == 0


def test_longer_bytes_are_refused(name: str) -> None:
    if not compilable(name):
        return
    target = Target(name)
    for more in (b"\0", b"\xc0", good(name), b"x" * 1000):
        target.hit(good(name) + more)
    assert target.taken == 0


def test_flipped_bytes_are_refused_or_make_a_learner_that_works(name: str) -> None:
    if not compilable(name):
        return
    target, draw = Target(name), random.Random(2)
    for _ in range(TRIALS):
        bad = bytearray(good(name))
        for _ in range(draw.choice([1, 1, 1, 3, 20])):
            bad[draw.randrange(len(bad))] = draw.randrange(256)
        target.hit(bytes(bad))
    assert target.refused


def test_bytes_of_anything_else_are_refused(name: str) -> None:
    if not compilable(name):
        return
    target, others = Target(name), [good(other) for other in SAMPLES if other != name and compilable(other)]
    pickled = pickle.dumps(ZOO[name].build())
    noise = [random.Random(seed).randbytes(200) for seed in range(20)]
    for bad in [*others, pickled, *noise, b"", b"null", b"{}", b"[" * 10_000, b"\x91" * 10_000]:
        target.hit(bad)
        target.hit(good(name)[:8] + bad)
    assert target.taken == 0


def test_what_stands_in_another_place_or_has_another_type_is_refused_or_works(name: str) -> None:
    """Take the message apart, and put something else in the place of each of its parts."""
    if not compilable(name):
        return
    target, whole, draw = Target(name), good(name), random.Random(3)
    head, numbers = taken_apart(whole)
    changed = list(_changed([head, numbers], draw))
    for bad in changed if SOAK else draw.sample(changed, min(len(changed), 2 * TRIALS)):
        target.hit(put_together(*bad) if isinstance(bad, list) and len(bad) == 2 else msgspec.msgpack.encode(bad))
    assert target.refused


def taken_apart(whole: bytes) -> tuple[Any, bytes]:
    """Return the message at the head of a model's bytes, and the numbers behind it."""
    (length,) = struct.unpack_from("<I", whole, 8)
    return msgspec.msgpack.decode(whole[12 : 12 + length]), whole[12 + length :]


def put_together(head: Any, numbers: Any) -> bytes:
    """Return bytes that begin as a model's do, whatever the parts are."""
    written = msgspec.msgpack.encode(head)
    rest = numbers if isinstance(numbers, bytes) else msgspec.msgpack.encode(numbers)
    return b"HRarray2" + struct.pack("<I", len(written)) + written + rest


def _changed(message: Any, draw: random.Random) -> Iterator[Any]:
    """Yield the message with one part of it changed, for each part and each change."""
    odd: list[Any] = [
        None,
        [],
        {},
        "x",
        b"",
        b"\xff" * 8,
        -1,
        2**63 - 1,
        1e300,
        math.nan,
        math.inf,
        [[]],
        ["a", "a"],
        True,
    ]
    yield from odd
    if isinstance(message, list):
        for at, part in enumerate(message):
            for other in _changed(part, draw):
                yield [*message[:at], other, *message[at + 1 :]]
        yield message[:-1]
        yield [*message, *message]
        yield message[::-1]
    elif isinstance(message, bytes):
        yield message + message
        yield message[:-1]
        for value in (math.nan, -1.0, math.inf, 0.5, 0.0, 1e308, 2.0**60):
            at = 8 * draw.randrange(max(1, len(message) // 8))
            yield message[:at] + struct.pack("<d", value) + message[at + 8 :]
    elif isinstance(message, str):
        yield message + message
        yield "\ud800".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("wrong", [math.nan, -1.0, -0.5, 36.5, math.inf, 1e300, -math.inf], ids=str)
@pytest.mark.parametrize("step", ["standard", "centred"])
def test_counts_that_can_not_be_counted_are_refused(step: str, wrong: float) -> None:
    name = f"logistic: {step}"
    machine, target = compiled(name), Target(name)
    feed(machine, [({"a": float(at), "b": 1.0}, True) for at in range(TAUGHT)])
    whole, count = machine.dump(), struct.pack("<d", float(TAUGHT))
    places = [at for at in range(len(whole)) if whole[at : at + 8] == count]
    # Of the two features, and of the optimizer's steps.
    assert len(places) == 3
    for at in places:
        target.hit(whole[:at] + struct.pack("<d", wrong) + whole[at + 8 :])
    assert target.taken == 0


# Headers of msgpack that claim more than follows.
HUGE: dict[str, Callable[[bytes], bytes]] = {
    "array": lambda head: head + b"\xdd\xff\xff\xff\xff",
    "map": lambda head: head + b"\xdf\xff\xff\xff\xff",
    "bytes": lambda head: head + b"\xc6\xff\xff\xff\xff",
    "text": lambda head: head + b"\xdb\xff\xff\xff\xff",
    "extension": lambda head: head + b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("kind", HUGE)
def test_sizes_that_are_claimed_and_not_there_take_no_memory(name: str, kind: str) -> None:
    if not compilable(name):
        return
    target, whole = Target(name), good(name)
    for at in (8, 9, *random.Random(kind).choices(range(8, len(whole)), k=TRIALS // 10)):
        target.hit(HUGE[kind](whole[:at]) + whole[at:])
    target.hit(HUGE[kind](whole[:8]) + b"\x00" * 100_000)
    assert target.taken == 0


def test_names_and_classes_that_never_met_take_no_memory() -> None:
    """Few bytes name many features and many classes, and a model has numbers for each with each."""
    name, many = "Bayes, Gaussian: numbers and words", 20_000
    if not compilable(name):
        return
    target, whole = Target(name), good(name)
    head, _ = taken_apart(whole)
    names, classes = sorted(f"n{at}" for at in range(many)), [f"c{at}" for at in range(many)]
    numbers = struct.pack(f"<{3 * many}d", *[1.0] * (3 * many))
    parts = [[None, []] if at in {1, len(head[3]) - 1} else [b"", []] for at, _ in enumerate(head[3])]
    target.hit(put_together([*head[:2], names, parts, classes], numbers))
    assert target.taken == 0


def test_a_head_of_many_names_and_classes_without_numbers_asks_for_no_memory() -> None:
    model = compile_model(naive_bayes.GaussianNB())
    assert model is not None
    names = tuple(range(1_500))
    state = head(ModelLayout(names, (PartLayout(names, ()),)), spec=model.spec)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="not as many as its names"):
            model.load(state)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES_MAX
    finally:
        tracemalloc.stop()
