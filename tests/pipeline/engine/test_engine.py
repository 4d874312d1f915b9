"""The engine over plain values: what a record gives, in which order, and that nothing else decides it."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hostile import TASKS, Task, refused, taken
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, dummy, linear_model, preprocessing, stats, tree

from headrace.consumers.record import Decoder, Record
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers.output import OutputRecords
from headrace.producers.record_size import SizeLimits
from headrace.producers.replay_proof import ReplayClaim, sign
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.seal import Seal
from headrace.state.shard import Counts, Shard
from headrace.state.shared.mix_store import LoadedMix
from headrace.state.shared.replica import Replica
from headrace.state.snapshot import decode, encode, take
from headrace.state.store.store_errors import StoreAway

SEAL = Seal("fraud")
SECRET = "0f" * 16


class Fragile(linear_model.LogisticRegression):
    """Learns first and raises then, as bad luck would have it."""

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # noqa: FBT001 River's signature
        super().learn_one(x, y)
        if x["a"] > 2:
            raise ValueError("too much")


class Moody(linear_model.LogisticRegression):
    """Raises on its way to a prediction, having changed itself already."""

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        if "mood" in x:
            self.intercept += 7
            raise {"deep": RecursionError, "full": MemoryError, "wrong": ValueError}[x["mood"]]("x" * 5_000)
        return super().predict_proba_one(x)


class Wordy(linear_model.LogisticRegression):
    """Answers what no JSON holds."""

    def predict_proba_one(self, x: dict[str, Any]) -> dict[Any, Any]:
        return {True: 1j} if "odd" in x else super().predict_proba_one(x)


def double(x: dict[str, Any]) -> dict[str, Any]:
    """Change what it was given, as a user's function may."""
    x["a"] *= 2
    return x


class Boundless(linear_model.LinearRegression):
    """Answers what JSON has no number for."""

    def predict_one(self, x: dict[str, Any]) -> float:
        return float("inf") * len(x)


def _engine() -> Engine:
    return Engine(decoder=Decoder(), topic="in", name="fraud")


def _shard(model: Any = None) -> Shard:
    shard = Shard(
        UndoableModel(
            RiverLearner(
                model or preprocessing.StandardScaler() | linear_model.LogisticRegression(),
                trusted=frozenset({__name__}),
            )
        ),
        partition=0,
        start=0,
    )
    shard.secret = SECRET
    return shard


def _records(values: list[bytes | None], *, headers: Any = None) -> list[Record]:
    return [Record(0, offset, 1_700_000_000_000, b"k", value, headers) for offset, value in enumerate(values)]


def _event(a: float, label: object = None) -> bytes:
    return json.dumps({"features": {"a": a}, **({} if label is None else {"label": label})}).encode()


def _answers(result: PartitionOutputs) -> list[dict[str, Any]]:
    return [json.loads(value) for value in result.predictions.values]


def test_good_and_bad_records_keep_their_order_and_their_bytes() -> None:
    values = [_event(1, True), b"nonsense", _event(-1, False), None, _event(0.5)]
    shard = _shard()
    result = _engine().run(shard, _records(values, headers=[("a", b"1")]), now_ms=5)
    assert [answer["source"]["offset"] for answer in _answers(result)] == [0, 2, 4]
    assert [(m.record.offset, m.key, m.value) for m in result.dead_letters] == [(1, b"k", b"nonsense"), (3, b"k", None)]
    assert all(m.headers[0] == ("a", b"1") for m in result.dead_letters)
    sent = result.records["dead_letters"]
    assert (sent.keys, sent.values) == ([b"k", b"k"], [b"nonsense", None])
    assert [list(headers) for headers in sent.headers.values()] == [m.headers for m in result.dead_letters]
    counts = shard.counts
    assert (counts.records, counts.predictions, counts.dead_letters, counts.learned) == (5, 3, 2, 2)
    assert shard.offset == 5


