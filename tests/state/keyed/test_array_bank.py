import math
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, linear_model, optim, preprocessing, tree
from words import Words

from headrace.state.keyed import row_codec, rows, rows_codec
from headrace.state.keyed.array_bank import ArrayBank, slab_for
from headrace.state.keyed.bank import Bank
from headrace.state.models.learner import LabelError, ModelError, RiverLearner

SGD = optim.SGD
SHAPES: dict[str, Callable[[], Any]] = {
    "scaled logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "scaled linear": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "logistic": linear_model.LogisticRegression,
    "linear": lambda: linear_model.LinearRegression(SGD(0.001)),
    "l2": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(SGD(0.3), l2=0.1),
    "linear l2": lambda: linear_model.LinearRegression(SGD(0.001), l2=1),
    "fixed intercept": lambda: linear_model.LogisticRegression(SGD(0.1), intercept_lr=0, intercept_init=-1),
    "quick intercept": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(intercept_lr=1),
    "clipped": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(clip_gradient=0.5),
    "slower and slower": lambda: (
        preprocessing.StandardScaler()
        | linear_model.LogisticRegression(
            SGD(optim.schedulers.InverseScaling(0.5)), intercept_lr=optim.schedulers.InverseScaling(0.1, power=0.3)
        )
    ),
}
# Without numba the two are the same.
FORMS = {"interpreted": lambda: rows.INTERPRETED, "as installed": rows.kernel}
KEYS = [b"a", b"b", b"", b"\x00"]


@pytest.fixture(params=FORMS)
def kernel(request: pytest.FixtureRequest) -> Callable[[], rows.Kernel]:
    return FORMS[request.param]


def slab_of(shape: str, kernel: Callable[[], rows.Kernel] = lambda: rows.INTERPRETED) -> ArrayBank:
    slab = slab_for(SHAPES[shape](), kernel=kernel)
    assert slab is not None
    return slab


def records(task: str, *, count: int, seed: int, names: int = 12) -> Iterator[tuple[bytes, dict[str, Any], Any]]:
    """Yield records of several keys, whose features come late, vanish, reappear, and are of each kind of number."""
    rng = random.Random(seed)
    kinds = [lambda: rng.gauss(3, 2), lambda: rng.randint(-5, 5), lambda: rng.random() < 0.5, lambda: 7, lambda: 0.0]
    for k in range(count):
        known = [f"f{i}" for i in range(names * (k + 1) // count + 1)]
        chosen = rng.sample(known, rng.randint(0, len(known)))
        features = {name: kinds[int(name[1:]) % 5]() for name in chosen}
        label = rng.random() < 0.4 if task == "binary" else rng.choice([rng.gauss(0, 3), rng.randint(-9, 9)])
        yield rng.choice(KEYS), features, label


def bits(answer: Any) -> Any:
    """Return an answer so that equal means equal to the bit, with the same types."""
    if isinstance(answer, float):
        return "nan" if math.isnan(answer) else struct.pack("d", answer)
    if isinstance(answer, dict):
        return [(name, bits(value)) for name, value in answer.items()]
    return tuple(map(bits, answer)) if isinstance(answer, tuple) else answer


def taught(slab: ArrayBank, *, count: int = 60, seed: int = 1) -> ArrayBank:
    for key, features, label in records(slab.task, count=count, seed=seed):
        slab.learn(features, label, key)
    return slab


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", [12, 80])
def test_a_slab_answers_as_rivers_models_do_to_the_bit(
    shape: str, names: int, kernel: Callable[[], rows.Kernel]
) -> None:
    slab = slab_of(shape, kernel)
    rivers = {key: RiverLearner(SHAPES[shape]()) for key in KEYS}
    for key, features, label in records(slab.task, count=600, seed=names, names=names):
        assert bits(slab.predict(features, key)) == bits(rivers[key].predict(features))
        slab.learn(features, label, key)
        rivers[key].learn(features, label)
    assert slab.task == rivers[b"a"].task
    assert slab.spec == rivers[b"a"].spec


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**25), 10**25) | st.booleans()


@settings(max_examples=60)
@given(
    shape=st.sampled_from(list(SHAPES)),
    steps=st.lists(
        st.tuples(st.dictionaries(st.sampled_from("abcd"), NUMBERS, max_size=4), st.booleans()), max_size=12
    ),
)
def test_any_number_whatever_its_size_is_learned_as_river_learns_it(shape: str, steps: list[Any]) -> None:
    slab, river = slab_of(shape), RiverLearner(SHAPES[shape]())
    for features, label in steps:
        assert bits(slab.predict(features, b"k")) == bits(river.predict(features))
        slab.learn(features, label, b"k")
        river.learn(features, label)


