"""Which dead letters are a pipeline's own."""

from collections.abc import Callable
from typing import Any

import pytest

from headrace.consumers.record import Record
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord
from headrace.pipeline.dlq.replay import Route
from headrace.producers.replay_proof import NEVER, ReplayClaim, sign

Headers = list[tuple[str, bytes | None]]
ROUTE = Route(
    topic="shared",
    topic_id="1",
    features="orders",
    features_partitions=2,
    labels="truths",
    receipts_partitions=1,
    parked_partitions=1,
    group="fraud",
    secrets={0: "0f" * 16},
    is_own=False,
)
DIALECTS: dict[str, Callable[[bytes], Headers]] = {
    "headrace": lambda topic: [("__dlq.errors.topic", topic), ("__dlq.errors.partition", b"0")],
    "connect": lambda topic: [("__connect.errors.topic", topic), ("__connect.errors.connector.name", b"sink")],
    "streams": lambda topic: [("__streams.errors.topic", topic)],
    "spring": lambda topic: [("kafka_dlt-original-topic", topic)],
}


def _letter(headers: Any) -> DeadLetterRecord:
    return DeadLetterRecord.of(Record(0, 7, 5, b"k", b"v", headers))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dead_letter_of_another_topic_is_foreign_in_every_dialect(dialect: str) -> None:
    make = DIALECTS[dialect]
    assert ROUTE.owns(_letter(make(b"orders")))
    assert ROUTE.owns(_letter(make(b"truths")))
    for topic in (b"payments", b"orders.old", b"Orders", b"\xff"):
        assert not ROUTE.owns(_letter(make(topic)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_headers_of_the_record_itself_do_not_make_a_dead_letter_this_pipelines_own(dialect: str) -> None:
    """It was a dead letter of this pipeline before, was sent on, and refused by another system elsewhere."""
    earlier = [header for make in DIALECTS.values() for header in make(b"orders")]
    assert not ROUTE.owns(_letter([*earlier, *DIALECTS[dialect](b"payments")]))


def test_a_dead_letter_without_a_topic_belongs_to_the_pipeline_only_in_its_own_dead_letter_topic() -> None:
    assert not ROUTE.owns(_letter(None))
    own = Route(**{name: getattr(ROUTE, name) for name in Route.__struct_fields__ if name != "is_own"})
    assert own.owns(_letter(None))
    assert not own.owns(_letter(DIALECTS["streams"](b"payments")))


FORGED: Headers = [("dlq.replay.count", b"99"), ("dlq.learned", b"true"), ("dlq.replay.proof", b"0" * 64)]


def test_this_pipelines_own_dead_letters_tell_how_often_they_were_replayed() -> None:
    told: Headers = [*FORGED[:2], *DIALECTS["headrace"](b"orders"), ("__dlq.errors.group", b"fraud")]
    assert ROUTE.claim(_letter(told)) == ReplayClaim(99, learned=True)
    assert ROUTE.claim(_letter([*told, ("__dlq.errors.group", b"another")])) == NEVER


@pytest.mark.parametrize("dialect", ["connect", "streams"])
def test_of_another_systems_dead_letter_only_signed_headers_count(dialect: str) -> None:
    place = [*DIALECTS[dialect](b"orders"), (f"__{dialect}.errors.partition", b"0")]
    assert ROUTE.claim(_letter([*FORGED, *place])) == NEVER
    signed = sign(ReplayClaim(2, learned=True), secret="0f" * 16, topic="orders", partition=0, key=b"k", value=b"v")
    assert ROUTE.claim(_letter([*signed, *place])) == ReplayClaim(2, learned=True)
    assert ROUTE.claim(_letter([*signed, *place, ("dlq.replay.count", b"1")])) == NEVER
