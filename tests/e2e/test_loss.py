"""What is lost outside Headrace: the store's memory, a snapshot's bits, the log's beginning, the offsets.

It relearns where the log allows it, and otherwise stops with the choices. It never starts afresh in silence.
"""

import json
import os
import signal
from collections.abc import Callable

import redis
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from harness import Project, nursery, values, wait_until
from oracle import hold_models, logistic, offline
from receiver import Receiver

from headrace.consumers.topics import Topics

Make = Callable[..., Project]


def _store(p: Project) -> "redis.Redis":
    return redis.Redis.from_url(p.stack.addresses.redis)


def _cut_log(p: Project, *, before: int) -> None:
    """Delete what partition 0 of the features has before an offset, as retention would."""
    # By a name: a client that nobody holds is gone before it has answered.
    admin = AdminClient(p.client)
    for future in admin.delete_records([TopicPartition(p.features, 0, before)]).values():
        future.result(10)


def _forget_models(p: Project) -> None:
    with _store(p) as store:
        for key in store.scan_iter(match=f"{p.name}:*"):
            store.delete(key)


def _first_half(p: Project) -> None:
    for partition in range(2):
        p.produce(values(2_000, bad_every=40, seed=partition), partition=partition)
    p.run_to_end()


def _second_half(p: Project) -> None:
    for partition in range(2):
        p.produce(values(1_000, bad_every=40, seed=7 + partition), partition=partition)


def _run_fails(p: Project, *, on_loss: str = "relearn") -> str:
    with p.running(until_end=True, on_loss=on_loss) as run:
        assert run.process.wait(60) == 1, run.log()
        return run.log()


def _wait_for_empty_group(p: Project) -> None:
    """Wait for the session of a worker that has stopped: a static member leaves no sooner."""
    admin = AdminClient(p.client)
    wait_until(
        lambda: not admin.describe_consumer_groups([p.name])[p.name].result(10).members, what="the group to be empty"
    )


def test_a_lost_store_and_a_log_that_no_longer_reaches_back_stop_the_pipeline(project: Make) -> None:
    p = project()
    _first_half(p)
    _forget_models(p)
    _cut_log(p, before=500)
    _second_half(p)
    log = _run_fails(p)
    assert "no longer reaches back to 0" in log
    assert "→ restore what is missing" in log
    assert "--on-state-loss fresh" in log
    assert "Traceback" not in log
    # Partition 1's log does reach back, but whoever says `fresh` wants no relearning.
    log = p.run_to_end(on_loss="fresh")
    assert log.count("a new history begins") == 2
    p.run_to_end()
    for partition, messages in p.read(p.predictions).items():
        late = [json.loads(m.value()) for m in messages if json.loads(m.value())["source"]["offset"] >= 2_000]
        truth = offline(p.sent[partition][2_000:], logistic())
        assert [answer["proba"] for answer in late] == [proba for _, _, proba in truth.good]


def test_who_wants_to_restore_the_store_is_asked_before_anything_is_relearned(project: Make) -> None:
    p = project()
    _first_half(p)
    _forget_models(p)
    _second_half(p)
    assert "the store has no model of the 2000 records before" in _run_fails(p, on_loss="stop")
    p.run_to_end()
    p.check()


def test_records_that_retention_took_before_they_were_learned_stop_the_pipeline(project: Make) -> None:
    p = project()
    _first_half(p)
    _second_half(p)
    _cut_log(p, before=2_300)
    log = _run_fails(p)
    assert "300 records are gone" in log


def test_records_that_are_deleted_under_a_sleeping_worker_stop_the_pipeline(project: Make) -> None:
    p = project(partitions=1)
    p.produce(values(1_000), partition=0)
    with p.running() as run:
        p.wait_for_all()
        worker = run.worker()
        os.kill(worker, signal.SIGSTOP)
        p.produce(values(1_000, seed=1), partition=0)
        _cut_log(p, before=1_500)
        os.kill(worker, signal.SIGCONT)
        wait_until(lambda: run.process.poll() is not None, what="the pipeline to stop")
        assert run.process.returncode == 1, run.log()
        assert "no longer holds the offset" in run.log()
        assert "Traceback" not in run.log()


def test_a_log_that_is_about_to_lose_what_is_not_saved_is_an_alarm_and_saved_at_once(project: Make) -> None:
    p = project(partitions=1, settings={"HEADRACE__SNAPSHOT__INTERVAL": "1h"})
    p.produce(values(1_000), partition=0)
    with p.running() as run:
        p.wait_for_all()
        _cut_log(p, before=300)
        wait_until(lambda: "retention nears the newest snapshot" in run.log(), what="the alarm")
        with _store(p) as store:
            head = f"{p.name}:{{{p.name}/0}}:head"
            wait_until(lambda: store.hget(head, "offset") == b"1000", what="the snapshot to be saved")
        assert run.stop() == 0, run.log()
    p.produce(values(100, seed=5), partition=0)
    p.run_to_end()
    p.check()