def test_compiled_and_interpreted_make_the_same_bytes() -> None:
    for shape in SHAPES:
        one, other = taught(slab_of(shape)), taught(slab_of(shape, rows.kernel))
        assert [one.dump(key) for key in KEYS] == [other.dump(key) for key in KEYS]


def test_a_key_that_is_not_there_answers_as_one_that_is_new() -> None:
    slab = taught(slab_of("fixed intercept"))
    river = RiverLearner(SHAPES["fixed intercept"]())
    assert bits(slab.predict({"f0": 3, "unheard": 1}, b"new")) == bits(river.predict({"f0": 3, "unheard": 1}))
    assert b"new" not in slab


@pytest.mark.parametrize("shape", SHAPES)
def test_predicting_changes_nothing(shape: str, kernel: Callable[[], rows.Kernel]) -> None:
    slab = taught(slab_of(shape, kernel))
    before = {key: slab.dump(key) for key in KEYS}
    for key in [*KEYS, b"new"]:
        slab.predict({"f1": 1, "never seen": 2.0, "f0": 1e300}, key)
    assert {key: slab.dump(key) for key in KEYS} == before
    assert len(slab) == len(KEYS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", [12, 80])
def test_a_model_that_was_dumped_and_loaded_goes_on_to_the_bit_in_any_slot(
    shape: str, names: int, kernel: Callable[[], rows.Kernel]
) -> None:
    slab, other = slab_of(shape, kernel), slab_of(shape, kernel)
    # Another bank has met other features before, and its slots are others.
    other.learn({"f9": 1.0, "f2": 2, "else": 3.0}, True, b"z")
    for k, (key, features, label) in enumerate(records(slab.task, count=300, seed=3, names=names)):
        slab.learn(features, label, key)
        if k == 150:
            for known in reversed(KEYS):
                other.load(slab.dump(known), known)
        if k > 150:
            assert bits(other.predict(features, key))[0] is not None
            other.learn(features, label, key)
    for key in KEYS:
        assert other.dump(key) == slab.dump(key)
        other.load(slab.dump(key), key)
        assert other.dump(key) == slab.dump(key)


def test_the_bytes_of_a_model_tell_nothing_of_other_keys() -> None:
    alone, among = slab_of("l2"), slab_of("l2")
    among.learn({f"x{k}": 1.0 for k in range(70)}, True, b"other")
    for _, features, label in records("binary", count=50, seed=5):
        alone.learn(features, label, b"k")
        among.learn(dict(sorted(features.items())) if len(features) < 2 else features, label, b"k")
    assert alone.dump(b"k") == among.dump(b"k")


def test_a_model_of_ten_features_fits_in_600_bytes() -> None:
    slab = slab_of("scaled logistic")
    slab.learn({f"feature_{k:02d}": k / 7 for k in range(10)}, True, b"k")
    assert len(slab.dump(b"k")) <= 600


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", [12, 80])
def test_the_river_model_of_a_key_goes_on_as_the_key_does(shape: str, names: int) -> None:
    slab = slab_of(shape)
    stream = list(records(slab.task, count=200, seed=7, names=names))
    for key, features, label in stream[:100]:
        slab.learn(features, label, key)
    rivers = {key: RiverLearner(pickle.loads(pickle.dumps(slab.to_river(key)))) for key in KEYS}
    back = slab_of(shape)
    for key in KEYS:
        back.load_river(key, slab.to_river(key))
        assert back.dump(key) == slab.dump(key)
    for key, features, label in stream[100:]:
        assert bits(slab.predict(features, key)) == bits(rivers[key].predict(features))
        slab.learn(features, label, key)
        rivers[key].learn(features, label)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_river_model_is_loaded_with_all_that_it_has_learned(shape: str) -> None:
    slab, model = slab_of(shape), SHAPES[shape]()
    for _, features, label in records(slab.task, count=80, seed=9):
        model.predict_one({**features, "only predicted": 1.0})
        model.learn_one(features, label)
        slab.learn(features, label, b"taught")
    slab.load_river(b"loaded", model)
    assert slab.dump(b"loaded") == slab.dump(b"taught")


def test_a_river_model_of_another_shape_is_not_loaded() -> None:
    slab = taught(slab_of("l2"))
    before = slab.dump(b"a")
    for shape in ["scaled logistic", "scaled linear", "logistic"]:
        with pytest.raises(ModelError, match="shape"):
            slab.load_river(b"a", SHAPES[shape]())
    with pytest.raises(ModelError, match="shape"):
        slab.load_river(b"a", object())
    nameless, torn = SHAPES["l2"](), SHAPES["l2"]()
    nameless.learn_one({1: 2.0}, True)
    torn.learn_one({"x": 2.0}, True)
    torn["StandardScaler"].learn_one({"y": 2.0})
    for model in [nameless, torn]:
        with pytest.raises(ModelError, match="no bytes of a model of this bank"):
            slab.load_river(b"a", model)
    assert slab.dump(b"a") == before


class Louder(linear_model.LogisticRegression):
    pass


def scaled(model: Any) -> Any:
    return preprocessing.StandardScaler() | model


def trained() -> Any:
    model = scaled(linear_model.LogisticRegression())
    model.learn_one({"x": 1.0}, True)
    return model


@pytest.mark.parametrize(
    "model",
    [
        None,
        object(),
        tree.HoeffdingTreeClassifier(),
        preprocessing.StandardScaler(),
        Louder(),
        scaled(Louder()),
        scaled(linear_model.Perceptron()),
        scaled(linear_model.PAClassifier()),
        preprocessing.MinMaxScaler() | linear_model.LogisticRegression(),
        preprocessing.StandardScaler(with_std=False) | linear_model.LogisticRegression(),
        preprocessing.StandardScaler(window_size=5) | linear_model.LogisticRegression(),
        scaled(preprocessing.StandardScaler() | linear_model.LogisticRegression()),
        compose.Pipeline(linear_model.LogisticRegression()),
        scaled(linear_model.LogisticRegression(optim.Adam())),
        scaled(linear_model.LogisticRegression(SGD(optim.schedulers.Optimal(optim.losses.Log())))),
        scaled(linear_model.LogisticRegression(loss=optim.losses.Hinge())),
        scaled(linear_model.LogisticRegression(loss=optim.losses.Log(weight_pos=2))),
        scaled(linear_model.LinearRegression(loss=optim.losses.Huber())),
        scaled(linear_model.LogisticRegression(l1=0.1)),
        scaled(linear_model.LogisticRegression(initializer=optim.initializers.Normal(seed=1))),
        scaled(linear_model.LogisticRegression(initializer=optim.initializers.Constant(0.0))),
        scaled(linear_model.LogisticRegression(intercept_init=float("nan"))),
        trained(),
    ],
)
def test_a_model_that_is_not_known_exactly_has_no_slab(model: Any) -> None:
    assert slab_for(model) is None


def test_the_model_of_which_a_slab_was_made_is_left_alone() -> None:
    model = scaled(linear_model.LogisticRegression())
    slab = slab_for(model)
    assert slab is not None
    slab.learn({"x": 1.0}, True, b"k")
    model.learn_one({"y": 1.0}, True)
    assert set(slab.to_river(b"k")["LogisticRegression"].weights) == {"x"}


def test_a_label_is_taken_as_river_takes_it() -> None:
    assert slab_of("logistic").label(1) is True
    assert slab_of("linear").label(1) == 1
    with pytest.raises(LabelError):
        slab_of("logistic").label("yes")
    with pytest.raises(LabelError):
        slab_of("linear").label(True)


@pytest.mark.parametrize(
    ("value", "error"),
    [("3", TypeError), (None, TypeError), ([1], TypeError), ({}, TypeError), (10**400, OverflowError)],
)
@pytest.mark.parametrize("shape", ["scaled logistic", "linear"])
def test_a_feature_that_is_no_number_leaves_the_model_as_it_was(
    shape: str, value: Any, error: type[Exception], kernel: Callable[[], rows.Kernel]
) -> None:
    slab = taught(slab_of(shape, kernel))
    before = slab.dump(b"a")
    for key in [b"a", b"new"]:
        with pytest.raises(error, match="f1"):
            slab.predict({"f0": 1.0, "f1": value}, key)
        with pytest.raises(error, match="f1"):
            slab.learn({"f0": 1.0, "unheard": 2, "f1": value}, True, key)
    assert slab.dump(b"a") == before
    assert b"new" not in slab


def test_a_feature_without_a_name_that_could_be_saved_is_refused() -> None:
    slab = slab_of("linear")
    with pytest.raises(TypeError, match="no string"):
        slab.learn({1: 2.0}, 1, b"k")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="surrogates"):
        slab.learn({"\ud800": 2.0}, 1, b"k")
    assert len(slab) == 0


