"""An entry of the journal: one thing that was done to the models of a shard, and the place in the logs where.

The journal topic has the entries of each partition in order. They are written with the batch in whose course they take
effect, and are numbered without gaps, so that a missing one is noticed.
"""

import itertools
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from headrace.state.history.command import Arguments, ShortText
from headrace.state.seal import UNREADABLE

What = Literal[
    "challenge", "drop", "promote", "return", "alarm", "rebuild", "rollback", "unlearn", "takeover", "kept", "refused"
]
"""What was done. `takeover`: a model took over without a challenge, since the history or the factory is another."""

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Offset = Annotated[int, msgspec.Meta(ge=-1, le=2**62)]
LogPlace = tuple[_Offset, _Offset]
"""The next offsets of the features and of the labels (-1 without a labels topic)."""


class JournalError(Exception):
    """Raised when the journal can't be followed: an entry is missing, or is not what this release writes."""

    status = 409
    hint = (
        "restore the journal topic from a copy, or leave what was learned behind: `headrace run --on-state-loss fresh`"
    )


class Evidence(msgspec.Struct, frozen=True):
    """The evidence for a decision: the value `e` of the test after `n` pairs, and the value that it `needs`."""

    e: float
    n: _Whole
    needs: float


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entry `seq`, counted from 1. It took effect before the first record at or behind its `place` in either log.

    `generation` is the one that answers from there on. `name` is the challenger's. What was done on a command has the
    `command`'s id and its offset in the control topic (`control`). `begins` is set where a new history begins, with the
    place of its first records.
    """

    seq: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    what: What
    place: LogPlace
    generation: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    name: ShortText = ""
    by: ShortText = ""
    reason: ShortText = ""
    command: ShortText = ""
    control: _Offset = -1
    args: Arguments = {}
    evidence: Evidence | None = None
    begins: LogPlace | None = None

    @property
    def is_decision(self) -> bool:
        """Whether the shard decided it by itself, so that a relearning decides it again."""
        return self.evidence is not None and not self.command


def encode(entry: JournalEntry) -> bytes:
    """Return the bytes of an entry."""
    return msgspec.json.encode(entry)


def decode(value: bytes | None) -> JournalEntry:
    """Return the entry in the value of a record. Raises JournalError."""
    try:
        return msgspec.json.decode(value or b"", type=JournalEntry)
    except UNREADABLE as error:
        raise JournalError(f"a record of the journal can't be read: {error}") from error


def in_order(entries: Iterable[JournalEntry]) -> list[JournalEntry]:
    """Return each entry once, in order. With at-least-once delivery an entry may have been written again.

    Raises JournalError where one is missing.
    """
    found: dict[int, JournalEntry] = {}
    for entry in entries:
        found.setdefault(entry.seq, entry)
    ordered = [found[seq] for seq in sorted(found)]
    for before, after in itertools.pairwise(ordered):
        if after.seq != before.seq + 1:
            raise JournalError(f"the journal has entry {after.seq} after entry {before.seq}: one is missing")
    return ordered
