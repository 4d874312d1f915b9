"""The options that several commands have."""

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
TopicOption = Annotated[str | None, typer.Option(metavar="TOPIC", help="Read this topic, not the configured one.")]
CodeOption = Annotated[str | None, typer.Option(metavar="CODE", help="Only dead letters with this code.")]
SinceOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only dead letters since this time, or not older than 10m or 2h.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after this many.")]
LabelOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of a table with the label.")]
KeyOption = Annotated[str | None, typer.Option(metavar="FIELD", help="Feature, or else field, with the Kafka key.")]
IdOption = Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column of a table with the record's id.")]
CsvOption = Annotated[
    bool, typer.Option("--csv", help="Read CSV with a header, even if the file's name does not end in .csv.")
]
ExecuteOption = Annotated[
    bool, typer.Option("--execute", help="Send the command. Without it, only print what would be sent.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until each partition has taken or refused it, for a minute at most.")
]
WaitDoneOption = Annotated[
    bool, typer.Option("--wait-done", help="Also written --wait=done: wait until it has taken effect everywhere.")
]
CommandIdOption = Annotated[
    str,
    typer.Option("--id", metavar="ID", help="Id of the command. The same id is the same command. Default: a new one."),
]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the journal.")]
GenerationOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Refuse the command where another generation answers.")
]