def mangled(state: bytes) -> Iterator[bytes]:
    row = msgspec.msgpack.decode(state)
    version, is_scaled, learned, intercept, names, fields = row
    numbers = list(struct.unpack(f"<{len(fields) // 8}d", fields))
    yield from (b"", b"\x00", state[:-1], state + b"\x00", b"\x93" + state, b"\x80\x05K\x01.")
    bad: list[list[Any]] = [
        [2, is_scaled, learned, intercept, names, fields],
        [version, not is_scaled, learned, intercept, names, fields],
        [version, is_scaled, -1, intercept, names, fields],
        [version, is_scaled, 1 << 60, intercept, names, fields],
        [version, is_scaled, learned, "0", names, fields],
        [version, is_scaled, learned, intercept, names[::-1], fields],
        [version, is_scaled, learned, intercept, [names[0]] * len(names), fields],
        [version, is_scaled, learned, intercept, names[1:], fields],
        [version, is_scaled, learned, intercept, [1] * len(names), fields],
        [version, is_scaled, learned, intercept, names, fields[:-8]],
        [version, is_scaled, learned, intercept, names, fields, 1],
    ]
    for at, number in [(0, 0.0), (0, 0.5), (0, math.nan), (0, math.inf), (3, -1e-300)]:
        changed = [*numbers[:at], number, *numbers[at + 1 :]]
        bad.append([version, is_scaled, learned, intercept, names, struct.pack(f"<{len(changed)}d", *changed)])
    yield from map(msgspec.msgpack.encode, bad)


