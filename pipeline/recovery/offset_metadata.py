"""The mark: a summary of the shard in the metadata of each committed offset.

The transaction that sends the outputs also commits the mark, so the two can't disagree. If Redis loses data, the mark
shows it, and has the counts that the relearned model must reach.
"""

from typing import Annotated

import msgspec

from headrace.state.labels.join_state import LabelCounts
from headrace.state.models.spec import brief
from headrace.state.seal import UNREADABLE, Number
from headrace.state.shard import Counts, Shard
from headrace.state.snapshot import LabelsPlace, Offset
from headrace.state.store.lua_scripts import NUMBER_MAX


class JoinMetadata(msgspec.Struct, frozen=True, array_like=True):
    """What was true of a shard's labels: the offset, the first of its history, the order of both logs, and the tally.

    `asked` and `early` count the features and the labels that waited for each other; `topic` is the labels topic's id.
    """

    offset: LabelsPlace
    start: LabelsPlace
    order: str
    tally: LabelCounts
    asked: Number
    early: Number
    topic: str = ""


class OffsetMetadata(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "epoch": "e",
        "snapshot": "x",
        "start": "s",
        "records": "r",
        "predictions": "p",
        "dead_letters": "d",
        "learned": "n",
        "join": "j",
        "model": "m",
        "secret": "k",
        "offset": "o",
        "topic": "t",
        "skipped": "i",
        "entries": "q",
        "control": "c",
    },
):
    """What was true of a shard at its committed offset.

    `snapshot` is the offset of its newest snapshot, `start` the first offset of its history; the counts are
    those of the whole history. `join` is there with a labels topic. `model` is the spec of the model in brief. With
    `secret` replays of the partition are signed (`producers/replay_proof.py`). `offset` is the committed offset that
    carries the mark (-1: unknown), and `topic` the id of the features topic (empty: unknown). `entries` is the number
    of the newest entry of the journal, and `control` the next offset of the control topic.
    """

    epoch: Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
    snapshot: Offset
    start: Offset
    records: Number
    predictions: Number
    dead_letters: Number
    learned: Number
    join: JoinMetadata | None = None
    model: str = ""
    secret: str = ""
    offset: LabelsPlace = -1
    topic: str = ""
    skipped: Number = 0
    entries: Number = 0
    control: Number = 0


def of(shard: Shard, *, topic: str = "", labels: str = "") -> str:
    """Write the mark of a shard as it stands; `topic` and `labels` are the ids of its topics."""
    counts = shard.counts
    mark = OffsetMetadata(
        shard.epoch,
        shard.snapshot_offset,
        shard.start,
        counts.records,
        counts.predictions,
        counts.dead_letters,
        counts.learned,
        _join(shard, labels),
        brief(shard.model.spec, shard.model.can.scope),
        shard.secret,
        shard.offset,
        topic,
        counts.skipped,
        shard.history.seq,
        shard.history.control,
    )
    return msgspec.json.encode(mark).decode()


def read(metadata: str) -> OffsetMetadata | None:
    """Read a committed offset's metadata; None where it holds no mark that can be true (another tool committed it)."""
    try:
        found = msgspec.json.decode(metadata, type=OffsetMetadata)
    except UNREADABLE:
        return None
    join = found.join
    if (
        found.start > found.snapshot
        or 0 <= found.offset < found.start
        or (join is not None and join.start > join.offset)
    ):
        return None
    return found


def withdraw(metadata: str, count: int) -> str:
    """Return the mark with this number of predictions counted as dead letters."""
    mark = msgspec.json.decode(metadata, type=OffsetMetadata)
    moved = msgspec.structs.replace(mark, predictions=mark.predictions - count, dead_letters=mark.dead_letters + count)
    return msgspec.json.encode(moved).decode()


def counts(mark: OffsetMetadata) -> Counts:
    """Return the counts that a mark holds."""
    return Counts(mark.records, mark.predictions, mark.dead_letters, mark.learned, mark.skipped)


def _join(shard: Shard, topic: str) -> JoinMetadata | None:
    labels, order = shard.labels, shard.order
    if labels is None or order is None:
        return None
    places = shard.labels_offset, shard.labels_start
    return JoinMetadata(*places, order.encode(), labels.tally, labels.asked, labels.early, topic)
