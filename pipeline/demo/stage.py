"""The parts that all acts share: the servers, the projects, the stream, the meter and the screen."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headrace.consumers.reader import Reader
from headrace.pipeline.demo.meter import Meter
from headrace.pipeline.demo.payment import Payments
from headrace.pipeline.demo.project import Process, Project
from headrace.pipeline.demo.screen import Screen
from headrace.pipeline.demo.stream import RecordOffset, Stream, named
from headrace.pipeline.embedded import Stack
from headrace.pipeline.embedded.reaper import Reaper

RATE = 1_000.0
"""Payments a second."""
PATIENCE_S = 90.0
"""The maximum time to wait for one step of the demo, in seconds."""

_SEED = 7
_LOOK_S = 0.05
_ROW_S = 1.0


class ClaimFailed(Exception):
    """Raised when a claim of the demo does not hold."""

    status = 500
    hint = "run it again on a machine with less to do; if it fails again, report it with these lines"


@dataclass
class Stage:
    """The servers and both projects; `run` is the fraud pipeline's `headrace run`."""

    screen: Screen
    stack: Stack
    phishing: Project
    fraud: Project
    payments: Payments
    stream: Stream
    meter: Meter
    run: Process
    _row_at: float = field(default=0.0, init=False)

    @property
    def mock(self) -> bool:
        """Whether Kafka is librdkafka's mock, which has no transactions."""
        return self.stack.addresses.kind == "mock"

    def show(self, until: Callable[[], bool], *, what: str, least_s: float = 0.0, most_s: float = PATIENCE_S) -> float:
        """Print a row a second until `until` is true, between `least_s` and `most_s`; return the seconds it took.

        Raises ClaimFailed with `what` if it takes longer, and at once if the stream broke.
        """
        started = time.monotonic()
        if started > self._row_at + _ROW_S:
            # No row was printed for a while: begin a new second.
            self.meter.figures()
            self._row_at = started + _ROW_S
        while True:
            self.check()
            now = time.monotonic()
            if now >= self._row_at:
                self.screen.row(self.meter.figures())
                self._row_at = now + _ROW_S
            if until() and now - started >= least_s:
                return now - started
            if now - started > most_s:
                raise ClaimFailed(f"waited {most_s:.0f} s for {what}")
            time.sleep(_LOOK_S)

    def check(self) -> None:
        """Check that the pipeline runs, its outputs can be read, and no record has two outcomes. Raises ClaimFailed."""
        if self.run.code is not None:
            raise ClaimFailed(f"headrace run ended with exit code {self.run.code}")
        if self.meter.fault:
            raise ClaimFailed(f"the predictions can't be read: {self.meter.fault}")
        if self.meter.twice and not self.mock:
            raise ClaimFailed(f"records (partition, offset) have two outcomes: {named(self.meter.twice)}")

    def settle(self) -> set[RecordOffset]:
        """Wait until every record so far has its outcome, and return the offsets of these records."""
        sent = self.stream.sent()
        self.show(lambda: sent <= self.meter.settled(), what=f"the outcomes of {len(sent):,} records")
        return sent

    def command(self, *words: str) -> str:
        """Run a short command on the fraud project, and return its output. Raises ClaimFailed."""
        process = self.fraud.start(*words)
        self.show(lambda: process.code is not None, what=f"headrace {' '.join(words)}")
        if process.code:
            raise ClaimFailed(f"headrace {' '.join(words)} ended with exit code {process.code}")
        return process.output


@contextlib.contextmanager
def projects(stack: Stack) -> Iterator[tuple[Project, Project]]:
    """Write the projects phishing and fraud, and end their processes afterwards in any case."""
    reaper = Reaper(grace_s=0.0)
    with contextlib.ExitStack() as end:
        end.callback(reaper.close)
        made = []
        for name in ("phishing", "fraud"):
            project = Project(name, directory=stack.data_dir / name, addresses=stack.addresses, reaper=reaper)
            end.callback(project.end)
            made.append(project)
        yield made[0], made[1]


@contextlib.contextmanager
def streaming(project: Project) -> Iterator[tuple[Payments, Stream, Meter]]:
    """Create the payments, their stream and the meter; stop the stream and the meter afterwards."""
    config, payments = project.config, Payments(seed=_SEED)
    stream = Stream(config.librdkafka, topic=config.topics.features, payments=payments, rate=RATE)
    reader = Reader(config.librdkafka, group=f"{config.name}.meter")
    meter = Meter(reader, topics=config.topics, stream=stream)
    try:
        yield payments, stream, meter
    finally:
        stream.abandon()
        meter.stop()
