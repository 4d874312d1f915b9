"""Damages saved models, loads them, and ends at once when a load does anything but make objects.

    python codec_fuzz.py CASES SEED

A process of its own: what Python's audit hooks watch can't be unwatched. It prints what became of the cases as JSON.
"""

import copy
import json
import math
import os
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from every import MAKERS_FUZZED, records, teach

from headrace.state.models.codec.graph import CodecError
from headrace.state.models.codec.model_codec import ModelCodec

LOAD_S = 5
LEARN_S = 2
MEMORY_BYTES = 4 << 30
SAMPLED = 20
NASTY = [
    *("os:system", "builtins:eval", "builtins:type", "builtins:object", "builtins:getattr", "subprocess:Popen"),
    *("numpy:ndarray", "functools:partial", "copy:deepcopy", "random:Random", "random:Random.gauss", "numpy:ones"),
    *("river.datasets.synth.agrawal:Agrawal", "river.base.base:Base.clone", "river.base.estimator:EstimatorMeta"),
    *("river.compose.pipeline:Pipeline", "river.utils.rolling:Rolling", "river.stats.mean:Mean", "builtins:list"),
    *("__class__", "__dict__", "__init__", "__reduce__", "learn_one", "predict_one", "_predict", "obj", "data", ""),
    *(
        "array",
        "Random",
        "MT19937",
        "AdaptiveWindowing",
        "RsQuantile",
        "bytearray",
        "int",
        "tuple",
        "partial",
        "method",
    ),
]
NUMBERS = [
    0,
    1,
    2,
    3,
    255,
    624,
    625,
    2**31,
    2**32,
    2**48,
    2**63 - 1,
    -1,
    -(2**63),
    10**9,
    10**12,
    0.5,
    math.nan,
    math.inf,
]


class _Late(Exception):
    """Raised when a step takes too long."""


class _Watch:
    """Ends the process when something happens that a load may not do."""

    def __init__(self) -> None:
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: Any) -> None:
        if self.on and event != "builtins.id":
            self.on = False
            sys.stderr.write(f"a load did {event} {arguments!r:.200}\n")
            sys.stderr.flush()
            os._exit(3)


def main(cases: int, seed: int) -> None:
    """Try so many cases."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    source = random.Random(seed)
    subjects = [_subject(name) for name in MAKERS_FUZZED]
    raws = [raw for _, raw, _ in subjects]
    signal.signal(signal.SIGPROF, _ring)
    watch, fates, slowest_s = _Watch(), Counter[str](), 0.0
    for case in range(cases):
        codec, raw, rows = subjects[case % len(subjects)]
        bad = _damaged(raw, raws, source)
        began_s = time.process_time()
        model = _loaded(codec, bad, watch)
        spent_s = time.process_time() - began_s
        slowest_s = max(slowest_s, spent_s)
        fate = "refused" if model is None else "loaded"
        if model is not None and source.randrange(SAMPLED) == 0:
            fate = _used(model, rows)
        model = None
        fates[fate] += 1
    sys.stdout.write(json.dumps({"fates": fates, "slowest_s": slowest_s}) + "\n")


def _loaded(codec: ModelCodec, bad: bytes, watch: _Watch) -> Any:
    """Return the model that damaged bytes stand for; None for none."""
    signal.setitimer(signal.ITIMER_PROF, LOAD_S)
    watch.on = True
    try:
        return codec.load(bad)[1]
    except CodecError:
        return None
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)


def _ring(*_: object) -> None:
    raise _Late


def _subject(name: str) -> tuple[ModelCodec, bytes, list[Any]]:
    make = MAKERS_FUZZED[name]
    model = make()
    rows = records(model, 60)
    teach(model, rows[:50])
    codec = ModelCodec(make())
    raw = codec.dump(("", model))
    assert raw is not None
    return codec, raw, rows[50:]


def _used(model: Any, rows: list[Any]) -> str:
    """Ask the model and teach it: it may raise what it will, as long as that is an exception."""
    signal.setitimer(signal.ITIMER_PROF, LEARN_S)
    try:
        teach(model, copy.deepcopy(rows[:2]))
    except _Late:
        return "used, without an end"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "used"


def _damaged(raw: bytes, raws: list[bytes], source: random.Random) -> bytes:
    match source.randrange(8):
        case 0:
            return _flipped(raw, source)
        case 1:
            return raw[: source.randrange(len(raw))]
        case 2:
            other = source.choice(raws)
            at = source.randrange(len(raw))
            return raw[:at] + other[source.randrange(len(other)) :]
        case 3:
            start, length, at = source.randrange(len(raw)), source.randrange(64), source.randrange(len(raw))
            return raw[:at] + raw[start : start + length] + raw[at + source.choice((0, length)) :]
    tree = msgspec.msgpack.decode(raw)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        _bend(tree, source)
    try:
        return msgspec.msgpack.encode(tree)
    except (OverflowError, RecursionError, UnicodeEncodeError):
        return b""


def _flipped(raw: bytes, source: random.Random) -> bytes:
    bad = bytearray(raw)
    for _ in range(source.choice((1, 1, 2, 8, 64))):
        bad[source.randrange(len(bad))] ^= 1 << source.randrange(8)
    return bytes(bad)


def _bend(tree: list[Any], source: random.Random) -> None:
    """Change one place in a tree of lists: its number, its name, its order."""
    node = tree
    while True:
        if not node:
            node.append(source.choice(NUMBERS))
            return
        at = source.randrange(len(node))
        if not isinstance(node[at], list) or source.randrange(6) == 0:
            break
        node = node[at]
    match source.randrange(6):
        case 0:
            del node[at]
        case 1:
            node.insert(at, copy.deepcopy(source.choice(node)))
        case 2:
            other = source.randrange(len(node))
            node[at], node[other] = node[other], node[at]
        case _:
            node[at] = _other(node[at], source)


def _other(value: Any, source: random.Random) -> Any:
    match value:
        case bool() | None:
            return source.choice([*NUMBERS, True, False, None])
        case int():
            return source.choice([value + 1, value - 1, source.randrange(value + 9) if value >= 0 else 0, *NUMBERS])
        case float():
            return source.choice([-value, *NUMBERS])
        case str():
            return source.choice([*NASTY, value[:-1], value + "x"])
        case bytes() if value:
            return _flipped(value, source)
    return source.choice([*NUMBERS, [], b"", None, "x"])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(int(sys.argv[1]), int(sys.argv[2]))
