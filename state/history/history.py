"""The history of a shard as far as it has come: what was done, and what a relearning still has to repeat.

A model is what the two logs and the journal make of it. New entries are added where something is done, and go out with
the batch. A relearning finds the entries there already: it repeats each at its place, and whatever the shard decides by
itself must be what it decided the first time.
"""

from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from headrace.state.history.challenge import Challenge, Decision, Verdict
from headrace.state.history.journal import Evidence, JournalEntry, JournalError, LogPlace, What, in_order

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_FIRST = 1


class Scheduled(msgspec.Struct, frozen=True):
    """A decision that takes effect before the first features at or behind an offset."""

    offset: _Whole
    decision: Decision
    name: str
    evidence: Evidence
    reason: str = ""


class SavedHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a snapshot holds of a history: the newest entry's number, the next control offset, and the generation.

    `factories` are those of the models by name, where they are not the configured one. `challenged` counts the
    challenges so far, and `names` has the factory of the last one of each name. `seen` is the offset behind the last
    features that were learned while there is a challenge.
    """

    seq: _Whole = 0
    control: _Whole = 0
    generation: Annotated[int, msgspec.Meta(ge=1, le=2**62)] = _FIRST
    factories: dict[str, str] = {}
    challenges: list[Challenge] = []
    challenged: _Whole = 0
    names: dict[str, str] = {}
    seen: _Whole = 0
    scheduled: Scheduled | None = None


class ShardHistory:
    """The history of a shard.

    `seq` is the number of the newest entry, `control` the next offset of the control topic, and `generation` counts the
    models that have answered. `due` are the entries that are still to be sent. The other fields are those of
    `SavedHistory`, with the challenges by name.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.control = 0
        self.generation = _FIRST
        self.due: list[JournalEntry] = []
        self.factories: dict[str, str] = {}
        self.challenges: dict[str, Challenge] = {}
        self.challenged = 0
        self.names: dict[str, str] = {}
        # The factories of the configured challengers that were refused since the takeover, by name.
        self.refused: dict[str, str] = {}
        self.seen = 0
        self.scheduled: Scheduled | None = None
        # The verdicts since the last record at which they were looked at, each with the number of its record.
        self.verdicts: list[tuple[int, str, Verdict]] = []
        self.sequence = 0
        # Why another model takes over with the next batch, and whether a history begins with it.
        self._announced: tuple[str, bool] | None = None
        self._pending: deque[JournalEntry] = deque()
        self._outcomes: dict[str, JournalEntry] = {}

    def saved(self) -> SavedHistory:
        """Return what a snapshot holds; later records do not change it."""
        challenges = msgspec.convert(msgspec.to_builtins([*self.challenges.values()]), list[Challenge])
        return SavedHistory(
            self.seq,
            self.control,
            self.generation,
            dict(self.factories),
            challenges,
            self.challenged,
            dict(self.names),
            self.seen,
            self.scheduled,
        )

    def resume(self, saved: SavedHistory) -> None:
        """Go on from a snapshot; `follow` brings the entries since."""
        self.seq, self.control, self.generation = saved.seq, saved.control, saved.generation
        self.factories, self.seen, self.scheduled = dict(saved.factories), saved.seen, saved.scheduled
        self.challenges = {challenge.name: challenge for challenge in saved.challenges}
        self.challenged, self.names = saved.challenged, dict(saved.names)

    def follow(self, entries: Iterable[JournalEntry], *, newest: int) -> None:
        """Take the journal's entries: those behind the snapshot are to be repeated.

        `newest` is the number of the newest entry that the mark tells of. Raises JournalError where entries are
        missing, or where the snapshot is of a history that was left behind.
        """
        ordered = in_order(entries)
        begun = max((entry.seq for entry in ordered if entry.begins is not None), default=0)
        done = max(self.seq, begun - 1)
        if ordered and ordered[0].seq > done + 1:
            raise JournalError(f"the journal begins with entry {ordered[0].seq}, and entry {done + 1} is missing")
        if (last := ordered[-1].seq if ordered else self.seq) < newest:
            raise JournalError(f"the journal ends with entry {last}, and there had been {newest}")
        self._outcomes = {entry.command: entry for entry in reversed(ordered) if entry.command}
        self._pending = deque(entry for entry in ordered if entry.seq > done)

    def begin_anew(self, entries: Iterable[JournalEntry]) -> None:
        """Begin another history behind the entries of the one that is left behind, whether or not those are whole."""
        ordered = sorted(entries, key=lambda entry: entry.seq)
        self._outcomes = {entry.command: entry for entry in reversed(ordered) if entry.command}
        self._pending.clear()
        if ordered:
            self.seq, self.generation = ordered[-1].seq, ordered[-1].generation
            self.control = max(entry.control for entry in ordered) + 1
        self._announced = "a new history begins", True

    def announce(self, reason: str) -> None:
        """Let the next batch say that another model answers from there on."""
        self._announced = reason, False

    @property
    def is_announced(self) -> bool:
        """Whether the next batch has something to say, though no record may have come."""
        return self._announced is not None

    def tell_announced(self, place: LogPlace) -> None:
        """Note what was announced, at the place where the next batch begins."""
        if self._announced is not None:
            (reason, begins), self._announced = self._announced, None
            self.add("takeover", place, steps=1, reason=reason, begins=place if begins else None)

    @property
    def next(self) -> JournalEntry | None:
        """The next entry to repeat."""
        return self._pending[0] if self._pending else None

    def repeat(self) -> JournalEntry:
        """Take the next entry to repeat, and note that it took effect."""
        entry = self._pending.popleft()
        self._note(entry)
        return entry

    def add(self, what: What, place: LogPlace, *, steps: int = 0, **fields: Any) -> JournalEntry:
        """Note what is done at a place, with `steps` more generations; return the entry.

        Raises JournalError if this was done before, and the journal has something else.
        """
        entry = JournalEntry(self.seq + 1, what, place, self.generation + steps, **fields)
        if (told := self.next) is not None:
            if told != entry:
                raise JournalError(
                    f"relearning came to another decision: the journal has {_shown(told)}, and this is {_shown(entry)}"
                )
            return self.repeat()
        self._note(entry)
        self.due.append(entry)
        return entry

    def outcome(self, command: str) -> JournalEntry | None:
        """Return what was done on the command of this id; None for one that was not taken yet."""
        return self._outcomes.get(command)

    def taken(self, control: int) -> None:
        """Note that the command at an offset of the control topic is dealt with."""
        self.control = max(self.control, control + 1)

    def drain(self) -> list[JournalEntry]:
        """Return the entries that are to be sent with this batch."""
        due, self.due = self.due, []
        return due

    def _note(self, entry: JournalEntry) -> None:
        self.seq, self.generation = entry.seq, entry.generation
        if entry.control >= 0:
            self.taken(entry.control)
        if entry.command:
            self._outcomes.setdefault(entry.command, entry)


def _shown(entry: JournalEntry) -> str:
    return f"{entry.what} {entry.name or '(no name)'} at offset {entry.place[0]} as entry {entry.seq}"
