"""The comparison: measures the chosen parts in order on one stack, and prints each result at once."""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import case
import inside
import latency
import memory
import recovery
import report
import serving
from bench import Bench
from case import Case
from lineup import TITLES, Lineup
from meter import Speed
from project import Project
from stream import FEATURES, Feed
from topic import Board

from headrace.pipeline.embedded import EmbeddedError, Stack
from headrace.pipeline.embedded import registry as embedded
from headrace.pipeline.embedded.port import free_ports
from headrace.pipeline.embedded.reaper import Reaper

PARTS = ("peers", "latency", *case.PARTS, "recovery", "serve", "inside", "memory")

_REGISTRY_S = 180.0
_SETTINGS = {
    # On a busy machine a broker may get no CPU time for a while; it must not count as dead.
    "broker.session.timeout.ms": "30000",
    # Workers that start together should share the partitions from the start.
    "group.initial.rebalance.delay.ms": "1000",
}

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The parts, programs and sizes to measure."""

    count: int
    growth_count: int
    million_count: int
    memory_count: int
    behind: int
    latency_s: float
    repeats: int
    partitions: int
    parts: Sequence[str]
    programs: Sequence[str]


class Comparison:
    """Measures, prints, and collects all figures in `told`."""

    def __init__(self, plan: Plan, lineup: Lineup) -> None:
        self._plan = plan
        self._lineup = lineup
        self.told: dict[str, Any] = {
            "machine": report.machine(lineup.versions),
            "arguments": {
                **dataclasses.asdict(plan),
                "missing": lineup.missing,
            },
        }

    def run(self) -> None:
        """Measure, and print the results. Raises PeerFailed, EmbeddedError."""
        _print(report.note(self.told["machine"]))
        if set(self._plan.parts) - {"inside"}:
            self._run_with_kafka()
        if "inside" in self._plan.parts:
            self._in_process()

    def _run_with_kafka(self) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-bench-") as directory,
            Stack(progress=_say, kafka_settings=_SETTINGS) as stack,
        ):
            if stack.addresses.kind == "mock":
                raise EmbeddedError("the mock cluster knows no transactions", hint="measure where Kafka can be fetched")
            board = Board(stack.addresses.kafka)
            project = Project(stack.addresses, Path(directory))
            bench = Bench(project, board, self._lineup, broker=stack.kafka.pid)
            if "peers" in self._plan.parts:
                self._peers(bench)
            if "latency" in self._plan.parts:
                self._latency(latency.Bench(project, board, self._lineup, seconds=self._plan.latency_s))
            if set(case.PARTS).intersection(self._plan.parts):
                self._growth(bench, Path(directory))
            if "recovery" in self._plan.parts:
                self._recovery(project, board)
            if "serve" in self._plan.parts:
                self._serve(serving.Bench(project, board, self._lineup, seconds=self._plan.latency_s))
            if "memory" in self._plan.parts:
                self._memory(project, board)

    def _peers(self, bench: Bench) -> None:
        plan = self._plan
        cases = case.peers(plan.programs, Feed("bench.features", plan.count, plan.partitions))
        runs = self._speeds(bench, cases)
        found = report.summary(cases, runs)
        _print(
            f"\nrun:     {plan.count:,} records of {FEATURES} features, {plan.partitions} partitions; median (min-max) "
            f"of {plan.repeats} repeats",
            report.table(found),
            f"the probabilities of all are within {max(bench.apart.values(), default=0):.1g} of one another",
        )
        self.told.update(peers=found, peer_runs=_plain(runs), apart=dict(bench.apart))

    def _growth(self, bench: Bench, directory: Path) -> None:
        with _registry(directory) if "formats" in self._plan.parts else nullcontext("") as registry:
            self._grow(bench, registry)

    def _grow(self, bench: Bench, registry: str) -> None:
        plan = self._plan
        cases = case.growth(
            plan.parts,
            count=plan.growth_count,
            million_count=plan.million_count,
            partitions=plan.partitions,
            registry=registry,
            programs=plan.programs,
        )
        runs = self._speeds(bench, cases)
        found = report.costs(cases, runs, bench.keys)
        _print("", report.cost_table(found))
        self.told.update(growth=found, growth_runs=_plain(runs))

    def _latency(self, bench: latency.Bench) -> None:
        programs = self._lineup.present(latency.PROGRAMS)
        runs = self._repeat(
            programs,
            lambda name: f"latency of {TITLES[name]}",
            bench.measure,
            lambda found: ", ".join(f"p99 {of['p99_ms']:.1f} ms at {rate}/s" for rate, of in found.items()),
        )
        found = latency.summary(runs)
        _print("", latency.table(found))
        self.told.update(latency=found, latency_runs=runs)

    def _recovery(self, project: Project, board: Board) -> None:
        bench = recovery.Bench(project, board, count=self._plan.behind, partitions=self._plan.partitions)
        runs = []
        for repeat in range(self._plan.repeats):
            runs.append(bench.measure(repeat))
            _say(f"{repeat + 1}/{self._plan.repeats} recovery: {runs[-1]['all']['each_s']:.1f} s")
        found = recovery.summary(runs)
        _print("", recovery.table(found, count=self._plan.behind))
        self.told.update(recovery=found, recovery_runs=runs)

    def _serve(self, bench: serving.Bench) -> None:
        runs = self._repeat(
            bench.present(),
            lambda name: serving.TITLES[name],
            bench.measure,
            lambda found: f"{found['single']['requests_s']:,.0f} answers/s",
        )
        found = serving.summary(runs)
        _print("", serving.table(found))
        self.told.update(serve=found, serve_runs=runs)

    def _memory(self, project: Project, board: Board) -> None:
        _say(f"memory: {self._plan.memory_count:,} records, once")
        bench = memory.Bench(project, board, count=self._plan.memory_count, partitions=self._plan.partitions)
        found = bench.measure()
        _print("", memory.table(found))
        self.told.update(memory=found)

    def _in_process(self) -> None:
        runs: list[inside.Figures] = []
        for repeat in range(self._plan.repeats):
            figures: inside.Figures = {}
            for words in inside.MEASURES:
                _say(f"{repeat + 1}/{self._plan.repeats} in process: {' '.join(words)}")
                figures |= inside.measure(words)
            runs.append(figures)
        found = report.inside(runs)
        _print("", report.inside_table(found))
        self.told.update(inside=found, inside_runs=runs)

    def _speeds(self, bench: Bench, cases: Sequence[Case]) -> list[dict[str, Speed]]:
        _say("filling the topics")
        bench.prepare(cases)
        by_name = {one.name: one for one in cases}
        return self._repeat(
            list(by_name),
            lambda name: by_name[name].title,
            lambda name, repeat: bench.measure(by_name[name], repeat),
            lambda found: f"{found.records_s:,.0f} records/s",
        )

    def _repeat(
        self,
        names: Sequence[str],
        title: Callable[[str], str],
        measure: Callable[[str, int], Found],
        short: Callable[[Found], str],
    ) -> list[dict[str, Found]]:
        """Measure each case several times, every second time in the reverse order."""
        runs: list[dict[str, Found]] = []
        for repeat in range(self._plan.repeats):
            found: dict[str, Found] = {}
            for name in names if repeat % 2 == 0 else reversed(names):
                found[name] = measure(name, repeat)
                _say(f"{repeat + 1}/{self._plan.repeats} {title(name)}: {short(found[name])}")
            runs.append({name: found[name] for name in names})
        return runs


@contextmanager
def _registry(directory: Path) -> Iterator[str]:
    """Run a schema registry, and return its URL."""
    [port] = free_ports(1)
    reaper = Reaper(grace_s=0.0)
    server = embedded.server(home=directory, port=port, reaper=reaper, progress=_say)
    try:
        server.start(timeout_s=_REGISTRY_S)
        yield f"http://{server.address}{embedded.PATH}"
    finally:
        server.kill()
        reaper.close()


def _plain(runs: Sequence[Mapping[str, Speed]]) -> list[dict[str, Any]]:
    return [{name: dataclasses.asdict(found) for name, found in one.items()} for one in runs]


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
