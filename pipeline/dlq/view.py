"""The output of `dlq` for people: tables, dead letters in full, and the summary of a replay.

All text from a record goes through `printable`: nobody vouches for the content of a dead letter.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from headrace.pipeline.console import data, utc
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, printable
from headrace.pipeline.dlq.receipts import ReceiptState
from headrace.pipeline.dlq.replay import Group, Route, Summary, parked_topic
from headrace.producers import deadletter

_EXAMPLE_WIDTH = 60
_PLAIN_WIDTH = 200
_WIDE = 120
_WIDE_ONLY = frozenset({"first", "example"})
_NUMBERS = frozenset({"count", "waiting", "replayed", "parked"})


class DeadLetterCounts(msgspec.Struct):
    """The number of dead letters with one status and code from one topic. `first` and `last` are ms since 1970."""

    status: int
    code: str
    topic: str
    count: int
    waiting: int
    replayed: int
    parked: int
    first: int
    last: int
    example: str


def print_counts(counts: Sequence[DeadLetterCounts]) -> None:
    """Print a table of dead letters by status, code and the topic that their records came from."""
    _print(
        [
            {
                "status": str(row.status),
                "code": printable(row.code),
                "from": printable(row.topic),
                "count": f"{row.count:,}",
                "waiting": f"{row.waiting:,}",
                "replayed": f"{row.replayed:,}",
                "parked": f"{row.parked:,}",
                "first": utc(row.first),
                "last": utc(row.last),
                "example": _short(row.example),
            }
            for row in counts
        ]
    )


def full_text(topic: str, dead_letter: DeadLetterRecord, state: ReceiptState, *, decoded: bytes | None = None) -> str:
    """Format one dead letter with all of its content; `decoded` is its value as JSON, if it has another format."""
    record, reason = dead_letter.record, dead_letter.reason
    lines = [
        f"{topic}[{record.partition}]@{record.offset}  {dead_letter.status} {dead_letter.code}  {state}",
        f"  time     {utc(record.timestamp_ms)}",
        f"  source   {dead_letter.origin}",
        f"  message  {reason.message}",
    ]
    optional = {"field": reason.field, "stage": reason.stage, "group": reason.group, "dialect": reason.dialect}
    lines += [f"  {name:<7}  {text}" for name, text in optional.items() if text]
    lines.append(f"  replays  {reason.replay_count}")
    lines += [f"  omitted  {part}: {size:,} bytes, still at the source" for part, size in reason.omitted.items()]
    lines.append(f"  key      {_bytes(record.key)}")
    lines += [f"  header   {name}: {_bytes(value)}" for name, value in deadletter.strip(record.headers)]
    lines.append(f"  value    {_bytes(record.value)}")
    if decoded is not None:
        lines.append(f"  decoded  {_bytes(decoded)}")
    return "\n".join(printable(line) for line in lines) + "\n"


def as_json(summary: Summary, *, execute: bool) -> dict[str, Any]:
    """Return the summary of a replay as one object. `to_send` and `to_park` are only in that of a dry run."""
    plan = {} if execute else {"to_send": summary.to_send, "to_park": summary.to_park}
    return {
        "execute": execute,
        "selected": summary.selected,
        **plan,
        "sent": summary.sent,
        "parked": summary.parked,
        "left": summary.left,
        "edit_failed": summary.edit_failed,
        "lost": summary.lost,
        "too_large": summary.too_large,
        "already": summary.already,
        "foreign": summary.foreign,
        "failures": summary.failures,
        "reasons": summary.reasons,
        "codes": list(summary.groups.values()),
    }


def print_summary(summary: Summary, route: Route, *, limit: int | None, replay_max: int, execute: bool) -> None:
    """Print what a replay did or would do, and the next command."""
    for failure in summary.failures:
        sys.stderr.write(f"edit failed: {printable(failure)}\n")
    for reason in summary.reasons:
        sys.stderr.write(f"left: {printable(reason)}\n")
    if not execute:
        _print_groups(list(summary.groups.values()))
    send, park = (summary.sent, summary.parked) if execute else (summary.to_send, summary.to_park)
    would = "" if execute else "would be "
    parts = [f"{send:,} {would}sent to {route.features}"]
    if park:
        times = f"after {replay_max} replays" if replay_max > 1 else "after a replay"
        parts.append(f"{park:,} {would}parked in {parked_topic(route.topic)} {times}")
    others = {
        "left by the edit function": summary.left,
        "left because it failed": summary.edit_failed,
        "left because their records are gone": summary.lost,
        "left because they are too large": summary.too_large,
        "had been replayed or parked before": summary.already,
    }
    parts += [f"{count:,} {words}" for words, count in others.items() if count]
    data.write(f"{', '.join(parts)}\n")
    if summary.foreign:
        _print_foreign(summary.foreign, route)
    if summary.already == limit:
        data.write(f"the first {limit:,} of them are done: raise --limit or leave it out to go on\n")
    elif not execute and send + park:
        data.write("add --execute to send them\n")


def _print_foreign(foreign: Mapping[str, int], route: Route) -> None:
    origins = ", ".join(f"{printable(topic)} {count:,}" for topic, count in sorted(foreign.items()))
    count = sum(foreign.values())
    data.write(f"{count:,} left that did not come from {route.features} ({origins}): --foreign sends them, too\n")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Provide a function that takes the number of offsets that are done and of all; on a terminal it draws a bar."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_groups(groups: Sequence[Group]) -> None:
    _print(
        [
            {
                "code": printable(group.code),
                "count": f"{group.count:,}",
                "first": utc(group.first),
                "last": utc(group.last),
                "example": _short(group.example),
            }
            for group in sorted(groups, key=lambda group: (-group.count, group.code))
        ]
    )


def _print(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows in aligned columns; a narrow terminal gets only the important columns."""
    if not rows:
        return
    console = Console(file=data.file, width=None if data.isatty() else _PLAIN_WIDTH, highlight=False, markup=False)
    names = [name for name in rows[0] if console.width >= _WIDE or name not in _WIDE_ONLY]
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    data.render(console, table)


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _EXAMPLE_WIDTH else text[: _EXAMPLE_WIDTH - 1] + "…"


def _bytes(value: bytes | None) -> str:
    return "(none)" if value is None else value.decode(errors="backslashreplace")
