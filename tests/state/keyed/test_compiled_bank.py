import pickle
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, naive_bayes, optim, preprocessing
from words import Words

from headrace.state.compiled import compiled_codec, compiler
from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.compiled_bank import CompiledBank
from headrace.state.models.columns import Answers
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError

KEYS = [b"a", b"b", b"", b"\x00"]
Keyed = tuple[bytes, dict[str, Any], Any]


def scaled() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def bank_for(model: Any, *, prior: bool = False) -> CompiledBank:
    bank = bank_of(RiverLearner(model), compiles=True, prior=prior)
    assert isinstance(bank, CompiledBank)
    return bank


def records(count: int, *, seed: int, names: int = 12) -> Iterator[Keyed]:
    """Yield records of several keys whose features come late, vanish and reappear."""
    rng = random.Random(seed)
    for at in range(count):
        known = [f"f{i}" for i in range(names * (at + 1) // count + 1)]
        features = {name: rng.gauss(3, 2) for name in rng.sample(known, rng.randint(0, len(known)))}
        yield rng.choice(KEYS), features, rng.random() < 0.4


def taught(bank: CompiledBank, stream: Sequence[Keyed], words: Words | None = None) -> Answers:
    columns = (words or Words()).columns([(features, None) for _, features, _ in stream])
    labels = np.array([np.nan if label is None else bank.label_number(label) for *_, label in stream], float)
    answers = bank.learn_keys(columns, labels, [key for key, *_ in stream], ())
    assert answers is not None
    return answers


def dumped(bank: CompiledBank) -> dict[bytes, bytes]:
    return {key: bank.dump(key) for key in KEYS if key in bank}


def test_a_model_with_an_unknown_step_or_without_compiling_is_kept_as_objects() -> None:
    river = RiverLearner(preprocessing.StandardScaler(window_size=5) | linear_model.LogisticRegression())
    assert isinstance(bank_of(river, compiles=True), RiverBank)
    assert isinstance(bank_of(RiverLearner(scaled()), compiles=False), RiverBank)


def test_what_the_factorys_model_has_learned_is_where_each_key_begins() -> None:
    model = scaled()
    for _, features, label in records(30, seed=1):
        model.learn_one(features, label)
    bank, river = bank_for(model), RiverLearner(pickle.loads(pickle.dumps(model)))
    for _, features, label in records(30, seed=2):
        assert bank.predict(features, b"k") == river.predict(features)
        bank.learn(features, label, b"k")
        river.learn(features, label)


def test_the_bytes_of_a_model_say_nothing_of_other_keys() -> None:
    alone, among = bank_for(scaled()), bank_for(scaled())
    taught(among, [(b"other", {f"x{k}": 1.0 for k in range(70)}, True), (b"other", {"f1": 1.0}, True)])
    for _, features, label in records(50, seed=5):
        alone.learn(features, label, b"k")
        among.learn(features, label, b"k")
    assert alone.dump(b"k") == among.dump(b"k")


def test_predicting_changes_nothing_and_makes_no_key() -> None:
    bank = bank_for(scaled())
    taught(bank, list(records(60, seed=3)))
    before, arrays = dumped(bank), bank._arena.ends
    for key in [*KEYS, b"new"]:
        bank.predict({"f1": 1, "never seen": 2.0, "f0": 1e300}, key)
    assert dumped(bank) == before
    assert b"new" not in bank
    assert bank._arena.ends == arrays


def test_a_key_that_was_dropped_is_new_again_and_its_row_is_used_again() -> None:
    bank, fresh = bank_for(scaled()), bank_for(scaled())
    taught(bank, list(records(100, seed=11)))
    for key in KEYS:
        bank.drop(key)
        bank.drop(key)
        assert key not in bank
        with pytest.raises(KeyError):
            bank.dump(key)
    assert len(bank) == 0
    again = list(records(100, seed=12))
    assert taught(bank, again).value.tolist() == taught(fresh, again).value.tolist()
    assert dumped(bank) == dumped(fresh)


def test_models_that_are_dumped_together_are_those_that_are_dumped_alone() -> None:
    bank, draw = bank_for(scaled()), random.Random(1)
    keys = [b"%d" % k for k in range(3_000)]
    taught(bank, [(key, {n: draw.random() for n in draw.sample("abcdef", draw.randint(0, 6))}, True) for key in keys])
    asked = draw.sample(keys, 2_000)
    assert bank.dump_all(asked) == [bank.dump(key) for key in asked]
    assert bank.dump_all([]) == []
    with pytest.raises(KeyError, match="unknown"):
        bank.dump_all([b"1", b"unknown"])


def test_a_key_of_ten_features_takes_less_than_400_bytes_and_700_when_saved() -> None:
    bank, features = bank_for(scaled()), {f"feature_{k:02d}": k / 7 for k in range(10)}
    taught(bank, [(b"%d" % k, features, True) for k in range(20_000)])
    assert bank._arena.nbytes / len(bank) < 400
    assert len(bank.dump(b"7")) < 700


def test_the_room_of_models_that_grow_or_are_dropped_is_used_again() -> None:
    bank, words = bank_for(scaled()), Words()
    keys = [b"%d" % k for k in range(2_000)]
    for turn in range(40):
        taught(bank, [(key, {f"f{turn}": 1.0, f"g{turn % 3}": 2.0}, True) for key in keys], words)
        if turn % 10 == 9:
            for key in keys:
                bank.drop(key)
    taught(bank, [(key, {"f": 1.0}, True) for key in keys], words)
    # A model of one feature has six numbers.
    assert bank._arena.ends[1] < 2 * 6 * len(keys) + 2**16
    assert len(bank._arena._known) < 200


def test_keys_with_features_that_no_other_key_has_cost_the_others_nothing() -> None:
    bank = bank_for(scaled())
    taught(bank, [(b"%d" % k, {"a": 1.0}, True) for k in range(2_000)])
    before = bank._arena.nbytes
    for k in range(50):
        bank.learn({f"new{k}": 1.0, f"new{k}x": 1.0}, True, b"hostile")
    assert bank._arena.nbytes < before + 2**20
    assert len(bank.to_river(b"hostile")["LogisticRegression"].weights) == 100


def test_a_record_that_raises_leaves_no_trace_among_many() -> None:
    bank, alone = bank_for(scaled()), bank_for(scaled())
    batch: list[Keyed] = [
        (b"k", {"a": 1.0}, True),
        (b"k", {"a": "x"}, True),
        (b"new", {"a": None, "b": 2.0}, True),
        (b"k", {"a": 3.0}, True),
    ]
    assert (taught(bank, batch).fault != 0).tolist() == [False, True, True, False]
    for at in (0, 3):
        alone.learn(batch[at][1], True, b"k")
    assert bank.dump(b"k") == alone.dump(b"k")
    assert b"new" not in bank


def poisson() -> Any:
    return linear_model.LinearRegression(optim.SGD(0.1), loss=optim.losses.Poisson(), intercept_lr=0.0)


def test_a_record_on_which_only_the_keys_model_raises_teaches_the_prior_nothing() -> None:
    """The model of x predicts exp(1000); the prior has learned meanwhile that all is small."""
    before: list[Keyed] = [(b"x", {"a": 1.0}, 1_000), (b"y", {"a": 1.0}, 0)]
    batch: list[Keyed] = [(b"x", {"a": 10.0}, 5), (b"y", {"b": 1.0}, 2), (b"x", {"b": 1.0}, 2), (b"x", {"a": 10.0}, 3)]
    bank, without = bank_for(poisson(), prior=True), bank_for(poisson(), prior=True)
    for one in (bank, without):
        for key, features, label in before:
            one.learn(features, label, key)
    assert bank.prior is not None
    assert without.prior is not None
    assert (taught(bank, batch).fault != 0).tolist() == [True, False, False, True]
    taught(without, batch[1:3])
    assert bank.prior.dump() == without.prior.dump()
    assert dumped(bank) == dumped(without)
    with pytest.raises(OverflowError):
        bank.learn(batch[0][1], 5, b"x")
    assert bank.prior.dump() == without.prior.dump()


def test_if_key_after_key_raises_the_records_go_one_by_one_and_nothing_has_changed() -> None:
    bank = bank_for(poisson(), prior=True)
    for key, label in ((b"x", 1_000), (b"y", 0)):
        bank.learn({"a": 1.0}, label, key)
    assert bank.prior is not None
    before, prior = bank.dump(b"x"), bank.prior.dump()
    columns = Words().columns([({"a": 10.0}, None)] * 9)
    assert bank.learn_keys(columns, np.full(9, 5.0), [b"x"] * 9, ()) is None
    assert (bank.dump(b"x"), bank.prior.dump()) == (before, prior)


def test_the_classes_of_each_key_have_its_own_order() -> None:
    bank = bank_for(naive_bayes.GaussianNB())
    rivers = {key: RiverLearner(naive_bayes.GaussianNB()) for key in (b"a", b"b", b"c")}
    stream: list[Keyed] = [
        (key, {"x": float(at), "y": at % 3}, label)
        for at, (key, label) in enumerate(
            [(b"a", "red"), (b"b", "blue"), (b"a", "blue"), (b"b", "red"), (b"c", None), (b"a", "green"), (b"b", 1)]
        )
    ]
    answers = taught(bank, stream)
    assert answers.fault[:-1].tolist() == [0] * 6
    with pytest.raises(ValueError, match="kind of this model's classes"):
        raise bank.fault(int(answers.fault[-1]), {})
    for at, (key, features, label) in enumerate(stream[:-1]):
        answer, proba = rivers[key].predict(features)
        found, shares = bank.answer(answers, at)
        assert (found, shares, list(shares or ())) == (answer, proba, list(proba or ()))
        if label is not None:
            rivers[key].learn(features, label)
    assert bank.predict({"x": 1.0}, b"b") == rivers[b"b"].predict({"x": 1.0})


def mangled(state: bytes) -> Iterator[bytes]:
    yield from (b"", b"\x00", state[:-1], state[:-8], state + b"\x00", state + bytes(8), b"\x93" + state)
    for at in range(0, len(state), 7):
        yield state[:at] + bytes([state[at] ^ 0x80]) + state[at + 1 :]


def test_bytes_that_are_no_model_are_refused_and_change_nothing() -> None:
    bank = bank_for(scaled())
    taught(bank, list(records(60, seed=3)))
    before, refused = dumped(bank), 0
    for state in mangled(before[b"a"]):
        for key in (b"a", b"new"):
            try:
                bank.load(state, key)
            except ModelError as error:
                refused += bool(error.hint)
            else:
                # Another number is a number, too.
                assert bank.dump(key) == state
                bank.load(before[b"a"], b"a")
                bank.drop(b"new")
    assert refused > 50
    assert dumped(bank) == before
    assert b"new" not in bank


@given(st.binary(max_size=80))
def test_random_bytes_are_refused(state: bytes) -> None:
    with pytest.raises(ModelError):
        bank_for(scaled()).load(state, b"a")


@pytest.mark.parametrize("number", [0.0, 0.5, np.nan, np.inf, -1.0])
def test_a_count_that_is_none_is_refused_also_of_a_known_layout(number: float) -> None:
    bank = bank_for(scaled())
    taught(bank, [(b"a", {"x": 1.0}, True)])
    state = bank.dump(b"a")
    bank.load(state, b"b")
    program = compiler.draft(scaled())
    assert program is not None
    layout, numbers = compiled_codec.read(state, program.parts, spec=bank.spec)
    numbers = numbers.copy()
    numbers[0] = number
    with pytest.raises(ModelError, match="can't be learned"):
        bank.load(compiled_codec.write(layout, numbers, spec=bank.spec), b"b")
    assert bank.dump(b"b") == state
