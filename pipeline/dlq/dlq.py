"""`headrace dlq`: count the dead letters, show them in full, and replay them."""

import sys
from collections.abc import Iterator

from headrace.consumers.formats.registry import RegistryAway
from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.consumers.topics import Topics
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.dlq import receipts, view
from headrace.pipeline.dlq.dead_letters import (
    DeadLetterError,
    DeadLetterRecord,
    Selection,
    envelope,
    position_of,
    select,
    since_ms,
)
from headrace.pipeline.dlq.execution import now_ms, plan, reading, send, topic_id_of
from headrace.pipeline.dlq.replay import UNKNOWN, Summary, load_edit
from headrace.pipeline.formats import ValueText


def ls(
    config: Config,
    *,
    code: str | None = None,
    since: str | None = None,
    limit: int | None = None,
    topic: str | None = None,
    json: bool = False,
) -> int:
    """Print the number of dead letters by code and by receipt. Raises ReaderAway, DeadLetterError."""
    name = topic or config.topics.dead_letters
    selection = Selection(code, since_ms(since, now_ms=now_ms()), limit)
    with reading(config) as reader:
        states = states_of(config, reader, name)
        counts: dict[tuple[int, str, str], view.DeadLetterCounts] = {}
        for dead_letter in select(reader, name, selection):
            _count(counts, dead_letter, states)
    rows = sorted(counts.values(), key=lambda row: (-row.count, row.code))
    if json:
        _write_line(as_json(rows))
    elif rows:
        view.print_counts(rows)
    else:
        sys.stderr.write(f"no dead letters in {name}\n")
    return 0


def show(
    config: Config,
    *,
    position: str | None = None,
    code: str | None = None,
    since: str | None = None,
    limit: int | None = None,
    topic: str | None = None,
    json: bool = False,
) -> int:
    """Print dead letters in full: the one at `PARTITION:OFFSET`, or the selected ones. Raises the errors of `ls`."""
    name = topic or config.topics.dead_letters
    selection = Selection(code, since_ms(since, now_ms=now_ms()), limit)
    with reading(config) as reader:
        states, text = None if json else states_of(config, reader, name), ValueText(config, config.schema_format)
        found = select(reader, name, selection) if position is None else find_one(reader, name, *position_of(position))
        is_empty = True
        for dead_letter in found:
            record = dead_letter.record
            if states is None:
                _write_line(as_json(envelope(name, record)))
            else:
                state = states.of(record.partition, record.offset)
                _write_line(view.full_text(name, dead_letter, state, decoded=_decoded(text, record)))
            is_empty = False
    if is_empty:
        sys.stderr.write(f"no such dead letters in {name}\n")
    return 0


def _decoded(text: ValueText, record: Record) -> bytes | None:
    """Return a value in another format as JSON; None for JSON, and where that is not possible."""
    try:
        found = text.of(record)
    except RegistryAway:
        return None
    return None if found == record.value else found


def replay(
    config: Config,
    *,
    execute: bool = False,
    code: str | None = None,
    since: str | None = None,
    limit: int | None = None,
    edit: str | None = None,
    topic: str | None = None,
    foreign: bool = False,
    json: bool = False,
) -> int:
    """Send dead letters into the stream again, or only list them without `execute`; return the exit code.

    With `foreign`, also send dead letters whose records came from topics of other pipelines.

    Raises ReplayError, DeadLetterError, and the errors of Reader, Writer and Topics. It may run again after any error.
    """
    name = topic or config.topics.dead_letters
    selection = Selection(code, since_ms(since, now_ms=now_ms()), limit)
    edit_value = None if edit is None else load_edit(edit, config.directory)
    if topic is not None and topic not in Topics({"log_level": 0, **config.librdkafka}).partitions():
        raise DeadLetterError(f"there is no topic {topic}", hint="name the topic that holds the dead letters")
    route = plan(config, name, execute=execute, foreign=foreign)
    with view.progress() as progress:
        summary = send(
            config, route, selection, edit=edit_value, execute=execute, progress=progress, broken=_tell_broken
        )
    if json:
        _write_line(as_json(view.as_json(summary, execute=execute)))
    else:
        view.print_summary(summary, route, limit=limit, replay_max=config.dlq.replay_max, execute=execute)
    return int(summary.edit_failed + summary.lost + summary.too_large > 0)


def _tell_broken(summary: Summary) -> None:
    sys.stderr.write(f"before the error {summary.sent:,} were sent and {summary.parked:,} parked\n")


def states_of(config: Config, reader: Reader, name: str) -> receipts.States:
    """Read which dead letters of a topic were replayed or parked."""
    topics = Topics({"log_level": 0, **config.librdkafka})
    topic_id = topic_id_of(topics, topics.partitions(), name)
    spans = reader.spans(name)
    # Do not wait for a replay that is running: only its committed transactions count.
    places = reader.committed(name, list(spans), stable=False)
    return receipts.States(receipts.read(reader, name, topic_id), receipts.floors(places, spans, topic_id))


def find_one(reader: Reader, name: str, partition: int, offset: int) -> Iterator[DeadLetterRecord]:
    """Yield the dead letter at a place. Raises DeadLetterError if there is none."""
    span = reader.spans(name).get(partition)
    if span is not None and span.start <= offset < span.end:
        for record in reader.between(name, partition, offset, offset + 1):
            if record.offset == offset:
                yield DeadLetterRecord.of(record)
                return
    raise DeadLetterError(
        f"{name}[{partition}] holds no dead letter at {offset}", hint="`headrace dlq show` lists them"
    )


def _count(
    counts: dict[tuple[int, str, str], view.DeadLetterCounts], dead_letter: DeadLetterRecord, states: receipts.States
) -> None:
    record, reason = dead_letter.record, dead_letter.reason
    at = record.timestamp_ms
    kind = dead_letter.status, dead_letter.code, reason.topic or UNKNOWN
    row = counts.setdefault(kind, view.DeadLetterCounts(*kind, 0, 0, 0, 0, at, at, reason.message))
    state = states.of(record.partition, record.offset)
    row.count += 1
    setattr(row, state, getattr(row, state) + 1)
    row.first, row.last = min(row.first, at), max(row.last, at)


def _write_line(line: str) -> None:
    data.write(line + "\n")
