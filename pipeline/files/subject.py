"""What a command is asked to read: a file, or a topic if there is no such file."""

import difflib
from pathlib import Path

from headrace.consumers.topics import Topics
from headrace.pipeline.config.config import Config
from headrace.pipeline.hinted_error import HintedError

_ENDINGS = frozenset((".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".gz"))


class SubjectMissing(HintedError):
    """Raised when there is neither such a file nor such a topic, or when it has no records."""


def is_file(subject: str) -> bool:
    """Tell whether a subject is a file; "-" is standard input. Raises SubjectMissing for a file that is not there."""
    file = Path(subject)
    if subject == "-" or file.exists():
        return True
    if len(file.parts) > 1 or file.suffix in _ENDINGS:
        raise SubjectMissing(f"there is no file {subject}", hint="check the path, or name a topic")
    return False


def missing_topic(config: Config, topic: str) -> SubjectMissing | None:
    """Return the error for a topic that Kafka does not have; None for one that it has. Raises SourceAway."""
    partitions = Topics({"log_level": 0, **config.librdkafka}).partitions()
    if topic in partitions:
        return None
    near = difflib.get_close_matches(topic, partitions, n=1)
    hint = f"did you mean {near[0]}?" if near else "check its name, and kafka.bootstrap_servers"
    return SubjectMissing(f"there is no topic {topic}", hint=hint)
