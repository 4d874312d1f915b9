"""The counters of all processes of a server, in memory that they share: one process writes a slot, any may read all.

The parent makes the memory before it forks. A slot is given to one process at a time and keeps its counts when the next
one gets it, so a restart loses none.
"""

import mmap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

ROUTES = ("predict", "invocations", "infer", "models", "metrics", "probe", "other")
_STATUSES = (200, 400, 401, 404, 405, 408, 413, 429, 431, 500, 503)
_CODES = (
    "unauthorized",
    "timeout",
    "too_large",
    "quota",
    "headers_too_large",
    "busy",
    "no_model",
    "stale",
    "bad_request",
)
RELOADS = ("loaded", "unusable", "away", "refused", "failed")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
AGES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 30.0, 300.0)
RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_000, 4_000)
WorkerPhase = Literal["free", "starting", "ready", "draining"]
_PHASES: tuple[WorkerPhase, ...] = ("free", "starting", "ready", "draining")

_PHASE, _CONNECTIONS, _BREAKER, _RESTARTS = range(4)
_GAUGES = 4
_REQUESTS = _GAUGES
_REJECTED = _REQUESTS + len(ROUTES) * (len(_STATUSES) + 1)
_RELOADS = _REJECTED + len(_CODES)
_TIMES = _RELOADS + len(RELOADS)
# A histogram has a cell for each bucket, one for all above, and the sum.
_AGES = _TIMES + len(SECONDS) + 2
_BATCHES = _AGES + len(AGES) + 2
_SLOT = _BATCHES + len(RECORDS) + 2
_STATUS_PLACES = {status: place for place, status in enumerate(_STATUSES)}
_ROUTE_PLACES = {route: _REQUESTS + place * (len(_STATUSES) + 1) for place, route in enumerate(ROUTES)}
_CODE_PLACES = {code: place for place, code in enumerate(_CODES)}


class Counters:
    """The counters of one process, in slot number `slot` of `memory`."""

    def __init__(self, memory: "SharedCounters", slot: int) -> None:
        self._cells = memory.cells[slot * _SLOT : (slot + 1) * _SLOT]
        self._memory = memory

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that is answered."""
        place = _STATUS_PLACES.get(status, len(_STATUSES))
        self._cells[_ROUTE_PLACES[route] + place] += 1
        self._observe(_TIMES, SECONDS, seconds, 1)

    def rejected(self, code: str) -> None:
        """Count a request that was refused for a reason that is not a record's fault."""
        if code in _CODE_PLACES:
            self._cells[_REJECTED + _CODE_PLACES[code]] += 1

    def reload(self, result: str) -> None:
        """Count a try to load a newer model."""
        self._cells[_RELOADS + RELOADS.index(result)] += 1

    def batch(self, records: int, age_s: float) -> None:
        """Count a batch of one model's records, and note the model's age."""
        self._observe(_BATCHES, RECORDS, records, 1)
        self._observe(_AGES, AGES, age_s, records)

    def _observe(self, first: int, bounds: Sequence[float], value: float, times: int) -> None:
        cells = self._cells
        cells[first + bisect_left(bounds, value)] += times
        cells[first + len(bounds) + 1] += value * times

    def connections(self, change: int) -> None:
        """Add to the number of open connections."""
        self._cells[_CONNECTIONS] += change

    @property
    def lead(self) -> float:
        """How many connections more this process has than the ready process with the fewest; 0 for that one."""
        return self._cells[_CONNECTIONS] - min(self._memory.connections_of_ready(), default=self._cells[_CONNECTIONS])

    def breaker(self, *, is_open: bool) -> None:
        """Note whether reads of keys are held back."""
        self._cells[_BREAKER] = is_open

    @property
    def phase(self) -> WorkerPhase:
        """What the process is doing."""
        return _PHASES[int(self._cells[_PHASE])]

    def enter(self, phase: WorkerPhase) -> None:
        """Note what the process is doing from now on."""
        self._cells[_PHASE] = _PHASES.index(phase)

    def begin(self, *, is_restart: bool) -> None:
        """Give the slot to a process that starts."""
        self._cells[_CONNECTIONS] = self._cells[_BREAKER] = 0
        self._cells[_RESTARTS] += is_restart
        self.enter("starting")


