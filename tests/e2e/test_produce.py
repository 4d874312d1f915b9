"""`produce` and `tail` on a real Kafka: bytes as they were given, each with its outcome; the last of a topic."""

import contextlib
import gzip
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from harness import Project, wait_until
from pyarrow import parquet

from headrace.consumers.source import SourceAway
from headrace.consumers.topics import Topics
from headrace.pipeline.commands.tail import tail
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config
from headrace.pipeline.dlq.dead_letters import DeadLetterError
from headrace.pipeline.files.file_kind import FileRefused
from headrace.pipeline.produce.produce import produce

Make = Callable[..., Project]
Capture = pytest.CaptureFixture[str]

BOUND_S = 60.0
# What Java's client computes of these keys, from the test of its Utils.murmur2 that every client copies.
MURMUR2 = {
    b"kafka": 0xD067CF64,
    b"giberish123456789": 0x8F552B0C,
    b"1234": 0x9FC97B14,
    b"234": 0xE7C009CA,
    b"4": 0x5A4B5CA1,
}
CALL = """
import sys
from pathlib import Path
from headrace.pipeline.config import config
from headrace.pipeline.{module} import {name}

sys.exit({name}(config.load(Path(sys.argv[1])), {options}))
"""


def config_of(project: Project, **flags: Any) -> Config:
    addresses = project.stack.addresses
    return configuration.load(
        project.file,
        flags={
            "kafka.bootstrap_servers": addresses.kafka,
            "redis.url": addresses.redis,
            "topics.features": project.features,
            "topics.predictions": project.predictions,
            "topics.dead_letters": project.dead_letters,
            **flags,
        },
    )


@contextlib.contextmanager
def calling(project: Project, module: str, options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in a process of its own, with pipes at both of its ends."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            CALL.format(module=module, name=module.rpartition(".")[2], options=options),
            str(project.file),
        ],
        env=project.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def features(project: Project) -> list[Any]:
    return [message for messages in project.read(project.features).values() for message in messages]


def given(tmp_path: Path, content: bytes, name: str = "given.jsonl") -> Path:
    file = tmp_path / name
    file.write_bytes(content)
    return file


def record(number: int, **more: Any) -> bytes:
    return json.dumps({"id": f"r-{number}", "features": {"a": number / 7}, "label": number % 2 == 0, **more}).encode()


def test_each_line_that_is_not_empty_goes_in_byte_for_byte(project: Make, tmp_path: Path, capsys: Capture) -> None:
    made = project()
    lines = [b'{"features": {"a": 1}}', b"  broken \xff\x00 ", b'{"a": NaN}', "ø".encode(), b"last, without an end"]
    file = given(tmp_path, lines[0] + b"\n\n" + lines[1] + b"\r\n" + b"\r\n" + b"\n".join(lines[2:]))
    assert produce(config_of(made), file=file) == 0
    assert Counter(message.value() for message in features(made)) == Counter(lines)
    assert all(message.key() is None for message in features(made))
    assert capsys.readouterr().out.startswith(f"5 records to {made.features} in ")
    assert {made.features, made.predictions, made.dead_letters} <= set(Topics(made.client).partitions())
    assert produce(config_of(made), file=file, json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"records": 5, "topic": made.features, "refused": 0}


def test_a_key_goes_to_the_partition_that_a_java_producer_gives_it(project: Make, tmp_path: Path) -> None:
    made = project(partitions=7)
    lines = [json.dumps({"features": {"who": key.decode(), "n": n}}) for n in (1, 2) for key in MURMUR2]
    lines += [
        '{"features": {"n": 3}}',
        "broken",
        '{"who": 5, "features": {}}',
        '{"features": {"who": 2.5}, "who": "x"}',
    ]
    assert produce(config_of(made), file=given(tmp_path, "\n".join(lines).encode()), key="who") == 0
    found = features(made)
    partitions = {(message.key(), message.partition()) for message in found if message.key() in MURMUR2}
    assert partitions == {(key, (number & 0x7FFFFFFF) % 7) for key, number in MURMUR2.items()}
    others = Counter(message.key() for message in found if message.key() not in MURMUR2)
    assert others == {None: 2, b"5": 1, b"2.5": 1}