def test_bytes_that_are_no_model_are_refused_and_change_nothing() -> None:
    slab = taught(slab_of("scaled logistic"))
    before = slab.dump(b"a")
    for state in mangled(before):
        for key in [b"a", b"new"]:
            with pytest.raises(ModelError, match="no bytes of a model of this bank") as caught:
                slab.load(state, key)
            assert caught.value.hint
    assert slab.dump(b"a") == before
    assert b"new" not in slab


@given(st.binary(max_size=80))
def test_random_bytes_are_refused(state: bytes) -> None:
    with pytest.raises(ModelError):
        slab_of("scaled logistic").load(state, b"a")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", [12, 80])
def test_a_dropped_row_is_clean_for_the_next_key(shape: str, names: int) -> None:
    slab, fresh = slab_of(shape), slab_of(shape)
    for key, features, label in records(slab.task, count=100, seed=11, names=names):
        slab.learn(features, label, key)
    for key in KEYS:
        slab.drop(key)
        slab.drop(key)
        assert key not in slab
        with pytest.raises(KeyError):
            slab.dump(key)
    assert len(slab) == 0
    held = slab.nbytes
    for key, features, label in records(slab.task, count=100, seed=12):
        assert bits(slab.predict(features, key)) == bits(fresh.predict(features, key))
        slab.learn(features, label, key)
        fresh.learn(features, label, key)
    assert [slab.dump(key) for key in KEYS] == [fresh.dump(key) for key in KEYS]
    assert slab.nbytes == held


def test_a_key_of_ten_features_costs_less_than_350_bytes() -> None:
    slab = slab_of("scaled logistic")
    state = taught_ten(slab)
    for k in range(3 * rows.CHUNK_ROWS - 2):
        slab.load(state, b"%d" % k)
    assert slab.nbytes / len(slab) < 350


def taught_ten(slab: ArrayBank) -> bytes:
    slab.learn({f"f{k}": 1.0 for k in range(10)}, True, b"k")
    return slab.dump(b"k")


