"""The chart of a backtest: each metric of each model, over the number of scored answers."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.pipeline.hinted_error import HintedError

ENDINGS = (".png", ".svg")
Points = Sequence[tuple[int, Mapping[str, float]]]
"""The number of scored answers, and the values of the metrics then."""

_WIDTH, _HEIGHT = 8.0, 3.2
# Colours that people with colour blindness can tell apart (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


class ChartRefused(HintedError):
    """Raised for a file that can't be a chart."""


class PlotMissing(HintedError):
    """Raised when the library that draws is not installed."""

    status = 503


def check(file: Path) -> None:
    """Check that a chart can be drawn into a file. Raises ChartRefused, PlotMissing."""
    if file.suffix.lower() not in ENDINGS:
        raise ChartRefused(
            f"--plot {file}: a chart is a PNG or an SVG file", hint="name the file with the ending .png or .svg"
        )
    if not file.absolute().parent.is_dir():
        raise ChartRefused(f"--plot {file}: there is no folder {file.parent}", hint="create it, or name another file")
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotMissing("--plot needs matplotlib", hint='install it: pip install "headrace[plot]"')


def draw(file: Path, curves: Mapping[str, Points], *, title: str) -> None:
    """Draw a panel for each metric with a line for each model, and write the file. Raises OSError."""
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes a second to import

    names = list(dict.fromkeys(name for points in curves.values() for _, values in points for name in values))
    figure = Figure(figsize=(_WIDTH, _HEIGHT * max(1, len(names))), layout="constrained")
    panels: Any = figure.subplots(max(1, len(names)), 1, squeeze=False)
    for name, panel in zip(names, panels[:, 0], strict=False):
        for number, (label, points) in enumerate(curves.items()):
            known = [(scored, values[name]) for scored, values in points if name in values]
            panel.plot(*zip(*known, strict=True), label=label, color=_COLOURS[number % len(_COLOURS)])
        panel.set_ylabel(name.replace("_", " "))
        panel.grid(visible=True, color="#dddddd")
        panel.legend(loc="best")
    panels[0, 0].set_title(title)
    panels[-1, 0].set_xlabel("scored predictions")
    figure.savefig(file)
