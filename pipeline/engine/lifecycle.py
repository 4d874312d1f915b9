"""What happens to the models of a shard between two records: commands, decisions, and what the journal says was done.

A command takes effect where it is taken: before the next record. That place is in the journal, so a relearning repeats
it there. What the shard decides by itself follows from its records alone: a relearning decides it again, and it must be
what the journal has. A decision takes effect before the first features at or behind the next offset that 256 divides.
So nothing here depends on when it happens, or on how the records come in batches.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch, Records, cut
from headrace.pipeline.engine.contest import ChallengeRefused, Contest
from headrace.state.history import command as commands
from headrace.state.history.command import Command, CommandError
from headrace.state.history.history import Scheduled
from headrace.state.history.journal import JournalEntry, JournalError, LogPlace
from headrace.state.models.task import ModelError
from headrace.state.shard import Shard

STRIDE = 256
"""Decisions take effect at offsets that this number divides."""
CONFIGURATION = "configuration"
"""Who asks for the challengers of the configuration."""

_REASON_MAX = 500
_NO_LABELS = -1


class Lifecycle:
    """Change the models of shards as commands ask, as their journals tell, and as their challenges decide.

    Without a `contest` there are no challengers. `configured` are the factories of the configured ones, by name.
    """

    def __init__(self, contest: Contest | None = None, *, configured: Mapping[str, str] | None = None) -> None:
        self._contest = contest
        self._configured = configured or {}

    def pieces(self, shard: Shard, records: Records) -> Iterator[Records]:
        """Yield the records in runs between which something is done to the shard, and do it.

        The caller lets the shard learn each run before it asks for the next one.
        """
        history, rest = shard.history, records
        if (history.next is None and not history.challenges) or not len(records):
            yield records
            return
        while len(rest):
            self._do_due(shard, rest)
            first, rest = cut(rest, self._boundary(shard, rest))
            yield first
            if history.challenges:
                self._look_back(shard, first)

    def begin(self, shard: Shard, records: Sequence[Record]) -> None:
        """Begin a new batch: take over what was announced or configured, and the commands that have come, in order."""
        shard.history.tell_announced(shard.place)
        if shard.history.next is None:
            self._follow_configuration(shard)
        for record in records:
            self.take(shard, record)

    def catch_up(self, shard: Shard) -> None:
        """Repeat what was done at places that the shard has reached, though no record is behind them yet."""
        place = shard.place
        while (entry := shard.history.next) is not None and not entry.is_decision:
            if any(wanted > reached for wanted, reached in zip(entry.place, place, strict=True)):
                return
            self._repeat(shard, shard.history.repeat())

    def take(self, shard: Shard, record: Record) -> None:
        """Do what a record of the control topic asks for, before the next record of the shard."""
        history = shard.history
        if record.offset < history.control:
            return
        try:
            command = commands.decode(record.value)
        except CommandError as error:
            history.add("refused", shard.place, reason=str(error)[:_REASON_MAX], control=record.offset)
            return
        if history.outcome(command.id) is not None:
            # The same command once more: it is done once, and was answered.
            history.taken(record.offset)
            return
        told: dict[str, Any] = {"by": command.by, "command": command.id, "control": record.offset}
        try:
            self._do(shard, command, told)
        except (ChallengeRefused, ModelError) as error:
            name, reason = command.args.get("name", ""), str(error)[:_REASON_MAX]
            history.add("refused", shard.place, name=name, args=command.args, reason=reason, **told)

    def is_behind(self, shard: Shard) -> bool:
        """Tell whether the configuration has other challengers than a shard."""
        return self._contest is not None and any(True for _ in self._changes(shard))

    def _do(self, shard: Shard, command: Command, told: dict[str, Any]) -> None:
        """Do a command. Raises ChallengeRefused and ModelError where that is not possible."""
        contest, args, wanted = self._contest, command.args, command.expect_generation
        if wanted is not None and wanted != shard.history.generation:
            raise ChallengeRefused(f"generation {shard.history.generation} answers, and the command expects {wanted}")
        if contest is None or command.verb not in {"challenge", "drop", "promote"}:
            raise ChallengeRefused(f"this release knows no command {command.verb!r}")
        name = args.get("name", "")
        if command.verb == "challenge":
            origin = args.get("from", "now")
            contest.enter(shard, name, args.get("factory", ""), origin=origin, reason=command.reason, **told)
        elif command.verb == "drop":
            contest.drop(shard, name, reason=command.reason, **told)
        else:
            contest.promote(shard, name, reason=command.reason, **told)

    def _follow_configuration(self, shard: Shard) -> None:
        """Let configured challengers enter, and those leave that the configuration no longer has."""
        for name, factory in list(self._changes(shard)):
            assert self._contest is not None
            try:
                if name in shard.history.challenges:
                    self._contest.drop(shard, name, by=CONFIGURATION)
                if factory:
                    self._contest.enter(shard, name, factory, origin="now", by=CONFIGURATION, configured=True)
            except (ChallengeRefused, ModelError) as error:
                shard.history.refused[name] = factory
                reason, args = str(error)[:_REASON_MAX], {"factory": factory}
                shard.history.add("refused", shard.place, name=name, by=CONFIGURATION, reason=reason, args=args)

    def _changes(self, shard: Shard) -> Iterator[tuple[str, str]]:
        """Yield the configured challengers that are to enter, and with an empty factory those that are to leave."""
        if self._contest is None or shard.model.can.shared:
            return
        history = shard.history
        for name, factory in self._configured.items():
            before = history.names.get(name), history.refused.get(name)
            if factory not in before and name != shard.answering.name:
                yield name, factory
        for name, challenge in history.challenges.items():
            if challenge.configured and not challenge.probation and name not in self._configured:
                yield name, ""

    def _do_due(self, shard: Shard, records: Records) -> None:
        """Do what takes effect before the first of these records."""
        history, offset = shard.history, _features_offset(records)
        while True:
            entry, scheduled = history.next, history.scheduled
            if entry is not None and not entry.is_decision and not _first_behind(records, entry.place):
                self._repeat(shard, history.repeat())
            elif scheduled is not None and offset >= scheduled.offset:
                self._decide(shard, scheduled)
            elif entry is not None and entry.is_decision and offset >= entry.place[0]:
                raise JournalError(
                    f"relearning did not come to the decision of entry {entry.seq}: {entry.what} {entry.name} at "
                    f"offset {entry.place[0]}"
                )
            else:
                return

    def _boundary(self, shard: Shard, records: Records) -> int:
        """Return the number of records until the next one before which something may be due."""
        history, ends = shard.history, [len(records)]
        if (entry := history.next) is not None:
            find, place = entry.is_decision, entry.place
            ends.append(_first_features(records, place[0]) if find else _first_behind(records, place))
        if history.scheduled is not None:
            ends.append(_first_features(records, history.scheduled.offset))
        elif any(challenge.rules.acts for challenge in history.challenges.values()):
            at = _first_features(records, 0)
            if at < len(records):
                ends.append(_first_features(records, _stride_behind(_offset(records, at) + 1)))
        return min(end for end in ends if end > 0)

    def _look_back(self, shard: Shard, records: Records) -> None:
        """Note how far the features have come, and schedule what the first verdict says."""
        history = shard.history
        if (last := _last_features(records)) >= 0:
            history.seen = last + 1
        if history.verdicts and history.scheduled is None:
            _, name, verdict = min(history.verdicts, key=lambda one: one[:2])
            offset = _stride_behind(history.seen)
            history.scheduled = Scheduled(offset, verdict.decision, name, verdict.evidence, verdict.reason)
        history.verdicts.clear()

    def _decide(self, shard: Shard, scheduled: Scheduled) -> None:
        """Do what was decided, at its place."""
        shard.history.scheduled = None
        entry = shard.history.add(
            scheduled.decision,
            (scheduled.offset, _NO_LABELS),
            steps=scheduled.decision != "drop",
            name=scheduled.name,
            evidence=scheduled.evidence,
            reason=scheduled.reason,
        )
        self._repeat(shard, entry)

    def _repeat(self, shard: Shard, entry: JournalEntry) -> None:
        if self._contest is not None:
            self._contest.repeat(shard, entry)
        elif entry.what in {"challenge", "promote", "return"}:
            raise JournalError(f"entry {entry.seq} is of a challenger, and there can be none here")


def _stride_behind(offset: int) -> int:
    """Return the next offset, or this one, that `STRIDE` divides."""
    return -(-offset // STRIDE) * STRIDE


def _offset(records: Records, at: int) -> int:
    return records.offsets[at] if isinstance(records, RecordBatch) else records[at].offset


def _features_offset(records: Records) -> int:
    """Return the offset of the first record if it is features, and -1 for a label."""
    is_label = not isinstance(records, RecordBatch) and type(records[0]) is LabelRecord
    return -1 if is_label else _offset(records, 0)


def _first_behind(records: Records, place: LogPlace) -> int:
    """Return the index of the first record that is at or behind a place in its own log."""
    if isinstance(records, RecordBatch):
        return bisect_left(records.offsets, place[0])
    found = (at for at, record in enumerate(records) if record.offset >= place[type(record) is LabelRecord])
    return next(found, len(records))


def _first_features(records: Records, offset: int) -> int:
    """Return the index of the first features at or behind an offset."""
    if isinstance(records, RecordBatch):
        return bisect_left(records.offsets, offset)
    found = (at for at, one in enumerate(records) if type(one) is not LabelRecord and one.offset >= offset)
    return next(found, len(records))


def _last_features(records: Records) -> int:
    """Return the offset of the last features, -1 without any."""
    if isinstance(records, RecordBatch):
        return records.offsets[-1]
    return next((record.offset for record in reversed(records) if type(record) is not LabelRecord), -1)
