"""The commands that test models on records of the past, with their options and their help."""
# ruff: noqa: PLC0415 -- late imports let `--help` answer at once

from pathlib import Path
from typing import Annotated

import typer

from headrace.pipeline.commands.command import ConfigSource, command
from headrace.pipeline.commands.options import CsvOption, IdOption, JsonOption, KeyOption, LabelOption


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(app)(backtest)


def backtest(
    source: ConfigSource,
    *,
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE or TOPIC",
            help="JSON lines, CSV or Parquet; or a topic, if there is no such file. Default: the features topic.",
        ),
    ] = None,
    factory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Factory of a model to test; may be given several times. Default: the configured one.",
        ),
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Labels come after this time of the events, such as 30m.")
    ] = None,
    delay_records: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Labels come after this number of records.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="PLACE", help="Begin at this time, or at P:O[,P:O…].")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="PLACE", help="End before this time, or P:O[,P:O…].")
    ] = None,
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
    from headrace.pipeline.backtest.backtest import Options, backtest
    from headrace.pipeline.backtest.examples import delay_of
    from headrace.pipeline.backtest.past_records import Range, place_of
    from headrace.pipeline.files.record_form import TableColumns

    asked = Range(None if start is None else place_of(start, "--from"), None if end is None else place_of(end, "--to"))
    options = Options(tuple(factory or ()), delay_of(delay, delay_records), asked)
    columns = TableColumns(label=label, id=id_, key=key)
    return backtest(source.load(), subject=subject, options=options, csv=csv, columns=columns, json=json, plot=plot)
