"""`headrace check`: how the records of a file or of a topic are read with the configuration. It sends nothing."""

import itertools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.consumers.refusal import Refusal
from headrace.pipeline.check.record_report import RecordReport, label_of
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.files.input_file import open_file
from headrace.pipeline.files.record_form import InputRow, TableColumns
from headrace.pipeline.files.subject import SubjectMissing, is_file, missing_topic
from headrace.pipeline.formats import RecordRefused, record_encoder

TOPIC_RECORDS = 1_000
"""The number of records that are read of a topic by default, from its end back."""


def check(
    config: Config,
    *,
    subject: str,
    records: int | None = None,
    csv: bool = False,
    label: str | None = None,
    id_: str | None = None,
    key: str | None = None,
    json: bool = False,
) -> int:
    """Decode the records of a file, or the last ones of a topic, and print what they are; return the exit code.

    A file wins over a topic of its name. Without `records` it is the whole file, or 1,000 records of the topic. The
    exit code is 1 if a record would be refused. The records of a file are first encoded as `produce` sends them.
    Raises SubjectMissing, FileRefused, ModelError, and errors of Reader and of the registry.
    """
    report = RecordReport(config, label=label_of(config))
    if is_file(subject):
        with open_file(config, Path(subject), csv=csv, columns=TableColumns(label=label, id=id_, key=key)) as opened:
            _read_rows(report, itertools.islice(opened.rows(), records), record_encoder(config, config.topics.features))
            for note in opened.notes:
                sys.stderr.write(f"{note}\n")
    else:
        report.read(last_records(config, subject, records or TOPIC_RECORDS))
    if not report.records:
        raise SubjectMissing(f"{subject} has no records", hint="send some with `headrace produce`")
    if json:
        data.write(as_json(report.as_json()) + "\n")
    else:
        data.write("".join(f"{line}\n" for line in report.lines()))
    return 0 if report.is_good else 1


def _read_rows(report: RecordReport, rows: Iterable[InputRow], encode: Callable[[bytes], bytes] | None) -> None:
    """Decode rows of a file in the format of the topic; a row that has no such form is refused."""
    for number, row in enumerate(rows):
        record = Record(0, number, 0, row.key, row.value, None)
        try:
            value = row.value if encode is None else encode(row.value)
        except RecordRefused as error:
            report.refuse(record, Refusal("not_decodable", "decode", str(error)))
        else:
            report.read([Record(0, number, 0, row.key, value, None)])


def last_records(config: Config, topic: str, n: int) -> list[Record]:
    """Return the last `n` records of a topic, oldest first. Raises SubjectMissing if there is no such topic."""
    missing = missing_topic(config, topic)
    if missing is not None:
        raise missing
    reader = Reader(config.librdkafka, group=f"{config.name}.reader")
    try:
        return reader.last(topic, reader.spans(topic), n)
    finally:
        reader.close()
