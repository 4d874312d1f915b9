"""`headrace model challenge`, `challengers`, `promote` and `drop`: models beside the one that answers."""

import getpass
import uuid
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table

from headrace.pipeline import model_factory
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.control import command_sender
from headrace.pipeline.control.command_sender import CommandOutcomes, CommandRefused
from headrace.pipeline.control.journal_log import reading
from headrace.pipeline.dlq.dead_letters import printable
from headrace.pipeline.storage import open_store
from headrace.state.history.command import Command
from headrace.state.store.store import Store

Wait = Literal["no", "taken", "done"]

_WIDTH = 120


class Sending(msgspec.Struct, frozen=True):
    """How a command is sent: a dry run without `execute`; its id, drawn without one; the reason; what is waited for."""

    execute: bool = False
    wait: Wait = "no"
    id: str = ""
    reason: str = ""
    expect_generation: int | None = None
    timeout_s: float = 60.0


def challenge(config: Config, *, name: str, factory: str, origin: str, sending: Sending, json: bool) -> int:
    """Let a model challenge the one that answers, in every partition; by default one of the same factory.

    Raises CommandRefused, ModelError, and the errors of `command_sender`.
    """
    factory = factory or _configured(config, name)
    if origin != "now":
        raise CommandRefused(
            f"--from {origin} needs a rebuild, which this release does not have",
            hint="leave --from out: the challenger begins now",
        )
    if config.promotion.mode == "off":
        raise CommandRefused('promotion.mode is "off"', hint='set it to "ask" or "auto"')
    model_factory.contender(config, open_store(config), name, factory, 0)
    command = Command(_id(sending), "challenge", {"name": name, "factory": factory, "from": origin})
    return _send(config, command, sending, json=json)


def promote(config: Config, *, name: str, sending: Sending, json: bool) -> int:
    """Make a challenger the champion of every partition that has it, whatever its evidence. Raises as `challenge`."""
    return _send(config, Command(_id(sending), "promote", {"name": name}), sending, json=json)


def drop(config: Config, *, name: str, sending: Sending, json: bool) -> int:
    """Let a challenger leave every partition. Raises as `challenge`."""
    return _send(config, Command(_id(sending), "drop", {"name": name}), sending, json=json)


def challengers(config: Config, *, json: bool) -> int:
    """Print the challengers with their pairs, losses and evidence, as of each partition's newest snapshot.

    Raises StoreAway.
    """
    rows: dict[str, dict[str, Any]] = {}
    for partition, name, told, factory in _challengers(config, open_store(config)):
        row = rows.setdefault(name, {"name": name, "factory": factory, "partitions": []})
        row["partitions"].append({"partition": partition, **told})
    if json:
        data.write(as_json([*rows.values()]) + "\n")
    elif rows:
        columns = "name", "partition", "since", "pairs", "champion", "challenger", "evidence", "waits for"
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows.values():
            for one in row["partitions"]:
                losses = (f"{one['loss'][side]:.4g}" for side in ("champion", "challenger"))
                evidence = f"{one['evidence']:.4g} of {one['needs']:.4g}"
                words = (
                    row["name"],
                    f"{one['partition']}",
                    f"{one['since']:,}",
                    f"{one['pairs']:,}",
                    *losses,
                    evidence,
                )
                table.add_row(*map(printable, (*words, one["waits_for"])))
        data.render(_console(), table)
    else:
        data.write(f"no model challenges the one of {config.name}\n")
    return 0


def _challengers(config: Config, store: Store) -> Any:
    for partition in store.partitions():
        for note in store.notes(partition)[:1]:
            for name, told in note.get("challengers", {}).items():
                figures = {key: value for key, value in told.items() if key != "factory"}
                yield partition, name, figures, told["factory"] or config.model.factory


def _configured(config: Config, name: str) -> str:
    found = config.challengers.get(name)
    return config.model.factory if found is None else found.factory


def _id(sending: Sending) -> str:
    return sending.id or uuid.uuid4().hex[:12]


def _send(config: Config, command: Command, sending: Sending, *, json: bool) -> int:
    """Send a command, or only say what would be sent; return 1 if it was waited for and a partition refused it."""
    try:
        by = getpass.getuser()
    except (KeyError, OSError):
        by = ""
    expected = sending.expect_generation
    command = msgspec.structs.replace(command, by=by, reason=sending.reason, expect_generation=expected)
    words = " ".join([command.verb, *command.args.values()])
    if not sending.execute:
        with reading(config) as reader:
            partitions = len(reader.spans(config.control_topic))
        _tell(json, {"id": None, "command": words, "partitions": partitions, "sent": False})
        return 0
    partitions = command_sender.send(config, command)
    if sending.wait == "no":
        _tell(json, {"id": command.id, "command": words, "partitions": partitions, "sent": True})
        return 0
    found = command_sender.wait(config, command.id, timeout_s=sending.timeout_s)
    told = {"id": command.id, "command": words, "partitions": partitions, "sent": True}
    _tell(json, {**told, "outcomes": _outcomes(found)})
    return 1 if any(one.entry.what == "refused" and not _is_same(one.entry.reason) for one in found.values()) else 0


def _is_same(reason: str) -> bool:
    """Tell whether a challenge was refused since the same one goes on already."""
    return reason.startswith("the same challenge")


def _outcomes(found: CommandOutcomes) -> list[dict[str, Any]]:
    return [
        {"partition": one.partition, "what": one.entry.what, "offset": one.entry.place[0], "reason": one.entry.reason}
        for one in sorted(found.values(), key=lambda one: one.partition)
    ]


def _tell(json: bool, told: Mapping[str, Any]) -> None:  # noqa: FBT001 whether to print JSON
    if json:
        data.write(as_json(told) + "\n")
        return
    head = f"{told['command']}: " + (f"sent as {told['id']}" if told["sent"] else "would be sent; --execute sends it")
    data.write(f"{head}, {told['partitions']} partitions\n")
    for one in told.get("outcomes", ()):
        reason = f": {printable(one['reason'])}" if one["reason"] else ""
        data.write(f"  partition {one['partition']}: {one['what']} at offset {one['offset']:,}{reason}\n")


def _console() -> Console:
    return Console(file=data.file, width=None if data.isatty() else _WIDTH, highlight=False, markup=False)
