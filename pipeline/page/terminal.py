"""`headrace top`: the page's figures in a terminal, one frame a second; a single frame where there is no terminal."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.page.frame import PartitionRow, StreamFrame
from headrace.pipeline.page.timeline import TimelineEvent
from headrace.pipeline.page.watcher import FRAME_S, Watcher

WIDTH, HEIGHT = 80, 24
"""The size in which all is shown at the least, and that of a frame where there is no terminal."""

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"running": "green", "paused": "yellow", "relearning": "cyan", "stopped": "", "unknown": "red"}
_EVENTS_KEPT = 20
_SECONDS_KEPT = 240
_WORKERS_SHOWN = 4
_EVENTS_LEAST = 3
_COUNTS = ("records", "predictions", "dead_letters", "skipped", "learned")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400


class TopScreen:
    """Draws frames that come in the order of time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rates: deque[float] = deque(maxlen=_SECONDS_KEPT)
        self._events: deque[TimelineEvent] = deque(maxlen=_EVENTS_KEPT)

    def take(self, frame: StreamFrame) -> None:
        """Note a frame for the course of the rate, and its events."""
        self._rates.append(frame.rates.get("records", 0.0))
        self._events.extend(frame.events)

    def draw(self, frame: StreamFrame, *, width: int, height: int) -> Group:
        """Return what is shown of a frame in a terminal of this size, in characters."""
        head = [*self._banner(frame), "", self._counts(frame), self._flow(frame, width), *_quality(frame)]
        workers = _workers(frame)
        events = [_line(f"{_clock(event.at)}  {event.text}", style="dim") for event in self._events]
        # The table of the counts has three lines, and the two others have a head and an empty line before them.
        left = height - (len(head) + 2) - (max(1, min(len(frame.workers), _WORKERS_SHOWN)) + 2) - 2
        rows_max = max(2, left - min(len(events), _EVENTS_LEAST))
        left -= max(1, min(len(frame.partitions), rows_max))
        partitions = _partitions(frame.partitions, rows_max)
        return Group(*head, "", partitions, "", workers, *(events[-left:] if left > 0 else ()))

    def _banner(self, frame: StreamFrame) -> list[Any]:
        banner = frame.banner
        since = _age((frame.at - banner.since) / 1_000)
        status = f" {banner.status}" if banner.status == 503 else ""  # noqa: PLR2004 the status of a pause
        state = (f" {banner.state.upper()}{status} ", f"reverse bold {_STYLES[banner.state]}".strip())
        head = Text.assemble(("Headrace ", "dim"), (self._name, "bold"), "  ", state, f"  for {since}", no_wrap=True)
        lines: list[Any] = [head]
        if banner.reason:
            lines.append(_line(banner.reason, style="yellow"))
        lines += [_line(f"! {line}", style="yellow") for line in (*banner.warnings[:2], *banner.faults[:2])]
        if banner.words:
            command = f"  ->  {banner.command}" if banner.command else ""
            lines.append(_line(f"{banner.words}{command}"))
        return lines

    def _counts(self, frame: StreamFrame) -> Table:
        table = Table(box=None, pad_edge=False, expand=True)
        counts = frame.counts
        for name in _COUNTS:
            table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        table.add_row(*(Text(_whole(None if counts is None else getattr(counts, name)), "bold") for name in _COUNTS))
        table.add_row(*(f"{frame.rates.get(name, 0.0):,.0f}/s" for name in _COUNTS), style="dim")
        return table

    def _flow(self, frame: StreamFrame, width: int) -> Text:
        lag = "lag -" if frame.lag is None else f"lag {frame.lag:,}"
        if frame.lag and frame.lag_s:
            lag += f" ({'> ' if frame.lag_is_least else ''}{_age(frame.lag_s)})"
        latency = frame.latency
        times = "" if latency is None else f"   latency p50 {latency.p50:,.0f} ms, p99 {latency.p99:,.0f} ms"
        words = f"{lag}{times}   "
        course = _course(list(self._rates)[-max(0, width - len(words) - 1) :])
        return Text.assemble(words, (course, "cyan"), no_wrap=True)


