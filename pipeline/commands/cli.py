"""The commands, with their options and their help. Each does its work in a module of its own.

That module is imported when the command is called, so that `--help` answers at once.
"""

# ruff: noqa: PLC0415, FBT002 -- late imports are the point of this file; a flag's default is False

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace.pipeline import console
from headrace.pipeline.commands import offline
from headrace.pipeline.commands.command import ConfigSource, command, fail, group
from headrace.pipeline.commands.control_group import control
from headrace.pipeline.commands.model_group import model
from headrace.pipeline.commands.options import (
    CodeOption,
    CsvOption,
    IdOption,
    JsonOption,
    KeyOption,
    LabelOption,
    LimitOption,
    SinceOption,
    TopicOption,
)
from headrace.pipeline.process import reexec

app = group("Online learning on Kafka: predict each record, learn from it, keep the models in Redis, exactly once.")
dlq = group("List, show and replay dead letters.")
config = group("Check the configuration, or show where each value comes from. Connects to nothing.")


@command(app)
def demo(
    source: ConfigSource,  # noqa: ARG001 the demo brings a configuration of its own
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running afterwards, until Ctrl-C.")] = False,
) -> int:
    """Show the whole story on an embedded Kafka and Valkey, in about a minute.

    A stream, its predictions, bad records, an outage, a crash and a replay. Exits 0 only if every check passed.
    """
    from headrace.pipeline.demo import demo

    return demo(keep=keep)


@command(app, endless=True)
def up(
    source: ConfigSource,  # noqa: ARG001 the servers choose their own addresses
    json: JsonOption = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the data in this directory. Without it, the data is deleted at the end."
        ),
    ] = None,
    registry: Annotated[bool, typer.Option("--registry", help="Also run a schema registry (Apicurio).")] = False,
) -> int:
    """Run an embedded Kafka and Valkey until Ctrl-C, and print their addresses."""
    from headrace.pipeline.commands.up import up

    return up(json=json, data_dir=data_dir, registry=registry)


@command(app)
def init(
    source: ConfigSource,
    *,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory of the project. It is created if necessary.")
    ],
    topic: Annotated[
        str | None,
        typer.Option("--from", metavar="TOPIC", help="Write a project that fits the last records of this topic."),
    ] = None,
    records: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="Number of records to read of the topic.")
    ] = 1_000,
    id_: Annotated[str | None, typer.Option("--id", metavar="PATH", help="Path of the id, instead of a guess.")] = None,
    ts: Annotated[str | None, typer.Option(metavar="PATH", help="Path of the time, instead of a guess.")] = None,
    label: Annotated[str | None, typer.Option(metavar="PATH", help="Path of the label, instead of a guess.")] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="Schema registry of the topic, if its records are not JSON.")
    ] = None,
) -> int:
    """Write a project to start from: headrace.toml, model.py and sample records.

    With --from it fits an existing topic, and the command says what it saw there and why it decided so.
    """
    if topic is None:
        from headrace.pipeline.commands.init import init

        return init(directory)
    from headrace.pipeline.check.findings import Choices
    from headrace.pipeline.check.init_from import init_from

    choices = Choices(id=id_, ts=ts, label=label)
    # Without -c, a configuration in the working folder counts if there is one.
    file = source.file if source.is_named or source.file.exists() else None
    flags = source.flags if registry is None else {**source.flags, "registry.url": registry}
    return init_from(directory, topic=topic, file=file, flags=flags, records=records, choices=choices)


@command(app)
def check(
    source: ConfigSource,
    *,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="FILE or TOPIC", help="JSON lines, CSV or Parquet; or a topic, if there is no such file."
        ),
    ],
    records: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of records: the first of a file, the last of a topic."),
    ] = None,
    label: LabelOption = None,
    key: KeyOption = None,
    id_: IdOption = None,
    csv: CsvOption = False,
    json: JsonOption = False,
) -> int:
    """Say how records are read, and which would be refused, without --records all of a file or 1,000 of a topic.

    It sends and learns nothing. Exits 1 if a record would be refused.
    """
    from headrace.pipeline.check.check import check

    return check(source.load(), subject=subject, records=records, csv=csv, label=label, id_=id_, key=key, json=json)


