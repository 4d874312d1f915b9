"""The fast lane gives what the engine gives for one record after the other: bytes, letters, counts, quality, model."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Message
from packed import rows_to_save
from river import anomaly, linear_model, naive_bayes, optim, preprocessing

from headrace.consumers.messages import batch_of
from headrace.consumers.record import Decoder
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.schema import Feature, Schema
from headrace.pipeline.engine import columnar
from headrace.pipeline.engine.dead_letter import DeadLetter
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers.record_size import SizeLimits
from headrace.producers.replay_proof import ReplayClaim, sign
from headrace.state.compiled.compiler import compile_model
from headrace.state.event_time import StrayTime
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.keyring import Keyring
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.row_packing import TableVersion
from headrace.state.shard import Shard

NOW_MS = 1_700_000_000_005
TRACE = [("traceparent", b"00-1"), ("secret", b"x"), ("baggage", b"b")]
SECRET = "0f" * 16
# Long ids and traces have no room, nor have whole dead letters of them.
LIMITS = SizeLimits({"predictions": 500, "dead_letters": 1_000})


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1)


def half_spaces() -> Any:
    return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3, height=3, window_size=25, seed=4)


def filtered() -> Any:
    return anomaly.ThresholdFilter(half_spaces(), threshold=0.6)


def _features(chance: random.Random, others: list[str]) -> dict[str, Any]:
    names = ["a", "b", "c", "d", "é", *others]
    chance.shuffle(names)
    kept = names[: chance.randint(0, 5)]
    return {name: chance.choice([chance.gauss(0, 1), chance.randint(-5, 5), True, 1e300, 0.1]) for name in kept}


def _value(chance: random.Random, label: Callable[[random.Random], Any], others: list[str]) -> bytes | None:
    record: dict[str, Any] = {"features": _features(chance, others)}
    if chance.random() < 0.7:
        record["id"] = chance.choice(["t-1", "é", 'with "quotes"', "\u2028", "x" * 300])
    if chance.random() < 0.7:
        record["label"] = label(chance)
    if chance.random() < 0.2:
        record["ts"] = chance.choice([1_700_000_000_000, -1, "never", 2**63])
    odd = chance.random()
    if odd < 0.03:
        record["features"]["word"] = "NO"
    text = json.dumps(record, ensure_ascii=chance.random() < 0.5).encode()
    if odd > 0.97:
        return chance.choice(
            [None, b"", b"nonsense", text[:-1], b"[1]", b'{"features": {"a": null}}', b'{"features": 1}']
        )
    return text


def _truth(chance: random.Random) -> Any:
    return chance.choice([True, False, True, False, 0, 1, 1.0, 2, "true", None])


def _amount(chance: random.Random) -> Any:
    return chance.choice([chance.gauss(0, 3), 1, 2**60, 1e308, True, "much"])


def _headers(chance: random.Random, key: bytes | None, value: bytes | None) -> list[tuple[str, bytes]] | None:
    """Make headers for a few: traces, long ones, those of a replay, and those of one that are forged or borrowed."""
    if chance.random() > 0.1:
        return None
    replay = sign(ReplayClaim(2, learned=True), secret=SECRET, topic="in", partition=3, key=key, value=value)
    borrowed = sign(ReplayClaim(2, learned=True), secret=SECRET, topic="in", partition=3, key=key, value=b"another")
    forged = [("dlq.learned", b"true"), ("dlq.replay.count", b"-99"), ("dlq.replay.proof", b"0" * 64)]
    return chance.choice([TRACE, [("tracestate", b"x" * 900)], replay, borrowed, forged, forged[:2]])


def _messages(seed: int, count: int, label: Callable[[random.Random], Any], *, names: int = 0) -> list[Message]:
    """Make records with so many more names than usual."""
    chance = random.Random(seed)
    offset, made, at_ms = 0, [], 77
    keys = [None, b"", b"\xff", *(b"k%d" % number for number in range(30))]
    for _ in range(count):
        # Aborted records and control records leave gaps.
        offset += 1 if chance.random() < 0.99 else 3
        # The stream's time leaps now and then, and goes back.
        at_ms = max(1, at_ms + chance.choice([0, 1, 1, 2, -3, 50]))
        key = keys[min(len(keys) - 1, int(chance.expovariate(0.1)))]
        others = [] if chance.random() < 0.5 else [f"n{chance.randrange(names)}" for _ in range(min(names, 3))]
        value = _value(chance, label, others)
        headers = _headers(chance, key, value)
        made.append(
            Message(topic="in", partition=3, offset=offset, key=key, value=value, headers=headers, timestamp=(1, at_ms))
        )
    return made


def _engine(decoder: Decoder, *, fast: bool) -> Engine:
    made = columnar.ColumnarEngine(decoder=decoder, topic="in", name="fraud") if fast else None
    engine = Engine(decoder=decoder, topic="in", name="fraud", columnar=made)
    engine.limits = LIMITS
    return engine


def _shard(learner: Any) -> Shard:
    shard = Shard(UndoableModel(learner), partition=3, start=0)
    shard.secret = SECRET
    return shard


def _outputs(results: list[PartitionOutputs]) -> dict[str, Any]:
    return {
        "predictions": [json.loads(value) for result in results for value in result.predictions.values],
        "keys": [key for result in results for key in result.predictions.keys],
        "headers": [
            [result.predictions.headers.get(position) for position in range(len(result.predictions))]
            for result in results
        ],
        "letters": [_plain(letter) for result in results for letter in result.dead_letters],
        "codes": [result.codes for result in results],
        "learned": [result.learned for result in results],
        "replayed": [result.replayed for result in results],
        "labelled": [[bool(labelled) for labelled in result.labelled] for result in results],
        "sources": [[result.origin(position) for position in range(len(result.predictions))] for result in results],
    }


def _plain(letter: DeadLetter) -> tuple[Any, ...]:
    """A letter without the model's own words, which say more where it is compiled, and write 0 as 0.0."""
    own = [header for header in letter.headers if header[0] != "__dlq.errors.message"]
    differs = dict(letter.headers)["dlq.code"] in {b"learn_failed", b"too_large"}
    return letter.record.offset, letter.key, letter.value, own if differs else letter.headers


