"""What the documents must mention, taken from the code: nothing that a user can meet is left out."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import Counter
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from verdict import assert_none

from headrace.consumers.refusal import CODES
from headrace.pipeline.commands import cli
from headrace.pipeline.commands.command import EXIT_AWAY, EXIT_CONFIG
from headrace.pipeline.config.config import describe
from headrace.pipeline.config.duration import duration_s
from headrace.pipeline.config.sections import FeatureConfig
from headrace.pipeline.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
ARCHITECTURE_LINES_MAX = 250
PACKAGES = ("consumers", "state", "producers", "pipeline")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def says(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *path, name)


def table(text: str) -> dict[str, str]:
    """Return the second cell of every row of a Markdown table whose first cell is one name in backticks."""
    return dict(re.findall(r"(?m)^\| `([^`]+)` \| *(.*?) *\|", text))


def shown(default: Any) -> Any:
    """Return a default as the table should have it; None where there is nothing to show."""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return None if default in (None, PydanticUndefined, "", {}, ()) else default


def value_of(cell: str, *, like: Any) -> Any:
    """Read a cell of the table: a number, true or false, a duration, or else a string as it stands."""
    text = cell.strip('`"')
    if isinstance(like, float) and text.endswith(("s", "m", "h", "d")):
        return duration_s(text)
    if isinstance(like, bool | int | float):
        return json.loads(text)
    return text or None


@pytest.fixture(scope="module")
def readme() -> str:
    return read("README.md")


def test_the_readme_names_every_command(readme: str) -> None:
    lines = readme.splitlines()
    missing = [
        " ".join(path)
        for path, _ in commands(typer.main.get_command(cli.app))
        if path and not any(all(says(line, word) for word in path) for line in lines)
    ]
    assert_none(missing, "commands that README.md does not name")


def test_the_readme_names_every_option(readme: str) -> None:
    missing = {
        f"headrace {' '.join(path)} {'/'.join(option.opts)}"
        for path, command in commands(typer.main.get_command(cli.app))
        for option in command.params
        if option.param_type_name == "option" and not any(says(readme, name) for name in option.opts)
    }
    assert_none(missing, "options that README.md does not name")


def test_the_readme_names_every_key_with_its_default(readme: str) -> None:
    rows = table(readme)
    wrong = []
    for key, default, _ in (*describe(), *describe(FeatureConfig, "schema.features.NAME.")):
        if key not in rows:
            wrong.append(f"{key} has no row | `{key}` | `default` | meaning |")
        elif value_of(rows[key], like=default) != shown(default):
            wrong.append(f"{key} is {shown(default)!r} in the code and {rows[key] or 'empty'} in the README")
    assert_none(wrong, "keys that README.md does not have right")


def test_the_readme_names_every_metric_as_it_is_exposed(readme: str) -> None:
    families = Telemetry().registry.collect()
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in families]
    assert names
    assert_none((name for name in names if f"`{name}`" not in readme), "metrics that README.md does not name")


def test_every_metric_counts_in_base_units_and_says_so() -> None:
    telemetry = Telemetry()
    units = [name for name in vars(telemetry) if re.search(r"_(ms|minutes|kb|mb)$", name)]
    counters = [c for c in vars(telemetry).values() if isinstance(c, Counter)]
    assert counters
    assert_none(units, "metrics in other than base units")
    mute = [family.name for family in telemetry.registry.collect() if not family.documentation.endswith(".")]
    assert_none(mute, "metrics without a sentence that says what they mean")


def test_the_readme_explains_every_code_of_a_dead_letter(readme: str) -> None:
    assert_none((code for code in CODES if not table(readme).get(code)), "codes without a row in README.md")


def test_the_readme_names_every_exit_code(readme: str) -> None:
    line = next((line for line in readme.splitlines() if re.match(r"\W*exit codes?\b", line, re.IGNORECASE)), "")
    codes = (str(code) for code in (0, 1, 2, EXIT_AWAY, EXIT_CONFIG))
    assert_none((code for code in codes if not says(line, code)), "not in README.md's line `Exit codes: …`")


def test_the_readme_has_no_gap_left_to_fill(readme: str) -> None:
    assert_none(re.findall(r"@@\w+@@", readme + read("ARCHITECTURE.md")), "gaps")


def test_the_map_of_the_architecture_names_every_module() -> None:
    text = read("ARCHITECTURE.md")
    assert len(text.splitlines()) <= ARCHITECTURE_LINES_MAX
    missing = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT)
            if file.stem.startswith("__"):
                continue
            short = {str(name.with_suffix("")), f"{name.parent.name}/{name.stem}", name.name, name.stem}
            if not says(text, str(name)) and not any(f"`{form}`" in text for form in short):
                missing.append(str(name))
    assert_none(missing, "modules that ARCHITECTURE.md does not name (folder/name.py, `folder/name` or `name`)")


def test_what_the_documents_point_at_is_there() -> None:
    # A test is named as it stands below tests/.
    folders = "|".join((*PACKAGES, "tests", "deploy", "contracts", "e2e", "bench", "house"))
    broken = []
    for document in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        text = read(document)
        links = re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", text)
        named = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
        for path in (*links, *named):
            places = (ROOT / path, ROOT / f"{path}.py", ROOT / "tests" / path)
            broken += [] if any(place.exists() for place in places) else [f"{document}: {path}"]
    assert_none(broken, "paths that lead nowhere")


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    sections = re.findall(r"(?m)^## \[?([\w.]+)\]?", read("CHANGELOG.md"))
    assert {"Unreleased", version} & set(sections)


def test_the_walk_over_the_commands_finds_them() -> None:
    found = {path for path, _ in commands(typer.main.get_command(cli.app))}
    assert {("run",), ("dlq", "replay"), ("config", "check")} <= found
