"""Shadows in batches: what a batch gives is what its records give one by one, whichever way each shadow takes."""

from typing import Any

import pytest
from river import compose, linear_model
from side_by_side import (
    bagging,
    batch_of,
    compiled,
    compiled_otherwise,
    engine,
    keyed,
    learned,
    logistic,
    river,
    run,
    shard_of,
    stream,
    told,
)

from headrace.consumers.record import Record
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.columns import Columns
from headrace.state.models.model import Model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard
from headrace.state.store.store_errors import StoreAway


def _shard() -> Shard:
    return shard_of(compiled(), other=compiled_otherwise(), bagging=bagging(), keyed=keyed(), single=river(logistic()))


def _selecting() -> Model:
    """Return a compiled model that does not look at the feature `a`."""
    model = compile_model(compose.Select("b") | linear_model.LogisticRegression())
    assert model is not None
    return UndoableModel(model)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_gives_what_its_records_give_one_by_one(seed: int) -> None:
    records, (fast, slow) = stream(seed), (_shard(), _shard())
    assert told(run(fast, records, fast=True, seed=seed)) == told(run(slow, records, fast=False, seed=seed))
    for name in fast.models:
        assert learned(fast, name) == learned(slow, name), name


def test_a_record_that_a_compiled_shadow_can_not_learn_is_its_fault_alone() -> None:
    """It adds a word to numbers, which River and the compiled model refuse alike."""
    words = [b'"word"' if number % 10 == 3 else b"%d" % (number % 4) for number in range(60)]
    values = [b'{"features": {"a": %s, "b": 1}, "label": %d}' % (a, at % 2) for at, a in enumerate(words)]
    records = [Record(0, at, 1, b"k1", value, None) for at, value in enumerate(values)]
    fast, slow = (shard_of(_selecting(), other=compiled()) for _ in range(2))
    assert told(run(fast, records, fast=True)) == told(run(slow, records, fast=False))
    assert learned(fast, "other") == learned(slow, "other")
    assert fast.models["other"].faults == 6


def test_a_shadow_that_fails_in_a_batch_is_taken_out_and_the_batch_goes_on() -> None:
    shard, alone, records = shard_of(compiled(), other=compiled_otherwise()), shard_of(compiled()), stream(1)

    def fails(*_args: Any, **_options: Any) -> Any:
        raise IndexError("out of bounds")

    shard.models["other"].model.learn_batch = fails  # type: ignore[method-assign]
    assert told(run(shard, records, fast=True)) == told(run(alone, records, fast=True))
    assert shard.failed["other"].reason == "IndexError: out of bounds"


def test_a_store_that_goes_away_is_no_fault_of_a_shadow() -> None:
    shard = shard_of(compiled(), other=compiled_otherwise())

    def away(*_args: Any, **_options: Any) -> Any:
        raise StoreAway("gone")

    shard.models["other"].model.learn_batch = away  # type: ignore[method-assign]
    with pytest.raises(StoreAway):
        run(shard, stream(1), fast=True)
    assert (shard.failed, shard.models["other"].faults) == ({}, 0)


def test_a_shadow_that_takes_batches_gets_each_batch_in_one_call() -> None:
    shard, calls = shard_of(compiled(), other=compiled_otherwise()), list[int]()
    taken = shard.models["other"].model.learn_batch

    def counted(columns: Columns, labels: Any, **options: Any) -> Any:
        calls.append(len(labels))
        return taken(columns, labels, **options)

    shard.models["other"].model.learn_batch = counted  # type: ignore[method-assign]
    records = [record for record in stream(2) if record.value != b"{"]
    engine(fast=True).run(shard, batch_of(records), now_ms=5)
    assert calls == [len(records)]


def test_a_silent_batch_teaches_shadows_the_same() -> None:
    aloud, silent, records = _shard(), _shard(), stream(3)
    for shard in (aloud, silent):
        engine(fast=True).run(shard, batch_of(records), now_ms=5, silent=shard is silent)
    for name in aloud.models:
        assert learned(aloud, name) == learned(silent, name), name
