"""What the documents must mention, taken from the code: nothing that a user can meet is left out."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from prometheus_client import Counter
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from verdict import assert_none

from headrace.consumers.refusal import CODES
from headrace.pipeline.commands import cli
from headrace.pipeline.config.config import describe, describe_tables
from headrace.pipeline.config.duration import duration_s
from headrace.pipeline.config.sections import FeatureConfig
from headrace.pipeline.exit_code import EXIT_AWAY, EXIT_CONFIG
from headrace.pipeline.telemetry import Telemetry
from headrace.producers import deadletter

ROOT = Path(__file__).parents[2]
README_LINES_MAX = 250
ARCHITECTURE_LINES_MAX = 250
ARCHITECTURE_COLUMNS_MAX = 120
PACKAGES = ("consumers", "state", "producers", "pipeline")
PAGES = tuple(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))
# In the order in which a stranger asks.
QUESTIONS = (
    "**It is for you**",
    "**It is not for you**",
    "$ pip install",
    "$ headrace init",
    "$ headrace run",
    "`model.py`",
    "**Four partitions are four models.**",
    "## Read the predictions",
    "## Dead letters",
    "## Operate",
    "## What is promised",
    "## Figures",
)
# Readers had to ask what these mean.
NOT_UNDERSTOOD = (
    "to the bit what an undisturbed run would have made",
    "The records round it are not touched",
    "Who gets no label in time is dropped",
    "oftener while the model is young",
    "A model that `model.py` no longer builds is not mistaken for the saved one",
    "as long as all keys together have no more than 64",
    "(Y - place)",
    "bare copy (the limit)",
)


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


def chapters(text: str) -> dict[str, str]:
    """Return what stands below each heading of the second level."""
    _, *parts = re.split(r"(?m)^## ", text)
    return {head: body for head, _, body in (part.partition("\n") for part in parts)}


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


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_what_the_code_generates(generate: ModuleType) -> None:
    pages = generate.pages()
    assert {f"docs/{page.name}" for page in pages} == set(PAGES)
    stale = [page.name for page, text in pages.items() if page.read_text(encoding="utf-8") != text]
    assert_none(stale, "pages that are not what the code generates; make docs")


def test_every_generated_part_stands_in_one_page(generate: ModuleType) -> None:
    text = "".join(read(page) for page in PAGES)
    assert sorted(re.findall(r"(?m)^<!-- ([^/].*) -->$", text)) == sorted(generate.PARTS)
    assert sorted(re.findall(r"(?m)^<!-- /(.*) -->$", text)) == sorted(generate.PARTS)


def test_the_readme_answers_a_stranger_in_the_order_of_the_questions(readme: str) -> None:
    lines = readme.splitlines()
    assert len(lines) <= README_LINES_MAX
    places = [next((n for n, line in enumerate(lines) if question in line), None) for question in QUESTIONS]
    assert None not in places
    assert places == sorted(places, key=lambda place: place or 0)


def test_no_document_says_what_readers_did_not_understand() -> None:
    texts = {
        name: read(name) for name in ("README.md", "CHANGELOG.md", "ARCHITECTURE.md", "deploy/headrace.toml", *PAGES)
    }
    found = (f"{name}: {words}" for name, text in texts.items() for words in NOT_UNDERSTOOD if words in text)
    assert_none(found, "sentences that readers did not understand")


def test_the_readme_names_every_command(readme: str) -> None:
    lines = readme.splitlines()
    missing = [
        " ".join(path)
        for path, _ in commands(typer.main.get_command(cli.app))
        if path and not any(all(says(line, word) for word in path) for line in lines)
    ]
    assert_none(missing, "commands that README.md does not name")


def test_the_page_of_the_commands_names_every_option_of_each() -> None:
    found = chapters(read("docs/commands.md"))
    missing = {
        f"headrace {' '.join(path)} {'/'.join(option.opts)}"
        for path, command in commands(typer.main.get_command(cli.app))
        if not hasattr(command, "commands")
        for option in command.params
        if option.param_type_name == "option"
        and not any(says(found[f"headrace {' '.join(path)}"] + found["Shared options"], name) for name in option.opts)
    }
    assert_none(missing, "options that docs/commands.md does not name")


def test_the_page_of_the_configuration_names_every_key_with_its_default_and_every_table() -> None:
    text = read("docs/configuration.md")
    rows = table(text)
    wrong = []
    for key, default, meaning in (*describe(), *describe(FeatureConfig, "schema.features.NAME.")):
        if key not in rows:
            wrong.append(f"{key} has no row | `{key}` | `default` | meaning |")
        elif value_of(rows[key], like=default) != shown(default):
            wrong.append(f"{key} is {shown(default)!r} in the code and {rows[key] or 'empty'} in the page")
        elif meaning not in text:
            wrong.append(f"{key}: {meaning}")
    assert_none(wrong, "keys that docs/configuration.md does not have right")
    with_keys = {key.rpartition(".")[0] for key in rows}
    missing = (f"{name}: {meaning}" for name, meaning in describe_tables() if name in with_keys and meaning not in text)
    assert_none(missing, "tables that docs/configuration.md does not explain")


def test_the_page_of_the_metrics_names_each_one_as_it_is_exposed() -> None:
    text = read("docs/metrics.md")
    families = Telemetry().registry.collect()
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in families]
    assert names
    assert_none((name for name in names if f"`{name}`" not in text), "metrics that docs/metrics.md does not name")


def test_every_metric_counts_in_base_units_and_says_so() -> None:
    telemetry = Telemetry()
    units = [name for name in vars(telemetry) if re.search(r"_(ms|minutes|kb|mb)$", name)]
    counters = [c for c in vars(telemetry).values() if isinstance(c, Counter)]
    assert counters
    assert_none(units, "metrics in other than base units")
    mute = [family.name for family in telemetry.registry.collect() if not family.documentation.endswith(".")]
    assert_none(mute, "metrics without a sentence that says what they mean")


def test_the_page_of_the_dead_letters_explains_every_code_and_names_every_header() -> None:
    text = read("docs/dead-letters.md")
    assert_none((code for code in CODES if not table(text).get(code)), "codes without a row in docs/dead-letters.md")
    headers = [v for v in vars(deadletter).values() if isinstance(v, str) and re.match(r"(__)?dlq\.", v)]
    assert headers
    assert_none(
        (name for name in headers if f"`{name}`" not in text), "headers that docs/dead-letters.md does not name"
    )


def test_the_readme_names_every_exit_code_and_the_page_of_the_commands_explains_it(readme: str) -> None:
    line = next((line for line in readme.splitlines() if re.match(r"\W*exit codes?\b", line, re.IGNORECASE)), "")
    rows = dict(re.findall(r"(?m)^\| (\d+) \| (.+) \|$", read("docs/commands.md")))
    codes = [str(code) for code in (0, 1, 2, EXIT_AWAY, EXIT_CONFIG)]
    assert_none((code for code in codes if not says(line, code)), "not in README.md's line `Exit codes: …`")
    assert_none((code for code in codes if not rows.get(code)), "exit codes without a row in docs/commands.md")


def test_the_documents_have_no_gap_left_to_fill() -> None:
    text = "".join(read(name) for name in ("README.md", "ARCHITECTURE.md", *PAGES))
    assert_none(re.findall(r"@@\w+@@", text), "gaps")


def test_the_map_of_the_architecture_names_every_module() -> None:
    text = read("ARCHITECTURE.md")
    assert len(text.splitlines()) <= ARCHITECTURE_LINES_MAX
    assert max(map(len, text.splitlines())) <= ARCHITECTURE_COLUMNS_MAX
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
    folders = "|".join((*PACKAGES, "tests", "deploy", "docs", "contracts", "e2e", "bench", "house"))
    broken = []
    for document in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", *PAGES):
        text = read(document)
        links = re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", text)
        named = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
        for path in (*links, *named):
            places = (ROOT / path, ROOT / f"{path}.py", ROOT / "tests" / path, (ROOT / document).parent / path)
            broken += [] if any(place.exists() for place in places) else [f"{document}: {path}"]
    assert_none(broken, "paths that lead nowhere")


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    sections = re.findall(r"(?m)^## \[?([\w.]+)\]?", read("CHANGELOG.md"))
    assert {"Unreleased", version} & set(sections)


def test_the_walk_over_the_commands_finds_them() -> None:
    found = {path for path, _ in commands(typer.main.get_command(cli.app))}
    assert {("run",), ("dlq", "replay"), ("config", "check")} <= found
