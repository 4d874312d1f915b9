"""With any mapping, and any form of predictions, a batch gives what its records give one by one."""

import json
import random
from typing import Any

import pytest
from confluent_kafka import Message
from river import linear_model, optim, preprocessing

from headrace.consumers.mapped_decoder import MappedDecoder
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.messages import batch_of
from headrace.consumers.record import Decoder, RecordDecoder
from headrace.consumers.schema import Feature, Schema
from headrace.pipeline.engine.columnar import ColumnarEngine
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.producers.prediction import PredictionForm
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

COUNT = 400
SCHEMA = Schema({"n": Feature(required=False, nullable=True)})
FORMS = [PredictionForm(), PredictionForm(features=True, threshold=0.4)]


def transform(whole: dict[str, Any]) -> Any:
    if "skip" in whole:
        return None
    return {"features": {**whole["after"], "more": 0.5}, "label": whole["after"]["x"] > 0}


DECODERS: dict[str, RecordDecoder] = {
    "default": Decoder(schema=SCHEMA),
    "nested, with deletes": MappedDecoder(RecordMapping(features="after", label="after.y", id="at.id", empty="skip")),
    "flat": MappedDecoder(RecordMapping(features="", label="y", exclude=("after", "at"), nulls="skip"), schema=SCHEMA),
    "flattened": MappedDecoder(RecordMapping(features="", label="after.y", id="$key", ts="at.ts", flatten=True)),
    "with headers": MappedDecoder(RecordMapping(features="after", id="$headers.id", ts="$headers.ts", ts_unit="iso")),
    "transformed": MappedDecoder(RecordMapping(empty="skip"), transform=transform),
}


def value(chance: random.Random) -> bytes | None:
    x, y = chance.gauss(0, 1), chance.random() < 0.5
    row = {"x": x, "z": chance.choice([1, 2.5, True]), "y": chance.choice([y, y, y, 2, None])}
    whole: dict[str, Any] = {"after": row, "at": {"id": chance.choice([7, 1.5, "é"]), "ts": 1_700_000_000_000}}
    odd = chance.random()
    if odd < 0.3:
        whole |= chance.choice(
            [{"after": None}, {"skip": 1}, {"x": 1.5, "y": y}, {"n": None}, {"features": row, "label": y}]
        )
    if odd > 0.95:
        return chance.choice([None, b"", b"null", b"{", b'{"after": {"x": 1e999}}', b'{"after": {"x": [1]}}'])
    return json.dumps(whole).encode()


def messages(seed: int) -> list[Message]:
    chance = random.Random(seed)
    times = [b"2023-11-14T22:13:20Z", b"2023-11-14T23:13:20.5+01:00", b"yesterday"]
    return [
        Message(
            topic="in",
            partition=3,
            offset=offset,
            key=chance.choice([None, b"k", b"\xff"]),
            value=value(chance),
            headers=chance.choice([None, [("id", b"%d" % offset), ("ts", chance.choice(times))]]),
            timestamp=(1, 77 + offset),
        )
        for offset in range(COUNT)
    ]


def run(decoder: RecordDecoder, seed: int, form: PredictionForm, *, fast: bool) -> tuple[Shard, list[PartitionOutputs]]:
    columnar = ColumnarEngine(decoder=decoder, topic="in", name="fraud", form=form) if fast else None
    engine = Engine(decoder=decoder, topic="in", name="fraud", columnar=columnar, form=form)
    model = compile_model(preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.05)))
    assert model is not None
    shard = Shard(UndoableModel(model), partition=3, start=0)
    sent = messages(seed)
    return shard, [engine.run(shard, batch_of(3, sent[at : at + 100]), now_ms=5) for at in range(0, COUNT, 100)]


@pytest.mark.parametrize("form", FORMS, ids=["plain", "with features and a threshold"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_batch_gives_the_same_results_as_its_records_one_by_one(name: str, form: PredictionForm) -> None:
    for seed in range(2):
        results = []
        for fast in (True, False):
            shard, outputs = run(DECODERS[name], seed, form, fast=fast)
            counts = shard.counts
            assert counts.records == counts.predictions + counts.dead_letters + counts.skipped == COUNT
            assert counts.skipped == sum(one.skipped for one in outputs)
            refusals = [(d.record.offset, d.refusal.code, d.refusal.field) for one in outputs for d in one.dead_letters]
            answers = [json.loads(line or b"") for one in outputs for line in one.predictions.values]
            results.append((counts, refusals, answers, shard.quality_now(), shard.place))
        assert results[0] == results[1]
        counts, _, answers = results[0][:3]
        assert counts.learned > 10 or name == "with headers", "the records are near enough to those of the mapping"
        skips = name in {"nested, with deletes", "transformed"}
        assert (counts.skipped > 10) == skips
        for answer in answers if form.threshold else ():
            assert answer["prediction"] == (answer["proba"]["true"] >= form.threshold)
            assert list(answer)[-1] == "features"
