"""Joins features with labels that come later: features wait for their labels, and early labels for their features.

The join is part of a shard: it depends only on the two logs and the order in which they were read. It is saved with the
model, and its waits end by stream time (`event_time.py`), never by the machine's clock. Each id has one entry.
"""

import copy
import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from headrace.state.event_time import EventClock, is_time
from headrace.state.labels.join_entry import ANSWERED, ASKED, EARLY, GONE, WAITING, Entry, boxed, same, unboxed
from headrace.state.labels.join_state import JoinUndo, LabelCounts, PendingRows
from headrace.state.row_packing import TableDamaged
from headrace.state.seal import UNREADABLE

TABLE = "labels"
"""The shard's table in the store: a row for each id."""

_SLACK = 1_000
# The most waits that one record ends. A record begins one wait at most, so this is enough to keep up.
_ENDS_MAX = 1_000
# To encode and save more rows than this takes longer than a few milliseconds.
_HEAVY_ROWS = 500

LabelVerdict = Literal["learn", "correct", "early", "duplicate", "corrected", "orphaned"]


class LabelRules(msgspec.Struct, frozen=True):
    """How long features wait for a label (`wait_ms` of event time), and the bounds for each partition.

    At most `waiting_max` entries wait, all entries take at most `bytes_max` bytes, and `remembered_max` entries are
    kept after their wait. `default` is the label of features that got none; None drops them. With `corrections` a
    label that contradicts the first is learned as well.
    """

    wait_ms: int
    waiting_max: int = 1_000_000
    bytes_max: int = 1_000_000_000
    remembered_max: int = 100_000
    default: Any = None
    corrections: bool = False


