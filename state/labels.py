"""Labels that come later: features wait for theirs, and labels for features that are still on their way.

What waits is part of a shard: a function of its two logs in the order in which they were read. It is saved with the
model, and it moves by stream time, the newest event time that the partition has shown, never by a clock. One entry
an id: it is *asked* (predicted, no label yet), *early* (a label, no features yet), *answered* (learned) or *gone* (its
wait has ended without a label). The last two are only remembered, to tell a second label from a first.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

TABLE = "labels"
"""The shard's table in the store: a row for each id."""

_ASKED, _EARLY, _ANSWERED, _GONE = range(4)
_WAITING = (_ASKED, _EARLY)
# What an entry costs beside the bytes of its id and its record: measured over a million of them.
_ENTRY_BYTES = 450
_SLACK = 1_000
# Each record brings one wait at the most, so to end some with each is enough to keep up.
_ENDS_MAX = 1_000
_AHEAD_MS = 10 * 365 * 86_400_000
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

Verdict = Literal["learn", "correct", "early", "duplicate", "corrected", "orphaned"]


class Rules(msgspec.Struct, frozen=True):
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


class Tally(msgspec.Struct, array_like=True):
    """What became of labels, and of features that waited, since the first record of the shard's history.

    Every record of the labels topic is one of `refused`, `joined`, `duplicate`, `corrected`, `orphaned`, or waits for
    its features; those that did, or do, are `early` too. All features without a label of their own are `joined`,
    `expired`, `evicted`, `repeated` (another record had the same id), or wait.
    """

    records: int = 0
    refused: int = 0
    joined: int = 0
    early: int = 0
    duplicate: int = 0
    corrected: int = 0
    orphaned: int = 0
    expired: int = 0
    evicted: int = 0
    repeated: int = 0


class Entry(msgspec.Struct, gc=False):
    """What is known of an id. Times are milliseconds: `at_ms` of the event, `logged_ms` of the record.

    Of features it holds the record's `value` and `key` as they came, and the `answer` that was sent with the
    `version` of the model that gave it. `order` is the offset of what waits, a running number of what is over.
    """

    kind: int
    at_ms: int
    logged_ms: int
    order: int
    value: bytes = b""
    key: bytes | None = None
    answer: Any = None
    version: int = 0
    label: Any = None
    saved: bool = False

    @property
    def said(self) -> Any:
        """The answer that was sent, as the model gave it."""
        return _unboxed(self.answer)

    @classmethod
    def of(
        cls, *, at_ms: int, logged_ms: int, order: int, value: bytes, key: bytes | None, answer: Any, version: int
    ) -> "Entry":
        """Make the entry of features that wait for their label."""
        return cls(_ASKED, at_ms, logged_ms, order, value, key, answer, version)


class Memory(msgspec.Struct):
    """What a snapshot holds of the labels beside the rows of the table.

    `seen` says that features were, and `dated` that some of them carried a time of their own.
    """

    now_ms: int = -1
    seen: bool = False
    dated: bool = False
    settled: int = 0
    tally: Tally = msgspec.field(default_factory=Tally)


