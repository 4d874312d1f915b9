"""`headrace status`: how the pipeline is, whoever of Kafka, the store and the workers can be asked.

It changes nothing and joins nothing, and it answers within seconds while the very thing that it asks is away.
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
from headrace.pipeline.commands.status_report import Note, Observations, Report, alive, report
from headrace.pipeline.config.config import Config
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
    """Raised when nobody could be asked: no worker on this machine, no store, no Kafka."""

    status = 503
    hint = "`headrace doctor` tells what is wrong with each"


class Observer:
    """Ask everyone who may know how one pipeline is."""

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

    def look(self) -> Observations:
        """Ask once, each in a few seconds at most."""
        faults: list[str] = []
        places = snapshots = topic = None
        stored: dict[int, dict[str, Any]] = {}
        strangers = 0
        try:
            places = {partition: consistency.by_mark(place) for partition, place in self._places.read().items()}
            if not places:
                faults.append(f"the topic {self._topic} is not there yet; `headrace run` makes it")
            topic = self._topics.identify(self._topic, self._labels)
        except (SourceAway, SourceError) as error:
            faults.append(str(error))
        try:
            stored = self._roster.notes()
            snapshots = self._newest(sorted(places) if places else self._store.partitions())
        except (StoreAway, StoreRefused) as error:
            faults.append(str(error))
            strangers = self._strangers(places) if places else 0
        faults += map(str, consistency.faults(topic, places or {}, snapshots or {}))
        local: dict[int, dict[str, Any]] = {}
        try:
            local = self._rundir.notes()
        except FolderRefused as error:
            faults.append(str(error))
        workers = alive(stored, local, host=platform.node(), running=_running(stored))
        return Observations(places, snapshots, workers, [*map(self._conceal, faults)], strangers)

    def glance(self, told: Report) -> Report:
        """Look at the topics' keys where many labels and many features wait for each other, and nobody has said why."""
        labels = told.labels
        if told.warnings or labels is None or min(labels.waiting, labels.waiting_early) < KEYS_MIN:
            return told
        advices = key_placement.look(self._config, partitions=len(told.partitions))
        return msgspec.structs.replace(told, warnings=[advice.message for advice in advices])

    def _newest(self, partitions: list[int]) -> dict[int, Note]:
        notes = {partition: self._store.notes(partition) for partition in partitions}
        return {partition: versions[0] for partition, versions in notes.items() if versions}

    def _strangers(self, places: Mapping[int, PartitionOffsets]) -> int:
        """Count the members of the group; where nobody can tell, one that has worked is not taken for stopped."""
        members = self._places.members()
        return any(place.committed is not None for place in places.values()) if members is None else members


def status(config: Config, *, watch: bool, json: bool) -> int:
    """Print how the pipeline is, once or each second until interrupted. Raises StatusUnknown."""
    observer = Observer(config)
    if watch:
        _watch(config.name, observer, json=json)
    seen = observer.look()
    if seen.nothing:
        raise StatusUnknown("; ".join(seen.faults))
    _say(observer.glance(report(config.name, seen)), json=json)
    return 0


def _watch(name: str, observer: Observer, *, json: bool) -> None:
    """Print again and again; only an interrupt ends it."""
    if json or not data.isatty():
        while True:
            _say(report(name, observer.look()), json=json)
            time.sleep(_REFRESH_S)
    with Live(console=Console(file=data.file), auto_refresh=False) as live:
        while True:
            live.update(_picture(report(name, observer.look())), refresh=True)
            time.sleep(_REFRESH_S)


def _say(told: Report, *, json: bool) -> None:
    if json:
        data.write(as_json(told) + "\n")
    else:
        console = Console(file=data.file, width=None if data.isatty() else _WIDTH)
        with console.capture() as captured:
            console.print(_picture(told))
        data.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
    data.flush()


def _picture(told: Report) -> Group:
    head = Text.assemble((told.name, "bold"), "  ", (told.state, _STYLES[told.state]), f"  lag {_number(told.lag)}")
    parts: list[Any] = [head]
    if told.reason:
        parts.append(Text(told.reason, style="yellow"))
    parts += [Text(f"! {said}", style="yellow") for said in told.warnings]
    if told.counts is not None:
        counts = msgspec.structs.asdict(told.counts)
        parts.append(Text(" · ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())))
    if told.labels is not None:
        labels = msgspec.structs.asdict(told.labels)
        parts.append(Text("labels: " + " · ".join(f"{name} {count:,}" for name, count in labels.items())))
    if told.quality:
        parts.append(Text(" · ".join(f"{name.replace('_', ' ')} {_figure(v)}" for name, v in told.quality.items())))
    if told.partitions:
        parts += ["", _partitions(told)]
    if told.workers:
        parts += ["", _workers(told)]
    return Group(*parts)


def _partitions(told: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("partition", "committed", "snapshot", "lag", "learned"):
        table.add_column(column, justify="right")
    for row in told.partitions:
        table.add_row(str(row.partition), *(_number(v) for v in (row.committed, row.snapshot, row.lag, row.learned)))
    return table


def _workers(told: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "host", "pid", "state", "partitions"):
        table.add_column(column)
    for note in told.workers:
        partitions = ", ".join(str(partition) for partition in note.get("partitions") or ()) or "none"
        table.add_row(str(note["ordinal"]), str(note["host"]), str(note["pid"]), str(note["state"]), partitions)
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _running(stored: dict[int, dict[str, Any]]) -> dict[int, bool]:
    """Tell of each process id in the notes whether this machine has such a process."""
    found: dict[int, bool] = {}
    for note in stored.values():
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            found[note["pid"]] = False
        except OSError:
            # It is another user's, so it is there.
            found[note["pid"]] = True
        else:
            found[note["pid"]] = True
    return found
