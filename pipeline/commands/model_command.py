"""`headrace model`: lists the versions of models in the store, shows one in full, and resets the model of a key.

The list unpickles no model: the store has a note beside the bytes of each version.
"""

import os
import sys
import time
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data, utc
from headrace.pipeline.model_factory import builder, load_model
from headrace.pipeline.storage import open_store
from headrace.state.keyed.key_row import read_row
from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.loaded_model import ModelMismatch, ModelMissing, find_row, find_snapshot
from headrace.state.models.task import ModelError
from headrace.state.shard_model import MODEL, table_name
from headrace.state.shared.mix_store import MixDamaged, MixStore
from headrace.state.store.store import Store

_WIDTH = 120


class ScopeWrong(Exception):
    """Raised when a command asks for a key's model where models have no keys."""

    status = 400
    hint = 'it is for model.scope = "key"'


def ls(config: Config, *, json: bool) -> int:
    """Print every partition's versions, newest first, and the mix if there is one. Raises StoreAway, StoreRefused."""
    store = open_store(config)
    mix = _mix(config, store)
    rows = [
        {
            "partition": partition,
            "version": note["version"],
            "offset": note["offset"],
            "learned": note["learned"],
            "created_ms": note["created_ms"],
            "bytes": note["bytes"],
            **_keys(note),
            "quality": note["quality"],
        }
        for partition in store.partitions()
        for note in store.notes(partition)
    ]
    if json:
        _print(rows if mix is None else {"mix": mix, "partitions": rows})
    elif rows:
        _say(_table(rows))
        if mix is not None:
            data.write(
                f"\nthe model of all is mix {mix['version']:,}: {mix['examples']:,} examples, {mix['bytes']:,} bytes\n"
            )
    else:
        sys.stderr.write(f"the store holds no model of {config.name} yet\n")
    return 0


def _keys(note: dict[str, Any]) -> dict[str, int]:
    """Return the number of keys of the model that answers."""
    tables, table = note.get("tables", {}), table_name(note.get("answers", MODEL), KEYS)
    return {"keys": tables[table]} if table in tables else {}


def _mix(config: Config, store: Store) -> dict[str, Any] | None:
    """Return the summary of the model of all workers; None if each partition or key has its own model."""
    if config.model.scope != "global":
        return None
    try:
        found = MixStore(store, name=config.name).load()
    except MixDamaged as error:
        raise ModelMissing(f"the mix of all workers can't be read: {error}") from error
    if found.mix is None:
        return {"version": found.number, "examples": 0, "bytes": 0}
    return {"version": found.number, "examples": found.mix.examples, "bytes": len(found.mix.model)}


def show(config: Config, *, which: str | None, version: int | None, json: bool) -> int:
    """Print one version with the model as text; by default the newest of the first partition.

    With scope "key", `which` is a key. Raises ModelMissing, StoreAway, StoreRefused.
    """
    store = open_store(config)
    if which is not None and config.model.scope == "key":
        return _show_key(config, store, which, json=json)
    if which is not None and not (which.isascii() and which.isdigit()):
        raise ModelMissing(f'{which!r} is no partition, and models have keys only with model.scope = "key"')
    partition = next(iter(store.partitions()), 0) if which is None else int(which)
    whole, model = _whole(store, partition, version)
    whole["fits"] = _fit(config, store, partition, version)
    if json:
        _print({**whole, "model": model})
        return 0
    whole["created"] = utc(whole.pop("created_ms"))
    whole["quality"] = _figures(whole["quality"])
    _say_pairs(whole)
    data.write(f"\n{model}\n")
    return 0


