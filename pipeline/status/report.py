"""Builds the report of `status` from the answers of Kafka, the store and the workers. Pure: values in, values out.

If one of the three did not answer, the fields that only it knows are None.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.pipeline.recovery import offset_metadata
from headrace.state.measures import Tally, merged, values
from headrace.state.quality import RECENT

PipelineState = Literal["running", "paused", "relearning", "stopped"]
Note = Mapping[str, Any]

_WORKER_FIELDS = (
    "ordinal",
    "host",
    "pid",
    "started_ms",
    "state",
    "since_ms",
    "reason",
    "cause",
    "partitions",
    "relearning",
    "relearn_rate",
    "epochs",
    "restarts",
)
# A worker that is still connecting has no partitions yet.
_WORKER_DEFAULTS: dict[str, Any] = {"partitions": [], "relearning": {}}


class Partition(msgspec.Struct, frozen=True):
    """One partition: the committed offset, the offset of its newest snapshot, the lag, and the records learned."""

    partition: int
    committed: int | None
    snapshot: int | None
    lag: int | None
    learned: int | None


class Totals(msgspec.Struct, frozen=True):
    """Counts since the first record of the surviving history."""

    records: int
    predictions: int
    dead_letters: int
    learned: int
    skipped: int = 0


class LabelTotals(msgspec.Struct, frozen=True):
    """The outcomes of labels, and of features that waited for one.

    At the moment `waiting` features wait for a label, and `waiting_early` labels wait for their features.
    """

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
    """The state of a pipeline. A field is None if it is not known now; `labels` is None without a labels topic.

    `confusion` counts the answers of a classifier by label; it is None for other models, and for too many classes.
    `warnings` are the workers' warnings about the stream.
    """

    name: str
    state: PipelineState
    reason: str | None
    lag: int | None
    counts: Totals | None
    labels: LabelTotals | None
    partitions: Sequence[Partition]
    quality: Mapping[str, float] | None
    confusion: Mapping[str, Mapping[str, int]] | None
    workers: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()


class Observations(msgspec.Struct, frozen=True):
    """The answers: `places` from Kafka, each partition's newest `snapshots` from the store, the living `workers`.

    `faults` has a sentence for each source that did not answer. `unseen_members` counts the members of the group
    whose notes can't be read. `stop_reasons` say why workers have stopped the stream.
    """

    places: Mapping[int, PartitionOffsets] | None
    snapshots: Mapping[int, Note] | None
    workers: Sequence[Note]
    faults: Sequence[str] = ()
    unseen_members: int = 0
    stop_reasons: Sequence[str] = ()

    @property
    def nothing(self) -> bool:
        """Whether no source has answered."""
        return self.places is None and self.snapshots is None and not self.workers


def summarise(name: str, seen: Observations) -> Report:
    """Build the report of the pipeline `name`."""
    state, reason = _state(seen)
    places, snapshots = seen.places, seen.snapshots or {}
    tallies = _tallies(seen)
    numbers = sorted(snapshots if places is None else places)
    return Report(
        name=name,
        state=state,
        reason=reason,
        lag=None if places is None else total_lag(places.values()),
        counts=None if places is None else _totals(places.values()),
        labels=None if places is None else _label_totals(places.values()),
        partitions=[_partition(number, (places or {}).get(number), snapshots.get(number)) for number in numbers],
        quality=_quality(seen, tallies),
        confusion=(merged([one for one, _ in tallies.values()]).matrix() if tallies else None) or None,
        warnings=list(dict.fromkeys(warning for note in seen.workers for warning in note.get("warnings") or ())),
        workers=[
            {**_WORKER_DEFAULTS, **{name: note[name] for name in _WORKER_FIELDS if name in note}}
            for note in seen.workers
        ],
    )


def alive(
    stored: Mapping[int, Note], local: Mapping[int, Note], *, host: str, running: Mapping[int, bool]
) -> list[Note]:
    """Merge the workers' notes from the store with the notes of this machine, in the order of their ordinals.

    A worker writes its note to its machine before it writes to the store, so the local note is never older. The store
    keeps the note of a dead worker for a while; for this `host`, `running` tells by process id whether it lives.
    """
    tokens = {note.get("token") for note in local.values()}
    others = [
        note
        for note in stored.values()
        if note.get("token") not in tokens and (note.get("host") != host or running.get(note.get("pid", 0), False))
    ]
    return sorted([*local.values(), *others], key=lambda note: (note.get("ordinal", -1), note.get("pid", 0)))


def combine(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the quality of the partitions, each weighted by the number of records that it has scored."""
    scored = [summary for summary in summaries if summary.get("scored")]
    total = sum(summary["scored"] for summary in scored)
    combined: dict[str, float] = {"scored": total}
    for measure in ("accuracy", "accuracy_recent", "mae", "rmse", "mae_recent"):
        measured = [summary for summary in scored if measure in summary]
        weight = sum(summary["scored"] for summary in measured)
        if not weight:
            continue
        power = 2 if measure == "rmse" else 1
        mean = sum(summary[measure] ** power * summary["scored"] for summary in measured) / weight
        combined[measure] = mean ** (1 / power)
    return combined


