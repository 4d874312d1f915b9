"""What reaches standard output and error: data alone, in any encoding, with one line for what can't be written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline import console

# Each way in which code of the user's, or what it calls, may print.
PRINTS = """
import atexit, ctypes, os, subprocess, sys, threading
def say():
    print("noise 1", flush=True)
    sys.stdout.write("noise 2\\n")
    sys.__stdout__.write("noise 3\\n")
    os.write(1, b"noise 4\\n")
    subprocess.run(["echo", "noise 5"])
    ctypes.CDLL(None).puts(b"noise 6")
say()
atexit.register(say)
"""
MODEL = """
from river import linear_model
class Loud(linear_model.LogisticRegression):
    def __repr__(self):
        say()
        return "Loud"
def build():
    say()
    threading.Thread(target=say).start()
    return Loud()
"""


def headrace(
    *words: str, cwd: Path, stdout: Any = subprocess.PIPE, encoding: str = "utf-8", **environment: str
) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE")}
    return subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=cwd,
        env={**clean, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding=encoding,
        check=False,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(PRINTS + MODEL)
    # Nobody listens there, and no client is made that would wait for somebody.
    (tmp_path / "headrace.toml").write_text(
        '[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n'
        '[kafka.librdkafka]\n"linger.ms" = "none"\n'
        '[schema.features."mængde — ✔ 😀"]\ntype = "number"\n'
    )
    return tmp_path


@pytest.mark.parametrize("words", [("model", "explain"), ("doctor",)], ids=" ".join)
def test_data_is_all_that_standard_output_gets_whatever_the_user_s_code_prints(
    project: Path, words: tuple[str, ...]
) -> None:
    done = headrace(*words, "--json", cwd=project)
    json.loads(done.stdout)
    assert {f"noise {number}" for number in range(1, 7)} <= set(done.stderr.splitlines())
    assert "noise" not in headrace(*words, cwd=project).stdout


@pytest.mark.parametrize(
    ("encoding", "environment"),
    [
        ("cp1252", {"PYTHONIOENCODING": "cp1252"}),
        ("latin-1", {"PYTHONIOENCODING": "latin-1:strict"}),
        ("cp037", {"PYTHONIOENCODING": "cp037"}),
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
)
def test_every_command_writes_to_a_terminal_of_any_encoding(
    project: Path, encoding: str, environment: dict[str, str]
) -> None:
    (project / "model.py").write_text("def build():\n    raise ValueError('mængde ✔ 😀')\n")
    every = ((), ("init", "nyt ✔"), ("status",), ("tail",), ("dlq", "ls"), ("model", "ls"), ("run",), ("nøn",))
    for words in (("doctor",), ("config", "show"), *(every if encoding == "ascii" else ())):
        done = headrace(*words, cwd=project, encoding=encoding, **environment)
        assert "Unicode" not in done.stderr, words
        assert "Traceback" not in done.stderr, words
        assert done.returncode in {0, 2, 69, 78}, (words, done.stderr)
    plain = headrace("doctor", cwd=project, encoding=encoding, **environment).stdout
    assert plain.startswith("ok configuration: ")
    assert "\n!! store: " in plain
    assert "\n  -> start it" in plain


def test_json_stays_json_where_the_terminal_has_no_such_letter(project: Path) -> None:
    for encoding in ("ascii", "cp1252", "latin-1"):
        done = headrace("config", "show", "--json", cwd=project, encoding=encoding, PYTHONIOENCODING=encoding)
        told = {row["key"]: row["value"] for row in json.loads(done.stdout)}
        assert list(told["schema.features"]) == ["mængde — ✔ 😀"]


@pytest.mark.parametrize("words", [("config", "show"), ("doctor", "--json"), ("--help",)])
def test_a_full_disk_is_told_in_one_line(project: Path, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = headrace(*words, cwd=project, stdout=full)
    lines = [line for line in done.stderr.splitlines() if "noise" not in line]
    assert done.returncode == 1
    assert lines == [
        "headrace: the output can't be written: No space left on device",
        "  → free some space, or write it to another place",
    ]


def test_a_working_folder_that_is_gone_is_told(project: Path) -> None:
    gone = project / "gone"
    gone.mkdir()
    line = f"rmdir {gone}; exec {sys.executable} -m headrace config check"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=gone,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "the working folder no longer exists" in done.stderr
    assert "bug" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys\nsys.exit(0)\n", 78),
        ("def build():\n    raise SystemExit\n", 78),
        ("class A: pass\ndef build():\n    exit(0)\n", 78),
        ("raise type('PanicException', (BaseException,), {})('SystemExit')\n", 78),
        ("def build():\n    raise BaseException('SystemExit')\n", 78),
    ],
)
def test_an_exit_in_the_user_s_code_is_no_success(project: Path, code: str, exit_code: int) -> None:
    (project / "model.py").write_text(code)
    done = headrace("model", "explain", cwd=project)
    assert done.returncode == exit_code
    assert "SystemExit" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_an_exit_anywhere_else_in_a_command_is_no_success_either(project: Path) -> None:
    (project / "model.py").write_text(
        "from river import linear_model\nclass A(linear_model.LogisticRegression):\n"
        "    def __reduce__(self):\n        raise SystemExit(0)\n"
        "def build():\n    return A()\n"
    )
    done = headrace("model", "explain", cwd=project)
    assert done.returncode != 0
    assert done.stderr.startswith("headrace: ")
    assert len(done.stderr.splitlines()) == 2


def test_text_that_is_no_unicode_is_json_all_the_same() -> None:
    told = console.as_json({"name": "caf\udce9", 1: [2.5, None, "✔"]})
    assert json.loads(told) == {"name": "caf\udce9", "1": [2.5, None, "✔"]}
    assert told.isascii()


def test_a_time_outside_of_the_calendar_is_printed_as_its_number() -> None:
    assert console.utc(0) == "1970-01-01 00:00:00Z"
    assert console.utc(2**62) == str(2**62)
