"""The report of `make bench`: the machine and the tables, and the same as JSON."""

import importlib.metadata
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
from case import Case
from inside import Figures
from lineup import HEADRACE
from meter import Speed
from spread import spread, told

from headrace.pipeline.embedded.jars import KAFKA_VERSION

REFERENCE = "loop"
INSIDE = {
    "join.1000": ("join, 1,000 wait", "", ""),
    "join.1000000": ("join, 1,000,000 wait", "join.1000", "asked: less than 1,000 MB"),
    "batch.1.hot": ("batch of 5,000 records, 1 key", "", ""),
    "batch.5000.hot": ("batch of 5,000 records, 5,000 keys", "batch.1.hot", "asked: a ratio of 2 at most"),
    "batch.1.cold": ("the same from the store, 1 key", "", ""),
    "batch.5000.cold": ("the same from the store, 5,000 keys", "batch.1.cold", ""),
    "keys.1000000": ("1,000,000 keys in memory", "", "asked: less than 1,000 MB"),
}
"""The measurements in process: the title, the measurement to compare with, and the goal."""
_RACES = ("loop", "quix-eo", "copy")
_BUSY = 0.5
# With fewer keys the growth is smaller than the noise.
_KEYS_SEEN = 20_000

Runs = Sequence[Mapping[str, Speed]]


