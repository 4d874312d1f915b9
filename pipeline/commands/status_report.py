"""What `status` says, put together from what Kafka, the store and the workers told. Pure: values in, values out.

Each of the three may be silent; what only it could tell is then None, and the rest still stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.pipeline.recovery import offset_metadata

PipelineState = Literal["running", "paused", "relearning", "stopped"]
Note = Mapping[str, Any]

_TOLD = (
    "ordinal",
    "host",
    "pid",
    "started_ms",
    "state",
    "reason",
    "partitions",
    "relearning",
    "relearn_rate",
    "epochs",
    "restarts",
)
# A worker that still connects knows of no partitions yet.
_UNTOLD: dict[str, Any] = {"partitions": [], "relearning": {}}


class Partition(msgspec.Struct, frozen=True):
    """One partition: the next offset to handle, the offset of its newest snapshot, and what is left between."""

    partition: int
    committed: int | None
    snapshot: int | None
    lag: int | None
    learned: int | None


class Totals(msgspec.Struct, frozen=True):
    """What was done since the first record of the history that survives."""

    records: int
    predictions: int
    dead_letters: int
    learned: int


class LabelTotals(msgspec.Struct, frozen=True):
    """What became of labels, and of features that waited for one; `waiting` features and `waiting_early` labels do."""

    records: int
    joined: int
    early: int
    duplicate: int
    corrected: int
    orphaned: int
    refused: int
    expired: int
    evicted: int
    repeated: int
    ahead: int
    waiting: int
    waiting_early: int


class Report(msgspec.Struct, frozen=True):
    """How a pipeline is. What can't be known at the moment is None, as are `labels` without a labels topic.

    `warnings` is what the workers found wrong with the stream.
    """

    name: str
    state: PipelineState
    reason: str | None
    lag: int | None
    counts: Totals | None
    labels: LabelTotals | None
    partitions: Sequence[Partition]
    quality: Mapping[str, float] | None
    workers: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()


class Observations(msgspec.Struct, frozen=True):
    """What was heard: `places` from Kafka, each partition's newest `snapshots` from the store, `workers` alive.

    `faults` says who did not answer; `strangers` counts members of the group whose notes can't be read.
    """

    places: Mapping[int, PartitionOffsets] | None
    snapshots: Mapping[int, Note] | None
    workers: Sequence[Note]
    faults: Sequence[str] = ()
    strangers: int = 0

    @property
    def nothing(self) -> bool:
        """Whether nobody told anything."""
        return self.places is None and self.snapshots is None and not self.workers


def report(name: str, seen: Observations) -> Report:
    """Put together what was heard of the pipeline `name`."""
    state, reason = _state(seen)
    places, snapshots = seen.places, seen.snapshots or {}
    numbers = sorted(snapshots if places is None else places)
    return Report(
        name=name,
        state=state,
        reason=reason,
        lag=None if places is None else total_lag(places.values()),
        counts=None if places is None else _totals(places.values()),
        labels=None if places is None else _label_totals(places.values()),
        partitions=[_partition(number, (places or {}).get(number), snapshots.get(number)) for number in numbers],
        quality=_quality(seen),
        warnings=list(dict.fromkeys(said for note in seen.workers for said in note.get("warnings") or ())),
        workers=[{**_UNTOLD, **{name: note[name] for name in _TOLD if name in note}} for note in seen.workers],
    )


def alive(
    stored: Mapping[int, Note], local: Mapping[int, Note], *, host: str, running: Mapping[int, bool]
) -> list[Note]:
    """Merge the workers' notes of the store with those of this machine, in the order of their ordinals.

    A worker writes to its machine before it writes to the store, so that note is never the older one. The store
    keeps a dead worker's for a while; on this `host`, `running` tells by process id.
    """
    tokens = {note.get("token") for note in local.values()}
    there = [
        note
        for note in stored.values()
        if note.get("token") not in tokens and (note.get("host") != host or running.get(note.get("pid", 0), False))
    ]
    return sorted([*local.values(), *there], key=lambda note: (note.get("ordinal", -1), note.get("pid", 0)))


def combine(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Combine the partitions' figures into the stream's, each weighted by what it has scored."""
    scored = [summary for summary in summaries if summary.get("scored")]
    total = sum(summary["scored"] for summary in scored)
    combined: dict[str, float] = {"scored": total}
    for measure in ("accuracy", "accuracy_recent", "mae", "rmse", "mae_recent"):
        told = [summary for summary in scored if measure in summary]
        weight = sum(summary["scored"] for summary in told)
        if not weight:
            continue
        power = 2 if measure == "rmse" else 1
        mean = sum(summary[measure] ** power * summary["scored"] for summary in told) / weight
        combined[measure] = mean ** (1 / power)
    return combined


def total_lag(places: Iterable[PartitionOffsets]) -> int | None:
    """Sum up what is left to do; None where it can't be told of one of the partitions."""
    lags = [place.lag for place in places]
    return None if None in lags else sum(lag for lag in lags if lag is not None)


def _state(seen: Observations) -> tuple[PipelineState, str | None]:
    silence = "; ".join(seen.faults) or None
    states = [note.get("state") for note in seen.workers]
    reasons = list(dict.fromkeys(note["reason"] for note in seen.workers if note.get("reason")))
    if "paused" in states or ("connecting" in states and reasons):
        return "paused", "; ".join(reasons) or silence
    if "relearning" in states:
        return "relearning", silence
    if states and seen.places is not None:
        return "running", silence
    # A worker with nothing to send finds out late that Kafka is away; no record moves all the same. And those of
    # other machines are seen through the store only, without which they pause.
    return ("paused" if states or seen.strangers else "stopped"), silence


def _totals(places: Any) -> Totals:
    marks = [found for place in places if (found := offset_metadata.read(place.metadata)) is not None]
    return Totals(*(sum(getattr(found, name) for found in marks) for name in Totals.__struct_fields__))


def _label_totals(places: Any) -> LabelTotals | None:
    marks = [found for place in places if (found := offset_metadata.read(place.metadata)) is not None]
    joins = [found.join for found in marks if found.join is not None]
    if not joins:
        return None
    tallies = [
        {**msgspec.structs.asdict(join.tally), "waiting": join.asked, "waiting_early": join.early} for join in joins
    ]
    return LabelTotals(**{name: sum(t[name] for t in tallies) for name in LabelTotals.__struct_fields__})


def _partition(number: int, place: PartitionOffsets | None, snapshot: Note | None) -> Partition:
    saved = None if snapshot is None else int(snapshot["offset"])
    if place is None:
        return Partition(number, None, saved, None, None)
    last = offset_metadata.read(place.metadata)
    return Partition(number, place.committed, saved, place.lag, 0 if last is None else last.learned)


def _quality(seen: Observations) -> dict[str, float] | None:
    summaries = {number: note.get("quality", {}) for number, note in (seen.snapshots or {}).items()}
    for note in seen.workers:
        summaries.update({int(number): summary for number, summary in (note.get("quality") or {}).items()})
    return combine(list(summaries.values())) if summaries or seen.snapshots is not None else None
