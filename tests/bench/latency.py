"""Measures the time of a record from its producer to a `read_committed` reader, at a steady rate, by one clock.

Producer and reader are threads of this process. Each record is sent at its time, even if earlier ones are late, so a
stuck record also delays those behind it, and all of them count. Records in flight at the start are not measured.
"""

import math
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec
from confluent_kafka import KafkaException
from lineup import HEADRACE, TITLES, Lineup
from meter import PeerFailed, stop
from project import Project
from spread import spread, told
from stream import Row, plain
from topic import Board

RATES = (500, 5_000)
PROGRAMS = (HEADRACE, f"{HEADRACE}-alo", "quix-eo", "loop")

_WARM_S = 2.0
_START_S = 60.0
_DRAIN_S = 30.0
_TICK_S = 0.001
_PARTITIONS = 2
# Quix commits at an interval: as short as possible without spending its time on commits.
_QUIX_COMMIT_S = 0.02

Latencies = dict[str, dict[str, float]]
"""Milliseconds by rate: p50, p99 and max, and the number of records."""


class _Id(msgspec.Struct):
    id: str


class Reader(threading.Thread):
    """Reads predictions, and notes when each came first and how many came twice."""

    def __init__(self, board: Board, name: str) -> None:
        super().__init__(daemon=True)
        self._consumer = board.reader(name, _PARTITIONS, **{"fetch.wait.max.ms": 100})
        self._ended = threading.Event()
        self.came_s: dict[str, float] = {}
        self.again = 0
        self.error: Exception | None = None

    def run(self) -> None:
        decode = msgspec.json.Decoder(_Id).decode
        try:
            while not self._ended.is_set():
                message = self._consumer.poll(0.1)
                at_s = time.perf_counter()
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    raise KafkaException(error)  # noqa: TRY301 who waits for the thread raises it
                id_ = decode(message.value() or b"").id
                self.again += id_ in self.came_s
                self.came_s.setdefault(id_, at_s)
        except (KafkaException, msgspec.DecodeError) as error:
            self.error = error
        finally:
            self._consumer.close()

    def end(self) -> None:
        self._ended.set()
        self.join()


class Sender:
    """Sends rows one after another, and notes the times."""

    def __init__(self, board: Board, name: str, rows: Iterator[Row]) -> None:
        self._producer = board.producer(**{"linger.ms": 0})
        self._name = name
        self._rows = enumerate(rows)
        self.sent_s: dict[str, float] = {}

    def send(self, count: int, *, rate: float) -> list[str]:
        """Send this number of rows at a rate, and return their ids."""
        began_s, ids = time.perf_counter(), []
        for number, (index, row) in enumerate(islice(self._rows, count)):
            while (now_s := time.perf_counter()) < began_s + number / rate:
                self._producer.poll(0)
                time.sleep(min(_TICK_S, max(0.0, began_s + number / rate - now_s)))
            ids.append(id_ := f"r-{index}")
            self.sent_s[id_] = time.perf_counter()
            self._producer.produce(self._name, partition=index % _PARTITIONS, **row)
        self._producer.flush(_DRAIN_S)
        return ids


