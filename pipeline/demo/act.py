"""The acts on the stream of payments. Each act changes something, prints it, and checks the result."""

import json
import os
import signal
import time
from typing import Any

from headrace.pipeline.demo import ledger
from headrace.pipeline.demo.payment import fixable, unfixable
from headrace.pipeline.demo.project import Project
from headrace.pipeline.demo.screen import percent
from headrace.pipeline.demo.stage import RATE, ClaimFailed, Stage
from headrace.pipeline.demo.stream import RecordOffset, named
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, printable

_OUTAGE_S = 7.0
_LEARNED = 0.85
_DIP = 0.1
_RECOVERED = 0.03


def drift(stage: Stage, *, seconds: float) -> None:
    """Stream payments, let them drift after a third of `seconds`, and watch the model learn its way back."""
    screen = stage.screen
    partitions = stage.fraud.config.topics.partitions
    screen.act(f"A stream that drifts: {RATE:,.0f} payments a second, {partitions} partitions, one worker")
    screen.head()
    stage.stream.start()
    accuracy = stage.meter.accuracy
    # On a slow machine wait for a good model: a model that knows little shows no drop in accuracy.
    learned = "the model to learn the payments"
    stage.show(lambda: accuracy.full and accuracy.share >= _LEARNED, what=learned, least_s=seconds / 3)
    before = accuracy.watch()
    stage.stream.drift()
    screen.event("drift: fraud was large payments far away, from now on it is small ones close to home")

    def recovered() -> bool:
        return accuracy.worst < before - _DIP and accuracy.share > before - _RECOVERED

    stage.show(recovered, what="the model to learn the drift", least_s=seconds * 2 / 3)
    told = f"{percent(before)} before the drift, {percent(accuracy.worst)} at worst, {percent(accuracy.share)} now"
    screen.held(f"accuracy of the last 1,000 predictions: {told}")


def bad_records(stage: Stage) -> None:
    """Mix malformed records into the good ones, and find each in the dead letters with its reason."""
    screen, stream, meter = stage.screen, stage.stream, stage.meter
    records = [*fixable().values(), *unfixable()]
    screen.act(f"Bad records: {len(records)} of them, mixed into the good ones")
    stream.mix_in([bad.value for bad in records])
    stage.show(lambda: len(stream.mixed_in) == len(records), what="Kafka to take the bad records")
    dead_letters = [_dead_letter(stage, stream.mixed_in[number]) for number in range(len(records))]
    for bad, found in zip(records, dead_letters, strict=True):
        if found.code != bad.code or found.record.value != bad.value:
            raise ClaimFailed(f"{bad.value!r} is dead-lettered as {found.code} {found.record.value!r}")
    reasons = [(found.code, found.reason.field or "-", printable(found.reason.message)) for found in dead_letters]
    screen.table([("code", "field", "message"), *dict.fromkeys(reasons)])
    offsets = set(stream.mixed_in.values())
    beside = {(p, offset + step) for p, offset in offsets for step in (-1, 1) if offset + step >= 0} - offsets
    stage.show(lambda: beside <= meter.settled(), what="the outcomes of the records next to the bad ones")
    if refused := beside & meter.dead_letters.keys():
        raise ClaimFailed(f"good records next to bad ones are dead letters: {named(refused)}")
    screen.held(
        f"{len(dead_letters)} bad records are {len(meter.dead_letters)} dead letters, byte for byte; "
        f"the {len(beside)} records next to them are predicted"
    )


def outage(stage: Stage) -> None:
    """Freeze the store for a while: the stream pauses, `status` says why, and the stream continues by itself."""
    screen, store = stage.screen, stage.stack.store
    screen.act("An outage: the store is frozen (SIGSTOP) for some seconds, and payments keep coming")
    before = stage.stream.sent()
    store.freeze()
    screen.event("Valkey is frozen")
    frozen_at = time.monotonic()
    try:
        stage.show(lambda: stage.fraud.worker().get("state") == "paused", what="the stream to pause")
        told = json.loads(stage.command("status", "--json"))
        if told["state"] != "paused" or not told["reason"]:
            raise ClaimFailed(f"headrace status tells {told['state']!r}, and as the reason {told['reason']!r}")
        screen.event(f"headrace status: {told['state']}: {told['reason']}")
        stage.show(lambda: time.monotonic() - frozen_at >= _OUTAGE_S, what="the outage to last")
        outcomes = len(stage.meter.settled())
    finally:
        store.thaw()
    lag = len(stage.stream.sent()) - outcomes
    screen.event(f"Valkey is thawed after {time.monotonic() - frozen_at:.1f} s, {lag:,} payments wait")
    took_s = stage.show(lambda: len(stage.meter.settled()) > outcomes, what="the stream to go on")
    screen.event(f"resumed {took_s:.1f} s after the thaw")
    _all_settled(stage, before, since="the freeze")


