"""The meter: runs a peer as a process, and measures its visible outputs, its CPU time and its memory.

It checks the output topic every 20 ms, in the same way for all peers: a record counts when a `read_committed` reader
can read it. The start is left out; only the steady part is measured.
"""

import os
import re
import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 0.02
_STILL_S = 45.0
_STOP_S = 20.0
_STEADY_FROM = 0.1


class PeerFailed(Exception):
    """Raised when a peer fails, does not end, or does not give one prediction for each record."""

    status = 500
    hint = "run it again with fewer --records; if it stays, the peer's last words above say why"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: the offsets that readers could reach, by partition, and the resources so far.

    The resources are the CPU seconds of all processes and of the broker, and the resident bytes of the largest worker,
    at the peak and now.
    """

    at_s: float
    ends: tuple[int, ...]
    broker_s: float
    cpu_s: float
    peak_bytes: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Records a second, and CPU microseconds for each record, of the peer and of the broker.

    A figure is None if the system does not provide it. Resident bytes are those of the largest worker: the peak of the
    whole run, and the maximum after the start.
    """

    records_s: float
    cpu_us: float | None
    broker_us: float | None
    peak_bytes: int | None
    steady_bytes: int | None


def watch(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    count: int,
    ends: Callable[[], tuple[int, ...]],
    broker: int,
) -> list[Sample]:
    """Run a command to its end; return samples of it and of the process `broker`. Raises PeerFailed.

    Its working folder is that of the log. Its standard input stays open until `count` records can be read, so that the
    process still exists for the last sample.
    """
    samples: list[Sample] = []
    moved_at = time.monotonic()
    with (
        log.open("wb") as out,
        subprocess.Popen(command, cwd=log.parent, env=env, stdin=subprocess.PIPE, stdout=out, stderr=out) as run,
    ):
        assert run.stdin is not None
        used, served = Usage(run.pid), Usage(broker)
        try:
            while run.poll() is None:
                # In this order: the resources are read after the offsets, so they include the cost of these records.
                seen, at_s = ends(), time.monotonic()
                if not samples or seen != samples[-1].ends:
                    moved_at = at_s
                samples.append(Sample(at_s, seen, served.read()[0], *used.read()))
                if sum(seen) >= count and not run.stdin.closed:
                    run.stdin.close()
                if at_s > moved_at + _STILL_S:
                    raise PeerFailed(f"it stands still at {sum(seen)} of {count} records: {' '.join(command[1:])}")
                time.sleep(_TICK_S)
        finally:
            stop(run)
    if run.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise PeerFailed("\n".join([f"{' '.join(command[1:])} ended with {run.returncode}:", *last]))
    return [*samples, Sample(time.monotonic(), ends(), served.read()[0], *used.read())]


def stop(run: subprocess.Popen[bytes]) -> None:
    """Stop a process like an operator, and kill it if it does not end.

    A parent that gets SIGTERM stops its workers; after a kill they end by themselves.
    """
    run.terminate()
    try:
        run.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        run.kill()


def speed(samples: Sequence[Sample], offsets: Sequence[Sequence[int]], count: int) -> Speed:
    """Return the speed between the first tenth of the records and the last one, by the offsets of the records."""

    def visible(sample: Sample) -> int:
        # The marker of a transaction has an offset, too, but is not a record.
        return sum(bisect_left(held, end) for held, end in zip(offsets, sample.ends, strict=True))

    counts = [visible(sample) for sample in samples]
    first = next(i for i, seen in enumerate(counts) if seen >= _STEADY_FROM * count)
    last = counts.index(counts[-1])
    handled = counts[last] - counts[first]
    if handled < count / 2:
        raise PeerFailed(f"only {handled} of {count} records were seen on their way; measure with more --records")
    took_s = samples[last].at_s - samples[first].at_s
    cpu_s, broker_s = (samples[last].cpu_s - samples[first].cpu_s), (samples[last].broker_s - samples[first].broker_s)
    steady_bytes = max(sample.rss_bytes for sample in samples[first:])
    return Speed(
        handled / took_s,
        1e6 * cpu_s / handled if cpu_s else None,
        1e6 * broker_s / handled if broker_s else None,
        samples[-1].peak_bytes or None,
        steady_bytes or None,
    )


class Usage:
    """The CPU time and memory of a process and its descendants, from Linux; always 0 on another system."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        # The CPU time of a process that has ended still counts.
        self._used_s: dict[int, float] = {}
        self._peak_bytes: dict[int, int] = {}

    def read(self) -> tuple[float, int, int]:
        """Return the CPU seconds of all so far, and the resident bytes of the largest worker, at the peak and now.

        The process itself counts as a worker only if it has no children.
        """
        now_bytes: dict[int, int] = {}
        pids = [self._pid]
        for pid in pids:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            # utime and stime are the 14th and 15th field; the name before them ends with the last ")".
            user, system = stat.rpartition(")")[2].split()[11:13]
            self._used_s[pid] = (int(user) + int(system)) * self._tick_s
            peak_bytes, now_bytes[pid] = resident_bytes(pid)
            # For a process that has just ended the system has no figures.
            self._peak_bytes[pid] = max(peak_bytes, self._peak_bytes.get(pid, 0))
            pids += [int(child) for child in children.split()]
        return sum(self._used_s.values()), self._largest(self._peak_bytes), self._largest(now_bytes)

    def _largest(self, held: Mapping[int, int]) -> int:
        has_workers = len(self._peak_bytes) > 1
        return max((of for pid, of in held.items() if pid != self._pid or not has_workers), default=0)


def descendants(pid: int) -> list[int]:
    """Return a process and all of its descendants, the process first."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def resident_bytes(pid: int) -> tuple[int, int]:
    """Return the resident bytes of a process, at the peak and now; 0 if the system does not provide them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", status))
    return 1_024 * int(found.get("VmHWM", 0)), 1_024 * int(found.get("VmRSS", 0))
