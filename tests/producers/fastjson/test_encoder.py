"""Predictions by the batch: byte for byte what `prediction.encode` makes of each."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.producers import prediction
from headrace.producers.fastjson import encoder
from headrace.producers.fastjson.encoder import Encoder, Ids, warm

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# A user's own classes may be numpy's scalars.
_SCALARS = TEXT.map(np.str_) | st.integers(-(2**63), 2**63 - 1).map(np.int64) | st.booleans().map(np.bool_)
NAMES = st.lists(
    TEXT | st.integers(-(2**70), 2**70) | st.booleans() | _SCALARS,
    min_size=1,
    max_size=5,
    unique_by=prediction.class_name,
)
OFFSETS = st.integers(0, 2**63 - 1)
WHERE = {"partition": 3, "version": 17, "ts": 1_700_000_000_005}


def ids(told: Sequence[str | None]) -> Ids:
    # A gap before each, as between the quotes of a batch of values.
    parts = [b"" if id_ is None else msgspec.json.encode(id_)[1:-1] for id_ in told]
    ends = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64)
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    missing = np.array([id_ is None for id_ in told], dtype=bool)
    text = np.frombuffer(bytearray(b"".join(b"?" + part for part in parts)), dtype=np.uint8)
    return Ids(text, np.where(missing, -1, ends - sizes), sizes)


def one_by_one(
    told: Sequence[str | None],
    offsets: Sequence[int],
    answers: Sequence[Any],
    probas: Sequence[Any] | None = None,
    scores: Sequence[float] | None = None,
    *,
    topic: str = "features",
    name: str = "fraud",
    partition: int = 3,
    version: int = 17,
    ts: int = 1_700_000_000_005,
) -> list[bytes]:
    return [
        prediction.encode(
            id_=f"{topic}-{partition}-{offset}" if id_ is None else id_,
            prediction=answer,
            proba=None if probas is None else probas[i],
            model=prediction.ModelVersion(name, version),
            source=prediction.SourceRecord(topic, partition, offset),
            ts=ts,
            score=msgspec.UNSET if scores is None else scores[i],
        )
        for i, (id_, offset, answer) in enumerate(zip(told, offsets, answers, strict=True))
    ]


def test_a_prediction_is_what_the_contract_shows() -> None:
    fraud = Encoder(topic="features", name="fraud")
    found = fraud.binary(
        ids(["t-1"]),
        offsets=np.array([1_042]),
        chosen=np.array([1], np.int8),
        proba=np.array([0.93]),
        **WHERE,
        generation=3,
    )
    expected = (
        b'{"id":"t-1","prediction":true,"model":{"name":"fraud","version":17,"generation":3},'
        b'"source":{"topic":"features","partition":3,"offset":1042},"ts":1700000000005,'
        b'"proba":{"false":0.06999999999999995,"true":0.93}}'
    )
    assert found == [expected]


@given(st.lists(st.tuples(st.none() | TEXT, OFFSETS, st.booleans(), st.floats(0, 1) | st.just(math.nan))))
def test_yes_and_no_are_as_one_by_one(rows: list[tuple[str | None, int, bool, float]]) -> None:
    told, offsets, chosen, proba = zip(*rows, strict=True) if rows else ((), (), (), ())
    fraud = Encoder(topic="features", name="fraud")
    columns: dict[str, Any] = {
        "offsets": np.array(offsets, np.int64),
        "chosen": np.array(chosen, np.int8),
        **WHERE,
    }
    found = fraud.binary(ids(told), proba=np.array(proba), **columns)
    assert found == one_by_one(told, offsets, chosen, [{False: 1.0 - p, True: p} for p in proba])
    assert fraud.binary(ids(told), proba=None, **columns) == one_by_one(told, offsets, chosen)


@given(st.lists(st.tuples(st.none() | TEXT, OFFSETS, st.floats()), min_size=1))
def test_numbers_are_as_one_by_one(rows: list[tuple[str | None, int, float]]) -> None:
    told, offsets, values = zip(*rows, strict=True)
    fraud = Encoder(topic="features", name="fraud")
    found = fraud.number(ids(told), offsets=np.array(offsets, np.int64), values=np.array(values), **WHERE)
    assert found == one_by_one(told, offsets, values)


@given(st.lists(st.tuples(st.none() | TEXT, OFFSETS, st.sampled_from([None, False, True]), st.floats())))
def test_verdicts_and_scores_are_as_one_by_one(rows: list[tuple[str | None, int, bool | None, float]]) -> None:
    told, offsets, verdicts, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    chosen = np.array([-1 if verdict is None else verdict for verdict in verdicts], np.int8)
    found = Encoder(topic="features", name="fraud").anomaly(
        ids(told), offsets=np.array(offsets, np.int64), verdicts=chosen, scores=np.array(scores), **WHERE
    )
    assert found == one_by_one(told, offsets, verdicts, scores=scores)


@given(st.data(), NAMES)
def test_classes_are_as_one_by_one(data: st.DataObject, names: list[Any]) -> None:
    count = data.draw(st.integers(1, 6))
    known = data.draw(st.lists(st.integers(0, len(names)), min_size=count, max_size=count))
    chosen = data.draw(st.lists(st.integers(-1, len(names) - 1), min_size=count, max_size=count))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    proba, told, offsets = draw.random((count, len(names))), ["a", None] * 3, range(count)
    columns: dict[str, Any] = {
        "offsets": np.arange(count),
        "chosen": np.array(chosen, data.draw(st.sampled_from([np.int32, np.float64]))),
        "known": np.array(known, np.int32),
        "names": names,
        **WHERE,
    }
    answers = [None if k < 0 else names[k] for k in chosen]
    probas = [dict(zip(names, row, strict=False)) for row in (proba[i, : known[i]].tolist() for i in range(count))]
    fraud = Encoder(topic="features", name="fraud")
    found = fraud.classes(ids(told[:count]), proba=proba, **columns)
    assert found == one_by_one(told[:count], offsets, answers, probas)
    assert fraud.classes(ids(told[:count]), proba=None, **columns) == one_by_one(told[:count], offsets, answers)


@given(TEXT, TEXT, st.integers(0, 2**31 - 1), st.integers(0, 2**70), st.integers(0, 2**63 - 1))
def test_topic_name_and_place_are_as_one_by_one(topic: str, name: str, partition: int, version: int, ts: int) -> None:
    where = {"partition": partition, "version": version, "ts": ts}
    found = Encoder(topic=topic, name=name).number(
        ids([None, "a"]), offsets=np.array([0, 1]), values=np.array([0.5, 1.0]), **where
    )
    assert found == one_by_one([None, "a"], [0, 1], [0.5, 1.0], topic=topic, name=name, **where)


@pytest.mark.parametrize("size", [255, 256, 257, 262_000])
def test_long_ids_among_short_ones_are_as_one_by_one(size: int) -> None:
    told, offsets, chosen, proba = ["a", None, "x" * size, "é"], [5, 2**40, 0, 1], [True, False, True, True], [0.25] * 4
    found = Encoder(topic="features", name="fraud").binary(
        ids(told), offsets=np.array(offsets), chosen=np.array(chosen, np.int8), proba=np.array(proba), **WHERE
    )
    assert found == one_by_one(told, offsets, chosen, [{False: 0.75, True: 0.25}] * 4)


def test_a_class_that_utf8_can_not_hold_is_refused() -> None:
    fraud = Encoder(topic="features", name="fraud")
    columns: dict[str, Any] = {"offsets": np.array([0]), "chosen": np.array([0]), "proba": None, "known": None}
    with pytest.raises(ValueError, match="surrogates"):
        fraud.classes(ids(["a"]), names=["\ud800"], **columns, **WHERE)


def test_columns_of_another_layout_are_taken_as_well() -> None:
    fraud = Encoder(topic="features", name="fraud")
    wide = np.array([[0.5, 9.0], [1.5, 9.0]])
    found = fraud.number(ids(["a", "b"]), offsets=[7, 8], values=wide[:, 0], **WHERE)
    assert found == one_by_one(["a", "b"], [7, 8], [0.5, 1.5])


def test_once_warm_nothing_is_compiled_whatever_comes() -> None:
    warm()
    told = ids(["a"])._replace(text=np.frombuffer(b"?a", dtype=np.uint8))
    fraud = Encoder(topic="features", name="fraud")
    columns: dict[str, Any] = {"offsets": np.array([0]), **WHERE}
    fraud.binary(told, chosen=np.array([1], np.int8), proba=np.array([0.5]), **columns)
    known = np.array([1], np.int32)
    fraud.classes(told, chosen=np.array([0.0]), proba=np.array([[0.5]]), known=known, names=["a"], **columns)
    assert len(encoder._write.signatures) == 1