class Bench:
    """Runs of programs until they are stopped, each over its own topics."""

    def __init__(self, project: Project, board: Board, lineup: Lineup, *, seconds: float) -> None:
        self._project = project
        self._board = board
        self._lineup = lineup
        self._seconds = seconds
        self._rows = list(plain(int(sum(RATES) * (seconds + _WARM_S) + _START_S / 0.05)))

    def measure(self, program: str, repeat: int) -> Latencies:
        """Measure one program at each rate. Raises PeerFailed."""
        name = f"bench.latency.{program}.{repeat}"
        self._board.make(name, _PARTITIONS)
        self._board.make(f"{name}.in", _PARTITIONS)
        reader, sender = Reader(self._board, name), Sender(self._board, f"{name}.in", iter(self._rows))
        reader.start()
        try:
            with self._running(program, name) as run:
                _until_warm(sender, reader, run, program)
                found = {str(rate): self._at(rate, sender, reader, program) for rate in RATES}
        finally:
            reader.end()
        if reader.again:
            raise PeerFailed(f"{TITLES[program]} answered {reader.again} records twice")
        return found

    @contextmanager
    def _running(self, program: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        features = f"{name}.in"
        if program.startswith(HEADRACE):
            settings = {} if program == HEADRACE else {"delivery.guarantee": "at-least-once"}
            command, env = self._project.command(name, features=features, settings=settings, until_end=False)
        else:
            bootstrap = self._project.addresses.kafka
            command, env = self._lineup.command(
                program, bootstrap=bootstrap, features=features, output=name, count=0, commit_s=_QUIX_COMMIT_S
            )
        with (
            self._project.log(name).open("wb") as out,
            subprocess.Popen(
                command, cwd=self._project.directory, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            ) as run,
        ):
            try:
                yield run
            finally:
                stop(run)

    def _at(self, rate: int, sender: Sender, reader: Reader, program: str) -> dict[str, float]:
        sender.send(int(rate * _WARM_S), rate=rate)
        ids = sender.send(int(rate * self._seconds), rate=rate)
        took_s = time.perf_counter() - sender.sent_s[ids[0]]
        if took_s > 1.1 * self._seconds:
            raise PeerFailed(f"the producer itself kept up {len(ids) / took_s:.0f} of {rate} records/s")
        _wait_for(sender.sent_s.keys() - reader.came_s.keys(), reader, program)
        return percentiles([1_000 * (reader.came_s[id_] - sender.sent_s[id_]) for id_ in ids])


def percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of latencies."""
    ordered = sorted(latencies_ms)
    p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return {"p50_ms": statistics.median(ordered), "p99_ms": p99, "max_ms": ordered[-1], "records": len(ordered)}


def _until_warm(sender: Sender, reader: Reader, run: subprocess.Popen[bytes], program: str) -> None:
    """Send a record from time to time until each partition has a prediction."""
    until = time.monotonic() + _START_S
    while not {int(id_[2:]) % _PARTITIONS for id_ in list(reader.came_s)} >= set(range(_PARTITIONS)):
        if run.poll() is not None or time.monotonic() > until:
            raise PeerFailed(f"{TITLES[program]} gave no first answer within {_START_S:.0f} s")
        sender.send(_PARTITIONS, rate=20 * _PARTITIONS)
        time.sleep(0.1)
    _wait_for(sender.sent_s.keys() - reader.came_s.keys(), reader, program)


def _wait_for(ids: set[str], reader: Reader, program: str) -> None:
    until = time.monotonic() + _DRAIN_S
    while left := ids - reader.came_s.keys():
        if reader.error is not None:
            raise PeerFailed(f"the answers of {TITLES[program]} could not be read: {reader.error}")
        if time.monotonic() > until:
            raise PeerFailed(f"{TITLES[program]} left {len(left)} records without an answer")
        time.sleep(0.05)


def summary(runs: Sequence[Mapping[str, Latencies]]) -> dict[str, Any]:
    """Return the median, minimum and maximum over the repeats."""
    found: dict[str, Any] = {}
    for program in runs[0]:
        found[program] = {"title": TITLES[program]}
        for rate in runs[0][program]:
            each = {what: [run[program][rate][what] for run in runs] for what in ("p50_ms", "p99_ms", "max_ms")}
            found[program][rate] = {what: spread(values, 2) for what, values in each.items()}
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the latencies as a table."""
    lines = [f"{'latency, input to read_committed':36}{'records/s':>11}{'p50 ms':>27}{'p99 ms':>27}"]
    for row in found.values():
        for rate in (key for key in row if key != "title"):
            p50, p99 = (told(row[rate][what], ".1f") for what in ("p50_ms", "p99_ms"))
            lines.append(f"{row['title']:36}{int(rate):>11,}{p50:>27}{p99:>27}")
    return "\n".join(lines)