def crash(stage: Stage) -> None:
    """Kill the worker: another one relearns the records after the snapshot without output, and continues."""
    screen, project = stage.screen, stage.fraud
    screen.act("A crash: the worker is killed (SIGKILL) in the middle of its work")
    before, since = stage.stream.sent(), project.log_size()
    victim = project.worker()["pid"]
    os.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    screen.event(f"worker {victim} is killed")
    partitions = project.config.topics.partitions
    stage.show(
        lambda: len({event["partition"] for event in _takeovers(project, since)}) == partitions,
        what="another worker to take over",
    )
    taken = _takeovers(project, since)
    relearned = sum(max(0, event["committed"] - event["snapshot"]) for event in taken)
    took_s = time.monotonic() - killed_at
    successor = project.worker()["pid"]
    screen.event(
        f"worker {successor} took over after {took_s:.1f} s and relearned {relearned:,} records without output"
    )
    _all_settled(stage, before, since="the kill")


def replay(stage: Stage) -> None:
    """Replay the dead letters that an edit function can fix, twice: the second replay must send none."""
    screen, meter = stage.screen, stage.meter
    screen.act("A replay: dead letters that can be fixed go back into the stream, once")
    words = ("dlq", "replay", "--code", "wrong_type", "--edit", "fix:amount", "--execute")
    fixed = fixable()
    screen.command(f"headrace {' '.join(words)}")
    first = json.loads(stage.command(*words, "--json"))
    if first["sent"] != len(fixed):
        raise ClaimFailed(f"of {len(fixed)} dead letters {first['sent']} were sent: {first}")
    stage.show(lambda: fixed.keys() <= meter.others.keys(), what="the predictions of the replayed records")
    for id_, bad in fixed.items():
        amount = json.loads(bad.value)["features"]["amount"]
        seen = meter.others[id_]
        screen.say(f"{id_}: amount {amount!r} is fixed, and predicted {json.dumps(seen.prediction)}")
    screen.event("the same command again")
    second = json.loads(stage.command(*words, "--json"))
    if second["sent"] or second["already"] != len(fixed):
        raise ClaimFailed(f"a second replay sent {second['sent']} records: {second}")
    screen.held(f"{first['sent']} sent, {first['left']} left by fix:amount; a second replay sends {second['sent']}")


def finish(stage: Stage) -> None:
    """Stop the stream, wait until the pipeline has handled all records, and stop the pipeline."""
    refused = stage.stream.stop()
    if refused:
        raise ClaimFailed(f"Kafka did not take all payments: {refused}")
    stage.settle()
    code = stage.run.finish()
    if code != 0:
        raise ClaimFailed(f"headrace run ended with exit code {code}")


def total(stage: Stage) -> None:
    """Read every topic from start to end, and compare the records with their outcomes."""
    screen, exact = stage.screen, not stage.mock
    screen.act("The sum, from all topics, read from start to end with read_committed")
    with screen.step("reading"):
        phishing, fraud = ledger.read(stage.phishing.config), ledger.read(stage.fraud.config)
    balances = (phishing.balance, fraud.balance)
    records, predictions, dead_letters = (
        sum(getattr(balance, name) for balance in balances) for name in ("records", "predictions", "dead_letters")
    )
    told = f"records in {records:,} = predictions {predictions:,} + dead letters {dead_letters:,}"
    for balance in balances:
        if not balance.holds(exact=exact):
            raise ClaimFailed(f"it does not add up: {balance}")
    if exact:
        with screen.step("learning the payments again with River alone"):
            same = ledger.same_as_river(fraud, stage.fraud.build())
        if same != fraud.balance.predictions:
            raise ClaimFailed(f"{fraud.balance.predictions - same:,} probabilities are not those of River alone")
        screen.held(
            f"{same:,} predictions are, to the last bit, those of River alone, which saw no outage and no crash"
        )
        screen.held(f"each of {records:,} records has one outcome: none is lost, none is there twice")
    screen.held(told)


def _takeovers(project: Project, since: int) -> list[dict[str, Any]]:
    return project.events("partition taken over", since=since)


def _dead_letter(stage: Stage, at: RecordOffset) -> DeadLetterRecord:
    stage.show(lambda: at in stage.meter.dead_letters, what=f"the dead letter of {named([at])}")
    return stage.meter.dead_letters[at]


def _all_settled(stage: Stage, before: set[RecordOffset], *, since: str) -> None:
    """Wait until every payment so far has its outcome, and print it for those that came after `before`."""
    count = len(stage.settle() - before)
    twice = "" if stage.mock else ", none two"
    stage.screen.held(f"{count:,} payments came since {since}: each has its outcome, none is lost{twice}")
