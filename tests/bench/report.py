"""What `make bench` says at the end: the machine, the table, and the same as JSON."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka
from meter import Speed

from pipeline.embedded.jars import KAFKA_VERSION

TITLES = {
    "loop": "hand-written loop",
    "tuned": "tuned loop",
    "headrace": "headrace, exactly-once",
    "copy": "bare copy (the limit)",
}
REFERENCE = "loop"
_BUSY = 0.5


def machine() -> dict[str, Any]:
    """Return what a figure means nothing without."""
    return {
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "river": importlib.metadata.version("river"),
        "kafka": KAFKA_VERSION,
        "load_before": round(os.getloadavg()[0], 2),
    }


def note(told: Mapping[str, Any]) -> str:
    """Write the machine as one line, and a second one where others were using it."""
    line = (
        f"machine: {told['cores']} cores, {told['memory_gib']} GiB, {told['system']}, Python {told['python']}, "
        f"librdkafka {told['librdkafka']}, river {told['river']}, Apache Kafka {told['kafka']} "
        "(broker on the same machine)"
    )
    if told["load_before"] > _BUSY * told["cores"]:
        line += f"\n         it was busy before the start (load {told['load_before']}): the figures are noisy"
    return line


def summary(runs: Sequence[Mapping[str, Speed]]) -> dict[str, Any]:
    """Return each peer's medians, and the median, least and largest of its ratios to the loop of the same repeat."""
    found: dict[str, Any] = {}
    for peer in TITLES:
        ratios = [run[peer].records_s / run[REFERENCE].records_s for run in runs]
        cpu = [run[peer].cpu_us for run in runs]
        found[peer] = {
            "records_s": round(statistics.median(run[peer].records_s for run in runs)),
            "cpu_us": None if None in cpu else round(statistics.median(us for us in cpu if us is not None), 1),
            "ratio": {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            },
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """Lay the summary out for people."""
    lines = [f"{'':24}{'records/s':>11}{'CPU µs/record':>16}   ratio to the loop"]
    for peer, title in TITLES.items():
        cpu = "n/a" if found[peer]["cpu_us"] is None else f"{found[peer]['cpu_us']:.1f}"
        ratio = found[peer]["ratio"]
        spread = "" if peer == REFERENCE else f" ({ratio['min']:.2f}-{ratio['max']:.2f})"
        lines.append(f"{title:24}{found[peer]['records_s']:>11,}{cpu:>16}   {ratio['median']:.2f}{spread}")
    return "\n".join(lines)