def _run(engine: Engine, shard: Shard, messages: list[Message], cuts: list[int]) -> list[PartitionOutputs]:
    bounds = [0, *cuts, len(messages)]
    pieces = [messages[start:end] for start, end in itertools.pairwise(bounds) if end > start]
    return [engine.run(shard, batch_of(3, piece), now_ms=NOW_MS) for piece in pieces]


SCHEMA = Schema({"a": Feature(required=False, minimum=-2, maximum=1e301), "b": Feature(required=False, nullable=True)})


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["bare", "declared"])
@pytest.mark.parametrize(("build", "label"), [(logistic, _truth), (linear, _amount), (filtered, _truth)])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_gives_the_same_results_as_its_records_one_by_one(
    build: Callable[[], Any], label: Callable[[random.Random], Any], seed: int, schema: Schema | None
) -> None:
    messages = _messages(seed, 1_500, label)
    cuts = sorted(random.Random(seed).sample(range(1, 1_500), 20))
    decoder = Decoder(schema=schema)
    learner = compile_model(build())
    assert learner is not None
    fast, slow = _shard(learner), _shard(RiverLearner(build()))
    found = _outputs(_run(_engine(decoder, fast=True), fast, messages, cuts))
    wanted = _outputs(_run(_engine(decoder, fast=False), slow, messages, cuts))
    for part, value in wanted.items():
        assert found[part] == value, part
    assert (fast.offset, fast.counts, fast.quality_now()) == (slow.offset, slow.counts, slow.quality_now())
    assert 0 < sum(codes.get("too_large", 0) for codes in found["codes"]) < 600
    assert any(b"x" * 900 not in dict(headers).values() for *_, headers in found["letters"])
    again = compile_model(learner.to_river(), spec=learner.spec)
    assert again is not None
    assert again.dump() == learner.dump()


@pytest.mark.parametrize("build", [logistic, half_spaces])
def test_however_the_stream_is_cut_and_whether_anybody_listens_the_model_is_the_same_to_the_bit(
    build: Callable[[], Any],
) -> None:
    messages = _messages(9, 2_000, _truth)
    dumps = set()
    for seed in range(4):
        learner = compile_model(build())
        assert learner is not None
        shard, engine = _shard(learner), _engine(Decoder(), fast=True)
        cuts = sorted(random.Random(seed).sample(range(1, 2_000), 10 * seed))
        for start, end in zip([0, *cuts], [*cuts, 2_000], strict=True):
            engine.run(shard, batch_of(3, messages[start:end]), now_ms=seed, silent=start % 2 == 1)
        # What is too large for its topic is counted where somebody listens, and learned all the same.
        told = shard.counts.records, shard.counts.learned
        dumps.add((learner.dump(), told, repr(shard.quality_now())))
        assert shard.counts.predictions + shard.counts.dead_letters == shard.counts.records
    assert len(dumps) == 1


