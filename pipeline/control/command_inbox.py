"""The commands that wait for the shards of a worker, and the journals of the partitions that it takes over.

Both topics are read by clients of their own, which are no members of the group. The client of the commands fetches
twice a second, so commands cost the stream nothing while there are none. A shard takes its commands in the order of
the control topic; what it does on them is in its journal, and the mark says up to which command that is.
"""

from collections.abc import Callable, Mapping
from typing import Any

from headrace.consumers.client_properties import TokenMissing
from headrace.consumers.reader import Reader, ReaderAway, ReaderDenied
from headrace.consumers.record import Record
from headrace.consumers.source import SourceAway, SourceDenied
from headrace.pipeline.control.control_topics import ControlTopics
from headrace.pipeline.recovery.consistency import FRESH, StateError
from headrace.pipeline.recovery.offset_metadata import OffsetMetadata
from headrace.state.history import journal
from headrace.state.history.journal import JournalEntry, JournalError
from headrace.state.models.spec import brief
from headrace.state.shard import Shard

_LOOK_S = 0.1
_READABLE_S = 60.0
# How long the broker waits for a command before it answers that there is none.
_FETCH = {"fetch.wait.max.ms": 500}


class CommandInbox:
    """Read the `topics` for the worker's shards. `settings` are those of Kafka's clients, `clock` gives seconds."""

    def __init__(
        self, topics: ControlTopics, *, settings: Mapping[str, Any], group: str, clock: Callable[[], float]
    ) -> None:
        self._topics = topics
        self._settings = settings
        self._group = f"{group}.control"
        self._clock = clock
        self._reader: Reader | None = None
        self._next: dict[int, int] = {}
        self._waiting: dict[int, list[Record]] = {}
        self._looked_s = 0.0
        # The partitions that were taken over before.
        self._taken: set[int] = set()
        # Since when the newest entry of a partition's journal could not be read.
        self._short: dict[int, float] = {}

    @property
    def is_off(self) -> bool:
        """Whether no commands are taken."""
        return bool(self._topics.fault)

    def begin(self, shard: Shard) -> None:
        """Read the commands for a shard from the one on that it takes next."""
        if not self.is_off:
            self._waiting.pop(shard.partition, None)
            self._next[shard.partition] = shard.history.control
            self._assign()

    def end(self, partition: int) -> None:
        """Forget a partition."""
        self._waiting.pop(partition, None)
        if self._next.pop(partition, None) is not None:
            self._assign()

    def look(self) -> None:
        """Read the commands that have come; at most ten times a second. Raises SourceDenied."""
        if self._reader is None or not self._next or self._clock() < self._looked_s + _LOOK_S:
            return
        self._looked_s = self._clock()
        try:
            for _, record in self._reader.poll(wait_s=0.0):
                if record.offset >= self._next.get(record.partition, record.offset + 1):
                    self._next[record.partition] = record.offset + 1
                    self._waiting.setdefault(record.partition, []).append(record)
        except ReaderDenied as error:
            raise SourceDenied(str(error), hint=error.hint) from error

    def has(self, partition: int) -> bool:
        """Tell whether commands for a partition were read and not taken."""
        return partition in self._waiting

    def take(self, partition: int) -> list[Record]:
        """Return the commands for a partition that were read, in order."""
        return self._waiting.pop(partition, [])

    def follow(self, shard: Shard, last: OffsetMetadata | None) -> None:
        """Bring the entries of the journal that a shard is to repeat; `last` is the mark of its committed offset.

        Raises StateError where entries are missing, and SourceAway, SourceDenied.
        """
        history, newest = shard.history, shard.history.seq if last is None else last.entries
        is_empty = self._topics.is_new and shard.partition not in self._taken
        self._taken.add(shard.partition)
        if not newest and (last is not None or is_empty):
            return
        if self.is_off and newest:
            raise StateError(
                f"partition {shard.partition}: its models depend on {newest} entries of the journal, which can't be "
                f"read: {self._topics.fault}"
            )
        try:
            history.follow(self.journal(shard.partition, newest=newest), newest=newest)
        except JournalError as error:
            raise StateError(f"partition {shard.partition}: {error}", hint=error.hint) from error
        if last is not None:
            history.taken(last.control - 1)

    def settle(self, shard: Shard, last: OffsetMetadata) -> None:
        """See that a shard at its committed offset has repeated all that its mark tells of. Raises StateError."""
        history = shard.history
        if history.seq < last.entries:
            raise StateError(
                f"partition {shard.partition}: relearning repeated {history.seq} entries of the journal; at offset "
                f"{shard.committed} there had been {last.entries}"
            )
        now = brief(shard.model.spec, shard.model.can.scope)
        if last.learned and last.entries and last.model and last.model != now:
            raise StateError(
                f"partition {shard.partition}: model.py builds another model than the one that learned the log",
                hint=f"undo the change of model.py, or {FRESH}",
            )
        if last.records and last.model and last.model != now and not self.is_off:
            # The earlier model has learned nothing, or this one could not replace it; but it has answered.
            history.announce("the factory is another")

    def journal(self, partition: int, *, newest: int = 0) -> list[JournalEntry]:
        """Return the entries of a partition's journal. Raises SourceAway, SourceDenied and StateError.

        Kafka confirms a transaction before its records can be read, so `newest` is waited for, for a while.
        """
        if self.is_off:
            return []
        try:
            found = self._read(partition)
        except (ReaderAway, TokenMissing) as error:
            raise SourceAway(f"the journal can't be read: {error}") from error
        except ReaderDenied as error:
            raise SourceDenied(str(error), hint=error.hint) from error
        except JournalError as error:
            raise StateError(f"partition {partition}: {error}", hint=error.hint) from error
        if max((entry.seq for entry in found), default=0) >= newest:
            self._short.pop(partition, None)
        elif self._clock() < self._short.setdefault(partition, self._clock()) + _READABLE_S:
            raise SourceAway(f"entry {newest} of the journal of partition {partition} can't be read yet")
        return found

    def _read(self, partition: int) -> list[JournalEntry]:
        reader = Reader(self._settings, group=self._group)
        try:
            span = reader.span(self._topics.journal, partition)
            records = reader.between(self._topics.journal, partition, span.start, span.end)
            return [journal.decode(record.value) for record in records]
        finally:
            reader.close()

    def _assign(self) -> None:
        if self._reader is None:
            self._reader = Reader({**self._settings, **_FETCH}, group=self._group)
        self._reader.watch({(self._topics.control, partition): offset for partition, offset in self._next.items()})
