"""Reads the dashboards of deploy/grafana, for the tests of their files and of their queries."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "grafana"


def load() -> dict[str, Any]:
    """Return the dashboards by the names of their files."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}


def queries(board: Any) -> Iterator[tuple[str, str]]:
    """Yield the title of a panel and each of its queries."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Yield each object within a dashboard."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(child)