@command(app, endless=True)
def run(
    source: ConfigSource,
    workers: Annotated[
        int, typer.Option(min=1, max=128, metavar="N", help="Number of processes that share the partitions.")
    ] = 1,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop at the offsets that are the end of the topics now.")
    ] = False,
    on_state_loss: Annotated[
        Literal["relearn", "fresh", "stop"],
        typer.Option(
            metavar="relearn|fresh|stop",
            help="What to do if the store has lost models: relearn them from the log, start with fresh models at the "
            "committed offset, or stop.",
        ),
    ] = "relearn",
) -> int:
    """Run the pipeline: predict, learn, and restart a worker that dies.

    Ctrl-C and SIGTERM finish the batch, commit, save, and exit 0.
    """
    reexec.fix()
    from headrace.pipeline.commands.run import run

    return run(source.file, workers=workers, until_end=until_end, on_loss=on_state_loss, flags=source.flags)


@command(app, endless=True)
def serve(
    source: ConfigSource,
    workers: Annotated[int | None, typer.Option(min=0, max=128, metavar="N", help="Processes; 0: one a core.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, metavar="PORT", help="Port to listen on.")] = None,
) -> int:
    """Answer HTTP requests from the models in the store, beside the stream.

    On SIGHUP, the server replaces its processes one by one. On Ctrl-C or SIGTERM, it answers the requests that it has
    received, and exits with 0.
    """
    reexec.fix()
    from headrace.pipeline.commands.serve import serve

    return serve(source.file, workers=workers, port=port, flags=source.flags)


@command(app)
def ask(
    source: ConfigSource,
    *,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="One or many records. Default: stdin.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Kafka key of the records without one.")] = None,
    json: JsonOption = False,
) -> int:
    """Ask for predictions: the running server (with the token in HEADRACE_TOKEN), or the store when there is none."""
    from headrace.pipeline.commands.ask import ask

    return ask(source.load(), file=file, key=key, json=json)


@command(app)
def produce(
    source: ConfigSource,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="JSON lines, CSV or Parquet. Default: stdin.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Print the outcome of each record: its prediction or its dead letter.")
    ] = False,
    label: LabelOption = None,
    key: KeyOption = None,
    id_: IdOption = None,
    csv: CsvOption = False,
    labels: Annotated[bool, typer.Option("--labels", help="Send labels to the labels topic.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="How long to wait for an answer.")
    ] = 30.0,
    json: JsonOption = False,
) -> int:
    """Send records to the features topic, from a file or from stdin."""
    from headrace.pipeline.produce.produce import produce

    return produce(
        source.load(),
        file=file,
        wait=wait,
        label=label,
        key=key,
        id_=id_,
        csv=csv,
        labels=labels,
        timeout_s=timeout_s,
        json=json,
    )


@command(app, endless="follow", lines=True)
def tail(
    source: ConfigSource,
    *,
    which: Annotated[
        Literal["predictions", "dlq"], typer.Argument(metavar="predictions|dlq", help="Topic to read.")
    ] = "predictions",
    n: Annotated[int, typer.Option("-n", min=0, metavar="N", help="Number of records.")] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new records, until Ctrl-C.")] = False,
    topic: TopicOption = None,
    json: JsonOption = False,
) -> int:
    """Print the last predictions or dead letters, one JSON line each."""
    from headrace.pipeline.commands.tail import tail

    return tail(source.load(), which=which, n=n, follow=follow, topic=topic, json=json)