def reset(config: Config, *, key: str, json: bool) -> int:
    """Remove the model of a key from the newest snapshot. Raises ModelMissing, StoreAway, StoreRefused, ScopeWrong.

    The command claims the partition. So a worker that has the model in memory takes the partition over again, from that
    snapshot.
    """
    if config.model.scope != "key":
        raise ScopeWrong(f'models have no keys with model.scope = "{config.model.scope}"')
    store = open_store(config)
    partition, _ = find_row(store, os.fsencode(key))
    epoch = store.claim(partition, floor=0)
    found = store.load(partition)
    if found.snapshot is None:
        raise ModelMissing(f"the store's models of partition {partition} can't be read: {'; '.join(found.faults)}")
    store.rewind(partition, epoch=epoch, version=found.version)
    table = table_name(found.snapshot.answers, KEYS)
    rows = store.count(partition, table)
    left = rows - (store.fetch(partition, table, [os.fsencode(key)])[0] is not None)
    tables = {**found.snapshot.tables, table: left}
    saved = msgspec.structs.replace(found.snapshot, epoch=epoch, tables=tables, created_ms=time.time_ns() // 1_000_000)
    version = store.save(saved, changes={table: {os.fsencode(key): None}}, base=found.version)
    if json:
        _print({"key": key, "partition": partition, "version": version, "offset": saved.offset})
    else:
        data.write(
            f"the model of {key} begins anew from version {version} of partition {partition} (offset {saved.offset})\n"
        )
    return 0


def _fit(config: Config, store: Store, partition: int, version: int | None) -> str:
    """Print whether model.py still builds the saved model."""
    try:
        load_model(config, store, partition=partition, version=version)
    except (MixDamaged, ModelMismatch, ModelError) as error:
        return f"no: {error}"
    return "yes"


def _show_key(config: Config, store: Store, key: str, *, json: bool) -> int:
    partition, packed = find_row(store, os.fsencode(key))
    row = read_row(os.fsencode(key), packed)
    told = {
        "key": key,
        "partition": partition,
        "seen_ms": row.seen_ms,
        "bytes": len(row.model),
        **(_description(config, row.model) or {}),
    }
    if json:
        _print(told)
        return 0
    told["seen"] = utc(told.pop("seen_ms")) if row.seen_ms >= 0 else "not noted (keys.silent is not set)"
    features = told.pop("features", None)
    _say_pairs(told)
    if features:
        steps = list(dict.fromkeys(step for fields in features.values() for step in fields))
        table = Table("feature", *steps, box=None, pad_edge=False)
        for name, fields in features.items():
            table.add_row(name, *("  ".join(f"{value:.6g}" for value in fields.get(step, ())) for step in steps))
        data.write("\n")
        _say(table)
    return 0


def _description(config: Config, state: bytes) -> dict[str, Any] | None:
    """Return what a key's model has learned; None if it is not compiled, or is of another model than the factory's."""
    from headrace.state.compiled.description import describe  # noqa: PLC0415 numpy takes time, and few commands need it

    try:
        return describe(state, builder(config)())
    except ModelError:
        return None


def _say_pairs(pairs: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in pairs.items():
        table.add_row(name.replace("_", " "), str(value))
    _say(table)


def _whole(store: Store, partition: int, version: int | None) -> tuple[dict[str, Any], str]:
    snapshot, found = find_snapshot(store, partition, version)
    told = next((note for note in store.notes(partition) if note["version"] == found), None)
    if told is None:
        raise ModelMissing(f"the note of version {found} of partition {partition} can't be read")
    return {**told, "topic": snapshot.topic, "start": snapshot.start}, snapshot.answering.spec


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = ["partition", "version", "offset", "learned", "bytes", *(["keys"] if "keys" in rows[0] else [])]
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("created")
    table.add_column("quality")
    for row in rows:
        numbers = (f"{row.get(name, 0):,}" for name in columns)
        table.add_row(*numbers, utc(row["created_ms"]), _figures(row["quality"]))
    return table


def _figures(quality: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in quality.items() if name != "scored")


def _say(table: Table) -> None:
    console = Console(file=data.file, width=None if data.isatty() else _WIDTH, highlight=False, markup=False)
    data.render(console, table)


def _print(value: Any) -> None:
    data.write(as_json(value) + "\n")
