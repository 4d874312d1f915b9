"""The folder of locks and notes: its user's alone, wherever it lies, and nothing of it through a link."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline.config.config import Config, load
from headrace.pipeline.process.rundir import FolderRefused, RunDir


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that all may write, as /tmp is, and no folder of the system's for this user."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "headrace.toml").write_text('name = "fraud"\n[redis]\nurl = "redis://me:pa55@store:1/0"\n')
    return load(tmp_path / "headrace.toml")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_folder_is_made_for_its_user_alone_whatever_the_umask(shared: Path, config: Config) -> None:
    before = os.umask(0)
    try:
        rundir = RunDir(config)
        place = rundir.place()
        assert rundir.place() == place != ""
        lock = rundir.lock(0)
        assert lock is not None
        lock.close()
        rundir.write(0, {"pid": os.getpid(), "state": "running"})
    finally:
        os.umask(before)
    assert rundir.path.parent == shared / f"headrace-{os.geteuid()}"
    assert rundir.notes() == {0: {"pid": os.getpid(), "state": "running"}}
    assert [mode(path) for path in (rundir.path, rundir.path.parent)] == [0o700, 0o700]
    assert {mode(path) for path in rundir.path.iterdir()} == {0o600}
    rundir.remove()
    assert not rundir.path.exists()


@pytest.mark.usefixtures("shared")
def test_a_lock_is_held_once(config: Config) -> None:
    held = RunDir(config).lock(3)
    assert held is not None
    assert RunDir(config).lock(3) is None
    held.close()
    again = RunDir(config).lock(3)
    assert again is not None
    again.close()


@pytest.mark.usefixtures("shared")
def test_the_system_s_folder_for_this_user_goes_first(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir = RunDir(config)
    rundir.write(1, {"pid": os.getpid()})
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    rundir.write(0, {"pid": os.getpid()})
    assert rundir.path.parent == runtime / "headrace"
    assert set(rundir.notes()) == {0, 1}, "those of workers that were started without the variable as well"


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o750), Path.rmdir, lambda path: path.rename("other")])
def test_a_folder_of_the_system_s_that_is_not_private_is_passed_over(
    shared: Path, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    spoil(runtime)
    for given in (str(runtime), "runtime", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
        assert RunDir(config).path.parent.parent == shared


def plant_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def plant_open_folder(path: Path, _elsewhere: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def plant_file(path: Path, _elsewhere: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize("plant", [plant_link, plant_open_folder, plant_file])
@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.usefixtures("shared")
def test_a_file_of_another_user_is_refused_and_not_touched(
    tmp_path: Path, config: Config, plant: Callable[[Path, Path], None], *, outer: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    rundir = RunDir(config)
    if not outer:
        rundir.path.parent.mkdir(mode=0o700)
    plant(rundir.path.parent if outer else rundir.path, elsewhere)
    for call in (rundir.place, lambda: rundir.lock(0), rundir.notes):
        with pytest.raises(FolderRefused) as caught:
            call()
        assert "XDG_RUNTIME_DIR" in caught.value.hint
        assert "\n" not in str(caught.value)
    rundir.write(0, {"pid": 1})
    assert list(elsewhere.iterdir()) == []


def test_a_folder_of_another_user_is_refused(shared: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.geteuid()
    theirs = mine + 1
    rundir = RunDir(config)
    rundir.place()
    # As another user sees it, who has a folder of the same name.
    rundir.path.parent.rename(shared / f"headrace-{theirs}")
    monkeypatch.setattr(os, "geteuid", lambda: theirs)
    with pytest.raises(FolderRefused, match=f"belongs to the user {mine}, and this is {theirs}"):
        RunDir(config).place()


@pytest.mark.parametrize("file", ["worker-0.lock", "worker-0.part", "place"])
@pytest.mark.usefixtures("shared")
def test_no_file_is_written_or_read_through_a_link(tmp_path: Path, config: Config, file: str) -> None:
    rundir = RunDir(config)
    rundir.place()
    target = tmp_path / "precious"
    target.write_text("precious")
    (rundir.path / file).unlink(missing_ok=True)
    (rundir.path / file).symlink_to(target)
    with contextlib.suppress(OSError):
        assert rundir.place() != "precious"
    with contextlib.suppress(OSError):
        lock = rundir.lock(0)
        assert lock is not None
        lock.close()
    rundir.write(0, {"pid": 1})
    assert target.read_text() == "precious"


@pytest.mark.usefixtures("shared")
def test_the_name_of_the_folder_tells_nothing_of_the_password(config: Config, tmp_path: Path) -> None:
    other = load(tmp_path / "headrace.toml", flags={"redis.url": "redis://you:0ther@store:1/0"})
    assert RunDir(config).path == RunDir(other).path
    elsewhere = load(tmp_path / "headrace.toml", flags={"redis.url": "redis://me:pa55@store:1/1"})
    assert RunDir(config).path != RunDir(elsewhere).path
