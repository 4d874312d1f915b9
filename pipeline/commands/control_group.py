"""The commands of `headrace control`, with their options and their help."""
# ruff: noqa: PLC0415, FBT002 -- late imports are the point of this file; a flag's default is False

from typing import Annotated

import typer

from headrace.pipeline.commands.command import ConfigSource, command, group
from headrace.pipeline.commands.options import JsonOption

control = group("List and show the commands that were sent to the models, and what became of them.")


@command(control, "ls")
def control_ls(source: ConfigSource, json: JsonOption = False) -> int:
    """List the commands that were sent, the oldest first."""
    from headrace.pipeline.control.control_view import ls

    return ls(source.load(), json=json)


@command(control, "show")
def control_show(
    source: ConfigSource,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a command.")],
    json: JsonOption = False,
) -> int:
    """Show one command, and what became of it in each partition."""
    from headrace.pipeline.control.control_view import show

    return show(source.load(), command=id_, json=json)
