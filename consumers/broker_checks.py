"""The broker checks of `doctor`: how a topic is replicated, and whether a topic could be created."""

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
    """A topic's replication: `insync_min` replicas must have a record before the producer gets an answer."""

    brokers: int
    replicas: int
    insync_min: int
    unclean: bool

    def weakness(self) -> str:
        """Say what the loss of one broker would do to the topic; "" for nothing."""
        if self.replicas == 1:
            return "it has one replica: if that broker loses its disk, the records are lost" if self.brokers > 1 else ""
        if self.insync_min >= self.replicas:
            return f"min.insync.replicas is {self.insync_min} of {self.replicas}: one broker down stops all writes"
        if self.insync_min == 1:
            return "min.insync.replicas is 1: Kafka may confirm a record that only one broker has"
        if self.unclean:
            return "unclean.leader.election.enable is on: a replica that lags may become the leader and lose records"
        return ""


class BrokerChecks:
    """Ask the broker, and change nothing. Raises SettingsRefused, and SourceError when the broker refuses."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._admin = admin(settings)

    def copies(self, topic: str) -> Copies:
        """Return a topic's replication."""
        try:
            brokers = len(self._admin.list_topics(timeout=_CALL_S).brokers)
            asked = self._admin.describe_topics(TopicCollection([topic]), request_timeout=_CALL_S)
            described = asked[topic].result()
            resource = ConfigResource(ResourceType.TOPIC, topic)
            settings = self._admin.describe_configs([resource], request_timeout=_CALL_S)[resource].result()
        except KafkaException as error:
            raise SourceError(
                f"Kafka does not describe the replicas of {topic}: {error.args[0].str()}",
                hint=f"give the user DESCRIBE and DESCRIBE_CONFIGS on {topic}",
            ) from error
        return Copies(
            brokers,
            len(described.partitions[0].replicas),
            int(settings["min.insync.replicas"].value),
            settings["unclean.leader.election.enable"].value == "true",
        )

    def check_create(self, topic: str, partitions: int) -> None:
        """Let the broker check, without creating the topic, that it would create it. Raises SourceError."""
        new = NewTopic(topic, num_partitions=partitions)
        try:
            self._admin.create_topics([new], request_timeout=_CALL_S, validate_only=True)[topic].result()
        except KafkaException as error:
            raise SourceError(
                f"there is no topic {topic}, and Kafka would not create it: {error.args[0].str()}",
                hint=f"create {topic} by hand, or give the user CREATE on it",
            ) from error


def admin(settings: Mapping[str, Any]) -> AdminClient:
    """Make an admin client that logs nothing. Raises SettingsRefused."""
    try:
        return AdminClient({**settings, "log_level": 0})
    except KafkaException as error:
        raise SettingsRefused(error.args[0].str()) from error
