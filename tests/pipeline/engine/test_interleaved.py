"""Features and labels of a batch in one call of a compiled model: it does what River does one by one, to the bit."""

import json
import random
from typing import Any

import msgspec
import pytest
from river import anomaly, compose, linear_model, naive_bayes, preprocessing

from headrace.consumers.mapped_decoder import MappedDecoder, MappedLabelDecoder
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import Decoder, LabelDecoder, LabelRecord, LabelRecordDecoder, Record, RecordDecoder
from headrace.pipeline.engine.columnar import ColumnarEngine
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.join import LabelsStep
from headrace.state.compiled.compiler import compile_model
from headrace.state.labels.join_entry import Entry
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

RULES = {
    "roomy": LabelRules(wait_ms=10**9),
    "short waits": LabelRules(wait_ms=40),
    "few wait": LabelRules(wait_ms=10**9, waiting_max=12),
    "few bytes": LabelRules(wait_ms=10**9, bytes_max=9_000),
    "few remembered": LabelRules(wait_ms=10**9, remembered_max=5),
    "corrections": LabelRules(wait_ms=200, corrections=True),
    "a default": LabelRules(wait_ms=40, default=True),
}


def _select() -> Any:
    return compose.Select("a", "b") | preprocessing.StandardScaler() | linear_model.LogisticRegression()


def _classes() -> Any:
    return naive_bayes.GaussianNB()


def _amounts() -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.5)


def _detector() -> Any:
    """Make a model that learns without labels."""
    detector = anomaly.HalfSpaceTrees(n_trees=3, height=3, window_size=20, limits={"a": (-3, 3)}, seed=1)
    return compose.Select("a", "b") | anomaly.ThresholdFilter(detector, threshold=0.8)


LABELS = {
    _select: [True, False, 1, "no label"],
    _classes: ["x", "y", "z", 5],
    _amounts: [1.5, -3, 1e200, "no number"],
    _detector: [True, False, 0, "no verdict"],
}


def _stream(build: Any, seed: int) -> list[list[Record]]:
    """Make batches of features and labels: early, late, repeated, contradicted, and some that nobody can read."""
    rng, batches, offsets, now_ms = random.Random(seed), [], [0, 0], 1_000
    for _ in range(60):
        batch: list[Record] = []
        for _ in range(rng.randint(1, 4)):
            of_labels = rng.random() < 0.5
            for _ in range(rng.choice([1, 2, 6, 15])):
                now_ms += rng.choice([0, 1, 5, 30])
                fields: dict[str, Any] = {"id": f"r{rng.randrange(max(1, offsets[0] - 20), offsets[0] + 8)}"}
                if rng.random() < 0.1:
                    fields["ts"] = now_ms - rng.choice([0, 10, 100])
                if of_labels or rng.random() < 0.1:
                    fields["label"] = rng.choice(LABELS[build][:-1] * 4 + LABELS[build][-1:])
                if not of_labels:
                    fields["features"] = {name: rng.gauss(0, 1) for name in rng.sample("abc", rng.choice([2, 3, 3]))}
                    if rng.random() < 0.5:
                        fields["id"] = f"r{offsets[0]}"
                value = json.dumps(fields).encode() if rng.random() < 0.95 else b"{"
                kind = LabelRecord if of_labels else Record
                batch.append(kind(0, offsets[of_labels], now_ms, b"k", value, None))
                offsets[of_labels] += 1
        batches.append(batch)
    return batches


def _run(
    build: Any,
    rules: LabelRules,
    batches: list[list[Record]],
    *,
    fast: bool,
    decoder: RecordDecoder | None = None,
    label_decoder: LabelRecordDecoder | None = None,
) -> list[Any]:
    model = compile_model(build()) if fast else RiverLearner(build())
    assert model is not None
    shard = Shard(UndoableModel(model), partition=0, start=0, labels=Labels(rules), labels_start=0)
    decoder = decoder or Decoder()
    columnar = ColumnarEngine(decoder=decoder, topic="in", name="fraud") if fast else None
    engine = Engine(
        decoder=decoder, topic="in", name="fraud", labels="truths", columnar=columnar, label_decoder=label_decoder
    )
    told: list[Any] = []
    for batch in batches:
        outputs = engine.run(shard, batch, now_ms=5)
        assert shard.labels is not None
        letters = [(letter.topic, letter.record.offset, letter.refusal) for letter in outputs.dead_letters]
        told.append((outputs.predictions.values, letters, outputs.labels, sorted(outputs.delays_ms), outputs.learned))
        told.append((shard.place, shard.counts, json.dumps(shard.quality_now().summary())))
        told.append((shard.labels.memory(), shard.labels.asked, shard.labels.early, shard.labels.bytes))
        shard.labels.begin_save()
        told.append(shard.labels.changes())
        shard.labels.saved()
    return told


# The default is a label of the binary model.
CASES = [(build, rules) for build in LABELS for rules in RULES if build is _select or rules != "a default"]


