"""Labels that come later: features wait for theirs, and labels for features that are still on their way.

What waits is part of a shard: a function of its two logs in the order in which they were read. It is saved with the
model, and it moves by stream time (`moment`), which the partition's events show, never by the machine's clock. There
is one entry an id.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from headrace.state.event_time import EventClock, Times, is_time
from headrace.state.labels.join_entry import ANSWERED, ASKED, EARLY, GONE, WAITING, Entry, boxed, plain, same, unboxed
from headrace.state.row_packing import TableDamaged
from headrace.state.seal import UNREADABLE, Number

TABLE = "labels"
"""The shard's table in the store: a row for each id."""

_SLACK = 1_000
# Each record brings one wait at the most, so to end some with each is enough to keep up.
_ENDS_MAX = 1_000
# So many rows take longer than a few milliseconds to be written down and saved.
_HEAVY_ROWS = 500

LabelVerdict = Literal["learn", "correct", "early", "duplicate", "corrected", "orphaned"]


class LabelRules(msgspec.Struct, frozen=True):
    """How labels are waited for: `wait_ms` of event time, with bounds for each partition.

    At most `waiting_max` entries wait, all entries take at most `bytes_max` bytes, and `remembered_max` that are over
    are remembered. `default` is the label of those that got none, None for none at all. With `corrections` a label
    that contradicts the first is learned as well.
    """

    wait_ms: int
    waiting_max: int = 1_000_000
    bytes_max: int = 1_000_000_000
    remembered_max: int = 100_000
    default: Any = None
    corrections: bool = False


