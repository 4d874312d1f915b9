"""Which partition a key belongs to: as the clients of Kafka place it, checked by a real producer's partitioner."""

import pytest
from confluent_kafka import Producer

from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.models.hot_models import HotModels
from headrace.pipeline.serve.request_body import AskedRecord

KEYS = [f"customer-{n}".encode() for n in range(300)] + [b"", "naïve".encode(), b"\x00\xff"]


@pytest.mark.parametrize(("partitioner", "client"), [("murmur2", "murmur2_random"), ("crc32", "consistent_random")])
def test_a_key_is_placed_as_a_producer_places_it(partitioner: str, client: str) -> None:
    hot = HotModels(clock=lambda: 0.0, partitioner=partitioner, stale_max_s=None)
    hot.know(12)
    placed: dict[bytes, int] = {}
    producer = Producer({"test.mock.num.brokers": 1, "partitioner": client, "log_level": 0, "linger.ms": 0})
    producer.list_topics("t", timeout=10)

    def note(_error: object, message: object) -> None:
        placed[message.key()] = message.partition()  # type: ignore[attr-defined]

    for key in filter(None, KEYS):
        producer.produce("t", b"", key=key, on_delivery=note)
    assert producer.flush(20) == 0
    count = len(producer.list_topics("t", timeout=10).topics["t"].partitions)
    hot.know(count)
    assert len(placed) == len(KEYS) - 1
    assert {key: hot.partition_of(AskedRecord(b"", key)) for key in placed} == placed


def test_without_any_model_the_reason_is_said() -> None:
    hot = HotModels(clock=lambda: 0.0, partitioner="murmur2", stale_max_s=None)
    hot.reason = "the store does not answer"
    for record in (AskedRecord(b""), AskedRecord(b"", b"key"), AskedRecord(b"", None, 2)):
        problem = hot.choose(record)
        assert isinstance(problem, Problem)
        assert (problem.status, problem.code) == (503, "no_model")
        assert "the store does not answer" in problem.detail
