"""A topic that is deleted, and made again under its old name, is another topic: nothing of it joins the old history."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from harness import Project, Run, nursery, values, wait_until
from labelled import labelled, labels_of, plan, send
from oracle import logistic, offline
from receiver import Receiver

from headrace.consumers.topics import Topics

Make = Callable[..., Project]


def _delete(p: Project, topic: str) -> None:
    admin = AdminClient(p.client)
    admin.delete_topics([topic])[topic].result(10)


def _make_again(p: Project, topic: str, *, partitions: int = 1) -> None:
    topics = Topics(p.client)
    old = topics.describe(topic).id
    _delete(p, topic)

    def made() -> bool:
        topics.create(topic, partitions)
        return topics.describe(topic).id != old

    wait_until(made, what=f"{topic} to be made again")
    if topic == p.features:
        p.sent = {partition: [] for partition in range(partitions)}


def _ends(run: Run) -> str:
    wait_until(lambda: run.process.poll() is not None, what="the pipeline to stop")
    assert run.process.returncode == 1, run.log()
    assert "Traceback" not in run.log()
    return run.log()


def _offsets(p: Project) -> list[int]:
    return [json.loads(message.value())["source"]["offset"] for message in p.read(p.predictions)[0]]


def test_a_topic_that_is_made_again_while_the_worker_sleeps_is_never_learned(project: Make) -> None:
    p = project(partitions=1, settings={"HEADRACE__SNAPSHOT__INTERVAL": "100ms"})
    p.produce(values(500), partition=0)
    with p.running() as run:
        p.wait_for_all()
        wait_until(lambda: p.status()["partitions"][0]["snapshot"] == 500, what="a snapshot of it")
        worker = run.worker()
        os.kill(worker, signal.SIGSTOP)
        _make_again(p, p.features)
        # More than the old topic had: the worker's place is within the new one.
        p.produce(values(900, seed=1), partition=0)
        os.kill(worker, signal.SIGCONT)
        log = _ends(run)
    assert f"the features topic {p.features} was deleted and made again" in log
    assert "--on-state-loss fresh" in log
    assert _offsets(p) == list(range(500))
    with p.running(until_end=True) as run:
        assert "was deleted and made again" in _ends(run)
    p.run_to_end(on_loss="fresh")
    messages = [json.loads(message.value()) for message in p.read(p.predictions)[0]][500:]
    truth = offline(p.sent[0], logistic()).good
    assert [(m["source"]["offset"], m["proba"]) for m in messages] == [(offset, proba) for offset, _, proba in truth]


def test_a_topic_that_is_made_again_while_the_stream_is_paused_is_never_learned(project: Make) -> None:
    with Receiver.serving() as receiver:
        p = project(partitions=1, settings={"HEADRACE__SINK__HTTP__URL": receiver.url})
        p.produce(values(500), partition=0)
        with p.running() as run:
            p.wait_for_all()
            receiver.status = 503
            p.produce(values(10, seed=5), partition=0)
            wait_until(lambda: '"paused"' in run.log(), what="the stream to pause")
            _make_again(p, p.features)
            p.produce(values(900, seed=1), partition=0)
            receiver.status = 200
            assert "was deleted and made again" in _ends(run)
        assert _offsets(p) == list(range(len(_offsets(p))))
        assert len(_offsets(p)) <= 510
        assert {line["source"]["offset"] for line in receiver.taken} <= set(range(510))


def test_a_labels_topic_that_is_made_again_is_never_learned_from(project: Make) -> None:
    p = labelled(project, partitions=1)
    send(p, plan(400, partitions=1, delay_max=20))
    with p.running() as run:
        p.wait_for_all()
        worker = run.worker()
        os.kill(worker, signal.SIGSTOP)
        _make_again(p, labels_of(p))
        send(p, plan(900, partitions=1, delay_max=20, seed=2))
        os.kill(worker, signal.SIGCONT)
        assert f"the labels topic {labels_of(p)} was deleted and made again" in _ends(run)
    _, found = p.committed()[0]
    assert found is not None
    assert found.records <= 400


def test_a_topic_that_is_deleted_and_not_made_again_stops_the_pipeline(project: Make) -> None:
    p = project(partitions=1)
    p.produce(values(100), partition=0)
    with p.running() as run:
        p.wait_for_all()
        _delete(p, p.features)
        assert f"the features topic {p.features} was deleted" in _ends(run)


# A member that leaves at once, so that the group's offsets can be set.
DYNAMIC = {"HEADRACE__KAFKA__LIBRDKAFKA": json.dumps({"group.instance.id": ""})}


def _set_offset(p: Project, offset: int, *, topic: str = "") -> None:
    consumer = Consumer({**p.client, "group.id": p.name})
    consumer.commit(offsets=[TopicPartition(topic or p.features, 0, offset)], asynchronous=False)
    consumer.close()


def _fails(p: Project, *, until_end: bool = True, on_loss: str = "relearn") -> str:
    with p.running(until_end=until_end, on_loss=on_loss) as run:
        return _ends(run)


def _hold_commands(p: Project, words: str) -> None:
    """Hold that `status` and `doctor` say what the run says."""
    told = p.status()
    assert words in told["reason"]
    done = nursery().call(["doctor", "-c", str(p.file)], env=p.env)
    assert done.returncode == 1
    assert f"✘ history: {words}" in done.stdout


def test_offsets_that_were_set_forward_are_never_gone_on_from_in_silence(project: Make) -> None:
    p = project(partitions=1, settings=DYNAMIC)
    p.produce(values(500), partition=0)
    p.run_to_end()
    p.produce(values(200, seed=1), partition=0)
    _set_offset(p, 700)
    words = f"partition 0: another tool has set the group's offset of {p.features} to 700: it carries no mark"
    log = _fails(p)
    assert words in log
    assert "newest snapshot stands at 500; whether the 200 records between" in log
    _hold_commands(p, words)
    p.produce(values(50, seed=2), partition=0)
    p.run_to_end(on_loss="fresh")
    assert _offsets(p) == [*range(500), *range(700, 750)]


def test_what_a_first_start_leaves_out_is_said_though_nothing_is_left_to_do(project: Make) -> None:
    p = project(partitions=1, settings=DYNAMIC)
    p.produce(values(10), partition=0)
    _set_offset(p, 10)
    log = p.run_to_end()
    assert "the history begins at an offset that another tool has set" in log
    assert '"left_out": 10' in log


def test_offsets_past_the_logs_end_are_named_by_every_command(project: Make) -> None:
    p = project(partitions=1, settings=DYNAMIC)
    p.produce(values(10), partition=0)
    _set_offset(p, 99)
    words = f"partition 0: the group has committed offset 99 of {p.features}, and the log ends at 10"
    for until_end in (True, False):
        assert words in _fails(p, until_end=until_end)
    _hold_commands(p, words)
    assert p.status()["lag"] is None
    assert "raise the topic's retention" not in _fails(p)


def test_the_labels_place_is_what_the_mark_says_to_every_command(project: Make) -> None:
    p = labelled(project, partitions=1, settings=DYNAMIC)
    send(p, plan(200, partitions=1, delay_max=20))
    p.run_to_end()
    _set_offset(p, 99_999, topic=labels_of(p))
    for _ in ("with what another tool has set", "after a run that had nothing to do"):
        told = p.status()
        assert (told["reason"], told["lag"]) == (None, 0)
        done = nursery().call(["doctor", "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, done.stdout
        p.run_to_end()


def test_a_name_that_another_project_has_is_not_taken_over(project: Make, tmp_path: Path) -> None:
    first = project(partitions=1, settings=DYNAMIC)
    first.produce(values(300), partition=0)
    first.run_to_end()
    second = Project(first.stack, tmp_path / "second", partitions=1, settings=DYNAMIC, name=first.name)
    second.features, second.predictions = f"{first.name}.other", f"{first.name}.other.out"
    Topics(second.client).create(second.features, 1)
    second.produce(values(100, seed=1), partition=0)
    before = first.status()["partitions"]
    for on_loss in ("relearn", "fresh"):
        log = _fails(second, on_loss=on_loss)
        assert "the name is taken: partition 0 of the store holds a model that was taught from the topic" in log
        assert f"{first.features} (saved 20" in log
        assert "→ choose another `name`" in log
    assert first.status()["partitions"] == before
    _delete(first, first.features)
    second.run_to_end(on_loss="fresh")
    assert _offsets(second) == list(range(100))


def test_a_compacted_output_is_refused_before_anything_is_read(project: Make) -> None:
    p = project(partitions=1)
    Topics(p.client).create(p.predictions, 1, {"cleanup.policy": "compact"})
    p.produce(values(10), partition=0)
    assert f"the topic {p.predictions} is compacted" in _fails(p)


def test_an_output_that_is_compacted_under_the_pipeline_ends_it(project: Make) -> None:
    p = project(partitions=1)
    p.produce(values(10), partition=0)
    with p.running() as run:
        p.wait_for_all()
        resource = ConfigResource(ResourceType.TOPIC, p.predictions)
        resource.add_incremental_config(
            ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
        )
        admin = AdminClient(p.client)
        admin.incremental_alter_configs([resource])[resource].result(10)
        p.produce(values(10, seed=1), partition=0)
        log = _ends(run)
    assert "Kafka refuses a record of the batch" in log
    assert "→ set cleanup.policy=delete on the output topics" in log


def test_a_topic_that_grows_has_all_topics_looked_at_anew(project: Make) -> None:
    soon = json.dumps({"topic.metadata.refresh.interval.ms": 300})
    p = project(partitions=1, settings={"HEADRACE__KAFKA__LIBRDKAFKA": soon})
    p.produce(values(10), partition=0)
    with p.running() as run:
        p.wait_for_all()
        admin = AdminClient(p.client)
        admin.create_partitions([NewPartitions(p.features, 2)])[p.features].result(10)
        log = _ends(run)
    assert f"{p.predictions} has 1 partitions and {p.features} has 2" in log
    assert "kafka-topics --alter" in log
