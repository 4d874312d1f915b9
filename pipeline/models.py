"""`headrace model`: the versions of each partition's model that the store keeps, and one of them in full.

No model is unpickled: what a version is stands beside its bytes.
"""

import datetime as dt
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.config import Config
from state.store import Store

_OFFSET_MAX = 2**63 - 1
_WIDTH = 120


class VersionUnknown(Exception):
    """Raised when the store has no such version, or none that is whole."""

    status = 404
    hint = "`headrace model ls` lists what is there"


def ls(config: Config, *, json: bool) -> int:
    """Print every partition's versions, newest first. Raises StoreAway, StoreRefused."""
    store = _store(config)
    rows = [
        {
            "partition": partition,
            "version": note["version"],
            "offset": note["offset"],
            "learned": note["learned"],
            "created_ms": note["created_ms"],
            "bytes": note["bytes"],
            "quality": note["quality"],
        }
        for partition in store.partitions()
        for note in store.notes(partition)
    ]
    if json:
        _print(rows)
    elif rows:
        _say(_table(rows))
    else:
        sys.stderr.write(f"the store holds no model of {config.name} yet\n")
    return 0


def show(config: Config, *, partition: int | None, version: int | None, json: bool) -> int:
    """Print one version with the model as text: of the first partition, and the newest, where none is named.

    Raises VersionUnknown, StoreAway, StoreRefused.
    """
    store = _store(config)
    if partition is None:
        partition = next(iter(store.partitions()), 0)
    whole, model = _whole(store, partition, version)
    if json:
        _print({**whole, "model": model})
        return 0
    whole["created"] = _moment(whole.pop("created_ms"))
    whole["quality"] = _figures(whole["quality"])
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in whole.items():
        table.add_row(name.replace("_", " "), str(value))
    _say(table)
    sys.stdout.write(f"\n{model}\n")
    return 0


def _whole(store: Store, partition: int, version: int | None) -> tuple[dict[str, Any], str]:
    notes = store.notes(partition)
    wanted = f"version {version} of partition {partition}" if version else f"model of partition {partition}"
    note = next((note for note in notes if version in {None, note["version"]}), None)
    if note is None:
        raise VersionUnknown(f"the store holds no {wanted}")
    # Offsets grow with the versions, so the newest that stands at most here is the one.
    found = store.load(partition, at_most=note["offset"] if version else _OFFSET_MAX)
    snapshot = found.snapshot
    if snapshot is None or (version and found.version != version):
        raise VersionUnknown(f"the store's {wanted} can't be read: {'; '.join(found.faults) or 'it is gone'}")
    told = next((note for note in notes if note["version"] == found.version), note)
    return {**told, "topic": snapshot.topic, "start": snapshot.start}, snapshot.spec


def _store(config: Config) -> Store:
    return Store(config.redis.url.get_secret_value(), name=config.name, timeout_s=config.redis.timeout)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("partition", "version", "offset", "learned", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("created")
    table.add_column("quality")
    for row in rows:
        numbers = (f"{row[name]:,}" for name in ("partition", "version", "offset", "learned", "bytes"))
        table.add_row(*numbers, _moment(row["created_ms"]), _figures(row["quality"]))
    return table


def _moment(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1_000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _figures(quality: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in quality.items() if name != "scored")


def _say(table: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def _print(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
