"""A model for every key: each as if it were alone, in memory or not, through every crash."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from harness import Project, nursery, wait_until
from oracle import difference, logistic, open_transactions
from receiver import Receiver
from trap import SOAK

from headrace.consumers.topics import Topics
from headrace.state.store.store import Store

Make = Callable[..., Project]

KEYED = {"HEADRACE__MODEL__SCOPE": "key"}
KEYS, RECORDS = (100_000, 1_000_000) if SOAK else (2_000, 20_000)
HOT_MAX = KEYS // 20
"""Of each partition's keys one in ten fits into memory."""
ATTEMPTS = 9
"""With waits of 0.1 to 2 s between them these take more than 5 s."""

TREE = """
from river import tree

def build():
    return tree.HoeffdingTreeClassifier(grace_period=5)
"""


def events(count: int, keys: int, *, seed: int = 1, unlabelled: float = 0.1) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Make records of so many keys, a few of which come often; each key has a rule of its own."""
    rng = random.Random(seed)
    for index in range(count):
        key = min(int(rng.expovariate(4.0) * keys), keys - 1)
        features = {name: round(rng.gauss(0, 1), 6) for name in "abcde"}
        event: dict[str, Any] = {"id": f"r-{index}", "features": features}
        if rng.random() >= unlabelled:
            event["label"] = features["abcde"[key % 5]] > 0
        yield f"key-{key}".encode(), event


def send(p: Project, sent: Iterator[tuple[bytes, dict[str, Any]]], *, pause: Callable[[int], None]) -> None:
    producer = Producer({**p.client, "linger.ms": 5, "enable.idempotence": True})
    for index, (key, event) in enumerate(sent):
        pause(index)
        partition = int(key.rpartition(b"-")[2]) % p.partitions
        value = json.dumps(event).encode()
        producer.produce(p.features, value, key=key, partition=partition)
        p.sent[partition].append(value)
        producer.poll(0)
    assert producer.flush(60) == 0, "Kafka took the records"


def hold(p: Project, build: Callable[[], Any] = logistic) -> None:
    """Hold each prediction against a River model that its key has for itself."""
    features, predictions = p.read(p.features), p.read(p.predictions)
    for partition in p.sent:
        models: dict[bytes, Any] = {}
        answers = [json.loads(message.value()) for message in predictions[partition]]
        offsets = [answer["source"]["offset"] for answer in answers]
        wanted = [message.offset() for message in features[partition]]
        assert offsets == wanted, f"predictions of partition {partition}: {difference(offsets, wanted)}"
        for answer, message in zip(answers, features[partition], strict=True):
            event = json.loads(message.value())
            model = models.setdefault(message.key(), build())
            proba = {str(label).lower(): p for label, p in model.predict_proba_one(event["features"]).items()}
            assert answer["proba"] == proba, (partition, message.key(), message.offset())
            if "label" in event:
                model.learn_one(event["features"], event["label"])
    assert open_transactions(p) == [], "no transaction is left open"


def run_with_kills(p: Project, kills: int, *, records: int = RECORDS, keys: int = KEYS) -> None:
    at = sorted(random.Random(5).sample(range(records // 10, records * 9 // 10), kills))
    with p.running() as run:

        def pause(index: int) -> None:
            if at and index >= at[0]:
                at.pop(0)
                moves_on(p)
                run.kill_worker()

        send(p, events(records, keys), pause=pause)
        assert not at
        wait_until(lambda: p.status()["lag"] == 0, what="everything to be handled", timeout_s=600)
        assert run.stop() == 0, run.log()


def moves_on(p: Project) -> None:
    """Wait until something more is committed, so that a kill comes at work and not at a start."""
    before = {partition: offset for partition, (offset, _) in p.committed().items()}
    wait_until(lambda: any(o > before[q] for q, (o, _) in p.committed().items()), what="more to be committed")


def test_each_key_is_predicted_as_by_a_model_of_its_own_through_kills(project: Make) -> None:
    p = project(settings={**KEYED, "HEADRACE__KEYS__HOT_MAX": str(HOT_MAX)})
    run_with_kills(p, 5)
    hold(p)


def test_models_that_no_array_holds_are_kept_as_objects_to_the_same_end(project: Make) -> None:
    from river import tree  # noqa: PLC0415 as `TREE` does

    p = project(settings={**KEYED, "HEADRACE__KEYS__HOT_MAX": "50"}, model=TREE)
    run_with_kills(p, 2, records=6_000, keys=300)
    hold(p, lambda: tree.HoeffdingTreeClassifier(grace_period=5))


def test_a_record_without_a_key_is_a_dead_letter_that_says_so(project: Make) -> None:
    p = project(settings=KEYED, partitions=1)
    p.produce([b'{"features": {"a": 1}, "label": true}'], partition=0)
    p.run_to_end()
    [letter] = p.read(p.dead_letters)[0]
    headers = dict(letter.headers())
    assert (headers["dlq.code"], headers["dlq.field"], headers["dlq.stage"]) == (b"no_key", b"key", b"validate")


def test_an_empty_key_is_a_key_in_every_command_and_another_scope_is_named(project: Make) -> None:
    p = project(settings=dict(KEYED), partitions=1)
    producer = Producer(p.client)
    for index in range(4):
        value = json.dumps({"id": f"r-{index}", "features": {"a": index}, "label": True}).encode()
        producer.produce(p.features, value, key=b"", partition=0)
    assert producer.flush(30) == 0
    p.run_to_end()
    assert [message.key() for message in p.read(p.predictions)[0]] == [b""] * 4
    assert p.read(p.dead_letters)[0] == []

    def command(*words: str) -> Any:
        done = nursery().call(["model", *words, "--json", "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert command("show", "")["learned"] == 4
    assert command("reset", "")["partition"] == 0
    p.settings["HEADRACE__MODEL__SCOPE"] = "partition"
    p.produce([b'{"features": {"a": 1}}'], partition=0)
    with p.running(until_end=True) as run:
        assert run.process.wait(60) == 1, run.log()
    assert 'model.scope = "partition" asks for one for each partition' in run.log()
    assert 'set model.scope = "key" again' in run.log()
    assert "release of River" not in run.log()


def test_a_key_is_shown_and_begins_anew_while_the_pipeline_runs(project: Make) -> None:
    p = project(settings=KEYED, partitions=2)

    def command(*words: str) -> Any:
        done = nursery().call([*words, "--json", "-c", str(p.file)], env=p.env)
        return json.loads(done.stdout) if done.returncode == 0 else (done.returncode, done.stderr)

    def sent(count: int, seed: int) -> None:
        send(p, events(count, 4, seed=seed, unlabelled=0.0), pause=lambda _index: None)
        p.wait_for_all()

    with p.running() as run:
        sent(400, 1)
        shown = wait_until(lambda: _found(command("model", "show", "key-1")), what="the key to be saved")
        assert "features" in shown, shown
        assert (shown["partition"], sorted(shown["features"])) == (1, list("abcde"))
        learned = shown["learned"]
        assert learned == sum(key == b"key-1" for key, _ in events(400, 4, seed=1, unlabelled=0.0))
        assert command("model", "reset", "key-1")["partition"] == 1
        sent(400, 2)
        wanted = sum(key == b"key-1" for key, _ in events(400, 4, seed=2, unlabelled=0.0))
        wait_until(
            lambda: (_found(command("model", "show", "key-1")) or {}).get("learned") == wanted,
            what="the key to have learned the new records and no others",
        )
        assert run.stop() == 0, run.log()
    rows = command("model", "ls")
    assert {row["partition"]: row["keys"] for row in reversed(rows)} == {0: 2, 1: 2}
    assert command("model", "show", "nobody")[0] == 1
    assert command("model", "reset", "nobody")[0] == 1


def test_partitions_that_were_added_are_noticed_with_the_models_that_they_leave_behind(project: Make) -> None:
    p = project(settings=KEYED, partitions=2)
    # A member that leaves at once, so that the next one gets all partitions at once.
    p.file.write_text(f'{p.file.read_text()}[kafka.librdkafka]\n"group.instance.id" = ""\n')

    def sent(first: int) -> None:
        producer = Producer({**p.client, "partitioner": "murmur2_random"})
        for index in range(first, first + 60):
            value = json.dumps({"id": f"r-{index}", "features": {"a": index}, "label": True}).encode()
            producer.produce(p.features, value, key=b"customer-%d" % index)
        assert producer.flush(30) == 0

    sent(0)
    p.run_to_end()
    admin = AdminClient(p.client)
    grown = [NewPartitions(topic, 4) for topic in (p.features, p.predictions, p.dead_letters)]
    for future in admin.create_partitions(grown).values():
        future.result(10)
    topics = Topics(p.client)
    wait_until(lambda: topics.partitions()[p.features] == 4, what="the broker to tell of all partitions")
    sent(60)
    said = f"{p.features} had 2 partitions when some of its keys were placed, and has 4 now"
    assert said in p.run_to_end()
    done = nursery().call(["doctor", "--json", "-c", str(p.file)], env=p.env)
    assert any(said in check["message"] for check in json.loads(done.stdout)["checks"])


def _found(answer: Any) -> Any:
    return answer if isinstance(answer, dict) else None


def test_keys_that_the_store_lost_are_learned_again_from_the_log(project: Make) -> None:
    p = project(settings={**KEYED, "HEADRACE__KEYS__HOT_MAX": "50"}, partitions=2)
    with p.running() as run:
        send(p, events(3_000, 400), pause=lambda _index: None)
        p.wait_for_all()
        store = Store(p.stack.addresses.redis, name=p.name)
        for partition in p.sent:
            store.client.delete(f"{p.name}:{{{p.name}/{partition}}}:rows:keys")
        send(p, events(3_000, 400, seed=2), pause=lambda _index: None)
        p.wait_for_all(timeout_s=60)
        assert run.stop() == 0, run.log()
    hold(p)


def test_a_worker_whose_memory_is_full_of_keys_gets_out_of_a_long_outage(project: Make) -> None:
    """A save would make room, and waits for the batch, which waits for the sink; the group is polled meanwhile."""
    with Receiver.serving() as receiver:
        receiver.status = 503
        p = project(settings={**KEYED, "HEADRACE__KEYS__HOT_MAX": "1", "HEADRACE__SINK__HTTP__URL": receiver.url})
        send(p, events(2_000, 500), pause=lambda _: None)
        with p.running() as run:
            # By then the sink has been away for longer than the loop may go without a poll.
            wait_until(lambda: receiver.posts > ATTEMPTS, what="the sink to be tried again and again")
            receiver.status = 200
            p.wait_for_all()
            assert run.stop() == 0, run.log()
        hold(p)
