"""One suite over every compiled model: what River answers it answers, in batches of any size and for ever."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flood import Record
from river import linear_model
from twin import (
    COUNT,
    Census,
    River,
    Said,
    Words,
    batches,
    compilable,
    compiled,
    feed,
    feed_all,
    food,
    labels,
    one_by_one,
    told,
    truth,
)
from zoo import ZOO

from headrace.state.compiled.compiler import compile_model, explain
from headrace.state.models.columns import FeatureColumns
from headrace.state.models.task import task_of

pytestmark = pytest.mark.timeout(60)
SINGLES = COUNT // 3
"""Records that are asked for one at a time."""


# All tests of a model in one process of the test run: what River says is computed there once.
@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name), id=name.replace(" ", "-")) for name in ZOO]
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_same(ours: Sequence[Said], theirs: Sequence[Said]) -> None:
    """Ask for the same answers to the last bit."""
    census = Census()
    census.count(ours, theirs)
    assert not census.differ[:3], f"{len(census.differ)} differ"
    assert census.same == census.numbers, f"{census.numbers - census.same} numbers differ, by {census.gap} at most"


def test_models_that_must_be_compiled_are(name: str) -> None:
    model = ZOO[name].build()
    verdicts = explain(model)
    assert verdicts
    assert all(bool(verdict.reason) is not verdict.compiled for verdict in verdicts)
    refused = [f"{verdict.step}: {verdict.reason}" for verdict in verdicts if not verdict.compiled]
    assert compilable(name) is not bool(refused)
    assert not (ZOO[name].must and refused), refused


def test_the_zoo_lives(name: str) -> None:
    """A model that answers nothing but errors, or ever the same, would prove nothing."""
    if not (compilable(name) or ZOO[name].must):
        return
    said = truth(name).said
    answered = [one for one in said if not isinstance(one, Exception)]
    assert len(answered) > 0.7 * len(said)
    # Of a feature that it has not met, a MinMaxScaler makes NaN.
    assert len({repr(answer) for answer in answered if "nan" not in repr(answer)}) > 0.2 * len(said)


def test_a_batch_answers_as_river_does(name: str, record_property: Callable[[str, Any], None]) -> None:
    if not compilable(name):
        return
    machine, expected = compiled(name), truth(name)
    census = Census()
    census.count(feed_all(machine, expected.records, seed=1), expected.said)
    record_property("census", [name, census.numbers, census.same, census.gap, census.faults, len(census.differ)])
    assert not census.differ[:3], f"{len(census.differ)} of {len(expected.said)} differ"


def test_extreme_numbers_end_as_rivers_do(name: str) -> None:
    if not compilable(name):
        return
    expected, census = truth(name, extreme=True), Census()
    census.count(feed_all(compiled(name), expected.records, seed=2), expected.said)
    assert not census.differ[:3], f"{len(census.differ)} of {len(expected.said)} differ"


def test_one_record_at_a_time_it_answers_as_in_a_batch(name: str) -> None:
    if not compilable(name):
        return
    records = food(name)[:SINGLES]
    single, many, mixed, words = compiled(name), compiled(name), compiled(name), Words()
    expected = feed(many, records)
    assert_same(one_by_one(single, records), expected)
    # Batches and single records may follow one another.
    said: list[Said] = []
    for at, batch in enumerate(batches(records, seed=3, longest=50)):
        said += feed(mixed, batch, words) if at % 2 else one_by_one(mixed, batch)
    assert_same(said, expected)
    assert single.dump() == many.dump() == mixed.dump()


def test_the_size_of_batches_makes_no_difference(name: str) -> None:
    if not compilable(name):
        return
    records, whole, silent, sliced = food(name), compiled(name), compiled(name), compiled(name)
    expected = feed(whole, records)
    for seed in (4, 5):
        cut = compiled(name)
        assert_same(feed_all(cut, records, seed=seed, words=Words()), expected)
        assert cut.dump() == whole.dump()
    words, said = Words(), []
    columns = words.columns(records)
    for first in range(0, len(records), 37):
        last = min(first + 37, len(records))
        part = columns._replace(starts=columns.starts[first : last + 1])
        # The number of a class that was never learned holds for one batch.
        numbers = labels(sliced, records[first:last])
        said += told(sliced, sliced.learn_batch(part, numbers), records[first:last])
    assert_same(said, expected)
    faults = silent.learn_batch(words.columns(records), labels(silent, records), silent=True).fault
    assert [bool(fault) for fault in faults] == [isinstance(one, Exception) for one in expected]
    assert sliced.dump() == silent.dump() == whole.dump()


def test_what_is_only_asked_leaves_no_trace(name: str) -> None:
    if not compilable(name):
        return
    records, asked, whole, words = food(name), compiled(name), compiled(name), Words()
    expected, said = feed(whole, records), []
    odd: list[Record] = [({"never": 3.0, "seen": True, "a": 0.5, "shop": "mars"}, None), ({}, None)]
    for batch in batches(records, seed=6, longest=100):
        feed(asked, [*odd, *((features, None) for features, _ in batch), *odd], words)
        one_by_one(asked, odd)
        said += feed(asked, batch, words)
    assert_same(said, expected)
    assert asked.dump() == whole.dump()


def test_saved_and_loaded_it_goes_on_to_the_bit(name: str) -> None:
    """Over dumps, other generations of one vocabulary, and other vocabularies of the same generation."""
    if not compilable(name):
        return
    records, machine, whole, words = food(name), compiled(name), compiled(name), Words()
    expected, said = feed(whole, records), []
    for at, batch in enumerate(batches(records, seed=7, longest=100)):
        if at % 3 == 0:
            fresh = compiled(name)
            fresh.load(machine.dump())
            assert fresh.dump() == machine.dump()
            assert fresh.classes == machine.classes
            machine = fresh
        elif at % 3 == 1:
            words.turn()
        said += feed(machine, batch, Words() if at % 4 == 3 else words)
    assert_same(said, expected)
    assert machine.dump() == whole.dump()


def test_river_and_it_go_on_from_one_another(name: str) -> None:
    if not compilable(name):
        return
    expected = truth(name)
    half = len(expected.records) // 2
    first, second = expected.records[:half], expected.records[half:]
    machine = compiled(name)
    feed(machine, first)
    census = Census()
    river = River(machine.to_river())
    census.count([river.take(*record) for record in second[:SINGLES]], expected.said[half : half + SINGLES])
    # What has been learned by River is taken on, too; what it is taken from goes on undisturbed.
    taught = copy.deepcopy(expected.half)
    again = compile_model(taught)
    assert again is not None
    census.count(feed_all(again, second, seed=8), expected.said[half:])
    assert not census.differ[:3], f"{len(census.differ)} differ"
    back = compile_model(machine.to_river())
    assert back is not None
    stable = compile_model(back.to_river())
    assert stable is not None
    assert stable.dump() == back.dump()
    assert_same(feed(back, second), feed(machine, second))


def test_learners_of_one_template_are_independent(name: str) -> None:
    if not compilable(name):
        return
    template, records = ZOO[name].build(), food(name)[:SINGLES]
    one, another = compile_model(template), compile_model(template)
    assert one is not None
    assert another is not None
    untouched = another.dump()
    feed(one, records)
    river = one.to_river()
    assert another.dump() == untouched == compiled(name).dump()
    taught = one.dump()
    feed(another, records[:9])
    with_river = River(river)
    for features, label in records[:9]:
        with_river.take(features, label)
    assert one.dump() == taught != untouched
    assert one.spec == another.spec
    assert one.task == task_of(template)


def test_an_empty_batch_and_empty_records_are_answered(name: str) -> None:
    if not compilable(name):
        return
    machine, river = compiled(name), River(ZOO[name].build())
    records: list[Record] = [({}, None), ({}, None)]
    for batch in ([], records, records):
        census = Census()
        census.count(feed(machine, batch), [river.take(*record) for record in batch])
        assert not census.differ


def test_many_new_names_and_words_in_one_record_find_room(name: str) -> None:
    """Arrays grow in the middle of a batch, whatever it is that there is more of."""
    if not compilable(name):
        return
    machine, river, draw = compiled(name), River(ZOO[name].build()), random.Random(9)
    records: list[Record] = []
    for at, (features, label) in enumerate(food(name)[:40]):
        many: dict[str, Any] = {f"n{draw.randrange(300)}": draw.randint(0, 3) for _ in range(at * 5)}
        if ZOO[name].food in {"words", "categories", "hashable"}:
            many |= {f"w{draw.randrange(30)}": f"v{draw.randrange(9)}" for _ in range(at)}
        records.append(({**features, **many}, label))
    census = Census()
    census.count(feed_all(machine, records, seed=9, words=Words()), [river.take(*record) for record in records])
    assert not census.differ[:3], f"{len(census.differ)} differ"


def test_a_batch_leaves_its_columns_as_they_were() -> None:
    machine, records = compiled("logistic: numbers and words"), food("logistic: numbers and words")
    columns, numbers = Words().columns(records), labels(machine, records)
    before = [array.copy() for array in (*columns[:4], numbers)]
    machine.learn_batch(columns, numbers)
    for now, then in zip((*columns[:4], numbers), before, strict=True):
        assert now.tobytes() == then.tobytes()
    assert isinstance(columns, FeatureColumns)


class Own(linear_model.LogisticRegression):
    """It may do anything."""


def test_a_class_of_ones_own_is_not_compiled() -> None:
    assert compile_model(Own()) is None
    assert not all(verdict.compiled for verdict in explain(Own()))