class SharedCounters:
    """Memory for the counters of this number of processes, shared with processes that are forked later.

    `was_ready` says that all processes have been ready once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.cells = memoryview(mmap.mmap(-1, (slots * _SLOT + 1) * 8)).cast("B").cast("d")

    @property
    def was_ready(self) -> bool:
        """Whether all processes have been ready once."""
        return bool(self.cells[-1])

    @property
    def is_answered(self) -> bool:
        """Whether a process is ready to answer."""
        ready = _PHASES.index("ready")
        return any(self.cells[n] == ready for n in range(_PHASE, self._slots * _SLOT, _SLOT))

    def connections_of_ready(self) -> Iterator[float]:
        """Yield the number of open connections of each process that is ready."""
        cells, ready = self.cells, _PHASES.index("ready")
        for first in range(0, self._slots * _SLOT, _SLOT):
            if cells[first + _PHASE] == ready:
                yield cells[first + _CONNECTIONS]

    def note_ready(self) -> None:
        """Note that all processes have been ready."""
        self.cells[-1] = 1

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, over all processes."""
        cells = self.cells
        total = [sum(cells[n] for n in range(cell, self._slots * _SLOT, _SLOT)) for cell in range(_SLOT)]
        phases = [_PHASES[int(cells[n])] for n in range(_PHASE, self._slots * _SLOT, _SLOT)]
        requests = CounterMetricFamily(
            "headrace_serve_requests", "Requests answered, by route and status.", labels=["route", "status"]
        )
        for number, route in enumerate(ROUTES):
            for place, status in enumerate((*map(str, _STATUSES), "other")):
                # Those that are zero, too: Prometheus sees no increase to the first value of a series.
                requests.add_metric([route, status], total[_REQUESTS + number * (len(_STATUSES) + 1) + place])
        yield requests
        yield _histogram(
            "request_seconds", "Time from the last byte of a request to its answer.", SECONDS, total[_TIMES:_AGES]
        )
        yield _histogram(
            "model_age_seconds", "Age of the model of each answer: since the store said that it is the newest.", AGES,
            total[_AGES:_BATCHES],
        )  # fmt: skip
        yield _histogram(
            "batch_records", "Records of one model that were predicted together.", RECORDS, total[_BATCHES:_SLOT]
        )
        yield _counter("rejected", "Requests refused, by code.", "code", _CODES, total[_REJECTED:_RELOADS])
        yield _counter("reloads", "Tries to load a newer model, by result.", "result", RELOADS, total[_RELOADS:_TIMES])
        yield _gauge("connections", "Open connections.", total[_CONNECTIONS])
        yield _gauge("breaker_open", "Processes in which reads of keys' models are held back.", total[_BREAKER])
        restarts = CounterMetricFamily("headrace_serve_worker_restarts", "Processes started in place of one that died.")
        restarts.add_metric([], total[_RESTARTS])
        yield restarts
        workers = GaugeMetricFamily("headrace_serve_workers", "Processes by what they do.", labels=["phase"])
        for phase in _PHASES[1:]:
            workers.add_metric([phase], phases.count(phase))
        yield workers


def _counter(name: str, meaning: str, label: str, values: Sequence[str], counts: Sequence[float]) -> Metric:
    family = CounterMetricFamily(f"headrace_serve_{name}", meaning, labels=[label])
    for value, count in zip(values, counts, strict=True):
        family.add_metric([value], count)
    return family


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"headrace_serve_{name}", meaning, value=value)


def _histogram(name: str, meaning: str, bounds: Sequence[float], cells: Sequence[float]) -> Metric:
    buckets, running = [], 0.0
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), cells[:-1], strict=True):
        running += count
        buckets.append((bound, running))
    return HistogramMetricFamily(f"headrace_serve_{name}", meaning, buckets=buckets, sum_value=cells[-1])