class Labels:
    """The join of one partition's features and labels.

    `asked` and `early` count what waits now, `bytes` what all entries take.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._entries: dict[str, Entry] = {}
        self._deadlines: list[tuple[int, int, int, str]] = []
        self._over: deque[tuple[int, str]] = deque()
        self._remembered = 0
        self._changed: set[str] = set()
        self._overdue: list[Entry] = []
        self._memory = Memory()
        self.asked = 0
        self.early = 0
        self.bytes = 0

    @property
    def tally(self) -> Tally:
        """What became of labels so far."""
        return self._memory.tally

    @property
    def default(self) -> Any:
        """The label of features that got none; None when they are dropped."""
        return self._rules.default

    def __len__(self) -> int:
        """Return the number of entries, which is that of the table's rows."""
        return len(self._entries)

    def event_ms(self, at_ms: int | None, logged_ms: int) -> int:
        """Return when a record happened: at the time that it carries, else at the log's, as far as that means anything.

        Where features carry event times the log's is years ahead of old ones; then it is the stream's.
        """
        memory = self._memory
        if at_ms is not None and is_time(at_ms, logged_ms):
            return at_ms
        return max(0, memory.now_ms) if memory.dated else logged_ms

    def advance(self, at_ms: int | None, logged_ms: int, *, features: bool) -> None:
        """Let the time of a record pass, `at_ms` if it carries one; what was waited for too long is overdue then.

        One record ends a thousand waits at the most, so that none takes long; the next end the others.
        """
        memory = self._memory
        if features:
            memory.seen = True
            memory.dated = memory.dated or at_ms is not None
        if at_ms is not None and not is_time(at_ms, logged_ms):
            return
        if at_ms is not None or (memory.seen and not memory.dated):
            memory.now_ms = max(memory.now_ms, self.event_ms(at_ms, logged_ms))
        until_ms = memory.now_ms - self._rules.wait_ms
        ended = forgotten = 0
        # What has left the queues by another way counts for nothing: after a restart it is not in them.
        while ended < _ENDS_MAX and self._deadlines and self._deadlines[0][0] < until_ms:
            ended += self._end_next(evicted=False)
        while forgotten < _ENDS_MAX and self._over and self._is_past(self._over[0], until_ms):
            forgotten += self._forget()

    def overdue(self) -> list[Entry]:
        """Return the features whose wait has ended without a label since this was last asked."""
        overdue, self._overdue = self._overdue, []
        return overdue

    def find_early(self, id_: str) -> Any:
        """Return the label that waits for the features of an id; None when none does."""
        entry = self._entries.get(id_)
        if entry is None or entry.kind != _EARLY or entry.at_ms < self._memory.now_ms - self._rules.wait_ms:
            return None
        return _unboxed(entry.label)

    def is_answered(self, id_: str) -> bool:
        """Tell whether a label was learned for an id, as far as that is remembered."""
        entry = self._entries.get(id_)
        return entry is not None and entry.kind == _ANSWERED

    def ask(self, id_: str, entry: Entry) -> None:
        """Let features that were predicted from wait for their label.

        Of two with one id the newer waits, and none does whose label was learned.
        """
        old = self._entries.get(id_)
        if old is not None and old.kind in {_ASKED, _ANSWERED}:
            self.tally.repeated += 1
            if old.kind == _ANSWERED:
                return
        elif old is not None and old.kind == _EARLY:
            # Its wait is over, or it is of another kind than the model's classes are by now.
            self.tally.orphaned += 1
        self._put(id_, entry)

    def answer(self, id_: str, entry: Entry, label: Any, *, own: bool) -> None:
        """Note features whose label was learned as they came: their `own`, or one that had come before them."""
        old = self._entries.get(id_)
        if old is not None and old.kind == _ASKED:
            self.tally.repeated += 1
        if old is not None and old.kind == _EARLY:
            if not own:
                self.tally.joined += 1
            elif _same(_unboxed(old.label), label):
                self.tally.duplicate += 1
            else:
                self.tally.corrected += 1
        self._remember(id_, entry, _ANSWERED, label)

    def take(self, id_: str, label: Any, *, at_ms: int | None, logged_ms: int, order: int) -> tuple[Verdict, Entry]:
        """Say what a label that came by itself is, and which entry it concerns.

        With "learn" and "correct" the entry's features are to be learned, and `settle` follows; all else is done.
        """
        tally = self.tally
        entry = self._entries.get(id_)
        if entry is None:
            tally.early += 1
            entry = Entry(_EARLY, self.event_ms(at_ms, logged_ms), logged_ms, order, label=_boxed(label))
            self._put(id_, entry)
            return "early", entry
        if entry.kind in _WAITING and entry.at_ms < self._memory.now_ms - self._rules.wait_ms:
            # Its wait is over, and only its turn to be ended had not come yet.
            self._end(id_, entry, evicted=False)
            return self.take(id_, label, at_ms=at_ms, logged_ms=logged_ms, order=order)
        if entry.kind == _ASKED:
            return "learn", entry
        if entry.kind == _GONE:
            tally.orphaned += 1
            return "orphaned", entry
        if _same(_unboxed(entry.label), label):
            tally.duplicate += 1
            return "duplicate", entry
        if self._rules.corrections and entry.kind == _ANSWERED and entry.value:
            return "correct", entry
        tally.corrected += 1
        if self._rules.corrections:
            # Its features are still to come, and are to be learned with the newest.
            self.bytes -= _bytes(id_, entry)
            entry.label = _boxed(label)
            self.bytes += _bytes(id_, entry)
            self._changed.add(id_)
        return "corrected", entry

    def settle(self, id_: str, entry: Entry, label: Any) -> None:
        """Note that the label that `take` judged was learned from the entry that it gave."""
        if entry.kind == _ASKED:
            self.tally.joined += 1
        else:
            self.tally.corrected += 1
        self._remember(id_, entry, _ANSWERED, label)

    def resume(self, memory: Memory) -> None:
        """Go on from the memory of a snapshot; `restore` brings its rows."""
        self._memory = memory

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the rows that the store has at the place of the snapshot."""
        self._entries = {}
        for key, row in rows:
            self._entries[key.decode()] = entry = Entry(*msgspec.msgpack.decode(row))
            entry.saved = True
        waiting = [entry for entry in self._entries.values() if entry.kind in _WAITING]
        self.asked = sum(entry.kind == _ASKED for entry in waiting)
        self.early = len(waiting) - self.asked
        self.bytes = sum(_bytes(id_, entry) for id_, entry in self._entries.items())
        self._remembered = len(self._entries) - len(waiting)
        self._over = deque(sorted((e.order, id_) for id_, e in self._entries.items() if e.kind not in _WAITING))
        self._deadlines = [(e.at_ms, e.kind, e.order, id_) for id_, e in self._entries.items() if e.kind in _WAITING]
        heapq.heapify(self._deadlines)

    def memory(self) -> Memory:
        """Return what a snapshot holds beside the rows."""
        return self._memory

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the rows that differ from those in the store, None for one that is to go."""
        rows: dict[bytes, bytes | None] = {}
        for id_ in self._changed:
            entry = self._entries.get(id_)
            rows[id_.encode()] = None if entry is None else _row(entry)
            if entry is not None:
                # Even a save that fails may have written it.
                entry.saved = True
        return rows

    def saved(self) -> None:
        """Note that the store has the rows that `changes` gave."""
        self._changed.clear()

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
        memory, keep = self._memory, self._rules.corrections and kind == _ANSWERED
        over = Entry(kind, entry.at_ms, entry.logged_ms, memory.settled, label=_boxed(label))
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
        entry.answer = _plain(entry.answer)
        self._entries[id_] = entry
        self._changed.add(id_)
        self.bytes += _bytes(id_, entry)
        self._count(entry.kind, 1)

    def _drop(self, id_: str) -> bool:
        """Let go of an entry; tell whether the store has a row of it."""
        entry = self._entries.pop(id_, None)
        if entry is None:
            return False
        self.bytes -= _bytes(id_, entry)
        self._count(entry.kind, -1)
        if entry.saved:
            self._changed.add(id_)
        else:
            self._changed.discard(id_)
        return entry.saved

    def _count(self, kind: int, step: int) -> None:
        if kind == _ASKED:
            self.asked += step
        elif kind == _EARLY:
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
        if entry.kind == _EARLY:
            self.tally.orphaned += 1
            self._drop(id_)
            return
        if evicted:
            self.tally.evicted += 1
        else:
            self.tally.expired += 1
        self._overdue.append(entry)
        if self.default is None:
            self._remember(id_, entry, _GONE, None)
        else:
            self._remember(id_, entry, _ANSWERED, self.default)

    def _is_past(self, over: tuple[int, str], until_ms: int) -> bool:
        """Tell whether what is over need not be remembered any longer, or is not remembered as that any more."""
        order, id_ = over
        entry = self._entries.get(id_)
        if entry is None or entry.kind in _WAITING or entry.order != order:
            return True
        return entry.at_ms < until_ms - self._rules.wait_ms

    def _forget(self) -> bool:
        """Forget what is over for longest; tell whether it was remembered still."""
        order, id_ = self._over.popleft()
        entry = self._entries.get(id_)
        if entry is None or entry.kind in _WAITING or entry.order != order:
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


