"""`init --from` on the real Kafka: the project that it writes for a topic runs at once, whatever the records are."""

import json
import os
import tomllib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import topic_shapes
from confluent_kafka import Producer
from harness import nursery, wait_until

from headrace.consumers.topics import Topics
from headrace.pipeline.embedded import Stack

# A user's shell, not that of these tests.
ENV = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}


def call(*words: str, code: int = 0, env: dict[str, str] | None = None) -> Any:
    done = nursery().call(list(words), env=env or ENV)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def topic_of(stack: Stack, values: Sequence[bytes | None], headers: Sequence[Any] = ()) -> str:
    name = f"i{uuid.uuid4().hex[:8]}"
    client = {"bootstrap.servers": stack.addresses.kafka, "log_level": 2}
    Topics(client).create(name, 2)
    producer = Producer(client)
    for number, value in enumerate(values):
        producer.produce(name, value, partition=number % 2, headers=headers[number] if headers else None)
    assert producer.flush(30) == 0
    return name


def addresses(stack: Stack) -> list[str]:
    return ["--bootstrap-servers", stack.addresses.kafka, "--redis-url", stack.addresses.redis]


@pytest.mark.parametrize("shape", [*topic_shapes.SHAPES, "binary"])
def test_a_project_for_an_existing_topic_runs_at_once(stack: Stack, tmp_path: Path, shape: str) -> None:
    values: Sequence[bytes | None]
    values, headers = topic_shapes.binary() if shape == "binary" else (topic_shapes.values_of(shape), ())
    topic = topic_of(stack, values, headers)
    directory = tmp_path / topic
    file = str(directory / "headrace.toml")
    told = call("init", str(directory), "--from", topic, *addresses(stack)).stdout
    assert f"{len(values):,} records were read from the end of {topic}" in told
    assert "none refused" in told
    checked = json.loads(call("check", topic, "--json", "-c", file).stdout)
    assert (checked["records"], checked["refused"]) == (len(values), {})
    call("run", "--until-end", "-c", file)
    counts = json.loads(call("status", "--json", "-c", file).stdout)["counts"]
    assert counts["dead_letters"] == 0
    assert counts["skipped"] == checked["skipped"] == (20 if shape == "debezium" else 0)
    assert counts["predictions"] == checked["good"] == len(values) - checked["skipped"]
    assert counts["learned"] > 0
    assert tomllib.loads((directory / "headrace.toml").read_text())["topics"]["dead_letters"] == f"dlq.{topic}"
    # Other projects may send to the same topic of predictions.
    last = [json.loads(line) for line in call("tail", "-n", "1000", "-c", file).stdout.splitlines()]
    assert topic in {one["source"]["topic"] for one in last}
    own = [one for one in last if one["source"]["topic"] == topic]
    # Without a label the project has an anomaly detector.
    assert all(("score" in one) == (shape == "unlabelled") for one in own)


def test_a_topic_from_which_no_project_can_be_made_is_refused_and_nothing_is_written(
    stack: Stack, tmp_path: Path
) -> None:
    directory = tmp_path / "project"
    empty, text = topic_of(stack, []), topic_of(stack, [b"plain text", b"\0\0\0\0\1xyz"])
    for topic, words in (
        (empty, f"{empty} is empty"),
        (text, "no record of the sample is a JSON object"),
        (f"{empty}x", f"there is no topic {empty}x"),
    ):
        done = call("init", str(directory), "--from", topic, *addresses(stack), code=1)
        problem, hint = done.stderr.splitlines()
        assert words in problem
        assert hint.startswith("  → ")
        assert not directory.exists()


def test_secrets_of_the_addresses_stand_in_the_project_as_references(stack: Stack, tmp_path: Path) -> None:
    topic = topic_of(stack, topic_shapes.values_of("flat"))
    host = stack.addresses.redis.partition("://")[2]
    # The embedded store has no password: its default user takes any.
    words = ["init", str(tmp_path / "p"), "--from", topic, "--bootstrap-servers", stack.addresses.kafka]
    told = call(*words, "--redis-url", f"redis://:s3cretpass@{host}", "--label", "known").stdout
    text = (tmp_path / "p/headrace.toml").read_text()
    assert f'url = "redis://:${{env:REDIS_PASSWORD}}@{host}"' in text
    assert "s3cretpass" not in text + told
    assert "Set the environment variable REDIS_PASSWORD" in told
    assert 'label = "known"' in text
    words[1] = str(tmp_path / "q")
    told = call(*words, "--redis-url", f"redis://{host}?password=s3cretpass", "--label", "known").stdout
    text = (tmp_path / "q/headrace.toml").read_text()
    assert 'url = "${env:REDIS_URL}"' in text
    assert "s3cretpass" not in text + told


def test_check_reads_a_file_as_produce_would_send_it_and_sends_nothing(stack: Stack, tmp_path: Path) -> None:
    topic = topic_of(stack, topic_shapes.values_of("flat"))
    directory = tmp_path / topic
    call("init", str(directory), "--from", topic, *addresses(stack))
    table = directory / "table.csv"
    table.write_text("amount;country;hour;known;is_fraud\n12,5;NO;3;true;1\n7;SE;;false;0\nx;NO;1;true;1\n")
    done = call("check", str(table), "--json", "-c", str(directory / "headrace.toml"), code=1)
    told = json.loads(done.stdout)
    # One cell that is not a number makes text of the column, and the schema wants numbers.
    assert (told["records"], told["good"], told["refused"]) == (3, 0, {"wrong_type": 3})
    assert "the delimiter is a semicolon" in done.stderr
    table.write_text("amount;country;hour;known;is_fraud\n12,5;NO;3;true;1\n7;SE;4;false;0\n")
    done = call("check", str(table), "-c", str(directory / "headrace.toml"))
    assert done.stdout.startswith("2 records: 2 good, none refused\n")
    call("run", "--until-end", "-c", str(directory / "headrace.toml"))
    wait_until(lambda: call("status", "--json", "-c", str(directory / "headrace.toml")), what="status to answer")
    counts = json.loads(call("status", "--json", "-c", str(directory / "headrace.toml")).stdout)["counts"]
    assert counts["records"] == topic_shapes.COUNT
