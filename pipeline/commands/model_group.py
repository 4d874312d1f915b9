"""The commands of `headrace model`, with their options and their help."""
# ruff: noqa: PLC0415, FBT002 -- late imports are the point of this file; a flag's default is False

from typing import Annotated

import typer

from headrace.pipeline.commands.command import ConfigSource, command, group
from headrace.pipeline.commands.options import JsonOption

model = group("List, show and explain the models, tell what was done to them, or reset the model of a key.")


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
    """Tell what was done to the models beside learning: which model answered from where on, and who asked for it."""
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