def total_lag(places: Iterable[PartitionOffsets]) -> int | None:
    """Return the number of records that are still to be handled, or None if it is unknown for one partition."""
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
        return "running", "; ".join(filter(None, (*reasons, silence))) or None
    # An idle worker notices late that Kafka is away; no record moves in the meantime. The workers of other machines
    # are seen only through the store; if the store is away, those workers pause.
    if states or seen.unseen_members:
        return "paused", silence
    return "stopped", "; ".join(filter(None, (silence, *seen.stop_reasons))) or None


def _totals(places: Any) -> Totals:
    marks = [found for place in places if (found := offset_metadata.read(place.metadata)) is not None]
    return Totals(*(sum(getattr(found, name) for found in marks) for name in Totals.__struct_fields__))


def _label_totals(places: Any) -> LabelTotals | None:
    marks = [found for place in places if (found := offset_metadata.read(place.metadata)) is not None]
    joins = [found.join for found in marks if found.join is not None]
    if not joins:
        return None
    counts = [
        {**msgspec.structs.asdict(join.tally), "waiting": join.asked, "waiting_early": join.early} for join in joins
    ]
    return LabelTotals(**{name: sum(count[name] for count in counts) for name in LabelTotals.__struct_fields__})


def _partition(number: int, place: PartitionOffsets | None, snapshot: Note | None) -> Partition:
    saved = None if snapshot is None else int(snapshot["offset"])
    if place is None:
        return Partition(number, None, saved, None, None)
    last = offset_metadata.read(place.metadata)
    return Partition(number, place.committed, saved, place.lag, 0 if last is None else last.learned)


def _quality(seen: Observations, tallies: "_Tallies") -> dict[str, float] | None:
    summaries = _newest(seen, "quality")
    if not summaries and seen.snapshots is None:
        return None
    measures = dict.fromkeys(name for note in _newest(seen, "tallies").values() for name in note.get("measures", ()))
    both = list(tallies.values())
    whole, recent = merged([one for one, _ in both]), merged([one for _, one in both])
    measured = values(whole, measures) | values(recent, measures, RECENT)
    return {**combine(list(summaries.values())), **measured}


_Tallies = Mapping[int, tuple[Tally, Tally]]
"""The tallies of each partition: of all scored predictions, and of the last 1,000."""


def _tallies(seen: Observations) -> _Tallies:
    found = {}
    for number, note in _newest(seen, "tallies").items():
        try:
            found[number] = (msgspec.convert(note["all"], Tally), msgspec.convert(note["recent"], Tally))
        except (KeyError, msgspec.ValidationError):
            # Another release may have written the note.
            continue
    return found


def _newest(seen: Observations, name: str) -> dict[int, Any]:
    """Return a field of the notes by partition: of the living workers, or else of the newest snapshots."""
    found = {number: note.get(name) or {} for number, note in (seen.snapshots or {}).items()}
    for note in seen.workers:
        found.update({int(number): told for number, told in (note.get(name) or {}).items()})
    return found