@command(dlq, "ls")
def dlq_ls(
    source: ConfigSource,
    *,
    code: CodeOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    topic: TopicOption = None,
    json: JsonOption = False,
) -> int:
    """Count dead letters by code, and how many of them were replayed."""
    from headrace.pipeline.dlq import dlq

    return dlq.ls(source.load(), code=code, since=since, limit=limit, topic=topic, json=json)


@command(dlq, "show")
def dlq_show(
    source: ConfigSource,
    *,
    position: Annotated[
        str | None, typer.Argument(metavar="PARTITION:OFFSET", help="Show this dead letter only.")
    ] = None,
    code: CodeOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    topic: TopicOption = None,
    json: JsonOption = False,
) -> int:
    """Show dead letters in full: the record, and why it was refused."""
    from headrace.pipeline.dlq import dlq

    return dlq.show(source.load(), position=position, code=code, since=since, limit=limit, topic=topic, json=json)


@command(dlq, "replay")
def dlq_replay(
    source: ConfigSource,
    *,
    execute: Annotated[
        bool, typer.Option("--execute", help="Send them. Without it, only print what would be sent.")
    ] = False,
    code: CodeOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    edit: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Function that changes each value: bytes in, bytes out, or None to leave the record where it is.",
        ),
    ] = None,
    topic: TopicOption = None,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="Also replay dead letters of topics that are not this pipeline's.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Send dead letters back to the features topic, each at most once. A dry run unless --execute."""
    from headrace.pipeline.dlq import dlq

    return dlq.replay(
        source.load(),
        execute=execute,
        code=code,
        since=since,
        limit=limit,
        edit=edit,
        topic=topic,
        foreign=foreign,
        json=json,
    )


@command(app, endless="watch")
def status(
    source: ConfigSource,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every second, until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> int:
    """Show the state of the pipeline: lag, counts, quality and workers."""
    from headrace.pipeline.commands.status import status

    return status(source.load(), watch=watch, json=json)


@command(app, endless=True)
def page(
    source: ConfigSource,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, metavar="PORT", help="Port instead of page.port. 0 takes a free one."),
    ] = None,
    actions: Annotated[
        bool, typer.Option("--actions", help="Allow actions to whoever has the token, like page.actions.")
    ] = False,
) -> int:
    """Serve a live web page of the pipeline until Ctrl-C, and print its address."""
    from headrace.pipeline.page.page import page

    return page(source.load(), port=port, actions=actions)


@command(app, endless=True)
def top(source: ConfigSource, json: JsonOption = False) -> int:
    """Show the page's figures in the terminal until Ctrl-C; one frame where there is no terminal."""
    from headrace.pipeline.page.terminal import top

    return top(source.load(), json=json)


@command(app)
def doctor(source: ConfigSource, json: JsonOption = False) -> int:
    """Connect to Kafka, the store and the HTTP sink, and print one line for each check."""
    from headrace.pipeline.commands.doctor import doctor

    return doctor(source.load, json=json)


@command(config, "check")
def config_check(source: ConfigSource, json: JsonOption = False) -> int:
    """Check the file, the environment and the flags, and build the model. All errors are printed at once."""
    from headrace.pipeline.commands.config_command import check

    return check(source.load(), file=source.file, json=json)


@command(config, "show")
def config_show(source: ConfigSource, json: JsonOption = False) -> int:
    """Print every key with its value and its source: default, file, environment or flag."""
    from headrace.pipeline.commands.config_command import show

    return show(source.load(), file=source.file, flags=source.flags, json=json)


offline.add_to(app)
app.add_typer(dlq, name="dlq")
app.add_typer(model, name="model")
app.add_typer(control, name="control")
app.add_typer(config, name="config")


def main() -> None:
    """Run the command `headrace`."""
    reexec.open_standard_files()
    console.open_standard_files()
    try:
        app(prog_name="headrace")
    except OSError as error:
        # A command handles its own errors. Only printing the help can end here, for example on a full disk.
        sys.exit(fail(error))


if __name__ == "__main__":
    main()
