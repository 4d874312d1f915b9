"""The output of the demo on stdout: acts, steps, rows of figures, and the results of checks."""

import contextlib
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from headrace.pipeline.console import data

WIDTH = 100
"""The width of the output if stdout is not a terminal."""

_INDENT = "    "
_ROOM_MIN = 20
_NUMBER_WIDTH = 3
_BARS = "▁▂▃▄▅▆▇█"
_GAP = "·"
_SPARKS_MAX = 40
_ROW_WIDTH_MIN = 76
_BACK = "\r\x1b[2K"
_COLUMNS = (("records/s", 10), ("p50 ms", 8), ("p99 ms", 8), ("lag", 7), ("dead letters", 13), ("accuracy", 9))
_TIME_WIDTH = 5
_STEP_WIDTH = 54
_CALM_MS = 1_000


class Figures(NamedTuple):
    """The figures of about a second. Latencies are in ms; a value is None if there was nothing to measure."""

    records_s: float
    p50_ms: float | None
    p99_ms: float | None
    lag: int
    dead_letters: int
    accuracy: float | None


class Screen:
    """Print the demo, with colours if the terminal supports them, and count the seconds since its start."""

    def __init__(self) -> None:
        self._console = Console(
            file=data.file, width=None if data.isatty() else WIDTH, highlight=False, markup=False, emoji=False
        )
        self._started = time.monotonic()
        # On a terminal a row replaces the row before it; the bars still show the older accuracies.
        wide = self._console.width >= _ROW_WIDTH_MIN
        self._in_place = self._console.is_terminal and not self._console.is_dumb_terminal and wide
        self._row_open = False
        self._accuracies: list[float | None] = []
        self._acts = 0
        self._step_at: float | None = None

    @property
    def seconds(self) -> float:
        """The seconds since the start of the demo."""
        return time.monotonic() - self._started

    def title(self, text: str) -> None:
        """Print a line that stands by itself."""
        self._print(Text(text, style="bold"))

    def act(self, text: str) -> None:
        """Begin the next act."""
        self._acts += 1
        self._print(Text())
        self._wrap(Text(f"{self._acts}".ljust(_NUMBER_WIDTH), style="bold cyan"), text, style="bold")

    def say(self, text: str = "") -> None:
        """Print a line of an act, or an empty one."""
        self._wrap(Text(_INDENT if text else ""), text)

    def command(self, text: str) -> None:
        """Print a command in one piece, however long, so that it can be copied."""
        self._print(Text(f"{_INDENT}  {text}"))

    def held(self, text: str) -> None:
        """Print a claim that was checked and holds."""
        self._wrap(Text.assemble("  ", ("✓", "bold green"), " "), text)

    def broke(self, text: str) -> None:
        """Print a claim that was checked and does not hold."""
        self._wrap(Text.assemble("  ", ("✗", "bold red"), " "), text, style="red")

    def event(self, text: str) -> None:
        """Print an event with its time, between the rows."""
        self._wrap(Text.assemble(_INDENT, (self._clock(), "dim"), "  "), text, style="yellow")

    def close_line(self) -> None:
        """End a line that is still open, so that other output can follow."""
        if self._step_at is not None or self._row_open:
            self._step_at, self._row_open = None, False
            self._console.print()

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print the name of a step, and at its end the seconds that it took."""
        self.begin(text)
        yield
        self.end()

    def begin(self, text: str) -> None:
        """Begin a step: print its name as the first half of a line. This ends the step before.

        A text that is too long for half a line is printed as a remark.
        """
        self.end()
        if len(text) > _STEP_WIDTH - len(_INDENT) - 2:
            self.say(text)
            return
        self._print(Text(f"{_INDENT}{text} …".ljust(_STEP_WIDTH)), end="")
        self._step_at = time.monotonic()

    def end(self) -> None:
        """End the step, if one has begun: print the seconds that it took."""
        if self._step_at is not None:
            took_s, self._step_at = time.monotonic() - self._step_at, None
            self._print(Text(f"{took_s:6.1f} s", style="dim"))

    def head(self) -> None:
        """Print the head of the rows."""
        names = "".join(name.rjust(width) for name, width in _COLUMNS)
        scale = f"{_BARS[0]} 50 % {_BARS[-1]} 100 %"
        self._print(Text(f"{_INDENT}{'time'.rjust(_TIME_WIDTH)}{names}  {scale}", style="dim"))

    def row(self, figures: Figures) -> None:
        """Print a row of figures, and the accuracies of all rows so far as bars."""
        self._accuracies.append(figures.accuracy)
        cells = (
            f"{figures.records_s:,.0f}",
            _ms(figures.p50_ms),
            _ms(figures.p99_ms),
            f"{figures.lag:,}",
            f"{figures.dead_letters:,}",
            percent(figures.accuracy),
        )
        text = Text(_INDENT).append(self._clock().rjust(_TIME_WIDTH), style="dim")
        for cell, (name, width) in zip(cells, _COLUMNS, strict=True):
            text.append(cell.rjust(width), style="yellow" if name == "lag" and figures.lag > _CALM_MS else "")
        room = max(1, min(_SPARKS_MAX, self._console.width - len(text) - 3))
        text.append("  " + spark(self._accuracies[-room:]), style="cyan")
        if self._row_open:
            self._console.file.write(_BACK)
            self._row_open = False
        self._print(text, end="" if self._in_place else "\n")
        self._row_open = self._in_place

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows of texts in aligned columns, each row cut to the width of the screen."""
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            line = _INDENT + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            room = self._console.width
            self._print(Text(line if len(line) <= room else line[: room - 1] + "…", style="" if number else "dim"))

    def _clock(self) -> str:
        minutes, seconds = divmod(int(self.seconds), 60)
        return f"{minutes}:{seconds:02}".rjust(_TIME_WIDTH)

    def _wrap(self, head: Text, text: str, *, style: str = "") -> None:
        """Print a text after its head; the following lines have the same indent."""
        room = max(_ROOM_MIN, min(WIDTH, self._console.width) - len(head))
        wrapped = [
            part
            for line in text.splitlines() or [""]
            for part in textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
        ]
        for number, line in enumerate(wrapped):
            self._print(Text.assemble(head if number == 0 else " " * len(head), (line, style)))

    def _print(self, text: Text, *, end: str = "\n") -> None:
        self.close_line()
        self._console.print(text, end=end, soft_wrap=True)
        self._console.file.flush()


def spark(shares: Sequence[float | None]) -> str:
    """Draw shares as bars, from 0.5 (lowest) to 1 (highest), and a dot for None."""
    top = len(_BARS) - 1
    return "".join(
        _GAP if share is None else _BARS[min(top, max(0, int((share - 0.5) * 2 * (top + 1))))] for share in shares
    )


def percent(share: float | None) -> str:
    """Format a share as a percentage, and None as a dash."""
    return "-" if share is None else f"{share * 100:.1f} %"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
