"""The mock broker of librdkafka, for machines on which Apache Kafka can't be downloaded."""

from confluent_kafka import KafkaException

from headrace.pipeline.embedded.kafka import silent_admin
from headrace.pipeline.embedded.server import EmbeddedError

START_S = 10.0
LIMITS = (
    "using the mock broker of librdkafka, because {why}: at-least-once only, "
    "and it forgets old records, and all of them at the end"
)


class Mock:
    """A mock cluster that listens on a loopback port while this object exists."""

    def __init__(self) -> None:
        """Start the cluster; raise EmbeddedError."""
        self._host = silent_admin({"test.mock.num.brokers": 1, "bootstrap.servers": ""})
        try:
            brokers = self._host.list_topics(timeout=START_S).brokers.values()
        except KafkaException as error:
            raise EmbeddedError(
                f"the mock broker did not start: {error}", hint="try again, or use a Kafka of your own"
            ) from error
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
