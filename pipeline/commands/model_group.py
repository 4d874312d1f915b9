"""The commands of `headrace model`, with their options and their help."""
# ruff: noqa: PLC0415, FBT002 -- late imports are the point of this file; a flag's default is False

from typing import Annotated

import typer

from headrace.pipeline.commands.command import ConfigSource, command, group
from headrace.pipeline.commands.options import (
    CommandIdOption,
    ExecuteOption,
    GenerationOption,
    JsonOption,
    ReasonOption,
    WaitDoneOption,
    WaitOption,
)

model = group("List, show and explain the models, tell what was done to them, and let others challenge them.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the challenger.")]


@command(model, "ls")
def model_ls(source: ConfigSource, json: JsonOption = False) -> int:
    """List the versions of each partition's model, newest first."""
    from headrace.pipeline.commands import model_command

    return model_command.ls(source.load(), json=json)


@command(model, "explain")
def model_explain(source: ConfigSource, json: JsonOption = False) -> int:
    """Say which steps of the model run as compiled code, which as River, and why. Connects to nothing."""
    from headrace.pipeline.commands import explain

    return explain.explain(source.load(), json=json)


@command(model, "show")
def model_show(
    source: ConfigSource,
    which: Annotated[
        str | None,
        typer.Argument(metavar="PARTITION or KEY", help='A partition (default: the first); with scope = "key" a key.'),
    ] = None,
    version: Annotated[int | None, typer.Argument(min=1, metavar="VERSION", help="Default: the newest.")] = None,
    json: JsonOption = False,
) -> int:
    """Show one version in full, with the model as text, or the model of one key. None of its code is run."""
    from headrace.pipeline.commands import model_command

    return model_command.show(source.load(), which=which, version=version, json=json)


@command(model, "reset")
def model_reset(
    source: ConfigSource,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Kafka key whose model starts anew.")],
    json: JsonOption = False,
) -> int:
    """Start the model of one key anew (scope = "key"). The pipeline may be running."""
    from headrace.pipeline.commands import model_command

    return model_command.reset(source.load(), key=key, json=json)


@command(model, "history")
def model_history(source: ConfigSource, json: JsonOption = False) -> int:
    """List the changes of the models, such as promotions: from which offset each one holds, and who asked for it."""
    from headrace.pipeline.control.history_view import history

    return history(source.load(), json=json)


@command(model, "why")
def model_why(
    source: ConfigSource,
    position: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="A record of the features topic.")],
    json: JsonOption = False,
) -> int:
    """Tell which model answered a record, and since when and why it is that one."""
    from headrace.pipeline.control.history_view import why

    return why(source.load(), position=position, json=json)


@command(model, "challengers")
def model_challengers(source: ConfigSource, json: JsonOption = False) -> int:
    """List the challengers with their pairs, losses and evidence, as of the newest snapshots."""
    from headrace.pipeline.control.challenge_view import challengers

    return challengers(source.load(), json=json)


@command(model, "challenge", waits=True)
def model_challenge(
    source: ConfigSource,
    *,
    challenger: NameArgument,
    factory: Annotated[
        str,
        typer.Option(metavar="MODULE:FUNCTION", help="Its factory. Default: that of [challengers.NAME], or [model]."),
    ] = "",
    origin: Annotated[str, typer.Option("--from", metavar="now", help="Where it begins to learn.")] = "now",
    execute: ExecuteOption = False,
    wait: WaitOption = False,
    wait_done: WaitDoneOption = False,
    id_: CommandIdOption = "",
    reason: ReasonOption = "",
    expect_generation: GenerationOption = None,
    json: JsonOption = False,
) -> int:
    """Let a model challenge the one that answers: it sees the same records, and its answers are compared.

    A dry run unless --execute.
    """
    from headrace.pipeline.control.challenge_view import Sending, challenge

    sending = Sending(execute, "done" if wait_done else "taken" if wait else "no", id_, reason, expect_generation)
    return challenge(source.load(), name=challenger, factory=factory, origin=origin, sending=sending, json=json)


@command(model, "promote", waits=True)
def model_promote(
    source: ConfigSource,
    *,
    challenger: NameArgument,
    execute: ExecuteOption = False,
    wait: WaitOption = False,
    wait_done: WaitDoneOption = False,
    id_: CommandIdOption = "",
    reason: ReasonOption = "",
    expect_generation: GenerationOption = None,
    json: JsonOption = False,
) -> int:
    """Let a challenger answer from now on, also without evidence, which is journaled. A dry run unless --execute."""
    from headrace.pipeline.control.challenge_view import Sending, promote

    sending = Sending(execute, "done" if wait_done else "taken" if wait else "no", id_, reason, expect_generation)
    return promote(source.load(), name=challenger, sending=sending, json=json)


@command(model, "drop", waits=True)
def model_drop(
    source: ConfigSource,
    *,
    challenger: NameArgument,
    execute: ExecuteOption = False,
    wait: WaitOption = False,
    wait_done: WaitDoneOption = False,
    id_: CommandIdOption = "",
    reason: ReasonOption = "",
    expect_generation: GenerationOption = None,
    json: JsonOption = False,
) -> int:
    """Let a challenger leave. A dry run unless --execute."""
    from headrace.pipeline.control.challenge_view import Sending, drop

    sending = Sending(execute, "done" if wait_done else "taken" if wait else "no", id_, reason, expect_generation)
    return drop(source.load(), name=challenger, sending=sending, json=json)