def test_offsets_may_have_gaps_as_transactions_leave_them() -> None:
    shard = _shard()
    records = [Record(0, offset, 1, None, _event(1, True), None) for offset in (3, 7, 12)]
    result = _engine().run(shard, records, now_ms=5)
    assert [answer["source"]["offset"] for answer in _answers(result)] == [3, 7, 12]
    assert (shard.offset, shard.counts.records) == (13, 3)


def test_a_missing_id_is_made_of_the_place() -> None:
    (answer,) = _answers(_engine().run(_shard(), _records([_event(1)]), now_ms=5))
    assert (answer["id"], answer["ts"]) == ("in-0-0", 5)


def test_trace_headers_pass_to_the_prediction_and_others_do_not() -> None:
    headers = [("traceparent", b"00-1"), ("secret", b"x"), ("baggage", b"b")]
    result = _engine().run(_shard(), _records([_event(1)], headers=headers), now_ms=5)
    assert result.predictions.headers[0] == [("traceparent", b"00-1"), ("baggage", b"b")]


def test_a_replay_of_what_only_a_sink_refused_is_predicted_again_and_not_learned_again() -> None:
    shard, value = _shard(), _event(1, True)
    [record] = _records([value])
    headers = sign(ReplayClaim(1, learned=True), secret=SECRET, topic="in", partition=0, key=record.key, value=value)
    result = _engine().run(shard, _records([value], headers=headers), now_ms=5)
    assert (len(result.predictions), shard.counts.learned, result.replayed) == (1, 0, 1)


FORGED = [("dlq.learned", b"true"), ("dlq.replay.count", b"99"), ("dlq.replay.proof", b"f" * 64)]


@pytest.mark.parametrize("headers", [FORGED[:1], FORGED[:2], FORGED, [*FORGED, ("dlq.replay.proof", None)]])
def test_a_record_that_carries_the_headers_of_a_replay_by_itself_is_learned_and_never_was_replayed(
    headers: Any,
) -> None:
    shard = _shard()
    result = _engine().run(shard, _records([_event(1, True), b"{"], headers=headers), now_ms=5)
    assert (len(result.predictions), shard.counts.learned, result.replayed) == (1, 1, 0)
    [letter] = result.dead_letters
    assert dict(letter.headers)["dlq.replay.count"] == b"0"
    assert "dlq.learned" not in dict(letter.headers)


def test_headers_that_were_copied_from_a_replay_to_another_record_do_not_count() -> None:
    shard, key = _shard(), _records([b"{"])[0].key
    for secret, topic, partition in ((SECRET, "in", 1), (SECRET, "other", 0), ("ab" * 16, "in", 0)):
        headers = sign(ReplayClaim(2), secret=secret, topic=topic, partition=partition, key=key, value=b"{")
        [letter] = _engine().run(shard, _records([b"{"], headers=headers), now_ms=5).dead_letters
        assert letter.replays == 0
    headers = sign(ReplayClaim(2), secret=SECRET, topic="in", partition=0, key=key, value=b"{")
    result = _engine().run(shard, _records([b"{", b"["], headers=headers), now_ms=5)
    assert [letter.replays for letter in result.dead_letters] == [2, 0]
    assert result.replayed == 1


