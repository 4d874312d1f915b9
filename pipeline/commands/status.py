"""`headrace status`: the state of the pipeline, from Kafka, the store and the workers.

It changes nothing and does not join the group. It answers within seconds, even if one of the three is away.
"""

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace.consumers.group_offsets import GroupOffsets, PartitionOffsets
from headrace.consumers.partitioner import KEYS_MIN
from headrace.consumers.source import SourceAway, SourceError
from headrace.consumers.topics import Topics
from headrace.pipeline.commands.status_report import Note, Observations, Report, alive, summarise
from headrace.pipeline.config.config import Config
from headrace.pipeline.connection import explained
from headrace.pipeline.console import as_json, data
from headrace.pipeline.process.rundir import FolderRefused, RunDir
from headrace.pipeline.recovery import consistency, key_placement
from headrace.pipeline.storage import open_store
from headrace.state.store.roster import Roster
from headrace.state.store.store_errors import StoreAway, StoreRefused

_STORE_S = 2.0
_REFRESH_S = 1.0
_WIDTH = 120
_STYLES = {"running": "bold green", "paused": "bold yellow", "relearning": "bold cyan", "stopped": "bold"}


class StatusUnknown(Exception):
    """Raised when neither Kafka nor the store nor a worker on this machine has answered."""

    status = 503
    hint = "`headrace doctor` tells what is wrong with each"


class StatusReader:
    """Read the state of one pipeline from Kafka, the store and the workers' notes."""

    def __init__(self, config: Config) -> None:
        self._places = GroupOffsets(
            config.librdkafka, group=config.name, topic=config.topics.features, labels=config.topics.labels
        )
        self._store = open_store(config, timeout_s=min(config.redis.timeout, _STORE_S))
        self._roster = Roster(self._store, name=config.name)
        self._rundir = RunDir(config)
        self._conceal = config.conceal
        self._config = config
        self._topics = Topics({**config.librdkafka, "log_level": 0})
        self._topic, self._labels = config.topics.features, config.topics.labels

    def read(self) -> Observations:
        """Ask each source once; every answer takes a few seconds at most."""
        faults: list[str] = []
        places = snapshots = topic = None
        stop_reasons: list[str] = []
        stored: dict[int, dict[str, Any]] = {}
        unseen_members = 0
        try:
            places = {partition: consistency.by_mark(place) for partition, place in self._places.read().items()}
            if not places:
                faults.append(f"the topic {self._topic} is not there yet; `headrace run` makes it")
            topic = self._topics.identify(self._topic, self._labels)
        except (SourceAway, SourceError) as error:
            faults.append(str(explained(error, self._config)))
        try:
            stored, stop_reasons = self._roster.notes(), self._roster.reasons()
            snapshots = self._newest(sorted(places) if places else self._store.partitions())
        except (StoreAway, StoreRefused) as error:
            faults.append(str(explained(error, self._config)))
            unseen_members = self._count_members(places) if places else 0
        faults += map(str, consistency.faults(topic, places or {}, snapshots or {}))
        local: dict[int, dict[str, Any]] = {}
        try:
            local = self._rundir.notes()
        except FolderRefused as error:
            faults.append(str(error))
        workers = alive(stored, local, host=platform.node(), running=_running(stored))
        return Observations(places, snapshots, workers, [*map(self._conceal, faults)], unseen_members, stop_reasons)

    def check_keys(self, report: Report) -> Report:
        """Check the keys of both topics if many labels and many features wait, and no worker has said why."""
        labels = report.labels
        if report.warnings or labels is None or min(labels.waiting, labels.waiting_early) < KEYS_MIN:
            return report
        advices = key_placement.look(self._config, partitions=len(report.partitions))
        return msgspec.structs.replace(report, warnings=[advice.message for advice in advices])

    def _newest(self, partitions: list[int]) -> dict[int, Note]:
        notes = {partition: self._store.notes(partition) for partition in partitions}
        return {partition: versions[0] for partition, versions in notes.items() if versions}

    def _count_members(self, places: Mapping[int, PartitionOffsets]) -> int:
        """Count the members of the group. If Kafka can't tell, a pipeline that has committed counts as one member."""
        members = self._places.members()
        return any(place.committed is not None for place in places.values()) if members is None else members


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
    if report.partitions:
        parts += ["", _partitions(report)]
    if report.workers:
        parts += ["", _workers(report)]
    return Group(*parts)


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


def _running(stored: dict[int, dict[str, Any]]) -> dict[int, bool]:
    """Return for each process id in the notes whether such a process runs on this machine."""
    found: dict[int, bool] = {}
    for note in stored.values():
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            found[note["pid"]] = False
        except OSError:
            # The process belongs to another user, so it exists.
            found[note["pid"]] = True
        else:
            found[note["pid"]] = True
    return found