def test_records_whose_prediction_may_be_too_large_are_measured_one_by_one() -> None:
    learner = compile_model(logistic())
    assert learner is not None
    shard = _shard(learner)
    values = [b'{"id": "%s", "features": {"a": 1}, "label": true}' % (b"x" * size) for size in (950_000, 5)]
    messages = [Message(topic="in", partition=3, offset=i, value=value) for i, value in enumerate(values)]
    result = _engine(Decoder(value_bytes_max=2_000_000), fast=True).run(shard, batch_of(3, messages), now_ms=5)
    assert result.codes == {"too_large": 1}
    assert (shard.counts.learned, len(result.predictions)) == (1, 1)


def _keyring(
    build: Callable[[], Any],
    silent_ms: int | None,
    *,
    prior: bool = False,
    rows: dict[bytes, bytes] | None = None,
    asked: list[int] | None = None,
) -> Keyring:
    """Make a ring over the rows that a store has, which notes of how many keys it is asked at once."""
    held = rows or {}

    def fetch(keys: Sequence[bytes], _stand: TableVersion) -> list[bytes | None]:
        if asked is not None:
            asked.append(len(keys))
        return list(map(held.get, keys))

    bank = bank_of(RiverLearner(build()), compiles=True, prior=prior)
    ring = Keyring(bank, fetch=fetch, scan=lambda: iter(()), hot_max=10**6, silent_ms=silent_ms)
    ring.resume(TableVersion(1, 1, len(held)))
    return ring


def bayes() -> Any:
    return preprocessing.StandardScaler() | naive_bayes.GaussianNB()


def _word(chance: random.Random) -> Any:
    return chance.choice(["x", "yes", "é", '"'])


@pytest.mark.parametrize("prior", [False, True], ids=["alone", "born of all"])
@pytest.mark.parametrize("silent_ms", [None, 3_000], ids=["for ever", "until silent"])
@pytest.mark.parametrize("names", [0, 200])
@pytest.mark.parametrize(
    ("build", "label"), [(logistic, _truth), (linear, _amount), (bayes, _word), (half_spaces, _truth)]
)
def test_a_batch_of_many_keys_gives_the_same_results_as_its_records_one_by_one(
    build: Callable[[], Any],
    label: Callable[[random.Random], Any],
    names: int,
    silent_ms: int | None,
    *,
    prior: bool,
) -> None:
    messages = _messages(names, 1_500, label, names=names)
    # Of one or two records there is no chunk.
    cuts = sorted(random.Random(names).sample(range(3, 1_500, 3), 20))
    decoder = Decoder()
    rings = [_keyring(build, silent_ms, prior=prior) for _ in range(2)]
    fast, slow = (Shard(ring, partition=3, start=0) for ring in rings)
    fast.secret = slow.secret = SECRET
    results = _run(_engine(decoder, fast=True), fast, messages, cuts)
    found, wanted = _outputs(results), _outputs(_run(_engine(decoder, fast=False), slow, messages, cuts))
    for part, value in wanted.items():
        assert found[part] == value, part
    assert (fast.offset, fast.counts, fast.quality_now()) == (slow.offset, slow.counts, slow.quality_now())
    for ring in rings:
        ring.begin_save()
    assert rows_to_save(rings[0]) == rows_to_save(rings[1])
    assert rings[0].dump() == rings[1].dump()
    crossed = sum(isinstance(result.source, RecordBatch) for result in results)
    # With a prior, the first label goes by itself.
    assert crossed >= len(results) * (1 if silent_ms is None else 0.5) - prior


def _keyed(keys: Sequence[bytes], names: int, label: str) -> list[Message]:
    """Make a record for each of the keys, of so many features that no other key has."""
    made = []
    for at, key in enumerate(keys):
        features = ", ".join(f'"{key.decode()}.{number}": {(at + number) ** 1.5}' for number in range(names))
        value = f'{{"features": {{{features}}}{label}}}'.encode()
        made.append(Message(topic="in", partition=3, offset=at, key=key, value=value, timestamp=(1, 1_000 + at)))
    return made


@pytest.mark.parametrize("silent_ms", [None, 3_000], ids=["for ever", "until silent"])
@pytest.mark.parametrize("label", [', "label": true', ""], ids=["labelled", "asked"])
@pytest.mark.parametrize("names", [1, 30])
def test_keys_whose_models_lie_in_the_store_answer_as_they_do_one_by_one(
    names: int, label: str, silent_ms: int | None
) -> None:
    """Their rows bring features of their own."""
    keys = [b"a", b"b", b"c", b"d"]
    taught = _keyring(logistic, silent_ms)
    before = Shard(taught, partition=3, start=0)
    _run(_engine(Decoder(), fast=False), before, _keyed(keys * 3, names, ', "label": true'), [])
    taught.begin_save()
    rows = {key: row for key, row in rows_to_save(taught)[0].items() if row is not None}
    messages, asked = _keyed(keys * 2, names, label), list[int]()

    def told(rows: dict[bytes, bytes], *, fast: bool) -> tuple[Any, Any]:
        ring = _keyring(logistic, silent_ms, rows=rows, asked=asked)
        ring.load(taught.dump())
        results = _run(_engine(Decoder(), fast=fast), Shard(ring, partition=3, start=0), messages, [])
        ring.begin_save()
        return _outputs(results), rows_to_save(ring)[0]

    assert told(rows, fast=True) == told(rows, fast=False) != told({}, fast=False)
    assert asked == [len(keys)] * 2, "all in one round trip, and in none where there is nothing"


