"""The engine over plain values: what a record gives, in which order, and that nothing else decides it."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, preprocessing

from consumers.record import Decoder, Record
from pipeline.engine import Engine, Result
from state.learner import RiverLearner
from state.shard import Shard


class Fragile(linear_model.LogisticRegression):
    """Learns first and raises then, as bad luck would have it."""

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # noqa: FBT001 River's signature
        super().learn_one(x, y)
        if x["a"] > 2:
            raise ValueError("too much")


class Boundless(linear_model.LinearRegression):
    """Answers what JSON has no number for."""

    def predict_one(self, x: dict[str, Any]) -> float:
        return float("inf") * len(x)


def _engine() -> Engine:
    return Engine(decoder=Decoder(), topic="in", name="fraud")


def _shard(model: Any = None) -> Shard:
    return Shard(
        RiverLearner(
            model or preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            trusted=frozenset({__name__}),
        ),
        partition=0,
        start=0,
    )


def _records(values: list[bytes | None], *, headers: Any = None) -> list[Record]:
    return [Record(0, offset, 1_700_000_000_000, b"k", value, headers) for offset, value in enumerate(values)]


def _event(a: float, label: object = None) -> bytes:
    return json.dumps({"features": {"a": a}, **({} if label is None else {"label": label})}).encode()


def _answers(result: Result) -> list[dict[str, Any]]:
    return [json.loads(message.value or b"") for message in result.predictions]


def test_good_and_bad_records_keep_their_order_and_their_bytes() -> None:
    values = [_event(1, True), b"nonsense", _event(-1, False), None, _event(0.5)]
    shard = _shard()
    result = _engine().run(shard, _records(values, headers=[("a", b"1")]), now_ms=5)
    assert [answer["source"]["offset"] for answer in _answers(result)] == [0, 2, 4]
    assert [(offset, m.key, m.value) for offset, m in result.dead_letters] == [(1, b"k", b"nonsense"), (3, b"k", None)]
    assert all(m.headers is not None and m.headers[0] == ("a", b"1") for _, m in result.dead_letters)
    counts = shard.counts
    assert (counts.records, counts.predictions, counts.dead_letters, counts.learned) == (5, 3, 2, 2)
    assert shard.offset == 5


def test_a_missing_id_is_made_of_the_place() -> None:
    (answer,) = _answers(_engine().run(_shard(), _records([_event(1)]), now_ms=5))
    assert (answer["id"], answer["ts"]) == ("in-0-0", 5)


def test_trace_headers_pass_to_the_prediction_and_others_do_not() -> None:
    headers = [("traceparent", b"00-1"), ("secret", b"x"), ("baggage", b"b")]
    result = _engine().run(_shard(), _records([_event(1)], headers=headers), now_ms=5)
    assert result.predictions[0].headers == [("traceparent", b"00-1"), ("baggage", b"b")]


def test_a_record_that_only_the_sink_refused_is_predicted_again_and_not_learned_again() -> None:
    shard = _shard()
    result = _engine().run(shard, _records([_event(1, True)], headers=[("dlq.learned", b"true")]), now_ms=5)
    assert (len(result.predictions), shard.counts.learned) == (1, 0)


def test_a_model_that_raises_stands_as_it_stood_after_thousands_of_records() -> None:
    good = [_event((index % 37) / 20, index % 3 == 0) for index in range(12_000)]
    broken, whole = _shard(Fragile()), _shard(linear_model.LogisticRegression())
    engine = _engine()
    result = engine.run(broken, _records([*good, _event(3, True), _event(1.5)]), now_ms=5)
    reference = engine.run(whole, _records([*good, _event(1.5)]), now_ms=5)
    assert [offset for offset, _ in result.dead_letters] == [12_000]
    assert dict(result.dead_letters[0][1].headers or ())["dlq.code"] == b"learn_failed"
    assert _answers(result)[-1]["proba"] == _answers(reference)[-1]["proba"]


def test_a_prediction_that_is_not_finite_is_null_and_the_record_is_learned() -> None:
    shard = _shard(Boundless())
    result = _engine().run(shard, _records([b'{"features": {"a": 1}, "label": 2}']), now_ms=5)
    assert [answer["prediction"] for answer in _answers(result)] == [None]
    assert (shard.counts.learned, shard.quality_now().scored) == (1, 0)


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, 199), max_size=12))
def test_however_the_stream_is_cut_into_batches_the_outputs_are_the_same_bytes(cuts: set[int]) -> None:
    values = [_event((index * 7 % 31) / 9, index % 4 == 0) if index % 11 else b"{" for index in range(200)]
    records = _records(values)
    whole = _engine().run(_shard(), records, now_ms=5)
    shard, engine, pieces = _shard(), _engine(), Result([], [], [])
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
        piece = engine.run(shard, records[start:end], now_ms=5)
        pieces.predictions += piece.predictions
        pieces.dead_letters += piece.dead_letters
    assert (pieces.predictions, pieces.dead_letters) == (whole.predictions, whole.dead_letters)


def test_predictions_that_the_sink_refused_become_dead_letters_that_say_they_were_learned() -> None:
    engine, shard = _engine(), _shard()
    result = engine.run(shard, _records([_event(1, True), b"{", _event(2, True)]), now_ms=5)
    engine.withdraw(shard, result, {0: "no"})
    assert [offset for offset, _ in result.dead_letters] == [0, 1]
    assert dict(result.dead_letters[0][1].headers or ())["dlq.learned"] == b"true"
    assert (shard.counts.predictions, shard.counts.dead_letters, shard.counts.learned) == (1, 2, 2)