def is_time(at_ms: int, logged_ms: int) -> bool:
    """Tell whether an event time can be one: far past the log's it is a mistake, such as microseconds.

    A single one of those would end every wait, and no later one ever again.
    """
    return logged_ms <= 0 or at_ms <= logged_ms + _AHEAD_MS


def _bytes(id_: str, entry: Entry) -> int:
    texts = sum(len(part.encode()) for part in (id_, entry.label, entry.answer) if isinstance(part, str))
    return texts + len(entry.value) + len(entry.key or b"") + _ENTRY_BYTES


def _row(entry: Entry) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.astuple(entry)[:-1])


def _plain(answer: Any) -> Any:
    # numpy's scalars are what some of River's models answer with.
    return _boxed(answer.item() if hasattr(answer, "item") else answer)


def _boxed(value: Any) -> Any:
    """Return a label or an answer as MessagePack can hold it: its integers have 64 bits."""
    return [str(value)] if type(value) is int and not _INT_MIN <= value <= _INT_MAX else value


def _unboxed(value: Any) -> Any:
    return int(value[0]) if type(value) is list else value


def _same(first: Any, second: Any) -> bool:
    """Tell whether two labels are one: 1 and 1.0 are, 1 and true are not."""
    return first == second and isinstance(first, bool) == isinstance(second, bool)
