"""What errors mean, and what a batch looks like on the wire of librdkafka's own mock cluster."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]

from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.process.failpoint import reach
from headrace.producers import sink
from headrace.producers.output import OutputRecords
from headrace.producers.sink import (
    BatchStale,
    OutcomeUnknown,
    PlainSink,
    Sink,
    SinkAway,
    SinkRefused,
    SinkTooLarge,
    TransactionalSink,
)

BOUND_S = 20.0
CALLS: list[str] = []


@contextlib.contextmanager
def deadline(name: str) -> Iterator[None]:
    CALLS.append(name)
    yield


def fault(code: int, *, abort: bool = False, retriable: bool = False) -> KafkaError:
    return KafkaError(code, "as the test says", False, retriable, abort)


@pytest.mark.parametrize(
    "code",
    ["ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "REBALANCE_IN_PROGRESS", "STALE_MEMBER_EPOCH"],
)
def test_a_group_that_has_moved_on_makes_the_batch_stale(code: str) -> None:
    assert type(sink._after_abort(fault(getattr(KafkaError, code)))) is BatchStale


@pytest.mark.parametrize("code", ["MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"])
def test_a_record_that_is_too_large_is_reported_with_the_topic_that_refused_it(code: str) -> None:
    error = sink._after_abort(fault(getattr(KafkaError, code)), topic="out")
    assert type(error) is SinkTooLarge
    assert (error.topic, error.status) == ("out", 413)


@pytest.mark.parametrize(
    "code",
    [
        "TOPIC_AUTHORIZATION_FAILED",
        "INVALID_RECORD",
        "INVALID_TIMESTAMP",
        "INVALID_REQUIRED_ACKS",
        "POLICY_VIOLATION",
        "UNSUPPORTED_COMPRESSION_TYPE",
        "INVALID_TRANSACTION_TIMEOUT",
    ],
)
def test_an_error_that_does_not_pass_is_refused_with_its_remedy(code: str) -> None:
    error = sink._after_abort(fault(getattr(KafkaError, code)))
    assert type(error) is SinkRefused
    assert error.hint


@pytest.mark.parametrize(
    "code",
    [
        "_TIMED_OUT",
        "_TRANSPORT",
        "NOT_ENOUGH_REPLICAS",
        "NOT_LEADER_FOR_PARTITION",
        "KAFKA_STORAGE_ERROR",
        "INVALID_PRODUCER_EPOCH",
    ],
)
def test_any_other_error_means_to_try_again(code: str) -> None:
    assert type(sink._after_abort(fault(getattr(KafkaError, code)))) is SinkAway
    assert type(sink._away_or_refused(KafkaException(fault(getattr(KafkaError, code))))) is SinkAway


@pytest.mark.parametrize(
    "code", ["TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "_AUTHENTICATION"]
)
def test_a_right_that_is_missing_is_named(code: str) -> None:
    error = sink._away_or_refused(KafkaException(fault(getattr(KafkaError, code))))
    assert type(error) is SinkRefused
    assert "WRITE" in error.hint


def test_the_statuses_are_those_of_the_contract() -> None:
    assert (SinkAway.status, BatchStale.status, OutcomeUnknown.status) == (503, 409, 503)
    codes = (KafkaError.INVALID_CONFIG, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert [SinkRefused("no", hint="change it", code=code).status for code in codes] == [400, 403]


class Cluster:
    """A mock cluster with three topics of its own for each test."""

    def __init__(self) -> None:
        self._host = AdminClient({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
        [broker] = self._host.list_topics(timeout=BOUND_S).brokers.values()
        self.settings = {"bootstrap.servers": f"{broker.host}:{broker.port}", "log_level": 0}
        self.topics: dict[str, str] = {}

    def fresh(self) -> "Cluster":
        name = uuid.uuid4().hex
        self.topics = {kind: f"{kind}-{name}" for kind in ("features", "predictions", "dead_letters")}
        asking = AdminClient({**self.settings, "allow.auto.create.topics": True})
        for topic in self.topics.values():
            asking.list_topics(topic, timeout=BOUND_S)
        return self

    @property
    def outputs(self) -> dict[str, str]:
        return {kind: self.topics[kind] for kind in ("predictions", "dead_letters")}

    @property
    def names(self) -> dict[str, Any]:
        return {"features": self.topics["features"], "outputs": self.outputs}

    def consumer(self, group: str = "g", **settings: Any) -> Consumer:
        return Consumer(
            {**self.settings, "group.id": group, "enable.auto.commit": False, "fetch.wait.max.ms": 10, **settings}
        )

    def read(self, kind: str, partition: int) -> list[tuple[bytes | None, bytes | None, Any]]:
        consumer = self.consumer(**{"enable.partition.eof": True, "auto.offset.reset": "earliest"})
        consumer.assign([TopicPartition(self.topics[kind], partition, 0)])
        found = []
        while True:
            message = consumer.poll(BOUND_S)
            assert message is not None, "the partition was not read to its end"
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                consumer.close()
                return found
            found.append((message.key(), message.value(), message.headers()))


def send(made: Sink, outputs: list[PartitionOutputs], membership: Any) -> None:
    made.send(outputs, membership)


@pytest.fixture(scope="module")
def host() -> Cluster:
    return Cluster()


@pytest.fixture
def cluster(host: Cluster) -> Cluster:
    return host.fresh()


@pytest.fixture
def transactional(cluster: Cluster) -> Iterator[TransactionalSink]:
    made = TransactionalSink(
        cluster.settings, transactional_id="fraud-0", deadline=deadline, reach=reach, **cluster.names
    )
    yield made
    made.close()


@pytest.fixture
def plain(cluster: Cluster) -> Iterator[PlainSink]:
    made = PlainSink(cluster.settings, outputs=cluster.outputs, deadline=deadline, reach=reach)
    yield made
    made.close()


ODD: list[tuple[bytes | None, bytes | None, Any]] = [
    (None, b"no key", [("a", b"1")]),
    (b"", b"an empty key", [("a", b"1")]),
    (b"k", None, [("a", b"1")]),
    (b"k", b"", [("a", b"1")]),
    (b"\xff\x00", b"\x00\xff", [("b", b"2"), ("a", b"1"), ("b", None), ("b", b""), ("é", b"\xff")]),
]


def letters(*messages: tuple[bytes | None, bytes | None, Any]) -> OutputRecords:
    records = OutputRecords()
    for message in messages:
        records.add(*message)
    return records


def given(
    partition: int, predictions: OutputRecords, dead_letters: OutputRecords, offset: int, mark: str
) -> PartitionOutputs:
    records = {"predictions": predictions, "dead_letters": dead_letters}
    return PartitionOutputs(partition, records, offset=offset, mark=mark)


def predictions(count: int) -> OutputRecords:
    """Some with headers and some without, which take two ways through the client."""
    parcel = OutputRecords()
    for index in range(count):
        traced = [("traceparent", b"%d" % index)] if index % 4 == 1 else None
        parcel.add(b"k%d" % (index % 3), b"p%d" % index, traced)
    return parcel


def test_a_transaction_holds_the_outputs_to_the_byte(transactional: TransactionalSink, cluster: Cluster) -> None:
    transactional.open()
    member = cluster.consumer("fraud")
    outputs = [
        given(0, predictions(10), letters(*ODD), 42, "mark 0"),
        given(1, OutputRecords(), letters(*ODD[:1]), 7, "mark 1"),
    ]
    send(transactional, outputs, member.consumer_group_metadata())
    assert cluster.read("dead_letters", 0) == ODD, "keys, values and headers to the byte, none for none"
    assert cluster.read("dead_letters", 1) == ODD[:1]
    found = cluster.read("predictions", 0)
    sent = predictions(10)
    assert [key for key, _, _ in found] == sent.keys
    assert [value for _, value, _ in found] == sent.values, "in order"
    assert [headers for _, _, headers in found] == [sent.headers.get(position) for position in range(10)]
    assert cluster.read("predictions", 1) == []
    member.close()


def test_batches_follow_one_another(transactional: TransactionalSink, cluster: Cluster) -> None:
    member = cluster.consumer("fraud")
    for number in range(1, 4):
        transactional.open()
        send(
            transactional, [given(0, predictions(2), letters(), number, f"m{number}")], member.consumer_group_metadata()
        )
        assert len(cluster.read("predictions", 0)) == 2 * number
    member.close()


def test_every_call_that_may_hang_has_a_deadline(transactional: TransactionalSink, cluster: Cluster) -> None:
    CALLS.clear()
    member = cluster.consumer("fraud")
    transactional.open()
    transactional.open()
    send(transactional, [given(0, predictions(1), letters(), 1, "")], member.consumer_group_metadata())
    assert CALLS == ["init_transactions", "send_offsets_to_transaction", "commit_transaction"]
    member.close()


def test_a_sink_that_is_not_open_does_not_know_the_outcome(transactional: TransactionalSink, cluster: Cluster) -> None:
    member = cluster.consumer("fraud")
    output = given(0, predictions(1), letters(), 1, "")
    with pytest.raises(OutcomeUnknown):
        send(transactional, [output], member.consumer_group_metadata())
    transactional.open()
    transactional.close()
    with pytest.raises(OutcomeUnknown):
        send(transactional, [output], member.consumer_group_metadata())
    assert cluster.read("predictions", 0) == []
    transactional.open()
    send(transactional, [output], member.consumer_group_metadata())
    assert len(cluster.read("predictions", 0)) == 1
    member.close()


def test_a_record_that_the_client_never_takes_is_refused_and_not_tried_for_ever(cluster: Cluster) -> None:
    small = {**cluster.settings, "message.max.bytes": 2_000}
    sinks = [
        TransactionalSink(small, transactional_id="fraud-1", deadline=deadline, reach=reach, **cluster.names),
        PlainSink(small, outputs=cluster.outputs, deadline=deadline, reach=reach),
    ]
    member = cluster.consumer("fraud")
    for made in sinks:
        for headers in (None, [("a", b"1")]):
            parcel = OutputRecords()
            parcel.add(b"k", b"x" * 3_000, headers)
            made.open()
            with pytest.raises(SinkTooLarge, match="too large"):
                send(made, [given(0, parcel, letters(), 1, "")], member.consumer_group_metadata())
        made.close()
    member.close()


def test_a_dead_letter_as_large_as_a_broker_takes_by_default_goes_out(
    transactional: TransactionalSink, cluster: Cluster
) -> None:
    """The client's own limit is 1,000,000 bytes, that of a broker 1,048,588, and a record may lie between."""
    member = cluster.consumer("fraud")
    transactional.open()
    letter = None, b"x" * 1_040_000, [("dlq.code", b"too_large")]
    send(transactional, [given(0, OutputRecords(), letters(letter), 1, "")], member.consumer_group_metadata())
    [(_, value, _)] = cluster.read("dead_letters", 0)
    assert value == letter[1]
    member.close()


def test_without_transactions_the_outputs_are_the_same(plain: PlainSink, cluster: Cluster) -> None:
    assert not plain.commits
    send(plain, [given(1, predictions(5), letters(*ODD), 42, "mark")], None)
    assert cluster.read("dead_letters", 1) == ODD
    assert [value for _, value, _ in cluster.read("predictions", 1)] == predictions(5).values


def test_a_property_that_librdkafka_does_not_know_is_refused() -> None:
    for made in (
        TransactionalSink(
            {"no.such": 1}, transactional_id="x", outputs={}, features="in", deadline=deadline, reach=reach
        ),
        PlainSink({"no.such": 1}, outputs={}, deadline=deadline, reach=reach),
    ):
        with pytest.raises(SinkRefused, match=r"no\.such"):
            made.open()