def test_a_record_whose_prediction_is_too_large_is_learned_and_becomes_a_dead_letter() -> None:
    tight, loose = _engine(), _engine()
    tight.limits = SizeLimits({"predictions": 600, "dead_letters": 3_000})
    shards = _shard(), _shard()
    values = [_event(1, True), b"{", _event(2, True), _event(3)]
    records = [msgspec.structs.replace(record, headers=None) for record in _records(values)]
    records[2] = msgspec.structs.replace(records[2], headers=[("tracestate", b"x" * 900)])
    records[3] = msgspec.structs.replace(records[3], key=b"k" * 2_900)
    result = tight.run(shards[0], records, now_ms=5)
    loose.run(shards[1], records, now_ms=5)
    assert [(letter.record.offset, letter.refusal.code) for letter in result.dead_letters] == [
        (1, "not_json"),
        (2, "too_large"),
        (3, "too_large"),
    ]
    told = [dict(letter.headers) for letter in result.dead_letters]
    assert [headers.get("dlq.learned") for headers in told] == [None, b"true", None]
    assert told[2]["dlq.stage"] == b"sink"
    assert (result.dead_letters[2].key, told[2]["dlq.key.omitted"]) == (None, b"2900")
    assert shards[0].counts == Counts(records=4, predictions=1, dead_letters=3, learned=2)
    assert shards[1].counts == Counts(records=4, predictions=3, dead_letters=1, learned=2)
    assert (
        take(shards[0], topic="in", topic_id="", now_ms=5).models
        == take(shards[1], topic="in", topic_id="", now_ms=5).models
    )
    # What goes with the predictions that are left is still theirs: a sink may refuse those as well.
    tight.withdraw(shards[0], result, {0: "no"})
    assert [letter.record.offset for letter in result.dead_letters] == [0, 1, 2, 3]
    assert result.dead_letters[0].learned


def test_a_model_that_raises_stands_as_it_stood_after_thousands_of_records() -> None:
    good = [_event((index % 37) / 20, index % 3 == 0) for index in range(12_000)]
    broken, whole = _shard(Fragile()), _shard(linear_model.LogisticRegression())
    engine = _engine()
    result = engine.run(broken, _records([*good, _event(3, True), _event(1.5)]), now_ms=5)
    reference = engine.run(whole, _records([*good, _event(1.5)]), now_ms=5)
    assert [letter.record.offset for letter in result.dead_letters] == [12_000]
    assert dict(result.dead_letters[0].headers)["dlq.code"] == b"learn_failed"
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
    shard, engine, pieces = _shard(), _engine(), PartitionOutputs(0)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
        piece = engine.run(shard, records[start:end], now_ms=5)
        for key, value, place in zip(piece.predictions.keys, piece.predictions.values, piece.places, strict=True):
            pieces.predictions.add(key, value, None, place=start + place)
        pieces.dead_letters += piece.dead_letters
    assert (pieces.predictions, pieces.dead_letters) == (whole.predictions, whole.dead_letters)


def test_predictions_that_the_sink_refused_become_dead_letters_that_say_they_were_learned() -> None:
    engine, shard = _engine(), _shard()
    result = engine.run(shard, _records([_event(1, True), b"{", _event(2, True)]), now_ms=5)
    engine.withdraw(shard, result, {0: "no"})
    assert [letter.record.offset for letter in result.dead_letters] == [0, 1]
    assert dict(result.dead_letters[0].headers)["dlq.learned"] == b"true"
    assert (shard.counts.predictions, shard.counts.dead_letters, shard.counts.learned) == (1, 2, 2)


MODELS: dict[Task, Callable[[], Any]] = {
    "binary": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "multiclass": lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    "regression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
}
LABELS: dict[Task, Callable[[int], Any]] = {
    "binary": lambda index: index % 3 == 0,
    "multiclass": lambda index: ["grass", "sky", "path"][index % 3],
    "regression": lambda index: index % 3 - 0.5,
}


@pytest.mark.parametrize("task", TASKS)
def test_the_corpus_leaves_the_good_records_and_the_model_untouched(task: Task) -> None:
    cases = refused(task)
    good = [_event(index % 7 / 3, LABELS[task](index)) for index in range(len(cases))]
    mixed = [value for pair in zip(good, (case.value for case in cases), strict=True) for value in pair]
    shard, alone = _shard(MODELS[task]()), _shard(MODELS[task]())
    result = _engine().run(shard, _records(mixed), now_ms=5)
    reference = _engine().run(alone, _records(good), now_ms=5)
    assert [letter.record.offset for letter in result.dead_letters] == list(range(1, len(mixed), 2))
    for case, letter in zip(cases, result.dead_letters, strict=True):
        headers = dict(letter.headers)
        assert letter.value == case.value
        assert (headers["dlq.code"], headers["dlq.field"], headers["dlq.stage"]) == (
            case.code.encode(),
            case.field.encode(),
            case.stage.encode(),
        ), case.name
        assert 0 < len(headers["__dlq.errors.message"] or b"") <= 1_024
    assert [_outcome(answer) for answer in _answers(result)] == [_outcome(answer) for answer in _answers(reference)]
    assert shard.counts.learned == alone.counts.learned == len(good)


