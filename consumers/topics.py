"""Describes the pipeline's topics, creates those that are missing, and checks that they fit together."""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from headrace.consumers.client_properties import RECONNECTION, refusal
from headrace.consumers.consumer_errors import meaning_of
from headrace.consumers.source import SourceAway, SourceDenied, SourceError

_CALL_S = 5.0
_REACH_S = 2.0
# Short, since a batch waits for it: a broker that is up answers within milliseconds.
_IDS_S = 1.0
# It connects to one broker at a time, and to another only when that does not answer. One that is frozen still accepts
# connections, so the first reply decides.
_SOON = {"api.version.request.timeout.ms": 2_000, "socket.timeout.ms": 5_000}
_MADE_S = 30.0
_MOCK_BYTES_MAX = 1_000_000
_DENIED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
_URL_SAFE = str.maketrans("+/", "-_")
_NO_ID = "A" * 22
# The settings of a topic that keeps all records.
_LASTING = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

BATCH_BYTES_MAX = 1_048_588
"""Kafka's default for max.message.bytes."""
TopicSettings = Callable[[int], Mapping[str, str]]
"""Gives the settings with which a topic is created, from the `max.message.bytes` of the features topic."""
OnCreated = Callable[[str], None]
"""Called with the name of a topic that was created."""


def _untold(_name: str) -> None:
    """Tell nobody."""


class Topic(msgspec.Struct, frozen=True):
    """A topic as the broker describes it. `id` changes when the topic is deleted and created again; "" is unknown.

    `labels` is the labels topic of this features topic, if there is one.
    """

    name: str
    partitions: int
    id: str
    value_bytes_max: int
    compacted: bool
    labels: "Topic | None" = None


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