def top(config: Config, *, json: bool) -> int:
    """Show frames until an interrupt; one frame where standard output is no terminal. Return the exit code."""
    watcher, screen = Watcher(config, publish=lambda _frame: None), TopScreen(config.name)
    if json or not data.isatty():
        # A rate needs two looks.
        watcher.look()
        time.sleep(FRAME_S)
        frame = watcher.look()
        if json:
            data.write(as_json(frame) + "\n")
            return 0
        screen.take(frame)
        console = Console(file=data.file, width=WIDTH, highlight=False, markup=False)
        data.render(console, screen.draw(frame, width=WIDTH, height=HEIGHT))
        return 0
    console = Console(file=data.file, highlight=False, markup=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(frame: StreamFrame) -> None:
            screen.take(frame)
            live.update(screen.draw(frame, width=console.width, height=console.height), refresh=True)

        watcher = Watcher(config, publish=show)
        watcher.start()
        try:
            while True:
                time.sleep(FRAME_S)
        finally:
            watcher.stop()


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _quality(frame: StreamFrame) -> list[Text]:
    quality = frame.quality or {}
    parts = [
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in quality.items()
    ]
    if frame.labelled_share is not None:
        parts.append(f"labelled {frame.labelled_share:.1%}")
    return [Text(" · ".join(parts), no_wrap=True, overflow="ellipsis")] if parts else []


def _partitions(rows: Sequence[PartitionRow], rows_max: int) -> Table:
    """Return the partitions that are furthest behind, in the order of their numbers."""
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("part", "committed", "lag", "behind", "rec/s", "learned", "saved at", "ver", "worker"):
        table.add_column(name, justify="right", no_wrap=True)
    worst = sorted(rows, key=lambda row: (-(row.lag or 0), row.partition))
    shown = rows if len(rows) <= rows_max else sorted(worst[: rows_max - 1], key=lambda row: row.partition)
    for row in shown:
        behind = f"{'>' if row.lag_is_least else ''}{_age(row.lag_s)}" if row.lag_s else "-"
        numbers = (row.partition, row.committed, row.lag)
        others = (row.learned, row.snapshot, row.version, row.worker)
        table.add_row(*map(_whole, numbers), behind, f"{row.rate:,.0f}", *map(_whole, others))
    if len(shown) < len(rows):
        table.add_row("…", f"{len(rows) - len(shown)} more with less lag", style="dim")
    return table


def _workers(frame: StreamFrame) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("worker", "host", "pid", "state", "restarts", "partitions"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for note in list(frame.workers)[:_WORKERS_SHOWN]:
        partitions = ", ".join(map(str, note.get("partitions") or ())) or "none"
        state = Text(str(note.get("state", "")), style=_STYLES.get(str(note.get("state")), ""))
        restarts = str(note.get("restarts", 0))
        table.add_row(*(str(note.get(name, "-")) for name in ("ordinal", "host", "pid")), state, restarts, partitions)
    if not frame.workers:
        table.add_row("none", style="dim")
    return table


def _course(rates: Sequence[float]) -> str:
    """Draw rates as bars, the highest as the full one."""
    highest = max(rates, default=0.0)
    if highest <= 0 or len(rates) == 1:
        return ""
    return "".join(_BARS[min(len(_BARS) - 1, int(rate / highest * (len(_BARS) - 1) + 0.5))] for rate in rates)


def _age(seconds: float) -> str:
    if seconds < 10:  # noqa: PLR2004 short times have a fraction
        return f"{max(0.0, seconds):.1f} s"
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:.0f} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} d {seconds % _DAY_S // _HOUR_S:.0f} h"


def _clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1_000))


def _whole(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