def _outcome(answer: dict[str, Any]) -> tuple[Any, Any]:
    return answer["prediction"], answer.get("proba")


@pytest.mark.parametrize("task", TASKS)
def test_odd_records_are_predicted_and_learned_as_the_corpus_says(task: Task) -> None:
    for case in taken(task):
        shard = _shard(MODELS[task]())
        result = _engine().run(shard, _records([case.value]), now_ms=5)
        # A name of 50,000 letters is fine; that this model can't scale a word is the model's own business.
        codes = [dict(letter.headers)["dlq.code"] for letter in result.dead_letters]
        if codes:
            assert codes == [b"learn_failed"], case.name
            assert any(isinstance(value, str) for value in case.features.values()), case.name
            continue
        [answer] = _answers(result)
        assert answer["id"] == ("in-0-0" if case.id is None else case.id), case.name
        assert shard.counts.learned == int(case.label is not None), case.name


def test_headers_come_out_in_their_order_and_those_of_an_earlier_dead_letter_once() -> None:
    own: list[tuple[str, bytes | None]] = [("b", b"1"), ("a", None), ("b", b""), ("é", b"\xff")]
    first = _engine().run(_shard(), _records([b"{"], headers=own), now_ms=5).dead_letters[0]
    second = _engine().run(_shard(), _records([b"{"], headers=first.headers), now_ms=6).dead_letters[0]
    assert first.headers[:4] == own
    assert second.headers == first.headers
    assert len(first.headers) == 4 + 12


def test_no_headers_and_no_trace_give_a_prediction_without_headers() -> None:
    for headers in (None, [], [("x", b"1")]):
        parcel = _engine().run(_shard(), _records([_event(1)], headers=headers), now_ms=5).predictions
        assert (len(parcel), parcel.headers) == (1, {})


@pytest.mark.parametrize("mood", ["deep", "full", "wrong"])
def test_a_model_that_raises_on_a_prediction_stands_as_it_stood(mood: str) -> None:
    broken, whole = _shard(Moody()), _shard(Moody())
    good = [_event(index % 5, index % 2 == 0) for index in range(20)]
    bad = json.dumps({"features": {"a": 1, "mood": mood}, "label": True}).encode()
    result = _engine().run(broken, _records([*good, bad, *good]), now_ms=5)
    reference = _engine().run(whole, _records([*good, *good]), now_ms=5)
    [letter] = result.dead_letters
    headers = dict(letter.headers)
    assert (letter.record.offset, headers["dlq.code"], headers["dlq.stage"]) == (20, b"learn_failed", b"learn")
    assert len(headers["__dlq.errors.message"] or b"") == 1_024, "whatever the model has to say"
    assert [_outcome(a) for a in _answers(result)] == [_outcome(a) for a in _answers(reference)]


def test_an_answer_that_json_can_not_hold_is_a_refusal_and_nothing_is_learned() -> None:
    broken, whole = _shard(Wordy()), _shard(Wordy())
    odd = json.dumps({"features": {"a": 1, "odd": 1}, "label": True}).encode()
    result = _engine().run(broken, _records([odd, _event(1, True), odd, _event(1)]), now_ms=5)
    reference = _engine().run(whole, _records([_event(1, True), _event(1)]), now_ms=5)
    assert [letter.record.offset for letter in result.dead_letters] == [0, 2]
    assert [_outcome(a) for a in _answers(result)] == [_outcome(a) for a in _answers(reference)]


