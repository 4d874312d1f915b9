"""Sends a command to all partitions in one transaction, and waits for what becomes of it."""

import time
from collections.abc import Callable, Mapping

from headrace.pipeline.config.config import Config
from headrace.pipeline.control.journal_log import ControlMissing, JournaledEntry, entries, reading, sent
from headrace.pipeline.hinted_error import HintedError
from headrace.producers.writer import Outbound, Writer
from headrace.state.history import command as commands
from headrace.state.history.command import Command

_LOOK_S = 0.2

CommandOutcomes = Mapping[int, JournaledEntry]
"""What was done on a command, by partition."""
IsDone = Callable[[JournaledEntry], bool]


class CommandRefused(HintedError):
    """Raised when a command can't be sent, or when a partition refused it."""

    status = 409


class NotTaken(HintedError):
    """Raised when some partitions have not taken a command in time."""

    status = 503


def send(config: Config, command: Command) -> int:
    """Send a command, unless it was sent before; return the number of partitions.

    Raises CommandRefused for an id that another command has, ControlMissing, ReaderAway, and the errors of Writer.
    """
    with reading(config) as reader:
        partitions = len(reader.spans(config.control_topic))
        before = sent(reader, config).get(command.id)
    if before is not None:
        if (before.command.verb, before.command.args) != (command.verb, command.args):
            raise CommandRefused(
                f"the id {command.id} is that of another command: {before.command.verb}",
                hint="choose another --id, or leave it out",
            )
        return partitions
    value = commands.encode(command)
    writer = Writer(config.librdkafka, transactional_id=f"{config.name}-control-{command.id}")
    try:
        writer.open()
        records = [
            Outbound(config.control_topic, number, command.id.encode(), value, (), 0) for number in range(partitions)
        ]
        writer.write(records, topic=config.control_topic, offsets={}, metadata="", membership=None)
    finally:
        writer.close()
    return partitions


def wait(config: Config, command: str, *, timeout_s: float, is_done: IsDone = lambda _one: True) -> CommandOutcomes:
    """Wait until each partition has journaled a command, and `is_done` says so; return what was done.

    Raises NotTaken after `timeout_s` seconds, ControlMissing and ReaderAway.
    """
    until = time.monotonic() + timeout_s
    with reading(config) as reader:
        partitions = len(reader.spans(config.journal_topic))
        if not partitions:
            raise ControlMissing(
                f"there is no topic {config.journal_topic}", hint="`headrace run` creates it at its start"
            )
        while True:
            found = {one.partition: one for one in entries(reader, config) if one.entry.command == command}
            if len(found) == partitions and all(map(is_done, found.values())):
                return found
            if time.monotonic() > until:
                missing = sorted(set(range(partitions)) - found.keys())
                raise NotTaken(
                    f"after {timeout_s:.0f} s the partitions {', '.join(map(str, missing))} have not taken it",
                    hint="is the pipeline running (`headrace status`)? They take the command when it is; "
                    f"`headrace control show {command}` tells what became of it",
                )
            time.sleep(_LOOK_S)