def test_records_without_a_key_are_spread_one_by_one(project: Make, tmp_path: Path) -> None:
    made = project(partitions=4)
    # What comes while a partition of a new topic has no leader yet goes to the others.
    wait_until(lambda: all(n >= 0 for n in _leaders(made)), what="each partition to have a leader")
    produce(config_of(made), file=given(tmp_path, b"1\n" * 30_000))
    counts = [len(messages) for messages in made.read(made.features).values()]
    assert sum(counts) == 30_000
    assert min(counts) > 7_000


def _leaders(made: Project) -> list[int]:
    partitions = AdminClient(made.client).list_topics(made.features, timeout=10).topics[made.features].partitions
    return [partition.leader for partition in partitions.values()]


def test_csv_with_a_header_becomes_typed_records(project: Make, tmp_path: Path) -> None:
    made = project()
    text = 'id,amount,country,member,fraud\n1,12.50,"N,O",TRUE,false\n2,,SE,false,\n'
    assert (
        produce(config_of(made), file=given(tmp_path, text.encode(), "a.csv"), label="fraud", id_="id", key="country")
        == 0
    )
    found = {message.key(): json.loads(message.value()) for message in features(made)}
    assert found == {
        b"N,O": {"id": "1", "features": {"amount": 12.5, "country": "N,O", "member": True}, "label": False},
        b"SE": {"id": "2", "features": {"country": "SE", "member": False}},
    }