class LabelCounts(msgspec.Struct, array_like=True):
    """What became of labels, and of features that waited, since the first record of the shard's history.

    Every record of the labels topic is one of `refused`, `joined`, `duplicate`, `corrected`, `orphaned`, or waits for
    its features; those that did, or do, are `early` too. All features without a label of their own are `joined`,
    `expired`, `evicted`, `repeated` (another record had the same id), or wait. Records of both topics are `ahead` whose
    event time lay too far ahead of the others' to be believed.
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
    """What a snapshot holds of the labels beside the rows of the table.

    `seen` says that features were, and `dated` that some of them carried a time of their own.
    """

    times: Times = msgspec.field(default_factory=Times)
    seen: bool = False
    dated: bool = False
    settled: Number = 0
    tally: LabelCounts = msgspec.field(default_factory=LabelCounts)


class Labels:
    """The join of one partition's features and labels.

    `asked` and `early` count what waits now, `bytes` what all entries take.
    """

    def __init__(self, rules: LabelRules) -> None:
        self._rules = rules
        self._entries: dict[str, Entry] = {}
        self._deadlines: list[tuple[int, int, int, str]] = []
        self._over: deque[tuple[int, str]] = deque()
        self._remembered = 0
        self._changed: set[str] = set()
        # What a save takes to the store.
        self._saving: set[str] = set()
        self._overdue: list[Entry] = []
        self._memory = PendingRows()
        self.clock = EventClock(rules.wait_ms)
        self.asked = 0
        self.early = 0
        self.bytes = 0

    @property
    def tally(self) -> LabelCounts:
        """What became of labels so far."""
        return self._memory.tally

    @property
    def default(self) -> Any:
        """The label of features that got none; None when they are dropped."""
        return self._rules.default

    def __len__(self) -> int:
        """Return the number of entries, which is that of the table's rows once all is saved."""
        return len(self._entries)

    def event_ms(self, at_ms: int | None, logged_ms: int) -> int:
        """Return when a record happened: at the time that it carries, else at the log's, as far as that is believed.

        Where features carry event times the log's is years ahead of old ones; then it is the stream's.
        """
        clock = self.clock
        if at_ms is None and not self._memory.dated:
            at_ms = logged_ms
        if at_ms is not None and is_time(at_ms, logged_ms) and clock.accepts(at_ms):
            return at_ms
        return max(0, clock.now_ms)

    def advance(self, at_ms: int | None, logged_ms: int, *, features: bool) -> bool:
        """Let the time of a record pass, `at_ms` if it carries one; what was waited for too long is overdue then.

        Tells whether its time is believed. One record ends a thousand waits at the most, so that none takes long; the
        next end the others.
        """
        memory = self._memory
        if features:
            memory.seen = True
            memory.dated = memory.dated or at_ms is not None
        by_log = at_ms is None and memory.seen and not memory.dated
        believed = self.clock.tick(logged_ms if by_log else at_ms, logged_ms)
        self.tally.ahead += not believed
        until_ms = self.clock.now_ms - self._rules.wait_ms
        ended = forgotten = 0
        # What has left the queues by another way counts for nothing: after a restart it is not in them.
        while ended < _ENDS_MAX and self._deadlines and self._deadlines[0][0] < until_ms:
            ended += self._end_next(evicted=False)
        while forgotten < _ENDS_MAX and self._over and self._is_past(self._over[0], until_ms):
            forgotten += self._forget()
        return believed

    def overdue(self) -> list[Entry]:
        """Return the features whose wait has ended without a label since this was last asked."""
        overdue, self._overdue = self._overdue, []
        return overdue

    def find_early(self, id_: str) -> Any:
        """Return the label that waits for the features of an id; None when none does."""
        entry = self._entries.get(id_)
        if entry is None or entry.kind != EARLY or entry.at_ms < self.clock.now_ms - self._rules.wait_ms:
            return None
        return unboxed(entry.label)

    def is_answered(self, id_: str) -> bool:
        """Tell whether a label was learned for an id, as far as that is remembered."""
        entry = self._entries.get(id_)
        return entry is not None and entry.kind == ANSWERED

    def ask(self, id_: str, entry: Entry) -> None:
        """Let features that were predicted from wait for their label.

        Of two with one id the newer waits, and none does whose label was learned.
        """
        old = self._entries.get(id_)
        if old is not None and old.kind in {ASKED, ANSWERED}:
            self.tally.repeated += 1
            if old.kind == ANSWERED:
                return
        elif old is not None and old.kind == EARLY:
            # Its wait is over, or it is of another kind than the model's classes are by now.
            self.tally.orphaned += 1
        self._put(id_, entry)

    def answer(self, id_: str, entry: Entry, label: Any, *, own: bool) -> None:
        """Note features whose label was learned as they came: their `own`, or one that had come before them."""
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

    def take(
        self, id_: str, label: Any, *, at_ms: int | None, logged_ms: int, order: int
    ) -> tuple[LabelVerdict, Entry]:
        """Say what a label that came by itself is, and which entry it concerns.

        With "learn" and "correct" the entry's features are to be learned, and `settle` follows; all else is done.
        """
        tally = self.tally
        entry = self._entries.get(id_)
        if entry is None:
            tally.early += 1
            entry = Entry(EARLY, self.event_ms(at_ms, logged_ms), logged_ms, order, label=boxed(label))
            self._put(id_, entry)
            return "early", entry
        if entry.kind in WAITING and entry.at_ms < self.clock.now_ms - self._rules.wait_ms:
            # Its wait is over, and only its turn to be ended had not come yet.
            self._end(id_, entry, evicted=False)
            return self.take(id_, label, at_ms=at_ms, logged_ms=logged_ms, order=order)
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
            # Its features are still to come, and are to be learned with the newest.
            self.bytes -= entry.size(id_)
            entry.label = boxed(label)
            self.bytes += entry.size(id_)
            self._changed.add(id_)
        return "corrected", entry

    def settle(self, id_: str, entry: Entry, label: Any) -> None:
        """Note that the label that `take` judged was learned from the entry that it gave."""
        if entry.kind == ASKED:
            self.tally.joined += 1
        else:
            self.tally.corrected += 1
        self._remember(id_, entry, ANSWERED, label)

    def resume(self, memory: PendingRows) -> None:
        """Go on from the memory of a snapshot; `restore` brings its rows."""
        self._memory = memory
        self.clock.resume(memory.times)

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the rows that the store has at the place of the snapshot. Raises TableDamaged for what is none."""
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
        self._over = deque(sorted((e.order, id_) for id_, e in self._entries.items() if e.kind not in WAITING))
        self._deadlines = [(e.at_ms, e.kind, e.order, id_) for id_, e in self._entries.items() if e.kind in WAITING]
        heapq.heapify(self._deadlines)

    def memory(self) -> PendingRows:
        """Return what a snapshot holds beside the rows, which does not change when the stream goes on."""
        tally = msgspec.structs.replace(self.tally)
        return msgspec.structs.replace(self._memory, times=self.clock.times(), tally=tally)

    @property
    def is_heavy(self) -> bool:
        """Whether to write down and save what has changed would hold up the stream."""
        return len(self._changed) > _HEAVY_ROWS

    def begin_save(self) -> None:
        """Take what differs from the store as what is to be saved; what changes from now on is the next save's."""
        self._saving, self._changed = self._changed, set()
        self._note_saved()

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the rows of what is to be saved as they stand, None for one that is to go.

        Where it is not at once, a fork remembers how they stood.
        """
        entries = ((id_, self._entries.get(id_)) for id_ in self._saving)
        return {id_.encode(): None if entry is None else entry.row() for id_, entry in entries}

    def saved(self) -> None:
        """Note that the store has what was to be saved."""
        self._saving = set()

    def not_saved(self) -> None:
        """Note that what was to be saved is not, or only in part: the next save brings it again."""
        self._changed |= self._saving
        self._note_saved()
        self._saving = set()

    def _note_saved(self) -> None:
        # Even a save that fails may have written them, and must not have them left behind.
        for id_ in self._saving:
            if (entry := self._entries.get(id_)) is not None:
                entry.saved = True

    def _put(self, id_: str, entry: Entry) -> None:
        """Let an entry wait, in the place of an older one of its id, and make room where it is too much."""
        self._replace(id_, entry)
        heapq.heappush(self._deadlines, (entry.at_ms, entry.kind, entry.order, id_))
        rules = self._rules
        while self._remembered and self.bytes > rules.bytes_max:
            self._forget()
        while self.asked + self.early > rules.waiting_max or self.bytes > rules.bytes_max:
            self._end_next(evicted=True)
        if len(self._deadlines) > 2 * (self.asked + self.early) + _SLACK:
            self._line_up()

    def _remember(self, id_: str, entry: Entry, kind: int, label: Any) -> None:
        """Let an entry be over, and remember it, without its features where they are not needed any more."""
        memory, keep = self._memory, self._rules.corrections and kind == ANSWERED
        over = Entry(kind, entry.at_ms, entry.logged_ms, memory.settled, label=boxed(label))
        if keep:
            over.value, over.key, over.answer, over.version = entry.value, entry.key, entry.answer, entry.version
        self._replace(id_, over)
        self._over.append((memory.settled, id_))
        memory.settled += 1
        while self._remembered > self._rules.remembered_max:
            self._forget()

    def _replace(self, id_: str, entry: Entry) -> None:
        # Where the row of one that has gone is still to be taken from the store, it is there.
        entry.saved = self._drop(id_) or id_ in self._changed
        entry.answer = plain(entry.answer)
        self._entries[id_] = entry
        self._changed.add(id_)
        self.bytes += entry.size(id_)
        self._count(entry.kind, 1)

    def _drop(self, id_: str) -> bool:
        """Let go of an entry; tell whether the store has a row of it."""
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
        """End the wait that is the first to end; tell whether it was waited for still."""
        _, kind, order, id_ = heapq.heappop(self._deadlines)
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
        self._overdue.append(entry)
        if self.default is None:
            self._remember(id_, entry, GONE, None)
        else:
            self._remember(id_, entry, ANSWERED, self.default)

    def _is_past(self, over: tuple[int, str], until_ms: int) -> bool:
        """Tell whether what is over need not be remembered any longer, or is not remembered as that any more."""
        order, id_ = over
        entry = self._entries.get(id_)
        if entry is None or entry.kind in WAITING or entry.order != order:
            return True
        return entry.at_ms < until_ms - self._rules.wait_ms

    def _forget(self) -> bool:
        """Forget what is over for longest; tell whether it was remembered still."""
        order, id_ = self._over.popleft()
        entry = self._entries.get(id_)
        if entry is None or entry.kind in WAITING or entry.order != order:
            return False
        self._drop(id_)
        return True

    def _line_up(self) -> None:
        """Order anew what waits, without what waits no longer."""
        self._deadlines = [item for item in self._deadlines if self._waits(item)]
        heapq.heapify(self._deadlines)

    def _waits(self, item: tuple[int, int, int, str]) -> bool:
        entry = self._entries.get(item[3])
        return entry is not None and entry.kind == item[1] and entry.order == item[2]
