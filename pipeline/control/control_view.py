"""`headrace control`: the commands that were sent, and what became of each in every partition."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.control.journal_log import ControlMissing, JournaledEntry, SentCommand, entries, reading, sent
from headrace.pipeline.control.rfc3339 import rfc3339
from headrace.pipeline.dlq.dead_letters import printable

_WIDTH = 120


def ls(config: Config, *, json: bool) -> int:
    """Print the commands, the oldest first. Raises ReaderAway, ControlMissing."""
    rows = list(_told(config).values())
    if json:
        data.write(as_json(rows) + "\n")
    elif rows:
        table = Table("time", "id", "command", "by", "state", box=None, pad_edge=False)
        for row in rows:
            words = " ".join([row["verb"], *row["args"].values()])
            table.add_row(*(printable(text) for text in (row["time"], row["id"], words, row["by"], row["state"])))
        data.render(_console(), table)
    else:
        sys.stderr.write(f"no commands were sent to {config.name} yet\n")
    return 0


def show(config: Config, *, command: str, json: bool) -> int:
    """Print one command, and what became of it in each partition. Raises ReaderAway, ControlMissing."""
    row = _told(config).get(command)
    if row is None:
        raise ControlMissing(f"no command {command!r} was sent", hint="`headrace control ls` lists those that were")
    if json:
        data.write(as_json(row) + "\n")
        return 0
    partitions = row.pop("partitions")
    pairs = Table(box=None, pad_edge=False, show_header=False)
    for name, value in row.items():
        words = ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else value
        pairs.add_row(name, printable(str(words)))
    data.render(_console(), pairs)
    if partitions:
        table = Table("partition", "what", "offset", "reason", box=None, pad_edge=False)
        for one in partitions:
            table.add_row(str(one["partition"]), one["what"], f"{one['offset']:,}", printable(one["reason"]))
        data.write("\n")
        data.render(_console(), table)
    return 0


def _told(config: Config) -> dict[str, dict[str, Any]]:
    """Return what is told of each command, by id."""
    with reading(config) as reader:
        commands, journaled = sent(reader, config), entries(reader, config)
        count = len(reader.spans(config.control_topic))
    by_id: dict[str, list[JournaledEntry]] = {}
    for one in journaled:
        if one.entry.command:
            by_id.setdefault(one.entry.command, []).append(one)
    return {id_: _row(command, by_id.get(id_, []), count) for id_, command in commands.items()}


def _row(sent_: SentCommand, done: list[JournaledEntry], count: int) -> dict[str, Any]:
    command, refused = sent_.command, sum(one.entry.what == "refused" for one in done)
    state = f"taken by {len(done)} of {count} partitions" if done else "waiting"
    return {
        "id": command.id,
        "verb": command.verb,
        "args": command.args,
        "by": command.by,
        "reason": command.reason,
        "time": rfc3339(sent_.time_ms),
        "state": f"{state}, refused by {refused}" if refused else state,
        "partitions": [
            {
                "partition": one.partition,
                "what": one.entry.what,
                "offset": one.entry.place[0],
                "reason": one.entry.reason,
            }
            for one in sorted(done, key=lambda one: one.partition)
        ],
    }


def _console() -> Console:
    return Console(file=data.file, width=None if data.isatty() else _WIDTH, highlight=False, markup=False)
