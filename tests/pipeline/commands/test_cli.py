"""The commands' door: what is there, what it says, which configuration it takes, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from headrace.pipeline.commands.cli import app
from headrace.pipeline.commands.command import ConfigSource, command, group, guard

# Not pydantic, which typer itself imports to show an option's default.
HEAVY = {"confluent_kafka", "msgspec", "numpy", "pydantic_settings", "redis", "river", "structlog", "urllib3"}
HELP = """
import contextlib, io, sys
from headrace.pipeline.commands.cli import app
for words in {words!r}:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        app([*words, "--help"])
    assert "Usage:" in told.getvalue(), words
print(*sorted({heavy!r} & set(sys.modules)))
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.upper().startswith("HEADRACE"):
            monkeypatch.delenv(variable)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("def build():\n    raise NotImplementedError\n")
    for name in ("headrace", "other", "third"):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\n')
    return tmp_path


def headrace(*words: str) -> Result:
    return CliRunner().invoke(app, words, prog_name="headrace")


def real(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "headrace", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, **options)


def commands(of: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, found in of.commands.items():
        yield (*path, name), found
        if hasattr(found, "commands"):
            yield from commands(found, (*path, name))


EVERY = dict(commands(typer.main.get_command(app)))


def test_every_command_of_the_contract_is_there() -> None:
    wanted = (
        "demo up init check run serve ask page top produce tail dlq model control backtest tune status doctor config"
    )
    assert {path[0] for path in EVERY} == set(wanted.split())
    pairs = {path for path in EVERY if len(path) == 2}
    wanted_pairs = {("dlq", "ls"), ("dlq", "show"), ("dlq", "replay"), ("model", "ls"), ("model", "show")}
    assert pairs >= wanted_pairs | {("config", "check")}


def test_every_command_and_option_says_in_a_sentence_what_it_is() -> None:
    silent = [
        (path, parameter and parameter.name)
        for path, found in EVERY.items()
        for parameter in (None, *found.params)
        if not ((parameter.help if parameter else found.help) or "").endswith(".")
        and (parameter is None or parameter.name != "help")
    ]
    assert silent == []


def test_every_command_takes_a_configuration_and_those_that_print_data_take_json() -> None:
    without = {path for path, found in EVERY.items() if "config" not in {p.name for p in found.params}}
    assert without == set()
    plain = {
        path
        for path, found in EVERY.items()
        if not hasattr(found, "commands") and "json" not in {p.name for p in found.params}
    }
    assert plain == {("demo",), ("init",), ("run",), ("serve",), ("page",)}


def test_help_of_anything_imports_nothing_heavy() -> None:
    script = HELP.format(words=[[], *map(list, EVERY)], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("config show", "headrace"),
        ("-c other.toml config show", "other"),
        ("config -c other.toml show", "other"),
        ("config show -c other.toml", "other"),
        ("config show --config=other.toml", "other"),
        ("-c third.toml config show -c other.toml", "other"),
        ("-c third.toml config -c other.toml show", "other"),
        ("--name flagged config show -c other.toml", "flagged"),
        ("--name early config show --name late", "late"),
    ],
)
@pytest.mark.usefixtures("project")
def test_the_configuration_is_named_before_or_after_the_command_and_after_wins(words: str, name: str) -> None:
    done = headrace(*words.split(), "--json")
    assert done.exit_code == 0, done.output
    assert {row["key"]: row["value"] for row in json.loads(done.stdout)}["name"] == name


@pytest.mark.usefixtures("project")
def test_each_flag_reaches_its_key() -> None:
    words = "config show --json --bootstrap-servers flag:1 --redis-url redis://:pa55@flag:1 --name flagged"
    done = headrace(*words.split())
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    assert rows["kafka.bootstrap_servers"]["value"] == "flag:1"
    assert [rows[key]["origin"] for key in ("name", "kafka.bootstrap_servers", "redis.url")] == ["flag"] * 3
    assert "pa55" not in done.stdout


def test_config_check_says_that_a_file_is_good_once_the_model_is_built(project: Path) -> None:
    failed = headrace("config", "check")
    assert failed.exit_code == 78
    assert "NotImplementedError" in failed.stderr
    (project / "model.py").write_text(
        "from river import dummy\n\ndef build():\n    return dummy.NoChangeClassifier()\n"
    )
    sys.modules.pop("model")
    assert headrace("config", "check").stdout == "headrace.toml is good\n"
    told = json.loads(headrace("config", "check", "--json", "-c", "other.toml").stdout)
    assert told == {"ok": True, "file": "other.toml", "name": "other"}


