"""Topics that were not made for Headrace, on a real Kafka: Debezium, CloudEvents, and one that needs a function."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Producer
from harness import Project, wait_until
from river import linear_model, preprocessing

from headrace.consumers.topics import Topics

Make = Callable[..., Project]
COUNT = 6_000

DEBEZIUM = """
[records]
features = "payload.after"
id = "payload.after.id"
ts = "payload.ts_ms"
label = "payload.after.fraud"
empty = "skip"
[batch]
records_max = 500
[snapshot]
interval = "1h"
"""

CLOUD_EVENTS = """
[records]
features = ""
id = "$headers.ce_id"
ts = "$headers.ce_time"
ts_unit = "iso"
label = ""
empty = "skip"
[labels]
id = "data.order"
label = "data.fraud"
[model]
scope = "key"
[predictions]
features = true
threshold = 0.25
"""

FUNCTION = """
[records]
transform = "model:read"
empty = "skip"
[delivery]
guarantee = "at-least-once"
"""

MODEL = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()

def read(order):
    if order["state"] == "draft":
        return None
    return {"id": order["number"], "features": {"price": order["price"] + 0.5}, "label": order["bad"]}
"""


def configured(p: Project, text: str) -> Project:
    p.file.write_text(p.file.read_text(encoding="utf-8") + text, encoding="utf-8")
    return p


def change(number: int) -> bytes | None:
    """Return a change of a database: of eight one is a delete, one its tombstone, and of 96 one is bad."""
    row: dict[str, Any] | None = {"id": number, "x": number % 13 / 4, "y": -(number % 7), "fraud": number % 3 == 0}
    if number % 8 == 6:
        row = None
    elif number % 8 == 7:
        return None
    elif number % 96 == 5:
        row = {"id": number, "x": None, "y": 1, "fraud": True}
    return json.dumps({"schema": {}, "payload": {"before": None, "after": row, "op": "u", "ts_ms": number}}).encode()


