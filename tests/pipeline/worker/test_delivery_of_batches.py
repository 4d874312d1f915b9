"""A batch from learned to confirmed: what is sent is fixed at the first try, and is the same at each further one."""

import json
from typing import Any

import pytest
from loop_rig import Loop, MemoryWebhook, records
from memory_kafka import Kafka

from headrace.consumers.source import Committed, SourceAway
from headrace.producers.sink import BatchStale, OutcomeUnknown, SinkAway, SinkTooLarge
from headrace.producers.webhook import WebhookAway
from headrace.state.store.store import Store


@pytest.fixture
def loop(kafka: Kafka, store: Store) -> Loop:
    made = Loop(kafka, store)
    made.take()
    return made


def send(loop: Loop, batch: Any) -> None:
    loop.delivery.start(batch)
    loop.delivery.finish(batch)


def told(kafka: Kafka) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kafka.offsets[0].metadata)
    return found


def test_outputs_offset_and_mark_are_sent_together(loop: Loop, kafka: Kafka) -> None:
    batch = loop.learn(10)
    assert kafka.offsets == {}
    send(loop, batch)
    assert kafka.predicted() == list(range(10))
    assert kafka.offsets[0].offset == 10
    assert (told(kafka)["o"], told(kafka)["r"], told(kafka)["x"]) == (10, 10, 0)


def test_a_batch_is_fixed_at_the_first_try_although_the_shard_moves_on(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", SinkAway("gone"))
    batch = loop.learn(10)
    with pytest.raises(SinkAway):
        send(loop, batch)
    loop.learn(10)
    send(loop, batch)
    assert (kafka.predicted(), kafka.offsets[0].offset, told(kafka)["r"]) == (list(range(10)), 10, 10)


def test_a_batch_of_an_older_membership_is_stale(loop: Loop, kafka: Kafka) -> None:
    batch = loop.learn(10)
    kafka.generation += 1
    with pytest.raises(BatchStale):
        send(loop, batch)
    assert kafka.offsets == {}


def test_of_an_end_that_was_not_heard_of_the_offsets_tell(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("sent", OutcomeUnknown("no answer"))
    batch = loop.learn(10)
    with pytest.raises(OutcomeUnknown):
        send(loop, batch)
    send(loop, batch)
    assert kafka.predicted() == list(range(10)), "it was there"
    assert kafka.calls.count("send") == 1


def test_a_batch_that_was_not_committed_is_sent_again(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", OutcomeUnknown("no answer"))
    batch = loop.learn(10)
    with pytest.raises(OutcomeUnknown):
        send(loop, batch)
    send(loop, batch)
    assert (kafka.predicted(), kafka.calls.count("send")) == (list(range(10)), 2)


def test_offsets_that_are_neither_before_nor_behind_the_batch_are_anothers(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("send", OutcomeUnknown("no answer"))
    batch = loop.learn(10)
    with pytest.raises(OutcomeUnknown):
        send(loop, batch)
    kafka.offsets[0] = Committed(5, "another's")
    with pytest.raises(BatchStale):
        loop.delivery.start(batch)


def test_an_offset_at_the_batchs_end_with_another_mark_is_anothers(loop: Loop, kafka: Kafka) -> None:
    kafka.fail("sent", OutcomeUnknown("no answer"))
    batch = loop.learn(10)
    with pytest.raises(OutcomeUnknown):
        send(loop, batch)
    kafka.offsets[0] = Committed(10, "another's")
    with pytest.raises(BatchStale):
        loop.delivery.start(batch)


def test_a_batch_that_a_topic_refuses_for_its_size_is_made_smaller_before_it_is_sent_again(
    loop: Loop, kafka: Kafka
) -> None:
    kafka.fail("send", SinkTooLarge("too large", topic="predictions"))
    batch = loop.learn(10)
    with pytest.raises(SinkAway):
        send(loop, batch)
    assert kafka.offsets == {}
    send(loop, batch)
    sent, refused = kafka.predicted(), kafka.letters[0]
    assert refused
    assert sorted(sent + refused) == list(range(10)), "each record has one outcome"
    assert (told(kafka)["p"], told(kafka)["d"]) == (len(sent), len(refused))
    assert loop.shards[0].counts.dead_letters == len(refused)


def test_the_http_sink_has_its_say_before_anything_is_committed(kafka: Kafka, store: Store) -> None:
    webhook = MemoryWebhook(refuses={3})
    loop = Loop(kafka, store, webhook=webhook)
    loop.take()
    batch = loop.learn(10)
    webhook.away = 1
    with pytest.raises(WebhookAway):
        loop.delivery.start(batch)
    assert kafka.calls.count("open") == 0
    send(loop, batch)
    assert webhook.taken == kafka.predicted() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert kafka.letters[0] == [3]
    assert (told(kafka)["p"], told(kafka)["d"]) == (9, 1)


def test_lines_that_the_http_sink_has_taken_are_not_posted_again(kafka: Kafka, store: Store) -> None:
    webhook = MemoryWebhook()
    loop = Loop(kafka, store, webhook=webhook)
    loop.take()
    batch = loop.learn(10)
    kafka.fail("send", SinkAway("gone"))
    with pytest.raises(SinkAway):
        send(loop, batch)
    send(loop, batch)
    assert webhook.taken == kafka.predicted() == list(range(10))


def test_of_several_partitions_those_that_the_http_sink_has_taken_are_not_posted_again(store: Store) -> None:
    kafka = Kafka(partitions=2)
    for partition in kafka.logs:
        kafka.append(partition, records(3))
    webhook = MemoryWebhook()
    loop = Loop(kafka, store, assigned=(0, 1), webhook=webhook)
    for partition in kafka.logs:
        loop.take(partition)
    batch = loop.learn(10)
    assert set(batch.outputs) == {0, 1}
    webhook.meanwhile = lambda: webhook.taken and setattr(webhook, "away", 1)
    with pytest.raises(WebhookAway):
        loop.delivery.start(batch)
    webhook.meanwhile = lambda: None
    send(loop, batch)
    assert webhook.taken == [0, 1, 2] * 2


def test_without_transactions_the_offsets_of_several_batches_are_committed_at_once(kafka: Kafka, store: Store) -> None:
    loop = Loop(kafka, store, commits=False)
    loop.take()
    batches = [loop.learn(10), loop.learn(10)]
    assert loop.delivery.commits_offsets
    for batch in batches:
        send(loop, batch)
    assert kafka.offsets == {}
    kafka.fail("commit", SourceAway("gone"))
    with pytest.raises(SourceAway):
        loop.delivery.commit_offsets(batches)
    loop.delivery.commit_offsets(batches)
    assert (kafka.offsets[0].offset, told(kafka)["r"]) == (20, 20)
