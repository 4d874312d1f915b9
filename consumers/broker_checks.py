"""What `doctor` asks of a broker and the pipeline itself need not know: copies, and whether a topic may be made."""

from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from headrace.consumers.client_properties import SettingsRefused
from headrace.consumers.source import SourceError

_CALL_S = 5.0


class Copies(msgspec.Struct, frozen=True):
    """How a topic's records are kept: on how many brokers, and how many must have them before they count."""

    brokers: int
    replicas: int
    insync_min: int
    unclean: bool

    def weakness(self) -> str:
        """Say what the loss of one broker would do to the topic; empty where it does nothing."""
        if self.replicas == 1:
            return "it is kept on one broker only: what that broker loses is lost" if self.brokers > 1 else ""
        if self.insync_min >= self.replicas:
            return f"min.insync.replicas is {self.insync_min} of {self.replicas}: one broker down stops all writes"
        if self.insync_min == 1:
            return "min.insync.replicas is 1: a write may count while one broker alone has it"
        if self.unclean:
            return "unclean.leader.election.enable is on: a copy that lags may take over and lose records"
        return ""


class BrokerChecks:
    """Ask the broker, and change nothing. Raises SettingsRefused, and SourceError with what the broker refuses."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._admin = admin(settings)

    def copies(self, topic: str) -> Copies:
        """Return how a topic is kept."""
        try:
            brokers = len(self._admin.list_topics(timeout=_CALL_S).brokers)
            asked = self._admin.describe_topics(TopicCollection([topic]), request_timeout=_CALL_S)
            described = asked[topic].result()
            resource = ConfigResource(ResourceType.TOPIC, topic)
            settings = self._admin.describe_configs([resource], request_timeout=_CALL_S)[resource].result()
        except KafkaException as error:
            raise SourceError(
                f"Kafka does not tell how {topic} is kept: {error.args[0].str()}",
                hint=f"give the user DESCRIBE and DESCRIBE_CONFIGS on {topic}",
            ) from error
        return Copies(
            brokers,
            len(described.partitions[0].replicas),
            int(settings["min.insync.replicas"].value),
            settings["unclean.leader.election.enable"].value == "true",
        )

    def may_make(self, topic: str, partitions: int) -> None:
        """Have the broker check that it would make a topic, without making it."""
        new = NewTopic(topic, num_partitions=partitions)
        try:
            self._admin.create_topics([new], request_timeout=_CALL_S, validate_only=True)[topic].result()
        except KafkaException as error:
            raise SourceError(
                f"there is no topic {topic}, and Kafka would not make it: {error.args[0].str()}",
                hint=f"make {topic} by hand, or give the user CREATE on it",
            ) from error


def admin(settings: Mapping[str, Any]) -> AdminClient:
    """Make an admin client that keeps its own lines to itself. Raises SettingsRefused."""
    try:
        return AdminClient({**settings, "log_level": 0})
    except KafkaException as error:
        raise SettingsRefused(error.args[0].str()) from error