def test_changes_of_a_database_are_learned_and_deletes_skipped_through_a_kill(project: Make) -> None:
    p = configured(project(partitions=1), DEBEZIUM)
    p.produce([change(number) for number in range(COUNT)], partition=0)
    with p.running() as run:
        wait_until(lambda: p.committed()[0][0] >= COUNT // 3, what="a third to be committed", timeout_s=60)
        run.kill_worker()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    skipped = [number for number in range(COUNT) if number % 8 >= 6]
    bad = [number for number in range(COUNT) if number % 96 == 5]
    good = [number for number in range(COUNT) if number not in {*skipped, *bad}]
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    assert [answer["source"]["offset"] for answer in answers] == good
    assert [answer["id"] for answer in answers] == [str(number) for number in good]
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for answer, number in zip(answers, good, strict=True):
        features = {"x": number % 13 / 4, "y": -(number % 7)}
        proba = model.predict_proba_one(features)
        assert answer["proba"] == {"false": proba[False], "true": proba[True]}, number
        model.learn_one(features, number % 3 == 0)
    reasons = [{name: text.decode() for name, text in m.headers() if text} for m in p.read(p.dead_letters)[0]]
    assert [(r["dlq.code"], r["dlq.field"]) for r in reasons] == [("wrong_type", "x")] * len(bad)
    counts = {"records": COUNT, "predictions": len(good), "dead_letters": len(bad), "skipped": len(skipped)}
    assert p.status()["counts"] == {**counts, "learned": len(good)}, "relearned records are counted once"
    p.produce([None] * 3, partition=0)
    p.run_to_end()
    assert p.status()["counts"]["skipped"] == len(skipped) + 3, "a batch of nothing but skipped records is committed"
    p.file.write_text(p.file.read_text(encoding="utf-8").replace('"payload.ts_ms"', '"payload.op"'), encoding="utf-8")
    p.produce([change(0)], partition=0)
    with p.running(until_end=True) as run:
        assert run.process.wait(60) == 1, "the model has learned records that were read in another way"
        assert "its records were read with another value of [records].ts" in run.log()


def produce(p: Project, topic: str, records: Sequence[tuple[bytes | None, Any, float]]) -> None:
    """Send values with headers and times, in seconds, by the key of one customer each."""
    producer = Producer({**p.client, "linger.ms": 5, "enable.idempotence": True})
    for number, (value, headers, at_s) in enumerate(records):
        key = f"customer-{number % 3}"
        producer.produce(topic, value, key, 0, headers=headers, timestamp=round(at_s * 1_000))
        producer.poll(0)
    assert producer.flush(30) == 0, "Kafka took the records"


def test_binary_cloud_events_by_key_are_joined_with_labels_by_the_paths_of_both(project: Make) -> None:
    count, now = 300, time.time() - 600
    p = configured(project(partitions=1), CLOUD_EVENTS)
    labels = f"{p.name}.truths"
    p.settings["HEADRACE__TOPICS__LABELS"] = labels
    Topics(p.client).create(labels, 1)
    at = [time.strftime("%Y-%m-%dT%H:%M:%S.5Z", time.gmtime(now + number)) for number in range(count)]
    events: list[tuple[bytes | None, Any, float]] = [
        (b'{"amount": %d}' % n, [("ce_id", f"e-{n}".encode()), ("ce_time", at[n].encode())], now + n)
        for n in range(count)
    ]
    events[7] = (events[7][0], [("ce_id", b"e-7"), ("ce_time", b"yesterday")], now + 7)
    events[9] = (None, None, now + 9)
    truths: list[tuple[bytes | None, Any, float]] = [
        (json.dumps({"data": {"order": f"e-{n}", "fraud": n % 2 == 0}}).encode(), None, now + n + 1)
        for n in range(count)
    ]
    truths[9] = (None, None, now + 10)
    produce(p, p.features, events)
    produce(p, labels, truths)
    p.run_to_end()
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    assert [answer["id"] for answer in answers] == [f"e-{n}" for n in range(count) if n not in {7, 9}]
    for answer in answers:
        assert answer["features"] == {"amount": answer["source"]["offset"]}
        assert answer["prediction"] == (answer["proba"]["true"] >= 0.25)
    assert any(answer["prediction"] and answer["proba"]["true"] < 0.5 for answer in answers), "the threshold decides"
    [letter] = p.read(p.dead_letters)[0]
    reason = {name: text.decode() for name, text in letter.headers()}
    assert (reason["dlq.code"], reason["dlq.field"]) == ("bad_time", "$headers.ce_time")
    report = p.status()
    wanted = {"records": count, "predictions": count - 2, "dead_letters": 1, "skipped": 1, "learned": count - 2}
    assert report["counts"] == wanted
    assert (report["labels"]["records"], report["labels"]["joined"]) == (count - 1, count - 2)


def test_a_function_makes_records_of_any_form_and_its_floods_are_called_its_own(project: Make) -> None:
    p = configured(project(partitions=1, model=MODEL), FUNCTION)
    orders = [
        {"number": n, "state": "draft" if n % 4 == 3 else "sent", "price": n % 9, "bad": n % 2} for n in range(400)
    ]
    p.produce([json.dumps(order).encode() for order in orders], partition=0)
    p.run_to_end()
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    assert [answer["id"] for answer in answers] == [str(n) for n in range(400) if n % 4 != 3]
    assert p.status()["counts"] == {
        "records": 400,
        "predictions": 300,
        "dead_letters": 0,
        "skipped": 100,
        "learned": 300,
    }
    p.produce([b'{"number": 1, "state": "sent", "price": "high", "bad": 0}'] * 1_000, partition=0)
    with p.running(until_end=True) as run:
        assert run.process.wait(60) == 1, "a flood is not waited for"
        assert "records.transform fails on nearly every record" in run.log()
        assert "correct the function" in run.log()
    report = p.status()
    assert report["state"] == "stopped"
    assert f"{p.features}[0]@400: records.transform raised TypeError" in report["reason"], "it is known after the stop"
