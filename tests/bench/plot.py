"""Draws the figures of `make bench` as a few small SVG files; the same figures give the same bytes.

    python plot.py DIR < FIGURES.json

It runs in the environment of the peers, which has matplotlib. The background is transparent and the colours are
mid-tones, so that each file can be read on a light and on a dark page.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#7d8590"
OURS = "#2f81f7"
OTHERS = "#8b949e"
LIMIT = "#b08800"
CUT = "#ffffff"
STYLE = {
    "svg.hashsalt": "headrace",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}
_WIDTH_IN = 7.2
_BAR_IN = 0.34
_CUT = 2.5
_POINTS = "offset points"
_LINES = ("#2f81f7", "#d2691e", "#3fb950", "#a371f7")

Told = Mapping[str, Any]


def peers(told: Told) -> Figure:
    """Draw the speed and the CPU time for each record of each peer as bars, with the spread as a line on each bar."""
    found, runs = told["peers"]["peers"], told["peer_runs"]
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + _BAR_IN * len(found)), layout="constrained")
    speeds, costs = figure.subplots(1, 2, sharey=True)
    _bars(
        speeds,
        found,
        {n: [run[n]["records_s"] / 1e3 for run in runs] for n in found},
        "thousand records a second",
        cut=False,
    )
    costs_us = {n: [run[n]["cpu_us"] or 0.0 for run in runs] for n in found}
    _bars(costs, found, costs_us, "CPU µs a record, less is better", cut=True)
    costs.tick_params(left=False)
    return figure


def _bars(axes: Any, found: Told, values: Mapping[str, Sequence[float]], title: str, *, cut: bool) -> None:
    names = list(found)
    longest = sorted(max(each) for each in values.values())
    # A bar that is many times the next one is cut off and labelled: otherwise the others would be too small.
    end = 1.3 * (longest[-2] if cut and len(longest) > 1 and longest[-1] > _CUT * longest[-2] else longest[-1])
    for place, name in enumerate(names):
        least, middle, most = min(values[name]), median(values[name]), max(values[name])
        color = OURS if name.startswith("headrace") else LIMIT if name == "copy" else OTHERS
        axes.barh(place, min(middle, end), color=color, height=0.66)
        axes.plot([least, most], [place, place], color=INK, linewidth=1.2)
        said = f"{middle:,.1f}" if middle < 100 else f"{middle:,.0f}"
        if middle > end:
            axes.annotate(
                f"{said} ▸", (end, place), xytext=(-4, 0), textcoords=_POINTS, va="center", ha="right", color=CUT
            )
        else:
            axes.annotate(said, (most, place), xytext=(4, 0), textcoords=_POINTS, va="center")
    axes.set_yticks(range(len(names)), [found[name]["title"] for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, end)
    axes.set_title(title, fontsize=10, color=INK)


def latency(told: Told) -> Figure:
    """Draw p50 to p99 of each program at each rate: a dumbbell on a logarithmic scale."""
    found = told["latency"]
    rates = [rate for rate in next(iter(found.values())) if rate != "title"]
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + _BAR_IN * len(found)), layout="constrained")
    for axes, rate in zip(
        figure.subplots(1, len(rates), sharex=True, sharey=True, squeeze=False)[0], rates, strict=True
    ):
        for place, (name, row) in enumerate(found.items()):
            p50, p99 = row[rate]["p50_ms"]["median"], row[rate]["p99_ms"]["median"]
            color = OURS if name.startswith("headrace") else OTHERS
            axes.plot([p50, p99], [place, place], color=color, linewidth=2)
            axes.plot([p50], [place], "o", color=color)
            axes.plot([p99], [place], "|", color=color, markersize=12, markeredgewidth=2)
        axes.set_yticks(range(len(found)), [row["title"] for row in found.values()])
        axes.tick_params(axis="y", length=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.grid(axis="x", color=INK, alpha=0.25)
        axes.set_title(f"{int(rate):,} records/s", fontsize=10, color=INK)
        axes.set_ylim(len(found) - 0.5, -0.5)
    figure.supxlabel("ms from the producer to a read_committed reader: p50 ● to p99 |", fontsize=10, color=INK)
    return figure


PANELS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "wide": ("features", lambda name: name == "plain" or name.startswith("wide.")),
    "keys": ("keys", lambda name: name.startswith("keys.")),
    "partitions": ("partitions", lambda name: name.startswith("partitions.")),
    "bad": ("bad records, %", lambda name: name.startswith("bad.")),
}
"""The panels of the growth, by part: the title, and the cases in it."""


def growth(told: Told) -> Figure:
    """Draw how the cost of a record grows with features, keys, partitions and the share of bad records."""
    rows = told["growth"]
    parts = told["arguments"]["parts"]
    drawn = {title: [n for n in rows if belongs(n)] for part, (title, belongs) in PANELS.items() if part in parts}
    figure = Figure(figsize=(_WIDTH_IN, 2.5), layout="constrained")
    every = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, (title, names) in zip(every, drawn.items(), strict=True):
        _curves(axes, names, told["growth_runs"])
        axes.set_title(title, fontsize=10, color=INK)
    every[0].set_ylabel("times the first of the row")
    every[-1].legend(fontsize=9, loc="best")
    return figure


def _curves(axes: Any, names: Sequence[str], runs: Sequence[Told]) -> None:
    kinds: dict[str, Callable[[Told], float]] = {
        "time": lambda run: 1 / run["records_s"],
        "CPU, worker": lambda run: run["cpu_us"] or 0.0,
        "CPU, broker": lambda run: run["broker_us"] or 0.0,
    }
    labels = ["10" if name == "plain" else _short(int(name.rpartition(".")[2])) for name in names]
    for (kind, cost), color in zip(kinds.items(), _LINES, strict=False):
        series = []
        for name in names:
            ratios = sorted(cost(run[name]) / (cost(run[names[0]]) or 1.0) for run in runs)
            series.append((ratios[0], median(ratios), ratios[-1]))
        low, middle, high = zip(*series, strict=True)
        axes.plot(range(len(names)), middle, "o-", color=color, linewidth=1.6, markersize=4, label=kind)
        axes.fill_between(range(len(names)), low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xticks(range(len(names)), labels)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda times, _: f"{times:g}")
    axes.grid(axis="y", color=INK, alpha=0.25)


def _short(number: int) -> str:
    """Format a count in short: 1000000 is 1M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)


def memory(told: Told) -> Figure:
    """Draw the resident bytes after each million of records."""
    found = {int(mark) / 1e6: held / 1e6 for mark, held in told["memory"].items()}
    figure = Figure(figsize=(_WIDTH_IN, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(found), list(found.values()), "o-", color=OURS, linewidth=1.6, markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("million records")
    axes.set_ylabel("MB resident")
    axes.grid(axis="y", color=INK, alpha=0.25)
    return figure


PLOTS: Mapping[str, Callable[[Told], Figure]] = {
    "peers": peers,
    "latency": latency,
    "growth": growth,
    "memory": memory,
}
"""The plots, by the figures that they need."""


def main(directory: Path) -> None:
    """Draw each plot whose figures exist."""
    told = json.load(sys.stdin)
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in PLOTS.items():
            if name not in told or (name == "growth" and not PANELS.keys() & set(told["arguments"]["parts"])):
                continue
            file = directory / f"{name}.svg"
            draw(told).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
            sys.stderr.write(f"drawn: {file}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
