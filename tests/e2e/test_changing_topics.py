"""Topics that change under the pipeline: they grow, disappear and come back, and retention overtakes the reader."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from harness import Project, Run, values, wait_until
from labelled import Sent, labelled, labels_of, ordered, plan
from labelled import hold as hold_labels
from labelled import send as send_labelled
from oracle import hold_models, logistic, offline, promise
from receiver import Receiver
from test_keys import KEYED, events
from test_keys import hold as hold_keys
from test_keys import send as send_keys
from test_mixes import GLOBAL, hold_counts

from headrace.consumers.topics import Topics

Make = Callable[..., Project]

# By default the client looks for new partitions every ten seconds: too long for a test.
SOON = {
    "HEADRACE__KAFKA__LIBRDKAFKA": json.dumps(
        {"topic.metadata.refresh.interval.ms": 300, "session.timeout.ms": 2_000, "heartbeat.interval.ms": 300}
    )
}


def _delete(p: Project, *names: str) -> None:
    admin = AdminClient(p.client)
    for future in admin.delete_topics(list(names)).values():
        future.result(10)
    topics = Topics(p.client)
    wait_until(lambda: not topics.partitions().keys() & set(names), what=f"{names} to be gone")


def _grow(p: Project, partitions: int, *names: str) -> None:
    """Give topics more partitions, one topic after the other."""
    admin, topics = AdminClient(p.client), Topics(p.client)
    for name in names:
        admin.create_partitions([NewPartitions(name, partitions)])[name].result(10)
        wait_until(lambda name=name: topics.partitions()[name] == partitions, what=f"{name} to have grown")


def _widen(p: Project, partitions: int) -> None:
    # A new dict: the watch of `promise` goes through the other one in its thread.
    p.sent = {**p.sent, **{partition: [] for partition in range(p.partitions, partitions)}}
    p.partitions = partitions


def _feed(p: Project, count: int, *, bad_every: int = 40) -> None:
    for partition, sent in p.sent.items():
        p.produce(values(count, bad_every=bad_every, seed=partition + 10 * len(sent)), partition=partition)


def _ends(run: Run) -> str:
    wait_until(lambda: run.process.poll() is not None, what="the pipeline to stop")
    assert run.process.returncode == 1, run.log()
    assert "Traceback" not in run.log()
    return run.log()


def _fails(p: Project) -> str:
    with p.running() as run:
        return _ends(run)


def test_partitions_that_are_added_are_learned_from_their_first_record(project: Make) -> None:
    p = project(settings=SOON)
    with promise(p):
        with p.running(workers=2) as run:
            _feed(p, 300)
            p.wait_for_all()
            # The outputs first: a worker that finds them too small stops.
            _grow(p, 3, p.predictions, p.dead_letters, p.features)
            _widen(p, 3)
            # Before a worker can know of the new partition.
            _feed(p, 200)
            p.wait_for_all()
            assert run.stop() == 0, run.log()
            assert "has more partitions than at the start" in run.log()
        _grow(p, 5, p.features)
        _widen(p, 5)
        _feed(p, 100)
        assert f"{p.predictions} has 3 partitions and {p.features} has 5" in _fails(p)
        _grow(p, 5, p.predictions, p.dead_letters)
        p.run_to_end()


def test_a_key_that_moves_to_an_added_partition_begins_a_model_there(project: Make) -> None:
    p = project(partitions=1, settings={**SOON, **KEYED})
    with p.running() as run:
        send_keys(p, events(600, 20), pause=lambda _index: None)
        p.wait_for_all()
        _grow(p, 2, p.predictions, p.dead_letters, p.features)
        _widen(p, 2)
        # Every second key is in partition 1 now.
        send_keys(p, events(600, 20, seed=2), pause=lambda _index: None)
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    hold_keys(p)


def test_added_partitions_of_features_and_labels_are_joined_from_their_first_record(project: Make) -> None:
    p = labelled(project, partitions=1, settings=SOON)
    with ordered(p) as orders, p.running() as run:
        send_labelled(p, plan(200, partitions=1, delay_max=20))
        p.wait_for_all()
        orders.steps[1] = set()
        _grow(p, 2, p.predictions, p.dead_letters, labels_of(p), p.features)
        _widen(p, 2)
        # Of other ids than before, in both partitions.
        more = plan(300, partitions=2, delay_max=20, seed=2)
        for message in more:
            message.value = message.value.replace(b'"r-', b'"s-')
        # Labels reach the new partition before the worker can know of it, and more than one record waits for them.
        send_labelled(p, more)
        p.wait_for_all()
        assert run.stop() == 0, run.log()
        assert "has more partitions than at the start" in run.log()
    counts = hold_labels(p, orders)
    assert counts.joined > 350


def test_an_added_partition_teaches_the_model_that_all_workers_share(project: Make) -> None:
    p = project(settings={**SOON, **GLOBAL})
    with p.running(workers=2) as run:
        _feed(p, 300, bad_every=0)
        p.wait_for_all()
        _grow(p, 3, p.predictions, p.dead_letters, p.features)
        _widen(p, 3)
        _feed(p, 300, bad_every=0)
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    hold_counts(p)


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once"])
def test_an_output_topic_that_disappears_is_waited_for_by_its_name(project: Make, guarantee: str) -> None:
    p = project(settings={**SOON, "HEADRACE__DELIVERY__GUARANTEE": guarantee})
    reason = f"the output topic {p.predictions} does not exist any more"
    with p.running() as run:
        _feed(p, 200)
        p.wait_for_all()
        _delete(p, p.predictions)
        _feed(p, 100)
        wait_until(lambda: reason in (p.status()["reason"] or ""), what="the missing topic to be named")
        assert p.status()["state"] == "paused"
        assert "with 2 partitions" in p.status()["reason"]
        Topics(p.client).create(p.predictions, 2)
        p.wait_for_all()
        _hold_predictions(p, since=200)
        _delete(p, p.predictions)
        _feed(p, 100)
        wait_until(lambda: run.log().count(reason) > 2, what="the missing topic to be named again")
        # Other programs may create it with as many partitions as the broker has as a default.
        Topics(p.client).create(p.predictions, 1)
        assert "an output topic does not exist, or has too few partitions" in _ends(run)
    assert f"{p.predictions} has 1 partitions and {p.features} has 2" in _fails(p)
    _grow(p, 2, p.predictions)
    p.run_to_end()
    _hold_predictions(p, since=300)
    _delete(p, p.predictions, p.dead_letters)
    log = p.run_to_end()
    for name in (p.predictions, p.dead_letters):
        assert f'"topic": "{name}", "event": "an output topic did not exist and was created' in log
    assert p.status()["reason"] is None
    hold_models(p)


def _hold_predictions(p: Project, *, since: int) -> None:
    """Hold that the predictions topic has the right prediction of each good record from an offset on, and no other."""
    for partition, messages in p.read(p.predictions).items():
        answers = [json.loads(message.value()) for message in messages]
        found = [(answer["source"]["offset"], answer["prediction"], answer["proba"]) for answer in answers]
        assert found == [one for one in offline(p.sent[partition], logistic()).good if one[0] >= since]


def test_records_that_retention_deletes_during_a_pause_are_said_at_once_and_never_skipped(project: Make) -> None:
    with Receiver.serving() as receiver:
        p = project(partitions=1, settings={**SOON, "HEADRACE__SINK__HTTP__URL": receiver.url})
        with p.running() as run:
            _feed(p, 200)
            p.wait_for_all()
            receiver.status = 503
            _feed(p, 10)
            wait_until(lambda: p.status()["state"] == "paused", what="the stream to pause")
            _feed(p, 500)
            admin = AdminClient(p.client)
            admin.delete_records([TopicPartition(p.features, 0, 500)])[TopicPartition(p.features, 0)].result(10)
            wait_until(lambda: "records that were never read" in run.log(), what="the loss to be logged")
            assert "300 records are gone" not in run.log()
            receiver.status = 200
            log = _ends(run)
        _, mark = p.committed()[0]
        assert mark is not None
        reached = mark.records
        assert reached >= 200
        assert f"partition 0: the log of {p.features} no longer holds the offset {reached}" in log
        assert f"{500 - reached} records are gone" in log
        assert f"raise the retention of {p.features}" in log
        assert f"{500 - reached} records are gone" in p.status()["reason"]
        assert f"{500 - reached} records are gone" in _fails(p)
        p.run_to_end(on_loss="fresh")
        answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
        good = [offset for offset, _, _ in offline(p.sent[0], logistic()).good]
        assert [a["source"]["offset"] for a in answers] == [o for o in good if o < reached or o >= 500]


def _send_in_transactions(p: Project, messages: list[Sent], *, name: str) -> None:
    """Send each message in a transaction, and before every second one an altered copy that is aborted."""
    producer = Producer({**p.client, "transactional.id": f"{p.name}-{name}"})
    producer.init_transactions(20)
    for index, message in enumerate(messages):
        topic = labels_of(p) if message.labels else p.features
        if index % 2:
            producer.begin_transaction()
            producer.produce(topic, message.value.replace(b"true", b"false"), partition=0)
            producer.flush(10)
            producer.abort_transaction(10)
        producer.begin_transaction()
        producer.produce(topic, message.value, partition=0)
        producer.commit_transaction(10)


def test_labels_and_features_of_aborted_transactions_are_never_joined(project: Make) -> None:
    settings = {"HEADRACE__SNAPSHOT__INTERVAL": "1h"}
    p = labelled(project, partitions=1, settings=settings)
    messages = plan(60, partitions=1, delay_max=10)

    def all_read() -> bool:
        mark = p.committed()[0][1]
        sent = sum(message.labels for message in messages), sum(not message.labels for message in messages)
        return mark is not None and mark.join is not None and (mark.join.tally.records, mark.records) == sent

    with ordered(p) as orders, p.running() as run:
        _send_in_transactions(p, messages, name="upstream")
        wait_until(all_read, what="all to be read")
        run.kill_worker()
        more = plan(40, partitions=1, delay_max=10, seed=2)
        for message in more:
            message.value = message.value.replace(b'"r-', b'"s-')
        messages += more
        _send_in_transactions(p, more, name="upstream")
        wait_until(all_read, what="all to be read")
        assert run.stop() == 0, run.log()
        assert "relearned" in run.log()
    p.sent[0] = [message.value() for message in p.read(p.features)[0]]
    hold_labels(p, orders)


def test_a_labels_topic_that_differs_at_a_start_is_refused_by_its_name(project: Make) -> None:
    p = labelled(project, partitions=1, settings=SOON)
    send_labelled(p, plan(200, partitions=1, delay_max=20))
    p.run_to_end()
    _grow(p, 2, labels_of(p))
    assert f"{labels_of(p)} has 2 partitions and {p.features} has 1" in _fails(p)
    _delete(p, labels_of(p))
    words = f"the labels topic {labels_of(p)} was deleted and made again"
    # The start itself creates the topic, and does not take it for the old one.
    assert words in _fails(p)
    assert words in p.status()["reason"]
    p.run_to_end(on_loss="fresh")


def test_a_features_topic_that_is_made_again_with_other_partitions_is_another_topic(project: Make) -> None:
    p = project(settings=SOON)
    _feed(p, 200)
    p.run_to_end()
    topics = Topics(p.client)
    for partitions in (1, 3):
        _delete(p, p.features)
        if partitions == 1:
            assert f"the features topic {p.features} was deleted" in _fails(p)
            assert p.features not in topics.partitions(), "an empty one would hide what has happened"
        topics.create(p.features, partitions)
        p.partitions, p.sent = partitions, {partition: [] for partition in range(partitions)}
        _feed(p, 300)
        if partitions > 2:
            assert f"{p.predictions} has 2 partitions" in _fails(p)
            _grow(p, partitions, p.predictions, p.dead_letters)
        log = _fails(p)
        assert f"the features topic {p.features} was deleted and made again" in log
        assert "--on-state-loss fresh" in log
        assert "was deleted and made again" in p.status()["reason"]
    before = {partition: len(messages) for partition, messages in p.read(p.predictions).items()}
    p.run_to_end(on_loss="fresh")
    hold_models(p)
    for partition, messages in p.read(p.predictions).items():
        answers: list[Any] = [json.loads(message.value()) for message in messages[before[partition] :]]
        truth = offline(p.sent[partition], logistic()).good
        assert [(a["source"]["offset"], a["prediction"], a["proba"]) for a in answers] == truth
