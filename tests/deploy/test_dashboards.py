"""The dashboards of deploy/grafana: well formed, without overlaps, and of metrics that the code has."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import dashboards
import pytest
import yaml

from headrace.pipeline.serve.counters import SharedCounters
from headrace.pipeline.telemetry import Telemetry

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 24
BOARDS = dashboards.load()
# Units of Grafana's own list.
UNITS = {"short", "s", "bytes", "percentunit", "cps", "reqps"}
ALERTS = re.findall(r"(?m)^## (Headrace\w+)$", (ROOT / "docs" / "alerts.md").read_text())


def metrics() -> dict[str, set[str]]:
    """Return the metrics of a worker and of a server with the labels of each."""
    found: dict[str, set[str]] = {}
    for collector in (Telemetry().registry, SharedCounters(1)):
        for metric in collector.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            # Those without a series yet tell no labels.
            found[name] = {label for sample in metric.samples for label in sample.labels}
    return found


def names_in(text: str) -> set[str]:
    """Return the metrics that an expression uses, without the series that histograms are made of."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"(?<![:\w])headrace_\w+", text)}


def test_a_dashboard_is_named_like_its_file_and_asks_for_its_data_source_and_its_job() -> None:
    assert set(BOARDS) == {"headrace-pipeline", "headrace-server"}
    for name, board in BOARDS.items():
        assert board["uid"] == name
        assert board["title"]
        assert board["description"]
        assert {one["name"]: one["type"] for one in board["templating"]["list"]} == {
            "datasource": "datasource",
            "job": "query",
        }
        source = {"type": "prometheus", "uid": "${datasource}"}
        for place in dashboards.parts(board):
            assert place.get("datasource", source) in (source, {"type": "grafana", "uid": "-- Grafana --"}), place


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_a_title_a_description_a_unit_and_a_place_of_their_own(name: str) -> None:
    panels = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)
    for panel in panels:
        if panel["type"] in {"row", "alertlist"}:
            continue
        assert panel["description"].endswith((".", *map(str.lower, ALERTS))), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    for one, other in combinations(panels, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= WIDTH for p in panels)


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_what_a_panel_names_is_there() -> None:
    known = metrics()
    for board in BOARDS.values():
        for panel, query in dashboards.queries(board):
            assert names_in(query) <= known.keys(), panel
            # Each series is one of the job that is chosen, over the window that fits the zoom.
            for selector in re.findall(r"(?:headrace_\w+|\bup)(\{[^}]*\}|)", query):
                assert 'job="$job"' in selector, panel
            assert not re.search(r"\brate\([^[]*\[(?!\$__rate_interval)", query), panel
            for label in re.findall(r'(\w+)(?:=~|!~|!=|=)"', query):
                used = set.union(*(known[name] for name in names_in(query))) if names_in(query) else set()
                assert label in used | {"job", "le", "partition", "measure"}, (panel, label)
        for panel in board["panels"]:
            for alert in re.findall(r"Headrace[A-Z]\w+", panel.get("description", "")):
                assert alert in ALERTS, panel["title"]
            for anchor in re.findall(r"docs/alerts\.md#(\w+)", panel.get("description", "")):
                assert anchor in {alert.lower() for alert in ALERTS}, panel["title"]
            for page in re.findall(r"docs/[\w-]+\.md", panel.get("description", "")):
                assert (ROOT / page).exists(), panel["title"]


def test_each_metric_is_in_a_panel_or_in_an_alert() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    shown = {name for board in BOARDS.values() for _, query in dashboards.queries(board) for name in names_in(query)}
    assert metrics().keys() - shown - names_in(rules) == set()


def test_the_provisioning_file_is_one_of_grafana() -> None:
    [provider] = yaml.safe_load((dashboards.FOLDER / "provisioning.yml").read_text())["providers"]
    assert (provider["type"], provider["name"]) == ("file", "headrace")
    assert provider["options"]["path"].endswith("/headrace")


def test_the_files_are_plain_json() -> None:
    for file in dashboards.FOLDER.glob("*.json"):
        board: Any = json.loads(file.read_text())
        assert file.read_text() == json.dumps(board, indent=2, ensure_ascii=False) + "\n"
