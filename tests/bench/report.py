"""What `make bench` says at the end: the machine, the table, and the same as JSON."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka
from feature import Case
from memory import Figures
from meter import Speed

from pipeline.embedded.jars import KAFKA_VERSION

TITLES = {
    "loop": "hand-written loop",
    "tuned": "tuned loop",
    "headrace": "headrace, exactly-once",
    "copy": "bare copy (the limit)",
}
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
"""What is measured in process: its title, what it is held against, and what was asked of it."""
_BUSY = 0.5
# Of fewer the growth is not told from the noise.
_KEYS_SEEN = 20_000


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
    return {peer: _beside(runs, peer, REFERENCE) for peer in TITLES}


def _beside(runs: Sequence[Mapping[str, Speed]], name: str, reference: str) -> dict[str, Any]:
    """Sum up what one did in all repeats, beside what another did."""
    return {
        "records_s": round(statistics.median(run[name].records_s for run in runs)),
        "cpu_us": _median([run[name].cpu_us for run in runs], 1),
        "ratio": _spread([run[name].records_s / run[reference].records_s for run in runs]),
    }


def _median(values: Sequence[float | None], digits: int) -> float | None:
    """Return the median, None where a value is not known."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if len(known) == len(values) else None


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


def table(found: Mapping[str, Any]) -> str:
    """Lay the summary out for people."""
    lines = [f"{'':24}{'records/s':>11}{'CPU µs/record':>16}   ratio to the loop"]
    for peer, title in TITLES.items():
        ratio = _ratio(found[peer]["ratio"], spread=peer != REFERENCE)
        lines.append(f"{title:24}{found[peer]['records_s']:>11,}{_known(found[peer]['cpu_us'], '.1f'):>16}   {ratio}")
    return "\n".join(lines)


def _known(value: float | None, form: str, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:{form}}{unit}"


def _ratio(ratio: Mapping[str, float], *, spread: bool) -> str:
    return f"{ratio['median']:.2f}" + (f" ({ratio['min']:.2f}-{ratio['max']:.2f})" if spread else "")


def costs(cases: Sequence[Case], runs: Sequence[Mapping[str, Speed]], keys: Mapping[str, int]) -> dict[str, Any]:
    """Return the same of the features, each beside its plain run, and the memory that they took.

    `keys` tells how many keys there were; what one takes is what is more, after the start, than in the run with fewest.
    """
    found: dict[str, Any] = {}
    fewest = min(keys, key=keys.__getitem__, default="")
    for case in cases:
        told = {"title": case.title, "beside": case.beside, **_beside(runs, case.name, case.beside)}
        told["peak_bytes"] = _median([run[case.name].peak_bytes for run in runs], 0)
        told |= {"keys": keys.get(case.name), "key_bytes": None}
        if keys.get(case.name, 0) >= _KEYS_SEEN:
            grown = [
                None if more is None or less is None else (more - less) / (keys[case.name] - keys[fewest])
                for more, less in ((run[case.name].steady_bytes, run[fewest].steady_bytes) for run in runs)
            ]
            told["key_bytes"] = _median(grown, 0)
        found[case.name] = told
    return found


def cost_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out what the features cost."""
    head = f"{'what the features cost':36}{'records/s':>11}{'CPU µs/record':>16}{'peak RSS':>11}{'keys':>9}"
    lines = [f"{head}{'bytes/key':>11}   ratio to plain"]
    for name, told in found.items():
        rss = _known(told["peak_bytes"] and told["peak_bytes"] / 1e6, ",.0f", " MB")
        keys, each = (f"{told[what]:,.0f}" if told[what] else "" for what in ("keys", "key_bytes"))
        ratio = _ratio(told["ratio"], spread=told["beside"] != name)
        lines.append(
            f"{told['title']:36}{told['records_s']:>11,}{_known(told['cpu_us'], '.1f'):>16}{rss:>11}{keys:>9}{each:>11}"
            f"   {ratio}"
        )
    return "\n".join(lines)


def inside(runs: Sequence[Figures]) -> dict[str, Any]:
    """Return the medians of what was measured in process, and the ratios where there is one to be held against."""
    found: dict[str, Any] = {}
    for name, (title, beside, asked) in INSIDE.items():
        figures = runs[0][name]
        told: dict[str, Any] = {"title": title, "asked": asked}
        told |= {what: round(statistics.median(run[name][what] for run in runs), 2) for what in figures}
        for what in ("record_us", "with_save_us"):
            if beside and what in figures:
                told[f"{what}_ratio"] = _spread([run[name][what] / run[beside][what] for run in runs])
        found[name] = told
    return found


def inside_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out what was measured in process."""
    head = f"{'in process, without Kafka':36}{'CPU µs/record':>16}{'with a save':>14}{'peak RSS':>11}{'bytes each':>12}"
    lines = [f"{head}   {'ratio':18}with a save"]
    for told in found.values():
        columns = [
            *((f"{told[what]:.2f}" if what in told else "") for what in ("record_us", "with_save_us")),
            f"{told['rss_bytes'] / 1e6:,.0f} MB" if told.get("rss_bytes") else "",
            f"{told['each_bytes']:,.0f}" if told.get("each_bytes") and told["asked"] else "",
        ]
        ratios = [
            _ratio(told[what], spread=True) if what in told else ""
            for what in ("record_us_ratio", "with_save_us_ratio")
        ]
        line = f"{told['title']:36}" + "".join(f"{c:>{w}}" for c, w in zip(columns, (16, 14, 11, 12), strict=True))
        lines.append(f"{line}   {ratios[0]:18}{ratios[1]:18}{told['asked']}".rstrip())
    return "\n".join(lines)
