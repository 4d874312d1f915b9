"""`make bench`: how fast Headrace is beside what one would write by hand, on the same records in the same run.

Then what the features cost that one turns on, beside a plain run. Ratios, not times: the machine's mood is in both
sides of a ratio, and each repeat is turned round, so that none is always the first. Nothing here fails for being slow;
it fails when answers are not all there.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import feature
import memory
import report
from confluent_kafka import KafkaException
from meter import PeerFailed, Speed, speed, watch
from project import Project
from stream import FEATURES, plain
from topic import Board, digest

from consumers.source import SourceAway
from pipeline.embedded import EmbeddedError, Stack
from state.store import Store, StoreAway

_HERE = Path(__file__).parent
_FEATURES = "bench.features"
_RECORDS_MIN = 20_000
_PARTS = ("peers", "labels", "keys", "mixing", "memory")
_SETTINGS = {
    # A broker that gets no time on a machine that is full must not be taken for a dead one.
    "broker.session.timeout.ms": "30000",
    # Workers that start together share the partitions from the start.
    "group.initial.rebalance.delay.ms": "1000",
}


class Bench:
    """Peers on one stack, which all read the same topic of `count` records."""

    def __init__(self, project: Project, board: Board, *, count: int, partitions: int) -> None:
        self._project = project
        self._board = board
        self._count = count
        self._partitions = partitions
        self._digest = ""
        self.snapshots = 0

    def measure(self, peer: str, repeat: int) -> Speed:
        """Run one peer over all records, check its answers, and return its speed. Raises PeerFailed."""
        name = f"bench.{peer}.{repeat}"
        self._board.make(name)
        if peer == "headrace":
            command, env = self._project.command(name, features=_FEATURES)
        else:
            command, env = self._by_hand(peer, name)
        log = self._project.log(name)
        samples = watch(command, env=env, log=log, count=self._count, ends=lambda: self._board.ends(name))
        values = self._board.read(name)
        self._check(peer, values)
        if peer == "headrace":
            self._check_promise(name, sum(samples[-1].ends))
        return speed(samples, [sorted(values[partition]) for partition in range(self._partitions)], self._count)

    def _by_hand(self, peer: str, name: str) -> tuple[list[str], dict[str, str]]:
        words = [peer, self._project.addresses.kafka, _FEATURES, name, str(self._count)]
        return [sys.executable, str(_HERE / "peer.py"), *words], dict(os.environ)

    def _check(self, peer: str, values: dict[int, dict[int, bytes]]) -> None:
        found = sum(len(held) for held in values.values())
        if found != self._count:
            raise PeerFailed(f"{peer} gave {found} answers to {self._count} records")
        if peer == "copy":
            return
        answers = digest(values)
        self._digest = self._digest or answers
        if answers != self._digest:
            raise PeerFailed(f"{peer} did not predict what the others did")

    def _check_promise(self, name: str, ends: int) -> None:
        """See that the run was what the table says it was: transactions and snapshots."""
        if ends <= self._count:
            raise PeerFailed("headrace wrote without transactions")
        store = Store(self._project.addresses.redis, name=name)
        notes = [store.notes(partition) for partition in range(self._partitions)]
        if not all(held and held[0]["learned"] == self._count // self._partitions for held in notes):
            raise PeerFailed("headrace did not save its models")
        self.snapshots = sum(held[0]["version"] for held in notes)


class Comparison:
    """The chosen parts in their order, each said when it is measured; `told` has all figures."""

    def __init__(
        self, *, count: int, million_count: int, repeats: int, partitions: int, parts: Collection[str]
    ) -> None:
        self._count = count
        self._million_count = million_count
        self._repeats = repeats
        self._partitions = partitions
        self._parts = parts
        self.told: dict[str, Any] = {
            "machine": report.machine(),
            "arguments": {
                "records": count,
                "million_records": million_count,
                "repeats": repeats,
                "partitions": partitions,
                "parts": list(parts),
            },
        }

    def run(self) -> None:
        """Measure and print what came out. Raises PeerFailed, EmbeddedError."""
        _print(report.note(self.told["machine"]))
        if set(self._parts) - {"memory"}:
            self._run_with_kafka()
        if "memory" in self._parts:
            self._in_process()

    def _run_with_kafka(self) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-bench-") as directory,
            Stack(progress=_say, kafka_settings=_SETTINGS) as stack,
        ):
            if stack.addresses.kind == "mock":
                raise EmbeddedError("the mock cluster knows no transactions", hint="measure where Kafka can be fetched")
            board = Board(stack.addresses.kafka, partitions=self._partitions)
            project = Project(stack.addresses, Path(directory))
            _say(f"filling a topic with {self._count:,} records")
            board.fill(_FEATURES, plain(self._count))
            if "peers" in self._parts:
                self._peers(Bench(project, board, count=self._count, partitions=self._partitions))
            if {"labels", "keys", "mixing"}.intersection(self._parts):
                self._features(feature.Bench(project, board, partitions=self._partitions))

    def _peers(self, bench: Bench) -> None:
        runs = self._repeat(list(report.TITLES), report.TITLES.get, bench.measure)
        found = report.summary(runs)
        _print(f"{self._what()}; headrace saved {bench.snapshots} snapshots on the way", report.table(found))
        self.told.update(summary=found, runs=_plain(runs))

    def _what(self) -> str:
        return (
            f"run:     {self._count:,} records of {FEATURES} features, {self._partitions} partitions; median (min-max) "
            f"of {self._repeats} repeats"
        )

    def _features(self, bench: feature.Bench) -> None:
        count, million_count = self._count, self._million_count
        cases = {
            case.name: case
            for case in feature.cases(self._parts, features=_FEATURES, count=count, million_count=million_count)
        }
        _say("filling the topics of the features")
        bench.prepare(cases.values())
        runs = self._repeat(
            list(cases), lambda name: cases[name].title, lambda name, repeat: bench.measure(cases[name], repeat)
        )
        found = report.costs(list(cases.values()), runs, bench.keys)
        _print("" if "peers" in self._parts else self._what(), report.cost_table(found))
        self.told.update(features=found, feature_runs=_plain(runs))

    def _in_process(self) -> None:
        runs: list[memory.Figures] = []
        for repeat in range(self._repeats):
            figures: memory.Figures = {}
            for words in memory.MEASURES:
                _say(f"{repeat + 1}/{self._repeats} in process: {' '.join(words)}")
                figures |= memory.measure(words)
            runs.append(figures)
        found = report.inside(runs)
        _print("", report.inside_table(found))
        self.told.update(memory=found, memory_runs=runs)

    def _repeat(
        self, names: list[str], title: Callable[[str], Any], measure: Callable[[str, int], Speed]
    ) -> list[dict[str, Speed]]:
        runs: list[dict[str, Speed]] = []
        for repeat in range(self._repeats):
            speeds: dict[str, Speed] = {}
            for name in names if repeat % 2 == 0 else reversed(names):
                speeds[name] = measure(name, repeat)
                _say(f"{repeat + 1}/{self._repeats} {title(name)}: {speeds[name].records_s:,.0f} records/s")
            runs.append(speeds)
        return runs


def _plain(runs: Sequence[Mapping[str, Speed]]) -> list[dict[str, Any]]:
    return [{name: dataclasses.asdict(found) for name, found in one.items()} for one in runs]


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _parts(text: str) -> list[str]:
    """Read the names of parts, with commas between them."""
    unknown = set(text.split(",")) - set(_PARTS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}"
        )
    return [part for part in _PARTS if part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Headrace beside hand-written loops, on a Kafka of its own.")
    parser.add_argument("--records", type=int, default=100_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--million-records", type=int, metavar="N", help="of the run of a million keys, if others")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--partitions", type=int, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", type=_parts, default=list(_PARTS), metavar="PARTS", help=f"of {','.join(_PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file as well")
    given = parser.parse_args()
    given.million_records = given.million_records or given.records
    if given.repeats < 1 or given.partitions < 1 or min(given.records, given.million_records) < _RECORDS_MIN:
        parser.error(f"at least {_RECORDS_MIN:,} records, 1 repeat and 1 partition are needed")
    return given


def main() -> int:
    """Read the arguments, measure, and return the exit code."""
    given = _arguments()
    # As many in each partition, so that each partition's end can be told beforehand.
    count, million_count = (n - n % given.partitions for n in (given.records, given.million_records))
    comparison = Comparison(
        count=count,
        million_count=million_count,
        repeats=given.repeats,
        partitions=given.partitions,
        parts=given.only,
    )
    try:
        comparison.run()
    except (EmbeddedError, PeerFailed) as error:
        _say(f"bench: {error}\n  → {error.hint}")
        return 1
    except (KafkaException, SourceAway, StoreAway, TimeoutError, subprocess.TimeoutExpired) as error:
        _say(f"bench: {error}\n  → run it again when the machine is less busy")
        return 1
    except KeyboardInterrupt:
        return 130
    if given.json is not None:
        given.json.write_text(json.dumps(comparison.told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
