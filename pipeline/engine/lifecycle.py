"""What happens to the models of a shard between two records: commands, and what the journal says was done before.

A command takes effect where it is taken: before the next record. That place is in the journal, so a relearning repeats
it there. Nothing here depends on when it happens, or on how the records come in batches.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.record_batch import RecordBatch, Records, cut
from headrace.state.history import command as commands
from headrace.state.history.command import Command, CommandError
from headrace.state.history.journal import LogPlace
from headrace.state.shard import Shard

_REASON_MAX = 500


class Lifecycle:
    """Change the models of shards as commands ask, and as their journals tell."""

    def pieces(self, shard: Shard, records: Records) -> Iterator[Records]:
        """Yield the records in runs between which something is done to the shard, and do it.

        The caller lets the shard learn each run before it asks for the next one.
        """
        while (entry := shard.history.next) is not None:
            at = _first_behind(records, entry.place)
            if at == len(records):
                break
            if at:
                first, records = cut(records, at)
                yield first
            shard.history.repeat()
        yield records

    def begin(self, shard: Shard, records: Sequence[Record]) -> None:
        """Begin a new batch: take over what was announced, and the commands that have come, in order."""
        shard.history.tell_announced(shard.place)
        for record in records:
            self.take(shard, record)

    def catch_up(self, shard: Shard) -> None:
        """Repeat what was done at places that the shard has reached, though no record is behind them yet."""
        place = shard.place
        while (entry := shard.history.next) is not None:
            if any(wanted > reached for wanted, reached in zip(entry.place, place, strict=True)):
                return
            shard.history.repeat()

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
        self._do(shard, command, record.offset)

    def _do(self, shard: Shard, command: Command, control: int) -> None:
        history = shard.history
        wanted = command.expect_generation
        if wanted is not None and wanted != history.generation:
            reason = f"generation {history.generation} answers, and the command expects {wanted}"
        else:
            reason = f"this release knows no command {command.verb!r}"
        history.add(
            "refused", shard.place, name=command.args.get("name", ""), by=command.by, reason=reason, command=command.id,
            control=control, args=command.args,
        )  # fmt: skip


def _first_behind(records: Records, place: LogPlace) -> int:
    """Return the index of the first record that is at or behind a place in its own log."""
    if isinstance(records, RecordBatch):
        return bisect_left(records.offsets, place[0])
    found = (at for at, record in enumerate(records) if record.offset >= place[type(record) is LabelRecord])
    return next(found, len(records))