def test_an_empty_key_is_a_key_and_none_is_refused_in_both_lanes() -> None:
    values = [b'{"features": {"a": 1}, "label": true}'] * 4
    keys = [b"", None, b"k", b""]
    messages = [
        Message(topic="in", partition=3, offset=at, key=key, value=value, timestamp=(1, 5))
        for at, (key, value) in enumerate(zip(keys, values, strict=True))
    ]
    for fast in (True, False):
        ring = _keyring(logistic, None)
        [result] = _run(_engine(Decoder(), fast=fast), Shard(ring, partition=3, start=0), messages, [])
        assert result.codes == {"no_key": 1}
        assert [letter.record.offset for letter in result.dead_letters] == [1]
        assert result.predictions.keys == [b"", b"k", b""]
        ring.begin_save()
        assert set(rows_to_save(ring)[0]) == {b"", b"k"}


DAY = 86_400_000


def test_one_fast_clock_makes_no_key_forgotten_in_both_lanes() -> None:
    """Its record is met, answered and learned as any other, and named."""
    log_ms, told = 10**12, list[Any]()
    for fast in (True, False):
        ring = _keyring(logistic, DAY)
        shard = Shard(ring, partition=3, start=0)
        messages = []
        for at in range(40):
            ts = log_ms + at + (30 * DAY if at == 20 else 0)
            value = f'{{"ts": {ts}, "features": {{"a": {at % 3}}}, "label": {str(at % 2 == 0).lower()}}}'.encode()
            key = b"k%d" % (at % 4)
            messages.append(
                Message(topic="in", partition=3, offset=at, key=key, value=value, timestamp=(1, log_ms + at))
            )
        results = _run(_engine(Decoder(), fast=fast), shard, messages, [18, 30])
        assert isinstance(results[1].source, RecordBatch) == fast, "the fast lane takes it"
        count, stray = shard.strays.drain()
        assert (count, stray) == (1, StrayTime(20, 30 * DAY + 1))
        ring.begin_save()
        told.append((_outputs(results), rows_to_save(ring)[0], ring.dump()))
    assert told[0] == told[1]
    models = {key: logistic() for key in (b"k0", b"k1", b"k2", b"k3")}
    for at, answer in enumerate(told[0][0]["predictions"]):
        model, features = models[b"k%d" % (at % 4)], {"a": at % 3}
        proba = model.predict_proba_one(features)
        assert answer["proba"] == {str(label).lower(): share for label, share in proba.items()}, at
        model.learn_one(features, at % 2 == 0)


def _classes(values: Sequence[bytes], cuts: Sequence[int], *, silent: bool = False) -> Shard:
    """Teach naive Bayes the records in batches of these sizes."""
    shard, engine, values = _shard(compile_model(naive_bayes.GaussianNB())), _engine(Decoder(), fast=True), [*values]
    engine.limits = SizeLimits()
    for count, end in zip(cuts, itertools.accumulate(cuts), strict=True):
        at, times = range(end - count, end), [1] * count
        batch = RecordBatch(3, offsets=at, timestamps=times, keys=[None] * count, values=values[end - count : end])
        engine.run(shard, batch, now_ms=NOW_MS, silent=silent)
    return shard


@pytest.mark.parametrize(("letter", "size"), [("x", 30_000), ("\x01", 6_000)])
def test_classes_without_room_in_a_prediction_are_refused_however_batches_are_cut(letter: str, size: int) -> None:
    values = [json.dumps({"features": {"a": float(i)}, "label": f"{i:04d}{letter * size}"}).encode() for i in range(30)]
    whole, parts, single = (_classes(values, cuts) for cuts in ([30], [10] * 3, [1] * 30))
    assert single.counts.dead_letters > 0
    assert whole.counts == parts.counts == single.counts
    assert whole.model.dump() == parts.model.dump() == single.model.dump()


def test_relearned_classes_count_for_the_quality() -> None:
    values = [json.dumps({"features": {"a": float(i % 7)}, "label": "xyz"[i % 7 % 3]}).encode() for i in range(60)]
    aloud, silent = _classes(values, [60]), _classes(values, [60], silent=True)
    assert aloud.quality_now() == silent.quality_now()
    assert silent.quality_now().scored > 50