def test_that_alarm_comes_though_the_stream_is_paused_and_nothing_is_fetched(project: Make) -> None:
    with Receiver.serving() as receiver:
        settings = {"HEADRACE__SNAPSHOT__INTERVAL": "1h", "HEADRACE__SINK__HTTP__URL": receiver.url}
        p = project(partitions=1, settings=settings)
        p.produce(values(1_000), partition=0)
        with p.running() as run:
            p.wait_for_all()
            receiver.status = 503
            p.produce(values(10, seed=5), partition=0)
            wait_until(lambda: '"paused"' in run.log(), what="the stream to pause")
            _cut_log(p, before=300)
            wait_until(lambda: "retention nears the newest snapshot" in run.log(), what="the alarm")
            receiver.status = 200
            p.wait_for_all()
            assert run.stop() == 0, run.log()
        p.check()


def test_a_relearning_that_comes_to_other_counts_stops_the_pipeline(project: Make) -> None:
    p = project(settings={"HEADRACE__SNAPSHOT__INTERVAL": "1h"})
    for partition in range(2):
        p.produce(values(1_000, seed=partition), partition=partition)
    with p.running() as run:
        p.wait_for_all()
        worker = run.worker()
        # Both, and so that the worker can't save anything at its end.
        os.kill(worker, signal.SIGSTOP)
        run.process.kill()
        os.kill(worker, signal.SIGKILL)
    # What was learned then is refused now: it would be another model, under the old one's name.
    p.settings["HEADRACE__SCHEMA__FEATURES__a__MAX"] = "1"
    _second_half(p)
    log = _run_fails(p)
    assert "relearning gave" in log
    assert "Traceback" not in log


def test_offsets_that_were_set_back_below_every_snapshot_give_the_same_model_again(project: Make) -> None:
    p = project()
    _first_half(p)
    _wait_for_empty_group(p)
    consumer = Consumer({**p.client, "group.id": p.name})
    consumer.commit(offsets=[TopicPartition(p.features, 0, 10)], asynchronous=False)
    consumer.close()
    assert "ahead of the committed offset 10" in _run_fails(p, on_loss="stop")
    p.run_to_end()
    # Whoever sets offsets back asks for these predictions again, and gets the very same.
    messages = [json.loads(m.value()) for m in p.read(p.predictions)[0]]
    offsets = [(m["source"]["offset"], m["proba"]) for m in messages]
    truth = [(offset, proba) for offset, _, proba in offline(p.sent[0], logistic()).good]
    assert offsets == truth + [(offset, proba) for offset, proba in truth if offset >= 10]
    hold_models(p)


def test_offsets_that_are_gone_stop_the_pipeline(project: Make) -> None:
    p = project()
    _first_half(p)
    _wait_for_empty_group(p)
    admin = AdminClient(p.client)
    admin.delete_consumer_groups([p.name])[p.name].result(10)
    log = _run_fails(p)
    assert "the group has no committed offset" in log
    assert "--on-state-loss fresh" in log


def test_a_topic_that_was_made_again_is_not_taken_for_the_old_one(project: Make) -> None:
    p = project()
    _first_half(p)
    topics = Topics(p.client)
    admin = AdminClient(p.client)
    old = topics.describe(p.features).id
    admin.delete_topics([p.features])[p.features].result(10)
    made_again = False
    while not made_again:
        topics.create(p.features, 2)
        made_again = p.features in topics.partitions() and topics.describe(p.features).id != old
    p.sent = {0: [], 1: []}
    p.produce(values(2_500, seed=3), partition=0)
    log = _run_fails(p)
    assert "deleted and made again" in log or "no committed offset" in log


def test_a_changed_model_is_not_mistaken_for_the_saved_one(project: Make) -> None:
    p = project()
    _first_half(p)
    (p.directory / "model.py").write_text(p.model.replace("LogisticRegression()", "LogisticRegression(l2=0.1)"))
    _second_half(p)
    log = _run_fails(p)
    assert "another model than the one in the store" in log


CLIPPED = """
from river import compose, linear_model, preprocessing

def clip(x):
    return {name: min(value, 2.0) for name, value in x.items()}

def build():
    return compose.FuncTransformer(clip) | preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""


def test_a_function_whose_body_has_changed_is_named_with_snapshots_and_without(project: Make) -> None:
    p = project(model=CLIPPED)
    _first_half(p)
    (p.directory / "model.py").write_text(CLIPPED.replace("min(value, 2.0)", "min(value, 1.0)"))
    _second_half(p)
    log = _run_fails(p)
    assert "another model than the one in the store: the code of model.clip has changed" in log
    _forget_models(p)
    log = _run_fails(p)
    assert "the code of model.clip is new or has changed" in log
    assert "undo the change, start under another `name`" in log
    (p.directory / "model.py").write_text(CLIPPED.replace("def clip(x):", "def clip(x):\n    # as it was"))
    assert "learning it again from the log" in p.run_to_end()
    # Nothing is left to do, so that nothing is taken over.
    (p.directory / "model.py").write_text(CLIPPED.replace("min(value, 2.0)", "min(value, 1.0)"))
    assert "the code of model.clip is new or has changed" in _run_fails(p)
    _forget_models(p)
    done = nursery().call(["doctor", "-c", str(p.file)], env=p.env)
    assert done.returncode == 1
    assert "✘ history: model.py builds another model (the code of model.clip is new or has changed" in done.stdout
