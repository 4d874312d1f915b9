"""A real Prometheus scrapes a real pipeline with the files of deploy/prometheus."""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import prometheus
import pytest
import yaml
from harness import Project, wait_until
from labelled import labelled, plan, send

from headrace.pipeline.embedded.port import free_ports

pytestmark = pytest.mark.prometheus

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"


class Server:
    """A Prometheus at a port of loopback."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **words: str) -> Any:
        """Return the data of an answer; None while the server starts."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def values(self, query: str) -> dict[str, float]:
        """Return the values of a query by their labels, as JSON without the name, the job and the instance."""
        found = self.ask("query", query=query) or {"result": []}
        hidden = {"__name__", "instance", "job"}
        return {
            json.dumps({name: text for name, text in sorted(one["metric"].items()) if name not in hidden}): float(
                one["value"][1]
            )
            for one in found["result"]
        }


@contextlib.contextmanager
def _scraping(targets: Mapping[str, list[str]], folder: Path) -> Iterator[Server]:
    """Run Prometheus with the project's own configuration, on these targets, each second."""
    program = prometheus.find("prometheus")
    assert program is not None, prometheus.ADVICE
    shutil.copy(FOLDER / "rules.yml", folder)
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in settings["scrape_configs"]:
        job["static_configs"] = [{"targets": targets.get(job["job_name"], [])}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    [port] = free_ports(1)
    words = [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = (folder / "prometheus.log").open("wb")
    process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        yield Server(port)
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_prometheus_reads_every_metric_of_a_pipeline_and_evaluates_every_rule(
    project: Callable[..., Project], tmp_path: Path
) -> None:
    p = labelled(project, partitions=2)
    [port] = free_ports(1)
    p.settings["HEADRACE__METRICS__PORT"] = str(port)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    send(p, plan(2_000, partitions=2, delay_max=500))
    p.produce([b"no JSON"] * 3, partition=0)
    with p.running() as run, _scraping({"headrace": [f"127.0.0.1:{port}"]}, folder) as server:
        records = 'headrace_records_total{outcome="predicted"} == 2000'
        wait_until(lambda: server.values(records), what="Prometheus to see all predictions", timeout_s=90)
        both = [f'{{"partition": "{n}", "topic": "{topic}"}}' for n in range(2) for topic in ("features", "labels")]
        wait_until(
            lambda: server.values("headrace_lag_records") == dict.fromkeys(sorted(both), 0.0),
            what="each log to be without a lag",
            timeout_s=60,
        )
        assert server.values("headrace_lag_seconds") == dict.fromkeys(both, 0.0)
        assert server.values('headrace_records_total{outcome="dead_lettered"}') == {'{"outcome": "dead_lettered"}': 3.0}
        assert server.values('headrace_snapshots_total{result="failed"}') == {'{"result": "failed"}': 0.0}

        def evaluated() -> list[dict[str, Any]]:
            groups = (server.ask("rules") or {"groups": []})["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            return rules if rules and all(rule["health"] != "unknown" for rule in rules) else []

        rules = wait_until(evaluated, what="each rule to be evaluated", timeout_s=60)
        assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
        # Under three dead letters in 2,003 records, no alert is due.
        assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
        types = server.ask("metadata")
        assert run.stop() == 0, run.log()
    rows = re.findall(r"(?m)^\| `(headrace_\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text())
    told = {name: kind for name, kind in rows if not name.startswith("headrace_serve_")}
    assert told
    assert {name: types.get(name, types.get(name.removesuffix("_total"), [{}]))[0].get("type") for name in told} == told
