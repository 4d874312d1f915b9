"""`headrace tail`: the last predictions or dead letters, and with `-f` the new ones, one JSON line each."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from headrace.consumers.reader import Reader, Span
from headrace.consumers.record import Record
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import data
from headrace.pipeline.dlq.dead_letters import DeadLetterError, envelope
from headrace.pipeline.formats import ValueText

_WAIT_S = 0.25


def tail(
    config: Config,
    *,
    which: Literal["predictions", "dlq"],
    n: int = 10,
    follow: bool = False,
    json: bool = False,  # noqa: ARG001 the lines are always JSON
    topic: str | None = None,
) -> int:
    """Print the last `n` records of a topic, over all partitions, oldest first; return the exit code.

    With `follow`, go on with new records until an interrupt. Raises ReaderAway, DeadLetterError, and
    the errors of the schema registry for predictions in another format than JSON.
    """
    name = topic or (config.topics.predictions if which == "predictions" else config.topics.dead_letters)
    text = ValueText(config, config.predictions.format)
    line = partial(_value, text) if which == "predictions" else _envelope
    reader = Reader(config.librdkafka, group=f"{config.name}.reader")
    try:
        spans = reader.spans(name)
        if not spans and (follow or topic):
            raise DeadLetterError(
                f"there is no topic {name}", hint="`headrace run` and `headrace produce` create the configured topics"
            )
        for record in reader.last(name, spans, n):
            _print(line(name, record))
        if follow:
            _follow(reader, name, spans, line)
    except KeyboardInterrupt:
        if not follow:
            raise
    finally:
        reader.close()
    return 0


def _follow(reader: Reader, topic: str, spans: dict[int, Span], line: Callable[[str, Record], bytes]) -> None:
    reader.watch({(topic, partition): span.end for partition, span in spans.items()})
    while True:
        for _, record in reader.poll(wait_s=_WAIT_S):
            _print(line(topic, record))


def _value(text: ValueText, _topic: str, record: Record) -> bytes:
    return text.of(record)


def _envelope(topic: str, record: Record) -> bytes:
    return msgspec.json.encode(envelope(topic, record))


def _print(line: bytes) -> None:
    # Flush each line: the reader of a pipe waits for it.
    data.write(line.decode(errors="replace") + "\n")
    data.flush()
