"""Models of several kinds for one shard, a stream for them, and all that can be told of what they learned."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from river import ensemble, linear_model, optim, preprocessing

from headrace.consumers.record import Decoder, LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch
from headrace.pipeline.engine.columnar import ColumnarEngine
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.state.compiled.compiler import compile_model
from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.keyring import Keyring
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

KEYS = [b"k%d" % number for number in range(6)]
PROBES = [{"a": 0.5, "b": -1.0}, {"a": -2.0}, {"b": 3.0, "c": 1.0}]


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))


def compiled() -> Model:
    model = compile_model(logistic())
    assert model is not None
    return UndoableModel(model)


def compiled_otherwise() -> Model:
    model = compile_model(linear_model.LogisticRegression(l2=0.1))
    assert model is not None
    return UndoableModel(model)


def bagging() -> Model:
    """Make a model that no compiler knows, and that draws random numbers while it learns."""
    return river(ensemble.BaggingClassifier(logistic(), n_models=2, seed=3))


def river(model: Any, module: str = "") -> Model:
    return UndoableModel(RiverLearner(model, trusted=frozenset({module} if module else ())))


def keyed(silent_ms: int | None = 500) -> Model:
    return Keyring(
        RiverBank(RiverLearner(logistic())),
        fetch=lambda keys, _stored: [None] * len(keys),
        scan=lambda: iter(()),
        hot_max=1_000,
        silent_ms=silent_ms,
    )


MAKERS: Mapping[str, Callable[[], Model]] = {"compiled": compiled, "bagging": bagging, "keyed": keyed}


def shard_of(first: Model, rules: LabelRules | None = None, **shadows: Model) -> Shard:
    labels = None if rules is None else Labels(rules)
    return Shard(first, partition=0, start=0, shadows=shadows, labels=labels, labels_start=-1 if labels is None else 0)


def engine(*, fast: bool) -> Engine:
    decoder = Decoder()
    columnar = ColumnarEngine(decoder=decoder, topic="in", name="fraud") if fast else None
    return Engine(decoder=decoder, topic="in", name="fraud", labels="truths", columnar=columnar)


def features_of(chance: random.Random) -> dict[str, Any]:
    return {name: chance.gauss(0, 1) for name in chance.sample("abc", chance.choice([1, 2, 3, 3]))}


def stream(seed: int, count: int = 400) -> list[Record]:
    """Make labelled and unlabelled records, some of which nobody can read."""
    chance, records = random.Random(seed), []
    for offset in range(count):
        fields: dict[str, Any] = {"ts": 1_000 + 10 * offset, "features": (found := features_of(chance))}
        if chance.random() < 0.8:
            fields["label"] = found.get("a", 0) > 0
        value = json.dumps(fields).encode() if chance.random() < 0.95 else b"{"
        records.append(Record(0, offset, 1_000 + 10 * offset, chance.choice(KEYS), value, None))
    return records


def stream_of_both(seed: int, count: int = 400) -> list[Record]:
    """Make features and labels that come for them, in time, early, twice, and never."""
    chance, records, offsets = random.Random(seed), list[Record](), [0, 0]
    asked: list[tuple[str, bytes, bool]] = []
    for number in range(count):
        at_ms = 1_000 + 5 * number
        for _ in range(chance.choice([1, 1, 4, 9])):
            if chance.random() < 0.5 or not asked:
                key, found, id_ = chance.choice(KEYS), features_of(chance), f"r{offsets[0]}"
                asked.append((id_, key, found.get("a", 0) > 0))
                value = json.dumps({"id": id_, "features": found}).encode() if chance.random() < 0.95 else b"{"
                records.append(Record(0, offsets[0], at_ms, key, value, None))
                offsets[0] += 1
            else:
                id_, key, truth = (
                    asked[chance.randrange(len(asked))] if chance.random() < 0.8 else ("r9999", b"k1", True)
                )
                label = truth if chance.random() < 0.9 else not truth
                value = json.dumps({"id": id_, "label": label}).encode()
                records.append(LabelRecord(0, offsets[1], at_ms, key, value, None))
                offsets[1] += 1
    return records


def pieces(records: Sequence[Record], seed: int) -> Iterator[list[Record]]:
    """Cut a stream anywhere."""
    chance, rest = random.Random(seed), list(records)
    while rest:
        size = chance.choice([1, 2, 5, 30, 100])
        yield rest[:size]
        rest = rest[size:]


def run(shard: Shard, records: Sequence[Record], *, fast: bool, seed: int = 0) -> list[PartitionOutputs]:
    host = engine(fast=fast)
    outputs = []
    for piece in pieces(records, seed):
        batch = piece if shard.labels is not None else batch_of(piece)
        outputs.append(host.run(shard, batch, now_ms=5))
    return outputs


def batch_of(records: Sequence[Record]) -> RecordBatch:
    return RecordBatch(
        0,
        offsets=[record.offset for record in records],
        timestamps=[record.timestamp_ms for record in records],
        keys=[record.key for record in records],
        values=[record.value for record in records],
    )


def told(outputs: Sequence[PartitionOutputs]) -> Any:
    """Tell what goes out."""
    return [
        (
            [*one.predictions.values],
            [(letter.record.offset, letter.refusal) for letter in one.dead_letters],
            one.learned,
        )
        for one in outputs
    ]


def learned(shard: Shard, name: str) -> Any:
    """Tell all of a model: its bytes, what it answers, and its quality."""
    one = shard.models[name]
    answers = []
    for key in KEYS:
        one.model.fetch([key])
        answers += [one.model.predict(dict(probe), key) for probe in PROBES]
    return one.model.dump(), answers, one.quality_now(), one.faults


def values_of(outputs: Sequence[PartitionOutputs]) -> Iterator[bytes]:
    """Yield all predictions."""
    for one in outputs:
        yield from map(bytes, one.predictions.values)
