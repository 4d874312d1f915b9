"""A third output, declared in one place: its topic is created, checked by doctor, and written in the transaction."""

import contextlib
import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]
from harness import Project, wait_until
from pydantic import Field
from river import linear_model

from headrace.consumers.record import Record
from headrace.consumers.source import SourceError
from headrace.consumers.topics import Topics
from headrace.pipeline import assembly
from headrace.pipeline.commands.doctor import CheckResult, examine
from headrace.pipeline.config.config import Config
from headrace.pipeline.config.sections import TopicsConfig
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.process.failpoint import reach
from headrace.producers.output import OutputTopic
from headrace.producers.sink import Sink
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard

HOUR_MS = 3_600_000


class AlertTopics(TopicsConfig):
    """The topics, and one more: this key is all that a new output needs."""

    alerts: Annotated[str, OutputTopic(retention_ms=HOUR_MS, optional=True)] = Field(
        "", description="Topic of the alerts."
    )


class AlertConfig(Config):
    """A configuration with that topic."""

    topics: AlertTopics = AlertTopics()


class Stopped(Exception):
    """Raised instead of a permit to commit."""

    status = 409


@pytest.fixture
def project_of_three(project: Callable[..., Project]) -> tuple[Project, AlertConfig]:
    p = project()
    topics = {"features": p.features, "predictions": p.predictions, "alerts": f"{p.name}.alerts"}
    kafka, redis = p.stack.addresses.kafka, p.stack.addresses.redis
    config = AlertConfig(
        name=p.name,
        directory=p.directory,
        kafka={"bootstrap_servers": kafka},
        redis={"url": redis},
        topics=topics,
    )
    return p, config


def _told(config: Config, topic: str) -> list[CheckResult]:
    return [found for found in examine(lambda: config) if found.check == "topics" and found.message.startswith(topic)]


def _learned(config: Config) -> PartitionOutputs:
    """Run the engine over a good record and a bad one, and raise an alert."""
    shard = Shard(UndoableModel(RiverLearner(linear_model.LogisticRegression())), partition=1, start=0)
    records = [
        Record(1, offset, 5, b"k", value, None) for offset, value in enumerate((b'{"features": {"a": 1}}', b"{"))
    ]
    outputs = assembly.engine(config, batches=False).run(shard, records, now_ms=5)
    outputs.offset, outputs.mark = 2, "mark"
    alerts = outputs.records["alerts"]
    alerts.add(b"k", b"accuracy fell", [("level", b"high")])
    alerts.add(None, b"accuracy is back")
    return outputs


def _sink(config: Config) -> Sink:
    limits = assembly.size_limits(config, Topics(config.librdkafka))
    assert limits.of("alerts") == 1_048_588, "Kafka's default for max.message.bytes"
    return assembly.sink(
        config,
        config.librdkafka,
        outputs=config.topics.outputs,
        ordinal=0,
        is_mock=False,
        limits=limits,
        deadline=lambda _name: contextlib.nullcontext(),
        reach=reach,
    )


def test_a_declared_output_is_created_and_checked(project_of_three: tuple[Project, AlertConfig]) -> None:
    _, config = project_of_three
    topics, name = Topics(config.librdkafka), config.topics.alerts
    [before] = _told(config, name)
    assert (before.verdict, "is not there" in before.message) == ("good", True)
    topics.ensure(**config.topics.wanted)
    assert topics.describe(name).partitions == 2
    resource = ConfigResource(ResourceType.TOPIC, name)
    admin = AdminClient(config.librdkafka)
    settings = admin.describe_configs([resource])[resource].result(10)
    assert settings["retention.ms"].value == str(HOUR_MS)
    [after] = _told(config, name)
    assert (after.verdict, after.message) == ("good", f"{name} has 2 partitions")


def test_a_declared_output_with_too_few_partitions_is_named(project_of_three: tuple[Project, AlertConfig]) -> None:
    _, config = project_of_three
    topics, name = Topics(config.librdkafka), config.topics.alerts
    topics.create(name, 1)
    with pytest.raises(SourceError, match=rf"{name} has 1 partitions"):
        topics.ensure(**config.topics.wanted)
    [found] = _told(config, name)
    assert (found.verdict, found.hint) == ("wrong", f"give {name} 2 partitions (kafka-topics --alter)")


def test_a_declared_output_is_in_the_transaction(project_of_three: tuple[Project, AlertConfig]) -> None:
    p, config = project_of_three
    Topics(config.librdkafka).ensure(**config.topics.wanted)
    sink, outputs = _sink(config), _learned(config)
    member = Consumer({**p.client, "group.id": p.name})

    def stop() -> None:
        raise Stopped

    def sent() -> list[Any]:
        names = (config.topics.alerts, p.predictions, p.dead_letters)
        return [[(m.key(), m.value(), m.headers()) for m in p.read(name)[1]] for name in names]

    sink.open()
    with pytest.raises(Stopped):
        sink.send([outputs], member.consumer_group_metadata(), stop)
    assert sent() == [[], [], []], "aborted with all else"
    sink.open()
    sink.send([outputs], member.consumer_group_metadata())
    # The broker confirms a commit before readers see it.
    alerts, [prediction], [letter] = wait_until(lambda: all(found := sent()) and found, what="all outputs")
    assert alerts == [(b"k", b"accuracy fell", [("level", b"high")]), (None, b"accuracy is back", None)]
    assert (json.loads(prediction[1])["source"]["offset"], letter[1]) == (0, b"{")
    assert [offset for offset, _ in p.committed().values()] == [-1001, 2]
    sink.close()
    member.close()
