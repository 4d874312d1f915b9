"""A real Prometheus scrapes a real pipeline and its server, with the files of deploy/prometheus and deploy/grafana."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dashboards
import prometheus
import pytest
import server as serve
import yaml
from harness import Project, wait_until
from labelled import labelled, plan, send

from headrace.pipeline.embedded.port import free_ports

pytestmark = pytest.mark.prometheus

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
NO_SERIES = "no series"


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

    def problem(self, query: str) -> str:
        """Return the error of a query, or that it has no series; empty for one that a panel can show."""
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return "" if json.load(answer)["data"]["result"] else NO_SERIES
        except urllib.error.HTTPError as error:
            return json.load(error).get("error", str(error))

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
    with (
        p.running() as run,
        serve.serving(p) as asked,
        _scraping({"headrace": [f"127.0.0.1:{port}"], "headrace-serve": [f"127.0.0.1:{asked.port}"]}, folder) as server,
    ):
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
        _check_panels(server, asked)
        assert run.stop() == 0, run.log()
    rows = [row for page in ("metrics.md", "serving.md") for row in _documented(page)]
    told = dict(rows)
    assert len(told) == len(rows)
    assert {name: types.get(name, types.get(name.removesuffix("_total"), [{}]))[0].get("type") for name in told} == told


def _documented(page: str) -> list[tuple[str, str]]:
    """Return the metrics of a page with their types."""
    return re.findall(r"(?m)^\| `(headrace_\w+)` \| (\w+) \|", (ROOT / "docs" / page).read_text())


def _check_panels(server: Server, asked: serve.Server) -> None:
    """Run the query of every panel, as Grafana does, until each has a series; fail at once for a wrong query."""
    jobs = {"headrace-pipeline": "headrace", "headrace-server": "headrace-serve"}
    queries = [
        (title, query.replace("$job", jobs[name]).replace("$__rate_interval", "10s"))
        for name, board in dashboards.load().items()
        for title, query in dashboards.queries(board)
    ]
    assert len(queries) > 60
    until = time.monotonic() + 60
    with serve.Load(asked, [b'{"features": {"a": 1.0}}'], clients=1, pause_s=0.1) as load:
        while problems := {f"{title}: {query}": found for title, query in queries if (found := server.problem(query))}:
            assert set(problems.values()) == {NO_SERIES}, problems
            assert time.monotonic() < until, problems
            time.sleep(0.5)
    assert load.failures == []
