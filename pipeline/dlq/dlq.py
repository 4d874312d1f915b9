"""`headrace dlq`: count the dead letters, show them in full, and replay them."""

import contextlib
import sys
import time
from collections.abc import Iterator

from headrace.consumers.formats.registry import RegistryAway
from headrace.consumers.reader import Reader
from headrace.consumers.record import Record
from headrace.consumers.topics import BATCH_BYTES_MAX, Topics
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
from headrace.pipeline.dlq.original import Originals
from headrace.pipeline.dlq.replay import UNKNOWN, Replay, ReplayError, Route, load_edit, parked_topic
from headrace.pipeline.formats import ValueText
from headrace.pipeline.recovery import offset_metadata
from headrace.producers.writer import Writer


def ls(
    config: Config, *, topic: str | None = None, code: str | None = None, since: str | None = None, json: bool = False
) -> int:
    """Print the number of dead letters by code and by receipt. Raises ReaderAway, DeadLetterError."""
    name = topic or config.topics.dead_letters
    selection = Selection(code, since_ms(since, now_ms=_now_ms()))
    with _reading(config) as reader:
        states = _states(config, reader, name)
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
    selection = Selection(code, since_ms(since, now_ms=_now_ms()), limit)
    with _reading(config) as reader:
        states, text = None if json else _states(config, reader, name), ValueText(config, config.records.format)
        found = select(reader, name, selection) if position is None else _one(reader, name, *position_of(position))
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
    selection = Selection(code, since_ms(since, now_ms=_now_ms()), limit)
    edit_value = None if edit is None else load_edit(edit, config.directory)
    topics = Topics({"log_level": 0, **config.librdkafka})
    if topic is not None and topic not in topics.partitions():
        raise DeadLetterError(f"there is no topic {topic}", hint="name the topic that holds the dead letters")
    route = _route(config, topics, name, execute=execute, foreign=foreign)
    with _reading(config) as reader, _reading(config) as originals, view.progress() as progress:
        writer = _writer(config, route) if execute else None
        run = Replay(
            reader,
            originals=Originals(originals),
            route=route,
            selection=selection,
            replay_max=config.dlq.replay_max,
            edit=edit_value,
            writer=writer,
            now_ms=_now_ms,
            progress=progress,
        )
        _run(run, writer)
    if json:
        _write_line(as_json(view.as_json(run.summary, execute=execute)))
    else:
        view.print_summary(run.summary, route, limit=limit, replay_max=config.dlq.replay_max, execute=execute)
    return int(run.summary.edit_failed + run.summary.lost + run.summary.too_large > 0)


def _writer(config: Config, route: Route) -> Writer:
    batch_bytes_max = min(route.bytes_max.values(), default=None)
    return Writer(config.librdkafka, transactional_id=f"{config.name}.replay", batch_bytes_max=batch_bytes_max)


def _run(run: Replay, writer: Writer | None) -> None:
    try:
        if writer is not None:
            writer.open()
        run.run()
    except BaseException:
        summary = run.summary
        if writer is not None and summary.sent + summary.parked:
            sys.stderr.write(f"before the error {summary.sent:,} were sent and {summary.parked:,} parked\n")
        raise
    finally:
        if writer is not None:
            writer.close()


def _route(config: Config, topics: Topics, name: str, *, execute: bool, foreign: bool) -> Route:
    """Describe the topics of a replay; create the missing ones if the replay is to be executed."""
    features = config.topics.features
    if execute:
        if topics.is_mock():
            raise ReplayError(
                "librdkafka's mock cluster has no transactions, so a replay could send a record twice",
                hint="replay on a real Kafka (`headrace up` starts one)",
            )
        _create_topics(config, topics, name)
    there = topics.partitions()
    wanted = (features, config.topics.labels, receipts.topic_of(name), parked_topic(name))
    targets = [target for target in wanted if target in there]
    limits = topics.limits(*targets)
    return Route(
        topic=name,
        topic_id=_topic_id(topics, there, name),
        features=features,
        features_partitions=there.get(features, 0),
        labels=config.topics.labels,
        receipts_partitions=there.get(receipts.topic_of(name), 1),
        parked_partitions=there.get(parked_topic(name), 1),
        group=config.name,
        secrets=_secrets(config, there.get(features, 0)),
        bytes_max={t: min(limits.get(t, BATCH_BYTES_MAX), config.client_bytes_max) for t in targets},
        foreign=foreign,
        is_own=name == config.topics.dead_letters,
    )


def _secrets(config: Config, partitions: int) -> dict[int, str]:
    """Return the secrets that sign replays, for each partition in which the pipeline has committed a mark."""
    if not partitions:
        return {}
    with _reading(config, group=config.name) as reader:
        places = reader.committed(config.topics.features, list(range(partitions)), stable=False)
    marks = {partition: offset_metadata.read(place.metadata) for partition, place in places.items()}
    return {partition: found.secret for partition, found in marks.items() if found is not None}


def _create_topics(config: Config, topics: Topics, name: str) -> None:
    topics.ensure(**config.topics.wanted)
    source, there = topics.describe(name), topics.partitions()
    receipts_topic, parked = receipts.topic_of(name), parked_topic(name)
    if receipts_topic not in there:
        topics.create(receipts_topic, source.partitions, {"cleanup.policy": "compact"})
    if not topics.describe(receipts_topic).compacted:
        raise ReplayError(
            f"{receipts_topic} is not compacted: when a receipt expires, its dead letter could be sent again",
            hint=f"set cleanup.policy=compact on {receipts_topic}",
        )
    if parked not in there:
        # A parked record has failed in several replays. It must stay until a person looks at it.
        bytes_max = str(source.value_bytes_max)
        topics.create(parked, source.partitions, {"max.message.bytes": bytes_max, "retention.ms": "-1"})


def _topic_id(topics: Topics, there: dict[str, int], name: str) -> str:
    return topics.describe(name).id if name in there and not topics.is_mock() else ""


def _states(config: Config, reader: Reader, name: str) -> receipts.States:
    topics = Topics({"log_level": 0, **config.librdkafka})
    topic_id = _topic_id(topics, topics.partitions(), name)
    spans = reader.spans(name)
    # Do not wait for a replay that is running: only its committed transactions count.
    places = reader.committed(name, list(spans), stable=False)
    return receipts.States(receipts.read(reader, name, topic_id), receipts.floors(places, spans, topic_id))


def _one(reader: Reader, name: str, partition: int, offset: int) -> Iterator[DeadLetterRecord]:
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


@contextlib.contextmanager
def _reading(config: Config, *, group: str | None = None) -> Iterator[Reader]:
    reader = Reader(config.librdkafka, group=group or f"{config.name}.replay")
    try:
        yield reader
    finally:
        reader.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _write_line(line: str) -> None:
    data.write(line + "\n")
