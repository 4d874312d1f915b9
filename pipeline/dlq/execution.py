"""Replays dead letters on the real topics, for `headrace dlq replay` and for the page.

It creates what a replay needs, takes the secrets that sign the records, and runs `Replay` with its clients.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from headrace.consumers.reader import Reader
from headrace.consumers.topics import BATCH_BYTES_MAX, Topics
from headrace.pipeline.config.config import Config
from headrace.pipeline.dlq import receipts
from headrace.pipeline.dlq.dead_letters import Selection
from headrace.pipeline.dlq.original import Originals
from headrace.pipeline.dlq.replay import Edit, Replay, ReplayError, Route, Summary, parked_topic
from headrace.pipeline.recovery import offset_metadata
from headrace.producers.writer import Writer


def now_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def reading(config: Config, *, group: str | None = None) -> Iterator[Reader]:
    """Provide a reader, by default as the group that has the offsets of replays."""
    reader = Reader(config.librdkafka, group=group or f"{config.name}.replay")
    try:
        yield reader
    finally:
        reader.close()


def send(
    config: Config,
    route: Route,
    selection: Selection,
    *,
    edit: Edit | None,
    execute: bool,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    broken: Callable[[Summary], None] = lambda _summary: None,
) -> Summary:
    """Replay the selected dead letters. Return the counts of the replay.

    Without `execute` nothing is sent, and the counts are those that a replay would have. If an error ends a replay that
    has sent records, `broken` is called with the counts up to there. Raises ReplayError and the errors of Reader and
    Writer.
    """
    with reading(config) as reader, reading(config) as originals:
        writer = _writer(config, route) if execute else None
        run = Replay(
            reader,
            originals=Originals(originals),
            route=route,
            selection=selection,
            replay_max=config.dlq.replay_max,
            edit=edit,
            writer=writer,
            now_ms=now_ms,
            progress=progress,
        )
        try:
            if writer is not None:
                writer.open()
            run.run()
        except BaseException:
            if writer is not None and run.summary.sent + run.summary.parked:
                broken(run.summary)
            raise
        finally:
            if writer is not None:
                writer.close()
    return run.summary


def plan(config: Config, name: str, *, execute: bool, foreign: bool) -> Route:
    """Describe the topics of a replay of the dead letters in the topic `name`; create missing ones to `execute` it.

    Raises ReplayError and the errors of Topics.
    """
    features, topics = config.topics.features, Topics({"log_level": 0, **config.librdkafka})
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
        topic_id=topic_id_of(topics, there, name),
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
    with reading(config, group=config.name) as reader:
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


def topic_id_of(topics: Topics, there: dict[str, int], name: str) -> str:
    """Return the id of a topic of those that are there; empty if it is not, or on a mock cluster."""
    return topics.describe(name).id if name in there and not topics.is_mock() else ""


def _writer(config: Config, route: Route) -> Writer:
    batch_bytes_max = min(route.bytes_max.values(), default=None)
    return Writer(config.librdkafka, transactional_id=f"{config.name}.replay", batch_bytes_max=batch_bytes_max)