class Labels:
    """The join of one partition's features and labels.

    `asked` and `early` count the features and the labels that wait now; `bytes` is the memory of all entries. Between
    `begin` and `commit` a `rollback` undoes all that records have changed.
    """

    def __init__(self, rules: LabelRules) -> None:
        self._rules = rules
        self._entries: dict[str, Entry] = {}
        self._deadlines: list[tuple[int, int, int, str]] = []
        self._done: deque[tuple[int, str]] = deque()
        self._remembered = 0
        self._changed: set[str] = set()
        # The ids whose rows a save is writing.
        self._saving: set[str] = set()
        self._expired: list[Entry] = []
        self._undo: JoinUndo | None = None
        self._memory = PendingRows()
        self.clock = EventClock(rules.wait_ms)
        self.asked = 0
        self.early = 0
        self.bytes = 0

    @property
    def tally(self) -> LabelCounts:
        """The outcomes so far."""
        return self._memory.tally

    @property
    def default(self) -> Any:
        """The label of features that got none; None drops them."""
        return self._rules.default

    def __len__(self) -> int:
        """Return the number of entries; after a save the table has as many rows."""
        return len(self._entries)

    def begin(self) -> None:
        """Note the present state, so that `rollback` can return to it."""
        counts = self.asked, self.early, self.bytes, self._remembered
        self._undo = JoinUndo(self.clock.fork(), self.memory(), *counts)

    def commit(self) -> None:
        """Keep what has changed since `begin`."""
        self._undo = None
        self._limit_deadlines()

    def rollback(self) -> None:
        """Return to the state at `begin`, for there to be as much again as the records since have changed."""
        undo, self._undo = self._undo, None
        assert undo is not None
        self.clock, self._memory = undo.clock, undo.memory
        self.asked, self.early, self.bytes, self._remembered = undo.asked, undo.early, undo.bytes, undo.remembered
        for id_, (entry, changed) in undo.entries.items():
            self._entries.pop(id_, None)
            if entry is not None:
                self._entries[id_] = entry
            self._changed.discard(id_)
            if changed:
                self._changed.add(id_)
        # The deadlines that were added are stale now.
        for deadline in undo.deadlines:
            heapq.heappush(self._deadlines, deadline)
        for item in reversed(undo.done):
            if item is None:
                self._done.pop()
            else:
                self._done.appendleft(item)
        self._expired = []

    def _touch(self, id_: str) -> None:
        """Note the entry of an id before it changes."""
        if self._undo is not None and id_ not in self._undo.entries:
            entry = self._entries.get(id_)
            self._undo.entries[id_] = None if entry is None else copy.copy(entry), id_ in self._changed

    def event_ms(self, at_ms: int | None, logged_ms: int) -> int:
        """Return the event time of a record: its own, otherwise Kafka's timestamp, or the stream's if that is no use.

        Kafka's timestamps are no use beside features with event times, which may be years old.
        """
        clock = self.clock
        if at_ms is None and not self._memory.dated:
            at_ms = logged_ms
        if at_ms is not None and is_time(at_ms, logged_ms) and clock.accepts(at_ms):
            return at_ms
        return max(0, clock.now_ms)

    def advance(self, at_ms: int | None, logged_ms: int, *, features: bool) -> bool:
        """Add the time of a record to the clock, `at_ms` if it has one, and end the waits that are over then.

        Tells whether its time counts. One record ends a thousand waits at most, so that it does not take long; the
        next records end the others.
        """
        memory = self._memory
        if features:
            memory.seen = True
            memory.dated = memory.dated or at_ms is not None
        by_log = at_ms is None and memory.seen and not memory.dated
        accepted = self.clock.tick(logged_ms if by_log else at_ms, logged_ms)
        self.tally.ahead += not accepted
        until_ms = self.clock.now_ms - self._rules.wait_ms
        ended = forgotten = 0
        # Stale items of the queues do not count towards the limits: after a restart the queues do not have them.
        while ended < _ENDS_MAX and self._deadlines and self._deadlines[0][0] < until_ms:
            ended += self._end_next(evicted=False)
        while forgotten < _ENDS_MAX and self._done and self._is_past(self._done[0], until_ms):
            forgotten += self._forget()
        return accepted

    def drain_expired(self) -> list[Entry]:
        """Return the features whose wait has ended without a label since the last call."""
        expired, self._expired = self._expired, []
        return expired

    def find_early(self, id_: str) -> Any:
        """Return the label that waits for the features of an id; None if there is none."""
        entry = self._entries.get(id_)
        if entry is None or entry.kind != EARLY or entry.at_ms < self.clock.now_ms - self._rules.wait_ms:
            return None
        return unboxed(entry.label)

    def is_answered(self, id_: str) -> bool:
        """Tell whether a label of this id was learned; only the last `remembered_max` are known."""
        entry = self._entries.get(id_)
        return entry is not None and entry.kind == ANSWERED

    def add_waiting(self, id_: str, entry: Entry) -> None:
        """Add features that were predicted and wait for their label.

        A repeated id replaces the older wait; an answered id never waits.
        """
        old = self._entries.get(id_)
        if old is not None and old.kind in {ASKED, ANSWERED}:
            self.tally.repeated += 1
            if old.kind == ANSWERED:
                return
        elif old is not None and old.kind == EARLY:
            # The label's wait has ended, or it has another type than the model's classes.
            self.tally.orphaned += 1
        self._put(id_, entry)

    def add_learned(self, id_: str, entry: Entry, label: Any, *, own: bool) -> None:
        """Add features that were learned at once: with their `own` label, or with one that waited for them."""
        old = self._entries.get(id_)
        if old is not None and old.kind == ASKED:
            self.tally.repeated += 1
        if old is not None and old.kind == EARLY:
            if not own:
                self.tally.joined += 1
            elif same(unboxed(old.label), label):
                self.tally.duplicate += 1
            else:
                self.tally.corrected += 1
        self._remember(id_, entry, ANSWERED, label)

    def match(
        self, id_: str, label: Any, *, at_ms: int | None, logged_ms: int, order: int
    ) -> tuple[LabelVerdict, Entry]:
        """Match a record of the labels topic with the entry of its id; return a verdict and the entry.

        After "learn" and "correct" the caller learns the entry's features and calls `note_learned`.
        """
        tally = self.tally
        entry = self._entries.get(id_)
        if entry is None:
            tally.early += 1
            entry = Entry(EARLY, self.event_ms(at_ms, logged_ms), logged_ms, order, label=boxed(label))
            self._put(id_, entry)
            return "early", entry
        if entry.kind in WAITING and entry.at_ms < self.clock.now_ms - self._rules.wait_ms:
            # Its wait is over; `advance` has not ended it yet.
            self._end(id_, entry, evicted=False)
            return self.match(id_, label, at_ms=at_ms, logged_ms=logged_ms, order=order)
        if entry.kind == ASKED:
            return "learn", entry
        if entry.kind == GONE:
            tally.orphaned += 1
            return "orphaned", entry
        if same(unboxed(entry.label), label):
            tally.duplicate += 1
            return "duplicate", entry
        if self._rules.corrections and entry.kind == ANSWERED and entry.value:
            return "correct", entry
        tally.corrected += 1
        if self._rules.corrections:
            # The features have not come yet; they will be learned with the newest label.
            self._touch(id_)
            self.bytes -= entry.size(id_)
            entry.label = boxed(label)
            self.bytes += entry.size(id_)
            self._changed.add(id_)
        return "corrected", entry

    def note_learned(self, id_: str, entry: Entry, label: Any) -> None:
        """Note that the entry from `match` was learned with its label."""
        if entry.kind == ASKED:
            self.tally.joined += 1
        else:
            self.tally.corrected += 1
        self._remember(id_, entry, ANSWERED, label)

    def resume(self, memory: PendingRows) -> None:
        """Continue from a snapshot; `restore` brings its rows."""
        self._memory = memory
        self.clock.resume(memory.times)

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Load the rows of the snapshot's version from the store. Raises TableDamaged for an invalid one."""
        self._entries = {}
        for key, row in rows:
            try:
                self._entries[key.decode()] = Entry.read(row)
            except UNREADABLE as error:
                raise TableDamaged(f"the row {key!r} of the table {TABLE} can't be read: {error}") from error
        waiting = [entry for entry in self._entries.values() if entry.kind in WAITING]
        self.asked = sum(entry.kind == ASKED for entry in waiting)
        self.early = len(waiting) - self.asked
        self.bytes = sum(entry.size(id_) for id_, entry in self._entries.items())
        self._remembered = len(self._entries) - len(waiting)
        self._done = deque(sorted((e.order, id_) for id_, e in self._entries.items() if e.kind not in WAITING))
        self._deadlines = [(e.at_ms, e.kind, e.order, id_) for id_, e in self._entries.items() if e.kind in WAITING]
        heapq.heapify(self._deadlines)

    def memory(self) -> PendingRows:
        """Return a copy of the state that a snapshot holds besides the rows."""
        tally = msgspec.structs.replace(self.tally)
        return msgspec.structs.replace(self._memory, times=self.clock.times(), tally=tally)

    @property
    def is_heavy(self) -> bool:
        """Whether to encode and save the changed rows would hold up the stream."""
        return len(self._changed) > _HEAVY_ROWS

    def begin_save(self) -> None:
        """Begin to save all changed rows; later changes belong to the next save."""
        self._saving, self._changed = self._changed, set()
        self._note_saved()

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the present rows to save, None for a row to delete.

        If entries may change before this is called, a forked process calls it.
        """
        entries = ((id_, self._entries.get(id_)) for id_ in self._saving)
        return {id_.encode(): None if entry is None else entry.row() for id_, entry in entries}

    def saved(self) -> None:
        """Note that the save has succeeded."""
        self._saving = set()

    def not_saved(self) -> None:
        """Note that the save has failed, perhaps after some rows: the next save writes them again."""
        self._changed |= self._saving
        self._note_saved()
        self._saving = set()

    def _note_saved(self) -> None:
        # A save that fails may have written rows, which must be deleted when their entries go.
        for id_ in self._saving:
            if (entry := self._entries.get(id_)) is not None:
                entry.saved = True

    def _put(self, id_: str, entry: Entry) -> None:
        """Add an entry that waits, instead of an older one of its id, and make room for it."""
        self._replace(id_, entry)
        heapq.heappush(self._deadlines, (entry.at_ms, entry.kind, entry.order, id_))
        rules = self._rules
        while self._remembered and self.bytes > rules.bytes_max:
            self._forget()
        while self.asked + self.early > rules.waiting_max or self.bytes > rules.bytes_max:
            self._end_next(evicted=True)
        self._limit_deadlines()

    def _remember(self, id_: str, entry: Entry, kind: int, label: Any) -> None:
        """Replace an entry that waits no longer by one that is only remembered; corrections need its features."""
        memory, keep = self._memory, self._rules.corrections and kind == ANSWERED
        done = Entry(kind, entry.at_ms, entry.logged_ms, memory.settled, label=boxed(label))
        if keep:
            done.value, done.key = entry.value, entry.key
        self._replace(id_, done)
        self._done.append((memory.settled, id_))
        if self._undo is not None:
            self._undo.done.append(None)
        memory.settled += 1
        while self._remembered > self._rules.remembered_max:
            self._forget()

    def _replace(self, id_: str, entry: Entry) -> None:
        self._touch(id_)
        # A changed id without an entry has a row in the store that is still to be deleted.
        entry.saved = self._drop(id_) or id_ in self._changed
        self._entries[id_] = entry
        self._changed.add(id_)
        self.bytes += entry.size(id_)
        self._count(entry.kind, 1)

    def _drop(self, id_: str) -> bool:
        """Remove an entry; tell whether the store has a row of it."""
        self._touch(id_)
        entry = self._entries.pop(id_, None)
        if entry is None:
            return False
        self.bytes -= entry.size(id_)
        self._count(entry.kind, -1)
        if entry.saved:
            self._changed.add(id_)
        else:
            self._changed.discard(id_)
        return entry.saved

    def _count(self, kind: int, step: int) -> None:
        if kind == ASKED:
            self.asked += step
        elif kind == EARLY:
            self.early += step
        else:
            self._remembered += step

    def _end_next(self, *, evicted: bool) -> bool:
        """End the wait with the first deadline; return False for a stale deadline."""
        deadline = heapq.heappop(self._deadlines)
        if self._undo is not None:
            self._undo.deadlines.append(deadline)
        _, kind, order, id_ = deadline
        entry = self._entries.get(id_)
        if entry is None or entry.kind != kind or entry.order != order:
            return False
        self._end(id_, entry, evicted=evicted)
        return True

    def _end(self, id_: str, entry: Entry, *, evicted: bool) -> None:
        if entry.kind == EARLY:
            self.tally.orphaned += 1
            self._drop(id_)
            return
        if evicted:
            self.tally.evicted += 1
        else:
            self.tally.expired += 1
        self._expired.append(entry)
        if self.default is None:
            self._remember(id_, entry, GONE, None)
        else:
            self._remember(id_, entry, ANSWERED, self.default)

    def _is_past(self, done: tuple[int, str], until_ms: int) -> bool:
        """Tell whether an entry need not be remembered any longer, or has been replaced."""
        order, id_ = done
        entry = self._entries.get(id_)
        if entry is None or entry.kind in WAITING or entry.order != order:
            return True
        return entry.at_ms < until_ms - self._rules.wait_ms

    def _forget(self) -> bool:
        """Forget the entry that has been remembered for longest; return False if it has been replaced."""
        item = self._done.popleft()
        if self._undo is not None:
            self._undo.done.append(item)
        order, id_ = item
        entry = self._entries.get(id_)
        if entry is None or entry.kind in WAITING or entry.order != order:
            return False
        self._drop(id_)
        return True

    def _limit_deadlines(self) -> None:
        """Remove the stale deadlines if there are many; a rollback may need them."""
        if self._undo is not None or len(self._deadlines) <= 2 * (self.asked + self.early) + _SLACK:
            return
        self._deadlines = [item for item in self._deadlines if self._waits(item)]
        heapq.heapify(self._deadlines)

    def _waits(self, item: tuple[int, int, int, str]) -> bool:
        entry = self._entries.get(item[3])
        return entry is not None and entry.kind == item[1] and entry.order == item[2]
