"""Challengers: who is better is promoted at one place of the log, however the records come, and a relearning agrees."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from river import linear_model, optim, tree
from side_by_side import batch_of, compiled, compiled_otherwise, learned, river

from headrace.consumers.record import Decoder, LabelRecord, Record
from headrace.pipeline.engine.columnar import ColumnarEngine
from headrace.pipeline.engine.contest import Contender, Contest, PromotionRules
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.lifecycle import STRIDE, Lifecycle
from headrace.state.history import command as commands
from headrace.state.history.command import Command
from headrace.state.history.journal import JournalEntry, JournalError
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.model import Model
from headrace.state.shard import Shard

COUNT = 1_200


def poor() -> Model:
    """Make a model that hardly learns."""
    return river(linear_model.LogisticRegression(optimizer=optim.SGD(1e-12)))


MAKERS: dict[str, Callable[[], Model]] = {
    "": poor,
    "m:dummy": poor,
    "m:compiled": compiled,
    "m:other": compiled_otherwise,
    "m:tree": lambda: river(tree.HoeffdingTreeClassifier(grace_period=50)),
    "m:number": lambda: river(linear_model.LinearRegression()),
}
COMPILED = {**MAKERS, "": compiled_otherwise}


def rules(**changes: Any) -> PromotionRules:
    asked = {"mode": "auto", "loss": "", "alpha": 0.05, "pairs_min": 300, "span_ms": 1_000, "probation_ms": 10**9}
    return PromotionRules(partitions=1, **{**asked, **changes})


def contest(makers: dict[str, Callable[[], Model]] = MAKERS, **changes: Any) -> Contest:
    def build(_name: str, factory: str, _partition: int) -> Contender:
        return Contender(makers[factory](), has_proba=factory in {"m:compiled", "m:other", "m:tree"})

    return Contest(build, rules(**changes), factory="m:first")


def stream(count: int = COUNT, *, flip: int = 10**9, seed: int = 1) -> list[Record]:
    chance, records = random.Random(seed), []
    for offset in range(count):
        features = {name: chance.gauss(0, 1) for name in "ab"}
        label = (features["a"] + 0.3 * features["b"] > 0) != (offset >= flip)
        value = json.dumps({"id": f"r{offset}", "features": features, "label": label}).encode()
        records.append(Record(0, offset, 1_000 + 10 * offset, b"k", value if offset % 97 else b"{", None))
    return records


def late(count: int = COUNT, delay: int = 40) -> list[Record]:
    """Return features whose labels come later, some of them twice with the other value."""
    records: list[Record] = []
    chance, labels = random.Random(2), 0
    waiting: list[tuple[int, bool]] = []
    for offset in range(count):
        at_ms, features = 1_000 + 10 * offset, {name: chance.gauss(0, 1) for name in "ab"}
        value = json.dumps({"id": f"r{offset}", "features": features}).encode()
        records.append(Record(0, offset, at_ms, b"k", value, None))
        waiting.append((offset, features["a"] > 0))
        while waiting and waiting[0][0] <= offset - delay:
            number, label = waiting.pop(0)
            told = [label, not label] if number % 11 == 0 else [label]
            for one in told:
                sent = json.dumps({"id": f"r{number}", "label": one}).encode()
                records.append(LabelRecord(0, labels, at_ms, b"k", sent, None))
                labels += 1
    return records


def host(lifecycle: Lifecycle, *, fast: bool = False) -> Engine:
    decoder = Decoder()
    columnar = ColumnarEngine(decoder=decoder, topic="in", name="fraud") if fast else None
    return Engine(decoder=decoder, topic="in", name="fraud", labels="truths", columnar=columnar, lifecycle=lifecycle)


def shard_of(makers: dict[str, Callable[[], Model]] = MAKERS, *, has_labels: bool = False) -> Shard:
    labels = Labels(LabelRules(wait_ms=10**9, corrections=True)) if has_labels else None
    return Shard(makers[""](), partition=0, start=0, labels=labels, labels_start=0 if has_labels else -1)


def command(number: int, verb: str, **args: str) -> Record:
    return Record(0, number, 0, None, commands.encode(Command(f"c{number}", verb, args, by="test")), None)


def run(
    shard: Shard, engine: Engine, records: Sequence[Record], *, size: int, asked: dict[int, list[Record]] | None = None
) -> tuple[list[Any], list[JournalEntry]]:
    """Run records in batches of a size; commands are taken at the batches that begin at their index."""
    answers: list[Any] = []
    entries: list[JournalEntry] = []
    cuts = sorted({*range(0, len(records), size), *(asked or {}), len(records)})
    for begin, end in itertools.pairwise(cuts):
        engine.lifecycle.begin(shard, (asked or {}).get(begin, ()))
        piece = records[begin:end]
        outputs = engine.run(shard, batch_of(piece) if shard.labels is None else piece, now_ms=5)
        assert len(outputs.places) == len(outputs.predictions)
        for at, line in enumerate(outputs.predictions.values):
            told = json.loads(line or b"")
            assert outputs.origin(at).offset == told["source"]["offset"]
            answers.append((told["prediction"], told["model"]["generation"]))
        entries += shard.history.drain()
    return answers, entries


ASKED = {0: [command(0, "challenge", name="b", factory="m:compiled")]}


@pytest.mark.parametrize("has_labels", [False, True], ids=["labels inside", "late labels"])
@pytest.mark.parametrize("fast", [False, True], ids=["one by one", "in batches"])
@pytest.mark.parametrize("makers", [MAKERS, COMPILED], ids=["river", "compiled"])
def test_the_better_one_is_promoted_at_one_place_however_the_records_come(
    makers: dict[str, Callable[[], Model]], *, fast: bool, has_labels: bool
) -> None:
    records = late() if has_labels else stream()
    found = []
    for size in (1, 1_000):
        shard = shard_of(makers, has_labels=has_labels)
        engine = host(Lifecycle(contest(makers, loss="zero-one")), fast=fast)
        answers, entries = run(shard, engine, records, size=size, asked=ASKED)
        found.append((answers, entries, learned(shard, shard.answering.name), shard.history.saved()))
    assert found[0] == found[1]
    _, entries, _, saved = found[0]
    if makers is MAKERS:
        assert [entry.what for entry in entries] == ["challenge", "promote"]
        promoted = entries[1]
        assert promoted.place[0] % STRIDE == 0
        assert 300 < promoted.place[0] < COUNT
        assert promoted.evidence is not None
        assert promoted.evidence.e >= promoted.evidence.needs
        assert (saved.generation, saved.factories) == (2, {"b": "m:compiled"})
        assert [one.name for one in saved.challenges] == ["model"]
        generations = [generation for _, generation in found[0][0]]
        assert sorted(generations) == generations
        assert set(generations) == {1, 2}


@pytest.mark.parametrize("has_labels", [False, True], ids=["labels inside", "late labels"])
def test_a_relearning_comes_to_the_same_and_sends_nothing_again(*, has_labels: bool) -> None:
    records = late() if has_labels else stream()
    first, engine = shard_of(has_labels=has_labels), host(Lifecycle(contest()))
    asked = {**ASKED, 500: [command(1, "challenge", name="t", factory="m:tree"), command(2, "drop", name="nobody")]}
    _, entries = run(first, engine, records, size=100, asked=asked)
    assert {entry.what for entry in entries} >= {"challenge", "refused", "promote"}
    again = shard_of(has_labels=has_labels)
    again.history.follow(entries, newest=len(entries))
    run(again, host(Lifecycle(contest())), records, size=1_000)
    assert again.history.saved() == first.history.saved()
    assert again.history.drain() == []
    # The tree has a generator that was not seeded, and that it never draws from.
    assert [learned(again, name) for name in ("model", "b")] == [learned(first, name) for name in ("model", "b")]
    assert [again.models[name].quality_now() for name in again.models] == [
        first.models[name].quality_now() for name in first.models
    ]


def test_a_relearning_that_decides_otherwise_stops() -> None:
    records, shard = stream(), shard_of()
    _, entries = run(shard, host(Lifecycle(contest())), records, size=100, asked=ASKED)
    [begun, promoted] = entries
    wrong = [
        [begun, JournalEntry(**{**_fields(promoted), "place": (promoted.place[0] + STRIDE, -1)})],
        [begun, JournalEntry(**{**_fields(promoted), "place": (STRIDE, -1)})],
        [begun, JournalEntry(**{**_fields(promoted), "name": "t"})],
    ]
    for told in wrong:
        again = shard_of()
        again.history.follow(told, newest=2)
        with pytest.raises(JournalError):
            run(again, host(Lifecycle(contest())), records, size=1_000)


def _fields(entry: JournalEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def test_pairs_have_the_answers_of_their_time_and_a_correction_makes_none() -> None:
    shard = shard_of(has_labels=True)
    run(shard, host(Lifecycle(contest(mode="ask", loss="zero-one"))), late(300), size=50, asked=ASKED)
    challenge = shard.history.challenges["b"]
    # The same in a script: both answer when the features come, and learn when the label does.
    served, beside = poor(), compiled()
    given: dict[str, Any] = {}
    seen: set[str] = set()
    losses = [0.0, 0.0]
    for record in late(300):
        told = json.loads(record.value or b"")
        if type(record) is not LabelRecord:
            features = told["features"]
            given[told["id"]] = (features, served.predict(dict(features))[0], beside.predict(dict(features))[0])
            continue
        features, ours, theirs = given[told["id"]]
        if told["id"] not in seen:
            losses[0] += float(ours != told["label"])
            losses[1] += float(theirs != told["label"])
            seen.add(told["id"])
        served.learn(dict(features), told["label"])
        beside.learn(dict(features), told["label"])
    assert (challenge.pairs, challenge.champion_sum, challenge.challenger_sum) == (len(seen), *losses)


def test_a_winner_that_turns_bad_is_returned_from_by_itself() -> None:
    makers = MAKERS
    records, shard = stream(2_600), shard_of(makers)
    asked = {
        0: [command(0, "challenge", name="b", factory="m:compiled")],
        900: [command(1, "challenge", name="p", factory="m:dummy")],
        901: [command(2, "promote", name="p")],
    }
    _, entries = run(shard, host(Lifecycle(contest(makers))), records, size=100, asked=asked)
    told = [(entry.what, entry.name) for entry in entries]
    assert told[:3] == [("challenge", "b"), ("promote", "b"), ("challenge", "p")]
    assert ("promote", "p") in told
    back = next(entry for entry in entries if entry.what == "return")
    assert (back.name, shard.answering.name) == ("b", "b")
    assert back.place[0] <= 901 + 1_500
    forced = next(entry for entry in entries if (entry.what, entry.name) == ("promote", "p"))
    assert forced.reason.startswith("forced")
    assert "p" not in shard.models


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"name": "b", "factory": "m:number"}, "regression"),
        ({"name": "b", "factory": "m:tree", "from": "start"}, "rebuild"),
        ({"name": "a/b", "factory": "m:tree"}, "no name"),
        ({"name": "model", "factory": "m:tree"}, "already"),
    ],
)
def test_a_challenge_that_is_not_possible_is_refused_in_the_journal(args: dict[str, str], words: str) -> None:
    shard = shard_of()
    _, [entry] = run(
        shard, host(Lifecycle(contest())), stream(10), size=5, asked={0: [command(0, "challenge", **args)]}
    )
    assert entry.what == "refused"
    assert words in entry.reason
    assert not shard.shadows


def test_configured_challengers_enter_once_and_leave_with_the_configuration() -> None:
    shard, records = shard_of(), stream(300)
    both = Lifecycle(contest(mode="ask"), configured={"b": "m:compiled", "t": "m:tree"})
    _, entries = run(shard, host(both), records[:100], size=10)
    assert [(entry.what, entry.name, entry.by) for entry in entries] == [
        ("challenge", "b", "configuration"),
        ("challenge", "t", "configuration"),
    ]
    one = Lifecycle(contest(mode="ask"), configured={"b": "m:other"})
    assert one.is_behind(shard)
    _, entries = run(shard, host(one), records[100:200], size=10)
    assert [(entry.what, entry.name) for entry in entries] == [("drop", "b"), ("challenge", "b"), ("drop", "t")]
    assert not one.is_behind(shard)
    assert run(shard, host(one), records[200:], size=10)[1] == []


def test_each_challenge_gets_less_of_alpha() -> None:
    shard = shard_of()
    asked = {
        at: [command(at, verb, name="b", factory="m:compiled")] for at, verb in enumerate(["challenge", "drop"] * 3)
    }
    run(shard, host(Lifecycle(contest(mode="ask"))), stream(20), size=1, asked=asked)
    run(
        shard,
        host(Lifecycle(contest(mode="ask"))),
        stream(30)[20:],
        size=1,
        asked={0: [command(9, "challenge", name="b", factory="m:compiled")]},
    )
    challenge = shard.history.challenges["b"]
    assert challenge.number == 4
    assert challenge.needs == pytest.approx(16 * 3.141592653589793**2 / 6 / 0.05)
