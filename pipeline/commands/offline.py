"""The commands that test models on records of the past, with their options and their help."""
# ruff: noqa: PLC0415 -- late imports let `--help` answer at once

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.pipeline.commands.command import ConfigSource, command
from headrace.pipeline.commands.options import CsvOption, IdOption, JsonOption, KeyOption, LabelOption

if TYPE_CHECKING:
    from headrace.pipeline.backtest.backtest import Options

SubjectArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE or TOPIC",
        help="JSON lines, CSV or Parquet; or a topic, if there is no such file. Default: the features topic.",
    ),
]
DelayOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Labels come after this time of the events, such as 30m.")
]
DelayRecordsOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Labels come after this number of records.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="PLACE", help="Begin at this time, or at P:O[,P:O…].")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="PLACE", help="End before this time, or P:O[,P:O…].")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(app)(backtest)
    command(app)(tune)


def backtest(
    source: ConfigSource,
    *,
    subject: SubjectArgument = None,
    factory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Factory of a model to test; may be given several times. Default: the configured one.",
        ),
    ] = None,
    delay: DelayOption = None,
    delay_records: DelayRecordsOption = None,
    start: FromOption = None,
    end: ToOption = None,
    csv: CsvOption = False,
    label: LabelOption = None,
    id_: IdOption = None,
    key: KeyOption = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the metrics over time into a PNG or SVG file.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Test models on records of the past: predict, then learn when the label comes. Changes nothing.

    With a labels topic the labels come when they came, else with their records, unless a delay is given.
    """
    from headrace.pipeline.backtest.backtest import backtest
    from headrace.pipeline.files.record_form import TableColumns

    options = _options(factory or (), delay, delay_records, start, end)
    columns = TableColumns(label=label, id=id_, key=key)
    return backtest(source.load(), subject=subject, options=options, csv=csv, columns=columns, json=json, plot=plot)


def tune(
    source: ConfigSource,
    *,
    space: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION", help="Function that takes an Optuna trial and returns a River model."
        ),
    ],
    subject: SubjectArgument = None,
    sampler: Annotated[
        Literal["grid", "tpe"], typer.Option(help="All combinations of choices, or Optuna's sampler TPE.")
    ] = "tpe",
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of trials in all. Default: 50, or the whole grid.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the sampler.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the trials of an earlier search.")] = False,
    delay: DelayOption = None,
    delay_records: DelayRecordsOption = None,
    start: FromOption = None,
    end: ToOption = None,
    csv: CsvOption = False,
    label: LabelOption = None,
    id_: IdOption = None,
    key: KeyOption = None,
    json: JsonOption = False,
) -> int:
    """Try models of a space on records of the past, each as `backtest` does. Changes nothing but its file of trials."""
    from headrace.pipeline.backtest.tune import tune
    from headrace.pipeline.files.record_form import TableColumns

    return tune(
        source.load(),
        space=space,
        subject=subject,
        options=_options((), delay, delay_records, start, end),
        sampler=sampler,
        trials=trials,
        seed=seed,
        resume=resume,
        csv=csv,
        columns=TableColumns(label=label, id=id_, key=key),
        json=json,
    )


def _options(
    factories: Sequence[str], delay: str | None, delay_records: int | None, start: str | None, end: str | None
) -> "Options":
    from headrace.pipeline.backtest.backtest import Options
    from headrace.pipeline.backtest.examples import delay_of
    from headrace.pipeline.backtest.past_records import Range, place_of

    asked = Range(None if start is None else place_of(start, "--from"), None if end is None else place_of(end, "--to"))
    return Options(tuple(factories), delay_of(delay, delay_records), asked)