def test_all_errors_of_a_configuration_are_told_at_once_each_with_what_to_do(project: Path) -> None:
    (project / "headrace.toml").write_text('nam = "x"\n[batch]\nrecords_max = 0\n[dlq]\nflood_ratio = 2\n')
    done = headrace("config", "check")
    assert done.exit_code == 78
    lines = done.stderr.splitlines()
    assert len(lines) == 6, done.stderr
    assert all(hint.startswith("  → ") for hint in lines[1::2])
    for key in ("nam", "batch.records_max", "dlq.flood_ratio"):
        assert any(f" {key} " in line for line in lines[::2])


@pytest.mark.parametrize(
    "words",
    [
        "config check -c missing.toml",
        "status -c missing.toml",
        "doctor -c missing.toml",
        "produce -c missing.toml",
        "dlq ls -c missing.toml",
        "model ls -c missing.toml",
        "config check --bootstrap-servers nowhere",
    ],
)
@pytest.mark.usefixtures("project")
def test_a_bad_configuration_is_78_with_one_line_that_says_what_to_do(words: str) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    done = headrace(*words.split())
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert done.exit_code == 78, done.output
    told = done.stdout if words.startswith("doctor") else done.stderr
    assert len(told.splitlines()) == 2, told
    assert "\n  → " in told


def test_run_starts_itself_again_and_is_as_clear_about_a_bad_configuration(project: Path) -> None:
    done = real("run", "-c", "missing.toml", cwd=project)
    assert (done.returncode, done.stdout) == (78, "")
    error, hint = done.stderr.splitlines()
    assert "missing.toml" in error
    assert hint.startswith("  → ")


@pytest.mark.parametrize(
    "words", ["nonsense", "run --workers 0", "run --workers two", "status --wach", "tail labels", "init", "dlq", ""]
)
def test_a_wrong_use_is_2(words: str) -> None:
    done = headrace(*words.split())
    assert done.exit_code == 2
    assert "Usage: headrace" in done.output
    assert "Traceback" not in done.output


class HintedError(Exception):
    hint = "do this next"

    def __init__(self, status: int) -> None:
        super().__init__("it went wrong")
        self.status = status


class ConfigError(HintedError):
    pass


def raising(error: BaseException) -> Callable[[], int]:
    def call() -> int:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HintedError(503), 69),
        (HintedError(400), 1),
        (HintedError(409), 1),
        (HintedError(404), 1),
        (ConfigError(400), 78),
    ],
)
def test_an_error_that_knows_what_to_do_is_one_line_and_its_hint(
    error: HintedError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard(raising(error)) == code
    assert capsys.readouterr().err == "headrace: it went wrong\n  → do this next\n"


def test_an_error_that_nobody_foresaw_is_one_line_and_the_way_to_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guard(raising(KeyError("x"))) == 1
    told = capsys.readouterr().err
    assert told.startswith("headrace: unexpected KeyError: 'x'\n  → ")
    assert "HEADRACE_DEBUG=1" in told
    monkeypatch.setenv("HEADRACE_DEBUG", "1")
    with pytest.raises(KeyError):
        guard(raising(KeyError("x")))


@pytest.mark.parametrize(
    ("endless", "words", "code"), [(False, [], 130), (True, [], 0), ("watch", [], 130), ("watch", ["--watch"], 0)]
)
def test_an_interrupt_is_how_an_endless_command_ends_well(endless: bool | str, words: list[str], code: int) -> None:  # noqa: FBT001
    made = group("A group.")

    @command(made, "wait", endless=endless)
    def wait(_source: ConfigSource, *, watch: bool = False) -> int:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(made, ["wait", *words])
    signal.signal(signal.SIGTERM, before)
    assert (done.exit_code, done.output) == (code, "")


def test_a_reader_that_has_seen_enough_is_no_error(project: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "config", "show"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=project,
        # With a buffer, as most have it, there is something left to flush at exit.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_real_command_fails_with_a_line_and_no_traceback(project: Path) -> None:
    (project / "headrace.toml").write_text("nam = 1\n")
    done = real("status", cwd=project)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "headrace: headrace.toml: the key nam is not known\n  → did you mean name?\n"


def test_the_version_is_printed() -> None:
    assert headrace("--version").stdout.startswith("headrace 0.")