class Topics:
    """The admin requests about topics, each with a timeout.

    They raise SourceAway when the broker does not answer, and SourceError when it refuses. Raises SettingsRefused and
    TokenMissing.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._admin = admin_client(settings)

    def is_mock(self) -> bool:
        """Tell whether this is librdkafka's mock cluster, which has no transactions and answers no admin request."""
        return str(self._listed(_CALL_S).cluster_id).startswith("mockCluster")

    def partitions(self) -> dict[str, int]:
        """Return the number of partitions of every topic."""
        topics = self._listed(_CALL_S).topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def reach(self) -> bool:
        """Return when Kafka answers; raise SourceAway soon if it does not, since a person waits for the reason."""
        return bool(self._listed(_REACH_S).brokers)

    def _listed(self, timeout_s: float) -> Any:
        try:
            return self._admin.list_topics(timeout=timeout_s)
        except KafkaException as error:
            raise self._fault(error, "") from error

    def describe(self, name: str) -> Topic:
        """Return one topic as the broker describes it."""
        try:
            topic, settings = self._described(name)
        except KafkaException as error:
            raise self._fault(error, name) from error
        return Topic(
            name,
            len(topic.partitions),
            _id_of(topic),
            int(settings["max.message.bytes"].value),
            "compact" in settings["cleanup.policy"].value,
        )

    def copies(self, name: str) -> Copies:
        """Return a topic's replication. Raises SourceError."""
        try:
            brokers = len(self._admin.list_topics(timeout=_CALL_S).brokers)
            topic, settings = self._described(name)
        except KafkaException as error:
            raise SourceError(
                f"Kafka does not describe the replicas of {name}: {error.args[0].str()}",
                hint=f"give the user DESCRIBE and DESCRIBE_CONFIGS on {name}",
            ) from error
        return Copies(
            brokers,
            len(topic.partitions[0].replicas),
            int(settings["min.insync.replicas"].value),
            settings["unclean.leader.election.enable"].value == "true",
        )

    def _described(self, name: str) -> tuple[Any, Any]:
        """Return the broker's description of a topic, and its settings."""
        topic = self._admin.describe_topics(TopicCollection([name]), request_timeout=_CALL_S)[name].result()
        resource = ConfigResource(ResourceType.TOPIC, name)
        return topic, self._admin.describe_configs([resource], request_timeout=_CALL_S)[resource].result()

    def limits(self, *names: str) -> dict[str, int]:
        """Return the largest batch of records that each topic takes, in bytes.

        A topic whose settings this user may not read is left out.
        """
        if self.is_mock():
            return dict.fromkeys(names, BATCH_BYTES_MAX)
        resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in names}
        asked = self._admin.describe_configs(list(resources.values()), request_timeout=_CALL_S)
        found = {}
        for name, resource in resources.items():
            try:
                settings = asked[resource].result()
                # A batch must fit one segment of the log.
                found[name] = min(int(settings[key].value) for key in ("max.message.bytes", "segment.bytes"))
            except KafkaException as error:
                if error.args[0].code() not in _DENIED:
                    raise self._fault(error, name) from error
        return found

    def ids(self, names: Collection[str]) -> dict[str, str]:
        """Return the ids of the topics that exist. After an error the next call asks the present controller."""
        asked = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=_IDS_S)
        found: dict[str, str] = {}
        for name in names:
            try:
                found[name] = _id_of(asked[name].result())
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    self._find_controller(name)
                    raise self._fault(error, name) from error
        return found

    def _find_controller(self, name: str) -> None:
        """Make the client look for the cluster's controller: by itself it waits for the one that it knew."""
        with contextlib.suppress(KafkaException):
            self._admin.list_topics(name, timeout=_IDS_S)

    def identify(self, features: str, labels: str | None) -> Topic:
        """Return the topics with their names and ids alone; the id of a missing topic is empty."""
        found = self.ids([features] if labels is None else [features, labels])
        named = [
            None if name is None else Topic(name, 0, found.get(name, ""), 0, compacted=False)
            for name in (features, labels)
        ]
        assert named[0] is not None
        return msgspec.structs.replace(named[0], labels=named[1])

    def ensure(
        self,
        *,
        features: str,
        outputs: Mapping[str, TopicSettings],
        labels: str | None = None,
        partitions: int,
        on_created: OnCreated = _untold,
    ) -> Topic:
        """Make the topics that are missing, and check that those that are there fit together.

        A missing features topic gets `partitions`; the others get as many as the features have. `outputs` are the
        settings of each output topic, by its name. `on_created` is called with the name of each topic that was made.
        """
        inputs = [features] if labels is None else [features, labels]
        if self.is_mock():
            return self._touch(*inputs, *outputs)
        there = self.partitions()
        if features not in there:
            self.create(features, partitions, on_created=on_created)
        source = self._describe_input(features)
        if labels is not None:
            if labels not in there:
                self.create(labels, source.partitions, on_created=on_created)
            source = msgspec.structs.replace(source, labels=self._describe_labels(labels, source))
        for name, settings in outputs.items():
            if name not in there:
                self.create(name, source.partitions, settings(source.value_bytes_max), on_created=on_created)
        found = {name: there[name] for name in outputs if name in there}
        self._fit(source, found)
        for name in found:
            self._check_output(name)
        return source

    def ensure_lasting(self, names: Sequence[str], partitions: int, *, on_created: OnCreated = _untold) -> str:
        """Make topics that keep all records, where they are missing; return why they can't be used, or an empty text.

        Raises SourceAway.
        """
        if self.is_mock():
            return "the mock cluster keeps no topics"
        try:
            there = self.partitions()
            for name in names:
                if name not in there:
                    self.create(name, partitions, _LASTING, on_created=on_created)
                elif there[name] != partitions:
                    return f"{name} has {there[name]} partitions, and the features topic has {partitions}"
            return self._fleeting([name for name in names if name in there])
        except SourceError as error:
            return f"{error}; {error.hint}"

    def _fleeting(self, names: Sequence[str]) -> str:
        """Return which of these topics may lose records, and why; an empty text if all keep them."""
        resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in names}
        asked = self._admin.describe_configs(list(resources.values()), request_timeout=_CALL_S) if names else {}
        for name, resource in resources.items():
            try:
                settings = asked[resource].result()
            except KafkaException as error:
                raise self._fault(error, name) from error
            for key, wanted in _LASTING.items():
                if (found := settings[key].value) != wanted:
                    return f"{name} has {key}={found}, and needs {wanted} (kafka-configs --alter)"
        return ""

    def _check_output(self, name: str) -> None:
        try:
            is_compacted = self.describe(name).compacted
        except SourceError:
            # A user with the right to write may lack the right to describe.
            return
        if is_compacted:
            raise SourceError(
                f"the topic {name} is compacted: Kafka refuses a record without a key there, and keeps only the last "
                "record of each key",
                hint=f"set cleanup.policy=delete on {name}, or name another topic",
            )

    def _describe_input(self, name: str) -> Topic:
        topic = self.describe(name)
        if topic.compacted:
            raise SourceError(
                f"the topic {name} is compacted: Kafka deletes records that a model has learned and may have to learn "
                "again",
                hint=f"set cleanup.policy=delete on {name}",
            )
        return topic

    def _describe_labels(self, name: str, source: Topic) -> Topic:
        labels = self._describe_input(name)
        if labels.partitions != source.partitions:
            raise SourceError(
                f"{name} has {labels.partitions} partitions and {source.name} has {source.partitions}; "
                "a label must come in the partition of its features",
                hint="give both the same number of partitions (kafka-topics --alter can only add some); "
                "the partitions of most keys change with it",
            )
        return labels

    def create(
        self,
        name: str,
        partitions: int,
        settings: Mapping[str, str] | None = None,
        *,
        on_created: OnCreated = _untold,
    ) -> None:
        """Create a topic, if it does not exist, and wait until the broker lists it."""
        topic = NewTopic(name, num_partitions=partitions, config=dict(settings or {}))
        try:
            self._admin.create_topics([topic], request_timeout=_CALL_S)[name].result()
            on_created(name)
        except KafkaException as error:
            # Another worker may have created it meanwhile.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._fault(error, name) from error
        _wait(lambda: self._is_listed(name, partitions), f"the topic {name} to be made")

    def _is_listed(self, name: str, partitions: int) -> bool:
        """Return whether the broker lists a topic with its partitions. Raises SourceDenied if it would never do so."""
        if self.partitions().get(name, 0) >= partitions:
            return True
        with contextlib.suppress(SourceAway):
            self.describe(name)
        return False

    def check_create(self, name: str, partitions: int) -> None:
        """Let the broker check, without creating the topic, that it would create it. Raises SourceError."""
        new = NewTopic(name, num_partitions=partitions)
        try:
            self._admin.create_topics([new], request_timeout=_CALL_S, validate_only=True)[name].result()
        except KafkaException as error:
            raise SourceError(
                f"there is no topic {name}, and Kafka would not create it: {error.args[0].str()}",
                hint=f"create {name} by hand, or give the user CREATE on it",
            ) from error

    def _touch(self, features: str, *outputs: str) -> Topic:
        # The mock cluster creates a topic only when a client with this property asks about it.
        client = AdminClient({**self._settings, "allow.auto.create.topics": True})
        found = {name: client.list_topics(name, timeout=_CALL_S) for name in (features, *outputs)}
        return Topic(features, len(found[features].topics[features].partitions), "", _MOCK_BYTES_MAX, compacted=False)

    def _fit(self, source: Topic, outputs: Mapping[str, int]) -> None:
        for name, count in outputs.items():
            if count < source.partitions:
                raise SourceError(
                    f"{name} has {count} partitions and {source.name} has {source.partitions}; "
                    "a record keeps its partition from one to the other",
                    hint=f"give {name} {source.partitions} partitions (kafka-topics --alter)",
                )

    def _fault(self, error: KafkaException, name: str) -> Exception:
        # Only a poll calls `error_cb`, which is told why there is no connection.
        self._admin.poll(0)
        fault = error.args[0]
        meaning = meaning_of(fault.code())
        if meaning not in {"right", "setting"}:
            return SourceAway(f"Kafka does not answer{name and f' about {name}'}: {fault.str()}")
        return (SourceDenied if meaning == "right" else SourceError)(
            f"Kafka refuses what {name or 'the pipeline'} needs: {fault.str()}",
            hint=f"create {name} by hand, or give the user CREATE and DESCRIBE on it",
        )


def admin_client(settings: Mapping[str, Any]) -> AdminClient:
    """Make an admin client. Raises SettingsRefused, TokenMissing."""
    try:
        return AdminClient({**RECONNECTION, **_SOON, **settings})
    except KafkaException as error:
        raise refusal(error) from error


def _id_of(described: Any) -> str:
    """Return a topic's id as Kafka's own tools print it; "" from a broker without topic ids."""
    id_ = str(described.topic_id).translate(_URL_SAFE)
    return "" if id_ == _NO_ID else id_


def _wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _MADE_S
    while not done():
        if time.monotonic() > until:
            raise SourceAway(f"waited {_MADE_S:.0f} s for {what}")
        time.sleep(0.05)
