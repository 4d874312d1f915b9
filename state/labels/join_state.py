"""The state of a join besides its entries: what a snapshot holds of it, and what a rollback needs."""

import msgspec

from headrace.state.event_time import EventClock, Times
from headrace.state.labels.join_entry import Entry
from headrace.state.seal import Number


class LabelCounts(msgspec.Struct, array_like=True):
    """The outcomes of labels and of waiting features since the first record of the shard's history.

    Every record of the labels topic is counted as `refused`, `joined`, `duplicate`, `corrected` or `orphaned`, or waits
    for its features; labels that waited, or wait, also count as `early`. All features without a label of their own are
    `joined`, `expired`, `evicted` or `repeated` (another record had the same id), or wait. A record of either topic is
    `ahead` if its event time is too far ahead of the others to count.
    """

    records: Number = 0
    refused: Number = 0
    joined: Number = 0
    early: Number = 0
    duplicate: Number = 0
    corrected: Number = 0
    orphaned: Number = 0
    expired: Number = 0
    evicted: Number = 0
    repeated: Number = 0
    ahead: Number = 0


class PendingRows(msgspec.Struct):
    """The part of the join that a snapshot holds; the entries are rows of the table.

    `seen` is true after the first features, `dated` after the first with an event time.
    """

    times: Times = msgspec.field(default_factory=Times)
    seen: bool = False
    dated: bool = False
    settled: Number = 0
    tally: LabelCounts = msgspec.field(default_factory=LabelCounts)


class JoinUndo(msgspec.Struct):
    """The join at `Labels.begin`: its numbers, and what has changed since in its entries and queues."""

    clock: EventClock
    memory: PendingRows
    asked: int
    early: int
    bytes: int
    remembered: int
    # The entry of each changed id, and whether the id was among the changed ones.
    entries: dict[str, tuple[Entry | None, bool]] = {}
    deadlines: list[tuple[int, int, int, str]] = []
    # What came to the right end of `_done`, None for an item that left it on the left.
    done: list[tuple[int, str] | None] = []