@pytest.mark.parametrize(("build", "rules"), CASES)
def test_a_batch_of_both_topics_does_what_its_records_do_one_by_one(build: Any, rules: str) -> None:
    for seed in range(4):
        batches = _stream(build, seed)
        fast, slow = (_run(build, RULES[rules], batches, fast=fast) for fast in (True, False))
        for at, (found, wanted) in enumerate(zip(fast, slow, strict=True)):
            assert found == wanted, (seed, at // 4)


@pytest.mark.parametrize("fast", [True, False])
def test_records_of_another_form_wait_for_their_labels_as_those_of_the_default_form(*, fast: bool) -> None:
    wanted = _run(_select, RULES["roomy"], _stream(_select, 1), fast=fast)
    mapping = RecordMapping(features="row.x", id="row.id", ts="row.ts", label="row.label", flatten=True, empty="skip")
    labels = RecordMapping(id="$headers.id", label="$headers.label", ts="row.ts", empty="skip")
    batches = [[changed for record in batch for changed in _changed(record)] for batch in _stream(_select, 1)]
    decoders: Any = {"decoder": MappedDecoder(mapping), "label_decoder": MappedLabelDecoder(labels)}
    found = _run(_select, RULES["roomy"], batches, fast=fast, **decoders)
    assert any(tally.tally.joined for tally, *_ in found[2::4]), "labels meet features that were kept"
    for at in range(0, len(found), 4):
        (values, letters, good, delays, learned), (_, counts, quality), (memory, asked, early, _) = found[at : at + 3]
        assert (len(values), good, delays, learned) == (len(wanted[at][0]), *wanted[at][2:])
        assert [letter[:2] for letter in letters] == [letter[:2] for letter in wanted[at][1]]
        assert (counts, quality) == wanted[at + 1][1:]
        assert (memory, asked, early) == wanted[at + 2][:3]
    assert counts.skipped == 0


def _changed(record: Record) -> list[Record]:
    """Return a record in another form."""
    try:
        fields = json.loads(record.value or b"")
    except ValueError:
        return [record]
    headers: Any = None
    if type(record) is LabelRecord:
        headers = [
            (name, json.dumps(fields.pop(name)).strip('"').encode()) for name in ("id", "label") if name in fields
        ]
    else:
        fields["x"] = fields.pop("features")
    return [msgspec.structs.replace(record, value=json.dumps({"row": fields}).encode(), headers=headers)]


def test_a_correction_within_a_batch_decides_what_is_forgotten_next_as_one_by_one() -> None:
    began_ms, wait_ms = 1_700_000_000_000, 600_000

    def label(offset: int, id_: str, value: str, at_ms: int) -> LabelRecord:
        return LabelRecord(0, offset, began_ms + at_ms, b"k", f'{{"id": "{id_}", "label": {value}}}'.encode(), None)

    def prepared(model: Any) -> tuple[Shard, Labels]:
        labels = Labels(LabelRules(wait_ms=wait_ms, corrections=True))
        shard = Shard(UndoableModel(model), partition=0, start=0, labels=labels, labels_start=0)
        labels.advance(None, began_ms, features=True)
        for id_, at_ms in (("A", 0), ("X", 100_000)):
            given = {"at_ms": began_ms + at_ms, "logged_ms": began_ms + at_ms, "order": at_ms, "version": 0}
            labels.add_waiting(id_, Entry.of(value=b'{"features": {"a": 1, "b": 2}}', key=None, answer=True, **given))
        for first in (label(0, "X", "true", 100_000), label(1, "A", "true", 100_001)):
            step.take(shard, first, [])
        for at_ms in range(100_000, 2 * wait_ms, 50_000):
            for _ in range(8):
                labels.advance(None, began_ms + at_ms, features=True)
        return shard, labels

    decoder = Decoder()
    step = LabelsStep(decoder=decoder, label_decoder=LabelDecoder())
    columnar = ColumnarEngine(decoder=decoder, topic="in", name="fraud")
    engine = Engine(decoder=decoder, topic="in", name="fraud", labels="truths", columnar=columnar)
    run = [
        label(2, "X", "false", 2 * wait_ms - 1_000),
        label(3, "A", "false", 2 * wait_ms + 1_000),
        label(4, "B", "true", 2 * wait_ms + 1_001),
    ]
    (one_by_one, single), (in_a_run, at_once) = prepared(RiverLearner(_select())), prepared(compile_model(_select()))
    for record in run:
        step.take(one_by_one, record, [])
    engine.run(in_a_run, run, now_ms=5)
    assert at_once.tally == single.tally
    assert in_a_run.counts == one_by_one.counts


def test_long_classes_that_a_batch_teaches_make_the_same_predictions_too_large_as_one_by_one() -> None:
    batch: list[Record] = []
    for number in range(14):
        features = f'{{"id": "r{number}", "features": {{"a": {number}}}}}'.encode()
        label = json.dumps({"id": f"r{number}", "label": chr(97 + number) * 100_000}).encode()
        batch += [Record(0, number, 1_000, b"k", features, None), LabelRecord(0, number, 1_000, b"k", label, None)]
    fast, slow = (_run(_classes, RULES["roomy"], [batch], fast=fast) for fast in (True, False))
    assert fast == slow
    assert {refusal.code for _, _, refusal in fast[0][1]} == {"too_large"}


def test_a_batch_without_a_record_for_the_model_has_its_outcomes() -> None:
    batch: list[Record] = [LabelRecord(0, offset, 1_000, b"k", b"{", None) for offset in range(4)]
    fast, slow = (_run(_select, RULES["roomy"], [batch], fast=fast) for fast in (True, False))
    assert fast == slow
    assert len(fast[0][1]) == 4
