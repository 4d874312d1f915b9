"""`headrace produce`: send records into the features topic, and with `--wait` print the outcome of each."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from headrace.consumers.reader import Reader
from headrace.consumers.record import LabelRecord, Record, Skipped
from headrace.consumers.refusal import Refusal
from headrace.consumers.topics import BATCH_BYTES_MAX, Topics
from headrace.pipeline import assembly
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.files.input_file import InputFile, kind_of, open_file
from headrace.pipeline.files.record_form import InputRow, TableColumns
from headrace.pipeline.formats import ValueText, record_encoder
from headrace.pipeline.produce.outcomes import Outcomes
from headrace.producers.producer_errors import BROKERS_KEY
from headrace.producers.writer import Feed

_POLL_S = 0.02
_ROWS_AHEAD_MAX = 1_000
_PROGRESS_ROWS = 1_000


class ProduceAway(Exception):
    """Raised when Kafka no longer takes records."""

    status = 503
    address_key = BROKERS_KEY
    hint = "check that Kafka runs there (`headrace doctor`); do not send the taken records again"


def produce(
    config: Config,
    *,
    file: Path | None = None,
    wait: bool = False,
    label: str | None = None,
    key: str | None = None,
    id_: str | None = None,
    csv: bool = False,
    labels: bool = False,
    timeout_s: float = 30.0,
    json: bool = False,
) -> int:
    """Send the records of a file or of standard input. Return the exit code: 1 if a record failed or has no outcome.

    With `labels` the records go into the labels topic. `timeout_s` bounds the time until Kafka answers for a record
    and, with `wait`, the time without a new outcome. Raises FileRefused, ProduceAway, and the errors of Topics,
    Reader and Feed.
    """
    topic = _topic(config, labels=labels, wait=wait, tabular=kind_of(file, csv=csv) != "json")
    columns = TableColumns(label=label, id=id_, key=key)
    with open_file(config, file, csv=csv, columns=columns) as opened:
        _tell(opened.notes)
        encode = record_encoder(config, topic)
        rows = _labels(config, opened, encode) if labels else _encoded(opened, encode)
        bytes_max = _ensure(config, topic, warn_of_keys=labels and key is None)
        keyless = _Keyless(rows, key)
        feed = Feed(config.librdkafka, topic=topic, timeout_s=timeout_s, each=wait, bytes_max=bytes_max)
        started = time.monotonic()
        try:
            missing = (
                _send_and_wait(config, feed, iter(keyless), timeout_s, json=json)
                if wait
                else _send(feed, iter(keyless), opened.source)
            )
        finally:
            # After an error, too, the summary counts the records that Kafka has taken.
            feed.finish()
            _summarise(feed, topic, time.monotonic() - started, wait=wait, json=json)
            keyless.tell()
    if feed.away:
        raise ProduceAway(f"Kafka took {feed.acked:,} records and then no more: {feed.fault}")
    if missing:
        _tell([f"{missing:,} have no outcome after {timeout_s:g} s\n  → `headrace status` tells what it waits for"])
    return int(bool(feed.refused or missing))


def _topic(config: Config, *, labels: bool, wait: bool, tabular: bool) -> str:
    """Return the topic to send to. Raises FileRefused if `labels` does not go with the other options."""
    if not labels:
        return config.topics.features
    if config.topics.labels is None:
        raise FileRefused("there is no labels topic", hint='name one: topics.labels = "labels"')
    if wait or tabular:
        raise FileRefused(
            "labels are sent as JSON lines, and have no outcome to wait for",
            hint='one {"id": …, "label": …} a line, without --wait; `headrace status` counts what became of them',
        )
    return config.topics.labels


def _send(feed: Feed, rows: Iterator[InputRow], source: BinaryIO) -> int:
    with _progress(source) as show:
        for number, row in enumerate(rows, 1):
            feed.send(row.value, row.key)
            if number % _PROGRESS_ROWS == 0:
                show(number)
            if feed.away:
                break
    return 0


def _send_and_wait(config: Config, feed: Feed, rows: Iterator[InputRow], timeout_s: float, *, json: bool) -> int:
    """Send rows and print their outcomes as they come; return the number of records without one."""
    reader = Reader(config.librdkafka, group=f"{config.name}.reader")
    missing, given_up = 0, False
    try:
        outcomes = Outcomes(
            reader,
            topics=config.topics,
            text=ValueText(config, config.predictions.format),
            committed=partial(_committed, config),
            json=json,
            write=_write_line,
        )
        decoder = assembly.decoder(config)
        for row in _read_ahead(rows):
            if row is not None:
                record = Record(0, 0, 0, row.key, row.value, None)
                feed.send(row.value, row.key, outcomes.expect(is_skipped=isinstance(decoder.decode(record), Skipped)))
            outcomes.poll(wait_s=0, all_delivered=feed.poll())
            while outcomes.full and outcomes.idle_s < timeout_s and not given_up:
                outcomes.poll(wait_s=_POLL_S, all_delivered=feed.poll())
            if outcomes.full:
                # No outcome comes. Send the rest without waiting, as without --wait.
                given_up = True
                missing += outcomes.give_up()
            if feed.away:
                break
        feed.finish()
        while outcomes.missing and outcomes.idle_s < timeout_s and not given_up:
            outcomes.poll(wait_s=_POLL_S, all_delivered=feed.poll())
        missing += outcomes.give_up()
        if missing:
            # If Kafka is away, this raises ReaderAway: then it is not the pipeline that waits.
            reader.spans(config.topics.predictions)
        return missing
    finally:
        reader.close()


def _committed(config: Config, partitions: list[int]) -> dict[int, int]:
    """Return the committed offsets of the pipeline."""
    reader = Reader(config.librdkafka, group=config.name)
    try:
        places = reader.committed(config.topics.features, partitions, stable=True)
    finally:
        reader.close()
    return {partition: place.offset for partition, place in places.items()}


def _read_ahead(rows: Iterator[InputRow]) -> Iterator[InputRow | None]:
    """Read rows in a thread, so that outcomes are printed while a person types. Yield None if no row is ready."""
    ready: queue.Queue[InputRow | BaseException | None] = queue.Queue(_ROWS_AHEAD_MAX)

    def read() -> None:
        try:
            for row in rows:
                ready.put(row)
        except BaseException as error:  # noqa: BLE001 raised again in the thread that takes the rows
            ready.put(error)
        else:
            ready.put(None)

    threading.Thread(target=read, name="rows", daemon=True).start()
    while True:
        try:
            row = ready.get(timeout=_POLL_S)
        except queue.Empty:
            yield None
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            raise row
        yield row


def _ensure(config: Config, topic: str, *, warn_of_keys: bool) -> int:
    """Create the topics that are missing; return the size of the largest record that `topic` takes."""
    topics = Topics({"log_level": 0, **config.librdkafka})
    topics.ensure(**config.topics.wanted)
    if warn_of_keys and topics.partitions().get(topic, 1) > 1:
        _tell(["without --key a label goes to any partition, and only in that of its features it meets them"])
    return topics.limits(topic).get(topic, BATCH_BYTES_MAX)


def _encoded(opened: InputFile, encode: Callable[[bytes], bytes] | None) -> Iterator[InputRow]:
    """Return the rows in the format of the topic."""
    rows = opened.rows()
    return rows if encode is None else (row._replace(value=encode(row.value)) for row in rows)


def _labels(config: Config, opened: InputFile, encode: Callable[[bytes], bytes] | None) -> Iterator[InputRow]:
    """Return the rows, all of which are labels. A file is checked before anything is sent, a pipe line by line."""
    decoder = assembly.label_decoder(config)

    def checked() -> Iterator[InputRow]:
        for number, row in enumerate(_encoded(opened, encode), 1):
            label = decoder.decode(LabelRecord(0, number, 0, row.key, row.value, None))
            if isinstance(label, Refusal):
                raise FileRefused(
                    f"record {number} is not a label: {label.message}", hint='a label is {"id": …, "label": …}'
                )
            yield row

    if not opened.can_repeat:
        return checked()
    deque(checked(), maxlen=0)
    return _encoded(opened, encode)


class _Keyless:
    """Passes rows on, and counts those without the key that the user asked for."""

    def __init__(self, rows: Iterator[InputRow], key: str | None) -> None:
        self._rows = rows
        self._key = key
        self._count = 0

    def __iter__(self) -> Iterator[InputRow]:
        for row in self._rows:
            self._count += row.key is None
            yield row

    def tell(self) -> None:
        """Warn if rows had no key."""
        if self._key is not None and self._count:
            _tell([f"{self._count:,} have no {self._key}, and were sent without a key"])


def _tell(lines: list[str]) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def _summarise(feed: Feed, topic: str, took_s: float, *, wait: bool, json: bool) -> None:
    """Print the number of records that Kafka has taken; to stderr with `wait`, as stdout has the outcomes."""
    if feed.refused:
        sys.stderr.write(f"{feed.refused:,} of {feed.acked + feed.refused:,} records were not taken: {feed.fault}\n")
    if json and not wait:
        _write_line(as_json({"records": feed.acked, "topic": topic, "refused": feed.refused}))
    elif not json:
        noun = "record" if feed.acked == 1 else "records"
        summary = f"{feed.acked:,} {noun} to {topic} in {took_s:.1f} s\n"
        (sys.stderr if wait else data).write(summary)


@contextlib.contextmanager
def _progress(source: BinaryIO) -> Iterator[Callable[[int], None]]:
    """Provide a function that takes the number of sent records. On a terminal it draws the progress in the file."""
    if not (sys.stderr.isatty() and source.seekable()):
        yield lambda _records: None
        return
    columns = (TextColumn("{task.fields[records]:,} records"), BarColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("produce", total=os.fstat(source.fileno()).st_size, records=0)
        yield lambda records: bar.update(task, completed=source.tell(), records=records)


def _write_line(line: str) -> None:
    data.write(line + "\n")
    data.flush()