def test_a_key_with_ever_new_features_costs_the_others_nothing() -> None:
    slab = slab_of("scaled logistic")
    state = taught_ten(slab)
    for k in range(rows.CHUNK_ROWS // 2):
        slab.load(state, b"%d" % k)
    for k in range(500):
        slab.learn({f"new{k}": 1.0, f"new{k}x": 1.0}, True, b"hostile")
    # All columns there may be, for one chunk, and what the one key has met.
    assert slab.nbytes < rows.CHUNK_ROWS * 64 * 32 + rows.CHUNK_ROWS * 16 + 1_000 * 32 + 64
    assert len(slab.to_river(b"hostile")["LogisticRegression"].weights) == 1_000


def test_records_with_more_features_than_any_before_find_room() -> None:
    slab, river = slab_of("scaled logistic"), RiverLearner(SHAPES["scaled logistic"]())
    for size in [3, 64, 65, 300, 5]:
        features = {f"f{k}": k / 7 + size for k in range(size)}
        for label in [True, False]:
            slab.learn(features, label, b"k")
            river.learn(features, label)
        assert bits(slab.predict(features, b"k")) == bits(river.predict(features))


def test_what_a_slab_keeps_of_records_that_it_has_seen_is_bounded() -> None:
    slab = slab_of("linear")
    for k in range(3_000):
        features = {f"{k} {j}": 1.0 for j in range(60)}
        slab.predict(features, b"k")
        if k % 100 == 0:
            slab.learn(features, 1, b"k")
    for table in [slab._table, *slab._loners.values()]:
        assert sum(map(len, table.plans)) <= 65_536
        assert len(table.plans) == 1 or table is slab._table


def test_a_bank_of_many_chunks_keeps_its_keys_apart(kernel: Callable[[], rows.Kernel]) -> None:
    slab = slab_of("scaled logistic", kernel)
    rng = random.Random(0)
    alone = {key: slab_of("scaled logistic", kernel) for key in [b"1", b"4095", b"4096", b"8999"]}
    for k in range(9_000):
        key = b"%d" % k
        for label in [True, False]:
            features = {"x": rng.random(), "late" if label else "y": rng.random()}
            slab.learn(features, label, key)
            if key in alone:
                alone[key].learn(features, label, key)
    assert len(slab) == 9_000
    for key, one in alone.items():
        assert slab.dump(key) == one.dump(key)


def test_a_slab_is_a_bank() -> None:
    bank: Bank = slab_of("scaled logistic")
    assert bank.codec == "slab-1"
    assert not len(bank)


def test_the_module_brings_in_neither_river_nor_numpy() -> None:
    code = "import sys, headrace.state.keyed.array_bank\n"
    code += "print([m for m in ('river', 'numpy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fork_goes_on_with_what_its_parent_has_compiled() -> None:
    code = (
        "import os; from headrace.state.keyed import array_bank; from river import linear_model as m;"
        "one = array_bank.slab_for(m.LogisticRegression()); one.learn({'x': 1}, True, b'k'); pid = os.fork();"
        "one.learn({'x': 2.0}, True, b'k'); os.write(1, one.dump(b'k').hex().encode() + b'\\n');"
        "assert not pid or os.waitpid(pid, 0)[1] == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first == second


class Homeless:
    """Compiles nothing, and finds no folder for what it would compile, as numba does in a read-only container."""

    def njit(self, _signature: str, *, cache: bool, error_model: str) -> Callable[[Any], Any]:
        assert error_model == "numpy"
        if cache:
            raise RuntimeError("cannot cache function 'dot': no locator available")
        return lambda function: function


def test_what_is_compiled_need_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", Homeless())
    assert rows.kernel.__wrapped__().compiled


def test_without_numba_the_functions_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert rows.kernel.__wrapped__() == rows.INTERPRETED


@pytest.mark.parametrize("shape", SHAPES)
def test_many_records_at_once_give_what_each_gives_alone(shape: str) -> None:
    slab, alone, words = slab_of(shape, rows.kernel), slab_of(shape), Words()
    assert slab.can.batches
    chance, answers, wanted = random.Random(3), [], []
    stream = list(records(slab.task, count=900, seed=5, names=60))
    while stream:
        batch = [stream.pop(0) for _ in range(min(len(stream), chance.choice([1, 7, 200])))]
        batch = [(key, x, label if chance.random() < 0.8 else None) for key, x, label in batch]
        columns = words.columns([(features, None) for _, features, _ in batch])
        labels = np.array([math.nan if label is None else float(label) for *_, label in batch])
        keys = [key for key, *_ in batch]
        assert slab.admit(keys, columns, labels)
        found = slab.learn_batch(columns, labels, keys=keys)
        assert not found.fault.any()
        answers += zip(found.value.tolist(), found.chosen.tolist(), strict=True)
        for key, features, label in batch:
            answer, proba = alone.predict(features, key)
            wanted.append((proba[True], answer) if proba else (answer, 0))
            if label is not None:
                alone.learn(features, label, key)
        words.turn()
    assert bits(tuple(float(value) for value, _ in answers)) == bits(tuple(float(value) for value, _ in wanted))
    assert [chosen for _, chosen in answers] == [chosen for _, chosen in wanted]
    assert {key: slab.dump(key) for key in KEYS} == {key: alone.dump(key) for key in KEYS}


def test_a_record_that_is_no_numbers_leaves_no_trace_among_many() -> None:
    slab, words = slab_of("scaled logistic", rows.kernel), Words()
    batch = [({"a": 1.0}, 1), ({"a": "x"}, 1), ({"a": None, "b": 2.0}, 1), ({"a": 3.0}, 1)]
    keys = [b"k", b"k", b"new", b"k"]
    columns, labels = words.columns(batch), np.ones(4)
    assert slab.admit(keys, columns, labels)
    assert slab.learn_batch(columns, labels, keys=keys).fault.tolist() == [0, 1, 1, 0]
    alone = slab_of("scaled logistic")
    for at in (0, 3):
        alone.learn(batch[at][0], True, b"k")
    assert slab.dump(b"k") == alone.dump(b"k")
    assert b"new" not in slab


def test_with_too_many_features_no_records_are_admitted_and_those_of_a_key_apart_neither() -> None:
    slab, words = slab_of("scaled logistic", rows.kernel), Words()
    many: list[tuple[dict[str, Any], Any]] = [({f"f{k}": 1.0 for k in range(65)}, 1)]
    few: list[tuple[dict[str, Any], Any]] = [({"f0": 1.0}, 1)]
    assert slab.admit([b"k"], words.columns(few), np.ones(1))
    assert not slab.admit([b"k"], words.columns(many), np.ones(1))
    assert slab.admit([b"k"], words.columns(many), np.full(1, math.nan)), "what is only asked takes no column"
    slab.learn(many[0][0], True, b"apart")
    assert not slab.admit([b"k", b"apart"], words.columns([*few, *few]), np.ones(2))
    assert slab.admit([b"k", b"k"], words.columns([*few, *few]), np.ones(2))


@pytest.mark.parametrize("shape", ["scaled logistic", "linear"])
def test_models_that_are_written_down_together_are_those_that_are_written_down_alone(shape: str) -> None:
    slab, chance = slab_of(shape), random.Random(1)
    keys = [b"%d" % k for k in range(5_000)]
    for key in keys:
        names = chance.sample("abcdef", chance.randint(0, 6)) if chance.random() < 0.3 else "abc"
        slab.learn({name: chance.random() for name in names}, True, key)
    slab.learn({f"f{k}": 1.0 for k in range(100)}, True, b"7")
    asked = [*chance.sample(keys, 4_000), b"7"]
    assert slab.dump_all(asked) == [slab.dump(key) for key in asked]
    assert slab.dump_all([]) == []
    with pytest.raises(KeyError, match="unheard of"):
        slab.dump_all([b"1", b"unheard of"])


@pytest.mark.parametrize("names", [[], ["a"], [f"feature {k}" for k in range(40)]])
def test_rows_are_written_together_as_they_are_alone_however_much_was_learned(names: list[str]) -> None:
    chance = np.random.default_rng(1)
    counts = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53, 5, 128]
    intercepts, fields = chance.normal(size=len(counts)), chance.normal(size=(len(counts), 4 * len(names)))
    alike = rows.Alike(np.arange(len(counts)), np.array(counts), intercepts, names, fields)
    found = {
        place: row.tobytes()
        for at, block in rows_codec.blocks(alike, scaled=True)
        for place, row in zip(at.tolist(), block, strict=True)
    }
    for place, (count, intercept, own) in enumerate(zip(counts, intercepts.tolist(), fields, strict=True)):
        assert found[place] == row_codec.write(count, intercept, names, own.tobytes(), scaled=True)


@pytest.mark.parametrize("fields", [b"", b"xx", b"x" * 8, b"x" * 32])
def test_a_row_whose_numbers_are_not_those_of_its_names_is_not_described(fields: bytes) -> None:
    """The store may hold anything, and a person may ask for it."""
    assert row_codec.describe(row_codec.write(1, 0.0, ["a", "b"], fields, scaled=True)) is None
