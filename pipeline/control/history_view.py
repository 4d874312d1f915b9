"""`headrace model history` and `why`: what was done to the models, and which of them answered a record."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.control.journal_log import JournaledEntry, entries, reading
from headrace.pipeline.control.rfc3339 import rfc3339
from headrace.pipeline.dlq.dead_letters import printable
from headrace.pipeline.hinted_error import HintedError
from headrace.state.history.journal import JournalEntry
from headrace.state.shard_model import MODEL

_WIDTH = 120


class NotAnswered(HintedError):
    """Raised when no record at a place was answered yet."""

    status = 404


def history(config: Config, *, json: bool) -> int:
    """Print what was done to the models, the oldest first. Raises ReaderAway, ControlMissing."""
    with reading(config) as reader:
        rows = [_line(one.partition, one.entry, one.time_ms) for one in entries(reader, config)]
    if json:
        data.write(as_json(rows) + "\n")
    elif rows:
        _print(rows)
    else:
        sys.stderr.write(f"nothing was done to the models of {config.name} beside learning\n")
    return 0


def why(config: Config, *, position: str, json: bool) -> int:
    """Print which model answered the record at `PARTITION:OFFSET`, since which offset, and why.

    Raises ReaderAway, ControlMissing, and NotAnswered.
    """
    partition, offset = _place(position)
    with reading(config) as reader:
        journaled = [one for one in entries(reader, config) if one.partition == partition]
        committed = reader.committed(config.topics.features, [partition], stable=False).get(partition)
    if committed is None or offset >= committed.offset:
        end = "none" if committed is None else f"those below offset {committed.offset}"
        raise NotAnswered(
            f"the record {position} of {config.topics.features} was not answered yet; of partition {partition}, {end} "
            "were",
            hint="`headrace status` shows how far each partition is",
        )
    row = _reason(journaled, partition, offset)
    if json:
        data.write(as_json(row) + "\n")
    else:
        words = "it has answered from the start" if not row["what"] else f"{row['what']} at offset {row['offset']:,}"
        data.write(
            f"{position} was answered by {printable(row['name'])}, generation {row['generation']}, which answers since "
            f"offset {row['since']:,}: {words}\n"
        )
    return 0


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise NotAnswered(f"{text!r} names no record", hint="write PARTITION:OFFSET, such as 1:39")
    return int(partition), int(offset)


def _reason(journaled: list[JournaledEntry], partition: int, offset: int) -> dict[str, Any]:
    """Return the line of the newest change of the model that answers at or before an offset, and since when it does."""
    changes, generation = [], 1
    for one in sorted(journaled, key=lambda one: one.entry.seq):
        if one.entry.generation != generation:
            changes.append(one)
        generation = one.entry.generation
    for one in reversed(changes):
        if one.entry.place[0] <= offset:
            row = _line(partition, one.entry, one.time_ms)
            return {**row, "name": one.entry.name or MODEL, "since": one.entry.place[0]}
    first = {"time": None, "partition": partition, "offset": 0, "what": "", "name": MODEL, "by": ""}
    return {**first, "evidence": None, "generation": 1, "since": 0}


def _line(partition: int, entry: JournalEntry, time_ms: int) -> dict[str, Any]:
    return {
        "time": rfc3339(time_ms),
        "partition": partition,
        "offset": entry.place[0],
        "what": entry.what,
        "name": entry.name,
        "by": entry.by,
        "evidence": entry.evidence,
        "generation": entry.generation,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, justify="right" if column in {"partition", "offset", "generation"} else "left")
    for row in rows:
        told = row["evidence"]
        words = "" if told is None else f"{told.e:.4g} of {told.needs:.4g} after {told.n:,} pairs"
        table.add_row(*(printable(str(words if name == "evidence" else value)) for name, value in row.items()))
    data.render(Console(file=data.file, width=None if data.isatty() else _WIDTH, highlight=False, markup=False), table)