def test_a_record_whose_prediction_is_too_large_is_refused_and_not_learned() -> None:
    engine = Engine(decoder=Decoder(value_bytes_max=2_000_000), topic="in", name="fraud")
    shard, untouched = _shard(), _shard()
    large = json.dumps({"id": "x" * 1_000_000, "features": {"a": 1}, "label": True}).encode()
    result = engine.run(shard, _records([large, _event(1)]), now_ms=5)
    assert [dict(m.headers)["dlq.code"] for m in result.dead_letters] == [b"too_large"]
    assert shard.counts.learned == 0
    reference = engine.run(untouched, _records([_event(1)]), now_ms=5)
    assert _outcome(_answers(result)[0]) == _outcome(_answers(reference)[0])


def test_whether_a_prediction_is_too_large_does_not_depend_on_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relearning has another clock and other versions, and must come to the same verdicts."""
    monkeypatch.setattr("headrace.producers.prediction.BYTES_MAX", 400)
    verdicts = set()
    for size in range(200, 400):
        records = _records([json.dumps({"id": "x" * size, "features": {}}).encode()])
        found = set()
        for version, now_ms in ((0, 5), (10**9, 1_700_000_000_000)):
            shard = _shard(dummy.PriorClassifier())
            shard.version = version
            found.add(len(_engine().run(shard, records, now_ms=now_ms).predictions))
        assert len(found) == 1, size
        verdicts |= found
    assert verdicts == {0, 1}, "the limit lies between"


def test_a_function_that_changes_the_features_does_not_spoil_an_undo() -> None:
    def model() -> Any:
        return compose.FuncTransformer(double) | Fragile()

    good = [_event(index % 5 / 10, index % 2 == 0) for index in range(30)]
    broken, whole = _shard(model()), _shard(model())
    result = _engine().run(broken, _records([*good, _event(9, True), *good]), now_ms=5)
    reference = _engine().run(whole, _records([*good, *good]), now_ms=5)
    assert [letter.record.offset for letter in result.dead_letters] == [30]
    assert [_outcome(a) for a in _answers(result)] == [_outcome(a) for a in _answers(reference)]


def test_integers_that_no_float_holds_the_square_of_are_learned_like_any_other() -> None:
    """A maximum answers with the labels it has seen; the error between two of them has 300 digits."""
    shard = _shard(dummy.StatisticRegressor(stats.Max()))
    huge = b'{"features": {}, "label": %s1%s}'
    values = [huge % (sign, b"0" * 300) for sign in (b"", b"-", b"")]
    result = _engine().run(shard, _records(values), now_ms=5)
    assert (len(result.predictions), shard.counts.learned) == (3, 3)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_label_of_any_depth_is_a_refusal(opening: bytes) -> None:
    """Somewhere near the interpreter's limit the decoder still takes what a message about it can't show."""
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    depths = [*range(1, 40), *range(850, 1_050)]
    inner = b"0" if opening != b"[" else b""
    values = [b'{"features": {}, "label": %s}' % (opening * n + inner + closing * n) for n in depths]
    result = _engine().run(_shard(), _records(values), now_ms=5)
    assert len(result.dead_letters) == len(depths)


def test_another_clock_changes_the_times_of_predictions_and_nothing_else() -> None:
    values = [_event(1, True), b"{", _event(2, False), _event(3)]
    first, second = (_engine().run(_shard(), _records(values), now_ms=now_ms) for now_ms in (5, 6))
    assert first.dead_letters == second.dead_letters
    assert [{**a, "ts": 0} for a in _answers(first)] == [{**a, "ts": 0} for a in _answers(second)]
    assert [a["ts"] for a in _answers(second)] == [6, 6, 6]


@settings(max_examples=20)
@given(saved=st.integers(0, 120), undone=st.integers(0, 120))
def test_a_shard_that_was_saved_anywhere_goes_on_as_if_it_had_not_been(saved: int, undone: int) -> None:
    values = [_event((index * 7 % 31) / 9, index % 4 == 0) if index % 11 else b"{" for index in range(120)]
    records = _records(values)
    whole = _engine().run(_shard(), records, now_ms=5)
    first, engine = _shard(), _engine()
    before = engine.run(first, records[:saved], now_ms=5)
    snapshot = decode(encode(take(first, topic="in", topic_id="", now_ms=5), SEAL), SEAL, partition=first.partition)
    second = _shard()
    second.restore(place=(snapshot.offset, -1), counts=snapshot.counts)
    second.answering.restore(snapshot.answering.state, quality=snapshot.answering.quality, faults=0)
    between = max(saved, undone)
    middle = engine.run(second, records[saved:between], now_ms=5)
    second.model.undo()
    after = engine.run(second, records[between:], now_ms=5)
    pieces = (before, middle, after)
    assert [value for piece in pieces for value in piece.predictions.values] == whole.predictions.values
    assert [m for piece in pieces for m in piece.dead_letters] == whole.dead_letters
    assert second.counts.records == 120


def test_records_that_the_sink_refused_stand_among_the_dead_letters_in_order() -> None:
    engine, shard = _engine(), _shard()
    values = [_event(1, True), b"{", _event(2), None, _event(3, False), _event(4)]
    result = engine.run(shard, _records(values), now_ms=5)
    kept = OutputRecords(result.predictions.keys[1:2], result.predictions.values[1:2], places=[2])
    engine.withdraw(shard, result, {0: "no", 2: "never", 3: "not this"})
    assert [letter.record.offset for letter in result.dead_letters] == [0, 1, 3, 4, 5]
    assert result.predictions == kept
    letters = {letter.record.offset: dict(letter.headers) for letter in result.dead_letters}
    assert [letters[o]["__dlq.errors.message"] for o in (0, 4, 5)] == [b"no", b"never", b"not this"]
    assert [letters[o]["dlq.code"] for o in (0, 4, 5)] == [b"sink_refused"] * 3
    assert [letters[o]["dlq.stage"] for o in (0, 4, 5)] == [b"sink"] * 3
    assert "dlq.learned" not in letters[1]
    counts = shard.counts
    assert (counts.records, counts.predictions, counts.dead_letters, counts.learned) == (6, 1, 5, 2)


def test_a_prediction_that_is_left_out_takes_along_what_other_outputs_say_of_its_record() -> None:
    names = ("predictions", "dead_letters", "scores", "log")
    engine = Engine(decoder=Decoder(), topic="in", name="fraud", outputs=names)
    shard = _shard()
    result = engine.run(shard, _records([_event(1), b"{", _event(2)]), now_ms=5)
    scores, log = result.records["scores"], result.records["log"]
    for place in result.places:
        scores.add(b"k", b"%d" % place, [("place", b"%d" % place)], place=place)
    log.add(None, b"a line about no record")
    engine.withdraw(shard, result, {0: "no"})
    [left] = result.places
    assert (left, result.labelled) == (2, [False])
    scores, log = result.records["scores"], result.records["log"]
    assert (scores.values, scores.headers, scores.places) == ([b"2"], {0: [("place", b"2")]}, [2])
    assert log.values == [b"a line about no record"]


class AwayStore:
    """A store of mixes that nobody reaches."""

    def load(self) -> LoadedMix:
        raise StoreAway("the store is away")


def test_a_mix_that_can_not_be_loaded_now_is_no_fault_of_the_record() -> None:
    replica = Replica(AwayStore(), lambda: RiverLearner(linear_model.LogisticRegression()))
    shard = Shard(replica, partition=0, start=0)
    with pytest.raises(StoreAway):
        _engine().run(shard, [Record(0, 0, 5, None, b'{"features": {"x": 1.0}, "label": true}', None)], now_ms=5)
    assert shard.counts == Counts()
