"""Labels that come later: each learned once, in an order that survives every crash."""

import json
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from harness import Project, nursery, wait_until
from labelled import Sent, hold, labelled, labels_of, ordered, plan, send
from oracle import logistic
from river import datasets, evaluate, metrics
from trap import SOAK

from headrace.consumers.topics import Topics
from headrace.state.shared.mix_store import MixStore
from headrace.state.store.store import Store

Make = Callable[..., Project]

KILLS = 10 if SOAK else 4
RECORDS = 100_000 if SOAK else 15_000


def test_labels_late_missing_twice_and_early_are_learned_once_through_kills(project: Make) -> None:
    p = labelled(project, partitions=4)
    messages = plan(RECORDS, partitions=4, delay_max=10_000)
    rng = random.Random(3)
    kills = sorted(rng.sample(range(len(messages) // 20, len(messages) * 9 // 10), KILLS))
    with ordered(p) as orders, p.running(workers=1) as run:

        def pause(index: int) -> None:
            if kills and index >= kills[0]:
                kills.pop(0)
                _moves_on(p)
                run.kill_worker()

        send(p, messages, pause=pause)
        assert not kills
        wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=120)
        assert run.stop() == 0, run.log()
    tally = hold(p, orders)
    labels = sum(message.labels for message in messages)
    assert tally.records == labels
    assert tally.joined + tally.duplicate == labels
    assert tally.early > RECORDS * 0.02


def _moves_on(p: Project) -> None:
    """Wait until something more is committed, so that a kill comes at work and not at a start."""
    before = {partition: offset for partition, (offset, _) in p.committed().items()}
    wait_until(lambda: any(o > before[q] for q, (o, _) in p.committed().items()), what="more to be committed")


@pytest.mark.parametrize("delay", [1, 100])
def test_late_labels_give_the_accuracy_that_river_gives_with_the_same_delay(project: Make, delay: int) -> None:
    p = labelled(project, partitions=1)
    start_ms = 1_700_000_000_000
    stream = list(datasets.Phishing())
    timed = [(index, 1, Sent(False, 0, _features(index, x), start_ms + index)) for index, (x, _) in enumerate(stream)]
    # As River has it: a label that is due at the moment of a question is revealed before it.
    timed += [
        (index + delay, 0, Sent(True, 0, _label(index, y), start_ms + index + delay))
        for index, (_, y) in enumerate(stream)
    ]
    send(p, [message for _, _, message in sorted(timed, key=lambda one: one[:2])])
    p.run_to_end()
    metric = metrics.Accuracy()
    evaluate.progressive_val_score(datasets.Phishing(), logistic(), metric, delay=delay)
    truth = {f"p-{index}": y for index, (_, y) in enumerate(stream)}
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    right = sum(answer["prediction"] == truth[answer["id"]] for answer in answers)
    assert len(answers) == len(stream)
    assert right / len(answers) == metric.get()
    assert p.status()["quality"]["accuracy"] == pytest.approx(metric.get(), abs=1e-12)
    # A backtest of both topics comes to the same, with the labels as they came and with that delay.
    for options in ((), ("--delay-records", str(delay))):
        done = nursery().call(["backtest", *options, "--json", "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, done.stderr
        [found] = json.loads(done.stdout)["results"]
        assert (found["records"], found["scored"], found["accuracy"]) == (len(stream), len(stream), metric.get())


def _features(index: int, x: Any) -> bytes:
    return json.dumps({"id": f"p-{index}", "features": x}).encode()


def _label(index: int, y: Any) -> bytes:
    return json.dumps({"id": f"p-{index}", "label": y}).encode()


def test_who_gets_no_label_in_time_is_learned_with_the_default(project: Make) -> None:
    p = labelled(
        project, partitions=1, settings={"HEADRACE__LABELS__WAIT": "30m", "HEADRACE__LABELS__DEFAULT": "false"}
    )
    values = [json.dumps({"id": f"c-{i}", "ts": i * 60_000, "features": {"a": i}}).encode() for i in range(60)]
    clicks = [Sent(False, 0, value, 1_000 + i) for i, value in enumerate(values)]
    late = [Sent(True, 0, b'{"id": "c-%d", "label": true}' % i, 2_000) for i in (59, 0)]
    send(p, [*clicks, *late])
    p.run_to_end()
    labels = p.status()["labels"]
    assert (labels["expired"], labels["joined"], labels["corrected"], labels["waiting"]) == (29, 1, 1, 30)
    assert p.status()["counts"]["learned"] == 30


def test_a_clock_that_is_25_hours_fast_costs_nobody_a_label_and_is_named(project: Make) -> None:
    p = labelled(project, partitions=1)
    now_ms = time.time_ns() // 1_000_000
    fast_ms = now_ms + 25 * 3_600_000
    told = [
        json.dumps({"id": id_, "ts": ts, "features": {"a": 1}}).encode() for id_, ts in (("a", now_ms), ("b", fast_ms))
    ]
    clicks = [Sent(False, 0, value, now_ms) for value in told]
    clicks += [
        Sent(False, 0, json.dumps({"id": f"c-{i}", "ts": now_ms + i, "features": {}}).encode(), now_ms + i)
        for i in range(1, 5)
    ]
    send(p, clicks)
    log = p.run_to_end()
    [said] = [json.loads(line) for line in log.splitlines() if "is a producer's clock wrong?" in line]
    assert (said["topic"], said["partition"], said["offset"], said["ahead_s"]) == (p.features, 0, 1, 25 * 3_600)
    send(p, [Sent(True, 0, json.dumps({"id": id_, "label": True}).encode(), now_ms + 9) for id_ in "ab"])
    p.run_to_end()
    labels = p.status()["labels"]
    assert (labels["joined"], labels["expired"], labels["ahead"], labels["waiting"]) == (2, 0, 1, 4)


def test_labels_that_another_partitioner_placed_are_noticed_by_all_who_look(project: Make) -> None:
    p = labelled(project, partitions=4)
    for topic, way, member in (
        (p.features, "murmur2_random", "features"),
        (labels_of(p), "consistent_random", "label"),
    ):
        producer = Producer({**p.client, "partitioner": way})
        for index in range(40):
            value = json.dumps({"id": f"r-{index}", member: {"a": 1} if member == "features" else True}).encode()
            producer.produce(topic, value, key=b"customer-%d" % index)
        assert producer.flush(30) == 0
    log = p.run_to_end()
    assert "keys do not lie where they should" in log
    told = p.status()
    assert told["labels"]["waiting"] == told["labels"]["waiting_early"] > 20
    done = nursery().call(["doctor", "--json", "-c", str(p.file)], env=p.env)
    checks = [check for check in json.loads(done.stdout)["checks"] if check["check"] == "keys"]
    for said in (log, *told["warnings"], *(check["message"] for check in checks)):
        assert "by murmur2 (Java's partitioner), those of" in said
        assert "by CRC32 (librdkafka's consistent_random)" in said
    assert [check["verdict"] for check in checks] == ["warning"]
    assert "partitioner=murmur2_random" in checks[0]["hint"]


def test_a_label_that_is_none_can_be_mended_and_replayed_and_finds_its_features(project: Make) -> None:
    p = labelled(project, partitions=2)
    features = [Sent(False, part, json.dumps({"id": f"r-{part}", "features": {"a": 1.5}}).encode()) for part in (0, 1)]
    send(
        p, [*features, Sent(True, 1, b'{"id": "r-1", "label": "yes"}'), Sent(True, 0, b'{"id": "r-0", "label": true}')]
    )
    p.run_to_end()
    [letter] = p.read(p.dead_letters)[1]
    headers = dict(letter.headers())
    assert (headers["__dlq.errors.topic"], headers["dlq.code"]) == (labels_of(p).encode(), b"bad_label")
    assert letter.value() == b'{"id": "r-1", "label": "yes"}'
    (p.directory / "mend.py").write_text("def mend(value):\n    return value.replace(b'\"yes\"', b'true')\n")
    command = ["dlq", "replay", "--execute", "--edit", "mend:mend", "-c", str(p.file)]
    done = nursery().call(command, env=p.env)
    assert done.returncode == 0, (done.stdout, done.stderr)
    p.run_to_end()
    labels = p.status()["labels"]
    assert (labels["joined"], labels["refused"], labels["waiting"]) == (2, 1, 0)


def test_topics_whose_partitions_differ_are_an_error_at_the_start(project: Make) -> None:
    p = labelled(project, partitions=2)
    other = {"HEADRACE__TOPICS__LABELS": f"{p.name}.other"}
    Topics(p.client).create(f"{p.name}.other", 3)
    p.settings.update(other)
    with p.running() as run:
        assert run.process.wait(60) == 1
    assert f"{p.name}.other has 3 partitions and {p.features} has 2" in run.log()


@pytest.mark.parametrize(
    "client",
    [
        {"partition.assignment.strategy": "range"},
        {"partition.assignment.strategy": "cooperative-sticky"},
        {"group.protocol": "consumer"},
    ],
    ids=["range", "cooperative", "KIP-848"],
)
def test_features_and_labels_stay_together_while_workers_come_and_go(project: Make, client: dict[str, str]) -> None:
    p = labelled(project, partitions=6)
    lines = "".join(f'"{name}" = "{value}"\n' for name, value in client.items())
    p.file.write_text(f'name = "{p.name}"\n[kafka.librdkafka]\n{lines}')
    messages = plan(4_500, partitions=6, delay_max=1_000)
    third = len(messages) // 3
    with ordered(p) as orders, p.running(workers=2) as run:
        send(p, messages[:third])
        with p.running(workers=1) as other:
            wait_until(lambda: len(p.status()["workers"]) == 3, what="a third worker")
            send(p, messages[third : 2 * third])
            run.kill_worker()
            wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=60)
            assert other.stop() == 0, other.log()
        send(p, messages[2 * third :])
        wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=60)
        # A partition that is on its way from one worker to the other at the stop is saved by neither.
        wait_until(lambda: _shares(p) == [3, 3], what="each worker to have its share", timeout_s=60)
        assert run.stop() == 0, run.log()
    hold(p, orders)


def _shares(p: Project) -> list[int]:
    """Return how many partitions each worker has taken over."""
    return [len(worker["partitions"]) for worker in p.status()["workers"]]


def test_labels_are_learned_once_also_after_the_store_has_lost_everything(project: Make) -> None:
    p = labelled(project, partitions=2)
    messages = plan(6_000, partitions=2, delay_max=1_000)
    half = len(messages) // 2
    store = Store(p.stack.addresses.redis, name=p.name)
    with p.running() as run:
        # After more snapshots than are kept the marks no longer reach back to the start.
        for part in range(5):
            send(p, messages[part * half // 5 : (part + 1) * half // 5])
            ends = {q: len(sent) for q, sent in p.sent.items()}
            wait_until(
                lambda ends=ends: {q: n[0]["offset"] for q in ends if (n := store.notes(q))} == ends,  # type: ignore[misc]
                what="all to be in a snapshot",
            )
        assert run.stop() == 0, run.log()
    for key in store.client.scan_iter(match=f"{p.name}:*"):
        store.client.delete(key)
    send(p, messages[half:])
    p.run_to_end()
    log = max(p.directory.glob("run-*.log")).read_text()
    assert log.count("they are relearned by their timestamps") == 2
    status = p.status()
    labels = sum(message.labels for message in messages)
    told = status["labels"]
    assert (told["records"], told["joined"] + told["duplicate"], told["waiting_early"]) == (labels, labels, 0)
    assert status["counts"]["learned"] == told["joined"]
    assert status["counts"]["predictions"] == 6_000


def test_labels_wait_in_the_store_while_nothing_runs(project: Make) -> None:
    p = labelled(project, partitions=1)
    features = [Sent(False, 0, json.dumps({"id": f"r-{i}", "features": {"a": float(i)}}).encode()) for i in range(500)]
    send(p, features)
    p.run_to_end()
    assert p.status()["labels"]["waiting"] == 500
    send(p, [Sent(True, 0, json.dumps({"id": f"r-{i}", "label": i % 2 == 0}).encode()) for i in range(500)])
    p.run_to_end()
    told = p.status()
    assert (told["labels"]["joined"], told["labels"]["waiting"], told["counts"]["learned"]) == (500, 0, 500)
    assert told["quality"]["scored"] == 500
    store = Store(p.stack.addresses.redis, name=p.name)
    assert store.count(0, "labels") == 500, "remembered, to tell a second label from a first"


def test_late_labels_teach_the_models_of_their_keys_wherever_those_lie(project: Make) -> None:
    p = labelled(project, partitions=1, settings={"HEADRACE__MODEL__SCOPE": "key", "HEADRACE__KEYS__HOT_MAX": "10"})
    messages = plan(4_000, partitions=1, delay_max=800)
    keyed = [msgspec.structs.replace(message, key=_key_of(message)) for message in messages]
    with ordered(p) as orders, p.running() as run:
        send(p, keyed[:3_000])
        wait_until(lambda: p.committed()[0][0] > 500, what="some to be committed")
        run.kill_worker()
        send(p, keyed[3_000:])
        wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=60)
        assert run.stop() == 0, run.log()
    hold(p, orders, by_key=True)


def _key_of(message: Sent) -> bytes:
    return b"key-%d" % (int(json.loads(message.value)["id"].rpartition("-")[2]) % 60)


def test_late_labels_are_in_the_mix_of_all_workers_once(project: Make) -> None:
    p = labelled(project, partitions=4, settings={"HEADRACE__MODEL__SCOPE": "global"})
    messages = plan(12_000, partitions=4, delay_max=2_000)
    third = len(messages) // 3
    with p.running(workers=2) as run:
        send(p, messages[:third])
        run.kill_worker()
        send(p, messages[third : 2 * third])
        wait_until(run.workers, what="workers to be there")
        run.kill_worker()
        send(p, messages[2 * third :])
        wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=60)
        assert run.stop() == 0, run.log()
    told = p.status()
    labels = sum(message.labels for message in messages)
    assert told["labels"]["joined"] + told["labels"]["duplicate"] == told["labels"]["records"] == labels
    assert told["counts"]["learned"] == told["labels"]["joined"]
    mix = MixStore(Store(p.stack.addresses.redis, name=p.name), name=p.name).load().mix
    assert mix is not None
    assert mix.examples == told["labels"]["joined"]
