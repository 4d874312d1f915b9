"""The shared parts of the end-to-end tests: a project on the real Kafka and store, and ways to feed and disturb it."""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oracle
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from nursery import Forked, Nursery

from headrace.consumers.topics import Topics
from headrace.pipeline.embedded import Stack
from headrace.pipeline.recovery import offset_metadata

PATIENCE_S = float(os.environ.get("HEADRACE_TEST_PATIENCE_S", "60"))
"""The time limit for a run to its end, and for a stream until it is committed; shorter when a bug was seeded."""

LOGISTIC = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""

_LOOK_S = 0.1


@functools.cache
def nursery() -> Nursery:
    """Return the fork server of this run of the tests."""
    made = Nursery()
    atexit.register(made.end)
    return made


def wait_until(condition: Callable[[], Any], *, what: str, timeout_s: float = 30.0) -> Any:
    """Wait for a condition; fail with `what` if it does not come true."""
    asked = time.monotonic()
    until = asked + timeout_s
    while not (answer := condition()):
        now = time.monotonic()
        assert now < until, f"waited {timeout_s:.0f} s for {what}"
        # A look that starts a command takes a core from what it waits for.
        time.sleep(max(_LOOK_S, now - asked))
        asked = time.monotonic()
    return answer


_PASSING = {KafkaError._TIMED_OUT, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}