def machine(peers: Mapping[str, str]) -> dict[str, Any]:
    """Return the machine and the versions, without which a figure has no meaning."""
    return {
        "cores": os.cpu_count() or 1,
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "confluent_kafka": importlib.metadata.version("confluent-kafka"),
        "librdkafka": confluent_kafka.libversion()[0],
        "river": importlib.metadata.version("river"),
        "kafka": KAFKA_VERSION,
        "peers": dict(peers),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor()


def note(told: Mapping[str, Any]) -> str:
    """Format the machine as one line and the peers as another, and add a line if other programs used the machine."""
    line = (
        f"machine: {told['cores']} cores ({told['cpu']}), {told['memory_gib']} GiB, {told['system']}, "
        f"Python {told['python']}, confluent-kafka {told['confluent_kafka']}, River {told['river']}, "
        f"Apache Kafka {told['kafka']} (broker on the same machine)"
    )
    if told["peers"]:
        line += "\npeers:   " + ", ".join(f"{name} {version}" for name, version in told["peers"].items())
    if told["load_before"] > _BUSY * told["cores"]:
        line += f"\nload:    {told['load_before']} before it began: others were using the machine, and spreads are wide"
    return line


def summary(cases: Sequence[Case], runs: Runs) -> dict[str, Any]:
    """Return the peers' medians and their ratios to the reference, and Headrace's ratios to some of them."""
    first = REFERENCE if REFERENCE in runs[0] else cases[0].name
    found: dict[str, Any] = {
        case.name: {"title": case.title, **_medians(runs, case.name), **_beside(runs, case.name, first, faster=True)}
        for case in cases
    }
    races = [name for name in _RACES if name in runs[0] and HEADRACE in runs[0]]
    return {
        "reference": first,
        "peers": found,
        "headrace": {name: _beside(runs, HEADRACE, name, faster=True) for name in races},
    }


def _medians(runs: Runs, name: str) -> dict[str, Any]:
    return {
        "records_s": round(statistics.median(run[name].records_s for run in runs)),
        "cpu_us": _median([run[name].cpu_us for run in runs], 2),
        "broker_us": _median([run[name].broker_us for run in runs], 2),
        "peak_bytes": _median([run[name].peak_bytes for run in runs], 0),
    }


def _beside(runs: Runs, name: str, other: str, *, faster: bool) -> dict[str, Any]:
    """Return ratios to another case in the same repeat: of the speed, and of the time for each record."""
    cost: Mapping[str, Callable[[Speed], float | None]] = {
        "time": lambda speed: 1 / speed.records_s,
        "cpu": lambda speed: speed.cpu_us,
        "broker": lambda speed: speed.broker_us,
    }
    found: dict[str, Any] = {"beside": other}
    for what, of in cost.items():
        pairs = [(of(run[name]), of(run[other])) for run in runs]
        known = [one / by for one, by in pairs if one and by]
        found[what] = spread(known) if len(known) == len(pairs) else None
    if faster:
        found["speed"] = spread([run[name].records_s / run[other].records_s for run in runs])
    return found


def _median(values: Sequence[float | None], digits: int) -> float | None:
    """Return the median, or None if a value is unknown."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if len(known) == len(values) else None


def table(found: Mapping[str, Any]) -> str:
    """Format the summary of the peers as a table."""
    peers, first = found["peers"], found["reference"]
    columns = f"{'records/s':>11}{'CPU µs/record':>16}{'broker':>9}"
    lines = [f"{'':32}{columns}   speed against {peers[first]['title']}"]
    for row in peers.values():
        cpu, broker = _known(row["cpu_us"], ".1f"), _known(row["broker_us"], ".1f")
        ratio = told(row["speed"]) if row is not peers[first] else "1.00"
        lines.append(f"{row['title']:32}{row['records_s']:>11,}{cpu:>16}{broker:>9}   {ratio}")
    for name, row in found["headrace"].items():
        cpu = f", {told(row['cpu'])} of its CPU" if row["cpu"] else ""
        lines.append(f"headrace, exactly-once, against {peers[name]['title']}: {told(row['speed'])} of its speed{cpu}")
    return "\n".join(lines)


def _known(value: float | None, form: str, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:{form}}{unit}"


def costs(cases: Sequence[Case], runs: Runs, keys: Mapping[str, int]) -> dict[str, Any]:
    """Return the figures of growth and of optional features, each compared with another run, and their memory.

    `keys` is the number of keys by case. The memory of a key is the difference to the run with the fewest keys.
    """
    found: dict[str, Any] = {}
    fewest = min(keys, key=keys.__getitem__, default="")
    for case in cases:
        row = {"title": case.title, "part": case.part, "program": case.program, "records": case.records}
        row |= {**_medians(runs, case.name), **_beside(runs, case.name, case.beside, faster=False)}
        row |= {"keys": keys.get(case.name), "key_bytes": None, "race": None}
        if case.race:
            row["race"] = _beside(runs, case.name, case.race, faster=True)
        if keys.get(case.name, 0) >= _KEYS_SEEN:
            grown = [
                None if more is None or less is None else (more - less) / (keys[case.name] - keys[fewest])
                for more, less in ((run[case.name].steady_bytes, run[fewest].steady_bytes) for run in runs)
            ]
            row["key_bytes"] = _median(grown, 0)
        found[case.name] = row
    return found


def cost_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the growth of the cost as a table."""
    head = f"{'how the cost of a record grows':36}{'records/s':>11}{'CPU µs':>9}{'broker':>9}{'peak RSS':>11}"
    lines = [f"{head}   {'time':20}{'CPU':>6}{'broker':>8}   times that of"]
    for name, row in found.items():
        rss = _known(row["peak_bytes"] and row["peak_bytes"] / 1e6, ",.0f", " MB")
        cpu, broker = _known(row["cpu_us"], ".1f"), _known(row["broker_us"], ".1f")
        line = f"{row['title']:36}{row['records_s']:>11,}{cpu:>9}{broker:>9}{rss:>11}"
        if row["beside"] != name:
            times = [f"{row[what]['median']:.2f}" if row[what] else "n/a" for what in ("cpu", "broker")]
            line += f"   {told(row['time']):20}{times[0]:>6}{times[1]:>8}   {found[row['beside']]['title']}"
        lines.append(line)
        if row["key_bytes"]:
            lines.append(f"{'':36}{row['keys']:,} keys came, {row['key_bytes']:,.0f} bytes each in memory")
    lines += [
        f"{row['title']}, against {found[race['beside']]['title']}: {told(race['speed'])} of its speed"
        for row in found.values()
        if (race := row["race"])
    ]
    return "\n".join(lines)


def inside(runs: Sequence[Figures]) -> dict[str, Any]:
    """Return the medians of the measurements in process, and the ratios if there is one to compare with."""
    found: dict[str, Any] = {}
    for name, (title, beside, asked) in INSIDE.items():
        figures = runs[0][name]
        row: dict[str, Any] = {"title": title, "asked": asked}
        row |= {what: round(statistics.median(run[name][what] for run in runs), 2) for what in figures}
        for what in ("record_us", "with_save_us"):
            if beside and what in figures:
                row[f"{what}_ratio"] = spread([run[name][what] / run[beside][what] for run in runs])
        found[name] = row
    return found


def inside_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the measurements in process as a table."""
    head = f"{'in process, without Kafka':36}{'CPU µs/record':>16}{'with a save':>14}{'peak RSS':>11}{'bytes each':>12}"
    lines = [f"{head}   {'ratio':18}with a save"]
    for row in found.values():
        columns = [
            *((f"{row[what]:.2f}" if what in row else "") for what in ("record_us", "with_save_us")),
            f"{row['rss_bytes'] / 1e6:,.0f} MB" if row.get("rss_bytes") else "",
            f"{row['each_bytes']:,.0f}" if row.get("each_bytes") and row["asked"] else "",
        ]
        ratios = [told(row[what]) if what in row else "" for what in ("record_us_ratio", "with_save_us_ratio")]
        line = f"{row['title']:36}" + "".join(f"{c:>{w}}" for c, w in zip(columns, (16, 14, 11, 12), strict=True))
        lines.append(f"{line}   {ratios[0]:18}{ratios[1]:18}{row['asked']}".rstrip())
    return "\n".join(lines)
