"""The two topics beside the stream: the operator's commands, and the journal of what was done to the models."""

import msgspec
import structlog

from headrace.consumers.topics import OnCreated, Topics
from headrace.pipeline.config.config import Config

log = structlog.get_logger("headrace")


class ControlTopics(msgspec.Struct, frozen=True):
    """The names of both topics. With a `fault`, which says why, no commands are taken.

    `is_new` says that the journal is empty, since it was just created.
    """

    control: str
    journal: str
    fault: str = ""
    is_new: bool = False


def ensure(config: Config, topics: Topics, *, partitions: int, on_created: OnCreated) -> ControlTopics:
    """Create the topics that are missing; note why they can't be used. Raises SourceAway."""
    names = config.control_topic, config.journal_topic
    created: list[str] = []

    def note(name: str) -> None:
        created.append(name)
        on_created(name)

    fault = topics.ensure_lasting(names, partitions, on_created=note)
    return ControlTopics(*names, fault=fault, is_new=names[1] in created)


def tell(topics: ControlTopics, *, guarantee: str) -> None:
    """Log once a run whether commands are taken, where that is not as usual."""
    if topics.fault:
        log.warning("commands on models are off", reason=topics.fault)
    elif guarantee != "exactly-once":
        log.info(
            "commands on models are done once, but after a crash the journal may hold an entry twice",
            journal=topics.journal,
            guarantee=guarantee,
        )
