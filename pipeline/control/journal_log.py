"""Reads both topics for a command: all entries of the journal, and all commands that were sent."""

import contextlib
from collections.abc import Iterator

import msgspec

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.pipeline.config.config import Config
from headrace.pipeline.hinted_error import HintedError
from headrace.state.history import command as commands
from headrace.state.history import journal
from headrace.state.history.command import Command, CommandError
from headrace.state.history.journal import JournalEntry, JournalError


class ControlMissing(HintedError):
    """Raised when there is no topic of commands, or nothing of the name in it."""

    status = 404


class JournaledEntry(msgspec.Struct, frozen=True):
    """An entry of the journal with its partition, and the time in ms since 1970 when it was written."""

    partition: int
    time_ms: int
    entry: JournalEntry


class SentCommand(msgspec.Struct, frozen=True):
    """A command that was sent to all partitions, and the time in ms since 1970."""

    command: Command
    time_ms: int


@contextlib.contextmanager
def reading(config: Config) -> Iterator[Reader]:
    """Open a reader of both topics, and of the offsets of the pipeline's group."""
    reader = Reader(config.librdkafka, group=config.name)
    try:
        yield reader
    finally:
        reader.close()


def entries(reader: Reader, config: Config) -> list[JournaledEntry]:
    """Return the entries of all partitions in the order in which they were written, each once.

    Records that are no entries are passed over: anybody may write to a topic.
    """
    found: dict[tuple[int, int], JournaledEntry] = {}
    for record in _records(reader, config.journal_topic):
        with contextlib.suppress(JournalError):
            entry = journal.decode(record.value)
            found.setdefault(
                (record.partition, entry.seq), JournaledEntry(record.partition, record.timestamp_ms, entry)
            )
    return sorted(found.values(), key=lambda one: (one.time_ms, one.partition, one.entry.seq))


def sent(reader: Reader, config: Config) -> dict[str, SentCommand]:
    """Return the commands by id, the oldest first. Raises ControlMissing."""
    found: dict[str, SentCommand] = {}
    for record in _records(reader, config.control_topic):
        with contextlib.suppress(CommandError):
            command = commands.decode(record.value)
            found.setdefault(command.id, SentCommand(command, record.timestamp_ms))
    return dict(sorted(found.items(), key=lambda pair: pair[1].time_ms))


def _records(reader: Reader, topic: str) -> Iterator[Record]:
    spans = reader.spans(topic)
    if not spans:
        raise ControlMissing(
            f"there is no topic {topic}", hint="`headrace run` creates it at its start, and says so where it can't"
        )
    for partition, span in spans.items():
        yield from reader.between(topic, partition, span.start, span.end)
