"""Breaks one place of the source, in a copy of it, and asks a test to turn red."""

import os
import shutil
from pathlib import Path

import msgspec
from warm import run_pytest

ROOT = Path(__file__).parents[1]
# Its libraries are imported already when pytest starts: their own asserts stay as they are.
PLAIN = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
TREE = ("__init__.py", "__main__.py", "pipeline", "consumers", "producers", "state", "tests", "pyproject.toml")


class Mutant(msgspec.Struct, frozen=True):
    """A change to one place of a file, the test that must fail with it, and what that test must say.

    `also` is a second change, for what is guarded twice.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    says: str
    also: tuple[str, str, str] | None = None


def assert_caught(mutant: Mutant, tmp_path: Path, **environment: str) -> None:
    """Run the mutant's test on a copy of the source that has the bug, and assert that it fails and says why."""
    copy = tmp_path / "copy" / "headrace"
    copy.mkdir(parents=True)
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            # With what is compiled already, which takes longer than the test.
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copy(source, copy / name)
    for file, old, new in filter(None, [(mutant.file, mutant.old, mutant.new), mutant.also]):
        text = (copy / file).read_text()
        assert text.count(old) == 1, "the place that is broken is there, once"
        (copy / file).write_text(("import os\n" if "os.environ" in new else "") + text.replace(old, new))
    out = tmp_path / "out"
    code = run_pytest(
        copy,
        [*PLAIN, f"--basetemp={tmp_path / 'runs'}", f"tests/{mutant.test}"],
        env={
            **os.environ,
            "PYTHONPATH": str(copy.parent),
            **environment,
            "HEADRACE_KILLS": "2",
            # Of those that turn their test red by standing still, each does so for as long.
            "HEADRACE_TEST_PATIENCE_S": "20",
        },
        out=out,
        timeout_s=280,
    )
    printed = out.read_text(errors="replace")
    assert code == 1, f"{mutant.name} was not caught: {printed[-4_000:]}"
    assert "1 failed" in printed, printed[-2_000:]
    assert mutant.says in printed, printed[-4_000:]