def test_a_table_of_any_form_becomes_records_and_missing_keys_are_told(
    project: Make, tmp_path: Path, capsys: Capture
) -> None:
    made = project()
    text = ";amount;land;teil;fraud\n0;1.234,50;NO;007;1\n1;3,5;;A17;0\n2;;SE;9E999;0\n"
    assert produce(config_of(made), file=given(tmp_path, text.encode(), "a.csv"), label="fraud", key="land") == 0
    told = capsys.readouterr().err.splitlines()
    table = pa.table({"amount": [0.5, None], "fraud": [True, False]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert produce(config_of(made), file=tmp_path / "a.parquet", label="fraud") == 0
    found = {message.value(): message.key() for message in features(made)}
    assert {json.dumps(json.loads(value)): key for value, key in found.items()} == {
        '{"features": {"amount": 1234.5, "land": "NO", "teil": "007"}, "label": 1}': b"NO",
        '{"features": {"amount": 3.5, "teil": "A17"}, "label": 0}': None,
        '{"features": {"land": "SE", "teil": "9E999"}, "label": 0}': b"SE",
        '{"features": {"amount": 0.5}, "label": true}': None,
        '{"features": {}, "label": false}': None,
    }
    assert told == [
        "the delimiter is a semicolon",
        "numbers have a decimal comma",
        "the first column has no name and is left out; it looks like the index of a table",
        "1 have no land, and were sent without a key",
    ]


def test_with_wait_each_record_has_its_outcome_in_the_order_of_the_file(
    project: Make, tmp_path: Path, capsys: Capture
) -> None:
    made = project()
    lines = [b"broken" if n % 10 == 3 else record(n) for n in range(300)]
    file = given(tmp_path, b"\n".join(lines))
    config = config_of(made)
    with made.running():
        assert produce(config, file=file, wait=True, json=True, timeout_s=BOUND_S) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert produce(config, file=file, wait=True, timeout_s=BOUND_S) == 0
        said = capsys.readouterr()
    assert [one["outcome"] for one in told] == ["dead_letter" if line == b"broken" else "prediction" for line in lines]
    assert [one["prediction"]["id"] for one in told if "prediction" in one] == [
        f"r-{n}" for n in range(300) if n % 10 != 3
    ]
    assert all(one["prediction"]["source"] == one["source"] for one in told if "prediction" in one)
    values = {(message.partition(), message.offset()): message.value() for message in features(made)}
    assert [values[one["source"]["partition"], one["source"]["offset"]] for one in told] == lines
    assert told[3]["dead_letter"]["code"] == "not_json"
    human = said.out.splitlines()
    assert len(human) == 300
    assert human[3].startswith(f"→ {made.dead_letters}[")
    assert "  400 not_json  the value is not JSON" in human[3]
    assert human[4].startswith(f"→ {made.predictions}[")
    assert f"  {made.name} v" in human[4]
    assert human[4].endswith(" ms")
    assert f"300 records to {made.features}" in said.err


def test_with_wait_a_skipped_record_is_told_when_the_pipeline_has_passed_it(
    project: Make, tmp_path: Path, capsys: Capture
) -> None:
    made = project(settings={"HEADRACE__RECORDS__EMPTY": "skip"})
    config = config_of(made, **{"records.empty": "skip"})
    file = given(tmp_path, record(1) + b'\n{"features": null, "id": "gone"}\n' + record(2))
    with made.running():
        assert produce(config, file=file, wait=True, json=True, timeout_s=BOUND_S) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert produce(config, file=file, wait=True, timeout_s=BOUND_S) == 0
        said = capsys.readouterr().out.splitlines()
    assert [one.get("outcome") for one in told] == ["prediction", None, "prediction"]
    assert told[1] == {"skipped": True, "source": {"topic": made.features, **position_of(made, b'"gone"')}}
    assert [line.endswith("  skipped") for line in said] == [False, True, False]
    assert "  r-1  " in said[0]


def position_of(made: Project, part: bytes) -> dict[str, int]:
    """Return the place of the first record that has these bytes."""
    found = [message for message in features(made) if part in message.value()]
    first = min(found, key=lambda message: message.timestamp()[1])
    return {"partition": first.partition(), "offset": first.offset()}


def test_with_wait_an_outcome_is_printed_while_the_next_record_is_still_being_typed(project: Make) -> None:
    made = project()
    with made.running(), calling(made, "produce.produce", "wait=True, json=True") as process:
        for value, outcome in ((record(1), "prediction"), (b"broken", "dead_letter")):
            process.stdin.write(value.decode() + "\n")
            assert json.loads(process.stdout.readline())["outcome"] == outcome
        out, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_record_that_nobody_answers_is_told_of_with_the_command_to_look(
    project: Make, tmp_path: Path, capsys: Capture
) -> None:
    made = project()
    file = given(tmp_path, record(1) + b"\n" + record(2))
    started = time.monotonic()
    assert produce(config_of(made), file=file, wait=True, timeout_s=1) == 1
    assert time.monotonic() - started < 30
    told = capsys.readouterr()
    assert told.out == ""
    assert "2 have no outcome after 1 s" in told.err
    assert "headrace status" in told.err
    assert len(features(made)) == 2


def test_a_record_that_kafka_refuses_is_counted_and_the_others_go_in(
    project: Make, tmp_path: Path, capsys: Capture
) -> None:
    made = project()
    file = given(tmp_path, record(1) + b"\n" + b"x" * 3_000_000 + b"\n" + record(2))
    assert produce(config_of(made), file=file) == 1
    assert "1 of 3 records were not taken: " in capsys.readouterr().err
    assert len(features(made)) == 2


def test_what_can_not_be_read_is_refused_before_anything_is_sent(project: Make, tmp_path: Path) -> None:
    made = project()
    config = config_of(made, **{"topics.labels": f"{made.name}.labels"})
    for name, content, options, words in (
        ("absent.jsonl", None, {}, "can't be read"),
        ("a.jsonl", record(1), {"label": "x"}, "columns of a table"),
        ("a.csv", b"a,b\n1,2\n", {"label": "x"}, "--label x: there is no such column"),
        ("b.csv", b"a,a\n1,2\n", {}, "two columns"),
        ("c.csv", b"a,b\n1,2\n" * 5_000 + b"1,2,3\n", {}, "3 cells"),
        ("d.csv", record(1), {}, "JSON"),
        ("e.jsonl", json.dumps([{"features": {"a": 1}}] * 3, indent=2).encode(), {}, "a JSON array"),
        ("f.jsonl", gzip.compress(record(1)), {}, "compressed with gzip"),
        ("g.csv", "a,b\n1,2\n".encode("utf-16"), {}, "UTF-16"),
        ("g.txt", b"a,b\n1,2\n", {}, "looks like CSV"),
        ("h.parquet", b"a,b\n1,2\n", {}, "not Parquet"),
        ("i.jsonl", b'{"id": "a", "label": 1}\n{"id": "b"}', {"labels": True}, "record 2 is not a label"),
    ):
        file = tmp_path / name if content is None else given(tmp_path, content, name)
        with pytest.raises(FileRefused, match=words) as raised:
            produce(config, file=file, **options)
        assert raised.value.hint
    assert features(made) == []
    assert made.features in Topics(made.client).partitions()
    assert f"{made.name}.labels" not in Topics(made.client).partitions()


def test_a_broker_that_is_away_is_told_in_bounded_time(project: Make, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        config = config_of(project(), **{"kafka.bootstrap_servers": f"127.0.0.1:{closed.getsockname()[1]}"})
        started = time.monotonic()
        with pytest.raises(SourceAway) as raised:
            produce(config, file=given(tmp_path, record(1)))
        with pytest.raises(Exception, match="can't be read") as other:
            tail(config, which="predictions")
    assert raised.value.status == other.value.status == 503
    assert time.monotonic() - started < 30


def transactions(made: Project, topic: str, sizes: Sequence[int], *, partition: int, abort: bool = False) -> None:
    producer = Producer({**made.client, "transactional.id": f"{made.name}-test"})
    producer.init_transactions(30)
    for size in sizes:
        producer.begin_transaction()
        for number in range(size):
            producer.produce(topic, b'{"n": "%d-%d-%d"}' % (partition, abort, number), partition=partition)
        producer.flush(30)
        producer.abort_transaction(30) if abort else producer.commit_transaction(30)


def test_tail_finds_the_last_records_behind_markers_and_aborted_transactions(project: Make, capsys: Capture) -> None:
    made = project()
    Topics(made.client).create(made.predictions, 2)
    config = config_of(made)
    assert tail(config, which="predictions") == 0
    assert capsys.readouterr().out == ""
    transactions(made, made.predictions, [7], partition=0)
    transactions(made, made.predictions, [1] * 30, partition=1)
    transactions(made, made.predictions, [40] * 5, partition=0, abort=True)
    transactions(made, made.predictions, [1], partition=0)

    def last(n: int) -> list[str]:
        tail(config, which="predictions", n=n)
        return [json.loads(line)["n"] for line in capsys.readouterr().out.splitlines()]

    wait_until(lambda: last(1) == ["0-0-0"], what="the last transaction to be readable")
    assert last(3) == ["1-0-0", "1-0-0", "0-0-0"]
    assert last(38) == last(100) == [*(f"0-0-{n}" for n in range(7)), *["1-0-0"] * 30, "0-0-0"]
    assert last(0) == []


def test_tail_follows_what_comes_until_an_interrupt_and_exits_0(project: Make) -> None:
    made = project()
    Topics(made.client).create(made.dead_letters, 2)
    producer = Producer(made.client)

    def write(value: bytes) -> None:
        producer.produce(made.dead_letters, value, b"k", partition=1, headers=[("dlq.code", b"c"), ("h", b"v")])
        assert producer.flush(30) == 0

    write(b"one")
    with calling(made, "commands.tail", "which='dlq', n=5, follow=True") as process:
        assert json.loads(process.stdout.readline())["value"] == "one"
        for value in ("two", "three"):
            write(value.encode())
            envelope = json.loads(process.stdout.readline())
            assert (envelope["value"], envelope["key"], envelope["partition"]) == (value, "k", 1)
            assert envelope["headers"]["h"] == "v"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out, err) == (0, "", "")
    with pytest.raises(DeadLetterError, match="there is no topic"):
        tail(config_of(made), which="predictions", follow=True)
