"""`headrace status`: the state of the pipeline, from Kafka, the store and the workers.

It changes nothing and does not join the group. It answers within seconds, even if one of the three is away.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.status.reader import StatusReader
from headrace.pipeline.status.report import Report, summarise

_REFRESH_S = 1.0
_WIDTH = 120
_STYLES = {"running": "bold green", "paused": "bold yellow", "relearning": "bold cyan", "stopped": "bold"}


class StatusUnknown(Exception):
    """Raised when neither Kafka nor the store nor a worker on this machine has answered."""

    status = 503
    hint = "`headrace doctor` tells what is wrong with each"


def status(config: Config, *, watch: bool, json: bool) -> int:
    """Print the state of the pipeline, once or each second until interrupted. Raises StatusUnknown."""
    reader = StatusReader(config)
    if watch:
        _watch(config.name, reader, json=json)
    seen = reader.read()
    if seen.nothing:
        raise StatusUnknown("; ".join(seen.faults))
    _print(reader.check_keys(summarise(config.name, seen)), json=json)
    return 0


def _watch(name: str, reader: StatusReader, *, json: bool) -> None:
    """Print the state each second until an interrupt."""
    if json or not data.isatty():
        while True:
            _print(summarise(name, reader.read()), json=json)
            time.sleep(_REFRESH_S)
    with Live(console=Console(file=data.file), auto_refresh=False) as live:
        while True:
            live.update(_layout(summarise(name, reader.read())), refresh=True)
            time.sleep(_REFRESH_S)


def _print(report: Report, *, json: bool) -> None:
    if json:
        data.write(as_json(report) + "\n")
    else:
        data.render(Console(file=data.file, width=None if data.isatty() else _WIDTH), _layout(report))
    data.flush()


def _layout(report: Report) -> Group:
    state = (report.state, _STYLES[report.state])
    parts: list[Any] = [Text.assemble((report.name, "bold"), "  ", state, f"  lag {_number(report.lag)}")]
    if report.reason:
        parts.append(Text(report.reason, style="yellow"))
    parts += [Text(f"! {warning}", style="yellow") for warning in report.warnings]
    if report.counts is not None:
        counts = msgspec.structs.asdict(report.counts)
        parts.append(Text(" · ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())))
    if report.labels is not None:
        labels = msgspec.structs.asdict(report.labels)
        parts.append(Text("labels: " + " · ".join(f"{name} {count:,}" for name, count in labels.items())))
    if report.quality:
        parts.append(Text(" · ".join(f"{name.replace('_', ' ')} {_figure(v)}" for name, v in report.quality.items())))
    if report.confusion:
        parts += ["", _confusion(report.confusion)]
    if report.partitions:
        parts += ["", _partitions(report)]
    if report.workers:
        parts += ["", _workers(report)]
    return Group(*parts)


def _confusion(confusion: Mapping[str, Mapping[str, int]]) -> Table:
    """Return the counts of answers, a row for each label."""
    answers = list(dict.fromkeys([*confusion, *(answer for row in confusion.values() for answer in row)]))
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for answer in answers:
        table.add_column(f"answered {answer}", justify="right")
    for label, row in confusion.items():
        table.add_row(label, *(f"{row.get(answer, 0):,}" for answer in answers))
    return table


def _partitions(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("partition", "committed", "snapshot", "lag", "learned"):
        table.add_column(column, justify="right")
    for row in report.partitions:
        table.add_row(str(row.partition), *(_number(v) for v in (row.committed, row.snapshot, row.lag, row.learned)))
    return table


def _workers(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "host", "pid", "state", "partitions"):
        table.add_column(column)
    for note in report.workers:
        partitions = ", ".join(str(partition) for partition in note.get("partitions") or ()) or "none"
        table.add_row(str(note["ordinal"]), str(note["host"]), str(note["pid"]), str(note["state"]), partitions)
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