@dataclass
class Project:
    """A pipeline with its own name and topics on a shared stack."""

    stack: Stack
    directory: Path
    partitions: int = 2
    settings: dict[str, str] = field(default_factory=dict)
    model: str = LOGISTIC
    name: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    sent: dict[int, list[bytes | None]] = field(default_factory=dict)
    _asker: Consumer | None = None

    def __post_init__(self) -> None:
        # A change by one test must not reach the next one.
        self.settings = dict(self.settings)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "model.py").write_text(self.model)
        self.file = self.directory / "headrace.toml"
        self.file.write_text(f'name = "{self.name}"\n')
        self.features, self.predictions = f"{self.name}.in", f"{self.name}.out"
        self.dead_letters = f"dlq.{self.features}"
        self.sent = {partition: [] for partition in range(self.partitions)}
        if self.stack.addresses.kind == "kafka":
            Topics(self.client).create(self.features, self.partitions)

    @property
    def client(self) -> dict[str, Any]:
        # After an outage a client may wait ten seconds before it reconnects: too long for a question of a test.
        return {
            "bootstrap.servers": self.stack.addresses.kafka,
            "log_level": 2,
            "reconnect.backoff.max.ms": 500,
            "metadata.recovery.rebootstrap.trigger.ms": 5_000,
        }

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "HEADRACE__KAFKA__BOOTSTRAP_SERVERS": self.stack.addresses.kafka,
            "HEADRACE__REDIS__URL": self.stack.addresses.redis,
            "HEADRACE__TOPICS__FEATURES": self.features,
            "HEADRACE__TOPICS__PREDICTIONS": self.predictions,
            **self.settings,
        }

    @contextlib.contextmanager
    def running(self, *, workers: int = 1, until_end: bool = False, on_loss: str = "relearn") -> Iterator["Run"]:
        words = ["run", "--workers", str(workers), "--on-state-loss", on_loss] + (["--until-end"] if until_end else [])
        log_file = self.directory / f"run-{len(list(self.directory.glob('run-*.log')))}.log"
        log = log_file.open("wb")
        process = nursery().start([*words, "-c", str(self.file)], env=self.env, stdout=log, stderr=log)
        run = Run(process, log_file)
        try:
            yield run
        finally:
            run.end()
            log.close()

    def run_to_end(self, *, timeout_s: float = PATIENCE_S, workers: int = 1, on_loss: str = "relearn") -> str:
        with self.running(until_end=True, workers=workers, on_loss=on_loss) as run:
            code = run.process.wait(timeout_s)
            assert code == 0, run.log()
            return run.log()

    def produce(self, values: Sequence[bytes | None], *, partition: int) -> None:
        producer = Producer({**self.client, "linger.ms": 5, "enable.idempotence": True})
        for value in values:
            producer.produce(self.features, value, partition=partition)
            producer.poll(0)
        assert producer.flush(30) == 0, "Kafka took the records"
        self.sent[partition].extend(values)

    def status(self) -> dict[str, Any]:
        done = nursery().call(["status", "--json", "-c", str(self.file)], env=self.env)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def committed(self) -> dict[int, tuple[int, offset_metadata.OffsetMetadata | None]]:
        places = wait_until(self._committed, what="the committed offsets to be told", timeout_s=60)
        return {place.partition: (place.offset, offset_metadata.read(place.metadata or "")) for place in places}

    def _committed(self) -> list[TopicPartition] | None:
        # One client for all questions: to create a client costs more than to ask. It reads the last commit at once,
        # while a stable read waits for a moment without an open transaction, which a busy pipeline hardly has.
        if self._asker is None:
            self._asker = Consumer({**self.client, "group.id": self.name, "isolation.level": "read_uncommitted"})
        try:
            return self._asker.committed([TopicPartition(self.features, p) for p in self.sent], timeout=20)
        except KafkaException as error:
            # While a broker returns, the coordinator moves, loads, and waits for open transactions.
            if not (error.args[0].retriable() or error.args[0].code() in _PASSING):
                raise
            self._asker.close()
            self._asker = None
            return None

    def all_committed(self) -> bool:
        return all(max(offset, 0) >= len(self.sent[p]) for p, (offset, _) in self.committed().items())

    def wait_for_all(self, *, timeout_s: float = PATIENCE_S) -> None:
        wait_until(self.all_committed, what=f"all of {self.name} to be committed", timeout_s=timeout_s)

    def read(self, topic: str) -> dict[int, list[Any]]:
        """Read a topic to its end as a `read_committed` reader."""
        consumer = Consumer(
            {
                **self.client,
                "group.id": f"{self.name}-reader",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        consumer.assign([TopicPartition(topic, p, 0) for p in self.sent])
        found: dict[int, list[Any]] = {p: [] for p in self.sent}
        open_partitions = set(self.sent)
        until = time.monotonic() + 60
        while open_partitions:
            assert time.monotonic() < until, f"{topic} was not read to its end"
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error() is not None:
                if message.error().code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition())
                continue
            found[message.partition()].append(message)
        consumer.close()
        return found

    def check(self, build: Callable[[], Any] = oracle.logistic) -> None:
        """Compare the outputs, and the marks of the committed offsets, with plain River on the same inputs."""
        oracle.hold(self, build)


@dataclass
class Run:
    """A running `headrace run`."""

    process: Forked
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-6_000:]

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, check=False)
        return [int(word) for word in found.stdout.split()]

    def worker(self) -> int:
        return wait_until(self.workers, what="a worker to be started")[0]

    def kill_worker(self) -> None:
        self.kill(self.worker())

    def kill(self, worker: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def stop(self, *, timeout_s: float = 20.0) -> int:
        self.process.terminate()
        return self.process.wait(timeout_s)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Steady(threading.Thread):
    """Produces values at a steady rate to the partitions in turn, until the values or its time end."""

    def __init__(self, project: Project, values: Sequence[bytes], *, per_second: int) -> None:
        super().__init__(daemon=True)
        self._project = project
        self._values = values
        self._per_second = per_second
        self._stop_asked = threading.Event()
        self._undelivered = 0

    def run(self) -> None:
        project = self._project
        producer = Producer(
            {
                **project.client,
                "linger.ms": 5,
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
                # With more, librdkafka needs a whole core while a broker is frozen, and rarely (#4134) a record on its
                # way to one partition is never delivered.
                "max.in.flight.requests.per.connection": 1,
                "on_delivery": self._delivered,
            }
        )
        started = time.monotonic()
        for index, value in enumerate(self._values):
            partition = index % project.partitions
            producer.produce(project.features, value, partition=partition)
            project.sent[partition].append(value)
            producer.poll(0)
            self._stop_asked.wait(max(0.0, started + index / self._per_second - time.monotonic()))
            if self._stop_asked.is_set():
                break
        self._undelivered += producer.flush(120)

    def _delivered(self, error: KafkaError | None, _message: Any) -> None:
        self._undelivered += error is not None

    def stop(self) -> None:
        """Wait until every record is acknowledged, and end."""
        self._stop_asked.set()
        self.join(150)
        assert not self.is_alive(), "the producer ended"
        assert not self._undelivered, f"{self._undelivered} records were not delivered: the test's own producer failed"


@contextlib.contextmanager
def steady(project: Project, values: Sequence[bytes], *, per_second: int) -> Iterator[Steady]:
    """Produce values at a steady rate in the background."""
    producing = Steady(project, values, per_second=per_second)
    producing.start()
    try:
        yield producing
    finally:
        producing.stop()


def values(count: int, *, bad_every: int = 0, seed: int = 0) -> list[bytes]:
    """Generate labelled records; every `bad_every`-th is malformed."""
    state = seed * 7919 + 1
    made: list[bytes] = []
    for index in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        x = [((state >> shift) % 2001 - 1000) / 250 for shift in (8, 20, 32, 44)]
        label = x[0] - 0.5 * x[1] + 0.2 * x[2] > 0
        if bad_every and index % bad_every == bad_every - 1:
            made.append(b'{"id": "bad-%d", "features": {"a": [1]}}' % index)
            continue
        features = dict(zip("abcd", x, strict=True))
        made.append(json.dumps({"id": f"r-{index}", "features": features, "label": label}).encode())
    return made
