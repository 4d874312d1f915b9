"""`headrace model explain`: how each step of the model runs, and the reason if it does not run compiled."""

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from headrace.pipeline import model_factory
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.state.compiled import compiler

_WIDTH = 120


def explain(config: Config, *, json: bool) -> int:
    """Print what each step of the model runs as. Connects to nothing. Raises ModelError."""
    model = model_factory.builder(config)().model
    verdicts = compiler.explain(model)
    runs_as, reason = _whole(config, verdicts)
    if json:
        told: dict[str, Any] = {"runs_as": runs_as, "reason": reason, "steps": [*map(msgspec.structs.asdict, verdicts)]}
        data.write(as_json(told) + "\n")
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("STEP", "CAN BE COMPILED", "WHY NOT"):
        table.add_column(column)
    for verdict in verdicts:
        table.add_row(verdict.step, "yes" if verdict.compiled else "no", verdict.reason)
    console = Console(file=data.file, width=_WIDTH if not data.isatty() else None, highlight=False)
    console.print(table)
    console.print(f"\nruns as: {runs_as}{f' ({reason})' if reason else ''}", markup=False)
    return 0


def _whole(config: Config, verdicts: list[compiler.CompiledStep]) -> tuple[str, str]:
    """Return how the whole model runs: "compiled", "arrays" or "river", and the reason if it is not the fastest."""
    if not config.model.compile:
        return "river", "model.compile = false"
    if not model_factory.has_numba():
        return "river", "numba is not installed here"
    refused = next((verdict for verdict in verdicts if not verdict.compiled), None)
    return ("compiled", "") if refused is None else ("river", f"{refused.step}: {refused.reason}")
