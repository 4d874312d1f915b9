"""The alerts of deploy/prometheus: each fires and is silent where it should, and a rule that is changed is found out.

A seeded mistake is a rule with another threshold, another time or without a selector; its cases must then fail.
"""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
FILES = [yaml.safe_load(file.read_text()) for file in sorted(FOLDER.glob("*.test.yml"))]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}

_COMPARISON = re.compile(r"(>=|==|>|<) ?([0-9.]+)?")
_SELECTOR = re.compile(r"\{[^}]*\}")


def _mistakes(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield wrong forms of a rule, each with what is wrong with it."""
    expression = rule["expr"]
    for found in _COMPARISON.finditer(expression):
        place = f"{found.group()} at {found.start()}"
        if found.group(2) is not None:
            number = float(found.group(2))
            start, end = found.span(2)
            for name, other in (("higher", number * 1.6 or 1e9), ("lower", number / 1.6 or -1e9)):
                yield f"{place} {name}", {**rule, "expr": f"{expression[:start]}{other}{expression[end:]}"}
        start, end = found.span(1)
        turned = "<" if ">" in found.group(1) or found.group(1) == "==" else ">"
        yield f"{place} turned", {**rule, "expr": f"{expression[:start]}{turned}{expression[end:]}"}
    for found in _SELECTOR.finditer(expression):
        without = expression[: found.start()] + expression[found.end() :]
        yield f"without {found.group()}", {**rule, "expr": without}
    if "for" in rule:
        yield "for no time", {name: value for name, value in rule.items() if name != "for"}
        yield "for longer", {**rule, "for": "20h"}


def _cases(alert: str) -> Iterator[dict[str, Any]]:
    """Yield the test files, each with nothing but the cases of one alert."""
    for file in FILES:
        tests = []
        for test in file["tests"]:
            rules = [rule for rule in test["alert_rule_test"] if rule["alertname"] == alert]
            if rules:
                tests.append({**test, "alert_rule_test": rules})
        if tests:
            yield {**file, "tests": tests}


def _run(folder: Path, alert: str, rule: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the cases of an alert on a form of its rule."""
    rules = copy.deepcopy(RULES)
    for group in rules["groups"]:
        # All other alerts are left out. A recorded series may be needed.
        kept = [other for other in group["rules"] if other.get("alert") in {alert, None}]
        group["rules"] = [rule if "alert" in other else other for other in kept]
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    files = []
    for number, cases in enumerate(_cases(alert)):
        files.append(folder / f"{number}.test.yml")
        files[-1].write_text(yaml.safe_dump(cases))
    program = prometheus.find("promtool")
    assert program is not None, prometheus.ADVICE
    return subprocess.run([program, "test", "rules", *files], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.prometheus
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_holds_its_cases_and_no_changed_rule_does(alert: str, tmp_path: Path) -> None:
    done = _run(tmp_path, alert, ALERTS[alert])
    assert done.returncode == 0, done.stdout + done.stderr
    unnoticed = [what for what, rule in _mistakes(ALERTS[alert]) if _run(tmp_path, alert, rule).returncode == 0]
    assert unnoticed == []


@pytest.mark.prometheus
def test_the_files_are_valid_and_the_scrape_configuration_names_the_rules() -> None:
    program = prometheus.find("promtool")
    assert program is not None, prometheus.ADVICE
    done = subprocess.run(
        [program, "check", "config", FOLDER / "prometheus.yml"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "1 rule files found" in done.stdout) == (0, True), done.stdout


def test_each_alert_has_a_case_that_fires_one_that_is_silent_and_a_place_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "alerts.md").read_text()
    for alert, rule in ALERTS.items():
        cases = [case for file in _cases(alert) for test in file["tests"] for case in test["alert_rule_test"]]
        assert any(case.get("exp_alerts") for case in cases), alert
        assert any(not case.get("exp_alerts") for case in cases), alert
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{alert.lower()}"
        assert f"\n## {alert}\n" in runbook
        assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(re.findall(r"(?m)^## (Headrace\w+)$", runbook)) == set(ALERTS)


def test_the_rules_use_metrics_that_exist() -> None:
    metrics = "".join((ROOT / "docs" / name).read_text() for name in ("metrics.md", "serving.md"))
    known = set(re.findall(r"`(headrace_\w+)`", metrics))
    used = set(re.findall(r"(?<![:\w])headrace_\w+", " ".join(r["expr"] for g in RULES["groups"] for r in g["rules"])))
    parts = re.compile(r"_(bucket|count|sum)$")
    assert {parts.sub("", name) for name in used} <= known
