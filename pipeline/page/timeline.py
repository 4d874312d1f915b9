"""Turns two reports of the stream into the events between them: pauses, workers that come and go, takeovers. Pure."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from headrace.pipeline.status.report import Note

_STATES = {
    "running": "the stream runs",
    "paused": "the stream pauses",
    "relearning": "models are learned again",
    "stopped": "no worker runs",
    "unknown": "nobody answers",
}


class TimelineEvent(msgspec.Struct, frozen=True):
    """One event: its time in ms since 1970, its kind, and its sentence. Charts mark it if `mark` is true."""

    at: int
    kind: str
    text: str
    mark: bool = False


class Moment(msgspec.Struct, frozen=True):
    """What events are told from: the state with its reason, the workers' notes, and the model spec of partitions."""

    state: str
    reason: str | None
    workers: Sequence[Note]
    epochs: Mapping[int, int]
    models: Mapping[int, str] = {}


def events(before: Moment, now: Moment, *, at_ms: int) -> Iterator[TimelineEvent]:
    """Yield what happened between two moments."""
    if now.state != before.state:
        reason = f": {now.reason}" if now.reason and now.state in {"paused", "stopped"} else ""
        yield TimelineEvent(at_ms, now.state, f"{_STATES[now.state]}{reason}", mark=True)
    yield from _workers(before, now, at_ms)
    for partition, epoch in sorted(now.epochs.items()):
        if epoch > before.epochs.get(partition, epoch):
            owner = next((n.get("ordinal") for n in now.workers if partition in n.get("partitions", ())), None)
            by = "" if owner is None else f" by worker {owner}"
            yield TimelineEvent(at_ms, "takeover", f"partition {partition} was taken over{by}")
    changed = [p for p, spec in sorted(now.models.items()) if before.models.get(p, spec) != spec]
    if changed:
        listed = ", ".join(map(str, changed))
        yield TimelineEvent(at_ms, "model", f"another model answers in partition {listed}", mark=True)


def _workers(before: Moment, now: Moment, at_ms: int) -> Iterator[TimelineEvent]:
    old, new = _by_place(before.workers), _by_place(now.workers)
    for place in sorted(new.keys() - old.keys()):
        yield TimelineEvent(
            at_ms, "joined", f"worker {place[1]} is there ({place[0]}, process {new[place].get('pid')})"
        )
    for place in sorted(old.keys() - new.keys()):
        yield TimelineEvent(at_ms, "left", f"worker {place[1]} is gone ({place[0]})", mark=True)
    for place in sorted(old.keys() & new.keys()):
        if old[place].get("pid") != new[place].get("pid"):
            text = f"worker {place[1]} was restarted (process {new[place].get('pid')})"
            yield TimelineEvent(at_ms, "restarted", text, mark=True)


def _by_place(notes: Sequence[Note]) -> dict[tuple[str, int], Note]:
    return {(str(note.get("host", "")), int(note.get("ordinal", 0))): note for note in notes}
