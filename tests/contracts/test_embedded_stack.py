"""The embedded stack on real servers: side by side, across restarts, frozen, killed, orphaned."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from headrace.pipeline.embedded import Addresses, EmbeddedError, Server, Stack
from headrace.pipeline.embedded.reaper import ended

# On one process of the test run, so that the pair is started once.
pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("stacks")]

BOUND_S = 30.0
UP = """
import pathlib, sys
from headrace.pipeline.commands.up import up
sys.exit(up(json=True, data_dir=pathlib.Path(sys.argv[1])))
"""
HOLD = """
import time
from headrace.pipeline.embedded import Stack
with Stack() as stack:
    print(stack.data_dir, flush=True)
    time.sleep(300)
"""
ROOT = Path(__file__).parents[2]


def await_true(condition: Callable[[], bool], *, bound_s: float = BOUND_S) -> None:
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def admin(address: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": address, "log_level": 0})


def kafka_answers(address: str, *, within_s: float = 1.0) -> bool:
    try:
        admin(address).list_topics(timeout=within_s)
    except KafkaException:
        return False
    return True


def redis_answers(url: str, *, within_s: float = 1.0) -> bool:
    with closing(redis.Redis.from_url(url, socket_timeout=within_s, retry=None)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def create(address: str, topic: str) -> None:
    client = admin(address)  # it has to live until its answer comes
    client.create_topics([NewTopic(topic, 1)])[topic].result(BOUND_S)


def write(addresses: Addresses, text: str) -> None:
    create(addresses.kafka, "kept")
    producer = Producer({"bootstrap.servers": addresses.kafka, "log_level": 0})
    producer.produce("kept", text.encode(), partition=0)
    assert producer.flush(BOUND_S) == 0
    with closing(redis.Redis.from_url(addresses.redis)) as client:
        client.set("kept", text)


def read(addresses: Addresses) -> tuple[str, str]:
    consumer = Consumer({"bootstrap.servers": addresses.kafka, "group.id": "reader", "log_level": 0})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(BOUND_S)
    consumer.close()
    assert message is not None
    assert message.error() is None
    value = message.value()
    assert value is not None
    with closing(redis.Redis.from_url(addresses.redis, decode_responses=True)) as client:
        return value.decode(), str(client.get("kept"))


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Stack]]:
    """Two stacks, started at the same moment."""
    with ExitStack() as stacks, ThreadPoolExecutor(2) as pool:
        yield list(pool.map(stacks.enter_context, [Stack(), Stack()]))


@contextmanager
def running_up(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], Addresses]]:
    """Run `headrace up` in a process of its own, which the block may end as it likes."""
    process = subprocess.Popen([sys.executable, "-c", UP, str(data_dir)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], BOUND_S)[0], "no address in time"
            printed = json.loads(process.stdout.readline())
            yield process, Addresses(printed["kafka"], printed["redis"], "kafka")
        finally:
            process.kill()


def children(pid: int) -> set[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    return {int(child) for child, parent in map(str.split, listed.stdout.splitlines()) if int(parent) == pid}


def test_two_stacks_started_at_once_keep_out_of_each_other(pair: list[Stack]) -> None:
    first, second = pair
    write(first.addresses, "first")
    write(second.addresses, "second")
    assert read(first.addresses) == ("first", "first")
    assert read(second.addresses) == ("second", "second")
    assert first.data_dir != second.data_dir


def test_frozen_servers_do_not_answer_until_they_are_thawed(pair: list[Stack]) -> None:
    addresses = pair[1].addresses
    servers: list[tuple[Server, Callable[[], bool]]] = [
        (pair[1].kafka, lambda: kafka_answers(addresses.kafka, within_s=0.5)),
        (pair[1].store, lambda: redis_answers(addresses.redis, within_s=0.2)),
    ]
    for server, answers in servers:
        server.freeze()
        assert not answers()
        assert server.running
        server.thaw()
        await_true(answers)


def test_a_killed_server_comes_back_at_its_address_with_its_data(pair: list[Stack]) -> None:
    stack = pair[0]
    with closing(redis.Redis.from_url(stack.addresses.redis)) as client:
        client.set("before", "the crash")
    before = stack.addresses, stack.kafka.pid, stack.store.pid
    create(stack.addresses.kafka, "before")
    stack.kafka.kill()
    stack.store.freeze()
    stack.store.stop()
    assert not stack.kafka.running
    assert not stack.store.running
    stack.store.start()
    stack.kafka.start()
    assert stack.addresses == before[0]
    assert not {stack.kafka.pid, stack.store.pid} & set(before[1:])
    with closing(redis.Redis.from_url(stack.addresses.redis)) as client:
        assert client.get("before") == b"the crash"
    assert "before" in admin(stack.addresses.kafka).list_topics(timeout=BOUND_S).topics


def test_up_keeps_its_data_after_sigterm_and_leaves_nothing_behind_after_sigkill(tmp_path: Path) -> None:
    with running_up(tmp_path) as (process, addresses):
        write(addresses, "kept")
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
        assert not kafka_answers(addresses.kafka)
        assert not redis_answers(addresses.redis)
    with running_up(tmp_path) as (process, again):
        assert again == addresses
        assert read(again) == ("kept", "kept")
        servers = children(process.pid)
        assert len(servers) == 3, "Kafka, Valkey and the reaper"
        process.kill()
        await_true(lambda: all(map(ended, servers)))


def test_a_temporary_directory_goes_with_a_killed_process() -> None:
    environment = {**os.environ, "HEADRACE_EMBEDDED_KAFKA": "mock"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stdout is not None
        data_dir = Path(process.stdout.readline().strip())
        servers = children(process.pid)
        assert data_dir.is_dir()
        process.kill()
        await_true(lambda: not data_dir.exists())
        await_true(lambda: all(map(ended, servers)))


def test_without_the_jars_the_mock_stands_in_and_says_what_it_cannot_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    told: list[str] = []
    with Stack(progress=told.append) as stack:
        assert stack.addresses.kind == "mock"
        assert kafka_answers(stack.addresses.kafka)
        assert redis_answers(stack.addresses.redis)
        with pytest.raises(EmbeddedError):
            stack.kafka.kill()
    assert "at-least-once only" in told[-1]
    assert all(len(line.splitlines()) == 1 for line in told)
    monkeypatch.setenv("HEADRACE_EMBEDDED_KAFKA", "kafka")
    with pytest.raises(EmbeddedError) as raised, Stack():
        pass
    assert "HEADRACE_EMBEDDED_KAFKA=mock" in raised.value.hint


def test_a_directory_in_use_is_refused_by_name(pair: list[Stack], tmp_path: Path) -> None:
    (tmp_path / "kafka-1").mkdir()
    with pytest.raises(EmbeddedError, match="1 brokers, not of 3"), Stack(data_dir=tmp_path, brokers=3):
        pass
    assert pair[0].kafka.running


def test_a_start_that_fails_shows_the_last_words_and_leaves_the_log_to_read() -> None:
    with (
        pytest.raises(EmbeddedError, match=r"process\.roles") as raised,
        Stack(kafka_settings={"process.roles": "king"}),
    ):
        pass
    home = Path(raised.value.hint.removeprefix("see "))
    assert any(home.iterdir())
    shutil.rmtree(home.parent)
